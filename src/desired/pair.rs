//! The objects that a host has with one other: SAs, policies, exceptions.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{Desired, Keyring, Marking, Mesh, WantedPolicy, WantedSa, networks, passages};
use crate::{
    config::{Config, Peer, Traffic},
    keys::Session,
    model::{
        Direction, IPPROTO_UDP, KeyView, Level, Mode, Offload, Policy, PolicyId, Prefix, Replay,
        Sa, SaId, Selector, Spi, Start, Template,
    },
};

/// Adds all that the local peer has with another. They are a pair, and share a secret unless no
/// secrets are at hand or a ratchet gives each generation its own.
pub(super) fn add(
    wanted: &mut Desired,
    keyring: &mut Keyring,
    mesh: &Mesh<'_>,
    (peer, session): (&Peer, Option<&Session>),
) {
    let Mesh { config, local, .. } = *mesh;
    wanted.peers.insert(peer.reached_at(), peer.name.clone());
    let stage = config.stage_between(local, peer);
    if !stage.enforces() {
        wanted.stages.insert(peer.name.clone(), stage);
    }
    add_sas(wanted, keyring, mesh, (peer, session));
    match config.traffic {
        Traffic::Networks => networks::add_policies(wanted, mesh, peer),
        Traffic::All | Traffic::Vxlan { .. } | Traffic::Geneve { .. } | Traffic::Port { .. } => {
            add_policies(wanted, mesh, peer);
        }
    }
    passages::add_exceptions(wanted, mesh, peer);
    // Kinds "all" and "networks" cover errors like everything else.
    let covers_errors = matches!(config.traffic, Traffic::All | Traffic::Networks);
    if !covers_errors && stage.sends() {
        add_icmp_errors(wanted, mesh, peer);
    }
}

/// SAs inbound for the generation before, this one and the next, and outbound for this one: so hosts
/// may move to the next in any order. At the first stage there is none outbound.
///
/// Where generations follow the clock, an outbound SA ends when the peers retire it, so that a host
/// on which nothing applies any more falls silent and not deaf.
fn add_sas(
    wanted: &mut Desired,
    keyring: &mut Keyring,
    mesh: &Mesh<'_>,
    (peer, session): (&Peer, Option<&Session>),
) {
    let Mesh { config, moment, local, links, .. } = *mesh;
    let sends = config.stage_between(local, peer).sends();
    if moment.clock.is_some() && sends {
        let next = Spi::new(moment.generation.next(), local.short_id, peer.short_id);
        wanted.kept.insert(SaId::esp(peer.reached_at(), next));
    }
    let now = moment.generation;
    let ends = mesh
        .received()
        .map(|generation| (Direction::In, generation, peer, local))
        .chain(sends.then_some((Direction::Out, now, local, peer)));
    let (near, far) = (local.address, peer.reached_at());
    let is_tunnel = config.traffic == Traffic::Networks;
    for (direction, generation, from, to) in ends {
        let (src, dst) = match direction {
            Direction::Out => (near, far),
            Direction::In | Direction::Fwd => (far, near),
        };
        let id = SaId::esp(dst, Spi::new(generation, from.short_id, to.short_id));
        let clock = moment.clock.filter(|_| direction == Direction::Out);
        let period = clock.map(|clock| clock.period);
        let start = period.map_or(Start::Fresh, |period| Start::Seed { generation, period });
        let of_link = links
            .get(&generation)
            .map(|link| Session::from_ratchet(link, from.short_id, to.short_id));
        let key = of_link.as_ref().or(session).map(|session| {
            session.keymat(from.short_id, to.short_id, generation, config.esp.cipher)
        });
        let encap = config.esp.encap_at(generation);
        let outbound = encap.filter(|_| direction == Direction::Out);
        let keepalive = outbound.and_then(|encap| encap.keepalive);
        let window = if keepalive.is_some() { 0 } else { config.esp.replay.window };
        let sa = Sa {
            id,
            src,
            reqid: config.reqid,
            mode: if is_tunnel { Mode::Tunnel } else { Mode::Transport },
            selector: (!is_tunnel).then(|| Selector::hosts(src, dst)),
            algorithm: config.esp.cipher.algorithm(),
            key: key.as_ref().map_or(KeyView::NotChecked, |key| KeyView::Known(key.fingerprint())),
            replay: Replay { window, ..config.esp.replay },
            ends: period.map(|period| period.retired(generation)),
            offload: config
                .esp
                .offload
                .clone()
                .map(|device| Offload { device, inbound: direction == Direction::In }),
            encap: encap.map(|encap| passages::ports(encap.port, peer, direction)),
            keepalive,
            if_id: if is_tunnel { config.reqid.0 } else { 0 },
            extras: BTreeSet::new(),
        };
        let peer = peer.name.clone();
        wanted.sas.insert(id, WantedSa { sa, peer, direction, generation, start });
        if let Some(key) = key {
            keyring.0.insert(id, Arc::new(key));
        }
    }
}

