//! `[keys]`.
#![forbid(unsafe_code)]

use std::{ops::Range, path::Path};

use crate::config::{
    reader::{Field, Findings, Section},
    secrets,
    types::SecretSource,
};

/// The keys of this table, and those that this release refuses.
pub(super) const KEYS: [&[&str]; 2] = [&["mesh_key"], &["private_key", "psk", "ratchet"]];

const MESH_KEY: Field =
    Field { name: "mesh_key", write: "write mesh_key = { file = \"mesh.key\" }" };
const KEYS_LATER: [Field; 3] = [
    Field { name: "private_key", write: "use mesh_key, one secret for the mesh" },
    Field { name: "psk", write: "leave it out; mesh_key needs none" },
    Field { name: "ratchet", write: "use mesh_key, one secret for the mesh" },
];

pub(super) fn read(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    dir: &Path,
) -> Option<(SecretSource, Range<usize>)> {
    section.refuse(findings, &KEYS_LATER);
    if let Some(value) = section.get("mesh_key") {
        return Some((secrets::source(findings, value, MESH_KEY, dir)?, value.span()));
    }
    let other = ["private_key", "ratchet"]
        .iter()
        .any(|key| section.key_span(key).is_some() || section.is_guessed(key));
    if !other {
        section.require(findings, MESH_KEY);
    }
    None
}
