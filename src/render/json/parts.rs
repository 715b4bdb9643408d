//! The parts that several documents have.

use serde::Serialize;

use crate::{
    config::Moment,
    model::{Family, Warning},
    plan::{Lack, NAMES_SHOWN, Plan, PlannedStep, Stops},
};

/// The version of all documents' format; the number before the dot changes when a reader
/// of the old format would be misled.
pub const FORMAT_VERSION: &str = "2.0";

/// The clock that generations follow, where they do.
#[derive(Serialize)]
pub(super) struct JsonClock {
    /// Seconds.
    period: u64,
    /// The time that the clock showed.
    now: String,
    /// The end of the generation.
    until: String,
    /// The time before which the next apply is due.
    next_apply_before: String,
}

impl JsonClock {
    /// The clock of a moment, if that has one.
    pub(super) fn of(Moment { generation, clock }: Moment) -> Option<Self> {
        clock.map(|clock| Self {
            period: clock.period.seconds(),
            now: clock.now.rfc3339(),
            until: clock.period.end(generation).rfc3339(),
            next_apply_before: clock.next_apply().rfc3339(),
        })
    }
}

/// A warning, or a reason: a code for programs, and a sentence for people.
#[derive(Serialize)]
pub(super) struct JsonCoded {
    pub(super) code: &'static str,
    pub(super) text: String,
}

/// Warnings in the shape of their JSON.
pub(super) fn warnings<'a>(warnings: impl IntoIterator<Item = &'a Warning>) -> Vec<JsonCoded> {
    let warning =
        |warning: &Warning| JsonCoded { code: warning.code.word(), text: warning.text.clone() };
    warnings.into_iter().map(warning).collect()
}

/// One step, as plans and reports show it.
#[derive(Serialize)]
pub(super) struct JsonStep {
    step: &'static str,
    id: String,
    peer: Option<String>,
}

impl JsonStep {
    pub(super) fn of(step: &PlannedStep) -> Self {
        Self {
            step: step.name(),
            id: step.id(),
            peer: step.step.peer.as_ref().map(ToString::to_string),
        }
    }
}

#[derive(Serialize)]
pub(super) struct JsonConflict {
    code: &'static str,
    text: String,
    object: String,
    /// Null where it stops all; else the first names.
    peers: Option<Vec<String>>,
    /// The number of further peers that it stops.
    more_peers: usize,
}

/// The number of conflicts in a document before the rest is counted.
const CONFLICTS_SHOWN: usize = 100;

/// The number of conflicts beyond those.
pub(super) fn more_conflicts(plan: &Plan) -> usize {
    plan.conflicts.len().saturating_sub(CONFLICTS_SHOWN)
}

/// The plan's first conflicts in the shape of their JSON.
pub(super) fn conflicts(plan: &Plan) -> Vec<JsonConflict> {
    plan.conflicts
        .iter()
        .take(CONFLICTS_SHOWN)
        .map(|conflict| JsonConflict {
            code: conflict.code.word(),
            text: conflict.text.clone(),
            object: conflict.object.clone(),
            peers: first_peers(&conflict.stops),
            more_peers: more_peers(&conflict.stops),
        })
        .collect()
}

fn first_peers(stops: &Stops) -> Option<Vec<String>> {
    let peers = stops.peers()?;
    Some(peers.iter().take(NAMES_SHOWN).map(ToString::to_string).collect())
}

fn more_peers(stops: &Stops) -> usize {
    stops.peers().map_or(0, |peers| peers.len().saturating_sub(NAMES_SHOWN))
}

/// A part of the second guard that is wanted and can't be put in place.
#[derive(Serialize)]
pub(super) struct JsonLack {
    family: &'static str,
    /// Null for all chains of the family.
    chain: Option<String>,
    /// Whether it may be there without being seen.
    unseen: bool,
    text: String,
}

/// The missing parts of the second guard, in the shape of their JSON.
pub(super) fn lacks(plan: &Plan) -> Vec<JsonLack> {
    let lack = |lack: &Lack| JsonLack {
        family: match lack.family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        },
        chain: lack.chain.as_ref().map(ToString::to_string),
        unseen: lack.unseen,
        text: lack.why.clone(),
    };
    plan.lacks.iter().map(lack).collect()
}
