//! Typed reading of the parsed tree. What is wrong is noted and reading goes on,
//! so that one run reports everything.
//!
//! Which keys there are, and what they mean, is in `tables` and `peers`.
#![forbid(unsafe_code)]

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Finding, Source, Weight},
    mask,
};

/// A value and where it is written.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A key, and what its errors tell the operator to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub name: &'static str,
    pub write: &'static str,
}

/// The least and the greatest number that a key takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub min: u64,
    pub max: u64,
    /// Errors show the bounds in hex.
    pub hex: bool,
}

/// Everything found wrong so far.
pub(super) struct Findings<'s> {
    pub source: &'s Source<'s>,
    pub list: Vec<Finding>,
}

impl<'s> Findings<'s> {
    pub(super) fn new(source: &'s Source<'s>, list: Vec<Finding>) -> Self {
        Self { source, list }
    }

    /// Something that is there is wrong.
    pub(super) fn wrong(&mut self, span: Range<usize>, message: String, hint: impl Into<String>) {
        self.list.push(Finding { weight: Weight::Wrong, span, message, hint: hint.into() });
    }

    /// Something is not there.
    pub(super) fn missing(&mut self, span: Range<usize>, message: String, hint: impl Into<String>) {
        self.list.push(Finding { weight: Weight::Missing, span, message, hint: hint.into() });
    }

    pub(super) fn wrong_type(&mut self, value: &Value<'_>, field: Field, wanted: &str) {
        let is = type_name(value.get_ref());
        self.wrong(value.span(), format!("{} must be {wanted}, not {is}", field.name), field.write);
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

    pub(super) fn number(
        &mut self,
        value: &Value<'_>,
        field: Field,
        bounds: Bounds,
    ) -> Option<u64> {
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
    name: &'static str,
    header: Range<usize>,
    table: &'v DeTable<'i>,
    /// Known keys that an unknown one was taken for: these aren't missing too.
    guessed: Vec<&'static str>,
}

impl<'v, 'i> Section<'v, 'i> {
    /// Reports the keys that are not in `known`.
    pub(super) fn open(
        findings: &mut Findings<'_>,
        name: &'static str,
        header: Range<usize>,
        table: &'v DeTable<'i>,
        known: &[&'static str],
    ) -> Self {
        let mut guessed = Vec::new();
        for key in table.keys() {
            let written = key.get_ref().as_ref();
            if known.contains(&written) {
                continue;
            }
            let near = nearest(written, known.iter());
            let elsewhere = elsewhere(name, written);
            guessed.extend(near.or(elsewhere.and_then(|elsewhere| elsewhere.is)));
            let message = format!("unknown key {} in {name}", mask::quote(written));
            findings.wrong(key.span(), message, hint(written, near, name, known));
        }
        Self { name, header, table, guessed }
    }

    /// A key's value, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&'v Value<'i>> {
        self.table.get(key)
    }

    /// Where a key is written, if it is there.
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

    /// A key's value; that it is missing is reported at the table's header.
    pub(super) fn require(
        &self,
        findings: &mut Findings<'_>,
        field: Field,
    ) -> Option<&'v Value<'i>> {
        let value = self.get(field.name);
        if value.is_none() && !self.is_guessed(field.name) {
            let message = format!("{} has no {}", self.name, field.name);
            findings.missing(self.header(), message, field.write);
        }
        value
    }
}

/// The keys of the tables, to tell where a misplaced one belongs.
const BELONGS: &[(&str, &str)] = &[
    ("reqid", "[mesh]"),
    ("kind", "[traffic]"),
    ("port", "[traffic]"),
    ("select", "[traffic]"),
    ("mark", "[traffic]"),
    ("guard", "[traffic]"),
    ("cipher", "[esp]"),
    ("esn", "[esp]"),
    ("replay_window", "[esp]"),
    ("offload", "[esp]"),
    ("mesh_key", "[keys]"),
    ("private_key", "[keys]"),
    ("psk", "[keys]"),
    ("ratchet", "[keys]"),
    ("generation", "[rotation]"),
    ("period", "[rotation]"),
    ("device", "[link]"),
    ("mtu", "[link]"),
    ("short_id", "[[peer]]"),
    ("address", "[[peer]]"),
    ("public_key", "[[peer]]"),
];

/// The table that a key belongs in.
pub(super) fn belongs(key: &str) -> Option<&'static str> {
    BELONGS.iter().find(|(known, _)| *known == key).map(|(_, table)| *table)
}

/// What other programs' files call what this one has, or has not.
struct Elsewhere {
    table: &'static str,
    key: &'static str,
    /// What it is called here.
    is: Option<&'static str>,
    write: &'static str,
}

const fn elsewhere_in(
    table: &'static str,
    key: &'static str,
    is: Option<&'static str>,
    write: &'static str,
) -> Elsewhere {
    Elsewhere { table, key, is, write }
}

const ADDRESS: &str = "write address = \"192.0.2.1\", without a port";
const LEAVE: &str = "leave it out: what is protected is said in [traffic]";
const ELSEWHERE: [Elsewhere; 11] = [
    elsewhere_in("[[peer]]", "endpoint", Some("address"), ADDRESS),
    elsewhere_in("[[peer]]", "ip", Some("address"), ADDRESS),
    elsewhere_in("[[peer]]", "host", Some("address"), ADDRESS),
    elsewhere_in("[[peer]]", "id", Some("short_id"), "write short_id, a number from 0 to 4095"),
    elsewhere_in("[[peer]]", "allowed_ips", None, LEAVE),
    elsewhere_in("[[peer]]", "allowedips", None, LEAVE),
    elsewhere_in(
        "[[peer]]",
        "persistent_keepalive",
        None,
        "leave it out: nothing has to be kept alive",
    ),
    elsewhere_in(
        "[[peer]]",
        "preshared_key",
        None,
        "write psk = { file = \"psk\" } in [keys], for the whole mesh",
    ),
    elsewhere_in("[keys]", "file", Some("mesh_key"), "write mesh_key = { file = \"mesh.key\" }"),
    elsewhere_in(
        "[keys]",
        "credential",
        Some("mesh_key"),
        "write mesh_key = { credential = \"mesh.key\" }",
    ),
    elsewhere_in("[keys]", "env", Some("mesh_key"), "write mesh_key = { env = \"MESH_KEY\" }"),
];

fn elsewhere(table: &str, key: &str) -> Option<&'static Elsewhere> {
    let lower = key.to_ascii_lowercase();
    ELSEWHERE.iter().find(|elsewhere| elsewhere.table == table && elsewhere.key == lower)
}

