//! A kernel in memory, with the real one's rules and errors, for tests.
//!
//! The contract suite runs on this and on [`super::linux`], so results here hold there. It has a
//! clock that only [`StepKind::Wait`] moves. Tests can plant faults: a request that is refused, an
//! answer that is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    model::{
        Algorithm, Chain, ChainId, Jump, Key, KeyView, Live, Policy, Reqid, Rule, Sa, SaId, Start,
        State, Step, StepKind, Time, Usage,
    },
    mtu,
};

use super::{Errno, Kernel, KernelError, rules};

/// A network namespace in memory.
///
/// Its state holds every key as a fingerprint, foreign keys too. Observation shows only the keys
/// that the real kernel's side would show.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: State,
    clock: Duration,
    booted: Time,
    requests: usize,
    calls: usize,
    refused: BTreeMap<usize, Errno>,
    lost: BTreeMap<usize, usize>,
    failing_looks: usize,
    lacking: BTreeSet<String>,
    offloading: BTreeSet<String>,
}

impl Memory {
    /// A namespace that holds `state`.
    pub fn holding(state: State) -> Self {
        Self { state, ..Self::default() }
    }

    /// Its state, in no particular order.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Its state, to be changed as another program would.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// The time that steps have waited.
    pub fn clock(&self) -> Duration {
        self.clock
    }

    /// Sets its clock.
    pub fn set_now(&mut self, now: Time) {
        self.booted = now;
        self.clock = Duration::ZERO;
    }

    /// The time of its clock, which only [`StepKind::Wait`] moves.
    pub fn now(&self) -> Time {
        self.booted.after(self.clock)
    }

    /// The number of steps requested so far, refused steps included.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// The number of calls of [`Kernel::perform`].
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Refuses one future step: the `nth` from now, beginning with 0.
    pub fn refuse(&mut self, nth: usize, errno: Errno) {
        self.refused.insert(self.requests + nth, errno);
    }

    /// Loses the answer of a future [`Kernel::perform`]: the `nth` from now, beginning with 0. Its
    /// steps are still performed, but at most `performed` of them.
    pub fn lose(&mut self, nth: usize, performed: usize) {
        self.lost.insert(self.calls + nth, performed);
    }

    /// Fails the next `count` looks.
    pub fn fail_looks(&mut self, count: usize) {
        self.failing_looks = count;
    }

    /// Gives a device ESP offload.
    pub fn offload_to(&mut self, device: &str) {
        self.offloading.insert(device.into());
    }

    /// Removes a transform or a table, as on a kernel without its module.
    pub fn lack(&mut self, name: &str) {
        self.lacking.insert(name.into());
    }

    fn step(&mut self, step: &StepKind) -> Result<(), KernelError> {
        let request = self.requests;
        self.requests += 1;
        if let Some(errno) = self.refused.remove(&request) {
            return Err(refused(step, errno, None));
        }
        match step {
            StepKind::AddSa { sa, key, start } => self.add_sa(sa, key, *start, None, step),
            StepKind::ReplaceSa { sa, key, start } => {
                rules::check_sa(sa, key, step)?;
                let old = self.same_key(&sa.id, key);
                rules::begin(step, sa, *start, old.as_ref(), self.now())?;
                self.delete_sa(&sa.id);
                self.add_sa(sa, key, *start, old.as_ref(), step)
            }
            StepKind::DeleteSa(id) => {
                self.delete_sa(id);
                Ok(())
            }
            StepKind::AddPolicy(policy) => self.add_policy(policy, step),
            StepKind::UpdatePolicy(policy) => self.update_policy(policy, step),
            StepKind::DeletePolicy(policy) => self.delete_policy(policy),
            StepKind::SetMtu { device, mtu } => self.set_mtu(device, *mtu, step),
            StepKind::SetChain { id, rules, jump } => self.set_chain(id, rules, *jump, step),
            StepKind::DeleteChain(id) => self.delete_chain(id, step),
            StepKind::Wait(duration) => {
                self.clock += *duration;
                Ok(())
            }
        }
    }

    /// The usage of the SA in this place, if it has this key.
    fn same_key(&self, id: &SaId, key: &Key) -> Option<Usage> {
        let found = self.state.sas.iter().find(|sa| sa.id == *id)?;
        let usage = self.state.usage.iter().find(|usage| usage.id == *id).copied();
        usage.filter(|_| rules::same_key(found.key, key))
    }

