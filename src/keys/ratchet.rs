//! The ratchet: a chain of keys that can be followed forwards only.
//!
//! ```text
//! ck(0)   = HKDF(ikm = mesh_key, salt = "", info = "meshsec/v1 ratchet init" || mesh, L = 32)
//! ck(g+1) = HKDF(ikm = ck(g), salt = "", info = "meshsec/v1 ratchet step" || mesh, L = 32)
//! ```
//!
//! Pure. The chain begins at generation 0 for all hosts, so that hosts that join at different times
//! agree. A holder of ck(g) has the keys of g and of all later generations, but of none before.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::info::Info;
use crate::model::{Fingerprint, Generation, Key, MeshName, without_traces};

/// The first line of a ratchet's file: its kind and the version of its format.
const TITLE: &str = "meshsec ratchet 1";

/// Steps that are taken at once at most: half a minute, or seven thousand years of
/// periods of 1h.
pub const MOST_STEPS: u64 = 1 << 26;

/// A mesh's chain key, of the oldest generation with keys that can still be derived.
pub struct Ratchet {
    mesh: MeshName,
    generation: Generation,
    chain: Box<Zeroizing<[u8; 32]>>,
}

/// The reason why a text is not a ratchet. Tells nothing of the key in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first line is wrong.
    #[error("is no ratchet, or of another version: it does not begin with \"{TITLE}\"")]
    Title,
    /// A line is missing or malformed.
    #[error("is damaged: {0} can't be read")]
    Line(&'static str),
    /// The checksum doesn't match the text.
    #[error("is damaged: its checksum does not match")]
    Checksum,
}

impl Ratchet {
    /// The beginning of a mesh's chain, at generation 0.
    pub fn begin(mesh_key: &Key, mesh: &MeshName) -> Self {
        let mut chain = empty();
        let mesh_key = mesh_key.expose();
        let info = Info::RatchetInit { mesh }.bytes();
        without_traces(|| derive(mesh_key, &info, &mut chain));
        Self { mesh: mesh.clone(), generation: Generation::default(), chain }
    }

    /// The mesh that the chain belongs to.
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// The oldest generation with keys that can be derived.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The part of the chain key of that generation that may be shown.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.chain[..])
    }

    /// The chain key of that generation.
    pub(super) fn chain(&self) -> &[u8; 32] {
        &self.chain
    }

    /// The same chain at a later generation, or at this one.
    ///
    /// `None` for an earlier generation, which can't be reached from here, and for one that is more
    /// than [`MOST_STEPS`] away.
    pub fn at(&self, generation: Generation) -> Option<Self> {
        let steps = generation.get().checked_sub(self.generation.get())?;
        if steps > MOST_STEPS {
            return None;
        }
        let mut chain = self.chain.clone();
        let mut next = empty();
        let info = Info::RatchetStep { mesh: &self.mesh }.bytes();
        without_traces(|| {
            for _ in 0..steps {
                derive(&chain[..], &info, &mut next);
                std::mem::swap(&mut chain, &mut next);
            }
        });
        Some(Self { mesh: self.mesh.clone(), generation, chain })
    }

    /// The text of the file that holds it.
    pub fn text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex::encode(&self.chain[..]));
        // Allocated once, since growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(512));
        let (mesh, generation) = (&self.mesh, self.generation);
        for part in [
            &format!("{TITLE}\nmesh {mesh}\ngeneration {generation}\nchain "),
            digits.as_str(),
            "\n",
        ] {
            text.push_str(part);
        }
        let checksum = checksum(&text);
        text.push_str("checksum ");
        text.push_str(&checksum);
        text.push('\n');
        text
    }

    /// Reads a text of [`Ratchet::text`].
    ///
    /// # Errors
    ///
    /// Any other text, even one without the newline at its end.
    pub fn parse(text: &[u8]) -> Result<Self, Damage> {
        if !text.starts_with(TITLE.as_bytes()) {
            return Err(Damage::Title);
        }
        let text = std::str::from_utf8(text).map_err(|_| Damage::Line("its text"))?;
        let mut lines = text.split_inclusive('\n').skip(1);
        let mut line = |name: &'static str| {
            let line = lines.next().and_then(|line| line.strip_suffix('\n'));
            let value = line.and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.ok_or(Damage::Line(name))
        };
        let mesh = MeshName::new(line("mesh")?).ok_or(Damage::Line("mesh"))?;
        let generation = line("generation")?.parse().ok().and_then(Generation::new);
        let generation = generation.ok_or(Damage::Line("generation"))?;
        let mut chain = empty();
        hex::decode_to_slice(line("chain")?, &mut chain[..]).map_err(|_| Damage::Line("chain"))?;
        line("checksum")?;
        let ratchet = Self { mesh, generation, chain };
        // Compared as a whole, so that a file has only one form, and nothing behind its end.
        if *ratchet.text() == text { Ok(ratchet) } else { Err(Damage::Checksum) }
    }
}

