//! `[rotation]`.
#![forbid(unsafe_code)]

use super::whole_seconds;
use crate::{
    config::{
        mask,
        reader::{Findings, Section, Value},
        schema::{GENERATION, PERIOD},
        types::Rotation,
    },
    model::{Generation, Period},
};

pub(super) fn read(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<Rotation> {
    let generation = section
        .get("generation")
        .map(|value| findings.number(value, GENERATION).and_then(Generation::new));
    let period = section.get("period").map(|value| read_period(findings, value));
    match (generation, period) {
        (Some(_), Some(_)) => {
            let span = section.key_span("period").unwrap_or_else(|| section.header());
            let message = "generation and period are both given".into();
            findings.wrong(
                span,
                message,
                "keep one: the file says which generation it is, or the clock",
            );
            None
        }
        (None, Some(period)) => period.map(Rotation::Period),
        (Some(generation), None) => generation.map(Rotation::Generation),
        (None, None) => {
            if !section.is_guessed("period") {
                section.require(findings, GENERATION);
            }
            None
        }
    }
}

fn read_period(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<Period> {
    let text = findings.text(value, PERIOD)?;
    let Some(seconds) = whole_seconds(text) else {
        let message = format!("period {} is no time of whole seconds", mask::quote(text));
        findings.wrong(value.span(), message, PERIOD.write);
        return None;
    };
    let period = Period::new(seconds);
    if period.is_none() {
        let (relation, bound) =
            if seconds < Period::MIN { ("below", "10m") } else { ("above", "1d") };
        let message = format!("period {} is {relation} {bound}", mask::quote(text));
        findings.wrong(value.span(), message, PERIOD.write);
    }
    period
}
