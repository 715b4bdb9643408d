//! With evidence for each raise, no two hosts are ever two generations apart.
//!
//! Hosts apply the file, lose their SAs, send to each other, or say nothing; snapshots are taken,
//! kept and given, old ones too; the kernels of some hosts do not tell when SAs were used; and
//! somebody tries to raise the file, or to put it back by one, again and again.

use std::{collections::BTreeMap, time::Duration};

use meshsec::{
    config::Config,
    kernel::memory::Memory,
    model::{Generation, Live, Spi, Time},
    plan::{Flow, flow_out},
    verdict::{EvidenceOfHost, Question, Sightings, settle},
};
use proptest::prelude::*;

use crate::{
    cases,
    common::{self, applied, mesh, observe},
};

const ADDRESSES: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
const BEGIN: u64 = 1_768_570_200;

/// One event; numbers pick hosts.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A host applies the file.
    Apply(usize),
    /// A host loses its SAs and policies.
    Lose(usize),
    /// A packet leaves from one host to another.
    Send(usize, usize),
    /// Seconds pass.
    Pass(u64),
    /// A snapshot is taken, and replaces the oldest of three.
    Snapshot(usize),
    /// The file is raised, or put back by one, if the evidence lets it: that of a host's kernel, if
    /// one looks, and of those snapshots that the bits pick.
    Move { up: bool, here: Option<usize>, bits: u16, quiet: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let host = || 0..ADDRESSES.len();
    let up = proptest::bool::weighted(0.8);
    let quiet = proptest::sample::select(vec![0, 0, 20]);
    let bits =
        prop_oneof![any::<u16>(), any::<u16>().prop_map(|bits| bits | bits >> 4), Just(0xffff)];
    let moves = (up, proptest::option::of(host()), bits, quiet)
        .prop_map(|(up, here, bits, quiet)| Event::Move { up, here, bits, quiet });
    prop_oneof![
        6 => host().prop_map(Event::Apply),
        1 => host().prop_map(Event::Lose),
        8 => (host(), host()).prop_map(|(from, to)| Event::Send(from, to)),
        4 => (0..30u64).prop_map(Event::Pass),
        3 => host().prop_map(Event::Snapshot),
        5 => moves,
    ]
}

/// Hosts, and the file that all of them have.
struct World {
    generation: u64,
    seconds: u64,
    kernels: Vec<Memory>,
    /// Whether each kernel tells when its SAs were used.
    tells: Vec<bool>,
    snapshots: Vec<Vec<(Live, Time)>>,
    /// Whether the last move was one back.
    went_back: bool,
}

/// The rule by which a file is moved.
type Rule = fn(&World, Option<usize>, u16, u64) -> bool;

impl World {
    fn new(hosts: usize, tells: u8) -> Self {
        let mut world = Self {
            generation: 30,
            seconds: 0,
            kernels: Vec::new(),
            tells: (0..hosts).map(|host| tells >> host & 1 == 1).collect(),
            snapshots: vec![Vec::new(); hosts],
            went_back: false,
        };
        world.kernels = (0..hosts).map(|host| common::host(&world.file(host))).collect();
        (0..hosts).for_each(|host| world.apply(host));
        world
    }

    fn hosts(&self) -> usize {
        self.tells.len()
    }

    fn now(&self) -> Time {
        Time::from_seconds(BEGIN + self.seconds)
    }

    /// The file, with a host's own peer first.
    fn file(&self, host: usize) -> Config {
        let mut config = mesh(self.generation, &ADDRESSES[..self.hosts()]);
        config.peers.rotate_left(host);
        config
    }

    fn apply(&mut self, host: usize) {
        let (file, now) = (self.file(host), self.now());
        self.kernels[host].set_now(now);
        assert!(applied(&file, &mut self.kernels[host]).is_complete());
    }

    /// The generation under which a host sends to another.
    fn sends(&self, from: usize, to: usize) -> Option<(Spi, u8)> {
        let packet = mesh(1, &[ADDRESSES[from], ADDRESSES[to]]).traffic.selectors(
            meshsec::model::Prefix::host(ADDRESSES[from].parse().unwrap()),
            meshsec::model::Prefix::host(ADDRESSES[to].parse().unwrap()),
        )[0];
        match flow_out(self.kernels[from].state(), &packet) {
            Flow::Protected(spi) => Some((spi, spi.generation_low())),
            Flow::Blocked | Flow::Clear => None,
        }
    }

    /// The generation of a host, if it has one.
    fn generation_of(&self, host: usize) -> Option<u8> {
        let other = (host + 1) % self.hosts();
        self.sends(host, other).map(|(_, generation)| generation)
    }

    /// A packet, which is counted where it leaves and, if an SA takes it, where it arrives.
    fn send(&mut self, from: usize, to: usize) {
        let Some((spi, _)) = self.sends(from, to) else { return };
        let (now, dst) = (self.now(), ADDRESSES[to].parse::<std::net::IpAddr>().unwrap());
        for host in [from, to] {
            let tells = self.tells[host];
            let usage = &mut self.kernels[host].state_mut().usage;
            for usage in usage.iter_mut().filter(|usage| (usage.id.spi, usage.id.dst) == (spi, dst))
            {
                usage.packets += 1;
                usage.last = tells.then_some(now);
            }
        }
    }

    fn observe(&mut self, host: usize) -> Live {
        observe(&mut self.kernels[host])
    }

