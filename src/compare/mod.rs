//! What two hosts do to each other's packets, by the objects that they hold.
//!
//! Pure. A packet is followed from the one host's policies and SAs to the other's. Names of what
//! differs come beside that, as far as two states tell: a state has no keys, only their
//! fingerprints.
#![forbid(unsafe_code)]

mod findings;
mod rollout;

use std::fmt;

use crate::{
    config::{Config, Peer},
    model::{Answers, IPPROTO_ESP, PeerName, Prefix, Sa, Selector, Spi, State, Time},
    plan::{Arrival, Flow, LookUps},
};

pub use findings::{Finding, FindingCode, findings};
pub use rollout::{Cut, Host, Rollout, RolloutState, rollout};

/// A host and its state.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The host.
    pub peer: &'a Peer,
    /// Its state.
    pub state: &'a State,
    /// The time of the look.
    pub taken: Time,
}

/// The fate of packets from one host to another, the worst last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// They arrive encrypted.
    Encrypted(Spi),
    /// They arrive, and in the clear.
    Clear,
    /// They don't leave.
    Blocked,
    /// They leave in the clear, and are refused.
    ClearRefused,
    /// They leave encrypted, and the other host has no SA for that.
    NoSa(Spi),
    /// They leave encrypted, and the other host's SA does not fit.
    Unfit(Spi, Vec<&'static str>),
    /// They leave in UDP, and no socket takes ESP out of that.
    NoSocket(Spi),
    /// They are decrypted, and policies refuse them.
    EncryptedRefused(Spi),
}

impl Fate {
    /// All names in JSON.
    pub const WORDS: [&'static str; 8] = [
        "encrypted",
        "clear",
        "blocked",
        "clear-refused",
        "no-sa",
        "sa-differs",
        "no-socket",
        "encrypted-refused",
    ];

    /// Its name in JSON.
    pub fn word(&self) -> &'static str {
        let [encrypted, clear, blocked, clear_refused, no_sa, differs, no_socket, refused] =
            Self::WORDS;
        match self {
            Self::Encrypted(_) => encrypted,
            Self::Clear => clear,
            Self::Blocked => blocked,
            Self::ClearRefused => clear_refused,
            Self::NoSa(_) => no_sa,
            Self::Unfit(..) => differs,
            Self::NoSocket(_) => no_socket,
            Self::EncryptedRefused(_) => refused,
        }
    }

    /// The SPI under which they leave.
    pub fn spi(&self) -> Option<Spi> {
        match self {
            Self::Encrypted(spi)
            | Self::NoSa(spi)
            | Self::Unfit(spi, _)
            | Self::NoSocket(spi)
            | Self::EncryptedRefused(spi) => Some(*spi),
            Self::Clear | Self::Blocked | Self::ClearRefused => None,
        }
    }

    /// Whether they arrive.
    pub fn arrives(&self) -> bool {
        match self {
            Self::Encrypted(_) | Self::Clear => true,
            Self::Blocked
            | Self::ClearRefused
            | Self::NoSa(_)
            | Self::Unfit(..)
            | Self::NoSocket(_)
            | Self::EncryptedRefused(_) => false,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encrypted(spi) => write!(f, "arrive encrypted under SPI {spi}"),
            Self::Clear => f.write_str("arrive in the clear"),
            Self::Blocked => f.write_str("lost: blocked where they are sent"),
            Self::ClearRefused => f.write_str("lost: sent in the clear, and refused there"),
            Self::NoSa(spi) => {
                write!(f, "lost: sent under SPI {spi}, for which there is no SA there")
            }
            Self::Unfit(spi, parts) => {
                write!(f, "lost: the SAs of SPI {spi} differ in {}", parts.join(" and "))
            }
            Self::NoSocket(spi) => {
                write!(f, "lost: sent in UDP under SPI {spi}, and no socket takes ESP there")
            }
            Self::EncryptedRefused(spi) => {
                write!(f, "lost: decrypted under SPI {spi}, and refused by policies there")
            }
        }
    }
}

