//! `plan --all --format json`.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonClock};
use crate::render::{HostPlan, PlanAllView};

#[derive(Serialize)]
struct JsonPlanAll {
    format_version: &'static str,
    mesh: String,
    /// That of now; hosts with snapshots are planned for the time of those.
    generation: u64,
    clock: Option<JsonClock>,
    hosts: Vec<JsonHost>,
    /// Hosts without a snapshot, where a folder was given.
    missing: Vec<String>,
    /// The number of files in the folder that were not looked at.
    ignored_files: usize,
    warnings_left_out: bool,
    pairs: JsonPairs,
    warnings: Vec<JsonHostsWarning>,
    summary: JsonSums,
}

#[derive(Serialize)]
struct JsonHost {
    peer: String,
    generation: u64,
    snapshot: Option<String>,
    create: usize,
    update: usize,
    replace: usize,
    delete: usize,
    /// Their number.
    conflicts: usize,
    /// The first of them.
    first_conflicts: Vec<String>,
}

#[derive(Serialize)]
struct JsonPairs {
    compared: usize,
    disagreements: Vec<JsonDisagreement>,
    more_disagreements: usize,
}

#[derive(Serialize)]
struct JsonDisagreement {
    from: String,
    to: String,
    text: String,
}

/// Warnings of one code.
#[derive(Serialize)]
struct JsonHostsWarning {
    code: &'static str,
    /// That of the first host.
    text: String,
    /// The number of hosts; 0 is the file itself.
    hosts: usize,
}

#[derive(Serialize)]
struct JsonSums {
    create: usize,
    update: usize,
    replace: usize,
    delete: usize,
}

/// All plans in the shape of their JSON.
pub fn plan_all_json(view: &PlanAllView<'_>) -> impl Serialize + use<> {
    let [create, update, replace, delete] = view.sums();
    let disagreements = view.disagreements.iter().map(|found| JsonDisagreement {
        from: found.from.to_string(),
        to: found.to.to_string(),
        text: found.text.clone(),
    });
    let warnings = view.all_warnings().into_iter().map(|warning| JsonHostsWarning {
        code: warning.code.word(),
        text: warning.text.into(),
        hosts: warning.hosts,
    });
    JsonPlanAll {
        format_version: FORMAT_VERSION,
        mesh: view.config.mesh.to_string(),
        generation: view.moment.generation.get(),
        clock: JsonClock::of(view.moment),
        hosts: view.hosts.iter().map(host).collect(),
        missing: view.missing.iter().map(ToString::to_string).collect(),
        ignored_files: view.ignored,
        warnings_left_out: view.warnings_left_out,
        pairs: JsonPairs {
            compared: view.pairs,
            disagreements: disagreements.collect(),
            more_disagreements: view.unfit - view.disagreements.len(),
        },
        warnings: warnings.collect(),
        summary: JsonSums { create, update, replace, delete },
    }
}

fn host(host: &HostPlan) -> JsonHost {
    JsonHost {
        peer: host.peer.to_string(),
        generation: host.generation.get(),
        snapshot: host.snapshot.clone(),
        create: host.create,
        update: host.update,
        replace: host.replace,
        delete: host.delete,
        conflicts: host.conflicts.0,
        first_conflicts: host.conflicts.1.clone(),
    }
}
