//! The kernel's treatment of one packet: a model for tests, apart from the program's own.
//!
//! It uses the plain data of `meshsec::model` and none of its decisions. All
//! matching is written out here again, from the kernel's source, so that a mistake in the program
//! is not a mistake in its judge: `xfrm_lookup_with_ifid`, `xfrm_policy_match`,
//! `xfrm_tmpl_resolve_one` and `xfrm_state_find` for packets that leave, `__xfrm_state_lookup` and
//! `__xfrm_policy_check` for packets that arrive, and `ip_route_me_harder` and `xt_policy` for the
//! chains.
//!
//! Where a state leaves something open (which of two policies of one priority
//! is older, whether a packet gets past somebody's rule to a chain) the answer is
//! all that can become of the packet.
#![allow(dead_code, reason = "every test uses a part of it")]

pub mod bypasses;
mod chains;
pub mod delivery;

use std::{collections::BTreeSet, net::IpAddr};

use meshsec::model::{
    Action, Algorithm, Direction, Encap, Family, Level, Mark, Mode, Policy, PortMatch, Prefix,
    Reqid, Sa, Selector, Spi, State, Template,
};

use bypasses::{arrives_past_policies, leaves_past_policies, route};
pub use chains::marks;
use chains::{chains_behind_the_route, passes_chains, reqids, verdict, verdict_of};

const ESP: u8 = 50;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A packet of two addresses and a protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub mark: u32,
}

/// The fate of a packet that leaves, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It leaves inside ESP, under this SPI.
    Protected(Spi),
    /// It does not leave.
    Dropped,
    /// Its content can be read on the way.
    Leaks,
}

impl Packet {
    pub fn udp(src: IpAddr, dst: IpAddr, dport: u16) -> Self {
        Self { src, dst, proto: UDP, sport: 49_152, dport, mark: 0 }
    }

    pub fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    /// The same on the way from the other end.
    pub fn answer(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }

    /// As the program writes packets.
    pub fn selector(&self) -> Selector {
        let ports = |port| PortMatch { port, mask: 0xffff };
        let hosts = Selector::hosts(self.src, self.dst);
        Selector { proto: self.proto, sport: ports(self.sport), dport: ports(self.dport), ..hosts }
    }