/// The way of packets from one host to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The sender.
    pub from: PeerName,
    /// The receiver.
    pub to: PeerName,
    /// The worst fate of the protected kinds of packets.
    pub fate: Fate,
}

/// A host whose state is asked about packets of many pairs.
pub struct Asked<'a> {
    peer: &'a Peer,
    look_ups: LookUps<'a>,
}

impl<'a> Asked<'a> {
    /// A host with a state.
    pub fn new(peer: &'a Peer, state: &'a State) -> Self {
        Self { peer, look_ups: LookUps::of(state) }
    }

    /// Whether it may refuse packets that arrive in the clear, or under an SA.
    fn refuses(&mut self, packet: &Selector, under: Option<&Sa>) -> bool {
        self.look_ups.arrivals(packet, under).contains(&Arrival::Refused)
    }
}

/// The worst fate of the protected kinds of packets from one host to another.
pub fn way(config: &Config, from: &mut Asked<'_>, to: &mut Asked<'_>) -> Way {
    let ends = |src, dst| config.traffic.selectors(Prefix::host(src), Prefix::host(dst));
    let (mut sent, mut received) = (
        ends(from.peer.address, to.peer.reached_at()),
        ends(from.peer.reached_at(), to.peer.address),
    );
    let inner = between_networks(from.peer, to.peer);
    sent.extend(&inner);
    received.extend(&inner);
    let fates = sent.iter().zip(&received).map(|(sent, received)| fate(from, to, sent, received));
    let fate = fates.max().unwrap_or(Fate::Clear);
    Way { from: from.peer.name.clone(), to: to.peer.name.clone(), fate }
}

/// Packets from each network of a host to each of another.
fn between_networks(from: &Peer, to: &Peer) -> Vec<Selector> {
    let to_each = |src: &Prefix| {
        let src = *src;
        let of_family = move |dst: &&Prefix| dst.address.is_ipv4() == src.address.is_ipv4();
        to.networks.iter().filter(of_family).map(move |dst| Selector::between(src, *dst))
    };
    from.networks.iter().flat_map(to_each).collect()
}

fn fate(from: &mut Asked<'_>, to: &mut Asked<'_>, sent: &Selector, received: &Selector) -> Fate {
    match from.look_ups.flow(sent) {
        Flow::Blocked => Fate::Blocked,
        Flow::Clear if to.refuses(received, None) => Fate::ClearRefused,
        Flow::Clear => Fate::Clear,
        Flow::Protected(spi) => {
            let Some(there) = to.look_ups.sa(to.peer.address, spi) else { return Fate::NoSa(spi) };
            let here = from.look_ups.sa(to.peer.reached_at(), spi);
            let unfit = here.map(|here| unfit(here, there)).unwrap_or_default();
            let deaf = there.encap.is_some()
                && to.look_ups.encap().is_some_and(|socket| socket.answers == Answers::No);
            match () {
                () if !unfit.is_empty() => Fate::Unfit(spi, unfit),
                () if deaf => Fate::NoSocket(spi),
                () if to.refuses(received, Some(there)) => Fate::EncryptedRefused(spi),
                () => Fate::Encrypted(spi),
            }
        }
    }
}

/// The ESP SA to an address under an SPI.
fn sa(state: &State, to: std::net::IpAddr, spi: Spi) -> Option<&Sa> {
    let mut sas = state.sas.iter().filter(|sa| !sa.is_larval());
    sas.find(|sa| (sa.id.dst, sa.id.proto, sa.id.spi) == (to, IPPROTO_ESP, spi))
}

/// The parts in which two ends of an SA must be alike, and are not. A key that one of them does not
/// show is not a difference.
fn unfit(sent: &Sa, taken: &Sa) -> Vec<&'static str> {
    [
        ("cipher", sent.algorithm != taken.algorithm),
        ("key", sent.key.differs(taken.key)),
        ("ESN", sent.replay.esn != taken.replay.esn),
        ("ESP in UDP", sent.encap.is_some() != taken.encap.is_some()),
        ("mode", sent.mode != taken.mode),
    ]
    .into_iter()
    .filter_map(|(part, differs)| differs.then_some(part))
    .collect()
}
