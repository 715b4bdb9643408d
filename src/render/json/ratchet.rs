//! `ratchet init --format json` and `ratchet advance --format json`.

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::{
    model::{Generation, MeshName},
    render::RatchetAdvance,
};

#[derive(Serialize)]
struct JsonRatchetInit {
    format_version: &'static str,
    mesh: String,
    generation: u64,
}

/// A new ratchet, in the shape of its JSON.
pub fn ratchet_init_json(mesh: &MeshName, generation: Generation) -> impl Serialize + use<> {
    JsonRatchetInit {
        format_version: FORMAT_VERSION,
        mesh: mesh.to_string(),
        generation: generation.get(),
    }
}

#[derive(Serialize)]
struct JsonRatchetAdvance {
    format_version: &'static str,
    #[serde(flatten)]
    advance: JsonAdvance,
}

/// The part of it that the report of an apply has too.
#[derive(Serialize)]
pub(super) struct JsonAdvance {
    before: Option<u64>,
    after: Option<u64>,
    error: Option<String>,
}

impl JsonAdvance {
    pub(super) fn of(RatchetAdvance { before, after, error }: &RatchetAdvance) -> Self {
        Self { before: *before, after: *after, error: error.clone() }
    }
}

/// The result of turning a ratchet, in the shape of its JSON.
pub fn ratchet_advance_json(advance: &RatchetAdvance) -> impl Serialize + use<> {
    JsonRatchetAdvance { format_version: FORMAT_VERSION, advance: JsonAdvance::of(advance) }
}
