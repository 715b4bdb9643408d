//! `[keys]`.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::config::{
    reader::{Field, Findings, Section},
    secrets::{self, Spans},
    types::{KeySource, SecretSource},
};

/// The keys of this table, and those that this release refuses.
pub(super) const KEYS: [&[&str]; 2] = [&["mesh_key", "private_key", "psk"], &["ratchet"]];

const MESH_KEY: Field =
    Field { name: "mesh_key", write: "write mesh_key = { file = \"mesh.key\" }" };
const PRIVATE_KEY: Field =
    Field { name: "private_key", write: "write private_key = { file = \"private.key\" }" };
const PSK: Field = Field { name: "psk", write: "write psk = { file = \"psk\" }" };
const RATCHET: Field = Field { name: "ratchet", write: "use mesh_key, one secret for the mesh" };

/// Which of the ways to make keys a file takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    MeshKey,
    PrivateKey,
}

/// What the table says, as far as it could be read.
#[derive(Default)]
pub(in crate::config) struct Keys {
    /// `None` where there is not exactly one, so that nobody knows what to ask of peers.
    pub kind: Option<Kind>,
    /// All of it, if nothing is wrong.
    pub source: Option<KeySource>,
    /// Where each secret is named.
    pub spans: Spans,
}

pub(super) fn read(findings: &mut Findings<'_>, section: &Section<'_, '_>, dir: &Path) -> Keys {
    section.refuse(findings, &[RATCHET]);
    let kind = kind(findings, section);
    let mut spans = Spans::new();
    let mut secret = |findings: &mut _, field: Field| -> Option<Option<SecretSource>> {
        let Some(value) = section.get(field.name) else { return Some(None) };
        spans.insert(field.name, value.span());
        secrets::source(findings, value, field, dir).map(Some)
    };
    // All three are read whatever they are for, so that all errors are reported at once.
    let mesh_key = secret(findings, MESH_KEY);
    let private_key = secret(findings, PRIVATE_KEY);
    let psk = secret(findings, PSK);
    if let (Some(Kind::MeshKey), Some(span)) = (kind, section.key_span("psk")) {
        let message = "psk is mixed into private_key, and mesh_key needs none".into();
        findings.wrong(span, message, "leave it out");
    }
    let source = match kind {
        Some(Kind::MeshKey) => mesh_key.flatten().map(KeySource::MeshKey),
        Some(Kind::PrivateKey) => private_key
            .flatten()
            .and_then(|private_key| psk.map(|psk| KeySource::PrivateKey { private_key, psk })),
        None => None,
    };
    Keys { kind, source, spans }
}

/// Reports it if there is not exactly one way.
fn kind(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<Kind> {
    let mesh_key = section.key_span("mesh_key");
    let private_key = section.key_span("private_key");
    match (mesh_key, private_key) {
        (Some(_), None) => return Some(Kind::MeshKey),
        (None, Some(_)) => return Some(Kind::PrivateKey),
        (Some(a), Some(b)) => {
            let second = if a.start > b.start { a } else { b };
            let message = "[keys] has both mesh_key and private_key".into();
            findings.wrong(second, message, "leave one of them");
        }
        (None, None) => {
            let other = section.key_span("ratchet").is_some();
            let guessed = ["mesh_key", "private_key", "ratchet"];
            if !other && !guessed.iter().any(|key| section.is_guessed(key)) {
                let message = "[keys] has neither mesh_key nor private_key".into();
                let hint = format!("{}, or private_key", MESH_KEY.write);
                findings.missing(section.header(), message, hint);
            }
        }
    }
    None
}
