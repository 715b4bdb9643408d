//! The evidence of a peer's SAs of when it was heard.

use std::{collections::BTreeMap, net::IpAddr};

use super::Case;
use crate::model::{Direction, Generation, OldPairs, PeerName, Sa, SaId, Spi, Time, Usage};

/// A peer is silent that was last heard this many seconds before a packet last
/// left for it. Times of use are whole seconds, and SAs that one apply has made
/// are not made in one second.
const GRACE: u64 = 30;

/// Whether packets come from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was heard, and no packet has left for it long after that.
    Heard,
    /// No packet has ever come, though packets leave.
    Never,
    /// Packets left for it long after it was heard.
    Silent,
    /// No packet has left and none has come.
    Idle,
}

impl Came {
    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Heard => "heard",
            Self::Never => "never_heard",
            Self::Silent => "silent",
            Self::Idle => "idle",
        }
    }
}

/// Packets that SAs refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    /// Older than the replay window.
    pub too_old: u64,
    /// Received before.
    pub replayed: u64,
    /// Under another key.
    pub forged: u64,
}

impl Refused {
    /// All of them.
    pub fn total(self) -> u64 {
        self.too_old + self.replayed + self.forged
    }
}

/// An SA of the mesh, with its use.
#[derive(Debug, Clone)]
pub struct SaEvidence {
    /// Its identity.
    pub id: SaId,
    /// The source of its packets.
    pub src: IpAddr,
    /// In or out, seen from here; `None` where neither end is here.
    pub direction: Option<Direction>,
    /// The generation of the SPI, which tells it modulo 32: the one nearest to that of now.
    pub generation: Generation,
    /// Whether the file wants it.
    pub wanted: bool,
    /// Whether it has extended sequence numbers.
    pub esn: bool,
    /// Its counters and times of use.
    pub usage: Usage,
}

impl SaEvidence {
    fn of(case: &Case<'_>, old: &OldPairs, sa: &Sa, usage: Usage) -> Self {
        let direction = if sa.src == case.local.address {
            Some(Direction::Out)
        } else {
            (sa.id.dst == case.local.address).then_some(Direction::In)
        };
        let wanted = case.desired.sas.get(&sa.id);
        let near = old.generation(sa, case.moment.generation);
        Self {
            id: sa.id,
            src: sa.src,
            direction,
            generation: wanted.map_or(near, |wanted| wanted.generation),
            wanted: wanted.is_some() || case.desired.kept.contains(&sa.id),
            esn: sa.replay.esn,
            usage,
        }
    }

    /// The sequence number sent or received last.
    pub fn number(&self) -> u64 {
        match self.direction {
            Some(Direction::Out) => self.usage.sent,
            Some(Direction::In | Direction::Fwd) | None => self.usage.received,
        }
    }

    /// The part of its 2^32 numbers that an SA without ESN has used, in percent.
    pub fn used_percent(&self) -> Option<u64> {
        (!self.esn).then_some((self.number().saturating_mul(100)) >> 32)
    }

    /// Whether it has ever carried a packet. That the kernel found it for one (`Usage::used`) is
    /// true of forged packets too.
    pub fn is_used(&self) -> bool {
        self.usage.packets > 0 || self.usage.last.is_some()
    }

    /// Whether packets that leave under this SPI leave under this SA.
    pub(super) fn is_outbound(&self, spi: Spi) -> bool {
        self.is(Direction::Out) && self.id.spi == spi
    }

    fn is(&self, direction: Direction) -> bool {
        self.direction == Some(direction)
    }
}

/// SAs of the mesh by the peer at the other end, and those of no peer.
pub(super) fn by_peer(case: &Case<'_>) -> (BTreeMap<PeerName, Vec<SaEvidence>>, Vec<SaEvidence>) {
    let sas: BTreeMap<SaId, &Sa> = case.live.0.sas.iter().map(|sa| (sa.id, sa)).collect();
    let old = OldPairs::of(&case.live.0, case.config.reqid);
    let (mut peers, mut others) = (BTreeMap::<PeerName, Vec<_>>::new(), Vec::new());
    for usage in &case.live.0.usage {
        let Some(sa) = sas.get(&usage.id) else { continue };
        let found = SaEvidence::of(case, &old, sa, *usage);
        let end = match found.direction {
            Some(Direction::Out) => Some(sa.id.dst),
            Some(Direction::In | Direction::Fwd) => Some(sa.src),
            None => None,
        };
        match end.and_then(|end| case.desired.peers.get(&end)) {
            Some(name) => peers.entry(name.clone()).or_default().push(found),
            None => others.push(found),
        }
    }
    let out_first = |sa: &SaEvidence| (!sa.is(Direction::Out), sa.generation);
    peers.values_mut().for_each(|sas| sas.sort_by_key(out_first));
    (peers, others)
}

