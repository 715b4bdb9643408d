//! Pings: a few, or a stream in which not one may be lost.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use crate::{capture::MARKER, fixture::Lab, fixture::inner, namespace::Namespace, wait::wait_for};

/// ping, with the marker in its packets.
pub fn command() -> Command {
    let pattern: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut ping = Command::new("ping");
    ping.args(["-n", "-p", &pattern]);
    ping
}

/// Sends `count` pings and returns how many were answered.
pub fn answers(from: &Namespace, to: &str, count: u32) -> u32 {
    let mut ping = command();
    ping.args(["-q", "-i", "0.02", "-W", "1", "-c", &count.to_string(), to]);
    let ran = from.run(&mut ping);
    let received = ran.stdout.split_once(" packets transmitted, ").and_then(|(_, rest)| {
        let digits = rest.split(' ').next()?;
        digits.parse().ok()
    });
    received.unwrap_or_else(|| panic!("no statistics from {ran}"))
}

/// A ping that runs until it is stopped, 25 packets a second each way.
pub struct Stream {
    child: Child,
    to: String,
    answered: Arc<Mutex<BTreeSet<u32>>>,
}

impl Stream {
    /// Starts, and waits for the first answers.
    pub fn start(lab: &Lab, from: usize, to: usize) -> Self {
        let stream = Self::start_unanswered(lab, from, to);
        stream.wait_for_more(3);
        stream
    }

    /// Starts one with 50 packets a second each way, and waits for the first answers.
    pub fn flood(lab: &Lab, from: usize, to: usize) -> Self {
        let stream = Self::every("0.02", lab, from, to);
        stream.wait_for_more(3);
        stream
    }

    /// Starts, whether there are answers or not.
    pub fn start_unanswered(lab: &Lab, from: usize, to: usize) -> Self {
        Self::every("0.04", lab, from, to)
    }

    /// Starts one to an address, and waits for the first answers.
    pub fn between(lab: &Lab, from: usize, to: &str) -> Self {
        let stream = Self::to("0.04", lab, from, to);
        stream.wait_for_more(3);
        stream
    }

    fn every(seconds: &str, lab: &Lab, from: usize, to: usize) -> Self {
        Self::to(seconds, lab, from, &inner(to))
    }

    fn to(seconds: &str, lab: &Lab, from: usize, to: &str) -> Self {
        Self::run(seconds, (lab.host(from), &from.to_string()), to)
    }

    /// Starts one from any namespace, and waits for the first answers.
    pub fn from_to(from: &Namespace, to: &str, seconds: &str) -> Self {
        let stream = Self::run(seconds, (from, &from.0), to);
        stream.wait_for_more(3);
        stream
    }

    fn run(seconds: &str, (from, name): (&Namespace, &str), to: &str) -> Self {
        let mut ping = command();
        ping.args(["-i", seconds, to]);
        ping.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = from.spawn(&mut ping);
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let answered = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&answered);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(number) = sequence_number(&line) {
                    locked(&seen).insert(number);
                }
            }
        });
        Self { child, to: format!("{name} to {to}"), answered }
    }

    /// How many were answered so far.
    pub fn answers(&self) -> usize {
        locked(&self.answered).len()
    }

    /// Waits for answers to packets that are sent from now on.
    pub fn wait_for_more(&self, count: usize) {
        let before = self.answers();
        wait_for(&format!("answers to pings from host {}", self.to), || {
            (self.answers() >= before + count).then_some(())
        });
    }

    /// Stops, and returns the numbers of those packets that got no answer.
    ///
    /// The last ones may be on their way still. So it goes on for a while after all that matters
    /// has happened, and only packets sent up to now count.
    pub fn lost(self) -> Vec<u32> {
        let until = locked(&self.answered).last().copied().unwrap_or(0);
        self.wait_for_more(10);
        let answered = locked(&self.answered);
        (1..=until).filter(|number| !answered.contains(number)).collect()
    }

    /// Stops, and fails if an answer is missing.
    #[track_caller]
    pub fn lost_nothing(self) {
        let to = self.to.clone();
        let lost = self.lost();
        assert!(lost.is_empty(), "pings from host {to} without an answer: {lost:?}");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number in `64 bytes from 10.42.0.2: icmp_seq=7 ttl=64 time=1.2 ms`.
fn sequence_number(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("icmp_seq=")?;
    let digits = rest.split(' ').next()?;
    if line.contains("time=") { digits.parse().ok() } else { None }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
