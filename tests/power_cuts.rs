//! The order of writes to the disk, so that a power cut at any moment leaves a whole file under its
//! name. No test can cut the power: it is read from the program's system calls.

#[path = "common/mod.rs"]
mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use common::namespace::{inside, ip};
use meshsec::{
    keys::Ratchet,
    model::{Generation, Key, MeshName},
};

/// A mesh with a ratchet, in a directory of its own.
fn mesh() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = "[mesh]\nname = \"lab\"\n[keys]\nratchet = { file = \"ratchet\" }\n\
         [rotation]\ngeneration = 42\n\
         [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"198.51.100.1\"\n\
         [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"198.51.100.2\"\n";
    fs::write(directory.path().join("mesh.toml"), text).unwrap();
    fs::write(directory.path().join("key"), "5f".repeat(32)).unwrap();
    directory
}

fn write_ratchet(directory: &Path, generation: u64) {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let begin = Ratchet::begin(&Key::new(Box::new([7; 32])), &MeshName::new("lab").unwrap());
    let ratchet = begin.at(Generation::new(generation).unwrap()).unwrap();
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(directory.join("ratchet"));
    file.unwrap().write_all(ratchet.text().as_bytes()).unwrap();
}

/// The system calls of a run on the files of a directory, and when it says something. A file is
/// called by the name that it has at the moment.
fn calls(directory: &Path, words: &[&str]) -> Vec<String> {
    let record = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    let traced = "trace=write,fsync,fdatasync,/^rename,/^link,/^unlink";
    strace.args(["-qq", "-y", "-z", "-e", traced, "-o"]).arg(record.path());
    strace.arg(env!("CARGO_BIN_EXE_meshsec")).arg("-c").arg(directory.join("mesh.toml"));
    let output = strace
        .args(words)
        .current_dir("/")
        .stdin(fs::File::open(directory.join("key")).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .expect("strace is needed (apt-get install strace)");
    assert!(output.status.success(), "{words:?}: {}", output.status);
    let place = directory.to_str().unwrap();
    let call = |line: &str| {
        let (call, arguments) = line.split_once('(')?;
        let call = call.trim_end_matches("at2").trim_end_matches("at");
        if call == "write" && (arguments.starts_with("1<") || arguments.starts_with("2<")) {
            return Some("say".to_owned());
        }
        let names = arguments.split(place).skip(1);
        let names = names.map(|rest| match &rest[..rest.find(['>', '"']).unwrap_or(rest.len())] {
            "" => " its directory".to_owned(),
            name => name.replace('/', " "),
        });
        let names: String = names.collect();
        (!names.is_empty()).then(|| format!("{call}{names}"))
    };
    let text = fs::read_to_string(record.path()).unwrap();
    let mut calls: Vec<String> = text.lines().filter_map(call).collect();
    calls.dedup();
    calls
}

#[test]
fn a_mesh_file_has_its_name_when_all_of_it_is_on_the_disk() {
    if !inside("a_mesh_file_has_its_name_when_all_of_it_is_on_the_disk") {
        return;
    }
    let directory = mesh();
    let expected = [
        "write .mesh.toml.meshsec",
        "fsync .mesh.toml.meshsec",
        "rename .mesh.toml.meshsec mesh.toml",
        "fsync its directory",
        "say",
    ];
    assert_eq!(calls(directory.path(), &["rotate"]), expected);
}

/// The operator is told to destroy the mesh key once nothing can take the ratchet away.
#[test]
fn a_new_ratchet_is_on_the_disk_before_it_is_told() {
    if !inside("a_new_ratchet_is_on_the_disk_before_it_is_told") {
        return;
    }
    let directory = mesh();
    let expected = [
        "write .ratchet.meshsec",
        "fsync .ratchet.meshsec",
        "link .ratchet.meshsec ratchet",
        "unlink .ratchet.meshsec",
        "fsync its directory",
        "say",
    ];
    assert_eq!(calls(directory.path(), &["ratchet", "init"]), expected);
}

/// The old one is whole until the disk has the new one's name.
#[test]
fn an_old_ratchet_is_overwritten_when_the_new_one_is_on_the_disk_by_name() {
    if !inside("an_old_ratchet_is_overwritten_when_the_new_one_is_on_the_disk_by_name") {
        return;
    }
    let directory = mesh();
    write_ratchet(directory.path(), 3);
    let expected = [
        "write .ratchet.meshsec",
        "fsync .ratchet.meshsec",
        "rename .ratchet.meshsec ratchet",
        "fsync its directory",
        // By now the old one has this name.
        "write .ratchet.meshsec",
        "fsync .ratchet.meshsec",
        "unlink .ratchet.meshsec",
        "say",
    ];
    assert_eq!(calls(directory.path(), &["ratchet", "advance", "--to", "41"]), expected);
}

#[test]
fn a_saved_plan_has_its_name_when_all_of_it_is_on_the_disk() {
    if !inside("a_saved_plan_has_its_name_when_all_of_it_is_on_the_disk") {
        return;
    }
    ip("link set lo up");
    let directory = mesh();
    write_ratchet(directory.path(), 41);
    let plan = directory.path().join("plan.json");
    let words = ["plan", "--local=a", "--out", plan.to_str().unwrap()];
    let draft = ["write .plan.json.meshsec", "fsync .plan.json.meshsec"];
    let first = ["link .plan.json.meshsec plan.json", "unlink .plan.json.meshsec"];
    let again = ["rename .plan.json.meshsec plan.json"];
    for replaced in [&first[..], &again] {
        let mut calls = calls(directory.path(), &words);
        calls.retain(|call| call != "say");
        assert_eq!(calls, [&draft[..], replaced, &["fsync its directory"]].concat());
    }
}