/// The evidence of a peer's SAs. Kernels before 6.2 tell that an SA was used, and not when it was
/// used last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub came: Came,
    pub sent: Option<Time>,
    pub heard: Option<Time>,
    pub unheard_since: Option<Time>,
    pub under: Option<Generation>,
}

/// The evidence from a peer; packets to it leave under the generation `sends`.
pub(super) fn came(sas: &[SaEvidence], sends: Generation, now: Time) -> Found {
    let (sent_by, heard_by) = (used_last(sas, Direction::Out), used_last(sas, Direction::In));
    let [sent, heard] = [sent_by, heard_by].map(|sa| sa.and_then(|sa| sa.usage.last));
    let lost_since = lost_since(sas, sends).filter(|_| heard_by.is_none());
    let came = match (sent_by.is_some(), heard_by.is_some()) {
        (false, false) => Came::Idle,
        (true, false) if lost_since.is_none() => Came::Never,
        (true, false) => Came::Silent,
        (true | false, true) if is_silent(sent, heard, now) => Came::Silent,
        (true | false, true) => Came::Heard,
    };
    let under = heard_by.filter(|sa| is_news(sa, sas, sends)).map(|sa| sa.generation);
    Found { came, sent, heard, unheard_since: lost_since, under }
}

/// The SA of a direction that was used last; of several the newest generation.
fn used_last(sas: &[SaEvidence], direction: Direction) -> Option<&SaEvidence> {
    let used = sas.iter().filter(|sa| sa.is(direction) && sa.is_used());
    used.max_by_key(|sa| (sa.usage.last, sa.generation))
}

/// Whether packets left long after the last one came.
///
/// A time that lies ahead is of a clock that was put back since, and tells nothing of packets that
/// came after that. An unknown time, where the other is known, lies before all looks: see
/// [`super::Sightings`].
fn is_silent(sent: Option<Time>, heard: Option<Time>, now: Time) -> bool {
    let is_ahead = |time: Time| time.seconds() > now.seconds() + GRACE;
    match (sent, heard) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(sent), Some(heard)) if is_ahead(heard) => !is_ahead(sent),
        (Some(sent), Some(heard)) => sent.seconds() > heard.seconds() + GRACE,
    }
}

/// The time since which no packet has come, where an SA under which one might have was deleted:
/// after two rotations none is left of the generation before the one before. Then the SA of this
/// generation is younger than that of the last.
fn lost_since(sas: &[SaEvidence], sends: Generation) -> Option<Time> {
    let added = |generation| {
        let mut inbound = sas.iter().filter(|sa| sa.is(Direction::In));
        inbound.find(|sa| sa.generation == generation).map(|sa| sa.usage.added)
    };
    let (before, this) = (added(sends.previous()?)?, added(sends)?);
    (this.seconds() > before.seconds() + GRACE).then_some(before)
}

/// Whether the SA was used since packets leave under this generation: a peer that was heard before
/// that may long have followed.
fn is_news(heard_by: &SaEvidence, sas: &[SaEvidence], sends: Generation) -> bool {
    let mut outbound = sas.iter().filter(|sa| sa.is(Direction::Out));
    let out = outbound.find(|sa| sa.generation == sends);
    out.is_some_and(|out| heard_by.usage.last > Some(out.usage.added))
}

/// The packets that inbound SAs refused.
pub(super) fn refused(sas: &[SaEvidence]) -> Refused {
    let sum = |number: fn(&Usage) -> u32| sas.iter().map(|sa| u64::from(number(&sa.usage))).sum();
    Refused {
        too_old: sum(|usage| usage.too_old),
        replayed: sum(|usage| usage.replayed),
        forged: sum(|usage| usage.forged),
    }
}

