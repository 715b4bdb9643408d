//! Evidence on the wire: whether packets to each peer were seen to leave encrypted.
//!
//! A pair is proven only by ESP that was seen, under the SPI that the file wants, of the size of each
//! probe, where nothing of the kind was seen unencrypted and the capture lost nothing. Everything else
//! is one of the other verdicts; what was never seen is never proven. Pure.
#![forbid(unsafe_code)]

pub mod compare;
mod probe;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Config, Peer},
    desired::Desired,
    model::{
        Direction, Encap, EspHeader, Fingerprint, KeyView, Live, Packet, PeerName, SaId, Selector,
        ShortId, Spi, Stage,
    },
};

pub use probe::{Probe, ProbeMark, Randomness, RunMark, Sending, control, probe, strangers};
pub use watch::{Captured, Marked, Seen, Watch};

/// A pair as the file wants it, and the way of its packets.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The peer's name.
    pub name: PeerName,
    /// Its number.
    pub short_id: ShortId,
    /// The address that packets to it go to.
    pub address: IpAddr,
    /// The address that they come from.
    pub local: IpAddr,
    /// The stage.
    pub stage: Stage,
    /// The SA that packets are to leave by; `None` before stage send.
    pub out: Option<Outbound>,
    /// The SPIs that are received, and the keys of their SAs in the kernel.
    pub inbound: BTreeMap<Spi, Option<Fingerprint>>,
    /// The packets to it that are to leave encrypted.
    pub protected: Vec<Selector>,
    /// The devices that they leave by.
    pub devices: BTreeSet<String>,
    /// The VRFs of these.
    pub vrfs: BTreeSet<String>,
    /// Why there is no device.
    pub no_route: Option<String>,
}

/// An outbound SA that the file wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Its SPI.
    pub spi: Spi,
    /// The ports of UDP around it.
    pub encap: Option<Encap>,
    /// Whether a device encrypts.
    pub offloaded: bool,
    /// The key in the kernel, if it is known.
    pub key: Option<Fingerprint>,
}

impl Pair {
    /// The header of ESP under the SPI and in the form that the file wants.
    fn esp_of(&self, packet: &Packet<'_>) -> Option<EspHeader> {
        let out = self.out.as_ref()?;
        let esp = match out.encap {
            None => packet.esp(),
            Some(wanted) => {
                packet.esp_in_udp().filter(|(ports, _)| *ports == wanted).map(|it| it.1)
            }
        };
        esp.filter(|esp| esp.spi == out.spi)
    }

    fn is_offloaded(&self) -> bool {
        self.out.as_ref().is_some_and(|out| out.offloaded)
    }
}

/// The pairs of the host with the peers that the operator named; none means all.
pub fn pairs(
    config: &Config,
    local: &Peer,
    desired: &Desired,
    live: &Live,
    asked: &BTreeSet<PeerName>,
) -> Vec<Pair> {
    let mut pairs = BTreeMap::new();
    for (address, name) in &desired.peers {
        let Some(peer) = config.peers.iter().find(|peer| peer.name == *name) else { continue };
        if !asked.is_empty() && !asked.contains(name) {
            continue;
        }
        let route = live.0.route(local.address, *address);
        let pair = Pair {
            name: name.clone(),
            short_id: peer.short_id,
            address: *address,
            local: local.address,
            stage: desired.stage(name),
            out: None,
            inbound: BTreeMap::new(),
            protected: Vec::new(),
            devices: route.map(|route| route.devices.clone()).unwrap_or_default(),
            vrfs: route.map(|route| route.vrfs.clone()).unwrap_or_default(),
            no_route: route.and_then(|route| route.refused.clone()),
        };
        pairs.insert(name.clone(), pair);
    }
    let keys = keys(live);
    for (id, wanted) in &desired.sas {
        let Some(pair) = pairs.get_mut(&wanted.peer) else { continue };
        let key = keys.get(id).copied();
        match wanted.direction {
            Direction::Out => {
                let (encap, offloaded) = (wanted.sa.encap, wanted.sa.offload.is_some());
                pair.out = Some(Outbound { spi: id.spi, encap, offloaded, key });
            }
            Direction::In | Direction::Fwd => _ = pair.inbound.insert(id.spi, key),
        }
    }
    for wanted in desired.policies.values() {
        if let (Direction::Out, Some(pair)) =
            (wanted.policy.id.direction, pairs.get_mut(&wanted.peer))
        {
            pair.protected.push(desired.packets(wanted));
        }
    }
    pairs.into_values().collect()
}

