//! `validate --format json`.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonClock, JsonCoded, warnings};
use crate::{
    config::{Config, Moment},
    model::Warning,
};

#[derive(Serialize)]
struct JsonValidate {
    format_version: &'static str,
    valid: bool,
    mesh: String,
    peers: usize,
    generation: u64,
    clock: Option<JsonClock>,
    warnings: Vec<JsonCoded>,
}

/// A valid file in the shape of its JSON. A file that is not valid is an error.
pub fn validate_json(
    config: &Config,
    moment: Moment,
    of_file: &[Warning],
) -> impl Serialize + use<> {
    JsonValidate {
        format_version: FORMAT_VERSION,
        valid: true,
        mesh: config.mesh.to_string(),
        peers: config.peers.len(),
        generation: moment.generation.get(),
        clock: JsonClock::of(moment),
        warnings: warnings(of_file),
    }
}
