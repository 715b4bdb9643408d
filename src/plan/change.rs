//! Changes: the differences between file and kernel, by kind of object.
//!
//! Compares normalised values, never attributes. An object of the mesh that nothing asks for goes;
//! foreign objects are not looked at here.

use std::{fmt, net::IpAddr};

use super::{
    address::AddressChange,
    chain::{self, ChainChange},
    fib::FibChange,
    fields::Field,
    interface::InterfaceChange,
    link::{self, MtuChange},
    policy::{self, PolicyChange},
    sa::{self, SaChange},
    sequence::Phase,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Keyring},
    model::{Direction, Live, Passage, PeerName, Reason, Reqid, Selector, State, StepKind},
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

/// An object and its new form, by kind of object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a plan has some thousand of them, once")]
pub enum Operation {
    /// Of an SA.
    Sa(SaChange),
    /// Of a policy: a peer's, a guard, or one for neighbour discovery.
    Policy(PolicyChange),
    /// Of a device's MTU.
    Mtu(MtuChange),
    /// Of a chain of the firewall.
    Chain(ChainChange),
    /// Of the mesh's XFRM interface.
    Interface(InterfaceChange),
    /// Of an address of that interface.
    Address(AddressChange),
    /// Of a route to that interface, or a blackhole.
    Fib(FibChange),
}

impl Operation {
    /// The one place that leads from an object to the code of its kind.
    fn difference(&self) -> &dyn Difference {
        match self {
            Self::Sa(change) => change,
            Self::Policy(change) => change,
            Self::Mtu(change) => change,
            Self::Chain(change) => change,
            Self::Interface(change) => change,
            Self::Address(change) => change,
            Self::Fib(change) => change,
        }
    }
}

