//! When an SA was used last, on kernels that do not tell.

use std::collections::BTreeMap;

use crate::model::{SaId, State, Time, Usage};

/// The uses of SAs that were seen in several looks at one host.
///
/// Before 6.2, kernels tell when an SA was first used, and how many packets it has carried. Where
/// that number rises from one look to the next, it was used.
#[derive(Debug, Default)]
pub struct Sightings(BTreeMap<SaId, Sighting>);

#[derive(Debug, Clone, Copy)]
struct Sighting {
    added: Time,
    packets: u64,
    /// The first look and the last one.
    looks: [Time; 2],
    /// The looks between which the number rose last.
    rose: Option<[Time; 2]>,
}

/// The time of the last use of an SA, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastUse {
    /// It was not used last before this.
    pub not_before: Time,
    /// It was not used after this.
    pub not_after: Time,
    /// Whether the kernel tells, or a use was seen. Otherwise it was used once, before all looks.
    pub is_seen: bool,
}

impl Sightings {
    /// Fills in when SAs were used last, as far as it was seen.
    pub fn complete(&mut self, state: &mut State, now: Time) {
        let untold = |usage: &&mut Usage| usage.last.is_none() && usage.packets > 0;
        for usage in state.usage.iter_mut().filter(untold) {
            let before = self.0.get(&usage.id).filter(|before| before.added == usage.added);
            let (first, rose) = match before {
                Some(Sighting { looks: [first, last], packets, .. })
                    if usage.packets > *packets =>
                {
                    (*first, Some([*last, now]))
                }
                Some(before) => (before.looks[0], before.rose),
                None => (now, None),
            };
            let Usage { id, added, packets, .. } = *usage;
            self.0.insert(id, Sighting { added, packets, looks: [first, now], rose });
            usage.last = rose.map(|[_, after]| after);
        }
    }

    /// The last use of an SA in a state that was completed; `None` if it has carried no packet.
    pub fn last_use(&self, usage: &Usage) -> Option<LastUse> {
        let seen = |not_before, not_after| LastUse { not_before, not_after, is_seen: true };
        let sighting = self.0.get(&usage.id).filter(|sighting| sighting.added == usage.added);
        match (sighting, usage.last) {
            (Some(Sighting { rose: Some([before, after]), .. }), _) => Some(seen(*before, *after)),
            (_, Some(last)) => Some(seen(last, last)),
            (_, None) if usage.packets == 0 => None,
            (sighting, None) => Some(LastUse {
                not_before: usage.added,
                not_after: sighting.map_or(Time(u64::MAX), |sighting| sighting.looks[0]),
                is_seen: false,
            }),
        }
    }

    /// Whether a kernel was seen that does not tell when SAs were used last.
    pub fn are_needed(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Spi;

    fn usage(packets: u64) -> Usage {
        Usage {
            id: SaId::esp([192, 0, 2, 1].into(), Spi::from_raw(0x8400_1002)),
            sent: 0,
            received: 0,
            bytes: 0,
            packets,
            added: Time::from_seconds(1),
            used: Some(Time::from_seconds(2)),
            last: None,
            too_old: 0,
            replayed: 0,
            forged: 0,
        }
    }

    #[test]
    fn an_sa_was_used_when_its_packets_have_become_more() {
        let mut sightings = Sightings::default();
        let mut look = |packets, second| {
            let mut state = State { usage: vec![usage(packets)], ..State::default() };
            sightings.complete(&mut state, Time::from_seconds(second));
            state.usage[0].last.map(Time::seconds)
        };
        assert_eq!(look(5, 100), None, "one look tells nothing");
        assert_eq!(look(5, 102), None);
        assert_eq!(look(7, 104), Some(104));
        assert_eq!(look(7, 106), Some(104));
    }

    #[test]
    fn the_last_use_lies_between_two_looks() {
        let mut sightings = Sightings::default();
        let time = Time::from_seconds;
        let mut look = |packets, second| {
            let mut state = State { usage: vec![usage(packets)], ..State::default() };
            sightings.complete(&mut state, time(second));
            let last = sightings.last_use(&state.usage[0])?;
            Some((last.not_before.seconds(), last.not_after.seconds(), last.is_seen))
        };
        assert_eq!(look(0, 100), None, "it has carried nothing");
        assert_eq!(look(5, 110), Some((1, 110, false)), "at any time since it was added");
        assert_eq!(look(5, 120), Some((1, 110, false)));
        assert_eq!(look(6, 130), Some((120, 130, true)));
        assert_eq!(look(6, 140), Some((120, 130, true)));
        let told = Usage { last: Some(time(50)), added: time(2), ..usage(5) };
        let last = sightings.last_use(&told).unwrap();
        assert_eq!((last.not_before, last.not_after), (time(50), time(50)), "another SA");
    }

    #[test]
    fn what_the_kernel_tells_stays() {
        let mut sightings = Sightings::default();
        let told = Usage { last: Some(Time::from_seconds(50)), ..usage(5) };
        let mut state = State { usage: vec![told], ..State::default() };
        sightings.complete(&mut state, Time::from_seconds(100));
        assert_eq!(state.usage[0], told);
        assert!(!sightings.are_needed());
    }
}
