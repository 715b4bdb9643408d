//! The mesh's XFRM interface: identity, differences, steps, and the way back.

use super::{
    change::{Change, ChangeAction, Context, Difference, ObjectKind, Operation},
    fields::{self, Field, Fields},
    sequence::Phase,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Goal, Keyring},
    model::{
        Direction, Interface, InterfaceStep, Reason, ReasonCode, Reqid, Selector, State, StepKind,
    },
};

/// An interface that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceChange {
    /// It is missing.
    Create(Interface),
    /// Its attributes differ.
    Update {
        /// The interface in the kernel.
        live: Interface,
        /// The same as it should be.
        wanted: Interface,
    },
    /// It has another name. The kernel takes no new name for an interface that is up, so another one
    /// is made.
    Replace {
        /// The interface in the kernel.
        live: Interface,
        /// The one that should be there.
        wanted: Interface,
    },
    /// It is of the mesh, and unwanted.
    Delete(Interface),
}

impl InterfaceChange {
    /// The interface that comes or goes.
    pub(super) fn interface(&self) -> &Interface {
        match self {
            Self::Create(interface)
            | Self::Update { wanted: interface, .. }
            | Self::Replace { wanted: interface, .. }
            | Self::Delete(interface) => interface,
        }
    }
}

impl InterfaceChange {
    /// The interface as it is afterwards; `None` if it is gone.
    pub(super) fn becomes(&self) -> Option<&Interface> {
        match self {
            Self::Create(wanted) | Self::Update { wanted, .. } | Self::Replace { wanted, .. } => {
                Some(wanted)
            }
            Self::Delete(_) => None,
        }
    }
}

impl Difference for InterfaceChange {
    fn action(&self) -> ChangeAction {
        match self {
            Self::Create(_) => ChangeAction::Create,
            Self::Update { .. } => ChangeAction::Update,
            Self::Replace { .. } => ChangeAction::Replace,
            Self::Delete(_) => ChangeAction::Delete,
        }
    }

    fn kind(&self) -> ObjectKind {
        ObjectKind::Interface
    }

    fn id(&self) -> String {
        self.interface().id()
    }

    fn direction(&self) -> Option<Direction> {
        None
    }

    fn is_optional(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Self::Create(interface) => fields::created(of_interface(interface)),
            Self::Update { live, wanted } | Self::Replace { live, wanted } => {
                fields::differing(of_interface(live), of_interface(wanted))
            }
            Self::Delete(interface) => fields::deleted(of_interface(interface)),
        }
    }

    fn line(&self, _: bool) -> String {
        self.id()
    }

    fn steps(&self, _: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        let add = |interface: &Interface| InterfaceStep::Add(interface.clone());
        let delete = |Interface { name, if_id, .. }: &Interface| InterfaceStep::Delete {
            name: name.clone(),
            if_id: *if_id,
        };
        let steps = match self {
            Self::Create(wanted) => vec![(Phase::Interface, add(wanted))],
            Self::Update { wanted, .. } => {
                vec![(Phase::Interface, InterfaceStep::Set(wanted.clone()))]
            }
            Self::Replace { live, wanted } => {
                vec![(Phase::Interface, delete(live)), (Phase::Interface, add(wanted))]
            }
            Self::Delete(live) => vec![(Phase::DeleteInterface, delete(live))],
        };
        steps.into_iter().map(|(phase, step)| (phase, StepKind::Interface(step))).collect()
    }

    /// An interface is of no peer.
    fn way_back(&self, _: &RollBack<'_>) -> Option<WayBack> {
        None
    }

    /// Without it packets meet the blackholes.
    fn uncovered(&self) -> Vec<Selector> {
        Vec::new()
    }

    fn irreversible(&self, _: &State, _: &Keyring) -> Vec<String> {
        Vec::new()
    }
}

/// The change of the mesh's interface, if it isn't as it should be.
pub(super) fn diff(desired: &Desired, state: &State, reqid: Reqid) -> Option<Change> {
    let live = state.interface_of(reqid).cloned();
    let (change, reason) = match (live, desired.interface.clone()) {
        (None, None) => return None,
        (None, Some(wanted)) => (InterfaceChange::Create(wanted), Reason::MISSING),
        (Some(live), None) => (InterfaceChange::Delete(live), unwanted(desired)),
        (Some(live), Some(wanted)) if live == wanted => return None,
        (Some(live), Some(wanted)) if live.name == wanted.name => {
            let (code, text) = difference(&live);
            (InterfaceChange::Update { live, wanted }, Reason::new(code, text))
        }
        (Some(live), Some(wanted)) => {
            let text = format!("it is called {}", live.name);
            let reason = Reason::new(ReasonCode::DeviceName, text);
            (InterfaceChange::Replace { live, wanted }, reason)
        }
    };
    Some(Change { peer: None, operation: Operation::Interface(change), reason })
}

/// The reason for the deletion of an object of networks that nothing asks for.
pub(super) fn unwanted(desired: &Desired) -> Reason {
    match desired.goal {
        Goal::Nothing => Reason::new(ReasonCode::Destroying, "all of the mesh goes"),
        Goal::Mesh | Goal::Before { .. } => {
            Reason::new(ReasonCode::Unwanted, "nothing asks for it")
        }
    }
}

fn difference(live: &Interface) -> (ReasonCode, &'static str) {
    match live.up {
        false => (ReasonCode::DeviceDown, "it is down"),
        true => (ReasonCode::DeviceAttributes, "its attributes differ"),
    }
}

fn of_interface(interface: &Interface) -> Fields {
    let Interface { name, if_id: _, mtu, up, makes_addresses, skips_policies } = interface;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    vec![
        ("name", name.clone()),
        ("mtu", mtu.to_string()),
        ("up", yes(*up)),
        ("makes_addresses", yes(*makes_addresses)),
        ("skips_policies", yes(*skips_policies)),
    ]
}
