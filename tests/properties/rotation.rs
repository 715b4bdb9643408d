//! Hosts that rotate by the clock always have a generation in common.
//!
//! Every host has a timer that is late, a clock that is off, runs that fail or end half-way, and
//! reboots; all plans are the program's own, performed on kernels in memory. What happens to one
//! pair depends on its two hosts alone (`hosts_want_what_their_pairs_want_together`), and on their
//! timetables, which are random. So a mesh of thousands of hosts is looked at by a sample of its
//! pairs: each host with the next one, and with one that is picked.
//!
//! ```sh
//! MESHSEC_HOSTS=4096 MESHSEC_PERIODS=12 cargo test --release --test properties common_generation
//! ```

use std::env;

use meshsec::{
    compare::{Asked, Fate, way},
    config::{Config, Peer, Rotation},
    kernel::memory::Memory,
    model::{PeerName, Period, Replay, ShortId, State, Time},
};

use crate::common::{applied, host, mesh};

/// The length of a generation, and the time from one run of the timer to the next, in seconds.
const PERIOD: u64 = 3600;
const TIMER: u64 = PERIOD / 4;
/// A run is late by less than this.
const JITTER: u64 = 120;
/// A clock is off by at most this, so that two differ by at most twice as much.
const SKEW: i64 = 240;
/// Runs in a row that may fail: with one more, a host is late by a period.
const FAILURES: u32 = 2;
/// When the first period begins that is looked at.
const BEGIN: u64 = 491_269 * PERIOD;

/// The promise of the manual: the age of a run and the difference of two clocks are together less
/// than a period.
const _: () = assert!(TIMER * (FAILURES as u64 + 1) + JITTER + 2 * SKEW as u64 <= PERIOD);

/// Random numbers that are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

/// What a host does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It applies the file.
    Apply,
    /// The run never begins.
    Late,
    /// The run ends after some requests of one of its calls.
    Dies { call: usize, requests: usize },
    /// It loses all objects, and applies the file before its network is up.
    Reboot,
}

/// A host's events with their true times, and how far its clock is off.
struct Timetable {
    skew: i64,
    events: Vec<(u64, Event)>,
}

impl Timetable {
    /// That of a host, the same for all its pairs.
    fn of(host: u64, periods: u64, bounds: Bounds) -> Self {
        let mut random = Random(host << 32 ^ 0x6d65_7368);
        let skew = random.below(2 * SKEW as u64 + 1) as i64 - SKEW;
        let phase = random.below(TIMER);
        let mut events = Vec::new();
        let mut failed = 0;
        for run in 0..periods * PERIOD / TIMER {
            let at = BEGIN + run * TIMER + phase + random.below(JITTER);
            let event = match random.below(32) {
                fails @ 0..=11 if bounds == Bounds::Broken || failed < FAILURES => match fails {
                    0..=3 => Event::Late,
                    _ => Event::Dies {
                        call: random.below(3) as usize,
                        requests: random.below(12) as usize,
                    },
                },
                12 => Event::Reboot,
                _ => Event::Apply,
            };
            failed = match event {
                Event::Late | Event::Dies { .. } => failed + 1,
                Event::Apply | Event::Reboot => 0,
            };
            events.push((at, event));
        }
        Self { skew, events }
    }

    /// The time by the host's own clock.
    fn local(&self, at: u64) -> Time {
        Time::from_seconds(at.saturating_add_signed(self.skew))
    }
}

/// Whether hosts keep to what the manual asks of timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounds {
    Kept,
    Broken,
}

fn peer(number: u16) -> Peer {
    let mut config = mesh(0, &["192.0.2.1"]);
    let mut peer = config.peers.pop().unwrap();
    peer.name = PeerName::new(&format!("p{number}")).unwrap();
    peer.short_id = ShortId::new(number).unwrap();
    peer.address = [10, 1, (number >> 8) as u8, number as u8].into();
    peer
}

/// One host of a mesh, with its kernel.
struct Member {
    /// The file, with this host first.
    file: Config,
    kernel: Memory,
    timetable: Timetable,
}

impl Member {
    fn new(hosts: &[u16], place: usize, periods: u64, bounds: Bounds) -> Self {
        let mut file = mesh(0, &["192.0.2.1"]);
        file.peers = hosts.iter().map(|number| peer(*number)).collect();
        file.peers.swap(0, place);
        file.rotation = Rotation::Period(Period::new(PERIOD).unwrap());
        file.esp.replay = Replay { window: 64, esn: true };
        let timetable = Timetable::of(hosts[place].into(), periods, bounds);
        let kernel = host(&file);
        let mut member = Self { file, kernel, timetable };
        member.happens(BEGIN, Event::Reboot);
        member
    }

