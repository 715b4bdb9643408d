//! The status of a mesh: peer by peer, the packets that leave, that come, and that were refused.
#![forbid(unsafe_code)]

mod counters;
mod details;
mod named;
mod text;
pub(super) mod wrap;

use std::collections::BTreeMap;

use crate::{
    model::{Direction, SaId, Time, Usage},
    plan::Warning,
    verdict::{Case, Judgement, PeerState, SaEvidence, seconds_since},
};

pub(super) use named::NamedSa;
pub use named::{NamedPeer, NamedStatusView, named_status_text};
pub(super) use text::count;
pub use text::status_text;

/// The parts of a status.
pub struct StatusView<'a> {
    /// The facts that were judged.
    pub case: Case<'a>,
    /// The findings.
    pub judged: &'a Judgement,
    /// `/proc/net/xfrm_stat`, the counters that are not 0.
    pub counters: &'a BTreeMap<String, u64>,
    /// Warnings that aren't the plan's own.
    pub warnings: &'a [Warning],
    /// Whether all known facts about the peers are shown.
    pub details: bool,
    /// The counters of the look before.
    pub before: Option<&'a Sample>,
}

impl StatusView<'_> {
    pub(super) fn all_warnings(&self) -> Vec<&Warning> {
        self.warnings.iter().chain(&self.case.plan.warnings).collect()
    }
}

/// The values of all counters at a moment.
pub struct Sample {
    at: Time,
    counters: BTreeMap<String, u64>,
    usage: BTreeMap<SaId, Usage>,
}

/// The progress of the SAs with a peer between two looks.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    sent: u64,
    heard: u64,
    refused: u64,
}

impl Sample {
    /// The counters of a status.
    pub fn of(view: &StatusView<'_>) -> Self {
        let usage = view.case.live.0.usage.iter().map(|usage| (usage.id, *usage));
        Self { at: view.case.now, counters: view.counters.clone(), usage: usage.collect() }
    }

    /// The time since it was taken, in words.
    fn ago(&self, now: Time) -> String {
        wrap::duration(seconds_since(self.at, now).max(1))
    }

    fn counter(&self, name: &str, now: u64) -> u64 {
        now.saturating_sub(self.counters.get(name).copied().unwrap_or(0))
    }

    fn peer(&self, peer: &PeerState) -> Moved {
        let moved = peer.sas.iter().map(|sa| self.sa(sa));
        moved.fold(Moved::default(), |sum, more| Moved {
            sent: sum.sent + more.sent,
            heard: sum.heard + more.heard,
            refused: sum.refused + more.refused,
        })
    }

    /// An SA that was not there before, or was made anew since, began at 0.
    fn sa(&self, sa: &SaEvidence) -> Moved {
        let before = self.usage.get(&sa.id).filter(|before| before.added == sa.usage.added);
        let packets = sa.usage.packets.saturating_sub(before.map_or(0, |before| before.packets));
        let refused = refused(&sa.usage).saturating_sub(before.map_or(0, refused));
        let out = sa.direction == Some(Direction::Out);
        let (sent, heard) = if out { (packets, 0) } else { (0, packets) };
        Moved { sent, heard, refused }
    }
}

fn refused(usage: &Usage) -> u64 {
    [usage.too_old, usage.replayed, usage.forged].into_iter().map(u64::from).sum()
}
