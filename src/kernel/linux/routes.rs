//! The ways to peers, by `RTM_GETROUTE`: every device that a packet can leave by.
//!
//! The kernel answers with one device of several (ECMP); with `RTM_F_FIB_MATCH` it gives the entry
//! of its table, which lists them all. Both questions are asked. A question without a source
//! address gets the address that the kernel picks. Needs no privilege.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, net::IpAddr};

use zeroize::Zeroizing;

use super::{
    link::Devices,
    netlink::{Answer, Engine, LOOK_WINDOW, Protocol},
    wire::{Request, attributes, garbled, u16_at, u32_at},
};
use crate::{
    kernel::KernelError,
    model::{Route, Ways},
};

/// linux/rtnetlink.h.
pub(super) const RTM_GETROUTE: u16 = 26;
/// A `struct rtmsg`.
pub(super) const HEADER: usize = 12;
const RTM_F_FIB_MATCH: u32 = 0x2000;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_SRC: u16 = 2;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_MULTIPATH: u16 = 9;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;
/// `RTNH_F_DEAD` and `RTNH_F_LINKDOWN`.
const NO_CARRIER: u8 = 1 | 16;

/// The questions about one peer.
#[derive(Clone, Copy)]
enum Question {
    /// The way of a packet from the local address.
    Way,
    /// The entry of the table that this is from.
    Entry,
    /// The kernel's choice for a packet without a source address.
    Source,
}

const QUESTIONS: [Question; 3] = [Question::Way, Question::Entry, Question::Source];

/// The ways from the local peer's address to all others of its family; none where the local peer is
/// unknown.
///
/// # Errors
///
/// Any doubt that all answers were understood. No route is an answer.
pub(super) fn observe(ways: &Ways, devices: &Devices) -> Result<Vec<Route>, KernelError> {
    let Some(from) = ways.local_among(&devices.addresses) else { return Ok(Vec::new()) };
    let peers: Vec<IpAddr> = ways.peers_of(from).collect();
    let lookups = lookups(ways, devices, from);
    let requests: Vec<Request> = peers
        .iter()
        .flat_map(|to| lookups.iter().map(move |lookup| (*to, *lookup)))
        .flat_map(|(to, lookup)| {
            QUESTIONS.map(|question| request(ways, question, from, to, lookup))
        })
        .collect();
    let answers = Engine::open(Protocol::Route)?.transact(&requests, LOOK_WINDOW)?;
    let each = answers.chunks(QUESTIONS.len() * lookups.len());
    peers
        .into_iter()
        .zip(each)
        .map(|(to, answers)| route(from, to, answers, &lookups, devices))
        .collect()
}

/// A look-up of routes.
#[derive(Clone, Copy)]
struct Lookup {
    /// The device to which it is bound; 0 is none.
    oif: u32,
    /// The port that the packets go to, where it is known.
    port: Option<u16>,
}

/// The look-ups of packets to a peer: one for each device and port, since rules of policy routing
/// may match both.
///
/// Packets from an address of a VRF are looked up in the VRF's table. Packets of a tunnel that is
/// bound to a device leave by that device.
fn lookups(ways: &Ways, devices: &Devices, from: IpAddr) -> Vec<Lookup> {
    let mut bound: BTreeSet<u32> = devices.vrfs_of(from);
    if bound.is_empty() {
        bound.insert(0);
    }
    let tunnels = devices.tunnels.iter().filter(|tunnel| ways.is_of_mesh(tunnel));
    let lower = tunnels.filter_map(|tunnel| tunnel.lower.as_ref());
    bound.extend(lower.filter_map(|lower| devices.index(lower)));
    let ports: Vec<Option<u16>> = match ways.ports.is_empty() {
        true => vec![None],
        false => ways.ports.iter().copied().map(Some).collect(),
    };
    let of_device = |oif| ports.iter().map(move |port| Lookup { oif, port: *port });
    bound.into_iter().flat_map(of_device).collect()
}

