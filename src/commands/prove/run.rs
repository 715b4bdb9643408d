//! Sending the probes and capturing meanwhile.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::fill;
use crate::{
    cli::ProveArgs,
    config::Config,
    desired::Desired,
    error::Error,
    kernel::linux::{
        capture::{Capture, OnDevice},
        probe::Sender,
    },
    verdict::proof::{
        Account, Captured, GuardProof, Marked, Pair, PeerProof, Probe, Randomness, RunMark, Seen,
        Sending, Sent, Watch, control, judge_pair, passing, probe,
    },
};

/// The time between two packets: a thousand in a second, however many peers there are.
const BETWEEN_PACKETS: Duration = Duration::from_millis(1);
/// The time between two probes to one peer, at least.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(50);

/// Everything that sending takes.
pub(super) struct Run<'a> {
    pub(super) config: &'a Config,
    pub(super) pairs: &'a [Pair],
    pub(super) desired: &'a Desired,
    /// The destination of a packet that has to be blocked.
    pub(super) stranger: Option<IpAddr>,
    pub(super) capture: Capture,
    pub(super) sender: Sender,
}

/// The outcome.
pub(super) struct Outcome {
    sent: Vec<Sent>,
    seen: Vec<Seen>,
    pub(super) account: Account,
    pub(super) guard: Option<GuardProof>,
}

impl Outcome {
    /// The verdicts on all peers.
    pub(super) fn peers<'a>(&'a self, pairs: &'a [Pair]) -> Vec<PeerProof<'a>> {
        let all = pairs.iter().zip(&self.sent).zip(&self.seen);
        all.map(|((pair, sent), seen)| judge_pair(pair, sent, seen, self.account)).collect()
    }
}

impl Run<'_> {
    /// Sends rounds of probes, then a packet to each peer that is meant to be seen, then the one that
    /// is to be blocked, and waits.
    pub(super) fn send_and_judge(mut self, args: &ProveArgs) -> Result<Outcome, Error> {
        let mut run: RunMark = [0; 16];
        fill(&mut run)?;
        let mut watch = Watch::new(self.pairs, run, passing(self.desired));
        let mut sent = vec![Sent::default(); self.pairs.len()];
        for round in 0..args.count {
            for (number, sent) in sent.iter_mut().enumerate() {
                self.send_probe(&mut watch, run, (number, round), sent)?;
            }
            self.look(&mut watch, BETWEEN_ROUNDS)?;
        }
        for number in 0..self.pairs.len() {
            self.send_control(&mut watch, run, number)?;
        }
        let refused = self.send_to_stranger(&mut watch, run)?;
        self.look(&mut watch, args.wait)?;
        self.capture.drain(&mut taking(&mut watch))?;
        let lost = self.capture.lost()?;
        let account = Account { packets: watch.packets, lost, stray: watch.stray };
        let guard = self.stranger.map(|address| GuardProof::new(address, refused, watch.guard));
        Ok(Outcome { sent, seen: watch.seen, account, guard })
    }

    fn look(&mut self, watch: &mut Watch<'_>, time: Duration) -> Result<(), Error> {
        Ok(self.capture.read(Instant::now() + time, &mut taking(watch))?)
    }

    /// Random numbers for a packet, which the watch knows from now on.
    fn mark(
        &self,
        watch: &mut Watch<'_>,
        run: RunMark,
        marked: Marked,
    ) -> Result<Randomness, Error> {
        let (mut probe, mut vni) = ([0; 16], [0; 4]);
        fill(&mut probe)?;
        fill(&mut vni)?;
        watch.expect(probe, marked);
        Ok(Randomness { run, probe, vni: u32::from_ne_bytes(vni) })
    }

    fn send_probe(
        &mut self,
        watch: &mut Watch<'_>,
        run: RunMark,
        (number, round): (usize, u8),
        sent: &mut Sent,
    ) -> Result<(), Error> {
        let random = self.mark(watch, run, Marked::Probe(number))?;
        // Peers begin at different lengths, and those of one peer differ.
        let length = usize::from(run[0]) + number + usize::from(round);
        let probe = probe(self.config, length, &random);
        match self.send(self.pairs[number].address, &probe) {
            Ok(()) => {
                sent.taken += 1;
                sent.lengths.extend(probe.esp_length());
            }
            Err(errno) => *sent.refused.entry(errno).or_default() += 1,
        }
        self.look(watch, BETWEEN_PACKETS)
    }

    /// A refusal of this one tells nothing of the mesh.
    fn send_control(
        &mut self,
        watch: &mut Watch<'_>,
        run: RunMark,
        number: usize,
    ) -> Result<(), Error> {
        let random = self.mark(watch, run, Marked::Control(number))?;
        if let Some(control) = control(self.config, &random) {
            let _ = self.send(self.pairs[number].address, &control);
            self.look(watch, BETWEEN_PACKETS)?;
        }
        Ok(())
    }

    /// The error number, if the kernel refuses the packet that has to be blocked.
    fn send_to_stranger(
        &mut self,
        watch: &mut Watch<'_>,
        run: RunMark,
    ) -> Result<Option<String>, Error> {
        let Some(address) = self.stranger else { return Ok(None) };
        let random = self.mark(watch, run, Marked::Guard)?;
        Ok(self.send(address, &probe(self.config, 0, &random)).err())
    }

    fn send(&mut self, address: IpAddr, probe: &Probe) -> Result<(), String> {
        match probe.sending {
            Sending::Datagram(port) => {
                self.sender.datagram(SocketAddr::new(address, port), &probe.payload)
            }
            Sending::Connect(port) => self.sender.connect(SocketAddr::new(address, port)),
        }
    }
}

fn taking(watch: &mut Watch<'_>) -> impl FnMut(&OnDevice<'_>) {
    |packet| {
        let OnDevice { device, leaves, bytes } = *packet;
        watch.take(&Captured { device, leaves, bytes });
    }
}
