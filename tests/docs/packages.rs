//! The packages hold files that are there, both the same, and all that a user would look for.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::{read, root};

const PACKAGES: [&str; 2] = ["deb", "generate-rpm"];

/// The files that a pattern names: with one `*` in its last part, or `**/*` for all below a folder.
fn files_of(pattern: &str) -> BTreeSet<String> {
    if let Some(folder) = pattern.strip_suffix("/**/*") {
        return below(folder);
    }
    let (folder, name) = pattern.rsplit_once('/').unwrap_or((".", pattern));
    let (begin, end) = name.split_once('*').unwrap_or((name, ""));
    let is_exact = !name.contains('*');
    let last = |file: &str| Path::new(file).file_name().unwrap().to_string_lossy().into_owned();
    let fits = |file: &str| match is_exact {
        true => file == name,
        false => file.starts_with(begin) && file.ends_with(end),
    };
    entries(folder).into_iter().filter(|file| fits(&last(file))).collect()
}

fn entries(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap().flatten();
    let path = |name: String| if folder == "." { name } else { format!("{folder}/{name}") };
    entries.map(|entry| path(entry.file_name().to_string_lossy().into_owned())).collect()
}

fn below(folder: &str) -> BTreeSet<String> {
    let files = |entry: String| match root().join(&entry).is_dir() {
        true => below(&entry),
        false => [entry].into(),
    };
    entries(folder).into_iter().flat_map(files).collect()
}

fn metadata(package: &str) -> toml::Value {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    manifest["package"]["metadata"][package].clone()
}

/// The patterns of the files in a package, but not the program, and the places where they go.
fn assets(package: &str) -> Vec<(String, String)> {
    let metadata = metadata(package);
    let parts = |asset: &toml::Value| match asset {
        toml::Value::Array(parts) => [parts[0].clone(), parts[1].clone()],
        table => [table["source"].clone(), table["dest"].clone()],
    };
    let assets = metadata["assets"].as_array().unwrap().iter().map(parts);
    let assets = assets.map(|it| it.map(|part| part.as_str().unwrap().to_owned()).into());
    assets.filter(|(source, _): &(String, String)| !source.starts_with("target/")).collect()
}

fn sources(package: &str) -> Vec<String> {
    assets(package).into_iter().map(|(source, _)| source).collect()
}

fn packed(package: &str) -> BTreeSet<String> {
    sources(package).iter().flat_map(|pattern| files_of(pattern)).collect()
}

#[test]
fn every_file_of_a_package_is_there() {
    for package in PACKAGES {
        for source in sources(package) {
            assert!(!files_of(&source).is_empty(), "{package}: there is no {source}");
        }
    }
}

#[test]
fn a_package_has_all_that_a_user_would_look_for() {
    let folders = ["completions", "docs", "examples", "man", "schemas"];
    for package in PACKAGES {
        let packed = packed(package);
        let wanted = folders.iter().flat_map(|folder| below(folder));
        for file in wanted.chain(["README.md", "SECURITY.md", "CHANGELOG.md"].map(String::from)) {
            assert!(packed.contains(&file), "{package} lacks {file}");
        }
    }
}

/// But for the licences: Debian has a file of its own for them.
#[test]
fn both_packages_hold_the_same_files() {
    let without_licences = |package| {
        packed(package).into_iter().filter(|file| !file.starts_with("LICENSE")).collect::<Vec<_>>()
    };
    assert_eq!(without_licences("deb"), without_licences("generate-rpm"));
}

#[test]
fn every_unit_is_where_systemd_looks_for_it() {
    for package in PACKAGES {
        let of_units = |(source, _): &&(String, String)| source == "examples/systemd/meshsec*";
        let assets = assets(package);
        let (_, place) = assets.iter().find(of_units).expect(package);
        assert_eq!(place.trim_start_matches('/'), "usr/lib/systemd/system/", "{package}");
        let installed = files_of("examples/systemd/meshsec*");
        assert_eq!(installed, below("examples/systemd"), "{package}");
    }
}

#[test]
fn a_shell_can_read_every_script_of_a_package() {
    let rpm = metadata("generate-rpm");
    let named = |(key, value): (&String, &toml::Value)| {
        key.ends_with("_script").then(|| value.as_str().unwrap().to_owned())
    };
    let mut scripts: BTreeSet<String> = rpm.as_table().unwrap().iter().filter_map(named).collect();
    assert_eq!(scripts, below("packaging/rpm"));
    scripts.extend(files_of("packaging/deb/p*"));
    for script in scripts {
        let ran = Command::new("sh").arg("-n").arg(root().join(&script)).status().unwrap();
        assert!(ran.success(), "{script}");
    }
}

/// Secrets are there, and nobody has a copy.
#[test]
fn no_script_deletes_what_is_in_the_directory_of_secrets() {
    for script in files_of("packaging/deb/p*").into_iter().chain(below("packaging/rpm")) {
        let text = read(&script);
        let lines = text.lines().filter(|line| line.contains("/etc/meshsec"));
        for line in lines {
            assert!(!line.contains("rm -") && !line.contains("-delete"), "{script}: {line}");
        }
    }
}
