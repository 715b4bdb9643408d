//! Differences, and the steps that remove them; pure.
//!
//! [`Plan::new`] compares and orders; nothing here has an effect, and nothing here holds a key.
#![forbid(unsafe_code)]

mod address;
mod arrival;
mod bypass;
mod chain;
mod change;
mod conflict;
mod encap;
mod exception;
mod fib;
mod fields;
mod firewall;
mod flow;
mod flush;
mod hold;
mod interface;
mod keepalive;
mod layout;
mod link;
mod look_ups;
mod nat;
mod networks;
mod outcome;
mod packet;
mod policy;
mod ports;
mod reach;
mod route;
mod routed;
mod sa;
mod same_reqid;
mod sequence;
mod stage;
mod stops;
mod trace;
mod tunnel;
mod uncovered;
mod undo;
mod warn;

use crate::{
    desired::Desired,
    model::{KeyView, Live, Reqid, Sa, State},
};

pub use crate::model::{
    AddressStep, ChainStep, ConflictCode, InterfaceStep, MtuStep, PolicyStep, Reason, ReasonCode,
    RouteStep, SaStep, Step, StepKind, Warning, WarningCode,
};
pub use address::AddressChange;
pub use arrival::{Arrival, arrivals};
pub use chain::ChainChange;
pub use change::{Change, ChangeAction, ObjectKind, Operation};

pub use conflict::{Blocked, Conflict};
pub use encap::socket as encap_socket;
pub use fib::FibChange;
pub use fields::Field;
pub use firewall::Lack;
pub use flow::{Flow, Miss, flow_out};
pub use interface::InterfaceChange;
pub use link::{MtuChange, underlay};
pub use look_ups::{LookUps, flows_out, packets_out};
pub use outcome::{FarEnd, Outcome, after, outcomes};
pub use packet::{Packet, PacketError};
pub use policy::PolicyChange;
pub use sa::SaChange;
pub use sequence::{Phase, PlannedStep};
pub use stops::{NAMES_SHOWN, Peers, Stops};
pub use trace::{Names, Part, Trace, Verdict, trace};
pub use undo::undo;
pub use warn::list;

/// All changes to one host, and the conflicts in their way.
#[derive(Clone, Default)]
pub struct Plan {
    /// The differences, for people: guards first, then peer by peer.
    pub changes: Vec<Change>,
    /// The steps that remove them, in order.
    pub steps: Vec<PlannedStep>,
    /// Foreign objects in the way.
    pub conflicts: Vec<Conflict>,
    /// The number of changes that they hold back.
    pub held: usize,
    /// Other facts that the operator should know.
    pub warnings: Vec<Warning>,
    /// The number of wanted keys that were not compared, because the kernel hides those that it
    /// has.
    pub hidden_keys: usize,
    /// Parts of the second guard that are wanted and that no plan can put in place.
    pub lacks: Vec<Lack>,
    /// Whether chains of the mesh may be where nobody can look.
    pub unseen_rules: bool,
}

impl Plan {
    /// Compares the wanted objects with the live ones, of the mesh with this reqid.
    pub fn new(desired: &Desired, live: &Live, reqid: Reqid) -> Self {
        let desired = &*networks::resolved(desired, &live.0, reqid);
        let found = conflict::find(desired, live, reqid);
        let changes = change::diff(desired, live, reqid);
        let (changes, held) = hold::split(changes, desired, live, reqid, &found);
        let steps = sequence::sequence(&changes, desired);
        let lacks = firewall::lacks(desired, live, reqid);
        let unseen = firewall::unseen(desired, live, &lacks);
        let unseen_rules = !unseen.is_empty();
        let warnings = warn::warnings(desired, live, reqid, &changes, &lacks, unseen);
        Self {
            changes,
            steps,
            conflicts: found.conflicts,
            held,
            warnings,
            hidden_keys: hidden_keys(desired, live),
            unseen_rules,
            lacks,
        }
    }

    /// Whether there is nothing to do and nothing in the way.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.conflicts.is_empty()
    }

    /// The message for a host without changes. Hidden keys are not a match, nor is a missing second
    /// guard.
    pub fn matches(&self, file: &str) -> String {
        let keys = match self.hidden_keys {
            0 => None,
            1 => Some("a key was not compared".into()),
            keys => Some(format!("{keys} keys were not compared")),
        };
        let rules = self.unseen_rules.then(|| "a part of the firewall can't be seen".into());
        let hidden: Vec<String> = keys.into_iter().chain(rules).collect();
        let lack = self.lack().map(|lack| format!(", but {lack}")).unwrap_or_default();
        match hidden.as_slice() {
            [] => format!("The kernel matches {file}{lack}."),
            hidden => {
                let hidden = hidden.join(", and ");
                format!("The kernel matches {file}, as far as it shows{lack}: {hidden}.")
            }
        }
    }

    /// The missing parts of the second guard, as a part of a sentence.
    pub fn lack(&self) -> Option<String> {
        firewall::lack(&self.lacks)
    }

    /// Whether another plan would do the same, and has the same conflicts.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        self.changes == other.changes && self.conflicts == other.conflicts
    }

    /// Whether no change is left on which protection depends.
    pub fn protects(&self) -> bool {
        self.conflicts.is_empty() && self.changes.iter().all(Change::is_optional)
    }

    /// The peers with new objects that the conflicts hold back.
    pub fn stopped(&self) -> Blocked {
        Blocked::by(&self.conflicts)
    }

    /// The number of changes with this effect.
    pub fn count(&self, action: ChangeAction) -> usize {
        self.changes.iter().filter(|change| change.action() == action).count()
    }
}

/// The differences in the mesh's interface, its addresses and routes.
pub fn differences_of_networks(desired: &Desired, state: &State, reqid: Reqid) -> Vec<Change> {
    let mut changes = Vec::from_iter(interface::diff(desired, state, reqid));
    changes.extend(address::diff(desired, state, reqid));
    changes.extend(fib::diff(desired, state, reqid));
    changes
}

/// The number of SAs that are as wanted apart from their keys, which can't be seen.
fn hidden_keys(desired: &Desired, live: &Live) -> usize {
    let hidden = |sa: &&Sa| {
        let wanted = desired.sas.get(&sa.id).map(|wanted| wanted.sa.key);
        sa.key == KeyView::Unknown && !sa.is_larval() && matches!(wanted, Some(KeyView::Known(_)))
    };
    live.0.sas.iter().filter(hidden).filter(|sa| desired.sas[&sa.id].sa.reqid == sa.reqid).count()
}
