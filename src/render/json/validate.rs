//! `validate --format json`.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonClock, JsonCoded, warnings};
use crate::config::{Loaded, Moment, PeersOf};

#[derive(Serialize)]
struct JsonValidate {
    format_version: &'static str,
    valid: bool,
    mesh: String,
    peers: usize,
    files: Vec<JsonPeersOf>,
    generation: u64,
    clock: Option<JsonClock>,
    warnings: Vec<JsonCoded>,
}

/// The number of peers in one file.
#[derive(Serialize)]
struct JsonPeersOf {
    file: String,
    peers: usize,
}

/// A valid file in the shape of its JSON. A file that is not valid is an error.
pub fn validate_json(loaded: &Loaded, moment: Moment) -> impl Serialize + use<> {
    let config = &loaded.config;
    let peers_of = |PeersOf { file, peers }: PeersOf| JsonPeersOf { file, peers };
    JsonValidate {
        format_version: FORMAT_VERSION,
        valid: true,
        mesh: config.mesh.to_string(),
        peers: config.peers.len(),
        files: loaded.peers_by_file().into_iter().map(peers_of).collect(),
        generation: moment.generation.get(),
        clock: JsonClock::of(moment),
        warnings: warnings(&loaded.warnings),
    }
}
