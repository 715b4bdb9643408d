//! The peers that a conflict stops.
//!
//! One foreign policy can stand in the way of thousands of peers, and there can be thousands of
//! such policies. So the peers of a conflict are a few ranges of one list of names, which all
//! conflicts share.

use std::{collections::BTreeMap, fmt, iter, ops::Range, sync::Arc};

use crate::model::PeerName;

/// The number of names that are shown before the rest is counted.
pub const NAMES_SHOWN: usize = 8;

/// The peers that a conflict stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stops {
    /// All peers: it concerns an object that all need, such as a guard.
    All,
    /// These peers.
    Peers(Peers),
}

/// Names that several share.
type List = Arc<[PeerName]>;

/// Places in such a list.
type Ranges = Vec<Range<usize>>;

/// Peers, by where they are in a list.
#[derive(Debug, Clone)]
pub struct Peers {
    list: List,
    /// In order, and apart from each other.
    ranges: Ranges,
}

impl Stops {
    /// One peer alone.
    pub fn peer(name: &PeerName) -> Self {
        Self::Peers(Peers::new(&Arc::from([name.clone()]), iter::once(0..1).collect()))
    }

    /// No peer: it stops an object of none, such as the MTU of a device.
    pub fn nobody() -> Self {
        Self::Peers(Peers::new(&Arc::from([]), Ranges::new()))
    }

    /// The peers that it stops, none of them twice; `None` if it stops all.
    pub fn peers(&self) -> Option<&Peers> {
        match self {
            Self::All => None,
            Self::Peers(peers) => Some(peers),
        }
    }

    /// Whether it stops this peer.
    pub fn covers(&self, peer: &PeerName) -> bool {
        self.peers().is_none_or(|peers| peers.iter().any(|other| other == peer))
    }
}

impl Peers {
    /// Those in some ranges of a list, which may overlap.
    pub(super) fn new(list: &List, mut ranges: Ranges) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let mut merged = Ranges::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self { list: Arc::clone(list), ranges: merged }
    }

    /// Their names, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &PeerName> {
        self.ranges.iter().flat_map(|range| &self.list[range.clone()])
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first names, and how many more there are.
    pub fn listed(&self) -> String {
        let names: Vec<&str> = self.iter().take(NAMES_SHOWN).map(PeerName::as_str).collect();
        match self.len().saturating_sub(NAMES_SHOWN) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }

    /// The union of several, without a look at each name as often as it is named.
    pub(super) fn union<'p>(several: impl Iterator<Item = &'p Self>) -> Vec<Self> {
        let mut lists: BTreeMap<*const PeerName, (List, Ranges)> = BTreeMap::new();
        for peers in several {
            let list = || (Arc::clone(&peers.list), Ranges::new());
            let (_, ranges) = lists.entry(peers.list.as_ptr()).or_insert_with(list);
            ranges.extend(peers.ranges.iter().cloned());
        }
        lists.into_values().map(|(list, ranges)| Self::new(&list, ranges)).collect()
    }
}

impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Peers {}

/// In words: `peer b`, `peers b, c and 7 more`, or `no peer`.
impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no peer");
        }
        write!(f, "{} {}", if self.len() == 1 { "peer" } else { "peers" }, self.listed())
    }
}

/// In words: `all`, or which peers.
impl fmt::Display for Stops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Peers(peers) => peers.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> List {
        (0..count).map(|at| PeerName::new(&format!("p{at}")).unwrap()).collect()
    }

    #[test]
    fn ranges_that_overlap_name_nobody_twice() {
        let list = names(10);
        let peers = Peers::new(&list, vec![4..6, 0..2, 5..7, 3..3]);
        assert_eq!(peers.len(), 5);
        assert_eq!(peers.to_string(), "peers p0, p1, p4, p5, p6");
        assert_eq!(peers, Peers::new(&list, vec![0..2, 4..7]));
        assert_ne!(peers, Peers::new(&list, vec![0..2, 0..1]));
        assert_ne!(peers, Peers::new(&list, vec![0..2, 5..8]));
        assert_eq!(Stops::peer(&list[3]), Stops::Peers(Peers::new(&list, vec![3..4, 3..3])));
        let [one, another] = [3, 4].map(|at| Stops::peer(&list[3]).covers(&list[at]));
        assert!(one && !another && Stops::All.covers(&list[4]));
    }

    #[test]
    fn many_names_are_counted() {
        let peers = Peers::new(&names(2000), vec![0..2000, 0..1]);
        assert_eq!(peers.to_string(), "peers p0, p1, p2, p3, p4, p5, p6, p7 and 1992 more");
    }

    #[test]
    fn a_union_has_each_list_once() {
        let list = names(9);
        let each = [0..3, 2..5, 7..9].map(|range| Peers::new(&list, vec![0..0, range]));
        let [union] = &Peers::union(each.iter())[..] else { panic!("one list") };
        assert_eq!(*union, Peers::new(&list, vec![0..5, 7..9]));
    }
}