/// The out template pins the SPI, which switches a pair to a generation; the in template takes any
/// SA of the mesh, since the SA's own selector ties its key to the two addresses.
///
/// The kernel asks policies fwd instead of in about packets that a rule of destination NAT sends on
/// to a container, with the addresses that they arrived with. So each policy in has a twin there,
/// or else clear text under a peer's address would pass.
///
/// Before the last stage, policies in and fwd take encrypted packets and others (`level use`).
fn add_policies(wanted: &mut Desired, mesh: &Mesh<'_>, peer: &Peer) {
    let Mesh { config, moment, local, .. } = *mesh;
    let out_spi = Spi::new(moment.generation, local.short_id, peer.short_id);
    let any_spi = Spi::from_raw(0);
    let stage = config.stage_between(local, peer);
    let level = if stage.enforces() { Level::Required } else { Level::Use };
    let (near, far) = (local.address, peer.reached_at());
    let out = (Direction::Out, near, far, out_spi, Level::Required);
    let ends =
        [(Direction::In, far, near, any_spi, level), (Direction::Fwd, far, near, any_spi, level)];
    let out = stage.sends().then_some(out);
    for (direction, src, dst, spi, level) in out.into_iter().chain(ends) {
        for id in policy_ids(config, direction, src, dst) {
            let template = Template::transport(src, dst, spi, config.reqid);
            let policy = Policy::of_peer(id, Template { level, ..template });
            wanted.policies.insert(id, WantedPolicy { policy, peer: peer.name.clone() });
        }
    }
}

/// An ICMP error quotes the packet that it is about. Where that one came encrypted, an unencrypted
/// error would show its contents.
fn add_icmp_errors(wanted: &mut Desired, mesh: &Mesh<'_>, peer: &Peer) {
    let Mesh { config, moment, local, .. } = *mesh;
    let (src, dst) = (local.address, peer.reached_at());
    let spi = Spi::new(moment.generation, local.short_id, peer.short_id);
    for selector in Selector::icmp_errors(src, dst, config.reqid) {
        let id = PolicyId::new(Direction::Out, selector);
        let policy = Policy::of_peer(id, Template::transport(src, dst, spi, config.reqid));
        wanted.policies.insert(id, WantedPolicy { policy, peer: peer.name.clone() });
    }
}

/// Policies out that are selected by a mark are for any UDP of that mark: a kernel that needs the
/// mark has no ports in the flow. Packets that arrive are told by their port.
fn policy_ids(config: &Config, direction: Direction, src: IpAddr, dst: IpAddr) -> Vec<PolicyId> {
    if let (Direction::Out, Some(Marking { mark, .. })) = (direction, Marking::of(config)) {
        let selector = Selector { proto: IPPROTO_UDP, ..Selector::hosts(src, dst) };
        return vec![PolicyId { mark, ..PolicyId::new(direction, selector) }];
    }
    let selectors = config.traffic.selectors(Prefix::host(src), Prefix::host(dst));
    selectors.into_iter().map(|selector| PolicyId::new(direction, selector)).collect()
}
