//! `prove --compare`: the documents of two hosts. Needs no privilege and no mesh.toml.

use std::path::Path;

use crate::{
    cli::Format,
    commands::{
        Status,
        document::{DocumentKind, unread},
        print, print_json,
    },
    error::Error,
    privilege,
    render::{
        ComparedHost, ComparisonView, FORMAT_VERSION, JsonEvidence, comparison_json,
        comparison_text,
    },
    verdict::proof::compare::{Testimony, compare},
};

const EVIDENCE: DocumentKind = DocumentKind {
    noun: "evidence",
    whose: "a document of meshsec prove --format json",
    versions: &[FORMAT_VERSION],
};

pub(super) fn run(format: Format, one: &Path, other: &Path) -> Result<Status, Error> {
    let (first, second) = (read(one)?, read(other)?);
    privilege::no_file().map_err(Error::Privilege)?;
    let comparison = compare(&first, &second);
    let view = ComparisonView {
        mesh: &first.mesh,
        documents: [compared(one, &first), compared(other, &second)],
        comparison: &comparison,
    };
    match format {
        Format::Text | Format::Prometheus => print(&comparison_text(&view))?,
        Format::Json => print_json(&comparison_json(&view))?,
    }
    Ok(if comparison.is_proven() { Status::Done } else { Status::Attention })
}

fn compared<'a>(path: &'a Path, testimony: &'a Testimony) -> ComparedHost<'a> {
    let Testimony { host, taken, .. } = testimony;
    ComparedHost { path, taken: *taken, host: host.name.as_str() }
}

fn read(path: &Path) -> Result<Testimony, Error> {
    let evidence: JsonEvidence = EVIDENCE.read(path)?;
    evidence.testimony().map_err(|reason| unread(path, reason.into()))
}
