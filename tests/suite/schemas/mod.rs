//! Every document of JSON is as its schema in `schemas/` says, and a schema refuses any other: so a
//! name that changes in the program can't change in a document without being seen.

mod commands;
pub mod documents;

use std::{collections::BTreeSet, fs, path::Path};

use meshsec::{
    model::{CheckCode, ErrorCode},
    plan::{ConflictCode, ReasonCode, WarningCode},
    render::{FORMAT_VERSION, JsonSnapshot},
};
use serde_json::{Value, json};

use crate::schema::{SCHEMAS, assert_valid, is_valid};
use documents::{documents, read};

/// Names that a document may lack, each behind the name of the member that it is in; `*` is any.
const OPTIONAL: [&str; 40] = [
    "premises/included",
    "/foreign",
    "/local",
    "/from_peer",
    "/to_peer",
    "counters/*",
    "traffic/*",
    "id/mark",
    "sas/ends",
    "sas/offload",
    "sas/encap",
    "sas/keepalive",
    "sas/if_id",
    "state/interfaces",
    "state/fib",
    "fib/source",
    "fib/selective",
    "sas/extras",
    "policies/index",
    "policies/extras",
    "state/socket_policies",
    "state/translations",
    "state/hidden",
    "state/encap",
    "state/keepalives",
    "state/ipv6_off",
    "links/kind",
    "links/queue",
    "routes/no_carrier",
    "routes/vrfs",
    "routes/source",
    "routes/refused",
    "tunnels/local",
    "tunnels/remote",
    "tunnels/lower",
    "tunnels/master",
    "tunnels/external",
    "tunnels/other_names",
    "entries/port",
    "translations/esp",
];
/// The same of a snapshot's firewall.
const OPTIONAL_OF_FIREWALL: [&str; 4] =
    ["jumps/conditions", "jumps/behind", "chains/references", "backends/*"];

/// Whether a member of the object at a place may be absent.
fn is_optional(place: &str, name: &str) -> bool {
    let is_name = |part: &&str| part.parse::<usize>().is_err();
    let parent = place.rsplit('/').find(is_name).unwrap_or_default();
    [format!("{parent}/{name}"), format!("{parent}/*")]
        .iter()
        .any(|it| OPTIONAL.contains(&&**it) || OPTIONAL_OF_FIREWALL.contains(&&**it))
}

/// The places of all objects in a document, as JSON pointers.
fn objects(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.push(place.into());
            members.iter().for_each(|(name, value)| {
                objects(value, &format!("{place}/{name}"), found);
            });
        }
        Value::Array(values) => values.iter().enumerate().for_each(|(index, value)| {
            objects(value, &format!("{place}/{index}"), found);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Fails unless a document is valid and is refused with any of its names changed, absent or added.
#[track_caller]
pub fn assert_strict(name: &str, document: &Value) {
    assert_valid(name, document);
    let mut places = Vec::new();
    objects(document, "", &mut places);
    for place in places {
        let refused = |what: &str, edit: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut changed = document.clone();
            edit(changed.pointer_mut(&place).unwrap().as_object_mut().unwrap());
            assert!(!is_valid(name, &changed), "{name}: {place} is valid with {what}");
        };
        let members = document.pointer(&place).unwrap().as_object().unwrap();
        refused("another member", &|object| drop(object.insert("Another".into(), Value::Null)));
        for member in members.keys() {
            if !place.ends_with("/counters") {
                refused(&format!("{member} renamed"), &|object| {
                    let value = object.remove(member).unwrap();
                    object.insert(format!("{member}_"), value);
                });
            }
            if !is_optional(&place, member) {
                refused(&format!("no {member}"), &|object| drop(object.remove(member)));
            }
        }
    }
}

#[test]
fn documents_are_as_their_schemas_say_and_no_other_is() {
    let documents = documents();
    for (name, document) in &documents {
        assert_strict(name, document);
    }
    let names: BTreeSet<&str> = documents.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, BTreeSet::from(["plan", "report", "show", "snapshot", "status"]));
}