fn keys(live: &Live) -> BTreeMap<SaId, Fingerprint> {
    let known = live.0.sas.iter().filter_map(|sa| match sa.key {
        KeyView::Known(key) => Some((sa.id, key)),
        KeyView::Unknown | KeyView::NotChecked => None,
    });
    known.collect()
}

/// The packets that the file lets pass unencrypted.
pub fn passing(desired: &Desired) -> Vec<Selector> {
    let out = desired.passages.keys().filter(|id| id.direction == Direction::Out);
    out.map(|id| id.selector).collect()
}

/// What became of the probes to a peer when they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Those that the kernel took.
    pub taken: u32,
    /// The lengths of ESP around those, where they are known.
    pub lengths: Vec<usize>,
    /// The error numbers for the others, each by its symbol, and how often.
    pub refused: BTreeMap<String, u32>,
}

/// The whole capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Packets that were looked at.
    pub packets: u64,
    /// Packets that the kernel dropped because they were too many.
    pub lost: u64,
    /// Packets with a marker of this run that belongs to no probe, or that is cut.
    pub stray: u64,
}

/// The verdict on a peer, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Every probe was seen to leave as ESP, and nothing unencrypted.
    Encrypted,
    /// It left in the clear, and the file asks for that.
    ClearAsAsked,
    /// Too little was seen to tell.
    NotSeen,
    /// The host lets it not out.
    Blocked,
    /// It left in the clear.
    Clear,
}

impl Proof {
    /// All of them, the best first.
    pub const ALL: [Self; 5] =
        [Self::Encrypted, Self::ClearAsAsked, Self::NotSeen, Self::Blocked, Self::Clear];

    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::ClearAsAsked => "clear_as_asked",
            Self::NotSeen => "not_seen",
            Self::Blocked => "blocked",
            Self::Clear => "clear",
        }
    }

    /// Its name for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::ClearAsAsked => "clear as asked",
            Self::NotSeen => "not seen",
            Self::Blocked => "blocked",
            Self::Clear => "in the clear",
        }
    }
}

/// Why a peer is not proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A marker could be read.
    MarkerRead {
        /// In how many packets.
        packets: u64,
        /// On which devices.
        devices: BTreeSet<String>,
    },
    /// Other packets of the kind left unencrypted.
    KindRead {
        /// How many.
        packets: u64,
        /// The first of them.
        first: Selector,
    },
    /// The kernel refused to send, with these errors.
    Refused(BTreeMap<String, u32>),
    /// There is no route.
    NoRoute(String),
    /// The way of the packets is not known.
    NoDevice,
    /// The kernel took the probes and let none out, although others left for the peer.
    Dropped,
    /// The capture lost packets.
    Lost(u64),
    /// A marker could be read, and not to which peer the packet was.
    Stray(u64),
    /// ESP left under other SPIs.
    OtherSpi(BTreeSet<Spi>),
    /// ESP left plain where it is wanted in UDP, or the reverse.
    OtherForm,
    /// ESP left, of other sizes than the probes'.
    OtherSize,
    /// The device encrypts, behind the place of the capture.
    Offloaded,
    /// Fewer were seen than sent.
    Few {
        /// Seen.
        seen: u64,
        /// Sent.
        sent: u32,
    },
    /// Nothing was seen.
    Nothing,
}

/// The verdict on a peer and what it rests on.
#[derive(Debug, Clone)]
pub struct PeerProof<'a> {
    /// The pair.
    pub pair: &'a Pair,
    /// The probes.
    pub sent: &'a Sent,
    /// What was seen.
    pub seen: &'a Seen,
    /// How many of the probes were seen as ESP.
    pub matched: u64,
    /// The verdict.
    pub proof: Proof,
    /// Why it is not better.
    pub findings: Vec<Finding>,
}

/// Judges a pair.
pub fn judge_pair<'a>(
    pair: &'a Pair,
    sent: &'a Sent,
    seen: &'a Seen,
    account: Account,
) -> PeerProof<'a> {
    let matched = matched(sent, seen);
    let (proof, findings) = verdict(pair, sent, seen, account, matched);
    PeerProof { pair, sent, seen, matched, proof, findings }
}

