//! Text that others have chosen, such as file names and saved plans, on its way to a terminal:
//! it never moves the cursor, and a program reads it unchanged.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

/// ESC, CR, LF, DEL, CSI as one character, and those that turn text around or end a line. No name
/// of a file and no argument has a NUL.
const FOREIGN: &str = "x\u{1b}[2J\r\nNo changes.\u{7f}\u{9b}2J\u{61c}\u{202e}\u{2066}\u{2028}";

fn mesh(rotation: &str, keys: &str) -> String {
    format!(
        "[mesh]\nname = \"lab\"\n[keys]\n{keys}\n[rotation]\n{rotation}\n\
         [[peer]]\nname = \"h1\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
         [[peer]]\nname = \"h2\"\nshort_id = 2\naddress = \"192.0.2.2\"\n"
    )
}

/// A directory with a mesh of a foreign name, and its key.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mesh = mesh("generation = 1", "mesh_key = { file = \"mesh.key\" }");
    fs::write(directory.path().join(FOREIGN), mesh).unwrap();
    let key = directory.path().join("mesh.key");
    fs::write(&key, "5f".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    directory
}

fn meshsec(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(arguments).current_dir(directory).output().unwrap()
}

/// The output of a command, which must be harmless; and its status.
fn said(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = meshsec(directory, arguments);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let bad = |c: char| c != '\n' && (c.is_control() || turns(c));
    assert!(!text.contains(bad), "{arguments:?} moves the cursor: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("No changes.")), "{arguments:?}: {text:?}");
    (output.status.code(), text)
}

#[test]
fn no_name_of_a_file_moves_the_cursor() {
    let directory = directory();
    let path = directory.path();
    for (arguments, status) in [
        (&["-c", FOREIGN, "validate"][..], 0),
        (&["-c", FOREIGN, "--local", "h1", "plan", "--live", "empty"], 0),
        (&["-c", FOREIGN, "rotate"], 0),
        (&["-c", FOREIGN, "ratchet", "init"], 1),
        (&["-c", FOREIGN, "--local", "h1", "plan", "--live", FOREIGN], 1),
        (&["-c", FOREIGN, "--local", "h1", "plan", "--live", "/no/x\u{1b}\n"], 1),
        (&["-c", "/no/x\u{1b}\nNo changes.", "validate"], 1),
    ] {
        let (found, text) = said(path, arguments);
        assert_eq!(found, Some(status), "{arguments:?}: {text}");
    }
}

#[test]
fn no_argument_moves_the_cursor() {
    let directory = directory();
    let path = directory.path();
    let unknown = format!("--{FOREIGN}");
    for arguments in [
        &[FOREIGN][..],
        &[&unknown],
        &["spi", FOREIGN],
        &["--format", FOREIGN, "plan"],
        &["apply", "--confirm-within", FOREIGN],
        &["-c", FOREIGN, "--local", FOREIGN, "plan", "--live", "empty"],
        &["-c", FOREIGN, "--local", "h1", "status", FOREIGN],
        &["--netns", FOREIGN, "plan"],
    ] {
        assert_eq!(said(path, arguments).0, Some(1), "{arguments:?}");
    }
}

#[test]
fn no_environment_moves_the_cursor() {
    let directory = directory();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    let text = mesh("generation = 1", "mesh_key = { credential = \"mesh.key\" }");
    fs::write(directory.path().join("mesh.toml"), text).unwrap();
    command.args(["-c", "mesh.toml", "validate"]).env("CREDENTIALS_DIRECTORY", FOREIGN);
    let output = command.current_dir(directory.path()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(!error.contains(|c: char| c != '\n' && c.is_control()), "{error:?}");
}

/// A saved plan that somebody else has written, and one of a device with such a name.
#[test]
fn no_plan_that_others_have_written_moves_the_cursor() {
    let directory = directory();
    let path = directory.path();
    for plan in [
        format!("{{\"format_version\":{:?}}}", "x"),
        serde_json::json!({ "format_version": FOREIGN }).to_string(),
        serde_json::json!({ "format_version": "2.0", FOREIGN: 1 }).to_string(),
        serde_json::json!({ "format_version": "2.0", "premises": { FOREIGN: FOREIGN } })
            .to_string(),
    ] {
        fs::write(path.join("plan.json"), plan).unwrap();
        let arguments = ["-c", FOREIGN, "--local", "h1", "plan", "--live", "plan.json"];
        let (status, text) = said(path, &arguments);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains("plan.json"), "{text}");
    }
}

/// JSON is lossless: a parser gets the name that a device has.
#[test]
fn json_has_names_of_devices_as_they_are_and_moves_no_cursor() {
    let directory = directory();
    let path = directory.path();
    let name = "x\u{1b}[2J\r\n\0\u{7f}\u{9b}2J\u{61c}\u{202e}\u{2066}\u{2028}";
    let snapshot = serde_json::json!({
        "format_version": "2.0", "taken": 0, "mesh": "lab",
        "state": {
            "sas": [], "policies": [], "addresses": [{ "address": "192.0.2.1", "device": name }],
            "bypasses": [{ "device": name, "ipv6": false, "name": "disable_xfrm" }],
        },
    });
    fs::write(path.join("live.json"), snapshot.to_string()).unwrap();
    let plan = ["-c", FOREIGN, "--local", "h1", "--format", "json", "plan", "--live", "live.json"];
    let (status, text) = said(path, &plan);
    assert_eq!(status, Some(1), "{text}");
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    let object = plan["conflicts"][0]["object"].as_str().unwrap();
    assert_eq!(object, format!("sysctl net/ipv4/conf/{name}/disable_xfrm = 1"));
}
