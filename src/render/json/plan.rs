//! `plan --format json`, and the plan in reports and saved plans.

use serde::Serialize;

use super::parts::{
    FORMAT_VERSION, JsonClock, JsonCoded, JsonConflict, JsonLack, JsonStep, conflicts, lacks,
    more_conflicts, warnings,
};
use crate::{
    plan::{Change, ChangeAction, FarEnd, Field, Outcome, Plan},
    render::View,
};

#[derive(Serialize)]
pub(super) struct JsonPlan {
    format_version: &'static str,
    /// Null where only a reqid is known.
    mesh: Option<String>,
    local: Option<String>,
    /// Null without a file.
    generation: Option<u64>,
    clock: Option<JsonClock>,
    changes: Vec<JsonChange>,
    steps: Vec<JsonStep>,
    conflicts: Vec<JsonConflict>,
    more_conflicts: usize,
    held: usize,
    /// The number of SAs that could not be compared, because the kernel hides their keys.
    hidden_keys: usize,
    second_guard_missing: Vec<JsonLack>,
    warnings: Vec<JsonCoded>,
    traffic: Vec<JsonOutcome>,
    summary: JsonSummary,
}

/// The fate of packets to a peer, to an address that was one, or, without both, to all others.
#[derive(Serialize)]
struct JsonOutcome {
    peer: Option<String>,
    address: Option<String>,
    before: &'static str,
    after: &'static str,
}

#[derive(Serialize)]
struct JsonChange {
    kind: &'static str,
    id: String,
    peer: Option<String>,
    action: &'static str,
    reason: JsonCoded,
    fields: Vec<JsonField>,
}

#[derive(Serialize)]
struct JsonField {
    name: &'static str,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Serialize)]
struct JsonSummary {
    create: usize,
    update: usize,
    replace: usize,
    delete: usize,
}

fn outcome((far, Outcome { before, after }): (&FarEnd, &Outcome)) -> JsonOutcome {
    let (peer, address) = match far {
        FarEnd::Peer(peer) => (Some(peer.to_string()), None),
        FarEnd::Former(address) => (None, Some(address.to_string())),
        FarEnd::Others => (None, None),
    };
    JsonOutcome { peer, address, before: before.word(), after: after.word() }
}

/// The plan in the shape of its JSON.
pub fn plan_json(view: &View<'_>) -> impl Serialize + use<> {
    document(view)
}

pub(super) fn document(view: &View<'_>) -> JsonPlan {
    let plan = view.plan;
    JsonPlan {
        format_version: FORMAT_VERSION,
        mesh: view.subject.mesh().map(ToString::to_string),
        local: view.local.map(|peer| peer.name.to_string()),
        generation: view.subject.moment().map(|moment| moment.generation.get()),
        clock: view.subject.moment().and_then(JsonClock::of),
        changes: plan.changes.iter().map(change).collect(),
        steps: plan.steps.iter().map(JsonStep::of).collect(),
        conflicts: conflicts(plan),
        more_conflicts: more_conflicts(plan),
        held: plan.held,
        hidden_keys: plan.hidden_keys,
        second_guard_missing: lacks(plan),
        warnings: warnings(view.all_warnings()),
        traffic: view.outcomes.iter().map(outcome).collect(),
        summary: summary(plan),
    }
}

fn change(change: &Change) -> JsonChange {
    let field =
        |field: Field| JsonField { name: field.name, before: field.before, after: field.after };
    JsonChange {
        kind: change.kind().word(),
        id: change.id(),
        peer: change.peer.as_ref().map(ToString::to_string),
        action: change.action().word(),
        reason: JsonCoded { code: change.reason.code.word(), text: change.reason.to_string() },
        fields: change.fields().into_iter().map(field).collect(),
    }
}

fn summary(plan: &Plan) -> JsonSummary {
    JsonSummary {
        create: plan.count(ChangeAction::Create),
        update: plan.count(ChangeAction::Update),
        replace: plan.count(ChangeAction::Replace),
        delete: plan.count(ChangeAction::Delete),
    }
}