fn hint(written: &str, near: Option<&str>, name: &str, known: &[&str]) -> String {
    let list = format!("known in {name}: {}", known.join(", "));
    match (belongs(written).filter(|table| *table != name), near, elsewhere(name, written)) {
        (Some(table), ..) => format!("it belongs in {table}"),
        (None, Some(near), _) => format!("did you mean {near}? {list}"),
        (None, None, Some(elsewhere)) => elsewhere.write.into(),
        (None, None, None) => list,
    }
}

/// The candidate that `written` is a misspelling of, if there is one.
pub(super) fn nearest<'c>(
    written: &str,
    candidates: impl Iterator<Item = &'c &'static str>,
) -> Option<&'static str> {
    let allowed = (written.len() / 3).clamp(1, 2);
    candidates
        .map(|candidate| (distance(written, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits from one word to the other: a character more, less or other, or two
/// swapped (optimal string alignment). Long words are never near.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() > 32 || b.len() > 32 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut least =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A text as a name could have it: in lower case, with - in place of what names lack;
/// `None` where that says nothing.
pub(super) fn lowered(text: &str, dots: bool) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || (dots && c == '.');
    let lower = text.trim().to_ascii_lowercase();
    let lowered = lower.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    (lower.is_ascii() && lower.contains(allowed)).then_some(lowered)
}

fn type_name(value: &DeValue<'_>) -> &'static str {
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
    fn edits_are_counted_and_a_swap_is_one() {
        assert_eq!(distance("port", "port"), 0);
        assert_eq!(distance("prot", "port"), 1);
        assert_eq!(distance("adress", "address"), 1);
        assert_eq!(distance("", "port"), 4);
    }

    #[test]
    fn only_near_misses_are_guessed() {
        let known = ["name", "short_id", "address"];
        assert_eq!(nearest("adress", known.iter()), Some("address"));
        assert_eq!(nearest("short-id", known.iter()), Some("short_id"));
        assert_eq!(nearest("id", known.iter()), None);
        assert_eq!(nearest("key", known.iter()), None);
    }
}
