//! The JSON Schemas of `schemas/`, with which documents are compared. Nothing is fetched.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use jsonschema::{Registry, Validator};
use serde_json::Value;

/// The schemas by the name of their document.
pub static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let mut schemas = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let name = file.strip_suffix(".schema.json").unwrap_or_else(|| panic!("{file}"));
        let schema = serde_json::from_slice(&fs::read(&path).unwrap());
        schemas.insert(name.into(), schema.unwrap_or_else(|error| panic!("{file}: {error}")));
    }
    schemas
});

static VALIDATORS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let mut registry = Registry::new();
    for (name, schema) in &*SCHEMAS {
        registry = registry.add(format!("{name}.schema.json"), schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let validator = |schema| jsonschema::options().with_registry(&registry).build(schema).unwrap();
    SCHEMAS.iter().map(|(name, schema)| (&**name, validator(schema))).collect()
});

/// Whether a document is as its schema says.
pub fn is_valid(name: &str, document: &Value) -> bool {
    VALIDATORS[name].is_valid(document)
}

/// Fails with the places where a document differs from its schema.
#[track_caller]
pub fn assert_valid(name: &str, document: &Value) {
    let problems: Vec<String> = VALIDATORS[name]
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(problems.is_empty(), "not a {name}:\n{}\nin {document:#}", problems.join("\n"));
}
