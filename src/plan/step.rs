//! Steps: requests to the kernel, each of which it does wholly or not at all.

use std::{sync::Arc, time::Duration};

use crate::model::{Key, PeerName, Policy, PolicyId, Sa, SaId};

/// One request to the kernel.
///
/// Has no `Debug`, since it may hold a key.
#[derive(Clone)]
pub struct Step {
    /// The peer that it is for; a guard has none.
    pub peer: Option<PeerName>,
    /// What is asked.
    pub kind: StepKind,
}

/// What a step asks for.
#[derive(Clone)]
pub enum StepKind {
    /// Adds an SA. One that exists is an error (`EEXIST`) unless it is larval
    /// and has our reqid: that one is taken over.
    AddSa {
        /// The SA.
        sa: Sa,
        /// Its key and salt.
        key: Arc<Key>,
    },
    /// Deletes an SA and adds another in its place at once. That the old one
    /// is gone already is no error.
    ReplaceSa {
        /// The SA to be; the old one has its identity.
        sa: Sa,
        /// Its key and salt.
        key: Arc<Key>,
    },
    /// Deletes an SA. That it is gone already is no error.
    DeleteSa(SaId),
    /// Adds a policy or guard. One that exists is an error (`EEXIST`).
    AddPolicy(Policy),
    /// Replaces a policy of ours atomically.
    UpdatePolicy(Policy),
    /// Deletes a policy that is still as given here. That it is gone already
    /// is no error.
    DeletePolicy(Policy),
    /// Lets packets in flight arrive before their SAs go.
    Wait(Duration),
}

impl StepKind {
    /// The identity of the policy that this is about.
    pub fn policy_id(&self) -> Option<PolicyId> {
        match self {
            Self::AddPolicy(policy) | Self::UpdatePolicy(policy) | Self::DeletePolicy(policy) => {
                Some(policy.id)
            }
            _ => None,
        }
    }
}