    fn happens(&mut self, at: u64, event: Event) {
        match event {
            Event::Late => return,
            Event::Apply => {}
            Event::Dies { call, requests } => self.kernel.lose(call, requests),
            Event::Reboot => self.kernel = host(&self.file),
        }
        self.kernel.set_now(self.timetable.local(at));
        let report = applied(&self.file, &mut self.kernel);
        match event {
            // What was not lost is not to be lost later.
            Event::Dies { .. } => self.kernel = Memory::holding(self.kernel.state().clone()),
            Event::Late | Event::Apply | Event::Reboot => assert!(report.is_complete()),
        }
    }

    /// The state at a time: SAs whose lifetime is over are gone.
    fn state(&self, at: u64) -> State {
        let now = self.timetable.local(at);
        let mut state = self.kernel.state().clone();
        state.sas.retain(|sa| sa.ends.is_none_or(|end| end > now));
        state.sorted()
    }
}

/// The fates of packets, both ways, between all hosts of a small mesh, at each event of one.
fn fates(hosts: &[u16], periods: u64, bounds: Bounds, mut each: impl FnMut(u64, Fate)) -> usize {
    let member = |place| Member::new(hosts, place, periods, bounds);
    let mut members: Vec<Member> = (0..hosts.len()).map(member).collect();
    let of = |(place, member): (usize, &Member)| {
        member.timetable.events.iter().map(|(at, event)| (*at, place, *event)).collect::<Vec<_>>()
    };
    let mut events: Vec<(u64, usize, Event)> = members.iter().enumerate().flat_map(of).collect();
    events.sort_unstable_by_key(|(at, place, _)| (*at, *place));
    for (at, place, event) in &events {
        // Right before, when lifetimes are longest over, and right after.
        ways(&members, *at, *place, &mut each);
        members[*place].happens(*at, *event);
        ways(&members, *at, *place, &mut each);
    }
    events.len()
}

/// The fates of packets between one host and all others.
fn ways(members: &[Member], at: u64, place: usize, each: &mut impl FnMut(u64, Fate)) {
    let here = &members[place];
    let (config, here_now) = (&here.file, here.state(at));
    let mut asked = Asked::new(&here.file.peers[0], &here_now);
    for (_, other) in members.iter().enumerate().filter(|(other, _)| *other != place) {
        let there_now = other.state(at);
        let mut there = Asked::new(&other.file.peers[0], &there_now);
        each(at, way(config, &mut asked, &mut there).fate);
        each(at, way(config, &mut there, &mut asked).fate);
    }
}

fn number(name: &str, or: u64) -> u64 {
    env::var(name).map_or(or, |text| text.parse().unwrap())
}

/// Pairs of a large mesh, as hosts by number.
fn sample(hosts: u16) -> impl Iterator<Item = [u16; 2]> {
    let mut random = Random(7);
    (0..hosts).flat_map(move |host| {
        let far = (host + 2 + random.below(u64::from(hosts) - 3) as u16) % hosts;
        [[host, (host + 1) % hosts], [host, far]]
    })
}

#[test]
fn hosts_within_the_bounds_always_have_a_common_generation() {
    let (hosts, periods) = (number("MESHSEC_HOSTS", 24), number("MESHSEC_PERIODS", 5));
    let (mut runs, mut looks) = (0, 0u64);
    for pair in sample(hosts.try_into().unwrap()) {
        runs += fates(&pair, periods, Bounds::Kept, |at, fate| {
            looks += 1;
            assert!(matches!(fate, Fate::Encrypted(_)), "{pair:?} at {}: {fate}", at - BEGIN);
        });
    }
    println!("{hosts} hosts, {periods} periods: {runs} runs, {looks} looks at packets");
}

/// A pair is no better off with more hosts around it.
#[test]
fn all_pairs_of_a_small_mesh_have_a_common_generation() {
    fates(&[0, 1, 7, 64, 4095], 3, Bounds::Kept, |at, fate| {
        assert!(matches!(fate, Fate::Encrypted(_)), "at {}: {fate}", at - BEGIN);
    });
}

/// The bounds are needed, and beyond them packets are lost and never in the clear.
#[test]
fn hosts_beyond_the_bounds_are_cut_off_and_never_in_the_clear() {
    let mut lost = 0;
    for host in 0..40 {
        fates(&[host, host + 100], 6, Bounds::Broken, |at, fate| match fate {
            Fate::Encrypted(_) => {}
            Fate::Clear | Fate::ClearRefused => panic!("{host} at {}: {fate}", at - BEGIN),
            Fate::Blocked
            | Fate::NoSa(_)
            | Fate::Unfit(..)
            | Fate::NoSocket(_)
            | Fate::EncryptedRefused(_) => lost += 1,
        });
    }
    assert!(lost > 0, "a timer that is late by periods cuts its host off");
}
