//! The packages hold files that are there, and no unit of systemd is left out.

use std::collections::BTreeSet;

use crate::{read, root};

/// The files that a pattern with one `*` in its last part names.
fn files_of(pattern: &str) -> BTreeSet<String> {
    let (directory, name) = pattern.rsplit_once('/').unwrap_or((".", pattern));
    let (begin, end) = name.split_once('*').unwrap_or((name, ""));
    let is_exact = !name.contains('*');
    let entries = std::fs::read_dir(root().join(directory)).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|file| match is_exact {
            true => file == name,
            false => file.starts_with(begin) && file.ends_with(end),
        })
        .collect()
}

fn sources(metadata: &toml::Value) -> Vec<String> {
    let assets = metadata["assets"].as_array().unwrap();
    let source = |asset: &toml::Value| match asset {
        toml::Value::Array(parts) => parts[0].as_str().unwrap().to_owned(),
        table => table["source"].as_str().unwrap().to_owned(),
    };
    assets.iter().map(source).filter(|source| !source.starts_with("target/")).collect()
}

#[test]
fn every_file_of_a_package_is_there_and_every_unit_is_in_it() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let metadata = &manifest["package"]["metadata"];
    for package in ["deb", "generate-rpm"] {
        let sources = sources(&metadata[package]);
        for source in &sources {
            assert!(!files_of(source).is_empty(), "{package}: there is no {source}");
        }
        let packed: BTreeSet<String> = sources.iter().flat_map(|it| files_of(it)).collect();
        for unit in files_of("examples/systemd/*") {
            assert!(packed.contains(&unit), "{package} lacks {unit}");
        }
    }
}