    fn evidence_settles(&self, here: Option<usize>, bits: u16, quiet: u64) -> bool {
        let config = self.file(0);
        let moment = config.rotation.at(self.now());
        let quiet = Duration::from_secs(quiet);
        let question = Question { config: &config, moment, now: self.now(), quiet };
        let mut looks: BTreeMap<usize, Vec<(Live, Time)>> = BTreeMap::new();
        for host in 0..self.hosts() {
            for (at, look) in self.snapshots[host].iter().enumerate() {
                if bits >> (host * 3 + at) & 1 == 1 {
                    looks.entry(host).or_default().push(look.clone());
                }
            }
        }
        if let Some(here) = here {
            let live = Live(self.kernels[here].state().clone().sorted());
            looks.entry(here).or_default().push((live, self.now()));
        }
        let evidence = looks.into_iter().map(|(host, looks)| {
            let peer = config
                .peers
                .iter()
                .find(|peer| peer.address == ADDRESSES[host].parse::<std::net::IpAddr>().unwrap());
            let mut sightings = Sightings::default();
            let mut last = None;
            for (mut live, taken) in looks {
                sightings.complete(&mut live.0, taken);
                last = Some((live, taken));
            }
            let (live, taken) = last.unwrap();
            EvidenceOfHost::new((&config, moment), peer.unwrap(), (&live, taken), &sightings, None)
        });
        settle(&question, evidence.collect()).is_settled()
    }

    fn happens(&mut self, event: Event, rule: Rule) {
        let host = |number| number % self.tells.len();
        match event {
            Event::Apply(number) => self.apply(host(number)),
            Event::Lose(number) => {
                let state = self.kernels[host(number)].state_mut();
                state.sas.clear();
                state.usage.clear();
                state.policies.clear();
            }
            Event::Send(from, to) if host(from) != host(to) => self.send(host(from), host(to)),
            Event::Send(..) => {}
            Event::Pass(seconds) => self.seconds += seconds,
            Event::Snapshot(number) => {
                let (host, now) = (host(number), self.now());
                let live = self.observe(host);
                self.snapshots[host].push((live, now));
                if self.snapshots[host].len() > 3 {
                    self.snapshots[host].remove(0);
                }
            }
            Event::Move { up, here, bits, quiet } => {
                if rule(self, here.map(host), bits, quiet) {
                    self.generation = if up { self.generation + 1 } else { self.generation - 1 };
                    // As meshsec-rotation(7) asks: snapshots from before a step back, or from before it was
                    // applied everywhere, are of no use afterwards.
                    if !up || self.went_back {
                        self.snapshots.iter_mut().for_each(Vec::clear);
                    }
                    self.went_back = !up;
                }
            }
        }
    }

    /// The hosts that are farthest apart, in generations.
    fn apart(&self) -> u64 {
        let near = |low: u8| {
            let generation = Generation::new(self.generation).unwrap();
            let distance = (u64::from(low) + 64 - generation.get() % 32) % 32;
            if distance > 16 { distance as i64 - 32 } else { distance as i64 }
        };
        let all: Vec<i64> =
            (0..self.hosts()).filter_map(|host| self.generation_of(host)).map(near).collect();
        all.iter().max().zip(all.iter().min()).map_or(0, |(max, min)| max.abs_diff(*min))
    }
}

const BY_EVIDENCE: Rule = World::evidence_settles;

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn with_evidence_for_each_raise_no_two_hosts_are_two_generations_apart(
        hosts in 2..5usize,
        tells in any::<u8>(),
        events in proptest::collection::vec(event(), 0..150),
    ) {
        let mut world = World::new(hosts, tells);
        for event in events {
            world.happens(event, BY_EVIDENCE);
            prop_assert!(world.apart() <= 1, "after {event:?}");
        }
    }
}

/// The property would be empty if nothing were ever raised.
#[test]
fn traffic_or_snapshots_of_all_hosts_are_enough_for_a_raise() {
    let raise = |here, bits| Event::Move { up: true, here, bits, quiet: 10 };
    for tells in [0xff, 0] {
        let mut world = World::new(3, tells);
        for generation in 31..36 {
            // Of two hosts snapshots; the third is heard by one of them.
            let sends = [Event::Pass(1), Event::Send(2, 0), Event::Pass(11)];
            let looks = [Event::Snapshot(0), Event::Snapshot(1)];
            let events = [&sends[..], &looks, &sends, &looks].concat();
            events.into_iter().for_each(|event| world.happens(event, BY_EVIDENCE));
            world.happens(raise(None, 0b111), BY_EVIDENCE);
            assert_eq!(world.generation, generation - 1, "one snapshot alone");
            world.happens(raise(None, 0b111_111), BY_EVIDENCE);
            assert_eq!(world.generation, generation, "tells {tells}");
            (0..3).for_each(|host| world.apply(host));
        }
        // Idle hosts, and two snapshots of each.
        for _ in 0..2 {
            world.seconds += 100;
            (0..3).for_each(|host| world.happens(Event::Snapshot(host), BY_EVIDENCE));
        }
        world.happens(raise(None, 0b011_110_110), BY_EVIDENCE);
        assert_eq!(world.generation, 36, "tells {tells}");
    }
}

#[test]
fn without_evidence_hosts_come_to_be_two_generations_apart() {
    let raise = Event::Move { up: true, here: None, bits: 0, quiet: 0 };
    let mut world = World::new(2, 0xff);
    for event in [raise, Event::Apply(0), raise, Event::Apply(0)] {
        world.happens(event, |_, _, _, _| true);
    }
    assert_eq!(world.apart(), 2);
}
