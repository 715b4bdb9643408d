//! `[rotation]`.
#![forbid(unsafe_code)]

use crate::{
    config::reader::{Bounds, Field, Findings, Section},
    model::Generation,
};

/// The keys of this table, and those that this release refuses.
pub(super) const KEYS: [&[&str]; 2] = [&["generation"], &["period"]];

const GENERATION: Field =
    Field { name: "generation", write: "write a number from 0 up, such as generation = 1" };
const GENERATIONS: Bounds = Bounds { min: 0, max: Generation::MAX, hex: false };
const PERIOD: Field =
    Field { name: "period", write: "write generation = 1, and raise it to rotate the keys" };

pub(super) fn read(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<Generation> {
    section.refuse(findings, &[PERIOD]);
    if section.key_span("period").is_some() && section.get("generation").is_none() {
        return None;
    }
    let value = section.require(findings, GENERATION)?;
    findings.number(value, GENERATION, GENERATIONS).and_then(Generation::new)
}
