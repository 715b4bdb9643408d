//! The attributes of objects, in words, as a plan shows them.

use std::collections::BTreeSet;

/// One attribute of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its value in the kernel; `None` for an object to create.
    pub before: Option<String>,
    /// Its wanted value; `None` for an object to delete.
    pub after: Option<String>,
}

/// Names and values.
pub(super) type Fields = Vec<(&'static str, String)>;

/// Attributes that the types can't express, as one field.
pub(super) fn extras(extras: &BTreeSet<String>) -> Option<(&'static str, String)> {
    let list: Vec<&str> = extras.iter().map(String::as_str).collect();
    (!list.is_empty()).then(|| ("unexpected", list.join(", ")))
}

/// The fields of an object that is to come.
pub(super) fn created(fields: Fields) -> Vec<Field> {
    let field = |(name, after)| Field { name, before: None, after: Some(after) };
    fields.into_iter().map(field).collect()
}

/// The fields of an object that is to go.
pub(super) fn deleted(fields: Fields) -> Vec<Field> {
    let field = |(name, before)| Field { name, before: Some(before), after: None };
    fields.into_iter().map(field).collect()
}

/// Pairs fields by name; a field that one side lacks has no value there.
pub(super) fn differing(live: Fields, wanted: Fields) -> Vec<Field> {
    let missing = |name: &str| !wanted.iter().any(|(other, _)| *other == name);
    let gone: Fields = live.iter().filter(|(name, _)| missing(name)).cloned().collect();
    let mut fields: Vec<Field> = wanted
        .into_iter()
        .map(|(name, after)| {
            let before = live.iter().find(|(other, _)| *other == name);
            Field { name, before: before.map(|(_, value)| value.clone()), after: Some(after) }
        })
        .filter(|field| field.before != field.after)
        .collect();
    fields.extend(deleted(gone));
    fields
}

/// Attributes that the types can't express, as a part of a sentence.
pub(super) fn listed(extras: &BTreeSet<String>) -> String {
    let extras: Vec<&str> = extras.iter().map(String::as_str).collect();
    format!("it has {}", extras.join(", "))
}
