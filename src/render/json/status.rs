//! `status --format json`; one line for each look with `--watch`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonClock, JsonCoded, JsonLack, lacks, warnings};
use crate::{
    model::Time,
    plan::Flow,
    render::StatusView,
    verdict::{PeerState, Reason, Refused, SaEvidence, Verdict},
};

#[derive(Serialize)]
struct JsonStatus<'a> {
    format_version: &'static str,
    mesh: &'a str,
    local: &'a str,
    now: String,
    generation: u64,
    kernel_generations: Vec<u64>,
    clock: Option<JsonClock>,
    /// Null where the mesh has plain ESP alone.
    encap: Option<JsonEncap>,
    peers: Vec<JsonPeer<'a>>,
    other_sas: Vec<JsonSa>,
    sas_not_wanted: usize,
    /// The number of SAs of the mesh with keys that the kernel hides.
    hidden_keys: usize,
    totals: BTreeMap<&'static str, usize>,
    counters: &'a BTreeMap<String, u64>,
    changes: usize,
    held: usize,
    conflicts: usize,
    second_guard_missing: Vec<JsonLack>,
    warnings: Vec<JsonCoded>,
    exit: JsonExit,
}

#[derive(Serialize)]
struct JsonPeer<'a> {
    name: &'a str,
    address: IpAddr,
    /// The stage that the file wants for the pair: `receive`, `send` or `enforce`.
    stage: &'static str,
    verdict: &'static str,
    /// `encrypted`, `blocked` or `clear`.
    traffic: &'static str,
    /// The packets of which `traffic` is true, where the fate of others is better.
    only: Vec<String>,
    /// The fate of all other packets.
    rest: Option<&'static str>,
    no_way: Option<&'a str>,
    incoming: &'static str,
    last_sent: Option<String>,
    last_heard: Option<String>,
    unheard_since: Option<String>,
    sends_generation: Option<u64>,
    heard_generation: Option<u64>,
    refused: JsonRefused,
    changes: usize,
    sas: Vec<JsonSa>,
}

#[derive(Serialize)]
struct JsonRefused {
    too_old: u64,
    replayed: u64,
    forged: u64,
}

#[derive(Serialize)]
struct JsonSa {
    spi: String,
    /// The far end's address: the destination of packets.
    dst: IpAddr,
    direction: Option<String>,
    generation: u64,
    wanted: bool,
    packets: u64,
    bytes: u64,
    /// The sequence number sent or received last.
    number: u64,
    /// The part of its 2^32 numbers that an SA without ESN has used.
    used_percent: Option<u64>,
    added: String,
    first_used: Option<String>,
    last_used: Option<String>,
    too_old: u32,
    replayed: u32,
    forged: u32,
}

#[derive(Serialize)]
struct JsonEncap {
    port: u16,
    /// The first generation in UDP.
    from: u64,
    /// Whether a socket takes ESP out of UDP: `yes`, `no` or `unknown`.
    answers: &'static str,
    /// Whether a socket has the port.
    bound: bool,
}

#[derive(Serialize)]
struct JsonExit {
    status: u8,
    reasons: Vec<JsonCoded>,
}

/// The shape of `status --format json`.
pub fn status_json(view: &StatusView<'_>) -> impl Serialize {
    let (case, judged) = (&view.case, view.judged);
    JsonStatus {
        format_version: FORMAT_VERSION,
        mesh: case.config.mesh.as_str(),
        local: case.local.name.as_str(),
        now: case.now.rfc3339(),
        generation: case.moment.generation.get(),
        kernel_generations: judged.generations().iter().map(|it| it.get()).collect(),
        clock: JsonClock::of(case.moment),
        encap: case.encap().map(|encap| JsonEncap {
            port: encap.port,
            from: encap.from.get(),
            answers: encap.socket.answers.word(),
            bound: encap.socket.is_bound,
        }),
        peers: judged.peers.iter().map(peer).collect(),
        other_sas: judged.others.iter().map(sa).collect(),
        sas_not_wanted: judged.unwanted(),
        hidden_keys: case.live.0.hidden_keys(case.config.reqid),
        totals: Verdict::ALL.map(|verdict| (verdict.word(), judged.count(verdict))).into(),
        counters: view.counters,
        changes: case.plan.changes.len(),
        held: case.plan.held,
        conflicts: case.plan.conflicts.len(),
        second_guard_missing: lacks(case.plan),
        warnings: warnings(view.all_warnings()),
        exit: exit(&judged.reasons),
    }
}

fn peer(peer: &PeerState) -> JsonPeer<'_> {
    let Refused { too_old, replayed, forged } = peer.refused;
    JsonPeer {
        name: peer.name.as_str(),
        address: peer.address,
        stage: peer.stage.name(),
        verdict: peer.verdict.word(),
        traffic: peer.flow.word(),
        only: peer.only.iter().map(ToString::to_string).collect(),
        rest: peer.rest.map(Flow::word),
        no_way: peer.no_way.as_deref(),
        incoming: peer.came.word(),
        last_sent: peer.sent.map(Time::rfc3339),
        last_heard: peer.heard.map(Time::rfc3339),
        unheard_since: peer.unheard_since.map(Time::rfc3339),
        sends_generation: peer.sends.map(|generation| generation.get()),
        heard_generation: peer.hears.map(|generation| generation.get()),
        refused: JsonRefused { too_old, replayed, forged },
        changes: peer.changes,
        sas: peer.sas.iter().map(sa).collect(),
    }
}

fn sa(sa: &SaEvidence) -> JsonSa {
    let usage = &sa.usage;
    JsonSa {
        spi: sa.id.spi.to_string(),
        dst: sa.id.dst,
        direction: sa.direction.map(|direction| direction.to_string()),
        generation: sa.generation.get(),
        wanted: sa.wanted,
        packets: usage.packets,
        bytes: usage.bytes,
        number: sa.number(),
        used_percent: sa.used_percent(),
        added: usage.added.rfc3339(),
        first_used: usage.used.map(Time::rfc3339),
        last_used: sa.usage.last.map(Time::rfc3339),
        too_old: usage.too_old,
        replayed: usage.replayed,
        forged: usage.forged,
    }
}

fn exit(reasons: &[Reason]) -> JsonExit {
    let reason = |reason: &Reason| JsonCoded { code: reason.code(), text: reason.to_string() };
    JsonExit {
        status: if reasons.is_empty() { 0 } else { 2 },
        reasons: reasons.iter().map(reason).collect(),
    }
}