    fn family(&self) -> Family {
        if self.src.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// All that can become of a packet that leaves.
///
/// The route is looked up with the mark that the packet has. The mangle table
/// sees the SAs that come of it, and may drop or mark the packet; marked anew, it
/// is looked up again, and the filter table sees the result. A packet that has waited in a VRF goes
/// through the tables behind that (`vrf_ip_local_out`), and there is its first look-up.
pub fn leaves(state: &State, packet: &Packet) -> BTreeSet<Fate> {
    let mut fates = BTreeSet::new();
    for first in look_up(state, &as_looked_up(state, packet)) {
        let Some(first) = first else {
            fates.insert(Fate::Dropped);
            continue;
        };
        let mangle = verdict(state, "mangle", packet, Direction::Out, &reqids(&first));
        if mangle.drops {
            fates.insert(Fate::Dropped);
        }
        if !mangle.passes {
            continue;
        }
        for mark in marks(state, packet) {
            let sent = match mark == packet.mark {
                true => vec![Some(first.clone())],
                false => look_up(state, &packet.marked(mark)),
            };
            fates.extend(sent.into_iter().flat_map(|sas| fate(state, packet, sas)));
        }
    }
    fates
}

/// Whether a packet may leave in the clear.
pub fn leaks(state: &State, packet: &Packet) -> bool {
    leaves(state, packet).contains(&Fate::Leaks)
}

/// Whether a packet leaves inside ESP, in every case that the state leaves open.
pub fn is_protected(state: &State, packet: &Packet) -> bool {
    leaves(state, packet).iter().all(|fate| matches!(fate, Fate::Protected(_)))
}

/// Whether a packet that arrives as it is may be taken.
pub fn arrives_in_clear(state: &State, packet: &Packet) -> bool {
    passes_chains(state, packet, &[]) && bypasses_policies(state, packet, Direction::In, None)
}

/// Whether a packet that arrives as it is may be sent on, as destination NAT does with it: the
/// kernel turns that back for the look-up, so policies see the packet as it came. Chains of the
/// filter table for incoming packets don't see it at all.
pub fn is_forwarded_in_clear(state: &State, packet: &Packet) -> bool {
    bypasses_policies(state, packet, Direction::Fwd, None)
}

/// Whether a packet that arrives inside ESP, under an SPI and from somebody with its key, may be
/// taken. Nobody looks at the addresses of the outside. It comes in UDP if the SA wants that.
pub fn arrives_under(state: &State, packet: &Packet, spi: Spi) -> bool {
    arrives_in(state, packet, spi, |sa| sa.encap)
}

/// The same of a packet that was sent in UDP, or as plain ESP.
pub fn arrives_as_sent(state: &State, packet: &Packet, spi: Spi, sent: Option<Encap>) -> bool {
    arrives_in(state, packet, spi, |_| sent)
}

/// `xfrm_input` refuses the form that the SA does not have. Policies are asked about a datagram
/// before the ESP is taken out of it, at a socket of the very port (`udp_queue_rcv_one_skb`).
fn arrives_in(
    state: &State,
    packet: &Packet,
    spi: Spi,
    form: impl Fn(&Sa) -> Option<Encap>,
) -> bool {
    let comes = |sa: &Sa| match (form(sa), sa.encap) {
        (None, None) => true,
        (Some(Encap { sport, dport }), Some(wanted)) => {
            let datagram = Packet { proto: UDP, sport, dport, mark: 0, ..*packet };
            dport == wanted.dport && arrives_in_clear(state, &datagram)
        }
        (None, Some(_)) | (Some(_), None) => false,
    };
    state.sas.iter().any(|sa| {
        (sa.id.dst, sa.id.proto, sa.id.spi) == (packet.dst, ESP, spi)
            && comes(sa)
            && packet.mark & sa.id.mark.mask == sa.id.mark.value
            && sa.algorithm != Algorithm::Larval
            && passes_chains(state, packet, &[sa.reqid])
            && bypasses_policies(state, packet, Direction::In, Some(sa))
    })
}

/// The ICMP errors by which a host answers a packet, to its sender from where it was sent to.
/// Types 3, 11 and 12, and of ICMPv6 1 to 4; in a flow they have the place of the source port.
pub fn errors_about(packet: &Packet) -> Vec<Packet> {
    let (proto, types) = match packet.src {
        IpAddr::V4(_) => (ICMP, [3, 3, 11, 12]),
        IpAddr::V6(_) => (ICMPV6, [1, 2, 3, 4]),
    };
    let error = |sport| Packet { proto, sport, dport: 1, mark: 0, ..packet.answer() };
    types.map(error).to_vec()
}

/// An error that quotes the content of a packet and leaves readable, where the packet came
/// encrypted under an SA of this reqid.
///
/// The kernel asks the filter table before the policies in, which rejects unknown packets. So every
/// decrypted packet may be quoted, also one that no policy takes. That destination NAT has sent it
/// on changes nothing: translation is turned back before the error is looked up.
pub fn shown_by_an_error(state: &State, packet: &Packet, reqid: Reqid) -> Option<Packet> {
    // The trial before the first step is of a peer to itself, and nobody has its key.
    let is_trial = |spi: u32| spi >> 12 & 0xfff == spi & 0xfff;
    let decrypted = state.sas.iter().any(|sa| {
        !is_trial(sa.id.spi.raw())
            && (sa.src, sa.id.dst, sa.id.proto, sa.reqid) == (packet.src, packet.dst, ESP, reqid)
            && packet.mark & sa.id.mark.mask == sa.id.mark.value
            && sa.algorithm != Algorithm::Larval
    });
    errors_about(packet).into_iter().find(|error| decrypted && leaks(state, error))
}

/// Whether a packet that an XFRM interface has decrypted for somebody else may be taken: only
/// policies of that interface are asked, and those are somebody else's too.
pub fn arrives_by_another_interface(state: &State, packet: &Packet, reqid: Reqid) -> bool {
    passes_chains(state, packet, &[reqid])
}

/// Whether a packet may be sent by a socket that policies are not asked about, or would be if
/// somebody flushed all policies.
pub fn leaves_if_no_policy_is_asked(state: &State, packet: &Packet) -> bool {
    let passes = |table| verdict(state, table, packet, Direction::Out, &[]).passes;
    passes("mangle") && passes("filter")
}

/// The SAs that a packet goes through, by all ways; `None` where it is dropped.
fn look_up<'s>(state: &'s State, packet: &Packet) -> Vec<Option<Vec<&'s Sa>>> {
    if leaves_past_policies(state, packet) {
        return vec![Some(Vec::new())];
    }
    let mut ways = Vec::new();
    for policies in policies(state, packet, Direction::Out) {
        if policies.iter().any(|policy| policy.action == Action::Block) {
            ways.push(None);
        } else {
            ways.extend(resolve(state, &policies, packet));
        }
    }
    ways
}