    fn add_sa(
        &mut self,
        sa: &Sa,
        key: &Key,
        start: Start,
        old: Option<&Usage>,
        step: &StepKind,
    ) -> Result<(), KernelError> {
        rules::check_sa(sa, key, step)?;
        let now = self.now();
        let begin = rules::begin(step, sa, start, old, now)?;
        check_replay(sa, step)?;
        if matches!(&sa.algorithm, Algorithm::Aead { name, .. } if self.lacking.contains(name)) {
            let text = "Requested AEAD algorithm not found".into();
            return Err(refused(step, Errno::ENOSYS, Some(text)));
        }
        if sa.offload.as_ref().is_some_and(|offload| self.state.link(&offload.device).is_none()) {
            return Err(refused(step, Errno::ENODEV, Some(rules::no_offload_device())));
        }
        // A device without offload is not an error (xfrm_dev_state_add).
        let offload = sa.offload.clone().filter(|to| self.offloading.contains(&to.device));
        let key = KeyView::Known(key.fingerprint());
        let added = Sa { key, offload, ..sa.clone() };
        let same = |found: &&mut Sa| {
            let (a, b) = (found.id, sa.id);
            (a.dst, a.proto, a.spi) == (b.dst, b.proto, b.spi) && b.mark.finds(a.mark)
        };
        match self.state.sas.iter_mut().find(same) {
            Some(found) if rules::may_take_over(found, sa) => *found = added,
            Some(found) => {
                let text = rules::sa_exists(Some(found), sa.reqid);
                return Err(refused(step, Errno::EEXIST, Some(text)));
            }
            None => self.state.sas.push(added),
        }
        self.state.usage.retain(|usage| usage.id != sa.id);
        self.state.usage.push(Usage {
            id: sa.id,
            sent: begin.sent,
            received: begin.received,
            bytes: 0,
            packets: 0,
            added: now,
            used: None,
            last: None,
            too_old: 0,
            replayed: 0,
            forged: 0,
        });
        Ok(())
    }

    fn delete_sa(&mut self, id: &SaId) {
        self.state.sas.retain(|sa| sa.id != *id);
        self.state.usage.retain(|usage| usage.id != *id);
    }

    fn policy(&mut self, wanted: &Policy) -> Option<&mut Policy> {
        self.state.policies.iter_mut().find(|policy| policy.id == wanted.id)
    }

