//! Guards, exceptions, and the ports of ESP in UDP.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Desired, Mesh};
use crate::{
    config::{Exception, Peer, Traffic},
    model::{Direction, Encap, Policy, PolicyId, Prefix, Reqid, Selector, icmp_echo},
};

/// The ports of an SA in UDP. A port forward before the other host may have a port of its own.
pub(super) fn ports(port: u16, peer: &Peer, direction: Direction) -> Encap {
    let far = peer.outside.map_or(port, |outside| outside.port());
    match direction {
        Direction::Out => Encap { sport: port, dport: far },
        Direction::In | Direction::Fwd => Encap { sport: far, dport: port },
    }
}

/// Lets exceptions pass between two hosts. Whoever offers the service gets packets to its port, and
/// sends them from there; the other end the reverse. What destination NAT sends on is asked about as
/// fwd.
pub(super) fn add_exceptions(wanted: &mut Desired, mesh: &Mesh<'_>, peer: &Peer) {
    let Mesh { config, local, .. } = *mesh;
    let [near, far] = [local.address, peer.reached_at()];
    let (out, back) = (Selector::hosts(near, far), Selector::hosts(far, near));
    let mut pass = |words: String, is_server: bool, sent: Selector, received: Selector| {
        let directions =
            [(Direction::Out, sent), (Direction::In, received), (Direction::Fwd, received)];
        for (direction, selector) in directions {
            let policy = Policy::passing(config.reqid, direction, selector);
            wanted.passages.insert(policy.id, policy);
        }
        let excepted = wanted.exceptions.entry(words).or_default();
        excepted.peers.insert(peer.name.clone());
        excepted.servers.extend(is_server.then(|| peer.name.clone()));
    };
    for exception in &config.exceptions {
        match exception {
            Exception::Port { protocol, port, serves } => {
                let (number, port) = (protocol.number(), *port);
                let words = || format!("{} port {port}", protocol.name());
                let offers = |host: &Peer| serves.iter().any(|members| members.has(host));
                if offers(local) {
                    let (sent, received) =
                        (out.from_port(number, port), back.to_port(number, port));
                    pass(words(), false, sent, received);
                }
                if offers(peer) {
                    let (sent, received) =
                        (out.to_port(number, port), back.from_port(number, port));
                    pass(words(), true, sent, received);
                }
            }
            Exception::Echo => {
                for (proto, kind) in icmp_echo(near) {
                    let (sent, received) =
                        (out.from_port(proto, kind), back.from_port(proto, kind));
                    pass("ICMP echo".into(), false, sent, received);
                }
            }
        }
    }
}

/// Block policies for the kind's traffic, any address, both families and
/// directions. Their priority is the reqid: a large number, so they rank last.
pub(super) fn guards(traffic: Traffic, reqid: Reqid) -> BTreeMap<PolicyId, Policy> {
    let families = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let mut guards = BTreeMap::new();
    for any in families.map(Prefix::any) {
        for selector in traffic.selectors(any, any) {
            for direction in [Direction::In, Direction::Out] {
                let id = PolicyId::new(direction, selector);
                guards.insert(id, Policy::guard(reqid, id));
            }
        }
    }
    guards
}
