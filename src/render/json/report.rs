//! `apply --format json` and `destroy --format json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    parts::{FORMAT_VERSION, JsonConflict, JsonLack, JsonStep, conflicts, lacks, more_conflicts},
    plan::{self, JsonPlan},
    ratchet::JsonAdvance,
};
use crate::{
    apply::Report,
    kernel::KernelError,
    plan::PlannedStep,
    render::{ConfirmationOutcome, RatchetAdvance, View},
};

#[derive(Serialize)]
struct JsonReport {
    format_version: &'static str,
    plan: JsonPlan,
    complete: bool,
    done: Vec<JsonStep>,
    undone: Vec<JsonStep>,
    failed: Vec<JsonFailure>,
    left: Vec<JsonStep>,
    answers_lost: bool,
    trial_left: bool,
    stopped: Option<String>,
    conflicts: Vec<JsonConflict>,
    more_conflicts: usize,
    held: usize,
    not_as_wanted: Vec<String>,
    second_guard_missing: Vec<JsonLack>,
    traffic: BTreeMap<String, &'static str>,
    ratchet: Option<JsonAdvance>,
    confirmation: Option<JsonConfirmation>,
}

/// Null without `--confirm-within`.
#[derive(Serialize)]
struct JsonConfirmation {
    verdict: &'static str,
    reverted: Option<bool>,
    not_as_before: Vec<String>,
    failed: Vec<JsonFailure>,
    left: Vec<JsonStep>,
    stopped: Option<String>,
}

#[derive(Serialize)]
struct JsonFailure {
    #[serde(flatten)]
    step: JsonStep,
    code: &'static str,
    error: String,
}

/// The report and its plan, in the shape of their JSON.
pub fn report_json(
    view: &View<'_>,
    report: &Report,
    advance: Option<&RatchetAdvance>,
    outcome: Option<&ConfirmationOutcome>,
) -> impl Serialize + use<> {
    let after = report.after.as_ref();
    JsonReport {
        format_version: FORMAT_VERSION,
        plan: plan::document(view),
        complete: report.is_complete(),
        done: steps(&report.done),
        undone: steps(&report.undone),
        failed: failures(report),
        left: steps(&report.left),
        answers_lost: report.answers_lost,
        trial_left: report.probe_stays,
        stopped: report.stopped.as_ref().map(ToString::to_string),
        conflicts: after.map(conflicts).unwrap_or_default(),
        more_conflicts: after.map_or(0, more_conflicts),
        held: after.map_or(0, |plan| plan.held),
        not_as_wanted: after
            .map(|plan| plan.changes.iter().map(|change| change.id()).collect())
            .unwrap_or_default(),
        second_guard_missing: after.map(lacks).unwrap_or_default(),
        traffic: report.flows.iter().map(|(peer, flow)| (peer.to_string(), flow.word())).collect(),
        ratchet: advance.map(JsonAdvance::of),
        confirmation: outcome.map(confirmation),
    }
}

fn confirmation(outcome: &ConfirmationOutcome) -> JsonConfirmation {
    let report = outcome.report.as_ref();
    JsonConfirmation {
        verdict: outcome.word,
        reverted: report.map(Report::is_restored),
        not_as_before: report.and_then(|report| report.unlike.clone()).unwrap_or_default(),
        failed: report.map(failures).unwrap_or_default(),
        left: report.map(|report| steps(&report.left)).unwrap_or_default(),
        stopped: report.and_then(|report| report.stopped.as_ref()).map(ToString::to_string),
    }
}

fn steps(steps: &[PlannedStep]) -> Vec<JsonStep> {
    steps.iter().map(JsonStep::of).collect()
}

fn failures(report: &Report) -> Vec<JsonFailure> {
    let failure = |(step, error): &(PlannedStep, KernelError)| JsonFailure {
        step: JsonStep::of(step),
        code: error.code().word(),
        error: error.to_string(),
    };
    report.failed.iter().map(failure).collect()
}
