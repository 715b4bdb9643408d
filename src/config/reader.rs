//! Typed reading of the parsed tree. Errors are noted and reading goes on, so that one run reports
//! all of them.
//!
//! The list of keys is in `schema`, their meaning in `tables` and `peers`.
#![forbid(unsafe_code)]

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Finding, FindingKind, Source},
    mask,
    schema::{self, Field, Table},
};

/// A value and its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// All errors found so far.
pub(super) struct Findings<'s> {
    pub source: &'s Source<'s>,
    pub list: Vec<Finding>,
}

impl<'s> Findings<'s> {
    pub(super) fn new(source: &'s Source<'s>, list: Vec<Finding>) -> Self {
        Self { source, list }
    }

    /// Reports a wrong value.
    pub(super) fn wrong(&mut self, span: Range<usize>, message: String, hint: impl Into<String>) {
        self.list.push(Finding { weight: FindingKind::Wrong, span, message, hint: hint.into() });
    }

    /// Reports a missing part.
    pub(super) fn missing(&mut self, span: Range<usize>, message: String, hint: impl Into<String>) {
        self.list.push(Finding { weight: FindingKind::Missing, span, message, hint: hint.into() });
    }

    pub(super) fn wrong_type(&mut self, value: &Value<'_>, field: Field, wanted: &str) {
        self.not_a(value, field.name, wanted, field.write);
    }

    /// Reports a value of a wrong type; `title` names it.
    pub(super) fn not_a(&mut self, value: &Value<'_>, title: &str, wanted: &str, write: &str) {
        // TOML has no null, and its tree no place for one.
        let is = match self.source.text.get(value.span()) {
            Some("null") => "null",
            _ => type_name(value.get_ref()),
        };
        self.wrong(value.span(), format!("{title} must be {wanted}, not {is}"), write);
    }

    /// Reports a text that can't be the name of something, such as `a peer's`. `near` is a name like
    /// it that can.
    pub(super) fn not_a_name(
        &mut self,
        (value, text): (&Value<'_>, &str),
        whose: &str,
        near: Option<String>,
        field: Field,
    ) {
        let message = format!("{} can't be {whose} name", mask::quote(text));
        let near = near.filter(|_| !mask::may_be_a_key(text));
        let hint = near.map_or(field.write.into(), |near| format!("write \"{near}\""));
        self.wrong(value.span(), message, hint);
    }

    pub(super) fn text<'v>(&mut self, value: &'v Value<'_>, field: Field) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, field, "a string");
        }
        text
    }

    pub(super) fn boolean(&mut self, value: &Value<'_>, field: Field) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(value, field, "true or false");
        }
        boolean
    }

    pub(super) fn number(&mut self, value: &Value<'_>, field: Field) -> Option<u64> {
        let bounds = field.bounds();
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(value, field, "an integer");
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix());
        let (relation, bound) = match number {
            Ok(number) if number < bounds.min.into() => ("below", bounds.min),
            Ok(number) if number <= bounds.max.into() => return u64::try_from(number).ok(),
            Err(_) if integer.as_str().starts_with('-') => ("below", bounds.min),
            _ => ("above", bounds.max),
        };
        let bound = if bounds.hex { format!("{bound:#x}") } else { bound.to_string() };
        let written = self.source.text.get(value.span()).unwrap_or("");
        let message = format!("{} {} is {relation} {bound}", field.name, mask::plain(written));
        self.wrong(value.span(), message, field.write);
        None
    }
}

/// One table, its unknown keys already reported.
pub(super) struct Section<'v, 'i> {
    title: &'static str,
    header: Range<usize>,
    table: &'v DeTable<'i>,
    /// Known keys that an unknown one was taken for. They are not reported as missing too.
    guessed: Vec<&'static str>,
}

impl<'v, 'i> Section<'v, 'i> {
    /// Reports the keys that the table doesn't have.
    pub(super) fn open(
        findings: &mut Findings<'_>,
        table: Table,
        header: Range<usize>,
        keys: &'v DeTable<'i>,
    ) -> Self {
        Self::titled(findings, table.title(), table, header, keys)
    }

    /// The same for a table that has another name in errors.
    pub(super) fn titled(
        findings: &mut Findings<'_>,
        title: &'static str,
        kind: Table,
        header: Range<usize>,
        table: &'v DeTable<'i>,
    ) -> Self {
        let known = kind.keys();
        let mut guessed = Vec::new();
        for key in table.keys() {
            let written = key.get_ref().as_ref();
            if known.contains(&written) {
                continue;
            }
            let near = nearest(written, &known);
            let elsewhere = elsewhere(kind, written);
            guessed.extend(near.or(elsewhere.and_then(|elsewhere| elsewhere.is)));
            let message = format!("unknown key {} in {title}", mask::quote(written));
            let list = format!("known in {title}: {}", known.join(", "));
            let hint = match (schema::belongs(written), near, elsewhere) {
                (Some(table), ..) if table != kind => format!("it belongs in {}", table.place()),
                (_, Some(near), _) => format!("did you mean {near}? {list}"),
                (_, None, Some(elsewhere)) => elsewhere.write.into(),
                (_, None, None) => list,
            };
            findings.wrong(key.span(), message, hint);
        }
        Self { title, header, table, guessed }
    }

