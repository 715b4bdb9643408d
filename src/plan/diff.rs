//! Desired x live -> changes.
//!
//! Compares normalised values, never attributes. An object of the mesh that nothing asks for goes;
//! foreign objects are not looked at here.

use std::net::IpAddr;

use super::{chain, change::Change, link, policy, sa};
use crate::{
    desired::Desired,
    model::{Live, PeerName, Reqid},
};

/// All changes, guards and the link first, then by peer, SAs before policies.
pub(super) fn diff(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Change> {
    let mut changes = sa::diff(desired, live, reqid);
    changes.extend(policy::diff(desired, live, reqid));
    changes.extend(chain::diff(desired, &live.0.firewall, reqid));
    changes.extend(link::change(desired, live));
    let rank = |change: &Change| (change.kind().rank(), change.is_discovery());
    changes.sort_by(|a, b| (&a.peer, rank(a)).cmp(&(&b.peer, rank(b))));
    changes
}

/// The peer at the far end, where one end is this host.
pub(super) fn peer_of(desired: &Desired, src: IpAddr, dst: IpAddr) -> Option<&PeerName> {
    match desired.local {
        Some(local) if src == local => desired.peers.get(&dst),
        Some(local) if dst == local => desired.peers.get(&src),
        _ => None,
    }
}
