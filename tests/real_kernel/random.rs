//! Numbers that differ from run to run, and can be had again.

use std::{env, time::SystemTime};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Begins where `MESHSEC_SEED` says, or else somewhere. The test that fails shows where.
    pub fn new() -> Self {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = env::var("MESHSEC_SEED").map_or_else(
            |_| now().map_or(1, |time| time.as_nanos() as u64),
            |text| text.parse().expect("MESHSEC_SEED is a number"),
        );
        println!("MESHSEC_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// One of these.
    pub fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// How often something is done: as the environment says, or else this often.
pub fn how_often(variable: &str, default: u32) -> u32 {
    env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}"))
    })
}
