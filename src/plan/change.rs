//! Changes: the differences between file and kernel, in words and values.

use std::fmt;

use super::fields::{self, Field};
use crate::{
    desired::WantedSa,
    model::{Chain, ChainId, ChainRole, Direction, PeerName, Policy, Reason, Rule, Sa},
};

/// One object that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The peer that it is for; `None` for guards, chains and leftovers of no peer.
    pub peer: Option<PeerName>,
    /// The object, and its new form.
    pub operation: Operation,
    /// Why.
    pub reason: Reason,
}

/// An object and its new form.
///
/// An SA has no update: the kernel answers one with success and does nothing (`xfrm_state_update`),
/// so an SA that differs is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a plan has some thousand of them, once")]
pub enum Operation {
    /// A missing SA.
    CreateSa(WantedSa),
    /// An SA that differs. `live` is deleted, and so are the mesh's SAs on the same SPI that have a
    /// mark: the kernel would find them in its place.
    ReplaceSa {
        /// The SA in the kernel; `None` if only a marked twin is there.
        live: Option<Sa>,
        /// The SA to add.
        wanted: WantedSa,
        /// Twins with a mark.
        twins: Vec<Sa>,
    },
    /// An unwanted SA of the mesh.
    DeleteSa(Sa),
    /// A missing policy.
    CreatePolicy(Policy),
    /// A policy of the mesh that differs.
    UpdatePolicy {
        /// The policy in the kernel.
        live: Policy,
        /// The policy that takes its place.
        wanted: Policy,
    },
    /// An unwanted policy of the mesh.
    DeletePolicy(Policy),
    /// A device whose MTU isn't as wanted.
    SetMtu {
        /// Its name.
        device: String,
        /// The MTU that it has.
        before: u32,
        /// The MTU that it should have.
        after: u32,
    },
    /// A chain that is missing, or that differs in its rules or in the rule that leads to it.
    SetChain {
        /// The chain in the kernel.
        live: Option<Chain>,
        /// Its identity.
        id: ChainId,
        /// The rules that it should have.
        rules: Vec<Rule>,
    },
    /// An unwanted chain of the mesh.
    DeleteChain(Chain),
}

/// The effect on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAction {
    /// It is missing.
    Create,
    /// It is changed in place.
    Update,
    /// It is deleted and made anew.
    Replace,
    /// It is deleted.
    Delete,
}

impl ChangeAction {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }

    /// The symbol in text.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Create => "+",
            Self::Update => "~",
            Self::Replace => "-/+",
            Self::Delete => "-",
        }
    }
}

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A security association.
    Sa,
    /// A peer's policy.
    Policy,
    /// A block policy without a peer.
    Guard,
    /// A network device.
    Link,
    /// A chain of the firewall.
    Chain,
}

