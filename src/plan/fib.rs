//! Routes to the mesh's interface, and blackholes behind them: identity, differences, steps, and the
//! way back.

use std::collections::BTreeMap;

use super::{
    change::{Change, ChangeAction, Context, Difference, ObjectKind, Operation},
    fields::{self, Field, Fields},
    interface,
    sequence::Phase,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, FibKey, Keyring},
    model::{
        Direction, FibAction, FibEntry, Reason, ReasonCode, Reqid, RouteStep, Selector, State,
        StepKind,
    },
};

/// An entry of a routing table that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FibChange {
    /// It is missing.
    Create(FibEntry),
    /// It leads elsewhere, or has another source. An entry is deleted, and another one made.
    Replace {
        /// The entry in the kernel.
        live: FibEntry,
        /// The one that should be there.
        wanted: FibEntry,
    },
    /// It is of the mesh, and unwanted.
    Delete(FibEntry),
}

impl FibChange {
    /// The entry that comes or goes.
    pub(super) fn entry(&self) -> &FibEntry {
        match self {
            Self::Create(entry) | Self::Replace { wanted: entry, .. } | Self::Delete(entry) => {
                entry
            }
        }
    }

    fn is_blackhole(&self) -> bool {
        self.entry().action == FibAction::Blackhole
    }
}

impl Difference for FibChange {
    fn action(&self) -> ChangeAction {
        match self {
            Self::Create(_) => ChangeAction::Create,
            Self::Replace { .. } => ChangeAction::Replace,
            Self::Delete(_) => ChangeAction::Delete,
        }
    }

    fn kind(&self) -> ObjectKind {
        if self.is_blackhole() { ObjectKind::Blackhole } else { ObjectKind::Route }
    }

    fn id(&self) -> String {
        self.entry().id()
    }

    fn direction(&self) -> Option<Direction> {
        None
    }

    fn is_optional(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Self::Create(entry) => fields::created(of_entry(entry)),
            Self::Replace { live, wanted } => fields::differing(of_entry(live), of_entry(wanted)),
            Self::Delete(entry) => fields::deleted(of_entry(entry)),
        }
    }

    fn line(&self, _: bool) -> String {
        self.id()
    }

    fn steps(&self, _: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        let (comes, goes) = match self.is_blackhole() {
            true => (Phase::Guards, Phase::DeleteGuards),
            false => (Phase::Routes, Phase::DeleteRoutes),
        };
        let steps = match self {
            Self::Create(wanted) => vec![(comes, RouteStep::Add(wanted.clone()))],
            Self::Replace { live, wanted } => vec![
                (comes, RouteStep::Delete(live.clone())),
                (comes, RouteStep::Add(wanted.clone())),
            ],
            Self::Delete(live) => vec![(goes, RouteStep::Delete(live.clone()))],
        };
        steps.into_iter().map(|(phase, step)| (phase, StepKind::Route(step))).collect()
    }

    /// Routes come last and go first. So where a peer could not be finished, those to come are not
    /// there yet. One that has gone stays away: its packets meet the blackhole.
    fn way_back(&self, now: &RollBack<'_>) -> Option<WayBack> {
        let is_there = now.state.fib.contains(self.entry());
        match self {
            Self::Create(_) | Self::Replace { .. } if !is_there => Some(WayBack::Untouched),
            Self::Delete(_) if is_there => Some(WayBack::Untouched),
            Self::Create(_) | Self::Replace { .. } | Self::Delete(_) => None,
        }
    }

    /// A blackhole, or the route to the interface, keeps the packets for its network from leaving by
    /// other routes.
    fn uncovered(&self) -> Vec<Selector> {
        let to = self.entry().to;
        let goes = matches!(self, Self::Delete(_));
        goes.then(|| Selector::to_network(to)).into_iter().collect()
    }

    fn irreversible(&self, _: &State, _: &Keyring) -> Vec<String> {
        Vec::new()
    }
}

/// The entries that differ.
pub(super) fn diff(desired: &Desired, state: &State, reqid: Reqid) -> Vec<Change> {
    let mut live: BTreeMap<FibKey, &FibEntry> =
        state.fib_of(reqid).map(|entry| (FibKey::of(entry), entry)).collect();
    let mut changes = Vec::new();
    for (key, wanted) in &desired.fib {
        let (change, reason) = match live.remove(key) {
            None => (FibChange::Create(wanted.entry.clone()), Reason::MISSING),
            Some(live) if *live == wanted.entry => continue,
            Some(live) => (
                FibChange::Replace { live: live.clone(), wanted: wanted.entry.clone() },
                difference(live, &wanted.entry),
            ),
        };
        let (peer, operation) = (Some(wanted.peer.clone()), Operation::Fib(change));
        changes.push(Change { peer, operation, reason });
    }
    changes.extend(live.into_values().map(|entry| Change {
        peer: None,
        operation: Operation::Fib(FibChange::Delete(entry.clone())),
        reason: interface::unwanted(desired),
    }));
    changes
}

fn difference(live: &FibEntry, wanted: &FibEntry) -> Reason {
    match live.action == wanted.action {
        false => Reason::new(ReasonCode::LeadsElsewhere, "it leads elsewhere"),
        true => Reason::new(ReasonCode::Source, "its source address differs"),
    }
}

fn of_entry(entry: &FibEntry) -> Fields {
    let FibEntry { to: _, table: _, metric: _, action, protocol, selective: _, source } = entry;
    let action = match action {
        FibAction::Devices(devices) => {
            let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
            format!("dev {}", devices.join(" "))
        }
        FibAction::Blackhole => "blackhole".into(),
        FibAction::Other(word) => word.clone(),
    };
    let mut fields = vec![("action", action), ("protocol", protocol.to_string())];
    fields.extend(source.map(|source| ("source", source.to_string())));
    fields
}
