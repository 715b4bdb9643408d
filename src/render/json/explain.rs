//! `explain --format json`.

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::{
    plan::{Part, Verdict},
    render::ExplainView,
};

#[derive(Serialize)]
struct JsonExplain {
    format_version: &'static str,
    mesh: String,
    local: Option<String>,
    packet: String,
    direction: String,
    state: String,
    parts: Vec<JsonPart>,
    /// All that the state leaves open, the worst last.
    verdicts: Vec<JsonVerdict>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct JsonPart {
    kind: &'static str,
    found: String,
    missed: Vec<JsonMissed>,
    more_missed: usize,
}

#[derive(Serialize)]
struct JsonMissed {
    object: String,
    reason: String,
}

#[derive(Serialize)]
struct JsonVerdict {
    verdict: &'static str,
    spi: Option<String>,
}

/// The way of a packet in the shape of its JSON.
pub fn explain_json(view: &ExplainView<'_>) -> impl Serialize + use<> {
    JsonExplain {
        format_version: FORMAT_VERSION,
        mesh: view.mesh.to_string(),
        local: view.local.map(|peer| peer.name.to_string()),
        packet: view.packet.to_string(),
        direction: view.direction.to_string(),
        state: view.state.clone(),
        parts: view.trace.parts.iter().map(part).collect(),
        verdicts: view.trace.verdicts.iter().map(verdict).collect(),
        notes: view.trace.notes.clone(),
    }
}

fn part(part: &Part) -> JsonPart {
    let missed = part
        .missed
        .iter()
        .map(|(object, reason)| JsonMissed { object: object.clone(), reason: reason.clone() });
    JsonPart {
        kind: part.kind,
        found: part.found.clone(),
        missed: missed.collect(),
        more_missed: part.more,
    }
}

fn verdict(verdict: &Verdict) -> JsonVerdict {
    JsonVerdict { verdict: verdict.word(), spi: verdict.spi().map(|spi| spi.to_string()) }
}
