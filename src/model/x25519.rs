//! X25519 keys (RFC 7748), in the form that `wg genkey` and `wg pubkey` print.

use std::fmt;

use base64ct::{Base64, Encoding};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::without_traces;

/// A public key that is known to give a secret.
///
/// Ordered by its bytes, so that equal keys can be found. Shown as base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// The reason why 32 bytes are not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// 2^255-19 or more: another form of a point that X25519 prints in its canonical form.
    #[error("is not in the form in which X25519 prints a key")]
    NotCanonical,
    /// A point of order 1, 2, 4 or 8: anybody who knows the point shares the "secret".
    #[error("is a point of low order, which gives no secret")]
    LowOrder,
}

/// 2^255-19, little-endian: the first number that is not a coordinate.
const PRIME: [u8; 32] = {
    let mut prime = [0xff; 32];
    prime[0] = 0xed;
    prime[31] = 0x7f;
    prime
};

/// The coordinates of all points of low order in their only form: 0 of order 1 and 2; 1 and, on the
/// twist, -1 of order 4; two of order 8. The curve's cofactor is 8, and its twist's 4 (RFC 7748,
/// section 4.1), so there are no others.
const LOW_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = PRIME;
        minus_one[0] -= 1;
        minus_one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
];

impl PublicKey {
    /// Checks that the key is in its only form, and that it gives a secret.
    ///
    /// By RFC 7748, X25519 takes numbers above the prime and ignores the top bit. Here they are
    /// refused: public keys are compared and hashed by their bytes, and no program prints these.
    /// All zeros are a point of low order.
    pub fn new(bytes: [u8; 32]) -> Result<Self, PublicKeyError> {
        if bytes.iter().rev().ge(PRIME.iter().rev()) {
            return Err(PublicKeyError::NotCanonical);
        }
        match LOW_ORDER.contains(&bytes) {
            true => Err(PublicKeyError::LowOrder),
            false => Ok(Self(bytes)),
        }
    }

    /// The 32 bytes, as RFC 7748 encodes them.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key. Wiped when dropped; has no `Debug` and no `Display`. In a box, because a value
/// that is moved leaves a copy behind.
pub struct PrivateKey(Box<StaticSecret>);

impl PrivateKey {
    /// Takes any 32 bytes; X25519 clamps them when it uses them.
    pub fn new(bytes: &[u8; 32]) -> Self {
        without_traces(|| Self(Box::new(StaticSecret::from(*bytes))))
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        // The base point's order is a large prime, so no multiple of it is refused.
        PublicKey(without_traces(|| x25519_dalek::PublicKey::from(&*self.0).to_bytes()))
    }

    /// The secret that it shares with the owner of a public key.
    ///
    /// `None` where the result is all zeros, which a [`PublicKey`] never gives
    /// (RFC 7748, section 6.1).
    pub fn agree(&self, peer: &PublicKey) -> Option<Box<Zeroizing<[u8; 32]>>> {
        without_traces(|| {
            let shared = self.0.diffie_hellman(&x25519_dalek::PublicKey::from(peer.0));
            shared.was_contributory().then(|| Box::new(Zeroizing::new(shared.to_bytes())))
        })
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn bytes(hex_text: &str) -> [u8; 32] {
        hex::decode(hex_text).unwrap().try_into().unwrap()
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn two_ends_agree_as_in_rfc_7748() {
        let alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let bob = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
        let [alice, bob] = [alice, bob].map(|key| PrivateKey::new(&bytes(key)));
        let (a, b) = (alice.public_key(), bob.public_key());
        assert_eq!(
            *a.bytes(),
            bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        assert_eq!(
            *b.bytes(),
            bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert!(alice.agree(&b).is_some_and(|key| **key == shared));
        assert!(bob.agree(&a).is_some_and(|key| **key == shared));
    }

    /// RFC 7748, section 5.2: a scalar that is not clamped, and another point.
    #[test]
    fn any_32_bytes_are_a_private_key() {
        let key = bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let shared = bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        let point = PublicKey::new(point).unwrap();
        assert!(PrivateKey::new(&key).agree(&point).is_some_and(|key| **key == shared));
    }

    /// The points of order 1, 2, 4 and 8 of the curve and of its twist.
    #[test]
    fn points_of_low_order_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        let mut minus_one = PRIME;
        minus_one[0] -= 1;
        let eight = [
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ];
        for point in [[0; 32], one, minus_one].into_iter().chain(eight.map(bytes)) {
            assert_eq!(PublicKey::new(point), Err(PublicKeyError::LowOrder), "{point:02x?}");
        }
    }

    /// The list is compared with X25519 itself: a clamped private key is a multiple of 8, so it takes
    /// a point of low order to zero and no other one.
    #[test]
    fn the_points_of_low_order_are_those_that_x25519_takes_to_zero() {
        let gives_a_secret = |point| {
            let any = StaticSecret::from([1; 32]);
            any.diffie_hellman(&x25519_dalek::PublicKey::from(point)).was_contributory()
        };
        LOW_ORDER.iter().for_each(|point| assert!(!gives_a_secret(*point), "{point:02x?}"));
        let mut point = [7; 32];
        for number in 0..=u8::MAX {
            // Small numbers and random ones, of the curve and of its twist.
            let mut small = [0; 32];
            small[0] = number;
            point = Sha256::digest(point).into();
            point[31] &= 0x7f;
            for point in [small, point] {
                assert_eq!(PublicKey::new(point).is_ok(), gives_a_secret(point), "{point:02x?}");
            }
        }
    }

    #[test]
    fn a_point_has_one_form() {
        let mut above = PRIME;
        above[0] += 9;
        let mut top_bit = [0; 32];
        (top_bit[0], top_bit[31]) = (9, 0x80);
        for other in [PRIME, above, top_bit, [0xff; 32]] {
            assert_eq!(PublicKey::new(other), Err(PublicKeyError::NotCanonical), "{other:02x?}");
        }
        let mut below = PRIME;
        below[0] -= 2;
        assert!(PublicKey::new(below).is_ok());
    }
}
