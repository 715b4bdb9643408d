//! The published vectors of the key schedule, and where they come from.

use std::process::Command;

use meshsec::{
    keys::Session,
    model::{Cipher, Generation, Key, MeshName, ShortId, Spi},
};
use serde::Deserialize;

const VECTORS: &str = include_str!("vectors/key-schedule-v1.json");

#[derive(Deserialize)]
struct Vector {
    mesh_key: String,
    mesh: String,
    from: u16,
    to: u16,
    generation: u64,
    cipher: String,
    keymat: String,
    fingerprint: String,
    spi: String,
}

#[test]
fn every_published_vector_is_derived() {
    let vectors: Vec<Vector> = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.len() >= 9);
    for vector in vectors {
        let mesh_key = Key::new(hex::decode(&vector.mesh_key).unwrap().into());
        let mesh = MeshName::new(&vector.mesh).unwrap();
        let generation = Generation::new(vector.generation).unwrap();
        let (from, to) = (ShortId::new(vector.from).unwrap(), ShortId::new(vector.to).unwrap());
        let cipher = Cipher::ALL.into_iter().find(|c| c.name() == vector.cipher).unwrap();

        let keymat =
            Session::from_mesh_key(&mesh_key, &mesh, from, to).keymat(from, to, generation, cipher);

        assert_eq!(hex::encode(keymat.expose()), vector.keymat);
        assert_eq!(keymat.fingerprint().to_string(), vector.fingerprint);
        assert_eq!(Spi::new(generation, from, to).to_string(), vector.spi);
    }
}

#[test]
fn the_vectors_are_what_an_independent_derivation_prints() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/derive.py");
    let output = Command::new("python3").arg(script).output().expect("this test needs python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), VECTORS);
}