    /// A key's value, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&'v Value<'i>> {
        self.table.get(key)
    }

    /// The place of a key, if it is there.
    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    pub(super) fn header(&self) -> Range<usize> {
        self.header.clone()
    }

    /// Whether an unknown key was taken for this one.
    pub(super) fn is_guessed(&self, key: &str) -> bool {
        self.guessed.contains(&key)
    }

    /// A key's value. A missing key is reported at the table's header.
    pub(super) fn require(
        &self,
        findings: &mut Findings<'_>,
        field: Field,
    ) -> Option<&'v Value<'i>> {
        let value = self.get(field.name);
        if value.is_none() && !self.is_guessed(field.name) {
            let message = format!("{} has no {}", self.title, field.name);
            findings.missing(self.header(), message, field.write);
        }
        value
    }
}

/// The name of a setting in other programs' files. mesh.toml may have that setting or not.
struct Elsewhere {
    table: Table,
    key: &'static str,
    /// The setting's name in mesh.toml.
    is: Option<&'static str>,
    write: &'static str,
}

const fn elsewhere_in(
    table: Table,
    key: &'static str,
    is: Option<&'static str>,
    write: &'static str,
) -> Elsewhere {
    Elsewhere { table, key, is, write }
}

const ADDRESS: &str = "write address = \"192.0.2.1\", without a port";
const LEAVE: &str = "leave it out: what is protected is said in [traffic]";
const ELSEWHERE: [Elsewhere; 11] = [
    elsewhere_in(Table::Peer, "endpoint", Some("address"), ADDRESS),
    elsewhere_in(Table::Peer, "ip", Some("address"), ADDRESS),
    elsewhere_in(Table::Peer, "host", Some("address"), ADDRESS),
    elsewhere_in(Table::Peer, "id", Some("short_id"), "write short_id, a number from 0 to 4095"),
    elsewhere_in(Table::Peer, "allowed_ips", None, LEAVE),
    elsewhere_in(Table::Peer, "allowedips", None, LEAVE),
    elsewhere_in(
        Table::Peer,
        "persistent_keepalive",
        None,
        "leave it out: nothing has to be kept alive",
    ),
    elsewhere_in(
        Table::Peer,
        "preshared_key",
        None,
        "write psk = { file = \"psk\" } in [keys], for the whole mesh",
    ),
    elsewhere_in(Table::Keys, "file", Some("mesh_key"), "write mesh_key = { file = \"mesh.key\" }"),
    elsewhere_in(
        Table::Keys,
        "credential",
        Some("mesh_key"),
        "write mesh_key = { credential = \"mesh.key\" }",
    ),
    elsewhere_in(Table::Keys, "env", Some("mesh_key"), "write mesh_key = { env = \"MESH_KEY\" }"),
];

fn elsewhere(table: Table, key: &str) -> Option<&'static Elsewhere> {
    let lower = key.to_ascii_lowercase();
    ELSEWHERE.iter().find(|elsewhere| elsewhere.table == table && elsewhere.key == lower)
}

/// The candidate that `written` is a misspelling of, if there is one: one edit for a
/// short word and two for a longer one, where two characters swapped are one edit.
pub(super) fn nearest(written: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let allowed = (written.len() / 3).clamp(1, 2);
    let near = |candidate: &&'static str| candidate.len().abs_diff(written.len()) <= allowed;
    candidates
        .iter()
        .copied()
        .filter(near)
        .map(|candidate| (strsim::osa_distance(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A text turned into a valid name: in lower case, with - in place of invalid characters. `None`
/// for a text that has no valid character, or other characters than ASCII.
pub(super) fn lowered(text: &str, dots: bool) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || (dots && c == '.');
    let lower = text.trim().to_ascii_lowercase();
    let lowered = lower.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    (lower.is_ascii() && lower.contains(allowed)).then_some(lowered)
}

/// The kind of a value, as errors say it.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_misses_are_guessed() {
        let known = ["name", "short_id", "address"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("short-id", &known), Some("short_id"));
        assert_eq!(nearest("id", &known), None);
        assert_eq!(nearest("nmae", &known), Some("name"));
        assert_eq!(nearest("key", &known), None);
    }
}
