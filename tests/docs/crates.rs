//! The crates that become a part of the program: their licences and sources, by deny.toml.
//!
//! `cargo deny check` asks more, such as advisories, and takes minutes to build.

use std::{collections::BTreeSet, process::Command};

use spdx::Expression;

use crate::{read, root};

/// The name and the licence of each crate.
fn crates() -> Vec<(String, String)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--package", "meshsec", "--edges", "normal,build"]);
    cargo.args(["--prefix", "none", "--format", "{p}|{l}"]).current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let parts = lines.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
    parts.map(|(name, licence)| (name.into(), licence.into())).collect()
}

#[test]
fn each_crate_has_a_licence_that_the_program_may_have() {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let allowed: Vec<_> = deny["licenses"]["allow"].as_array().unwrap().iter().collect();
    let crates = crates();
    assert!(crates.len() > 50, "{} crates", crates.len());
    for (name, licence) in crates {
        // The old form of OR.
        let expression = Expression::parse(&licence.replace('/', " OR "));
        let expression = expression.unwrap_or_else(|error| panic!("{name}, {licence:?}: {error}"));
        let is_allowed = expression
            .evaluate(|one| allowed.iter().any(|name| name.as_str() == Some(&one.to_string())));
        assert!(is_allowed, "{name} has the licence {licence}");
    }
}

#[test]
fn each_crate_comes_from_the_one_registry() {
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock = read(lock);
        let sources: BTreeSet<&str> =
            lock.lines().filter_map(|line| line.strip_prefix("source = \"")).collect();
        assert_eq!(sources.len(), 1, "{sources:?}");
        assert!(sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
    }
}
