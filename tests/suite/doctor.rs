//! `doctor` on hosts where little can be read, and on those with much: network namespaces without
//! ESP, in which nothing was applied.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    common::namespace::{inside, ip},
    schema::assert_valid,
};

fn mesh_toml(rotation: &str, peers: usize) -> String {
    let mut text = format!(
        "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = {{ file = \"mesh.key\" }}\n[rotation]\n{rotation}\n"
    );
    for number in 1..=peers {
        let _ = write!(
            text,
            "[[peer]]\nname = \"h{number}\"\nshort_id = {number}\naddress = \"10.1.{}.{}\"\n",
            number / 256,
            number % 256
        );
    }
    text
}

/// A mesh.toml, without its secret: doctor needs none.
fn host(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mesh.toml"), text).unwrap();
    directory
}

fn doctor(host: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(["-c", "mesh.toml", "doctor", "--for", "1s"]).args(words).current_dir(host);
    command
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[track_caller]
fn document(mut command: Command) -> Value {
    let output = command.args(["--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let document = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("doctor", &document);
    document
}

/// The verdicts of a check.
fn verdicts<'d>(document: &'d Value, code: &str) -> Vec<&'d str> {
    let findings = document["findings"].as_array().unwrap().iter();
    findings.filter(|it| it["code"] == code).filter_map(|it| it["verdict"].as_str()).collect()
}

fn underlay() {
    ip("link set lo up");
    ip("link add u0 type veth peer name u1");
    ip("address add 10.1.0.1/16 dev u0");
    ip("link set u0 up");
    ip("link set u1 up");
}

#[test]
fn a_host_where_nothing_was_applied_is_told_so() {
    if !inside("doctor::a_host_where_nothing_was_applied_is_told_so") {
        return;
    }
    underlay();
    let host = host(&mesh_toml("generation = 1", 3));
    let output = doctor(host.path(), &[]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("On this host, applied: "), "{said}");
    assert!(last.ends_with("meshsec plan shows them, meshsec apply makes them."), "{said}");
    assert!(said.contains("Look at\n") && said.contains("  own-address, "), "{said}");
    let verbose = text(&doctor(host.path(), &["-v"]).output().unwrap());
    assert!(verbose.contains("own-address: 10.1.0.1 is on u0"), "{verbose}");
    // Neighbours do not answer here, so no ping is sent to anybody.
    let document = document(doctor(host.path(), &["--probe", "h2"]));
    assert_eq!(document["probes"][0]["answers"], false, "{document:#}");
    assert_eq!(verdicts(&document, "ping"), ["attention"], "{document:#}");
    let wrong = doctor(host.path(), &["h9"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong));
}

/// No right, and then no files either: checks that can't be done are not known, and never well.
#[test]
fn a_check_that_can_not_be_read_is_not_well() {
    if !inside("doctor::a_check_that_can_not_be_read_is_not_well") {
        return;
    }
    underlay();
    let host = host(&mesh_toml("period = \"1h\"", 3));
    let mut powerless = Command::new("setpriv");
    powerless.args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]);
    powerless.args(["--no-new-privs", "--", env!("CARGO_BIN_EXE_meshsec"), "-c", "mesh.toml"]);
    powerless.args(["doctor", "--for", "1s"]).current_dir(host.path());
    let without_rights = document(powerless);
    let last = without_rights["conclusion"].as_str().unwrap();
    assert!(last.contains("objects-unread: ") && last.contains("root"), "{last}");
    assert_eq!(verdicts(&without_rights, "own-address"), ["ok"]);
    assert_eq!(verdicts(&without_rights, "firewall"), ["unknown"]);
    for code in ["applied", "conflict", "sent", "heard"] {
        assert_eq!(verdicts(&without_rights, code), [""; 0], "{code}: {without_rights:#}");
    }

    let mut hidden = Command::new("sh");
    let script = "mount -t tmpfs none /proc/sys && mount -t tmpfs none /usr/sbin && \
                  mount -t tmpfs none /sys && exec \"$@\"";
    hidden.args(["-c", script, "sh", env!("CARGO_BIN_EXE_meshsec"), "-c", "mesh.toml"]);
    hidden.args(["doctor", "--for", "1s"]).current_dir(host.path());
    let hidden = document(hidden);
    for code in ["bypass", "timer"] {
        assert!(!verdicts(&hidden, code).contains(&"ok"), "{code}: {hidden:#}");
    }

    let mut without_proc = Command::new("sh");
    let script = "mount -t tmpfs none /proc && exec \"$@\"";
    without_proc.args(["-c", script, "sh", env!("CARGO_BIN_EXE_meshsec"), "-c", "mesh.toml"]);
    without_proc.args(["doctor", "--for", "1s"]).current_dir(host.path());
    let without_proc = document(without_proc);
    for code in ["bypass", "refused", "reverse-path", "firewall"] {
        assert!(!verdicts(&without_proc, code).contains(&"ok"), "{code}: {without_proc:#}");
    }
}

#[test]
fn names_of_devices_move_no_cursor() {
    if !inside("doctor::names_of_devices_move_no_cursor") {
        return;
    }
    ip("link set lo up");
    let name = "u\u{1b}[2J\u{202e}";
    let ran = |words: &[&str]| assert!(Command::new("ip").args(words).status().unwrap().success());
    ran(&["link", "add", name, "type", "veth", "peer", "name", "u1"]);
    ran(&["address", "add", "10.1.0.1/16", "dev", name]);
    ran(&["link", "set", name, "up"]);
    let host = host(&mesh_toml("generation = 1", 2));
    let output = doctor(host.path(), &["-v"]).output().unwrap();
    let said = text(&output);
    let hidden = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!said.contains(hidden), "{said:?}");
    assert!(said.contains("has no carrier: nothing is at its other end"), "{said}");
}

#[test]
fn thousands_of_peers_make_few_lines() {
    if !inside("doctor::thousands_of_peers_make_few_lines") {
        return;
    }
    underlay();
    let host = host(&mesh_toml("generation = 1", 4095));
    let output = doctor(host.path(), &["--probe", "-v"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().count() < 80, "{said}");
    assert!(said.lines().all(|line| line.len() < 500), "{said}");
}
