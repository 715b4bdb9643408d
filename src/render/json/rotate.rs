//! `rotate --format json`.

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::model::{Generation, MeshName};

#[derive(Serialize)]
struct JsonRotate {
    format_version: &'static str,
    mesh: String,
    before: u64,
    after: u64,
}

/// The generations of the file before and after, in the shape of their JSON.
pub fn rotate_json(
    mesh: &MeshName,
    before: Generation,
    after: Generation,
) -> impl Serialize + use<> {
    JsonRotate {
        format_version: FORMAT_VERSION,
        mesh: mesh.to_string(),
        before: before.get(),
        after: after.get(),
    }
}