/// A packet as the last look-up before the tables sees it. One that waits in a VRF is looked up once
/// more as it leaves the VRF, without its ports, and over IPv4 without its mark
/// (`vrf_process_v4_outbound`). The look-up of `ip_route_me_harder` reads all of the packet.
fn as_looked_up(state: &State, packet: &Packet) -> Packet {
    let waits = |name: &String| {
        let mut links = state.links.iter().filter(|link| link.name == *name);
        links.any(|link| link.queue.is_some())
    };
    match route(state, packet).is_some_and(|route| route.vrfs.iter().any(waits)) {
        true => {
            let mark = if packet.src.is_ipv4() { 0 } else { packet.mark };
            Packet { sport: 0, dport: 0, mark, ..*packet }
        }
        false => *packet,
    }
}

/// The action on a packet: `Some` of no SA is that it goes as it is.
fn fate(state: &State, packet: &Packet, sas: Option<Vec<&Sa>>) -> Vec<Fate> {
    let Some(sas) = sas else { return vec![Fate::Dropped] };
    let sent = match sas.iter().rev().find(|sa| sa.id.proto == ESP) {
        Some(sa) => Fate::Protected(sa.id.spi),
        None => Fate::Leaks,
    };
    let out = Direction::Out;
    let filter = verdict(state, "filter", packet, out, &reqids(&sas));
    let behind = chains_behind_the_route(state, packet.family());
    let behind = verdict_of(state, behind, packet, out, &reqids(&sas));
    let dropped = (filter.drops || behind.drops).then_some(Fate::Dropped);
    (filter.passes && behind.passes).then_some(sent).into_iter().chain(dropped).collect()
}

/// The result of a packet's look-up: the best policy, in the table of sub policies and then in the
/// main one, by all ways that the state leaves open.
fn policies<'s>(state: &'s State, packet: &Packet, direction: Direction) -> Vec<Vec<&'s Policy>> {
    let of = |sub| {
        let best = best(state, packet, direction, sub);
        if best.is_empty() { vec![None] } else { best.into_iter().map(Some).collect() }
    };
    let mains: Vec<Option<&Policy>> = of(false);
    of(true)
        .into_iter()
        .flat_map(|sub| mains.iter().map(move |main| sub.into_iter().chain(*main).collect()))
        .collect()
}

/// The policies of the smallest priority number that match: the oldest wins.
fn best<'s>(state: &'s State, packet: &Packet, direction: Direction, sub: bool) -> Vec<&'s Policy> {
    let mut best: Vec<&Policy> = Vec::new();
    for policy in &state.policies {
        if policy.id.sub != sub || !is_asked(policy, packet, direction) {
            continue;
        }
        let smallest = best.first().map_or(u32::MAX, |policy| policy.priority);
        if policy.priority < smallest {
            best.clear();
        }
        if policy.priority <= smallest {
            best.push(policy);
        }
    }
    best
}

/// Whether a policy is for a packet (`xfrm_policy_match`).
pub fn is_asked(policy: &Policy, packet: &Packet, direction: Direction) -> bool {
    let id = &policy.id;
    id.direction == direction
        && id.if_id == 0
        && packet.mark & id.mark.mask == id.mark.value
        && selects(&id.selector, packet)
}

fn selects(selector: &Selector, packet: &Packet) -> bool {
    let port = |wanted: PortMatch, port: u16| (wanted.port ^ port) & wanted.mask == 0;
    is_in(selector.src, packet.src)
        && is_in(selector.dst, packet.dst)
        && (selector.proto == 0 || selector.proto == packet.proto)
        && port(selector.sport, packet.sport)
        && port(selector.dport, packet.dport)
        && selector.ifindex == 0
}

fn is_in(prefix: Prefix, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let ends = 128 - u32::from(prefix.length);
    prefix.address.is_ipv4() == address.is_ipv4()
        && (bits(prefix.address) ^ bits(address)).checked_shr(ends).unwrap_or(0) == 0
}

/// The SAs that the templates of policies find, by all ways; `None` is a drop.
fn resolve<'s>(
    state: &'s State,
    policies: &[&Policy],
    packet: &Packet,
) -> Vec<Option<Vec<&'s Sa>>> {
    let mut ways = vec![(Vec::new(), packet.src, packet.dst)];
    let mut dropped = false;
    for policy in policies {
        for template in &policy.templates {
            let mut further = Vec::new();
            for (sas, src, dst) in ways {
                let (local, remote) = match template.mode {
                    // BEET and IPTFS, as tunnels.
                    Mode::Tunnel | Mode::Other(4 | 5) => (template.src, template.dst),
                    _ => (src, dst),
                };
                let finds = |sa: &&Sa| finds(sa, template, policy.id.mark, remote);
                let candidates: Vec<&Sa> = state.sas.iter().filter(finds).collect();
                let (found, may_be_none) = look_at(&candidates, local, packet);
                for sa in found {
                    further.push(([&sas[..], &[sa]].concat(), local, remote));
                }
                match template.level {
                    _ if !may_be_none => {}
                    Level::Required => dropped = true,
                    Level::Use => further.push((sas, src, dst)),
                }
            }
            ways = further;
        }
    }
    ways.into_iter().map(|(sas, ..)| Some(sas)).chain(dropped.then_some(None)).collect()
}

