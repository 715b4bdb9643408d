//! The hosts that one host forms a pair with, by `[mesh] pairs`.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::model::{GroupName, PeerName};

use super::types::{Config, Members, Pairs, Peer};

/// The hosts that one host forms a pair with: the other sides of the entries that mean it.
///
/// Made once for a host, it answers for each other one without a look at all entries.
#[derive(Debug, Default)]
pub struct Partners<'a> {
    everybody: bool,
    peers: BTreeSet<&'a PeerName>,
    groups: BTreeSet<&'a GroupName>,
}

impl<'a> Partners<'a> {
    fn add(&mut self, members: &'a Members) {
        match members {
            Members::Everybody => self.everybody = true,
            Members::Peer(name) => _ = self.peers.insert(name),
            Members::Group(group) => _ = self.groups.insert(group),
        }
    }

    /// Whether a host is one of them.
    pub fn have(&self, peer: &Peer) -> bool {
        self.everybody
            || self.peers.contains(&peer.name)
            || peer.groups.iter().any(|group| self.groups.contains(group))
    }
}

impl Pairs {
    /// The hosts that a host forms a pair with.
    pub fn partners(&self, one: &Peer) -> Partners<'_> {
        let mut partners = Partners::default();
        match self {
            Self::All => partners.everybody = true,
            Self::Listed(pairs) => {
                for [left, right] in pairs {
                    left.has(one).then(|| partners.add(right));
                    right.has(one).then(|| partners.add(left));
                }
            }
        }
        partners
    }
}

impl Config {
    /// Whether two hosts are a pair, which both of them answer alike. To ask about many pairs of one
    /// host, make its [`Partners`] once.
    pub fn is_pair(&self, one: &Peer, other: &Peer) -> bool {
        self.pairs.partners(one).have(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ShortId, Stage};

    fn peer(name: &str, groups: &[&str]) -> Peer {
        Peer {
            name: PeerName::new(name).unwrap(),
            short_id: ShortId::new(1).unwrap(),
            address: [192, 0, 2, 1].into(),
            public_key: None,
            groups: groups.iter().map(|group| GroupName::new(group).unwrap()).collect(),
            stage: Stage::Enforce,
            outside: None,
            networks: Default::default(),
            inside: Default::default(),
        }
    }

    #[test]
    fn partners_are_the_other_sides_of_all_entries_that_mean_a_host() {
        let name = |name| Members::Peer(PeerName::new(name).unwrap());
        let group = |name| Members::Group(GroupName::new(name).unwrap());
        let pairs = [
            [name("a"), name("b")],
            [group("web"), group("db")],
            [group("log"), group("log")],
            [Members::Everybody, name("hub")],
        ];
        let hosts = [
            peer("a", &[]),
            peer("b", &["web"]),
            peer("c", &["db", "log"]),
            peer("d", &["log"]),
            peer("hub", &[]),
            peer("e", &[]),
        ];
        let listed = Pairs::Listed(pairs.to_vec());
        let by_entries = |one: &Peer, other: &Peer| {
            pairs.iter().any(|[left, right]| {
                left.has(one) && right.has(other) || left.has(other) && right.has(one)
            })
        };
        for one in &hosts {
            let partners = listed.partners(one);
            for other in &hosts {
                assert_eq!(partners.have(other), by_entries(one, other), "{one:?} {other:?}");
                assert_eq!(partners.have(other), listed.partners(other).have(one), "both alike");
                assert!(Pairs::All.partners(one).have(other));
            }
        }
    }
}
