//! Snapshots and saved plans, from any bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{live, saved};
use crate::{
    fuzzing::{Mesh, NOW, harmless, harmless_and_secretless, harmless_with_styles, meshes, number},
    model::{Live, State},
    plan::{Plan, outcomes},
    render::{
        Extent, JsonPremises, Layout, ShowView, StatusView, Subject, View, json_text, plan_json,
        plan_text, show_json, show_text, status_json, status_prometheus, status_text,
    },
    verdict::{Case, judge},
};

/// A snapshot is refused with a reason that can be shown, or it is written again as it was read,
/// and can be planned on and shown.
pub fn snapshot(input: &[u8]) {
    let number = number(input);
    let mesh = &meshes()[number % meshes().len()];
    match live::parse(input, &mesh.config) {
        Err(error) => harmless_and_secretless(&error.to_string()),
        Ok((state, _)) => {
            let text = serde_json::to_vec(&state).expect("a state is JSON");
            let again: State = serde_json::from_slice(&text).expect("what was written is read");
            assert_eq!(again.sorted(), state);
            show(mesh, &Live(state), number);
        }
    }
}

fn show(mesh: &Mesh, live: &Live, number: usize) {
    let Mesh { config, moment, desired } = mesh;
    let (moment, local) = (*moment, Some(mesh.local()));
    let plan = &Plan::new(desired, live, config.reqid);
    let subject = Subject::File { config, moment };
    let outcomes = &outcomes(desired, config.reqid, &live.0, &plan.changes);
    let view = View { subject, local, plan, warnings: &[], outcomes, file: "mesh.toml" };
    harmless_with_styles(&plan_text(&view, &Extent::Whole));
    if number.is_multiple_of(3) {
        harmless_as_json(&plan_json(&view));
    }
    let shown = ShowView { subject, local, live, all: true };
    harmless_with_styles(&show_text(&shown));
    if number.is_multiple_of(5) {
        harmless_as_json(&show_json(&shown));
    }
    let case = Case {
        config,
        moment,
        now: NOW,
        local: mesh.local(),
        desired,
        live,
        plan,
        asked: &BTreeSet::new(),
        strict: false,
    };
    let view = StatusView {
        case,
        judged: &judge(&case),
        counters: &BTreeMap::new(),
        warnings: &[],
        details: number.is_multiple_of(2),
        before: None,
    };
    harmless_with_styles(&status_text(&view));
    if number.is_multiple_of(7) {
        harmless_as_json(&status_json(&view));
        harmless(&status_prometheus(&view));
    }
}

fn harmless_as_json(document: &impl Serialize) {
    harmless(&json_text(document, Layout::OneLine).expect("a document is JSON"));
}

/// A saved plan is refused with a reason that can be shown, or its premises are written again as
/// they were read, and are those of no other plan.
pub fn saved_plan(input: &[u8]) {
    match saved::parse(input) {
        Err(error) => harmless_and_secretless(&error.to_string()),
        Ok(premises) => {
            let text = serde_json::to_vec(&premises).expect("premises are JSON");
            let again: JsonPremises =
                serde_json::from_slice(&text).expect("what was written is read");
            assert_eq!(again, premises);
            assert_eq!(again.change(&premises), None);
            assert!(premises.change(&premises.of_another()).is_some());
        }
    }
}

/// Panics if a text is not a snapshot.
#[cfg(test)]
pub(crate) fn must_be_snapshot(text: &[u8]) {
    if let Err(error) = live::parse(text, &meshes()[0].config) {
        panic!("{error}");
    }
}
