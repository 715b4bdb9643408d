//! Whether the two ends of a pair want objects that fit each other.
//!
//! Pure. Each end is worked out on its own, as `plan` on that host does it, and put into words that
//! both ends can use: own addresses, not those that a port forward shows. [`Ends`] looks at one host
//! after the other, and keeps 16 bytes of each pair with a host that is still to come: so a mesh of
//! 4,096 hosts is compared without holding the objects of more than a few.
#![forbid(unsafe_code)]

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{
    config::{Config, Peer},
    desired::Desired,
    model::{
        Algorithm, Direction, Generation, KeyView, Level, Mode, PeerName, Policy, Reqid, Sa,
        Selector, Spi, Template,
    },
};

/// The packets of one host to another, as one of the two wants them sent or taken in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Leg<'a> {
    /// The SA of this generation.
    sa: Option<LegSa<'a>>,
    /// The SPI that policies ask for; of the end that takes in, that of its SA.
    asked: Option<Spi>,
    /// The packets that are to be protected.
    packets: Vec<Selector>,
    /// The packets that pass unprotected between the two.
    excepted: Vec<Selector>,
    /// Whether an end's own objects contradict each other.
    contradicts_itself: bool,
}

/// An SA, apart from everything that each end may have for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LegSa<'a> {
    spi: Spi,
    proto: u8,
    mode: Mode,
    algorithm: &'a Algorithm,
    esn: bool,
    key: KeyView,
    selector: Option<Selector>,
    /// The UDP port at which the receiving host takes it; `None` is plain ESP.
    udp: Option<u16>,
}

/// What one host wants with another.
#[derive(Debug, Clone, Default)]
struct Side<'a> {
    /// Packets to the other; `sends` tells whether any policy asks for their protection.
    out: Leg<'a>,
    sends: bool,
    /// Packets from the other; `requires` tells whether unprotected ones are refused.
    taken: Leg<'a>,
    requires: bool,
    forwarded: Vec<Selector>,
    reqid: Option<Reqid>,
    other_reqids: bool,
}

/// The two halves of [`Side`] in 8 bytes each, of which the lowest bits are flags. 0 is no pair.
#[derive(Debug, Clone, Copy, Default)]
struct Words {
    out: u64,
    taken: u64,
}

const PRESENT: u64 = 1;
const FLAG: u64 = 2;

impl Words {
    fn of(side: &Side<'_>) -> Self {
        let word = |leg: &Leg<'_>, flag, role: &str| {
            let mut hasher = DefaultHasher::new();
            leg.hash(&mut hasher);
            // Nothing fits an end that contradicts itself, not even another one that does.
            leg.contradicts_itself.then_some(role).hash(&mut hasher);
            hasher.finish() & !(PRESENT | FLAG) | PRESENT | if flag { FLAG } else { 0 }
        };
        Self {
            out: word(&side.out, side.sends, "out"),
            taken: word(&side.taken, side.requires, "taken"),
        }
    }
}

/// Whether the packets that one end sends are those that the other takes in.
fn fits(out: u64, taken: u64) -> bool {
    let present = |word: u64| word & PRESENT != 0;
    match (present(out), present(taken)) {
        (false, false) => true,
        // In the clear, as the stage wants it.
        (true, true) if out & FLAG == 0 => taken & FLAG == 0,
        (true, true) => out & !FLAG == taken & !FLAG,
        (true, false) | (false, true) => false,
    }
}

/// Two hosts that don't fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The host that sends.
    pub from: PeerName,
    /// The host that takes in.
    pub to: PeerName,
    /// The part that differs, in words.
    pub text: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}: {}", self.from, self.to, self.text)
    }
}

/// All that one host wants with others, by their place in the file, in a few bytes.
pub struct Digest(Vec<(usize, Words)>);

impl Digest {
    /// The digest of the objects of a host.
    pub fn of(config: &Config, local: &Peer, desired: &Desired, now: Generation) -> Self {
        let sides = sides(config, local, desired, now);
        let words = |(place, side): (usize, &Option<Side<'_>>)| {
            side.as_ref().map(|side| (place, Words::of(side)))
        };
        Self(sides.iter().enumerate().filter_map(words).collect())
    }
}

