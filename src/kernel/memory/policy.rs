//! Steps about a policy.

use super::{Memory, refused};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{ObjectStep, Policy, PolicyStep},
};

impl Memory {
    pub(super) fn perform_policy(&mut self, step: &PolicyStep) -> Result<(), KernelError> {
        match step {
            PolicyStep::Add(policy) => self.add_policy(policy, step),
            PolicyStep::Update(policy) => self.update_policy(policy, step),
            PolicyStep::Delete(policy) => self.delete_policy(policy),
        }
    }

    fn policy(&mut self, wanted: &Policy) -> Option<&mut Policy> {
        self.state.policies.iter_mut().find(|policy| policy.id == wanted.id)
    }

    fn add_policy(&mut self, policy: &Policy, step: &PolicyStep) -> Result<(), KernelError> {
        check_policy(policy, step)?;
        if self.policy(policy).is_some() {
            return Err(refused(step.attempt(), Errno::EEXIST, Some(rules::policy_exists())));
        }
        self.state.policies.push(policy.clone());
        // An index that another policy has is not kept (xfrm_gen_index).
        let taken = |other: &&Policy| other.index.is_some() && other.index == policy.index;
        if self.state.policies.iter().filter(taken).count() > 1
            && let Some(added) = self.state.policies.last_mut()
        {
            added.index = None;
        }
        Ok(())
    }

    fn update_policy(&mut self, policy: &Policy, step: &PolicyStep) -> Result<(), KernelError> {
        check_policy(policy, step)?;
        match self.policy(policy) {
            Some(found) if rules::may_update(found, policy) => {
                // The kernel keeps the index of the old policy (xfrm_policy_insert).
                *found = Policy { index: found.index, ..policy.clone() };
            }
            Some(_) => return Err(KernelError::Changed(policy.id.to_string())),
            None => self.state.policies.push(policy.clone()),
        }
        Ok(())
    }

    fn delete_policy(&mut self, policy: &Policy) -> Result<(), KernelError> {
        match self.policy(policy) {
            Some(found) if found != policy => {
                return Err(KernelError::Changed(policy.id.to_string()));
            }
            _ => self.state.policies.retain(|found| found.id != policy.id),
        }
        Ok(())
    }
}

fn check_policy(policy: &Policy, step: &PolicyStep) -> Result<(), KernelError> {
    rules::check_policy(policy, step)?;
    if policy.templates.len() > rules::MAX_TEMPLATES {
        return Err(refused(step.attempt(), Errno::EINVAL, None));
    }
    Ok(())
}
