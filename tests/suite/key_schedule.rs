//! The published vectors of the key schedule, and where they come from.
//!
//! `UPDATE_GOLDEN=1` writes them anew, from the independent derivation.

use std::{fs, path::Path, process::Command};

use meshsec::{
    keys::{Ratchet, Session},
    model::{Cipher, Generation, Key, MeshName, PrivateKey, PublicKey, ShortId, Spi},
};
use serde::Deserialize;

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

#[derive(Deserialize)]
struct OfMeshKey {
    mesh_key: String,
    #[serde(flatten)]
    sa: Sa,
}

#[derive(Deserialize)]
struct OfRatchet {
    mesh_key: String,
    ck: String,
    #[serde(flatten)]
    sa: Sa,
}

#[derive(Deserialize)]
struct OfPrivateKey {
    from_private_key: String,
    from_public_key: String,
    to_private_key: String,
    to_public_key: String,
    psk: Option<String>,
    #[serde(flatten)]
    sa: Sa,
}

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn vectors<V: serde::de::DeserializeOwned>(name: &str) -> Vec<V> {
    let vectors: Vec<V> = serde_json::from_slice(&fs::read(file(name)).unwrap()).unwrap();
    assert!(vectors.len() >= 9, "{name}");
    vectors
}

fn key(digits: &str) -> Key {
    Key::new(hex::decode(digits).unwrap().into())
}

fn bytes(digits: &str) -> [u8; 32] {
    hex::decode(digits).unwrap().try_into().unwrap()
}

#[test]
fn every_published_vector_of_a_mesh_key_is_derived() {
    for OfMeshKey { mesh_key, sa } in vectors("key-schedule-v1.json") {
        let (from, to) = sa.ends();
        sa.follows_from(&Session::from_mesh_key(&key(&mesh_key), &sa.mesh(), from, to));
    }
}

#[test]
fn every_published_vector_of_private_keys_is_derived_at_both_ends() {
    for vector in vectors::<OfPrivateKey>("key-schedule-v1-x25519.json") {
        let private = [&vector.from_private_key, &vector.to_private_key]
            .map(|digits| PrivateKey::new(&bytes(digits)));
        let public = [&vector.from_public_key, &vector.to_public_key]
            .map(|digits| PublicKey::new(bytes(digits)).unwrap());
        assert_eq!(private.each_ref().map(PrivateKey::public_key), public);
        let psk = vector.psk.as_deref().map(key);
        let (from, to) = vector.sa.ends();
        let ends = [(from, &public[0]), (to, &public[1])];
        for (own, peer) in [(0, 1), (1, 0)] {
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
    for OfRatchet { mesh_key, ck, sa } in vectors("key-schedule-v1-ratchet.json") {
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
    for (way, name) in [
        ("mesh_key", "key-schedule-v1.json"),
        ("private_key", "key-schedule-v1-x25519.json"),
        ("ratchet", "key-schedule-v1-ratchet.json"),
    ] {
        let output = Command::new(python()).arg(file("derive.py")).arg(way).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        crate::common::compare(&format!("tests/vectors/{name}"), &printed);
    }
}
