//! The layout of the SPIs between two peers.
//!
//! Version 0.1 had seven bits for the generation, where five are today and two for the lane. One SPI
//! alone doesn't tell its layout: that of generation 4 in version 0.1 is that of generation 1 today.
//! But two peers have SAs of generations in a row, of which one at least leaves a bit in the lane,
//! and no SPI of today has one. So it tells the layout of all SAs between them.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Generation, Reqid, Sa, ShortId, Spi, State};

/// The two ends of an SA, in order.
type Ends = [(IpAddr, ShortId); 2];

/// Pairs of peers with SAs that version 0.1 has made.
#[derive(Debug, Default)]
pub struct OldPairs(BTreeSet<Ends>);

impl OldPairs {
    /// Those of the mesh with this reqid.
    pub fn of(state: &State, reqid: Reqid) -> Self {
        let sas = state.sas_of(reqid).filter(|sa| !sa.is_larval());
        Self(sas.filter(|sa| sa.id.spi.has_old_layout()).map(ends).collect())
    }

    /// Whether an SA is of such a pair.
    pub fn has(&self, sa: &Sa) -> bool {
        self.0.contains(&ends(sa))
    }

    /// The generation of an SA, as far as its SPI tells: the one nearest to that of now.
    pub fn generation(&self, sa: &Sa, now: Generation) -> Generation {
        let (low, cycle) = self.generation_low(sa);
        now.nearest(low, cycle)
    }

    /// The generation in the SPI of an SA, and the number that it is modulo.
    pub fn generation_low(&self, sa: &Sa) -> (u8, u8) {
        let spi = sa.id.spi;
        match self.has(sa) {
            true => (spi.generation_low_in_version_0_1(), Spi::CYCLE_OF_VERSION_0_1),
            false => (spi.generation_low(), Spi::CYCLE),
        }
    }
}

fn ends(sa: &Sa) -> Ends {
    let mut ends = [(sa.src, sa.id.spi.from()), (sa.id.dst, sa.id.spi.to())];
    ends.sort();
    ends
}