/// Whether an SA serves a template, wherever it is from (the conditions of `xfrm_state_find`).
fn finds(sa: &Sa, template: &Template, mark: Mark, remote: IpAddr) -> bool {
    sa.id.dst == remote
        && sa.id.proto == template.proto
        && (template.spi.raw() == 0 || template.spi == sa.id.spi)
        && sa.reqid == template.reqid
        && sa.mode == template.mode
        && mark.value & mark.mask & sa.id.mark.mask == sa.id.mark.value
        && sa.if_id == 0
}

/// The SAs of which the kernel may find one for a packet from an address, and whether it may find
/// none (`xfrm_state_find`, `xfrm_state_look_at`).
///
/// SAs lie in buckets, by a hash of both addresses, the reqid, and the size of the table. The first
/// bucket is that of the packet's addresses. There an SA counts if it is from that address or from
/// none. If none is valid, and none is larval either, the second one is that of no source address.
/// There the kernel compares destinations alone. So an SA from another address counts too, if the
/// hash happens to put it there. A kernel that notes at a policy which SAs it has used (6.13)
/// prefers such an SA from then on. In a tunnel from no address the kernel picks one.
fn look_at<'s>(candidates: &[&'s Sa], local: IpAddr, packet: &Packet) -> (Vec<&'s Sa>, bool) {
    let is_larval = |sa: &Sa| sa.algorithm == Algorithm::Larval;
    let is_valid =
        |sa: &Sa| !is_larval(sa) && sa.selector.is_none_or(|selector| selects(&selector, packet));
    let valid: Vec<&Sa> = candidates.iter().copied().filter(|sa| is_valid(sa)).collect();
    let is_from_none = |sa: &Sa| sa.src.is_unspecified();
    let in_first = valid.iter().any(|sa| sa.src == local);
    let in_second = valid.iter().any(|sa| is_from_none(sa));
    let may_end = |sa: &&Sa| is_larval(sa) && (sa.src == local || is_from_none(sa));
    let ends_before = candidates.iter().any(may_end);
    let is_certain = in_first || in_second && !ends_before;
    (valid, !is_certain)
}

/// Whether policies take a packet that arrives, after the SA under which it came.
fn bypasses_policies(
    state: &State,
    packet: &Packet,
    direction: Direction,
    under: Option<&Sa>,
) -> bool {
    if arrives_past_policies(state, packet) {
        return true;
    }
    if under.is_some_and(|sa| sa.selector.is_some_and(|selector| !selects(&selector, packet))) {
        return false;
    }
    policies(state, packet, direction).iter().any(|policies| {
        let blocks = policies.iter().any(|policy| policy.action == Action::Block);
        let mut templates = policies.iter().flat_map(|policy| &policy.templates).rev();
        let satisfied = match under {
            None => templates.all(|template| template.level == Level::Use),
            Some(sa) => satisfies(sa, templates),
        };
        !blocks && satisfied
    })
}

/// Whether one SA is enough for templates, the innermost first (`xfrm_policy_ok`).
fn satisfies<'t>(sa: &Sa, templates: impl Iterator<Item = &'t Template>) -> bool {
    let mut used = false;
    for template in templates {
        let fits = !used && fits(sa, template);
        match template.level {
            Level::Use if template.mode == Mode::Transport => {}
            Level::Required if !fits => return false,
            _ => used |= fits,
        }
    }
    // A packet that a tunnel has wrapped must have been asked for.
    used || sa.mode == Mode::Transport
}

fn fits(sa: &Sa, template: &Template) -> bool {
    sa.id.proto == template.proto
        && (template.spi.raw() == 0 || template.spi == sa.id.spi)
        && (template.reqid.0 == 0 || template.reqid == sa.reqid)
        && sa.mode == template.mode
        && (sa.mode == Mode::Transport
            || (template.src.is_unspecified() || template.src == sa.src)
                && (template.dst.is_unspecified() || template.dst == sa.id.dst))
}
