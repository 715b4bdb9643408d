//! `settled --format json`, and `rotate` where it refuses.

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::{
    model::Time,
    render::{
        SettledView,
        settled::{code, not_counted, text},
    },
    verdict::{Doubt, EvidenceOfHost, Known},
};

#[derive(Serialize)]
struct JsonSettled<'a> {
    format_version: &'static str,
    mesh: &'a str,
    now: String,
    generation: u64,
    settled: bool,
    /// The seconds for which no packet may have come under another generation.
    quiet: u64,
    hosts: Vec<JsonHost<'a>>,
    doubts: Vec<JsonDoubt<'a>>,
    evidence: Vec<JsonEvidence<'a>>,
}

#[derive(Serialize)]
struct JsonHost<'a> {
    name: &'a str,
    /// Whether it is known to have applied the generation.
    known: bool,
    /// Whether its own state says so.
    by_itself: bool,
    /// The host that has heard it last under the generation, and when at the earliest.
    heard_by: Option<&'a str>,
    heard: Option<String>,
}

#[derive(Serialize)]
struct JsonDoubt<'a> {
    code: &'static str,
    host: &'a str,
    text: String,
}

#[derive(Serialize)]
struct JsonEvidence<'a> {
    host: &'a str,
    /// The file; null for the kernel.
    file: Option<&'a str>,
    taken: String,
    /// Why it does not count; null if it does.
    not_counted: Option<String>,
}

/// The shape of `settled --format json`.
pub fn settled_json(view: &SettledView<'_>) -> impl Serialize {
    let (question, settlement) = (view.question, view.settlement);
    JsonSettled {
        format_version: FORMAT_VERSION,
        mesh: question.config.mesh.as_str(),
        now: question.now.rfc3339(),
        generation: question.moment.generation.get(),
        settled: view.is_settled(),
        quiet: question.quiet.as_secs(),
        hosts: settlement.hosts.iter().map(host).collect(),
        doubts: settlement.doubts.iter().map(|doubt| of_doubt(view, doubt)).collect(),
        evidence: settlement.evidence.iter().map(|of_host| evidence(view, of_host)).collect(),
    }
}

fn host(known: &Known) -> JsonHost<'_> {
    JsonHost {
        name: known.host.as_str(),
        known: known.is_known(),
        by_itself: known.by_itself,
        heard_by: known.heard.as_ref().map(|(by, _)| by.as_str()),
        heard: known.heard.as_ref().map(|(_, last)| Time::rfc3339(*last)),
    }
}

fn of_doubt<'a>(view: &SettledView<'_>, doubt: &'a Doubt) -> JsonDoubt<'a> {
    JsonDoubt { code: code(&doubt.kind), host: doubt.host.as_str(), text: text(view, doubt) }
}

fn evidence<'a>(view: &SettledView<'_>, of_host: &'a EvidenceOfHost<'_>) -> JsonEvidence<'a> {
    JsonEvidence {
        host: of_host.host.name.as_str(),
        file: of_host.source.as_deref(),
        taken: of_host.taken.rfc3339(),
        not_counted: of_host.not_counted.as_ref().map(|why| not_counted(view, why)),
    }
}
