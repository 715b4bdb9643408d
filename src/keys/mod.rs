//! The key schedule, version 1: from the file's secrets to every SA's key.
//!
//! Pure. All numbers are big-endian, HKDF is RFC 5869 with SHA-256, `||` joins
//! bytes, and strings are ASCII without terminator:
//!
//! ```text
//! mesh                 = SHA-256(mesh name)
//! session(mesh_key)    = HKDF(ikm = mesh_key, salt = "",
//!                             info = "meshsec/v1 psk" || mesh || lo || hi, L = 32)
//! session(private_key) = HKDF(ikm = X25519(own private, peer public) || psk, salt = "",
//!                             info = "meshsec/v1 x25519" || mesh || public(lo) || public(hi),
//!                             L = 32)
//! session(ratchet, g)  = HKDF(ikm = ck(g), salt = "",
//!                             info = "meshsec/v1 ratchet pair" || mesh || lo || hi, L = 32)
//! keymat(from, to, g)  = HKDF(ikm = session, salt = g (8 bytes),
//!                             info = "meshsec/v1 esp" || from || to || cipher, L = key + 4)
//! ```
//!
//! A ShortID is 2 bytes; `lo` and `hi` are a pair's ShortIDs in order; `psk` is
//! 32 zero bytes where there is none; `cipher` is its name in the file. The last
//! 4 bytes of `keymat` are the salt. So every direction, pair and generation has
//! a key and a salt of its own.
//! The chain of `ck` is in [`ratchet`], and the infos are in `info`.
#![forbid(unsafe_code)]

mod info;
pub mod ratchet;
#[cfg(test)]
mod wycheproof;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use ratchet::Ratchet;

use info::Info;

use crate::model::{Cipher, Generation, Key, MeshName, PrivateKey, PublicKey, ShortId};

/// The secret that two peers share. All keys between them follow from it.
pub struct Session(Key);

impl Session {
    /// The session of two peers that hold the mesh's key, in any order of the peers.
    pub fn from_mesh_key(mesh_key: &Key, mesh: &MeshName, a: ShortId, b: ShortId) -> Self {
        let info = Info::Psk { mesh, lo: a.min(b), hi: a.max(b) };
        Self(hkdf(mesh_key.expose(), &[], &info.bytes(), 32))
    }

    /// The session of two peers that know each other's public keys, seen from the peer that holds
    /// the private key.
    ///
    /// `None` if X25519 gives all zeros, which is not a secret.
    pub fn from_private_key(
        private_key: &PrivateKey,
        psk: Option<&Key>,
        mesh: &MeshName,
        own: (ShortId, &PublicKey),
        peer: (ShortId, &PublicKey),
    ) -> Option<Self> {
        let mut ikm = Zeroizing::new([0; 64]);
        ikm[..32].copy_from_slice(&private_key.agree(peer.1)?[..]);
        if let Some(psk) = psk {
            ikm[32..].copy_from_slice(psk.expose());
        }
        let (lo, hi) = if own.0 < peer.0 { (own, peer) } else { (peer, own) };
        let info = Info::X25519 { mesh, lo: lo.1, hi: hi.1 };
        Some(Self(hkdf(&*ikm, &[], &info.bytes(), 32)))
    }

    /// The session of two peers in a ratchet's current generation.
    pub fn from_ratchet(ratchet: &Ratchet, a: ShortId, b: ShortId) -> Self {
        let info = Info::RatchetPair { mesh: ratchet.mesh(), lo: a.min(b), hi: a.max(b) };
        Self(hkdf(ratchet.chain(), &[], &info.bytes(), 32))
    }

    /// Key and salt for packets `from` one peer `to` the other in a generation.
    pub fn keymat(
        &self,
        from: ShortId,
        to: ShortId,
        generation: Generation,
        cipher: Cipher,
    ) -> Key {
        let info = Info::Esp { from, to, cipher };
        let salt = generation.get().to_be_bytes();
        hkdf(self.0.expose(), &salt, &info.bytes(), cipher.key_len() + 4)
    }
}

/// RFC 5869 extract and expand with SHA-256; `length` is at most 255 * 32.
fn hkdf(ikm: &[u8], salt: &[u8], info: &[u8], length: usize) -> Key {
    let mut okm = vec![0; length].into_boxed_slice();
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand(info, &mut okm)
        .expect("HKDF gives up to 8160 bytes, and a key has at most 36");
    Key::new(okm)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn bytes(hex_text: &str) -> Vec<u8> {
        hex::decode(hex_text).unwrap()
    }

    /// RFC 5869, appendix A, the cases for SHA-256.
    #[test]
    fn hkdf_gives_the_vectors_of_rfc_5869() {
        let cases = [
            (
                "0b".repeat(22),
                "000102030405060708090a0b0c".to_owned(),
                "f0f1f2f3f4f5f6f7f8f9".to_owned(),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                (0x00..=0x4f).map(|b: u8| format!("{b:02x}")).collect(),
                (0x60..=0xaf).map(|b: u8| format!("{b:02x}")).collect(),
                (0xb0..=0xff).map(|b: u8| format!("{b:02x}")).collect(),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c\
                 59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71\
                 cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                "0b".repeat(22),
                String::new(),
                String::new(),
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (ikm, salt, info, okm) in cases {
            let key = hkdf(&bytes(&ikm), &bytes(&salt), &bytes(&info), okm.len() / 2);
            assert_eq!(hex::encode(key.expose()), okm);
        }
    }

    #[test]
    fn a_session_is_the_same_from_both_ends() {
        let key = Key::new(Box::new([7; 32]));
        let mesh = MeshName::new("lab").unwrap();
        let (a, b) = (ShortId::new(1).unwrap(), ShortId::new(4095).unwrap());
        let from_a = Session::from_mesh_key(&key, &mesh, a, b);
        let from_b = Session::from_mesh_key(&key, &mesh, b, a);
        assert!(from_a.0.expose() == from_b.0.expose());
    }

    /// The secrets that a third peer can compute from its own key and all public keys.
    #[test]
    fn a_peer_s_private_key_gives_it_no_session_of_two_others() {
        let mesh = MeshName::new("lab").unwrap();
        let private = [1, 2, 3].map(|byte| PrivateKey::new(&[byte; 32]));
        let public = private.each_ref().map(PrivateKey::public_key);
        let end = |i: usize| (ShortId::new(i as u16).unwrap(), &public[i]);
        let session = |holder: usize, own, peer| {
            let psk = Key::new(Box::new([9; 32]));
            let session = Session::from_private_key(&private[holder], Some(&psk), &mesh, own, peer);
            session.unwrap().0.expose().to_vec()
        };
        let of_others = session(0, end(0), end(1));
        assert!(of_others == session(1, end(1), end(0)), "both ends have the same");
        for (own, peer) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            assert!(session(2, end(own), end(peer)) != of_others, "{own} {peer}");
        }
    }
}