/// The probes that were seen as ESP: by their lengths, where those are known.
fn matched(sent: &Sent, seen: &Seen) -> u64 {
    if sent.lengths.is_empty() {
        return seen.esp.min(sent.taken.into());
    }
    sent.lengths.iter().filter(|length| seen.lengths.contains(length)).count() as u64
}

fn verdict(
    pair: &Pair,
    sent: &Sent,
    seen: &Seen,
    account: Account,
    matched: u64,
) -> (Proof, Vec<Finding>) {
    let clear = clear(seen);
    let doubts = doubts(account);
    if !clear.is_empty() {
        let proof = if pair.out.is_some() { Proof::Clear } else { Proof::ClearAsAsked };
        return (proof, clear);
    }
    if !doubts.is_empty() {
        return (Proof::NotSeen, doubts);
    }
    if let Some(refused) = &pair.no_route {
        return (Proof::Blocked, vec![Finding::NoRoute(refused.clone())]);
    }
    if !sent.refused.is_empty() {
        return (Proof::Blocked, vec![Finding::Refused(sent.refused.clone())]);
    }
    if seen.offloaded > 0 {
        return (Proof::NotSeen, vec![Finding::Offloaded]);
    }
    if sent.taken > 0 && matched >= sent.taken.into() {
        return (Proof::Encrypted, Vec::new());
    }
    missing(pair, sent, seen, matched)
}

/// Packets that could be read.
fn clear(seen: &Seen) -> Vec<Finding> {
    let marker = (seen.marked > 0)
        .then(|| Finding::MarkerRead { packets: seen.marked, devices: seen.devices.clone() });
    let kind = seen.clear_packet.map(|first| Finding::KindRead { packets: seen.clear, first });
    marker.into_iter().chain(kind).collect()
}

/// What makes all findings doubtful.
fn doubts(account: Account) -> Vec<Finding> {
    let lost = (account.lost > 0).then_some(Finding::Lost(account.lost));
    let stray = (account.stray > 0).then_some(Finding::Stray(account.stray));
    lost.into_iter().chain(stray).collect()
}

/// Why not all probes were seen.
fn missing(pair: &Pair, sent: &Sent, seen: &Seen, matched: u64) -> (Proof, Vec<Finding>) {
    let mut findings = Vec::new();
    findings.extend(pair.devices.is_empty().then_some(Finding::NoDevice));
    findings.extend((seen.other_form > 0).then_some(Finding::OtherForm));
    let others = (!seen.other_spis.is_empty()).then(|| Finding::OtherSpi(seen.other_spis.clone()));
    findings.extend(others);
    if matched > 0 {
        findings.push(Finding::Few { seen: matched, sent: sent.taken });
    } else if seen.esp > 0 {
        findings.push(Finding::OtherSize);
    } else if findings.is_empty() && seen.control {
        return (Proof::Blocked, vec![Finding::Dropped]);
    } else if findings.is_empty() {
        findings.push(Finding::Nothing);
    }
    (Proof::NotSeen, findings)
}

/// The packet that is to be blocked, as it goes to no peer.
#[derive(Debug, Clone)]
pub struct GuardProof {
    /// Its destination.
    pub address: IpAddr,
    /// The verdict: blocked is the one that is wanted.
    pub proof: Proof,
    /// The error number with which the kernel refused it, by its symbol.
    pub refused: Option<String>,
}

impl GuardProof {
    /// Judges it. A packet that the kernel took may still wait for the answer of a neighbour, and one
    /// without a route is stopped by no guard: policies and rules of iptables give EPERM.
    pub fn new(address: IpAddr, refused: Option<String>, seen: u64) -> Self {
        let proof = match (refused.as_deref(), seen) {
            (_, 1..) => Proof::Clear,
            (Some("EPERM"), 0) => Proof::Blocked,
            (Some(_) | None, 0) => Proof::NotSeen,
        };
        Self { address, proof, refused }
    }

    /// Whether the guard is proven.
    pub fn is_proven(&self) -> bool {
        self.proof == Proof::Blocked
    }
}

#[cfg(test)]
mod tests;
