//! The infos of HKDF: a label that names the purpose, and then that purpose's inputs.
//!
//! Two derivations from one secret give keys that have nothing to do with each other if their infos
//! differ. They do:
//!
//! * No label is the beginning of another, so infos of two purposes differ within the shorter label.
//! * Behind a label every input has a fixed length, or is a cipher's name at the end, and none of
//!   these is the beginning of another. So an info can be read back in one way only.
//! * A mesh's name stands for itself by its SHA-256.
//!
//! No info is the beginning of another either, so none could be made longer to give another's.
//!
//! The generation is the salt, in 8 bytes always. HMAC fills a salt with zeros, so that of
//! generation 0 is the same as none: sessions, which have none, differ from keys of SAs by their label
//! alone.

use sha2::{Digest, Sha256};

use crate::model::{Cipher, MeshName, PublicKey, ShortId};

/// A purpose with its inputs. None of these is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Info<'a> {
    /// The session of two peers that hold the mesh's key, in the order of their ShortIDs.
    Psk { mesh: &'a MeshName, lo: ShortId, hi: ShortId },
    /// The session of two peers that have public keys, in the order of their ShortIDs.
    X25519 { mesh: &'a MeshName, lo: &'a PublicKey, hi: &'a PublicKey },
    /// The first key of a ratchet's chain.
    RatchetInit { mesh: &'a MeshName },
    /// The next key of a ratchet's chain.
    RatchetStep { mesh: &'a MeshName },
    /// The session of two peers in a generation of a ratchet, in the order of their ShortIDs.
    RatchetPair { mesh: &'a MeshName, lo: ShortId, hi: ShortId },
    /// Key and salt of an SA.
    Esp { from: ShortId, to: ShortId, cipher: Cipher },
}

impl Info<'_> {
    fn label(&self) -> &'static str {
        match self {
            Self::Psk { .. } => "meshsec/v1 psk",
            Self::X25519 { .. } => "meshsec/v1 x25519",
            Self::RatchetInit { .. } => "meshsec/v1 ratchet init",
            Self::RatchetStep { .. } => "meshsec/v1 ratchet step",
            Self::RatchetPair { .. } => "meshsec/v1 ratchet pair",
            Self::Esp { .. } => "meshsec/v1 esp",
        }
    }

    /// The bytes that HKDF gets.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let label = self.label().as_bytes();
        match self {
            Self::Psk { mesh, lo, hi } | Self::RatchetPair { mesh, lo, hi } => {
                [label, &digest(mesh), &short(*lo), &short(*hi)].concat()
            }
            Self::X25519 { mesh, lo, hi } => {
                [label, &digest(mesh), lo.bytes(), hi.bytes()].concat()
            }
            Self::RatchetInit { mesh } | Self::RatchetStep { mesh } => {
                [label, &digest(mesh)].concat()
            }
            Self::Esp { from, to, cipher } => {
                [label, &short(*from), &short(*to), cipher.name().as_bytes()].concat()
            }
        }
    }
}

fn digest(mesh: &MeshName) -> [u8; 32] {
    Sha256::digest(mesh.as_str()).into()
}

fn short(id: ShortId) -> [u8; 2] {
    id.get().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        keys::hkdf,
        model::{Generation, PrivateKey},
    };

    const ALLOWED: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-";
    /// Around each power of two at which a byte of a ShortID begins, and both ends.
    const SHORT_IDS: [u16; 9] = [0, 1, 2, 254, 255, 256, 257, 4094, 4095];

    /// All names of one and of two bytes, and some of 31 and 32, the most.
    fn names() -> Vec<MeshName> {
        let name = |bytes: &[u8]| MeshName::new(std::str::from_utf8(bytes).unwrap()).unwrap();
        let one = ALLOWED.iter().map(|a| name(&[*a]));
        let two = ALLOWED.iter().flat_map(|a| ALLOWED.iter().map(move |b| name(&[*a, *b])));
        let long = ALLOWED.iter().flat_map(|a| [31, 32].map(|length| name(&vec![*a; length])));
        one.chain(two).chain(long).collect()
    }

    fn id(number: u16) -> ShortId {
        ShortId::new(number).unwrap()
    }

    /// Pairs of all bounds, each ShortID with the lowest and the highest, and all pairs of small ones: with
    /// numbers of another length at other values, 1 and 12 could be taken for 11 and 2.
    fn pairs() -> BTreeSet<(ShortId, ShortId)> {
        let bounds = SHORT_IDS.iter().flat_map(|a| SHORT_IDS.iter().map(move |b| (*a, *b)));
        let all = (0..=ShortId::MAX).flat_map(|a| [(a, 0), (0, a), (a, 4095), (4095, a)]);
        let small = (0..130).flat_map(|a| (0..130).map(move |b| (a, b)));
        bounds.chain(all).chain(small).map(|(a, b)| (id(a), id(b))).collect()
    }

    fn public_keys() -> Vec<PublicKey> {
        let mut keys: Vec<_> = (0..20).map(|n| PrivateKey::new(&[n; 32]).public_key()).collect();
        // Beside each other, and the first and the last of all.
        let mut last = [0xff; 32];
        (last[0], last[31]) = (0xeb, 0x7f);
        for first in 2..6 {
            let mut bytes = [0; 32];
            bytes[0] = first;
            keys.push(PublicKey::new(bytes).unwrap());
        }
        keys.push(PublicKey::new(last).unwrap());
        keys
    }

    /// The infos of every purpose, with every input at its bounds.
    fn every<'a>(names: &'a [MeshName], keys: &'a [PublicKey]) -> Vec<Info<'a>> {
        let mut infos = Vec::new();
        for mesh in names {
            infos.extend([Info::RatchetInit { mesh }, Info::RatchetStep { mesh }]);
            for (lo, hi) in [(0, 1), (0, 4095), (1, 256), (255, 256), (4094, 4095)] {
                let (lo, hi) = (id(lo), id(hi));
                infos.extend([Info::Psk { mesh, lo, hi }, Info::RatchetPair { mesh, lo, hi }]);
            }
        }
        for (a, b) in pairs() {
            let (mesh, from, to) = (&names[names.len() - 1], a, b);
            infos.extend(Cipher::ALL.map(|cipher| Info::Esp { from, to, cipher }));
            if a < b {
                let (lo, hi) = (a, b);
                infos.extend([Info::Psk { mesh, lo, hi }, Info::RatchetPair { mesh, lo, hi }]);
            }
        }
        for mesh in [&names[0], &names[names.len() - 1]] {
            let of = |lo| keys.iter().map(move |hi| Info::X25519 { mesh, lo, hi });
            infos.extend(keys.iter().flat_map(of));
        }
        infos
    }

    /// In the order of bytes, a beginning of others stands right before one of them.
    #[test]
    fn no_info_is_that_of_other_inputs_or_its_beginning() {
        let (names, keys) = (names(), public_keys());
        let mut infos = BTreeMap::new();
        for info in every(&names, &keys) {
            if let Some(other) = infos.insert(info.bytes(), info) {
                assert_eq!(other, info, "one info for two inputs");
            }
        }
        assert!(infos.len() > 80_000, "{}", infos.len());
        let mut ordered = infos.iter();
        let (mut before, mut of) = ordered.next().unwrap();
        for (info, input) in ordered {
            assert!(!info.starts_with(before), "the info of {of:?} begins that of {input:?}");
            (before, of) = (info, input);
        }
    }

    /// The argument of the module's documentation, piece by piece.
    #[test]
    fn no_label_and_no_name_of_a_cipher_begins_another() {
        let (names, keys) = (names(), public_keys());
        let labels: BTreeSet<_> = every(&names, &keys).iter().map(Info::label).collect();
        assert_eq!(labels.len(), 6, "{labels:?}");
        let ciphers: BTreeSet<_> = Cipher::ALL.iter().map(|cipher| cipher.name()).collect();
        for of in [labels, ciphers] {
            for (a, b) in of.iter().flat_map(|a| of.iter().map(move |b| (a, b))) {
                assert!(a == b || !a.starts_with(b), "{b:?} begins {a:?}");
            }
        }
    }

    #[test]
    fn every_input_but_a_cipher_s_name_has_a_fixed_length() {
        let (names, keys) = (names(), public_keys());
        for info in every(&names, &keys) {
            let inputs = match info {
                Info::Psk { .. } | Info::RatchetPair { .. } => 32 + 2 + 2,
                Info::X25519 { .. } => 32 + 32 + 32,
                Info::RatchetInit { .. } | Info::RatchetStep { .. } => 32,
                Info::Esp { cipher, .. } => 2 + 2 + cipher.name().len(),
            };
            assert_eq!(info.bytes().len(), info.label().len() + inputs, "{info:?}");
        }
    }

    /// HMAC fills a short key with zeros. Salts of one length stay apart.
    #[test]
    fn generations_have_salts_of_their_own_and_the_first_has_that_of_a_session() {
        let okm = |salt: &[u8]| hkdf(&[7; 32], salt, b"any", 32).expose().to_vec();
        assert!(okm(&[]) == okm(&0u64.to_be_bytes()), "only the info tells the two apart");
        let around = |power: u32| [1u64 << power, (1 << power) - 1];
        let bounds: BTreeSet<u64> = (0..63).flat_map(around).chain([Generation::MAX]).collect();
        let generations = bounds.iter().filter_map(|number| Generation::new(*number));
        let salts: BTreeSet<_> = generations.map(|g| okm(&g.get().to_be_bytes())).collect();
        assert_eq!(salts.len(), bounds.len());
        assert!(bounds.len() > 120);
    }
}
