//! The replacement of version 0.1's SPIs, which had another layout.
//!
//! The SAs to come are added, policies switch to them, and the old ones go, as in a rotation. But
//! the peer has none of the new SAs until it has applied too.

use std::collections::BTreeSet;

use super::{
    change::{Change, Operation},
    sa::SaChange,
};
use crate::model::{Direction, Live, OldPairs, PeerName, Reqid};

/// The peers to which packets leave under another SPI because of its layout.
pub(super) fn cut<'a>(live: &Live, reqid: Reqid, changes: &'a [Change]) -> BTreeSet<&'a PeerName> {
    let old = OldPairs::of(&live.0, reqid);
    let is_cut = |change: &&Change| {
        matches!(&change.operation,
            Operation::Sa(SaChange::Create(wanted) | SaChange::Replace { wanted, .. })
                if wanted.direction == Direction::Out && old.has(&wanted.sa))
    };
    changes.iter().filter(is_cut).filter_map(|change| change.peer.as_ref()).collect()
}