/// The ends of pairs, as far as they have been looked at.
pub struct Ends {
    /// For each host, by its place, the words of the hosts before it about the pair with it.
    waiting: Vec<Vec<Words>>,
    next: usize,
    /// The pairs that both ends were looked at of.
    pub pairs: usize,
    /// The places of pairs that don't fit: the host that sends, and the one that takes in.
    pub unfit: Vec<(usize, usize)>,
}

impl Ends {
    /// None of a mesh with this many hosts.
    pub fn new(hosts: usize) -> Self {
        let waiting = (0..hosts).map(|_| Vec::new()).collect();
        Self { waiting, next: 0, pairs: 0, unfit: Vec::new() }
    }

    /// Takes the next host in, in the order of the file.
    pub fn add(&mut self, Digest(words): Digest) {
        let here = self.next;
        let mut all = vec![Words::default(); self.waiting.len()];
        words.into_iter().for_each(|(place, words)| all[place] = words);
        let before = std::mem::take(&mut self.waiting[here]);
        for (place, (theirs, ours)) in before.into_iter().zip(&all).enumerate() {
            self.pairs += usize::from(theirs.out != 0 || ours.out != 0);
            self.unfit.extend((!fits(theirs.out, ours.taken)).then_some((place, here)));
            self.unfit.extend((!fits(ours.out, theirs.taken)).then_some((here, place)));
        }
        for (place, words) in all.into_iter().enumerate().skip(here + 1) {
            self.waiting[place].push(words);
        }
        self.next += 1;
    }
}

/// The difference between two hosts, in words.
pub fn difference(
    config: &Config,
    (from, sending): (&Peer, &Desired),
    (to, taking): (&Peer, &Desired),
    now: Generation,
) -> Disagreement {
    let (mut sending, mut taking) =
        (sides(config, from, sending, now), sides(config, to, taking, now));
    let side = |place: Option<usize>, sides: &mut Vec<Option<_>>| sides[place?].take();
    let sides =
        (side(place(config, &to.name), &mut sending), side(place(config, &from.name), &mut taking));
    let text = match sides {
        (Some(out), Some(taken)) if !out.sends && taken.requires => {
            "it is sent in the clear, and refused there".into()
        }
        (Some(out), Some(taken)) => parts(&out.out, &taken.taken),
        (Some(_), None) => "only the first wants to protect it".into(),
        (None, _) => "only the second wants it protected".into(),
    };
    Disagreement { from: from.name.clone(), to: to.name.clone(), text }
}

/// The parts of a leg that differ.
fn parts(out: &Leg<'_>, taken: &Leg<'_>) -> String {
    let both = [
        ("the SA", format!("{:?}", out.sa), format!("{:?}", taken.sa)),
        ("the SPI that policies ask for", format!("{:?}", out.asked), format!("{:?}", taken.asked)),
        ("the packets", list(&out.packets), list(&taken.packets)),
        ("the exceptions", list(&out.excepted), list(&taken.excepted)),
        (
            "objects of one end contradict each other",
            out.contradicts_itself.to_string(),
            taken.contradicts_itself.to_string(),
        ),
    ];
    let differ = both.iter().filter(|(_, out, taken)| out != taken);
    let words = differ.map(|(name, out, taken)| format!("{name} differs: {out} and {taken}"));
    words.collect::<Vec<_>>().join("; ")
}

fn list(selectors: &[Selector]) -> String {
    let all: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// The place of a host in the file. They are sorted by name.
fn place(config: &Config, name: &PeerName) -> Option<usize> {
    config.peers.binary_search_by(|peer| peer.name.cmp(name)).ok()
}

/// What a host wants with each other, by the place of that in the file.
fn sides<'a>(
    config: &Config,
    local: &Peer,
    desired: &'a Desired,
    now: Generation,
) -> Vec<Option<Side<'a>>> {
    let mut sides: Vec<Option<Side<'a>>> = Vec::new();
    sides.resize_with(config.peers.len(), || None);
    let far = |place: usize| Far { local, peer: &config.peers[place] };
    for wanted in desired.sas.values().filter(|wanted| wanted.generation == now) {
        let Some(place) = place(config, &wanted.peer) else { continue };
        let side = sides[place].get_or_insert_default();
        side.add_sa(&far(place), &wanted.sa, wanted.direction, config);
    }
    for wanted in desired.policies.values() {
        let Some(place) = place(config, &wanted.peer) else { continue };
        let packets = far(place).own(desired.packets(wanted));
        sides[place].get_or_insert_default().add_policy(&wanted.policy, packets);
    }
    for policy in desired.passages.values() {
        let [src, dst] = [policy.id.selector.src, policy.id.selector.dst];
        let ends = [src.address, dst.address];
        let other = ends.iter().find_map(|end| desired.peers.get(end));
        let Some(place) = other.and_then(|name| place(config, name)) else { continue };
        let packets = far(place).own(policy.id.selector);
        let side = sides[place].get_or_insert_default();
        match policy.id.direction {
            Direction::Out => side.out.excepted.push(packets),
            Direction::In => side.taken.excepted.push(packets),
            Direction::Fwd => {}
        }
    }
    sides.iter_mut().flatten().for_each(Side::complete);
    sides
}