fn request(ways: &Ways, question: Question, from: IpAddr, to: IpAddr, lookup: Lookup) -> Request {
    let (family, bits) = if to.is_ipv4() { (2u8, 32u8) } else { (10, 128) };
    let (source, flags) = match question {
        Question::Way => (bits, 0),
        Question::Entry => (bits, RTM_F_FIB_MATCH),
        Question::Source => (0, 0),
    };
    let mut body = vec![family, bits, source, 0, 0, 0, 0, 0];
    body.extend_from_slice(&flags.to_ne_bytes());
    attribute(&mut body, RTA_DST, &octets(to));
    if source > 0 {
        attribute(&mut body, RTA_SRC, &octets(from));
    }
    if lookup.oif > 0 {
        attribute(&mut body, RTA_OIF, &lookup.oif.to_ne_bytes());
    }
    if let Some(protocol) = ways.protocol {
        attribute(&mut body, RTA_IP_PROTO, &[protocol]);
    }
    if let Some(port) = lookup.port {
        attribute(&mut body, RTA_DPORT, &port.to_be_bytes());
    }
    // Acknowledgements would double the messages, of which there are three for each peer.
    let body = Zeroizing::new(body);
    Request { kind: RTM_GETROUTE, body, joined: false, acknowledged: false }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Appends an attribute to a message.
pub(super) fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(super::wire::aligned(body.len()), 0);
}

/// The route to one peer, from all answers.
fn route(
    from: IpAddr,
    to: IpAddr,
    answers: &[Answer],
    lookups: &[Lookup],
    devices: &Devices,
) -> Result<Route, KernelError> {
    let nothing = BTreeSet::new;
    let mut route = Route {
        to,
        from,
        devices: nothing(),
        no_carrier: nothing(),
        vrfs: nothing(),
        source: None,
        refused: None,
    };
    for (lookup, answers) in lookups.iter().zip(answers.chunks(QUESTIONS.len())) {
        let [way, entry, source] = answers else {
            return Err(garbled("a route without an answer"));
        };
        if let Err(refusal) = &way.outcome {
            route.refused.get_or_insert(refusal.errno.to_string());
            continue;
        }
        route.vrfs.extend(devices.vrf_by_index(lookup.oif));
        for answer in [way, entry] {
            for hop in hops(answer)? {
                let name = devices.name(hop.index);
                route.vrfs.extend(devices.vrf_of(&name));
                if hop.no_carrier {
                    route.no_carrier.insert(name.clone());
                }
                route.devices.insert(name);
            }
        }
        // An address other than ours is news: the kernel may pick one for some ports alone.
        let other = route.source.filter(|source| *source != from);
        route.source = other.or(preferred(source)?).or(route.source);
    }
    if !route.devices.is_empty() {
        route.refused = None;
    }
    Ok(route)
}

/// A next hop of a route.
pub(super) struct Hop {
    /// The number of its device.
    pub index: u32,
    no_carrier: bool,
}

/// The message of an answer and its attributes; none where the kernel has no route.
fn message(answer: &Answer) -> Option<(&[u8], &[u8])> {
    answer.outcome.as_ref().ok()?;
    answer.object.as_deref()?.split_at_checked(HEADER)
}

/// The devices of an answer.
fn hops(answer: &Answer) -> Result<Vec<Hop>, KernelError> {
    let Some((header, rest)) = message(answer) else { return Ok(Vec::new()) };
    let flags = u32_at(header, 8).unwrap_or_default();
    let mut found = Vec::new();
    for (kind, range) in attributes(rest)? {
        let value = &rest[range];
        match kind {
            RTA_OIF => {
                let index = u32_at(value, 0).ok_or_else(|| garbled("a device without a number"))?;
                found.push(Hop { index, no_carrier: flags as u8 & NO_CARRIER != 0 });
            }
            RTA_MULTIPATH => found.extend(several(value)?),
            _ => {}
        }
    }
    Ok(found)
}

/// The devices of `RTA_MULTIPATH`, a list of `struct rtnexthop`.
pub(super) fn several(mut rest: &[u8]) -> Result<Vec<Hop>, KernelError> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = u16_at(rest, 0).map_or(0, usize::from);
        let hop = rest.get(..length).filter(|hop| hop.len() >= 8);
        let hop = hop.ok_or_else(|| garbled(format!("a next hop of {length} bytes")))?;
        let index = u32_at(hop, 4).ok_or_else(|| garbled("a next hop without a device"))?;
        found.push(Hop { index, no_carrier: hop[2] & NO_CARRIER != 0 });
        rest = rest.get(super::wire::aligned(length)..).unwrap_or_default();
    }
    Ok(found)
}

/// The source address of an answer.
fn preferred(answer: &Answer) -> Result<Option<IpAddr>, KernelError> {
    let Some((_, rest)) = message(answer) else { return Ok(None) };
    let found = attributes(rest)?.into_iter().find(|(kind, _)| *kind == RTA_PREFSRC);
    let Some((_, range)) = found else { return Ok(None) };
    address(&rest[range]).map(Some)
}

/// An address of either family.
pub(super) fn address(bytes: &[u8]) -> Result<IpAddr, KernelError> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).map_err(|_| garbled(format!("an address of {} bytes", bytes.len())))
}
