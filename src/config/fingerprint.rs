//! The fingerprints that people read to each other: of the files, and of the secrets that all hosts
//! share.
//!
//! How they are derived is in meshsec.toml(5), FINGERPRINTS, and stays as it is.
#![forbid(unsafe_code)]

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Loaded, Secrets};
use crate::model::{Fingerprint, Generation};

/// SHA-256 of a file, or of a list of files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileDigest(pub [u8; 32]);

impl fmt::Display for FileDigest {
    /// All of its 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A secret that all hosts of a mesh share, and its fingerprint.
pub struct SecretFingerprint {
    /// The key of `[keys]` that names it.
    pub name: &'static str,
    /// The generation of a ratchet's chain key.
    pub generation: Option<Generation>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

impl Loaded {
    /// SHA-256 of mesh.toml; with `include`, of the lines that have the SHA-256 of mesh.toml and of
    /// each included file in their order.
    pub fn files_digest(&self) -> FileDigest {
        if self.included.is_empty() {
            return FileDigest(self.digest);
        }
        let digests = self.included.iter().map(|file| file.digest);
        let mut hash = Sha256::new();
        for digest in std::iter::once(self.digest).chain(digests) {
            hash.update(format!("{}\n", FileDigest(digest)));
        }
        FileDigest(hash.finalize().into())
    }

    /// The fingerprints of the secrets that are the same on every host. A private key is not: its
    /// public key stands in the file. Hosts may have turned a ratchet to different generations, so
    /// its fingerprint is of the chain key of `now`; one that has passed that or is far behind gives
    /// none.
    pub fn secret_fingerprints(&self, now: Generation) -> Vec<SecretFingerprint> {
        let shared = |name, fingerprint| SecretFingerprint { name, generation: None, fingerprint };
        match &self.secrets {
            None | Some(Secrets::PrivateKey { psk: None, .. }) => Vec::new(),
            Some(Secrets::MeshKey(key)) => vec![shared("mesh_key", key.fingerprint())],
            Some(Secrets::PrivateKey { psk: Some(psk), .. }) => {
                vec![shared("psk", psk.fingerprint())]
            }
            Some(Secrets::Ratchet(ratchet)) => {
                let of_now = ratchet.at(now).map(|ratchet| SecretFingerprint {
                    generation: Some(now),
                    ..shared("ratchet", ratchet.fingerprint())
                });
                of_now.into_iter().collect()
            }
        }
    }
}