impl ObjectKind {
    /// The word in text and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sa => "sa",
            Self::Policy => "policy",
            Self::Guard => "guard",
            Self::Link => "link",
            Self::Chain => "chain",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Change {
    /// Whether no protected traffic depends on it, or policies guard without it.
    pub fn is_optional(&self) -> bool {
        match &self.operation {
            Operation::SetMtu { .. } => true,
            Operation::SetChain { id, .. } => id.role().is_some_and(ChainRole::is_optional),
            Operation::CreateSa(_)
            | Operation::ReplaceSa { .. }
            | Operation::DeleteSa(_)
            | Operation::CreatePolicy(_)
            | Operation::UpdatePolicy { .. }
            | Operation::DeletePolicy(_)
            | Operation::DeleteChain(_) => false,
        }
    }

    /// The effect on the object.
    pub fn action(&self) -> ChangeAction {
        match self.operation {
            Operation::CreateSa(_)
            | Operation::CreatePolicy(_)
            | Operation::SetChain { live: None, .. } => ChangeAction::Create,
            Operation::UpdatePolicy { .. }
            | Operation::SetChain { .. }
            | Operation::SetMtu { .. } => ChangeAction::Update,
            Operation::ReplaceSa { .. } => ChangeAction::Replace,
            Operation::DeleteSa(_) | Operation::DeletePolicy(_) | Operation::DeleteChain(_) => {
                ChangeAction::Delete
            }
        }
    }

    /// The kind of the object.
    pub fn kind(&self) -> ObjectKind {
        match &self.operation {
            Operation::CreateSa(_) | Operation::ReplaceSa { .. } | Operation::DeleteSa(_) => {
                ObjectKind::Sa
            }
            Operation::SetChain { .. } | Operation::DeleteChain(_) => ObjectKind::Chain,
            Operation::CreatePolicy(policy)
            | Operation::UpdatePolicy { wanted: policy, .. }
            | Operation::DeletePolicy(policy) => {
                if policy.is_guard() {
                    ObjectKind::Guard
                } else {
                    ObjectKind::Policy
                }
            }
            Operation::SetMtu { .. } => ObjectKind::Link,
        }
    }

    /// The policy that comes, or goes.
    fn policy(&self) -> Option<&Policy> {
        match &self.operation {
            Operation::CreatePolicy(policy)
            | Operation::UpdatePolicy { wanted: policy, .. }
            | Operation::DeletePolicy(policy) => Some(policy),
            Operation::CreateSa(_)
            | Operation::ReplaceSa { .. }
            | Operation::DeleteSa(_)
            | Operation::SetMtu { .. }
            | Operation::SetChain { .. }
            | Operation::DeleteChain(_) => None,
        }
    }

    /// Whether it is of a policy that lets neighbour discovery pass.
    pub fn is_discovery(&self) -> bool {
        self.policy().is_some_and(|policy| policy.templates.is_empty() && !policy.is_guard())
    }

    /// Whether it is of a policy that covers ICMP errors.
    pub fn covers_icmp_errors(&self) -> bool {
        self.policy().is_some_and(Policy::covers_icmp_errors)
    }

    /// The object's identity, in the words of `ip` or iptables.
    pub fn id(&self) -> String {
        match &self.operation {
            Operation::CreateSa(wanted) | Operation::ReplaceSa { wanted, .. } => {
                wanted.sa.id.to_string()
            }
            Operation::DeleteSa(sa) => sa.id.to_string(),
            Operation::CreatePolicy(policy)
            | Operation::UpdatePolicy { wanted: policy, .. }
            | Operation::DeletePolicy(policy) => policy.id.to_string(),
            Operation::SetMtu { device, .. } => format!("dev {device}"),
            Operation::SetChain { id, .. } => id.to_string(),
            Operation::DeleteChain(chain) => chain.id.to_string(),
        }
    }

    /// The object's attributes, or those in which the two sides differ.
    pub fn fields(&self) -> Vec<Field> {
        match &self.operation {
            Operation::CreateSa(wanted) => fields::created(fields::of_sa(&wanted.sa)),
            Operation::ReplaceSa { twins, .. } if !twins.is_empty() => fields::twins(twins),
            Operation::ReplaceSa { live: Some(live), wanted, .. } => {
                fields::differing_sa(live, &wanted.sa)
            }
            Operation::ReplaceSa { live: None, wanted, .. } => {
                fields::created(fields::of_sa(&wanted.sa))
            }
            Operation::DeleteSa(sa) => fields::deleted(fields::of_sa(sa)),
            Operation::CreatePolicy(policy) => fields::created(fields::of_policy(policy)),
            Operation::UpdatePolicy { live, wanted } => {
                fields::differing(fields::of_policy(live), fields::of_policy(wanted))
            }
            Operation::DeletePolicy(policy) => fields::deleted(fields::of_policy(policy)),
            Operation::SetMtu { before, after, .. } => {
                fields::differing(fields::of_link(*before), fields::of_link(*after))
            }
            Operation::SetChain { live: None, id, rules } => {
                fields::created(fields::of_wanted_chain(id, rules))
            }
            Operation::SetChain { live: Some(live), id, rules } => {
                fields::differing(fields::of_chain(live), fields::of_wanted_chain(id, rules))
            }
            Operation::DeleteChain(chain) => fields::deleted(fields::of_chain(chain)),
        }
    }

    /// The direction, where the object itself or the file tells it.
    pub fn direction(&self) -> Option<Direction> {
        match &self.operation {
            Operation::CreateSa(wanted) | Operation::ReplaceSa { wanted, .. } => {
                Some(wanted.direction)
            }
            Operation::DeleteSa(_)
            | Operation::SetMtu { .. }
            | Operation::SetChain { .. }
            | Operation::DeleteChain(_) => None,
            Operation::CreatePolicy(policy)
            | Operation::UpdatePolicy { wanted: policy, .. }
            | Operation::DeletePolicy(policy) => Some(policy.id.direction),
        }
    }
}