/// All changes, guards and the link first, then by peer, SAs before policies.
pub(super) fn diff(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Change> {
    let mut changes = sa::diff(desired, live, reqid);
    // A change of each of thousands of objects: a list that doubles would hold twice as many.
    let policies = policy::diff(desired, live, reqid);
    changes.reserve_exact(policies.len() + 8);
    changes.extend(policies);
    changes.extend(chain::diff(desired, &live.0.firewall, reqid));
    changes.extend(link::change(desired, live));
    changes.extend(super::differences_of_networks(desired, &live.0, reqid));
    sort(&mut changes);
    changes
}

/// Puts changes into the order in which people read them.
pub(super) fn sort(changes: &mut [Change]) {
    let rank = |change: &Change| (change.kind().rank(), change.passage());
    changes.sort_by(|a, b| (&a.peer, rank(a)).cmp(&(&b.peer, rank(b))));
}

/// The reason of what goes with its pair.
pub(super) const NOT_PAIRED: &str = "pairs in [mesh] has no such pair";

/// The far end of packets between two addresses, where one end is this host.
fn far_end(desired: &Desired, src: IpAddr, dst: IpAddr) -> Option<IpAddr> {
    match desired.local? {
        local if src == local => Some(dst),
        local if dst == local => Some(src),
        _ => None,
    }
}

/// Whether a peer without a pair is at the far end.
pub(super) fn is_not_paired(desired: &Desired, src: IpAddr, dst: IpAddr) -> bool {
    far_end(desired, src, dst).is_some_and(|far| desired.not_paired.contains_key(&far))
}

/// The peer at the far end.
pub(super) fn peer_of(desired: &Desired, src: IpAddr, dst: IpAddr) -> Option<&PeerName> {
    desired.peers.get(&far_end(desired, src, dst)?)
}

/// The part of a plan that each kind of object has to answer for, in a file of its own.
pub(super) trait Difference {
    /// The effect on the object.
    fn action(&self) -> ChangeAction;
    /// The kind of the object.
    fn kind(&self) -> ObjectKind;
    /// The object's identity, in the words of `ip` or iptables.
    fn id(&self) -> String;
    /// The direction, where the object itself or the file tells it.
    fn direction(&self) -> Option<Direction>;
    /// Whether no protected traffic depends on it, or policies guard without it.
    fn is_optional(&self) -> bool;
    /// The object's attributes, or those in which the two sides differ.
    fn fields(&self) -> Vec<Field>;
    /// The object in one line without its direction. Where `hosts_are_known`, the peer's address
    /// stands above it.
    fn line(&self, hosts_are_known: bool) -> String;
    /// The steps that make the difference go away, each with its place in the order.
    fn steps(&self, context: &Context<'_>) -> Vec<(Phase, StepKind<()>)>;
    /// The way back to the object's old form; `None` if there is none, or it is not allowed. Where
    /// a foreign object has come into its place, there is none of the mesh.
    fn way_back(&self, now: &RollBack<'_>) -> Option<WayBack>;
    /// The packets that the object keeps from leaving unprotected until then, and may not after the
    /// change.
    fn uncovered(&self) -> Vec<Selector>;
    /// Why nobody could make the objects again that change, in words; empty if they can be made.
    fn irreversible(&self, state: &State, keys: &Keyring) -> Vec<String>;
}

/// The plan that a change is a part of: other changes decide about its place in the order.
pub(super) struct Context<'a> {
    pub(super) changes: &'a [Change],
    pub(super) desired: &'a Desired,
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
    /// The mesh's XFRM interface.
    Interface,
    /// An address of that interface.
    Address,
    /// A route to that interface.
    Route,
    /// A route that drops packets for a peer's network.
    Blackhole,
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
            Self::Interface => "interface",
            Self::Address => "address",
            Self::Route => "route",
            Self::Blackhole => "blackhole",
        }
    }

    /// The title above objects of this kind that are of no peer.
    pub fn title(self) -> &'static str {
        match self {
            Self::Guard => "Guards",
            Self::Chain => "Chains",
            Self::Link => "Link",
            Self::Interface => "Interface",
            Self::Address => "Addresses",
            Self::Sa | Self::Policy | Self::Route | Self::Blackhole => "Of no peer",
        }
    }

    /// The place among the changes that are shown of one peer, or of none.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Guard => 0,
            Self::Chain => 1,
            Self::Link => 2,
            Self::Interface => 3,
            Self::Address => 4,
            Self::Blackhole => 5,
            Self::Sa => 6,
            Self::Policy => 7,
            Self::Route => 8,
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
        self.operation.difference().is_optional()
    }

    /// The effect on the object.
    pub fn action(&self) -> ChangeAction {
        self.operation.difference().action()
    }

    /// The kind of the object.
    pub fn kind(&self) -> ObjectKind {
        self.operation.difference().kind()
    }

    /// The object's identity, in the words of `ip` or iptables.
    pub fn id(&self) -> String {
        self.operation.difference().id()
    }

    /// The object's attributes, or those in which the two sides differ.
    pub fn fields(&self) -> Vec<Field> {
        self.operation.difference().fields()
    }

    /// The object in one line: its direction, its identity, and what is to be known of it. The
    /// hosts are left out where they are the local peer and the one that the change is for.
    pub fn line(&self) -> String {
        let line = self.operation.difference().line(self.peer.is_some());
        match self.direction().filter(|_| self.kind() != ObjectKind::Chain) {
            Some(direction) => format!("{:<4} {line}", direction.to_string()),
            None => line,
        }
    }

    /// The direction, where the object itself or the file tells it.
    pub fn direction(&self) -> Option<Direction> {
        self.operation.difference().direction()
    }

    /// Why nobody could make the objects again that change, in words; empty if they can be made.
    pub fn irreversible(&self, state: &State, keys: &Keyring) -> Vec<String> {
        self.operation.difference().irreversible(state, keys)
    }

    pub(super) fn steps(&self, context: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        self.operation.difference().steps(context)
    }

    pub(super) fn uncovered(&self) -> Vec<Selector> {
        self.operation.difference().uncovered()
    }

    pub(super) fn way_back(&self, now: &RollBack<'_>) -> Option<WayBack> {
        self.operation.difference().way_back(now)
    }

    /// The change of a policy, if it is one.
    pub(super) fn of_policy(&self) -> Option<&PolicyChange> {
        match &self.operation {
            Operation::Policy(change) => Some(change),
            Operation::Sa(_)
            | Operation::Mtu(_)
            | Operation::Chain(_)
            | Operation::Interface(_)
            | Operation::Address(_)
            | Operation::Fib(_) => None,
        }
    }

    /// The packets that its policy lets pass untransformed, if it is such a policy.
    pub fn passage(&self) -> Option<Passage> {
        self.of_policy().and_then(|change| change.policy().passage())
    }
}
