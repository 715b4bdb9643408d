//! HKDF beside the vectors of Project Wycheproof: tests/vectors/README.md.

use std::panic::catch_unwind;

use serde::Deserialize;

use super::{hkdf, ratchet, tests::bytes};

#[derive(Deserialize)]
struct Vectors {
    tests: Vec<Derivation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Derivation {
    tc_id: u32,
    ikm: String,
    salt: String,
    info: String,
    size: usize,
    okm: String,
    result: String,
}

fn derivations() -> Vec<Derivation> {
    let text = include_str!("../../tests/vectors/wycheproof/hkdf_sha256.json");
    serde_json::from_str::<Vectors>(text).unwrap().tests
}

#[test]
fn hkdf_gives_the_keys_of_wycheproof() {
    let vectors = derivations();
    let valid: Vec<_> = vectors.iter().filter(|vector| vector.result == "valid").collect();
    assert_eq!(valid.len(), 83);
    for vector in valid {
        let (ikm, salt, info) = (bytes(&vector.ikm), bytes(&vector.salt), bytes(&vector.info));
        let okm = hkdf(&ikm, &salt, &info, vector.size);
        assert_eq!(hex::encode(okm.expose()), vector.okm, "tcId {}", vector.tc_id);
    }
}

/// The ratchet derives without a salt, and always 32 bytes: HKDF's first ones.
#[test]
fn the_ratchet_derives_as_wycheproof_does_without_a_salt() {
    let mut compared = 0;
    for vector in derivations().iter().filter(|v| v.salt.is_empty() && v.size >= 32) {
        let mut okm = [0; 32];
        ratchet::derive(&bytes(&vector.ikm), &bytes(&vector.info), &mut okm);
        assert_eq!(hex::encode(okm), vector.okm[..64], "tcId {}", vector.tc_id);
        compared += 1;
    }
    assert_eq!(compared, 17);
}

/// RFC 5869 has no output of more than 8160 bytes. The schedule takes 36 at most, and a longer one
/// would end the program.
#[test]
fn the_outputs_that_wycheproof_calls_too_large_are_never_given() {
    let vectors = derivations();
    let invalid: Vec<_> = vectors.iter().filter(|vector| vector.result == "invalid").collect();
    assert_eq!(invalid.len(), 3);
    for vector in invalid {
        assert_eq!(vector.size, 255 * 32 + 1, "tcId {}", vector.tc_id);
        let (ikm, salt, info) = (bytes(&vector.ikm), bytes(&vector.salt), bytes(&vector.info));
        let given = catch_unwind(|| hkdf(&ikm, &salt, &info, vector.size));
        assert!(given.is_err(), "tcId {}", vector.tc_id);
    }
}
