//! `[keys]`.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::config::{
    reader::{Findings, Section},
    schema::{Field, MESH_KEY, PRIVATE_KEY, PSK, RATCHET},
    secrets::{self, Spans},
    types::{KeySource, SecretSource},
};

/// The file's way to derive keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum KeyMethod {
    MeshKey,
    PrivateKey,
    Ratchet,
}

impl KeyMethod {
    const ALL: [Self; 3] = [Self::MeshKey, Self::PrivateKey, Self::Ratchet];

    /// The key of this table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MeshKey => MESH_KEY.name,
            Self::PrivateKey => PRIVATE_KEY.name,
            Self::Ratchet => RATCHET.name,
        }
    }
}

/// The table's contents, as far as they could be read.
#[derive(Default)]
pub(in crate::config) struct Keys {
    /// `None` where there is not exactly one, so that it is unknown whether peers need public keys.
    pub kind: Option<KeyMethod>,
    /// The source of keys, if nothing is wrong.
    pub source: Option<KeySource>,
    /// The places where secrets are named.
    pub spans: Spans,
}

pub(super) fn read(findings: &mut Findings<'_>, section: &Section<'_, '_>, dir: &Path) -> Keys {
    let kind = kind(findings, section);
    let mut spans = Spans::new();
    let mut secret = |findings: &mut _, field: Field| -> Option<Option<SecretSource>> {
        let Some(value) = section.get(field.name) else { return Some(None) };
        spans.insert(field.name, value.span());
        secrets::source(findings, value, field, dir).map(Some)
    };
    // All secrets are read, needed or not, so that all errors are reported at once.
    let mesh_key = secret(findings, MESH_KEY);
    let private_key = secret(findings, PRIVATE_KEY);
    let psk = secret(findings, PSK);
    let ratchet = secret(findings, RATCHET).flatten();
    let other = kind.filter(|kind| *kind != KeyMethod::PrivateKey);
    if let (Some(kind), Some(span)) = (other, section.key_span("psk")) {
        let message = format!("psk is mixed into private_key, and {} needs none", kind.name());
        findings.wrong(span, message, "leave it out");
    }
    let source = match kind {
        Some(KeyMethod::MeshKey) => mesh_key.flatten().map(KeySource::MeshKey),
        Some(KeyMethod::PrivateKey) => private_key
            .flatten()
            .and_then(|private_key| psk.map(|psk| KeySource::PrivateKey { private_key, psk })),
        Some(KeyMethod::Ratchet) => ratchet.and_then(|ratchet| match ratchet {
            SecretSource::File(path) => Some(KeySource::Ratchet(path)),
            SecretSource::Credential(_) | SecretSource::Env(_) => {
                let message = "ratchet must be a file, because apply writes it".into();
                findings.wrong(spans[RATCHET.name].clone(), message, RATCHET.write);
                None
            }
        }),
        None => None,
    };
    Keys { kind, source, spans }
}

/// Reports an error if there is not exactly one way.
fn kind(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<KeyMethod> {
    let place = |kind: KeyMethod| Some((section.key_span(kind.name())?, kind));
    let mut given: Vec<_> = KeyMethod::ALL.into_iter().filter_map(place).collect();
    given.sort_by_key(|(span, _)| span.start);
    match &given[..] {
        [(_, only)] => return Some(*only),
        [] => {
            if !KeyMethod::ALL.iter().any(|kind| section.is_guessed(kind.name())) {
                let message = "[keys] has none of mesh_key, private_key and ratchet".into();
                let hint = format!("{}, or one of the others", MESH_KEY.write);
                findings.missing(section.header(), message, hint);
            }
        }
        [(_, first), more @ ..] => {
            for (span, other) in more {
                let message = format!("[keys] has both {} and {}", first.name(), other.name());
                findings.wrong(span.clone(), message, "leave one of them");
            }
        }
    }
    None
}
