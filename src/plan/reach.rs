//! The peers with policies that a foreign policy meets, without a look at each.
//!
//! There can be thousands of both. Policies of peers differ in the peer's address alone. So for
//! each form of the other fields they are sorted by that address, and a foreign selector meets a
//! range of them.

use std::{collections::BTreeMap, net::IpAddr, ops::Range, sync::Arc};

use super::stops::Peers;
use crate::{
    desired::Desired,
    model::{Direction, PeerName, Policy, PolicyId, Prefix, Selector},
};

/// The peers, and their policies by form.
pub(super) struct Reach {
    /// By address.
    names: Arc<[PeerName]>,
    forms: BTreeMap<(Direction, Selector), Vec<(IpAddr, usize)>>,
}

/// A selector with any peer in the peer's place.
fn form(direction: Direction, selector: &Selector) -> Selector {
    let any = Prefix::any(selector.src.address);
    match direction {
        Direction::Out => Selector { dst: any, ..*selector },
        Direction::In | Direction::Fwd => Selector { src: any, ..*selector },
    }
}

impl Reach {
    /// From the wanted policies that let no clear text pass. Not from those that were there before an
    /// apply and are to be restored, which may have any form.
    pub(super) fn of_closed(desired: &Desired) -> Self {
        Self::with(desired, |policy| !policy.lets_clear_text_pass())
    }

    /// From the policies for the kind of the mesh alone.
    pub(super) fn without_icmp_errors(desired: &Desired) -> Self {
        Self::with(desired, |policy| !policy.is_for_icmp_errors())
    }

    fn with(desired: &Desired, counts: impl Fn(&Policy) -> bool) -> Self {
        let names: Arc<[PeerName]> = desired.peers.values().cloned().collect();
        let places: BTreeMap<&IpAddr, usize> = desired.peers.keys().zip(0..).collect();
        let mut forms: BTreeMap<_, Vec<(IpAddr, usize)>> = BTreeMap::new();
        let policies = desired.policies.values().map(|wanted| &wanted.policy);
        for policy in policies.filter(|policy| counts(policy)) {
            let PolicyId { direction, selector, .. } = &policy.id;
            let address = policy.id.far_end().address;
            if let Some(place) = places.get(&address) {
                let form = form(*direction, selector);
                forms.entry((*direction, form)).or_default().push((address, *place));
            }
        }
        forms.values_mut().for_each(|peers| peers.sort_unstable());
        Self { names, forms }
    }

    /// The peers with packets that match a foreign policy too.
    pub(super) fn met_by(&self, id: &PolicyId) -> Peers {
        let forms = self.forms.iter().filter(|((direction, form), _)| {
            *direction == id.direction && form.overlaps(&id.selector)
        });
        let far = id.far_end();
        let places = forms.flat_map(|(_, peers)| runs(&peers[within(peers, &far)]));
        Peers::new(&self.names, places.collect())
    }

    /// Whether a foreign policy is for packets of one peer, and no others.
    pub(super) fn is_within_one(&self, id: &PolicyId) -> bool {
        let far = id.far_end();
        let is_host = far == Prefix::host(far.address);
        // Forms of another direction cover none: a peer's address is not this host's.
        is_host
            && self.forms.iter().any(|((direction, form), peers)| {
                *direction == id.direction
                    && form.src.covers(&id.selector.src)
                    && form.dst.covers(&id.selector.dst)
                    && !within(peers, &far).is_empty()
            })
    }
}

/// The places of a prefix's addresses in a sorted list.
fn within(peers: &[(IpAddr, usize)], prefix: &Prefix) -> Range<usize> {
    // An address that is equal to the prefix's own is covered, so that `<` may be `<=` as well.
    let before = |at: &IpAddr| !prefix.covers(&Prefix::host(*at)) && *at < prefix.address;
    let first = peers.partition_point(|(at, _)| before(at));
    let inside = |at: &IpAddr| prefix.covers(&Prefix::host(*at));
    let count = peers[first..].partition_point(|(at, _)| inside(at));
    first..first + count
}

/// Places as ranges: one, where every peer has a policy of the form.
fn runs(peers: &[(IpAddr, usize)]) -> Vec<Range<usize>> {
    let next = |a: &(IpAddr, usize), b: &(IpAddr, usize)| a.1 + 1 == b.1;
    match peers {
        [] => Vec::new(),
        [(_, first), .., (_, last)] if last - first + 1 == peers.len() => {
            std::iter::once(*first..last + 1).collect()
        }
        peers => peers.chunk_by(next).map(|run| run[0].1..run[run.len() - 1].1 + 1).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_as_few_ranges_as_they_can_be() {
        let of = |places: &[usize]| {
            let at = |place: &usize| (IpAddr::from([10, 0, 0, 1]), *place);
            let runs = runs(&places.iter().map(at).collect::<Vec<_>>());
            runs.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[4]), [(4, 5)]);
        assert_eq!(of(&[4, 5, 6]), [(4, 7)]);
        assert_eq!(of(&[1, 2, 5, 6, 9]), [(1, 3), (5, 7), (9, 10)]);
        assert_eq!(of(&[1, 3, 5]), [(1, 2), (3, 4), (5, 6)]);
        assert_eq!(of(&[1, 2, 4]), [(1, 3), (4, 5)]);
    }

    #[test]
    fn a_prefix_is_a_range_of_sorted_addresses() {
        let addresses = ["10.0.0.1", "10.0.1.1", "10.0.1.9", "10.0.2.1", "2001:db8::1"];
        let peers: Vec<(IpAddr, usize)> =
            addresses.iter().zip(0..).map(|(at, place)| (at.parse().unwrap(), place)).collect();
        let range = |address: &str, length| {
            within(&peers, &Prefix { address: address.parse().unwrap(), length })
        };
        assert_eq!(range("10.0.1.0", 24), 1..3);
        // Bits behind the prefix don't count.
        assert_eq!(range("10.0.1.200", 24), 1..3);
        assert_eq!(range("10.0.0.0", 8), 0..4);
        assert_eq!(range("0.0.0.0", 0), 0..4);
        assert_eq!(range("::", 0), 4..5);
        assert_eq!(range("10.0.1.9", 32), 2..3);
        assert!(range("10.0.1.2", 32).is_empty());
        assert!(range("192.0.2.0", 24).is_empty());
        assert!(range("9.0.0.0", 8).is_empty());
    }
}
