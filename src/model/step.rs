//! Steps: requests to the kernel, each done wholly or not at all.

use std::{sync::Arc, time::Duration};

use super::{
    ChainId, ChainRole, Key, PeerName, Policy, PolicyId, PolicyRole, Rule, Sa, SaId, Start,
};

/// One request to the kernel.
///
/// With keys, for the kernel, it has no `Debug`. With `()` in their place it is a part of a plan.
#[derive(Clone)]
pub struct Step<K = Arc<Key>> {
    /// The peer that it is for. A guard and the link have no peer.
    pub peer: Option<PeerName>,
    /// The request.
    pub kind: StepKind<K>,
}

/// The request of a step. `K` is the key of an SA to add.
#[derive(Clone)]
pub enum StepKind<K = Arc<Key>> {
    /// Adds an SA. An existing SA is an error (`EEXIST`), unless it is larval and has the mesh's
    /// reqid: then it is taken over.
    AddSa {
        /// The SA.
        sa: Sa,
        /// Its key and salt.
        key: K,
        /// Its first sequence number.
        start: Start,
    },
    /// Deletes an SA and adds another in its place at once. An old SA that is gone already is not
    /// an error.
    ReplaceSa {
        /// The new SA; the old one has the same identity.
        sa: Sa,
        /// Its key and salt.
        key: K,
        /// Its first sequence number, unless the old SA has the same key: then it goes on from the
        /// old one's.
        start: Start,
    },
    /// Deletes an SA. If it is gone already, that is not an error.
    DeleteSa(SaId),
    /// Adds a policy or guard. An existing one is an error (`EEXIST`).
    AddPolicy(Policy),
    /// Replaces a policy of the mesh atomically.
    UpdatePolicy(Policy),
    /// Deletes a policy that is still as given here. If it is gone already, that is not an error.
    DeletePolicy(Policy),
    /// Sets a device's MTU. A device that is gone is an error (`ENODEV`).
    SetMtu {
        /// The device's name.
        device: String,
        /// The MTU, in bytes.
        mtu: u32,
    },
    /// Sets a chain's rules, in one transaction with the rule of its built-in chain that leads to
    /// it.
    SetChain {
        /// The chain.
        id: ChainId,
        /// Its rules.
        rules: Vec<Rule>,
        /// Whether packets get to it: one jump ahead of all rules, or none.
        jump: bool,
    },
    /// Deletes a chain and the rules of its built-in chain that lead to it. If it is gone already,
    /// that is not an error.
    DeleteChain(ChainId),
    /// Lets packets in flight arrive before their SAs go.
    Wait(Duration),
}

/// An SA that a step adds.
pub struct Added<'a, K> {
    /// The SA.
    pub sa: &'a Sa,
    /// Its key and salt.
    pub key: &'a K,
    /// Its first sequence number.
    pub start: Start,
}

impl Step<()> {
    /// The same with a key for each SA that it adds.
    ///
    /// # Errors
    ///
    /// The error of `key` for an SA that it has no key for.
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
    /// Whether later steps may go on if this one fails: no protection depends on it, or policies
    /// guard without it. Deleting a chain is never optional: a chain that stays may drop traffic
    /// that is to be marked.
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

    /// The SA that the step adds, its key and its first sequence number.
    pub fn added(&self) -> Option<Added<'_, K>> {
        match self {
            Self::AddSa { sa, key, start } | Self::ReplaceSa { sa, key, start } => {
                Some(Added { sa, key, start: *start })
            }
            Self::DeleteSa(_)
            | Self::AddPolicy(_)
            | Self::UpdatePolicy(_)
            | Self::DeletePolicy(_)
            | Self::SetMtu { .. }
            | Self::SetChain { .. }
            | Self::DeleteChain(_)
            | Self::Wait(_) => None,
        }
    }

    /// The identity of the step's policy.
    pub fn policy_id(&self) -> Option<PolicyId> {
        match self {
            Self::AddPolicy(policy) | Self::UpdatePolicy(policy) | Self::DeletePolicy(policy) => {
                Some(policy.id)
            }
            Self::AddSa { .. }
            | Self::ReplaceSa { .. }
            | Self::DeleteSa(_)
            | Self::SetMtu { .. }
            | Self::SetChain { .. }
            | Self::DeleteChain(_)
            | Self::Wait(_) => None,
        }
    }

    /// Its object's identity, or a time.
    pub fn id(&self) -> String {
        match self {
            Self::AddSa { sa, .. } | Self::ReplaceSa { sa, .. } => sa.id.to_string(),
            Self::DeleteSa(id) => id.to_string(),
            Self::AddPolicy(policy) | Self::UpdatePolicy(policy) | Self::DeletePolicy(policy) => {
                policy.id.to_string()
            }
            Self::SetMtu { device, mtu } => format!("dev {device} mtu {mtu}"),
            Self::SetChain { id, .. } | Self::DeleteChain(id) => id.to_string(),
            Self::Wait(time) => format!("{} ms", time.as_millis()),
        }
    }

    /// The step's name in JSON.
    pub fn name(&self) -> &'static str {
        let is_guard = |policy: &Policy| policy.role() == PolicyRole::Guard;
        match self {
            Self::AddSa { .. } => "add_sa",
            Self::ReplaceSa { .. } => "replace_sa",
            Self::DeleteSa(_) => "delete_sa",
            Self::AddPolicy(policy) if is_guard(policy) => "add_guard",
            Self::AddPolicy(_) => "add_policy",
            Self::UpdatePolicy(policy) if is_guard(policy) => "update_guard",
            Self::UpdatePolicy(_) => "update_policy",
            Self::DeletePolicy(policy) if is_guard(policy) => "delete_guard",
            Self::DeletePolicy(_) => "delete_policy",
            Self::SetMtu { .. } => "set_mtu",
            Self::SetChain { .. } => "set_chain",
            Self::DeleteChain(_) => "delete_chain",
            Self::Wait(_) => "wait",
        }
    }
}
