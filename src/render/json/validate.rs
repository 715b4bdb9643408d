//! `validate --format json`.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonClock, JsonCoded, warnings};
use crate::config::{Loaded, Moment, PeersOf, SecretFingerprint};

#[derive(Serialize)]
struct JsonValidate {
    format_version: &'static str,
    valid: bool,
    mesh: String,
    peers: usize,
    files: Vec<JsonPeersOf>,
    /// SHA-256 of all files.
    sha256: String,
    /// The secrets that all hosts share; null where they were not looked at.
    secrets: Option<Vec<JsonSecret>>,
    generation: u64,
    clock: Option<JsonClock>,
    warnings: Vec<JsonCoded>,
}

/// The number of peers in one file.
#[derive(Serialize)]
struct JsonPeersOf {
    file: String,
    peers: usize,
    sha256: String,
}

/// A secret that all hosts share.
#[derive(Serialize)]
struct JsonSecret {
    name: &'static str,
    /// Of a ratchet's chain key.
    generation: Option<u64>,
    fingerprint: String,
}

impl JsonSecret {
    fn of(secret: SecretFingerprint) -> Self {
        Self {
            name: secret.name,
            generation: secret.generation.map(|generation| generation.get()),
            fingerprint: secret.fingerprint.to_string(),
        }
    }
}

/// A valid file in the shape of its JSON. A file that is not valid is an error.
pub fn validate_json(loaded: &Loaded, moment: Moment) -> impl Serialize + use<> {
    let config = &loaded.config;
    let peers_of = |PeersOf { file, peers, digest }: PeersOf| JsonPeersOf {
        file,
        peers,
        sha256: digest.to_string(),
    };
    let secrets = loaded.secrets.as_ref().map(|_| loaded.secret_fingerprints(moment.generation));
    JsonValidate {
        format_version: FORMAT_VERSION,
        valid: true,
        mesh: config.mesh.to_string(),
        peers: config.peers.len(),
        files: loaded.peers_by_file().into_iter().map(peers_of).collect(),
        sha256: loaded.files_digest().to_string(),
        secrets: secrets.map(|secrets| secrets.into_iter().map(JsonSecret::of).collect()),
        generation: moment.generation.get(),
        clock: JsonClock::of(moment),
        warnings: warnings(&loaded.warnings),
    }
}
