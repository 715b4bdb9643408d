//! Identifiers: names, ShortIDs, generations, SPIs and reqids.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::number;

/// The name of a mesh: 1 to 32 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MeshName(String);

impl MeshName {
    /// Checks length and characters; `None` if either is wrong.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        ((1..=32).contains(&name.len()) && name.bytes().all(allowed)).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a peer: 1 to 63 of `a-z`, `0-9`, `.` and `-`. Ten objects of each pair share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerName(Arc<str>);

impl PeerName {
    /// Checks length and characters; `None` if either is wrong.
    pub fn new(name: &str) -> Option<Self> {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        ((1..=63).contains(&name.len()) && name.bytes().all(allowed)).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a group of peers, of the same characters as that of a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupName(PeerName);

impl GroupName {
    /// Checks length and characters; `None` if either is wrong.
    pub fn new(name: &str) -> Option<Self> {
        PeerName::new(name).map(Self)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer's number in its mesh, 0 to 4095: twelve bits of every SPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortId(u16);

impl ShortId {
    /// The largest ShortID.
    pub const MAX: u16 = 4095;

    /// `None` above [`ShortId::MAX`].
    pub fn new(value: u16) -> Option<Self> {
        (value <= Self::MAX).then_some(Self(value))
    }

    /// The number, 0 to 4095.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a set of keys, raised to rotate them. At most [`Generation::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Generation(u64);

impl Generation {
    /// The largest TOML integer, less one for the generation after it.
    pub const MAX: u64 = i64::MAX as u64 - 1;

    /// `None` above [`Generation::MAX`].
    pub fn new(value: u64) -> Option<Self> {
        (value <= Self::MAX).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The generation before; generation 0 has none.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// The generation after.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The generation nearest to this one with a number that is `low` modulo `cycle`. An SPI tells
    /// no more of a generation.
    pub(super) fn nearest(self, low: u8, cycle: u8) -> Self {
        let cycle = u64::from(cycle);
        let ahead = (u64::from(low) + cycle - self.0 % cycle) % cycle;
        if ahead > cycle / 2 && self.0 + ahead >= cycle {
            Self(self.0 + ahead - cycle)
        } else {
            Self(self.0 + ahead)
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A security parameters index, in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spi(u32);

impl Spi {
    /// The number of generations that SPIs tell apart.
    pub const CYCLE: u8 = 32;
    /// The number of generations that the SPIs of version 0.1 tell apart.
    pub const CYCLE_OF_VERSION_0_1: u8 = 128;

    /// The SPI for packets `from` one peer `to` another in a generation, in lane 0:
    /// `0x80000000 | (generation mod 32) << 26 | lane << 24 | from << 12 | to`.
    ///
    /// The two bits of the lane leave room for four SAs a pair.
    pub fn new(generation: Generation, from: ShortId, to: ShortId) -> Self {
        let low = (generation.get() % u64::from(Self::CYCLE)) as u32;
        Self(0x8000_0000 | low << 26 | u32::from(from.get()) << 12 | u32::from(to.get()))
    }

    /// An SPI as the kernel has it.
    pub fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number, in host byte order.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// Whether the top bit is set, as it is in every SPI of a mesh.
    pub fn is_mesh(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }

    /// The generation modulo [`Spi::CYCLE`].
    pub fn generation_low(self) -> u8 {
        (self.0 >> 26 & 0x1f) as u8
    }

    /// The generation modulo [`Spi::CYCLE_OF_VERSION_0_1`], if version 0.1 has made the SPI:
    /// `0x80000000 | (generation mod 128) << 24 | from << 12 | to`.
    pub fn generation_low_in_version_0_1(self) -> u8 {
        (self.0 >> 24 & 0x7f) as u8
    }

    /// The lane, 0 to 3. [`Spi::new`] makes SPIs of lane 0 alone.
    pub fn lane(self) -> u8 {
        (self.0 >> 24 & 3) as u8
    }

    /// Whether the lane tells that version 0.1 has made it for a pair. The trial SA of a killed run
    /// is an SA of a host to itself, and tells nothing.
    pub(super) fn has_old_layout(self) -> bool {
        self.is_mesh() && self.lane() != 0 && self.from() != self.to()
    }

    /// The sender's ShortID.
    pub fn from(self) -> ShortId {
        ShortId((self.0 >> 12 & 0xfff) as u16)
    }

    /// The receiver's ShortID.
    pub fn to(self) -> ShortId {
        ShortId((self.0 & 0xfff) as u16)
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Spi> for String {
    fn from(spi: Spi) -> Self {
        spi.to_string()
    }
}

impl TryFrom<String> for Spi {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let hex = text.starts_with("0x").then(|| number(&text)).flatten();
        hex.map(Self).ok_or("an SPI is 0x and up to 8 hex digits")
    }
}

/// The request id that ties SAs and templates together, and marks the mesh's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reqid(pub u32);

impl Reqid {
    /// The smallest that a mesh may have: other programs number theirs from 1.
    pub const MIN: Self = Self(0x10000);

    /// The reqid of a mesh with this name whose file gives none. 0x4d53 is "MS"; the name's hash
    /// keeps meshes on one host apart.
    pub fn of_name(name: &MeshName) -> Self {
        let digest = Sha256::digest(name.as_str().as_bytes());
        Self(0x4d53_0000 | u32::from(digest[0]) << 8 | u32::from(digest[1]))
    }
}

/// A mesh without its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMesh {
    /// Its name, if that was given.
    pub name: Option<MeshName>,
    /// Its reqid, by which its objects are known.
    pub reqid: Reqid,
}

impl fmt::Display for NamedMesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}, reqid {}", self.reqid),
            None => write!(f, "with reqid {}", self.reqid),
        }
    }
}

impl fmt::Display for Reqid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Reqid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(value: u64) -> Generation {
        Generation::new(value).unwrap()
    }

    #[test]
    fn an_spi_holds_generation_lane_and_both_short_ids() {
        let id = |value| ShortId::new(value).unwrap();
        assert_eq!(Spi::new(generation(1), id(1), id(2)).raw(), 0x8400_1002);
        assert_eq!(Spi::new(generation(33), id(4095), id(0)).raw(), 0x84ff_f000);
        assert_eq!(Spi::new(generation(31), id(1), id(2)).raw(), 0xfc00_1002);
        let spi = Spi::new(generation(31), id(7), id(9));
        assert_eq!((spi.generation_low(), spi.lane()), (31, 0));
        assert_eq!((spi.from(), spi.to()), (id(7), id(9)));
        assert_eq!(Spi::from_raw(0x8600_1002).lane(), 2);
        assert_eq!(Spi::from_raw(0x8600_1002).generation_low(), 1);
        assert_eq!(Spi::from_raw(0x8600_1002).generation_low_in_version_0_1(), 6);
    }

    #[test]
    fn generation_0_gives_the_two_short_ids_with_the_top_bit_set() {
        let id = |value| ShortId::new(value).unwrap();
        assert_eq!(Spi::new(generation(0), id(0xabc), id(0xdef)).raw(), 0x80ab_cdef);
    }

    #[test]
    fn the_nearest_generation_lies_within_half_a_cycle_and_never_below_0() {
        assert_eq!(generation(1).nearest(0, 32), generation(0));
        assert_eq!(generation(31).nearest(0, 32), generation(32));
        assert_eq!(generation(32).nearest(31, 32), generation(31));
        assert_eq!(generation(0).nearest(31, 32), generation(31));
        assert_eq!(generation(1000).nearest((1001 % 32) as u8, 32), generation(1001));
        assert_eq!(generation(1000).nearest((1001 % 128) as u8, 128), generation(1001));
        assert_eq!(generation(1000).nearest((1016 % 32) as u8, 32), generation(1016));
        assert_eq!(generation(1000).nearest((985 % 32) as u8, 32), generation(985));
    }

    #[test]
    fn names_have_a_length_and_an_alphabet() {
        assert!(MeshName::new("lab-1").is_some());
        assert!(MeshName::new("").is_none());
        assert!(MeshName::new("lab.1").is_none());
        assert!(MeshName::new(&"a".repeat(33)).is_none());
        assert!(PeerName::new("a.example").is_some());
        assert!(PeerName::new("A").is_none());
        assert!(PeerName::new(&"a".repeat(64)).is_none());
    }
}
