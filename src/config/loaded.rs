//! Checks of a file after it was loaded, with errors at their places.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::{keys::ratchet::MOST_STEPS, model::Generation};

use super::{
    ConfigError, FileDigest, Loaded, Peer, Rotation, Secrets,
    diagnostic::{Finding, FindingKind, Source},
    mask, raise,
};

/// The peers of one file.
#[derive(PartialEq, Eq)]
pub struct PeersOf {
    /// The file: mesh.toml as it was named, or another from the directory of mesh.toml.
    pub file: String,
    /// Their number.
    pub peers: usize,
    /// SHA-256 of the file.
    pub digest: FileDigest,
}

impl Loaded {
    /// How many peers are in mesh.toml, and in each of the files that it includes.
    pub fn peers_by_file(&self) -> Vec<PeersOf> {
        let included = self.included.iter();
        let included = included.map(|file| PeersOf {
            file: file.name.clone(),
            peers: file.peers,
            digest: FileDigest(file.digest),
        });
        let elsewhere: usize = self.included.iter().map(|file| file.peers).sum();
        let own = self.config.peers.len() - elsewhere;
        let mesh =
            PeersOf { file: mask::path(&self.path), peers: own, digest: FileDigest(self.digest) };
        std::iter::once(mesh).chain(included).collect()
    }

    /// Checks that the private key is the local peer's.
    ///
    /// # Errors
    ///
    /// The file has another public key for this peer. With this private key the host would derive
    /// keys that no other host derives.
    pub fn check_private_key(&self, local: &Peer) -> Result<(), ConfigError> {
        let Some(Secrets::PrivateKey { private_key, .. }) = &self.secrets else { return Ok(()) };
        let belonging = private_key.public_key();
        if local.public_key == Some(belonging) {
            return Ok(());
        }
        let owner = self.config.peers.iter().find(|peer| peer.public_key == Some(belonging));
        let hint = match owner {
            Some(owner) => {
                format!("it is the private key of {}; each host has its own", owner.name)
            }
            None => format!("write \"{belonging}\", or put the right private key in place"),
        };
        let (file, span) = self.public_keys.get(&local.name).cloned().unwrap_or_default();
        let message = format!("the private key at hand does not belong to {}", local.name);
        Err(self.refused_in(file, span, message, hint))
    }

    /// Checks that the keys of a generation can still be derived, and soon enough.
    ///
    /// # Errors
    ///
    /// The ratchet has passed it, or is too far behind.
    pub fn check_ratchet(&self, generation: Generation) -> Result<(), ConfigError> {
        let Some(Secrets::Ratchet(ratchet)) = &self.secrets else { return Ok(()) };
        let oldest = ratchet.generation();
        let (message, hint) = if generation < oldest {
            (
                format!(
                    "the ratchet is at generation {oldest}: the keys of generation {generation} \
                     are destroyed, and nothing brings them back"
                ),
                "bring the file, or the clock, to where the other hosts are",
            )
        } else if generation.get() - oldest.get() > MOST_STEPS {
            (
                format!(
                    "the ratchet is at generation {oldest}, too far behind generation {generation}"
                ),
                "is the generation right? it must be within 67 million of the ratchet's",
            )
        } else {
            return Ok(());
        };
        let span = self.secret_places.get("ratchet").cloned().unwrap_or(0..0);
        Err(self.refused(span, message, hint))
    }

    /// The file's bytes with `generation` raised by one and nothing else
    /// changed, and the two generations.
    ///
    /// # Errors
    ///
    /// The generation follows the clock, or there is none after this one.
    pub fn raised(&self) -> Result<Raised<'_>, ConfigError> {
        let text = String::from_utf8_lossy(&self.bytes);
        let refused = |key, message: String, hint: &str| {
            let span = raise::place(&text, key).unwrap_or(0..0);
            self.refused(span, message, hint)
        };
        let Rotation::Generation(before) = self.config.rotation else {
            let message = "with period the clock raises the generation".into();
            return Err(refused("period", message, "let a timer run meshsec apply"));
        };
        let after = before.next();
        if after.get() > Generation::MAX {
            let message = format!("generation {before} is the last one");
            return Err(refused("generation", message, "write a smaller number, and new secrets"));
        }
        let Some(contents) = raise::raised(&text, before) else {
            let message = "the number of this generation can't be found".into();
            return Err(refused("generation", message, "raise it by hand"));
        };
        Ok(Raised { before, after, read: &self.bytes, contents })
    }

    /// An error at a place of mesh.toml, and its correction.
    fn refused(&self, span: Range<usize>, message: String, hint: impl Into<String>) -> ConfigError {
        self.refused_in(0, span, message, hint)
    }

    /// The same of a file that it includes, by its number.
    fn refused_in(
        &self,
        file: usize,
        span: Range<usize>,
        message: String,
        hint: impl Into<String>,
    ) -> ConfigError {
        let text = String::from_utf8_lossy(&self.bytes);
        let included = file.checked_sub(1).and_then(|index| self.included.get(index));
        let source = included.map_or_else(|| Source::new(&text), |included| included.source(file));
        let finding = Finding { weight: FindingKind::Wrong, span, message, hint: hint.into() };
        ConfigError::located(&self.path, &source, vec![finding])
    }
}

/// A file with a generation to be raised.
pub struct Raised<'a> {
    /// The file's generation.
    pub before: Generation,
    /// The next generation.
    pub after: Generation,
    /// The file's old contents.
    pub read: &'a [u8],
    /// The file's new contents.
    pub contents: String,
}