/// The first 8 bytes of a hash, which tell a torn or edited file from a whole one.
fn checksum(text: &str) -> String {
    let digest =
        Sha256::new().chain_update(b"meshsec/v1 ratchet file").chain_update(text).finalize();
    hex::encode(&digest[..8])
}

/// Room for a chain key. In a box, because a value that is moved leaves a copy behind.
fn empty() -> Box<Zeroizing<[u8; 32]>> {
    Box::default()
}

pub(super) fn derive(ikm: &[u8], info: &[u8], okm: &mut [u8; 32]) {
    Hkdf::<Sha256>::new(None, ikm).expand(info, okm).expect("HKDF gives up to 8160 bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin() -> Ratchet {
        Ratchet::begin(&Key::new(Box::new([7; 32])), &MeshName::new("lab").unwrap())
    }

    fn at(generation: u64) -> Ratchet {
        begin().at(Generation::new(generation).unwrap()).unwrap()
    }

    #[test]
    fn hosts_that_join_at_different_times_agree() {
        let late = at(1000);
        let through = at(3).at(Generation::new(40).unwrap()).unwrap();
        assert!(through.at(late.generation()).is_some_and(|r| *r.chain == *late.chain));
        assert!(at(999).chain != late.chain);
    }

    #[test]
    fn there_is_no_way_back_and_no_endless_way_forth() {
        let now = at(5);
        assert!(now.at(Generation::new(4).unwrap()).is_none());
        assert!(now.at(Generation::new(5).unwrap()).is_some());
        assert!(now.at(Generation::new(5 + MOST_STEPS + 1).unwrap()).is_none());
        assert!(now.at(Generation::new(Generation::MAX).unwrap()).is_none());
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let (ratchet, text) = (at(41), at(41).text());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["meshsec ratchet 1", "mesh lab", "generation 41"]);
        let read = Ratchet::parse(text.as_bytes()).ok().unwrap();
        assert_eq!((read.mesh(), read.generation()), (ratchet.mesh(), ratchet.generation()));
        assert!(*read.chain == *ratchet.chain);
    }

    #[test]
    fn a_file_that_is_torn_or_edited_anywhere_is_refused() {
        let whole = at(41).text();
        for length in 0..whole.len() {
            assert!(Ratchet::parse(&whole.as_bytes()[..length]).is_err(), "{length}");
        }
        for place in 0..whole.len() {
            for byte in [b'0', b'1', b'\n', 0, 0xff] {
                let mut edited = whole.as_bytes().to_vec();
                if edited[place] != byte {
                    edited[place] = byte;
                    assert!(Ratchet::parse(&edited).is_err(), "{place} {byte}");
                }
            }
        }
        for edited in [
            whole.to_uppercase(),
            whole.replace('\n', "\r\n"),
            format!("{}\n", *whole),
            format!("{0}{0}", *whole),
            whole.replace("generation 41", "generation 041"),
            "\0".repeat(whole.len()),
        ] {
            assert!(Ratchet::parse(edited.as_bytes()).is_err(), "{edited}");
        }
    }

    /// Other versions read and write the same files.
    #[test]
    fn a_file_has_one_form_for_good() {
        assert_eq!(
            *at(41).text(),
            "meshsec ratchet 1\nmesh lab\ngeneration 41\n\
             chain 592aecccf83c46d0b8e56ca23c9c0fb871b0ee10aec796a28ee6d3e4bfa9b2c6\n\
             checksum efc4ccf73d8e6738\n"
        );
    }

    #[test]
    fn damage_is_told_by_its_place() {
        let whole = at(41).text();
        for (from, to, damage) in [
            ("ratchet 1", "ratchet 2", Damage::Title),
            ("mesh lab", "mesh", Damage::Line("mesh")),
            ("mesh lab", "mesh a/b", Damage::Line("mesh")),
            ("generation 41", "generation", Damage::Line("generation")),
            ("generation 41", "generation x", Damage::Line("generation")),
            ("chain ", "chain x", Damage::Line("chain")),
            ("checksum ", "sum ", Damage::Line("checksum")),
            ("generation 41", "generation 42", Damage::Checksum),
        ] {
            let edited = whole.replacen(from, to, 1);
            assert_eq!(Ratchet::parse(edited.as_bytes()).err(), Some(damage), "{from} {to}");
        }
        let no_text = [whole.as_bytes(), &[0xff]].concat();
        assert_eq!(Ratchet::parse(&no_text).err(), Some(Damage::Line("its text")));
    }
}
