//! The published vectors of the key schedule, and where they come from: docs/testkit.
//!
//! `UPDATE_GOLDEN=1` writes them anew, from the independent derivation.

use std::process::Command;

use meshsec::{
    keys::{Ratchet, Session},
    model::{Cipher, Generation, MeshName, PrivateKey, PublicKey, ShortId, Spi},
};
use serde::Deserialize;

use crate::testkit::{bytes, cases, key};

/// The input that all ways to make keys share.
#[derive(Deserialize)]
struct Sa {
    mesh: String,
    from: u16,
    to: u16,
    generation: u64,
    cipher: String,
    keymat: String,
    fingerprint: String,
    spi: String,
}

impl Sa {
    fn mesh(&self) -> MeshName {
        MeshName::new(&self.mesh).unwrap()
    }

    fn ends(&self) -> (ShortId, ShortId) {
        (ShortId::new(self.from).unwrap(), ShortId::new(self.to).unwrap())
    }

    fn generation(&self) -> Generation {
        Generation::new(self.generation).unwrap()
    }

    /// Fails unless a session gives this SA's key and SPI.
    fn follows_from(&self, session: &Session) {
        let (from, to) = self.ends();
        let cipher = Cipher::ALL.into_iter().find(|c| c.name() == self.cipher).unwrap();
        let keymat = session.keymat(from, to, self.generation(), cipher);
        assert_eq!(hex::encode(keymat.expose()), self.keymat);
        assert_eq!(keymat.fingerprint().to_string(), self.fingerprint);
        assert_eq!(Spi::new(self.generation(), from, to).to_string(), self.spi);
    }
}

/// A case by its way to make keys.
#[derive(Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
enum Vector {
    MeshKey {
        mesh_key: String,
        #[serde(flatten)]
        sa: Sa,
    },
    PrivateKey(OfPrivateKey),
    Ratchet {
        mesh_key: String,
        ck: String,
        #[serde(flatten)]
        sa: Sa,
    },
}

#[derive(Deserialize)]
struct OfPrivateKey {
    from_private_key: String,
    from_public_key: String,
    to_private_key: String,
    to_public_key: String,
    psk: Option<String>,
    x25519: String,
    #[serde(flatten)]
    sa: Sa,
}

/// The cases of one way.
fn vectors<V>(of: impl Fn(Vector) -> Option<V>) -> Vec<V> {
    let vectors: Vec<V> = cases("key-schedule").into_iter().filter_map(of).collect();
    assert!(vectors.len() >= 9, "{}", vectors.len());
    vectors
}

#[test]
fn every_published_vector_of_a_mesh_key_is_derived() {
    let of_way = |vector| match vector {
        Vector::MeshKey { mesh_key, sa } => Some((mesh_key, sa)),
        Vector::PrivateKey(_) | Vector::Ratchet { .. } => None,
    };
    for (mesh_key, sa) in vectors(of_way) {
        let (from, to) = sa.ends();
        sa.follows_from(&Session::from_mesh_key(&key(&mesh_key), &sa.mesh(), from, to));
    }
}

#[test]
fn every_published_vector_of_private_keys_is_derived_at_both_ends() {
    let of_way = |vector| match vector {
        Vector::PrivateKey(vector) => Some(vector),
        Vector::MeshKey { .. } | Vector::Ratchet { .. } => None,
    };
    for vector in vectors(of_way) {
        let private = [&vector.from_private_key, &vector.to_private_key]
            .map(|digits| PrivateKey::new(&bytes(digits)));
        let public = [&vector.from_public_key, &vector.to_public_key]
            .map(|digits| PublicKey::new(bytes(digits)).unwrap());
        assert_eq!(private.each_ref().map(PrivateKey::public_key), public);
        let psk = vector.psk.as_deref().map(key);
        let (from, to) = vector.sa.ends();
        let ends = [(from, &public[0]), (to, &public[1])];
        for (own, peer) in [(0, 1), (1, 0)] {
            let shared = private[own].agree(&public[peer]).unwrap();
            assert_eq!(hex::encode(shared.as_slice()), vector.x25519);
            let session = Session::from_private_key(
                &private[own],
                psk.as_ref(),
                &vector.sa.mesh(),
                ends[own],
                ends[peer],
            );
            vector.sa.follows_from(&session.unwrap());
        }
    }
}

#[test]
fn every_published_vector_of_a_ratchet_is_derived() {
    let of_way = |vector| match vector {
        Vector::Ratchet { mesh_key, ck, sa } => Some((mesh_key, ck, sa)),
        Vector::MeshKey { .. } | Vector::PrivateKey(_) => None,
    };
    for (mesh_key, ck, sa) in vectors(of_way) {
        let ratchet = Ratchet::begin(&key(&mesh_key), &sa.mesh()).at(sa.generation()).unwrap();
        assert!(ratchet.text().contains(&format!("\nchain {ck}\n")));
        let (from, to) = sa.ends();
        sa.follows_from(&Session::from_ratchet(&ratchet, from, to));
        sa.follows_from(&Session::from_ratchet(&ratchet, to, from));
    }
}

/// A Python that has the package `cryptography`: Debian's python3-cryptography
/// belongs to Debian's Python, and another may come first.
fn python() -> &'static str {
    let has_it = |python: &&str| {
        let imported = Command::new(python).args(["-c", "import cryptography"]).output();
        imported.is_ok_and(|output| output.status.success())
    };
    let candidates = ["python3", "/usr/bin/python3"];
    candidates.into_iter().find(has_it).expect("this test needs python3-cryptography")
}

#[test]
fn the_vectors_are_what_an_independent_derivation_prints() {
    let derive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/derive.py");
    for name in ["key-schedule", "ratchet", "spi", "fingerprint"] {
        let output = Command::new(python()).args([derive, name]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        crate::common::compare(&format!("docs/testkit/{name}.json"), &printed);
    }
}
