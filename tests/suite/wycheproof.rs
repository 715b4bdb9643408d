//! X25519 beside the vectors of Project Wycheproof: tests/vectors/README.md.

use std::collections::BTreeSet;

use meshsec::model::{PrivateKey, PublicKey, PublicKeyError};
use serde::Deserialize;

use crate::testkit::bytes;

/// Numbers of 2^255-19 and above. Wycheproof lets an implementation refuse them.
const NOT_CANONICAL: [std::ops::RangeInclusive<u32>; 2] = [66..=68, 74..=99];
/// Points of order 1, 2, 4 and 8, in their only form. They give all zeros.
const LOW_ORDER: [u32; 15] = [32, 33, 63, 64, 65, 69, 70, 71, 72, 73, 117, 118, 154, 165, 166];

#[derive(Deserialize)]
struct Vectors {
    tests: Vec<Exchange>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exchange {
    tc_id: u32,
    flags: BTreeSet<String>,
    public: String,
    private: String,
    shared: String,
    result: String,
}

impl Exchange {
    fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

fn exchanges() -> Vec<Exchange> {
    let text = include_str!("../vectors/wycheproof/x25519.json");
    serde_json::from_str::<Vectors>(text).unwrap().tests
}

#[test]
fn x25519_gives_the_secrets_of_wycheproof() {
    let mut agreed = 0;
    for vector in exchanges() {
        let Ok(public) = PublicKey::new(bytes(&vector.public)) else { continue };
        let private = PrivateKey::new(&bytes(&vector.private));
        let shared = private.agree(&public).map(|shared| hex::encode(shared.as_slice()));
        assert_eq!(shared.as_ref(), Some(&vector.shared), "tcId {}", vector.tc_id);
        agreed += 1;
    }
    assert_eq!(agreed, 474);
}

/// Keys that Wycheproof calls valid are all taken; of those that it calls acceptable, the two lists
/// are refused and no others.
#[test]
fn exactly_these_keys_of_wycheproof_are_refused() {
    let vectors = exchanges();
    let refused = |error| {
        let of_it = vectors.iter().filter(|v| PublicKey::new(bytes(&v.public)) == Err(error));
        of_it.collect::<Vec<_>>()
    };
    let not_canonical = refused(PublicKeyError::NotCanonical);
    let low_order = refused(PublicKeyError::LowOrder);
    let numbers = |of: &[&Exchange]| of.iter().map(|vector| vector.tc_id).collect::<Vec<_>>();
    assert_eq!(numbers(&not_canonical), NOT_CANONICAL.into_iter().flatten().collect::<Vec<_>>());
    assert_eq!(numbers(&low_order), LOW_ORDER);
    for vector in not_canonical.iter().chain(&low_order) {
        assert_eq!(vector.result, "acceptable", "tcId {}", vector.tc_id);
    }
    // Wycheproof's own words for them, in both directions.
    let is_refused = |vector: &Exchange| PublicKey::new(bytes(&vector.public)).is_err();
    assert!(low_order.iter().all(|vector| vector.has("ZeroSharedSecret")));
    for vector in &vectors {
        if vector.has("ZeroSharedSecret") || vector.has("NonCanonicalPublic") {
            assert!(is_refused(vector), "tcId {}", vector.tc_id);
        }
    }
}
