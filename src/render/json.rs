//! A plan as JSON: keys are stable, arrays ordered.

use serde::Serialize;

use super::View;
use crate::{
    config::Moment,
    model::Family,
    plan::{
        ChangeAction, ConflictCode, Lack, NAMES_SHOWN, Plan, PlannedStep, Reason, Stops, Warning,
    },
};

/// The version of all documents' format; the number before the dot changes when a reader
/// of the old format would be misled.
pub const FORMAT_VERSION: &str = "2.0";

/// `plan --format json`.
#[derive(Serialize)]
pub struct JsonPlan {
    format_version: &'static str,
    mesh: String,
    local: Option<String>,
    generation: u64,
    clock: Option<JsonClock>,
    changes: Vec<JsonChange>,
    steps: Vec<JsonStep>,
    conflicts: Vec<JsonConflict>,
    more_conflicts: usize,
    held: usize,
    /// The number of SAs that could not be compared, because the kernel hides their keys.
    hidden_keys: usize,
    second_guard_missing: Vec<JsonLack>,
    warnings: Vec<Warning>,
    summary: JsonSummary,
}

/// The clock that generations follow, where they do.
#[derive(Serialize)]
pub struct JsonClock {
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
    pub fn of(Moment { generation, clock }: Moment) -> Option<Self> {
        clock.map(|clock| Self {
            period: clock.period.seconds(),
            now: clock.now.rfc3339(),
            until: clock.period.end(generation).rfc3339(),
            next_apply_before: clock.next_apply().rfc3339(),
        })
    }
}

#[derive(Serialize)]
struct JsonChange {
    kind: &'static str,
    id: String,
    peer: Option<String>,
    action: &'static str,
    reason: Reason,
    fields: Vec<JsonField>,
}

#[derive(Serialize)]
struct JsonField {
    name: &'static str,
    before: Option<String>,
    after: Option<String>,
}

/// One step, as plans and reports show it.
#[derive(Serialize)]
pub(super) struct JsonStep {
    step: &'static str,
    id: String,
    peer: Option<String>,
}

#[derive(Serialize)]
pub(super) struct JsonConflict {
    code: ConflictCode,
    text: String,
    object: String,
    /// Null where it stops all; else the first names.
    peers: Option<Vec<String>>,
    /// The number of further peers that it stops.
    more_peers: usize,
}

/// A part of the second guard that is wanted and can't be put in place.
#[derive(Serialize)]
pub(super) struct JsonLack {
    family: Family,
    /// Null for all chains of the family.
    chain: Option<String>,
    /// Whether it may be there without being seen.
    unseen: bool,
    text: String,
}

#[derive(Serialize)]
struct JsonSummary {
    create: usize,
    update: usize,
    replace: usize,
    delete: usize,
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

/// The plan in the shape of its JSON.
pub fn plan_json(view: &View<'_>) -> JsonPlan {
    JsonPlan {
        format_version: FORMAT_VERSION,
        mesh: view.config.mesh.to_string(),
        local: view.local.map(|peer| peer.name.to_string()),
        generation: view.moment.generation.get(),
        clock: JsonClock::of(view.moment),
        changes: changes(view.plan),
        steps: view.plan.steps.iter().map(JsonStep::of).collect(),
        conflicts: conflicts(view.plan),
        more_conflicts: more_conflicts(view.plan),
        held: view.plan.held,
        hidden_keys: view.plan.hidden_keys,
        second_guard_missing: lacks(view.plan),
        warnings: view.all_warnings().cloned().collect(),
        summary: summary(view.plan),
    }
}

fn changes(plan: &Plan) -> Vec<JsonChange> {
    let fields = |change: &crate::plan::Change| {
        let field = |field: crate::plan::Field| JsonField {
            name: field.name,
            before: field.before,
            after: field.after,
        };
        change.fields().into_iter().map(field).collect()
    };
    plan.changes
        .iter()
        .map(|change| JsonChange {
            kind: change.kind().word(),
            id: change.id(),
            peer: change.peer.as_ref().map(ToString::to_string),
            action: change.action().word(),
            reason: change.reason.clone(),
            fields: fields(change),
        })
        .collect()
}

/// The missing parts of the second guard, in the shape of their JSON.
pub(super) fn lacks(plan: &Plan) -> Vec<JsonLack> {
    let lack = |lack: &Lack| JsonLack {
        family: lack.family,
        chain: lack.chain.as_ref().map(ToString::to_string),
        unseen: lack.unseen,
        text: lack.why.clone(),
    };
    plan.lacks.iter().map(lack).collect()
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
            code: conflict.code,
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

fn summary(plan: &Plan) -> JsonSummary {
    JsonSummary {
        create: plan.count(ChangeAction::Create),
        update: plan.count(ChangeAction::Update),
        replace: plan.count(ChangeAction::Replace),
        delete: plan.count(ChangeAction::Delete),
    }
}
