//! Whether the two ends of a pair want objects that fit each other.
//!
//! Pure. Each end is worked out on its own, as `plan` on that host does it, and put into words that
//! both ends can use: own addresses, not those that a port forward shows. Both ends of a pair are
//! worked out together, and dropped before the next pair: so the time grows with the number of
//! pairs, and the memory with that of hosts.
#![forbid(unsafe_code)]

use std::fmt;

use crate::{
    config::{Config, Moment, Peer},
    desired::{self, Desired, HasPairs, WantedPolicy},
    model::{
        Algorithm, Direction, Generation, KeyView, Level, Mode, PeerName, Policy, Reqid, Sa,
        Selector, Spi, State, Template,
    },
};

/// The packets of one host to another, as one of the two wants them sent or taken in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Side<'_> {
    /// Whether the packets that this end sends are those that the other takes in.
    fn fits(&self, other: &Self) -> bool {
        let (out, taken) = (&self.out, &other.taken);
        match self.sends {
            // In the clear, as the stage wants it.
            false => !other.requires,
            // Nothing fits an end that contradicts itself, not even another one that does.
            true => !out.contradicts_itself && !taken.contradicts_itself && out == taken,
        }
    }
}

/// What a host wants with another.
pub type End<'a> = (&'a Peer, &'a Desired);

/// Whether two hosts fit each other: the packets of the first, and those of the second. `None` where
/// neither wants anything with the other.
pub fn fit(config: &Config, one: End<'_>, other: End<'_>, now: Generation) -> Option<[bool; 2]> {
    let sides = [side(config, one, other.0, now), side(config, other, one.0, now)];
    match &sides {
        [None, None] => None,
        [Some(one), Some(other)] => Some([one.fits(other), other.fits(one)]),
        [Some(_), None] | [None, Some(_)] => Some([false; 2]),
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

/// The pairs of one host with those behind it in the file.
#[derive(Debug, Default)]
pub struct Row {
    /// The pairs.
    pub pairs: usize,
    /// Of pairs that don't fit, the places of the host that sends and of the one that takes in.
    pub unfit: Vec<(usize, usize)>,
    /// The objects that the host has with those behind it.
    own: Objects,
    /// The objects that each host behind it has with it.
    others: Vec<Objects>,
}

/// The objects that a host has with others.
#[derive(Debug, Clone, Copy, Default)]
struct Objects {
    number: usize,
    pairs: HasPairs,
}

impl Objects {
    fn of(desired: &Desired, peer: &Peer) -> Self {
        let Desired { sas, policies, passages, .. } = desired;
        let sends = desired.stage(&peer.name).sends();
        let routes = if sends { peer.networks.len() } else { 0 };
        Self {
            number: sas.len() + policies.len() + passages.len() + routes,
            pairs: HasPairs { any: true, sends },
        }
    }

    fn add(&mut self, more: &Self) {
        self.number += more.number;
        self.pairs.any |= more.pairs.any;
        self.pairs.sends |= more.pairs.sends;
    }
}

impl Row {
    /// Works out both ends of each pair, and compares them.
    pub fn of(config: &Config, moment: Moment, place: usize) -> Self {
        let local = &config.peers[place];
        let partners = config.pairs.partners(local);
        let mut row = Self::default();
        for (behind, peer) in config.peers.iter().enumerate().skip(place + 1) {
            let is_pair = partners.have(peer) && peer.address.is_ipv4() == local.address.is_ipv4();
            let of_peer = match is_pair {
                true => row.add(config, moment, [(place, local), (behind, peer)]),
                false => Objects::default(),
            };
            row.others.push(of_peer);
        }
        row
    }

    /// Adds a pair. Returns the objects that the second host has with the first.
    fn add(&mut self, config: &Config, moment: Moment, ends: [(usize, &Peer); 2]) -> Objects {
        let [(place, local), (behind, peer)] = ends;
        let here = desired::of_pair(config, moment, local, peer);
        let there = desired::of_pair(config, moment, peer, local);
        self.own.add(&Objects::of(&here, peer));
        if let Some([out, back]) = fit(config, (local, &here), (peer, &there), moment.generation) {
            self.pairs += 1;
            self.unfit.extend((!out).then_some((place, behind)));
            self.unfit.extend((!back).then_some((behind, place)));
        }
        Objects::of(&there, local)
    }
}

/// The ends of all pairs, as far as they have been looked at. The number of pairs that don't fit may
/// be that of all, so only the first of them are kept.
pub struct Ends {
    /// The objects of each host with others, by its place.
    objects: Vec<Objects>,
    next: usize,
    /// The pairs that both ends were looked at of.
    pub pairs: usize,
    /// The pairs and directions that don't fit.
    pub unfit: usize,
    /// The first of them, by their places: the host that sends, and the one that takes in.
    pub first: Vec<(usize, usize)>,
}

impl Ends {
    /// As many of the pairs that don't fit are kept.
    pub const KEPT: usize = 20;

    /// None of a mesh with this many hosts.
    pub fn new(hosts: usize) -> Self {
        let objects = vec![Objects::default(); hosts];
        Self { objects, next: 0, pairs: 0, unfit: 0, first: Vec::new() }
    }

    /// Takes the next host's row in, in the order of the file.
    pub fn add(&mut self, row: Row) {
        let here = self.next;
        self.next += 1;
        self.objects[here].add(&row.own);
        let behind = self.objects[self.next..].iter_mut();
        behind.zip(&row.others).for_each(|(all, more)| all.add(more));
        self.pairs += row.pairs;
        self.unfit += row.unfit.len();
        self.first.extend(row.unfit);
        self.first.truncate(Self::KEPT);
    }

    /// The number of objects that a host wants, once all rows are in: an empty one creates them all.
    pub fn objects(&self, config: &Config, moment: Moment, place: usize) -> usize {
        let Objects { number, pairs } = self.objects[place];
        let own = desired::of_host(config, moment, &config.peers[place], pairs);
        let own = own.resolved(&State::default(), config.reqid, None);
        let Desired { guards, passages, chains, interface, inside, fib, .. } = &*own;
        let networks = interface.iter().count() + inside.len() + fib.len();
        number + guards.len() + passages.len() + chains.len() + networks
    }
}

/// The difference between two hosts, in words.
pub fn difference(
    config: &Config,
    (from, sending): (&Peer, &Desired),
    (to, taking): (&Peer, &Desired),
    now: Generation,
) -> Disagreement {
    let sides = (side(config, (from, sending), to, now), side(config, (to, taking), from, now));
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

/// What a host wants with another; `None` is nothing.
fn side<'a>(
    config: &Config,
    (local, desired): End<'a>,
    peer: &Peer,
    now: Generation,
) -> Option<Side<'a>> {
    let mut side = None;
    let far = Far { local, peer };
    let sas = desired.sas.values();
    for wanted in sas.filter(|wanted| wanted.generation == now && wanted.peer == peer.name) {
        let side: &mut Side<'a> = side.get_or_insert_default();
        side.add_sa(&far, &wanted.sa, wanted.direction, config);
    }
    for wanted in desired.policies.values().filter(|wanted| wanted.peer == peer.name) {
        let packets = far.packets(desired, wanted);
        side.get_or_insert_default().add_policy(&wanted.policy, packets);
    }
    for policy in desired.passages.values() {
        let [src, dst] = [policy.id.selector.src, policy.id.selector.dst];
        let ends = [src.address, dst.address];
        let other = ends.iter().find_map(|end| desired.peers.get(end));
        if other == Some(&peer.name) {
            let packets = far.own(policy.id.selector);
            side.get_or_insert_default().add_passage(policy.id.direction, packets);
        }
    }
    if let Some(side) = &mut side {
        side.complete();
    }
    side
}

/// The other end, and the one that looks at it.
struct Far<'a> {
    local: &'a Peer,
    peer: &'a Peer,
}

