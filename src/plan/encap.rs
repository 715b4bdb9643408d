//! What keeps ESP in UDP from coming in: no socket, or a foreign policy.
//!
//! Outbound needs nothing but the SA. What is lost here is lost, and never in the clear.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    keepalive,
    warn::{capped, names},
};
use crate::{
    desired::{Desired, EncapPort, Goal},
    model::{
        Answers, Direction, EncapSocket, IPPROTO_UDP, Live, PEER_PRIORITY, Passage, PeerName,
        Policy, Reqid, Selector, Warning, WarningCode,
    },
};

/// Warns where ESP that peers send in UDP is lost, or may be.
pub(super) fn warnings(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let Some(encap) = desired.encap.filter(|_| desired.goal == Goal::Mesh) else {
        return Vec::new();
    };
    if desired.peers.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let is_ipv6 = desired.local.is_some_and(|local| local.is_ipv6());
    lines.extend(without_socket(encap, socket(encap, live), is_ipv6));
    lines.extend(keepalive::warning(desired, live, reqid));
    if let Some(local) = desired.local {
        lines.extend(refused(desired, live, reqid, (local, encap.port)));
    }
    lines
}

/// The socket of the wanted port, as far as it is known.
pub fn socket(encap: EncapPort, live: &Live) -> EncapSocket {
    let unknown = EncapSocket { port: encap.port, answers: Answers::Unknown, is_bound: false };
    live.0.encap.filter(|socket| socket.port == encap.port).unwrap_or(unknown)
}

fn without_socket(encap: EncapPort, socket: EncapSocket, is_ipv6: bool) -> Option<Warning> {
    let EncapPort { port, from, is_used, without_keepalives: _ } = encap;
    let begins = if is_used { String::new() } else { format!("from generation {from} on, ") };
    let template = if is_ipv6 { "meshsec-encap6" } else { "meshsec-encap" };
    let unit = format!("systemctl enable --now {template}@{port}.socket");
    let lost = format!("{begins}ESP that peers send to UDP port {port} is lost");
    let (code, text) = match (socket.answers, socket.is_bound) {
        (Answers::Yes, _) => return None,
        (Answers::No, false) => (
            WarningCode::EncapSocketMissing,
            format!(
                "{lost}, as no socket of this host takes it: {unit}, as ESP IN UDP in meshsec-traffic(7) shows"
            ),
        ),
        (Answers::No, true) => (
            WarningCode::EncapSocketMissing,
            format!(
                "{lost}: a socket has that port, but ESP does not get from it to the kernel's IPsec; \
                 ss -ulpn 'sport = :{port}' tells the program: stop it, or give [esp] encap another \
                 port; if it is systemd, start meshsec-encap@{port}.service; if it takes ESP, does a \
                 firewall drop UDP from lo?"
            ),
        ),
        (Answers::Unknown, true) => (
            WarningCode::EncapSocketUnknown,
            format!(
                "a socket has UDP port {port}, but whether it takes ESP is not known: the kernel does \
                 not tell before it has loaded ESP, nor while it refuses packets of others, and a \
                 sandbox may forbid to ask; plan again after apply; {begins}without such a socket what \
                 peers send is lost"
            ),
        ),
        (Answers::Unknown, false) => (
            WarningCode::EncapSocketUnknown,
            format!(
                "whether a socket of this host takes ESP out of UDP port {port} is not known; \
                 {begins}without one what peers send is lost"
            ),
        ),
    };
    Some(Warning::new(code, text))
}

/// Foreign policies that ask the datagrams themselves for an SA, or block them: the kernel asks
/// policies about a datagram before it takes the ESP out of it.
fn refused(
    desired: &Desired,
    live: &Live,
    reqid: Reqid,
    (local, port): (IpAddr, u16),
) -> Vec<Warning> {
    // A policy of the mesh lets them in, ahead of its own.
    let mut passages = desired.passages.values();
    let lets_in = passages.any(|policy| policy.passage() == Some(Passage::Encap));
    let is_behind = |policy: &Policy| lets_in && policy.priority >= PEER_PRIORITY;
    let foreign = live.0.policies.iter().filter(|policy| {
        let is_asked = policy.id.direction == Direction::In && policy.id.if_id == 0;
        is_asked && policy.refuses() && !policy.belongs_to(reqid) && !is_behind(policy)
    });
    let mut lines = Vec::new();
    for policy in foreign {
        let meets = |from: &IpAddr| {
            let datagrams = Selector::hosts(*from, local).to_port(IPPROTO_UDP, port);
            datagrams.overlaps(&policy.id.selector)
        };
        let peers = desired.peers.iter().filter(|(from, _)| meets(from));
        let peers: BTreeSet<&PeerName> = peers.map(|(_, name)| name).collect();
        if !peers.is_empty() {
            let text = format!(
                "the foreign policy {} priority {} refuses the UDP datagrams that hold ESP from {}: \
                 they are lost; delete it, or let UDP to port {port} in ahead of it",
                policy.id,
                policy.priority,
                names(&peers)
            );
            lines.push(Warning::new(WarningCode::EncapRefused, text));
        }
    }
    capped(lines, WarningCode::EncapRefused)
}
