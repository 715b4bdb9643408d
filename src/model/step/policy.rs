//! Steps about a policy.

use super::ObjectStep;
use crate::model::{Policy, PolicyRole};

/// A request about a policy or guard.
#[derive(Clone)]
pub enum PolicyStep {
    /// Adds a policy or guard. An existing one is an error (`EEXIST`).
    Add(Policy),
    /// Replaces a policy of the mesh atomically.
    Update(Policy),
    /// Deletes a policy that is still as given here. If it is gone already, that is not an error.
    Delete(Policy),
}

impl PolicyStep {
    /// The policy that comes, or goes.
    pub fn policy(&self) -> &Policy {
        match self {
            Self::Add(policy) | Self::Update(policy) | Self::Delete(policy) => policy,
        }
    }
}

impl ObjectStep for PolicyStep {
    fn name(&self) -> &'static str {
        let is_guard = self.policy().role() == PolicyRole::Guard;
        match self {
            Self::Add(_) if is_guard => "add_guard",
            Self::Add(_) => "add_policy",
            Self::Update(_) if is_guard => "update_guard",
            Self::Update(_) => "update_policy",
            Self::Delete(_) if is_guard => "delete_guard",
            Self::Delete(_) => "delete_policy",
        }
    }

    fn id(&self) -> String {
        self.policy().id.to_string()
    }

    fn attempt(&self) -> String {
        let verb = match self {
            Self::Add(_) => "add",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
        };
        format!("cannot {verb} policy {}", self.policy().id)
    }

    fn is_optional(&self) -> bool {
        false
    }
}
