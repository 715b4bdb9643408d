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
    rose: Option<Time>,
}

impl Sightings {
    /// Fills in when SAs were used last, as far as it was seen.
    pub fn complete(&mut self, state: &mut State, now: Time) {
        let untold = |usage: &&mut Usage| usage.last.is_none() && usage.packets > 0;
        for usage in state.usage.iter_mut().filter(untold) {
            let before = self.0.get(&usage.id).filter(|before| before.added == usage.added);
            let rose = match before {
                Some(before) if usage.packets > before.packets => Some(now),
                Some(before) => before.rose,
                None => None,
            };
            let Usage { id, added, packets, .. } = *usage;
            self.0.insert(id, Sighting { added, packets, rose });
            usage.last = rose;
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
    fn what_the_kernel_tells_stays() {
        let mut sightings = Sightings::default();
        let told = Usage { last: Some(Time::from_seconds(50)), ..usage(5) };
        let mut state = State { usage: vec![told], ..State::default() };
        sightings.complete(&mut state, Time::from_seconds(100));
        assert_eq!(state.usage[0], told);
        assert!(!sightings.are_needed());
    }
}
