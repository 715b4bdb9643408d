//! `compare --format json`, of two hosts and of a rollout.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonCoded, warnings};
use crate::{
    compare::{Cut, Seen, Way},
    render::{CompareView, RolloutView},
};

#[derive(Serialize)]
struct JsonCompare {
    format_version: &'static str,
    mesh: String,
    generation: u64,
    near: JsonSeen,
    far: JsonSeen,
    ways: Vec<JsonWay>,
    findings: Vec<JsonFinding>,
}

#[derive(Serialize)]
struct JsonSeen {
    peer: String,
    /// Seconds since 1970.
    taken: u64,
}

#[derive(Serialize)]
struct JsonWay {
    from: String,
    to: String,
    arrives: bool,
    fate: &'static str,
    spi: Option<String>,
    text: String,
}

#[derive(Serialize)]
struct JsonFinding {
    code: &'static str,
    near: String,
    far: String,
}

#[derive(Serialize)]
struct JsonRollout {
    format_version: &'static str,
    mesh: String,
    generation: u64,
    hosts: usize,
    missing: Vec<String>,
    ignored_files: usize,
    pairs: usize,
    losses: Vec<JsonLoss>,
    /// Null where each order cuts some pair.
    order: Option<Vec<String>>,
    any_order: bool,
    warnings: Vec<JsonCoded>,
}

#[derive(Serialize)]
struct JsonLoss {
    at: &'static str,
    from: String,
    to: String,
    fate: &'static str,
    spi: Option<String>,
    text: String,
}

/// Two hosts in the shape of their JSON.
pub fn compare_json(view: &CompareView<'_>) -> impl Serialize + use<> {
    let findings = view.findings.iter().map(|finding| JsonFinding {
        code: finding.code.word(),
        near: finding.near.clone(),
        far: finding.far.clone(),
    });
    JsonCompare {
        format_version: FORMAT_VERSION,
        mesh: view.config.mesh.to_string(),
        generation: view.moment.generation.get(),
        near: seen(view.near),
        far: seen(view.far),
        ways: view.ways.iter().map(way).collect(),
        findings: findings.collect(),
    }
}

fn seen(Seen { peer, taken, .. }: Seen<'_>) -> JsonSeen {
    JsonSeen { peer: peer.name.to_string(), taken: taken.seconds() }
}

fn way(Way { from, to, fate }: &Way) -> JsonWay {
    JsonWay {
        from: from.to_string(),
        to: to.to_string(),
        arrives: fate.arrives(),
        fate: fate.word(),
        spi: fate.spi().map(|spi| spi.to_string()),
        text: fate.to_string(),
    }
}

/// A rollout in the shape of its JSON.
pub fn rollout_json(view: &RolloutView<'_>) -> impl Serialize + use<> {
    let rollout = &view.rollout;
    let order = rollout.order.as_ref();
    JsonRollout {
        format_version: FORMAT_VERSION,
        mesh: view.config.mesh.to_string(),
        generation: view.moment.generation.get(),
        hosts: view.hosts,
        missing: view.missing.iter().map(ToString::to_string).collect(),
        ignored_files: view.ignored,
        pairs: rollout.pairs,
        losses: rollout.cuts.iter().map(loss).collect(),
        order: order.map(|order| order.iter().map(ToString::to_string).collect()),
        any_order: rollout.any_order,
        warnings: warnings(view.warnings),
    }
}

fn loss(Cut { at, way }: &Cut) -> JsonLoss {
    JsonLoss {
        at: at.word(),
        from: way.from.to_string(),
        to: way.to.to_string(),
        fate: way.fate.word(),
        spi: way.fate.spi().map(|spi| spi.to_string()),
        text: way.fate.to_string(),
    }
}
