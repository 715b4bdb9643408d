//! Key bytes, which are wiped and can't be formatted, and their fingerprints.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// Secret bytes: an SA's key and salt, or one of the file's secrets.
///
/// Wiped when dropped. There is no `Debug` and no `Display`, so a key can't be printed by accident;
/// [`Key::fingerprint`] may be shown instead.
pub struct Key(Zeroizing<Box<[u8]>>);

impl Key {
    /// Takes bytes over. The caller wipes its own copy.
    pub fn new(bytes: Box<[u8]>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be handed to the kernel or to HKDF and nowhere else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The part of this key that may be shown.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

/// Words below its caller that [`without_traces`] wipes, 16 KiB: more than HKDF and X25519 need
/// without optimisation.
const DEEP: usize = 2 << 10;

/// Words that one hash takes, 4 KiB. Thousands of SAs each have a fingerprint on either side, and
/// wiping for X25519 each time was a fifth of a plan.
const SHALLOW: usize = 512;

/// Does a piece of work, and overwrites its remains on the stack: its own variables, and those of
/// the cryptography that it called. Other values would take the remains with them to the heap, in
/// bytes between their fields.
///
/// The result must hold secrets only in a box.
pub fn without_traces<T>(work: impl FnOnce() -> T) -> T {
    let done = called(work);
    wipe_stack::<DEEP>();
    done
}

/// Has a stack frame of its own, so that all of it lies below the caller's.
#[inline(never)]
fn called<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe_stack<const WORDS: usize>() {
    let mut left = [0u64; WORDS];
    // Unlike an assignment that is never read, the compiler can't leave this out.
    left.zeroize();
    std::hint::black_box(&left);
}

/// The first 8 bytes of SHA-256("meshsec/v1 fingerprint" || key bytes).
///
/// Written `sha256:` and 16 hex digits. It tells keys apart, but nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of exactly the bytes that the kernel gets (key || salt).
    pub fn of(bytes: &[u8]) -> Self {
        // A hash state that is moved leaves the bytes of its last block behind.
        let fingerprint = called(|| {
            let hash = Sha256::new().chain_update(b"meshsec/v1 fingerprint").chain_update(bytes);
            let digest = hash.finalize();
            let mut first = [0; 8];
            first.copy_from_slice(&digest[..8]);
            Self(first)
        });
        wipe_stack::<SHALLOW>();
        fingerprint
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 8];
        text.strip_prefix("sha256:")
            .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
            .ok_or("a fingerprint is sha256: and 16 hex digits")?;
        Ok(Self(bytes))
    }
}

/// The knowledge of an SA's key, on either side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum KeyView {
    /// The key's fingerprint.
    Known(Fingerprint),
    /// The kernel shows zeros (lockdown), the SA is foreign, or it has no key.
    Unknown,
    /// The secret for the key is absent, so the key can't be compared.
    NotChecked,
}

impl KeyView {
    /// Whether the two are known and differ. An unknown key is never a difference.
    pub fn differs(self, other: Self) -> bool {
        matches!((self, other), (Self::Known(a), Self::Known(b)) if a != b)
    }
}

impl fmt::Display for KeyView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(fingerprint) => fingerprint.fmt(f),
            Self::Unknown => f.write_str("unknown"),
            Self::NotChecked => f.write_str("not checked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_the_domain_and_the_bytes() {
        // printf 'meshsec/v1 fingerprint\000\001' | sha256sum
        let fingerprint = Fingerprint::of(&[0, 1]);
        assert_eq!(fingerprint.to_string(), "sha256:fb185980b07d441b");
        assert_eq!(Fingerprint::try_from(fingerprint.to_string()), Ok(fingerprint));
    }

    #[test]
    fn an_unknown_key_never_differs() {
        let a = KeyView::Known(Fingerprint::of(b"a"));
        let b = KeyView::Known(Fingerprint::of(b"b"));
        assert!(a.differs(b));
        assert!(!a.differs(a));
        assert!(!a.differs(KeyView::Unknown));
        assert!(!KeyView::NotChecked.differs(b));
    }
}
