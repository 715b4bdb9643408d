//! `status --mesh NAME --format json`, and with `--reqid`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonCoded, warnings};
use crate::{
    model::{Selector, Time},
    plan::Flow,
    render::status::{NamedPeer, NamedSa, NamedStatusView},
};

#[derive(Serialize)]
struct JsonNamedStatus<'a> {
    format_version: &'static str,
    /// Null where only a reqid is known.
    mesh: Option<String>,
    reqid: String,
    now: String,
    guards: usize,
    chains: usize,
    hosts: Vec<JsonHost>,
    counters: &'a BTreeMap<String, u64>,
    warnings: Vec<JsonCoded>,
}

#[derive(Serialize)]
struct JsonHost {
    address: IpAddr,
    packets: Vec<JsonPackets>,
    sas: Vec<JsonSa>,
}

#[derive(Serialize)]
struct JsonPackets {
    selector: String,
    traffic: &'static str,
}

#[derive(Serialize)]
struct JsonSa {
    spi: String,
    src: IpAddr,
    dst: IpAddr,
    direction: Option<String>,
    /// The generation in the SPI, and the number that it is modulo.
    generation_low: u8,
    generation_cycle: u8,
    from: u16,
    to: u16,
    packets: u64,
    bytes: u64,
    added: String,
    last_used: Option<String>,
    too_old: u32,
    replayed: u32,
    forged: u32,
}

/// What the kernel tells of a mesh without its file, in the shape of its JSON.
pub fn named_status_json(view: &NamedStatusView<'_>) -> impl Serialize {
    let (guards, chains) = view.guards();
    let mut sas = view.sas();
    let mut host = |peer: &NamedPeer| host(peer, &sas.remove(&peer.address).unwrap_or_default());
    JsonNamedStatus {
        format_version: FORMAT_VERSION,
        mesh: view.mesh.name.as_ref().map(ToString::to_string),
        reqid: view.mesh.reqid.to_string(),
        now: view.now.rfc3339(),
        guards,
        chains,
        hosts: view.peers.iter().map(&mut host).collect(),
        counters: view.counters,
        warnings: warnings(view.warnings),
    }
}

fn host(peer: &NamedPeer, sas: &[NamedSa<'_>]) -> JsonHost {
    let packets = |(selector, flow): &(Selector, Flow)| JsonPackets {
        selector: selector.to_string(),
        traffic: flow.word(),
    };
    JsonHost {
        address: peer.address,
        packets: peer.packets.iter().map(packets).collect(),
        sas: sas.iter().map(sa).collect(),
    }
}

fn sa(found: &NamedSa<'_>) -> JsonSa {
    let NamedSa { sa, direction, generation: (generation_low, generation_cycle), usage } = *found;
    JsonSa {
        spi: sa.id.spi.to_string(),
        src: sa.src,
        dst: sa.id.dst,
        direction: direction.map(|direction| direction.to_string()),
        generation_low,
        generation_cycle,
        from: sa.id.spi.from().get(),
        to: sa.id.spi.to().get(),
        packets: usage.packets,
        bytes: usage.bytes,
        added: usage.added.rfc3339(),
        last_used: usage.last.map(Time::rfc3339),
        too_old: usage.too_old,
        replayed: usage.replayed,
        forged: usage.forged,
    }
}