#[test]
fn golden_documents_are_as_their_schemas_say() {
    for name in ["plan", "status"] {
        let mut count = 0;
        for entry in fs::read_dir(root().join("tests").join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                assert_strict(name, &read(&path));
                count += 1;
            }
        }
        assert!(count > 5, "{count} of {name}");
    }
}

/// A snapshot with every name that one can have is read, and written as it was: so a name of the
/// model's that is renamed fails here.
#[test]
fn every_name_of_a_snapshot_is_kept() {
    let document = read(&root().join("tests/snapshots/every-name.json"));
    let snapshot: JsonSnapshot = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(snapshot).unwrap(), document);
    assert_strict("snapshot", &document);
}

#[test]
fn schemas_are_valid_and_leave_no_object_open() {
    fn closed(name: &str, schema: &Value) {
        match schema {
            Value::Object(members) => {
                if members.contains_key("properties") {
                    assert_eq!(members["additionalProperties"], false, "{name}: {schema}");
                    assert!(members.contains_key("required"), "{name}: {schema}");
                }
                members.values().for_each(|schema| closed(name, schema));
            }
            Value::Array(schemas) => schemas.iter().for_each(|schema| closed(name, schema)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for (name, schema) in &*SCHEMAS {
        assert!(jsonschema::meta::is_valid(schema), "{name}");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert_eq!(schema["$id"], format!("{name}.schema.json"));
        if name != "common" {
            let version = &schema["properties"]["format_version"]["const"];
            assert_eq!(version, FORMAT_VERSION, "{name}");
        }
        closed(name, schema);
    }
}

#[test]
fn codes_of_the_schemas_are_those_of_the_program() {
    fn words<T: Copy>(codes: &[T], word: fn(T) -> &'static str) -> Value {
        codes.iter().map(|code| word(*code)).collect()
    }
    let common = &SCHEMAS["common"]["$defs"];
    let code = |part: &str| common[part]["properties"]["code"]["enum"].clone();
    assert_eq!(code("warning"), words(WarningCode::ALL, WarningCode::word));
    assert_eq!(code("conflict"), words(ConflictCode::ALL, ConflictCode::word));
    assert_eq!(code("reason"), words(ReasonCode::ALL, ReasonCode::word));
    assert_eq!(common["error_code"]["enum"], words(ErrorCode::ALL, ErrorCode::word));
    assert_eq!(common["check_code"]["enum"], words(CheckCode::ALL, CheckCode::word));
}

#[test]
fn meshsec_json_7_names_every_schema_and_every_member() {
    let page = fs::read_to_string(root().join("man/meshsec-json.7")).unwrap();
    let words: BTreeSet<&str> = page.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    for (name, schema) in &*SCHEMAS {
        assert!(page.contains(&format!("schemas/{name}.schema.json")), "{name}");
        let mut places = Vec::new();
        objects(schema, "", &mut places);
        for place in places.iter().filter(|place| place.ends_with("/properties")) {
            for member in schema.pointer(place).unwrap().as_object().unwrap().keys() {
                assert!(words.contains(member.as_str()), "{name}: {member} of {place}");
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A word that is not one of a schema's is refused, too.
#[test]
fn a_code_that_no_list_has_is_refused() {
    let mut errors = json!({ "format_version": FORMAT_VERSION, "errors": [{ "code": "spi-refused",
        "text": "", "file": null, "line": null, "column": null, "hint": null }] });
    assert_strict("errors", &errors);
    errors["errors"][0]["code"] = json!("spi-refuse");
    assert!(!is_valid("errors", &errors));
    errors["errors"][0]["code"] = json!("spi-refused");
    errors["format_version"] = json!("1.0");
    assert!(!is_valid("errors", &errors));
}