    fn add_policy(&mut self, policy: &Policy, step: &StepKind) -> Result<(), KernelError> {
        check_policy(policy, step)?;
        if self.policy(policy).is_some() {
            return Err(refused(step, Errno::EEXIST, Some(rules::policy_exists())));
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

    fn update_policy(&mut self, policy: &Policy, step: &StepKind) -> Result<(), KernelError> {
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

    /// Checks the limits of an Ethernet device. A lower device is not modelled.
    fn set_mtu(&mut self, device: &str, mtu: u32, step: &StepKind) -> Result<(), KernelError> {
        let found = self.state.links.iter_mut().find(|link| link.name == device);
        let errno = match found {
            Some(link) if (mtu::SMALLEST..=mtu::LARGEST).contains(&mtu) => {
                link.mtu = mtu;
                return Ok(());
            }
            Some(_) => Errno::EINVAL,
            None => Errno::ENODEV,
        };
        Err(refused(step, errno, rules::mtu_refused(errno)))
    }

    fn set_chain(
        &mut self,
        id: &ChainId,
        rules: &[Rule],
        jump: bool,
        step: &StepKind,
    ) -> Result<(), KernelError> {
        rules::check_chain(id, rules, step)?;
        if self.lacking.contains(&id.table) {
            return Err(KernelError::System {
                doing: rules::doing(step),
                reason: "the kernel has no such table".into(),
            });
        }
        let chains = &mut self.state.firewall.chains;
        let jumps = if jump { vec![Jump::FIRST] } else { Vec::new() };
        match chains.iter_mut().find(|chain| chain.id == *id) {
            Some(chain) => (chain.rules, chain.jumps) = (rules.into(), jumps),
            None => {
                let (id, rules) = (id.clone(), rules.into());
                chains.push(Chain { id, rules, jumps, references: Vec::new() });
            }
        }
        Ok(())
    }

    fn delete_chain(&mut self, id: &ChainId, step: &StepKind) -> Result<(), KernelError> {
        rules::check_chain(id, &[], step)?;
        let chains = &mut self.state.firewall.chains;
        for chain in chains.iter().filter(|chain| chain.id == *id) {
            rules::check_references(&chain.references, step)?;
        }
        chains.retain(|chain| chain.id != *id);
        Ok(())
    }
}

impl Kernel for Memory {
    fn observe(&mut self, reqid: Reqid) -> Result<Live, KernelError> {
        if let Some(left) = self.failing_looks.checked_sub(1) {
            self.failing_looks = left;
            return Err(KernelError::Lost { doing: "looking".into() });
        }
        let mut state = self.state.clone().sorted();
        for sa in &mut state.sas {
            if sa.reqid != reqid {
                sa.key = KeyView::Unknown;
            }
        }
        let State { sas, usage, .. } = &mut state;
        usage.retain(|usage| sas.iter().any(|sa| sa.id == usage.id && sa.reqid == reqid));
        Ok(Live(state))
    }

    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let lost = self.lost.remove(&self.calls);
        self.calls += 1;
        let performed = &steps[..lost.unwrap_or(steps.len()).min(steps.len())];
        let answers = performed.iter().map(|step| self.step(&step.kind)).collect();
        match lost {
            Some(_) => Err(KernelError::Lost { doing: "performing steps".into() }),
            None => Ok(answers),
        }
    }
}

fn refused(step: &StepKind, errno: Errno, detail: Option<String>) -> KernelError {
    KernelError::Refused { doing: rules::doing(step), errno, detail }
}

/// Refuses the same settings as `verify_replay` and `xfrm_init_replay`.
fn check_replay(sa: &Sa, step: &StepKind) -> Result<(), KernelError> {
    let text = if sa.replay.esn && sa.replay.window == 0 {
        "ESN replay window must be > 0"
    } else if sa.replay.window > rules::MAX_WINDOW {
        "ESN bitmap length must be <= 128"
    } else {
        return Ok(());
    };
    Err(refused(step, Errno::EINVAL, Some(text.into())))
}

fn check_policy(policy: &Policy, step: &StepKind) -> Result<(), KernelError> {
    rules::check_policy(policy, step)?;
    if policy.templates.len() > rules::MAX_TEMPLATES {
        return Err(refused(step, Errno::EINVAL, None));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Direction, PolicyId, Selector};

    fn add(port: u16) -> Step {
        let hosts = Selector::hosts([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let policy = Policy {
            id: PolicyId::new(Direction::Out, hosts.to_port(17, port)),
            priority: 1,
            action: Action::Block,
            index: None,
            templates: vec![],
            extras: Default::default(),
        };
        Step { peer: None, kind: StepKind::AddPolicy(policy) }
    }

    #[test]
    fn the_nth_request_from_now_is_refused_and_the_others_are_performed() {
        let mut kernel = Memory::default();
        kernel.perform(&[add(1)]).unwrap();
        kernel.refuse(1, Errno::EPERM);
        let answers = kernel.perform(&[add(2), add(3), add(4)]).unwrap();
        let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, true, false]);
        assert_eq!((kernel.state().policies.len(), kernel.requests()), (3, 4));
    }

    #[test]
    fn a_lost_answer_leaves_as_many_steps_performed_as_asked_for() {
        let mut kernel = Memory::default();
        kernel.lose(1, 1);
        kernel.perform(&[add(1)]).unwrap();
        let lost = kernel.perform(&[add(2), add(3)]);
        assert!(matches!(lost, Err(KernelError::Lost { .. })));
        assert_eq!(kernel.state().policies.len(), 2);
        assert!(kernel.perform(&[add(3)]).unwrap()[0].is_ok());
        assert_eq!(kernel.calls(), 3);
    }

    #[test]
    fn waiting_moves_the_clock_and_takes_no_time() {
        let mut kernel = Memory::default();
        let wait = StepKind::Wait(Duration::from_secs(3600));
        kernel.perform(&[Step { peer: None, kind: wait }]).unwrap();
        assert_eq!(kernel.clock(), Duration::from_secs(3600));
    }
}
