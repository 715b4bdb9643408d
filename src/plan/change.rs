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
    pub what: What,
    /// Why.
    pub reason: Reason,
}

/// An object and its new form.
///
/// An SA has no update: the kernel answers one with success and does nothing (`xfrm_state_update`),
/// so an SA that differs is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a plan has some thousand of them, once")]
pub enum What {
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
        match &self.what {
            What::SetMtu { .. } => true,
            What::SetChain { id, .. } => id.role().is_some_and(ChainRole::is_optional),
            What::CreateSa(_)
            | What::ReplaceSa { .. }
            | What::DeleteSa(_)
            | What::CreatePolicy(_)
            | What::UpdatePolicy { .. }
            | What::DeletePolicy(_)
            | What::DeleteChain(_) => false,
        }
    }

    /// The effect on the object.
    pub fn action(&self) -> ChangeAction {
        match self.what {
            What::CreateSa(_) | What::CreatePolicy(_) | What::SetChain { live: None, .. } => {
                ChangeAction::Create
            }
            What::UpdatePolicy { .. } | What::SetChain { .. } | What::SetMtu { .. } => {
                ChangeAction::Update
            }
            What::ReplaceSa { .. } => ChangeAction::Replace,
            What::DeleteSa(_) | What::DeletePolicy(_) | What::DeleteChain(_) => {
                ChangeAction::Delete
            }
        }
    }

    /// The kind of the object.
    pub fn kind(&self) -> ObjectKind {
        match &self.what {
            What::CreateSa(_) | What::ReplaceSa { .. } | What::DeleteSa(_) => ObjectKind::Sa,
            What::SetChain { .. } | What::DeleteChain(_) => ObjectKind::Chain,
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => {
                if policy.is_guard() {
                    ObjectKind::Guard
                } else {
                    ObjectKind::Policy
                }
            }
            What::SetMtu { .. } => ObjectKind::Link,
        }
    }

    /// The policy that comes, or goes.
    fn policy(&self) -> Option<&Policy> {
        match &self.what {
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => Some(policy),
            What::CreateSa(_)
            | What::ReplaceSa { .. }
            | What::DeleteSa(_)
            | What::SetMtu { .. }
            | What::SetChain { .. }
            | What::DeleteChain(_) => None,
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
        match &self.what {
            What::CreateSa(wanted) | What::ReplaceSa { wanted, .. } => wanted.sa.id.to_string(),
            What::DeleteSa(sa) => sa.id.to_string(),
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => policy.id.to_string(),
            What::SetMtu { device, .. } => format!("dev {device}"),
            What::SetChain { id, .. } => id.to_string(),
            What::DeleteChain(chain) => chain.id.to_string(),
        }
    }

    /// The object's attributes, or those in which the two sides differ.
    pub fn fields(&self) -> Vec<Field> {
        match &self.what {
            What::CreateSa(wanted) => fields::created(fields::of_sa(&wanted.sa)),
            What::ReplaceSa { twins, .. } if !twins.is_empty() => fields::twins(twins),
            What::ReplaceSa { live: Some(live), wanted, .. } => {
                fields::differing_sa(live, &wanted.sa)
            }
            What::ReplaceSa { live: None, wanted, .. } => {
                fields::created(fields::of_sa(&wanted.sa))
            }
            What::DeleteSa(sa) => fields::deleted(fields::of_sa(sa)),
            What::CreatePolicy(policy) => fields::created(fields::of_policy(policy)),
            What::UpdatePolicy { live, wanted } => {
                fields::differing(fields::of_policy(live), fields::of_policy(wanted))
            }
            What::DeletePolicy(policy) => fields::deleted(fields::of_policy(policy)),
            What::SetMtu { before, after, .. } => {
                fields::differing(fields::of_link(*before), fields::of_link(*after))
            }
            What::SetChain { live: None, id, rules } => {
                fields::created(fields::of_wanted_chain(id, rules))
            }
            What::SetChain { live: Some(live), id, rules } => {
                fields::differing(fields::of_chain(live), fields::of_wanted_chain(id, rules))
            }
            What::DeleteChain(chain) => fields::deleted(fields::of_chain(chain)),
        }
    }

    /// The direction, where the object itself or the file tells it.
    pub fn direction(&self) -> Option<Direction> {
        match &self.what {
            What::CreateSa(wanted) | What::ReplaceSa { wanted, .. } => Some(wanted.direction),
            What::DeleteSa(_)
            | What::SetMtu { .. }
            | What::SetChain { .. }
            | What::DeleteChain(_) => None,
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => Some(policy.id.direction),
        }
    }
}