/// The other end, and the one that looks at it.
struct Far<'a> {
    local: &'a Peer,
    peer: &'a Peer,
}

impl Far<'_> {
    /// A selector with the address that the other end has itself.
    fn own(&self, selector: Selector) -> Selector {
        let own = |mut prefix: crate::model::Prefix| {
            if prefix.address == self.peer.reached_at() && prefix.address != self.local.address {
                prefix.address = self.peer.address;
            }
            prefix
        };
        Selector { src: own(selector.src), dst: own(selector.dst), ..selector }
    }

    /// The port at which the receiving host has its socket.
    fn udp(&self, sa: &Sa, direction: Direction, config: &Config) -> Option<u16> {
        let dport = sa.encap?.dport;
        let outside = self.peer.outside.map(|outside| outside.port());
        match direction {
            Direction::Out if outside == Some(dport) => config.esp.encap.map(|encap| encap.port),
            Direction::Out | Direction::In | Direction::Fwd => Some(dport),
        }
    }
}

impl<'a> Side<'a> {
    fn add_sa(&mut self, far: &Far<'_>, sa: &'a Sa, direction: Direction, config: &Config) {
        let leg = LegSa {
            spi: sa.id.spi,
            proto: sa.id.proto,
            mode: sa.mode,
            algorithm: &sa.algorithm,
            esn: sa.replay.esn,
            key: sa.key,
            selector: sa.selector.map(|selector| far.own(selector)),
            udp: far.udp(sa, direction, config),
        };
        self.add_reqid(sa.reqid);
        let side = match direction {
            Direction::Out => &mut self.out,
            Direction::In | Direction::Fwd => &mut self.taken,
        };
        side.contradicts_itself |= side.sa.is_some();
        side.sa = Some(leg);
    }

    fn add_policy(&mut self, policy: &Policy, packets: Selector) {
        for template in &policy.templates {
            self.add_reqid(template.reqid);
            self.add_template(policy.id.direction, template);
        }
        match policy.id.direction {
            Direction::Out if policy.is_for_icmp_errors() => {}
            Direction::Out => self.out.packets.push(packets),
            Direction::In => self.taken.packets.push(packets),
            Direction::Fwd => self.forwarded.push(packets),
        }
    }

    fn add_template(&mut self, direction: Direction, template: &Template) {
        match direction {
            Direction::Out => {
                self.sends = true;
                let first = *self.out.asked.get_or_insert(template.spi);
                self.out.contradicts_itself |= first != template.spi;
            }
            Direction::In | Direction::Fwd => {
                self.requires |= match template.level {
                    Level::Required => true,
                    Level::Use => false,
                };
                // One that pins an SPI would refuse the generations beside this one.
                self.taken.contradicts_itself |= template.spi.raw() != 0;
            }
        }
    }

    fn add_reqid(&mut self, reqid: Reqid) {
        self.other_reqids |= *self.reqid.get_or_insert(reqid) != reqid;
    }

    /// What can be said once all objects are there.
    fn complete(&mut self) {
        for list in [
            &mut self.out.packets,
            &mut self.out.excepted,
            &mut self.taken.packets,
            &mut self.taken.excepted,
            &mut self.forwarded,
        ] {
            list.sort_unstable();
        }
        self.taken.asked = self.taken.sa.as_ref().map(|sa| sa.spi);
        self.taken.contradicts_itself |= self.other_reqids || self.forwarded != self.taken.packets;
        self.out.contradicts_itself |= self.other_reqids;
    }
}
