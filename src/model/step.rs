//! Steps: requests to the kernel, each of which it does wholly or not at all.

use std::{sync::Arc, time::Duration};

use super::{ChainId, ChainRole, Key, PeerName, Policy, PolicyId, Rule, Sa, SaId, Start};

/// One request to the kernel.
///
/// With keys, as the kernel gets it, it has no `Debug`; with `()` in their
/// place it is a part of a plan.
#[derive(Clone)]
pub struct Step<K = Arc<Key>> {
    /// The peer that it is for; a guard and the link have none.
    pub peer: Option<PeerName>,
    /// What is asked.
    pub kind: StepKind<K>,
}

/// What a step asks for, `K` being the key of an SA to add.
#[derive(Clone)]
pub enum StepKind<K = Arc<Key>> {
    /// Adds an SA. One that exists is an error (`EEXIST`) unless it is larval
    /// and has our reqid: that one is taken over.
    AddSa {
        /// The SA.
        sa: Sa,
        /// Its key and salt.
        key: K,
        /// Its first sequence number.
        start: Start,
    },
    /// Deletes an SA and adds another in its place at once. That the old one
    /// is gone already is no error.
    ReplaceSa {
        /// The SA to be; the old one has its identity.
        sa: Sa,
        /// Its key and salt.
        key: K,
        /// Its first sequence number, unless the old one has the same key: then
        /// it goes on from that one's.
        start: Start,
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
    /// Gives a device an MTU. A device that is gone is an error (`ENODEV`).
    SetMtu {
        /// The device's name.
        device: String,
        /// The MTU, in bytes.
        mtu: u32,
    },
    /// Makes a chain what it should be, in one transaction with the rule of its
    /// built-in chain that leads to it.
    SetChain {
        /// The chain.
        id: ChainId,
        /// Its rules.
        rules: Vec<Rule>,
        /// Whether packets get to it: one rule ahead of all, or none.
        jump: bool,
    },
    /// Deletes a chain and what leads to it from its built-in chain. That it is
    /// gone already is no error.
    DeleteChain(ChainId),
    /// Lets packets in flight arrive before their SAs go.
    Wait(Duration),
}

impl Step<()> {
    /// The same with a key for each SA that it adds.
    ///
    /// # Errors
    ///
    /// Whatever `key` answers for an SA that it has none for.
    pub fn keyed<K, E>(&self, key: impl Fn(&SaId) -> Result<K, E>) -> Result<Step<K>, E> {
        let kind = match &self.kind {
            StepKind::AddSa { sa, start, .. } => {
                StepKind::AddSa { sa: sa.clone(), key: key(&sa.id)?, start: *start }
            }
            StepKind::ReplaceSa { sa, start, .. } => {
                StepKind::ReplaceSa { sa: sa.clone(), key: key(&sa.id)?, start: *start }
            }
            StepKind::DeleteSa(id) => StepKind::DeleteSa(*id),
            StepKind::AddPolicy(policy) => StepKind::AddPolicy(policy.clone()),
            StepKind::UpdatePolicy(policy) => StepKind::UpdatePolicy(policy.clone()),
            StepKind::DeletePolicy(policy) => StepKind::DeletePolicy(policy.clone()),
            StepKind::SetMtu { device, mtu } => {
                StepKind::SetMtu { device: device.clone(), mtu: *mtu }
            }
            StepKind::SetChain { id, rules, jump } => {
                StepKind::SetChain { id: id.clone(), rules: rules.clone(), jump: *jump }
            }
            StepKind::DeleteChain(id) => StepKind::DeleteChain(id.clone()),
            StepKind::Wait(time) => StepKind::Wait(*time),
        };
        Ok(Step { peer: self.peer.clone(), kind })
    }
}

impl<K> StepKind<K> {
    /// Whether the steps that follow may go on if this one fails: nothing of
    /// what is protected depends on it, or policies guard without it. That a
    /// chain stays is never so, which may drop what is to be marked.
    pub fn is_optional(&self) -> bool {
        match self {
            Self::SetMtu { .. } => true,
            Self::SetChain { id, .. } => id.role().is_some_and(ChainRole::is_optional),
            Self::AddSa { .. }
            | Self::ReplaceSa { .. }
            | Self::DeleteSa(_)
            | Self::AddPolicy(_)
            | Self::UpdatePolicy(_)
            | Self::DeletePolicy(_)
            | Self::DeleteChain(_)
            | Self::Wait(_) => false,
        }
    }

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
