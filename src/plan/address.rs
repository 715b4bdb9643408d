//! The addresses of the mesh's XFRM interface: identity, differences, steps, and the way back.

use std::collections::BTreeSet;

use super::{
    change::{Change, ChangeAction, Context, Difference, ObjectKind, Operation},
    fields::Field,
    interface,
    sequence::Phase,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Keyring},
    model::{AddressStep, Direction, LocalAddress, Reason, Reqid, Selector, State, StepKind},
};

/// An address that should be on the interface, or should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressChange {
    /// It is missing.
    Create(LocalAddress),
    /// Nothing asks for it.
    Delete(LocalAddress),
}

impl Difference for AddressChange {
    fn action(&self) -> ChangeAction {
        match self {
            Self::Create(_) => ChangeAction::Create,
            Self::Delete(_) => ChangeAction::Delete,
        }
    }

    fn kind(&self) -> ObjectKind {
        ObjectKind::Address
    }

    fn id(&self) -> String {
        let (Self::Create(local) | Self::Delete(local)) = self;
        local.id()
    }

    fn direction(&self) -> Option<Direction> {
        None
    }

    fn is_optional(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        Vec::new()
    }

    fn line(&self, _: bool) -> String {
        self.id()
    }

    fn steps(&self, _: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        let (phase, step) = match self {
            Self::Create(local) => (Phase::Addresses, AddressStep::Add(local.clone())),
            Self::Delete(local) => (Phase::DeleteAddresses, AddressStep::Delete(local.clone())),
        };
        vec![(phase, StepKind::Address(step))]
    }

    /// An address of the interface is of no peer.
    fn way_back(&self, _: &RollBack<'_>) -> Option<WayBack> {
        None
    }

    fn uncovered(&self) -> Vec<Selector> {
        Vec::new()
    }

    fn irreversible(&self, _: &State, _: &Keyring) -> Vec<String> {
        Vec::new()
    }
}

/// The addresses that differ. Those of the interface that somebody else has added go, but for
/// link-local ones: over IPv6 routing daemons need them.
pub(super) fn diff(desired: &Desired, state: &State, reqid: Reqid) -> Vec<Change> {
    let live: BTreeSet<&LocalAddress> = state.addresses_of(reqid).collect();
    let create = |local: &LocalAddress| (AddressChange::Create(local.clone()), Reason::MISSING);
    let missing = desired.inside.iter().filter(|local| !live.contains(local)).map(create);
    // Those of an interface that goes, go with it.
    let stays = |local: &LocalAddress| {
        desired.interface.as_ref().is_some_and(|interface| interface.name == local.device)
    };
    let extra = live.iter().filter(|local| !desired.inside.contains(**local) && stays(local));
    let extra =
        extra.map(|local| (AddressChange::Delete((*local).clone()), interface::unwanted(desired)));
    let change =
        |(change, reason)| Change { peer: None, operation: Operation::Address(change), reason };
    missing.chain(extra).map(change).collect()
}