/// Whole seconds from one time to another; 0 where the first lies ahead.
pub fn seconds_since(time: Time, now: Time) -> u64 {
    now.seconds().saturating_sub(time.seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 100_000;
    const THIS: u64 = 7;

    fn generation(number: u64) -> Generation {
        Generation::new(number).unwrap()
    }

    /// An SA that was added and last used so many seconds ago.
    fn sa(direction: Direction, number: u64, added: u64, last: Option<u64>) -> SaEvidence {
        let id = SaId::esp([192, 0, 2, 1].into(), Spi::from_raw(0x8000_1002));
        let ago = |seconds: u64| Time::from_seconds(NOW - seconds);
        let usage = Usage {
            id,
            sent: 0,
            received: 0,
            bytes: 0,
            packets: last.map_or(0, |_| 1),
            added: ago(added),
            used: last.map(ago),
            last: last.map(ago),
            too_old: 0,
            replayed: 0,
            forged: 0,
        };
        SaEvidence {
            id,
            src: [192, 0, 2, 2].into(),
            direction: Some(direction),
            generation: generation(number),
            wanted: true,
            esn: false,
            usage,
        }
    }

    /// A pair that was made an hour ago.
    fn pair(sent: Option<u64>, heard: Option<u64>) -> Vec<SaEvidence> {
        vec![
            sa(Direction::Out, THIS, 3600, sent),
            sa(Direction::In, THIS - 1, 3600, None),
            sa(Direction::In, THIS, 3600, heard),
            sa(Direction::In, THIS + 1, 3600, None),
        ]
    }

    fn found(sas: &[SaEvidence]) -> Found {
        came(sas, generation(THIS), Time::from_seconds(NOW))
    }

    #[test]
    fn a_peer_is_heard_silent_idle_or_was_never_heard() {
        for (sent, heard, came) in [
            (None, None, Came::Idle),
            (None, Some(3000), Came::Heard),
            (Some(0), None, Came::Never),
            (Some(0), Some(0), Came::Heard),
            (Some(0), Some(30), Came::Heard),
            (Some(0), Some(31), Came::Silent),
            (Some(1000), Some(1031), Came::Silent),
            (Some(3000), Some(0), Came::Heard),
        ] {
            assert_eq!(found(&pair(sent, heard)).came, came, "{sent:?} {heard:?}");
        }
    }

    #[test]
    fn packets_that_were_refused_were_not_heard() {
        let mut sas = pair(Some(0), None);
        // The kernel says of a forged packet too that it has found the SA.
        sas[2].usage.used = Some(Time::from_seconds(NOW));
        sas[2].usage.forged = 9;
        assert_eq!(found(&sas).came, Came::Never);
        assert_eq!(refused(&sas), Refused { forged: 9, ..Refused::default() });
        (sas[1].usage.too_old, sas[2].usage.replayed) = (1, 4);
        assert_eq!(refused(&sas), Refused { too_old: 1, replayed: 4, forged: 9 });
        assert_eq!(refused(&sas).total(), 14);
    }

    /// The kernel forgets packets that were heard two rotations ago.
    #[test]
    fn a_pair_that_rotated_while_it_was_idle_is_no_alarm() {
        let mut sas = pair(None, None);
        sas[0].usage.added = Time::from_seconds(NOW - 600);
        sas[2].usage.added = Time::from_seconds(NOW - 1800);
        sas[3].usage.added = Time::from_seconds(NOW - 600);
        assert_eq!(found(&sas).came, Came::Idle);
        // It sends one packet, which need not be answered.
        (sas[0].usage.packets, sas[0].usage.last) = (1, Some(Time::from_seconds(NOW)));
        let silent = found(&sas);
        assert_eq!(silent.came, Came::Silent, "and not never heard");
        assert_eq!(silent.unheard_since, Some(sas[1].usage.added));
    }

    /// After one rotation the SA of the generation before is there still.
    #[test]
    fn a_pair_that_rotated_once_was_never_heard_if_its_sas_say_so() {
        let mut sas = pair(Some(0), None);
        sas[3].usage.added = Time::from_seconds(NOW - 600);
        assert_eq!(found(&sas).came, Came::Never);
    }

    #[test]
    fn a_peer_that_did_not_follow_is_behind_and_one_that_was_quiet_is_not() {
        let mut sas = pair(Some(0), None);
        sas[0].usage.added = Time::from_seconds(NOW - 60);
        (sas[1].usage.packets, sas[1].usage.last) = (5, Some(Time::from_seconds(NOW - 1)));
        assert_eq!(found(&sas).under, Some(generation(THIS - 1)));
        sas[1].usage.last = Some(Time::from_seconds(NOW - 61));
        assert_eq!(found(&sas).under, None, "it was heard before this host rotated");
    }

    #[test]
    fn a_clock_that_was_put_back_hides_no_silence() {
        let mut sas = pair(Some(0), Some(0));
        let ahead = Some(Time::from_seconds(NOW + 10_000));
        sas[2].usage.last = ahead;
        assert_eq!(found(&sas).came, Came::Silent);
        sas[0].usage.last = ahead;
        assert_eq!(found(&sas).came, Came::Heard, "nothing has left since");
    }

    /// Kernels before 6.2: see [`crate::verdict::Sightings`].
    #[test]
    fn where_the_kernel_does_not_tell_when_it_counts_what_was_seen() {
        let mut sas = pair(Some(0), Some(0));
        (sas[0].usage.last, sas[2].usage.last) = (None, None);
        assert_eq!(found(&sas).came, Came::Heard, "once, and nothing leaves");
        sas[0].usage.last = Some(Time::from_seconds(NOW));
        assert_eq!(found(&sas).came, Came::Silent, "what leaves was seen, and nothing that comes");
        sas[2].usage.last = Some(Time::from_seconds(NOW));
        assert_eq!(found(&sas).came, Came::Heard);
    }
}
