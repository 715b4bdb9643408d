//! New generations under load, hosts moving to each at random moments.
//!
//! A hundred take an emulated machine half an hour, so that there are fewer by
//! default; `MESHSEC_ROTATIONS=100` says how many.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    fixture::{A, B, C, Lab, inner},
    ping::Stream,
    wait::wait_for,
    xfrm,
};

const PORT: u16 = 5001;
const ROTATIONS: u64 = 5;
/// How far apart in a generation the hosts apply.
const SPREAD: Duration = Duration::from_millis(300);

/// A TCP connection through the VXLAN that sends without a pause.
struct Tcp {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<()>,
}

/// What is sent at this place of the stream.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

impl Tcp {
    fn start(lab: &Lab, from: usize, to: usize) -> Self {
        let address = format!("{}:{PORT}", inner(to));
        let listener = lab.host(to).inside(|| TcpListener::bind(&address).expect("a free port"));
        let mut client = lab.host(from).inside(|| TcpStream::connect(&address).expect("a server"));
        let (mut server, _) = listener.accept().expect("a connection");
        server.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
        client.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&received));
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let chunk: Vec<u8> = (sent..sent + 1300).map(byte).collect();
                client.write_all(&chunk).expect("the connection holds");
                sent += 1300;
                // Traffic without a pause would starve an emulated machine.
                thread::sleep(Duration::from_millis(10));
            }
            client.shutdown(Shutdown::Write).expect("the connection holds");
            sent
        });
        let receiver = thread::spawn(move || {
            let (mut at, mut buffer) = (0, vec![0; 65536]);
            loop {
                let length = server.read(&mut buffer).expect("the connection holds");
                if length == 0 {
                    return;
                }
                let wrong = buffer[..length].iter().zip(at..).find(|(is, at)| **is != byte(*at));
                assert!(wrong.is_none(), "not what was sent");
                at += length as u64;
                seen.store(at, Ordering::Relaxed);
            }
        });
        Self { stop, received, sender, receiver }
    }

    fn wait_for_more(&self) {
        let before = self.received.load(Ordering::Relaxed);
        wait_for("more of the TCP stream", || {
            (self.received.load(Ordering::Relaxed) > before).then_some(())
        });
    }

    fn all_arrived(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender has not failed");
        self.receiver.join().expect("the receiver has not failed");
        assert_eq!(self.received.load(Ordering::Relaxed), sent);
    }
}

/// Numbers that differ from run to run, as far as they have to: SplitMix64.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(now.map_or(1, |time| time.as_nanos() as u64))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Every host goes to a generation at a moment of its own.
fn move_all(lab: &Lab, generation: u64, random: &mut Random) {
    let pauses: Vec<Duration> = lab
        .places()
        .map(|_| Duration::from_millis(random.below(SPREAD.as_millis() as u64)))
        .collect();
    lab.write_all(&lab.mesh.of_generation(generation));
    thread::scope(|scope| {
        for (place, pause) in pauses.into_iter().enumerate() {
            scope.spawn(move || {
                thread::sleep(pause);
                lab.apply(place);
            });
        }
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn rotations_at_random_moments_lose_nothing() {
    let rotations = std::env::var("MESHSEC_ROTATIONS").ok().and_then(|text| text.parse().ok());
    let lab = Lab::new(3);
    lab.apply_all();
    let pairs = [(A, B), (B, C), (C, A)];
    pairs.iter().for_each(|&(from, to)| lab.reaches(from, to));
    let counters = || -> Vec<BTreeMap<String, u64>> {
        lab.places().map(|place| xfrm::counters(lab.host(place))).collect()
    };
    let before = counters();
    let capture = lab.capture();
    let floods = pairs.map(|(from, to)| Stream::flood(&lab, from, to));
    let tcp = Tcp::start(&lab, A, B);
    let mut random = Random::new();
    for rotation in 1..=rotations.unwrap_or(ROTATIONS) {
        move_all(&lab, lab.mesh.generation + rotation, &mut random);
        tcp.wait_for_more();
    }
    tcp.all_arrived();
    floods.into_iter().for_each(Stream::lost_nothing);
    let recording = capture.stop();
    recording.has_only_esp(1_000);
    for (before, after) in before.iter().zip(counters()) {
        let mut moved = xfrm::moved(before, &after);
        // A packet on a cached route that a policy change has just dropped.
        let unrouted = moved.remove("XfrmInError").unwrap_or(0);
        println!("XfrmInError moved by {unrouted}");
        assert!(moved.is_empty(), "{moved:?}");
        assert!(unrouted < 10, "XfrmInError moved by {unrouted}");
    }
    lab.places().for_each(|place| lab.has_converged(place));
}