impl Far<'_> {
    /// The packets of a policy in words of both ends. One for a network is for any host at the near end,
    /// and only the networks there speak to it.
    fn packets(&self, desired: &Desired, wanted: &WantedPolicy) -> Vec<Selector> {
        let packets = desired.packets(wanted);
        if wanted.policy.id.if_id == 0 {
            return vec![self.own(packets)];
        }
        let own = self.local.networks.iter();
        let of_family = own.filter(|own| own.address.is_ipv4() == packets.is_ipv4());
        of_family
            .map(|own| match wanted.policy.id.direction {
                Direction::Out => Selector { src: *own, ..packets },
                Direction::In | Direction::Fwd => Selector { dst: *own, ..packets },
            })
            .collect()
    }

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

    fn add_policy(&mut self, policy: &Policy, packets: Vec<Selector>) {
        for template in &policy.templates {
            self.add_reqid(template.reqid);
            self.add_template(policy.id.direction, template);
        }
        match policy.id.direction {
            Direction::Out if policy.is_for_icmp_errors() => {}
            Direction::Out => self.out.packets.extend(packets),
            Direction::In => self.taken.packets.extend(packets),
            Direction::Fwd => self.forwarded.extend(packets),
        }
    }

    /// The user of such a selector is a mark of its direction, and says nothing of the packets.
    fn add_passage(&mut self, direction: Direction, packets: Selector) {
        let packets = Selector { user: 0, ..packets };
        match direction {
            Direction::Out => self.out.excepted.push(packets),
            Direction::In => self.taken.excepted.push(packets),
            Direction::Fwd => {}
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
