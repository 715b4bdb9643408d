//! Golden cases of `config::load`: each folder of `tests/config` has a mesh.toml and its result,
//! error.txt or ok.txt. `UPDATE_GOLDEN=1` writes these anew.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use meshsec::{
    config::{SecretsMode, load},
    keys::Ratchet,
    model::{Key, MeshName},
};

use crate::common::difference;

/// The text of a secret in the cases; no output may have any of it.
const MARKERS: [&str; 4] = ["5ec2e7", "c2VjcmV0", "correct", "horse"];
const HEX: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2";
const BASE64: &str = "c2VjcmV0L3NlY3JldCtzZWNyZXQvc2VjcmV0K3NlYzE=";

/// A directory with key files of every kind.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("mesh.key", &format!("{HEX}\n"), 0o600);
    write("private.key", &format!("{BASE64}\n"), 0o600);
    write("crlf.key", &format!(" {BASE64}\r\n\r\n"), 0o600);
    write("psk", HEX, 0o600);
    let (key, mesh) = (Key::new(Box::new([7; 32])), MeshName::new("lab").unwrap());
    write("ratchet", &Ratchet::begin(&key, &mesh).text(), 0o600);
    write("loose.key", HEX, 0o644);
    write("my loose.key", HEX, 0o640);
    write("short.key", "correct-horse\n", 0o600);
    write("nothex.key", &HEX.replace('e', "x"), 0o600);
    write("notbase64.key", &BASE64.replace('3', "-"), 0o600);
    write("zeros.key", &"0".repeat(64), 0o600);
    write("large.key", &HEX.repeat(100), 0o600);
    write("mark.key", &format!("\u{feff}{BASE64}\n"), 0o600);
    write("0x.key", &format!("0x{HEX}\n"), 0o600);
    write("quoted.key", &format!("\"{BASE64}\"\n"), 0o600);
    write("unpadded.key", BASE64.trim_end_matches('='), 0o600);
    write("wg.key", &format!("[Interface]\nPrivateKey = {BASE64}\n"), 0o600);
    write("empty.key", "\n", 0o600);
    let raw: Vec<u8> = (200..232).collect();
    fs::write(dir.path().join("raw.key"), raw).unwrap();
    fs::set_permissions(dir.path().join("raw.key"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::net::UnixListener::bind(dir.path().join("socket.key")).unwrap();
    volume(dir.path());
    fs::create_dir(dir.path().join("directory.key")).unwrap();
    dir
}

/// A volume of Kubernetes with a secret in it.
fn volume(dir: &Path) {
    let data = dir.join("volume/..2026_11_28");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("mesh.key"), HEX).unwrap();
    fs::set_permissions(data.join("mesh.key"), fs::Permissions::from_mode(0o440)).unwrap();
    std::os::unix::fs::symlink("..2026_11_28", dir.join("volume/..data")).unwrap();
    std::os::unix::fs::symlink("..data/mesh.key", dir.join("volume/mesh.key")).unwrap();
}

/// The result of loading `name` in `dir`, as text without the directory.
fn outcome(dir: &Path, name: &str, mode: SecretsMode) -> Result<String, String> {
    let shown = |text: String| {
        let dir = dir.display().to_string();
        text.replace(&format!("{dir}/"), "").replace(&dir, "DIR")
    };
    match load(&dir.join(name), mode) {
        Ok(loaded) => {
            let secret = if loaded.secrets.is_some() { "read" } else { "not read" };
            let mut text = format!("{:#?}\nsecret: {secret}\n", loaded.config);
            for warning in loaded.warnings {
                writeln!(text, "warning: {warning}").unwrap();
            }
            for file in loaded.included {
                writeln!(text, "peers of {}: {}", file.name, file.peers).unwrap();
            }
            Ok(shown(text))
        }
        Err(error) => {
            assert_harmless(&format!("{error:?}"));
            Err(shown(format!("{error}\n")))
        }
    }
}

fn assert_harmless(output: &str) {
    for marker in MARKERS {
        assert!(!output.contains(marker), "{marker} is in:\n{output}");
    }
}

/// A case's name says so if it is about a mode.
fn mode(case: &str) -> SecretsMode {
    if case.contains("optional") {
        SecretsMode::Optional
    } else if case.contains("ignored") {
        SecretsMode::Ignored
    } else {
        SecretsMode::Required
    }
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut cases: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 50, "cases are missing");
    cases
}

/// Copies the files of a case, apart from its result, and says where they are.
fn copy(case: &Path, to: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(to).unwrap();
    let mut copied = Vec::new();
    for entry in fs::read_dir(case).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copied.extend(copy(&path, &target));
        } else if path.extension().is_none_or(|extension| extension != "txt") {
            fs::copy(&path, &target).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
            copied.push(target);
        }
    }
    copied
}

#[test]
fn files_come_out_as_the_cases_say() {
    let dir = directory();
    let mut differences = Vec::new();
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let copied = copy(&case, dir.path());
        let outcome = outcome(dir.path(), "mesh.toml", mode(&name));
        copied.iter().for_each(|path| fs::remove_file(path).unwrap());
        let (file, other) = match outcome {
            Ok(_) => ("ok.txt", "error.txt"),
            Err(_) => ("error.txt", "ok.txt"),
        };
        assert!(!case.join(other).exists(), "{name}: came out as {file}:\n{outcome:?}");
        let (Ok(text) | Err(text)) = outcome;
        assert_harmless(&text);
        differences.extend(difference(&format!("tests/config/{name}/{file}"), &text));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A place of a file, the characters there, and their replacement by a hint.
struct Hint {
    line: usize,
    column: usize,
    length: usize,
    write: String,
}

/// The hints of an error that give the very text to write, not how it looks.
fn hints(error: &str) -> Vec<Hint> {
    let lines: Vec<&str> = error.lines().collect();
    let of = |at: usize| {
        let place = lines[at].trim_start().strip_prefix("--> mesh.toml:")?;
        let (line, column) = place.split_once(':')?;
        let carets = lines.get(at + 3)?;
        let length = carets.matches('^').count();
        let hint = carets.rsplit_once("^ ")?.1.strip_prefix("write ")?;
        let hint = hint.split(';').next()?;
        let hint = hint.strip_suffix(", without quotes").unwrap_or(hint);
        let quoted = hint.len() > 1 && hint.starts_with('"') && hint.ends_with('"');
        let exact = hint.parse::<u64>().is_ok() || (quoted && hint.matches('"').count() == 2);
        let (line, column) = (line.parse().ok()?, column.parse().ok()?);
        exact.then(|| Hint { line, column, length, write: hint.into() })
    };
    (0..lines.len()).filter_map(of).collect()
}

/// The file after a hint was followed.
fn followed(text: &str, hint: &Hint) -> String {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    let line = &mut lines[hint.line - 1];
    let at = hint.column - 1;
    line.replace_range(at..at + hint.length, &hint.write);
    lines.join("\n") + "\n"
}

#[test]
fn a_hint_that_is_followed_is_not_refused_in_turn() {
    let dir = directory();
    let path = dir.path().join("mesh.toml");
    let mut tried = 0;
    for case in cases() {
        let Ok(text) = fs::read_to_string(case.join("mesh.toml")) else { continue };
        fs::write(&path, &text).unwrap();
        let Err(error) = outcome(dir.path(), "mesh.toml", SecretsMode::Ignored) else { continue };
        for hint in hints(&error).iter().filter(|_| text.is_ascii() && !text.contains('\t')) {
            fs::write(&path, followed(&text, hint)).unwrap();
            let again = outcome(dir.path(), "mesh.toml", SecretsMode::Ignored).err();
            let place = format!("--> mesh.toml:{}:{}\n", hint.line, hint.column);
            let refused = again.is_some_and(|again| again.contains(&place));
            assert!(!refused, "{}: {} is refused in turn", case.display(), hint.write);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried} hints were tried");
}

#[test]
fn a_file_that_is_no_mesh_toml_is_refused_as_a_whole() {
    let dir = directory();
    fs::File::create(dir.path().join("large.toml")).unwrap().set_len(50 << 20).unwrap();
    let refused = |name: &str| outcome(dir.path(), name, SecretsMode::Required).unwrap_err();
    assert_eq!(
        refused("none.toml"),
        "error: cannot read none.toml: no such file\n  --> none.toml\n   \
         = write one there, or name another file with -c FILE\n\n\
         none.toml: 1 error; nothing was changed\n"
    );
    for (name, problem) in [
        ("large.toml", "it is larger than 4096 KiB"),
        ("directory.key", "it is a directory"),
        ("/dev/zero", "it is not a regular file"),
        ("socket.key", "it is not a regular file"),
        ("-", "no such file"),
    ] {
        let refused = refused(name);
        assert!(
            refused.starts_with(&format!("error: cannot read {name}: {problem}\n")),
            "{refused}"
        );
    }
}

/// A file with `count` peers.
fn large_mesh(count: usize) -> String {
    let mut text = "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = { file = \"mesh.key\" }\n\
                    [rotation]\ngeneration = 1\n"
        .to_owned();
    for i in 0..count {
        let address = format!("10.0.{}.{}", i / 256, i % 256);
        let peer =
            format!("name = \"host-{i}.example\"\nshort_id = {i}\naddress = \"{address}\"\n");
        write!(text, "\n[[peer]]\n{peer}").unwrap();
    }
    text
}

#[test]
fn the_largest_mesh_loads_and_one_more_peer_has_no_short_id() {
    let dir = directory();
    let path = dir.path().join("mesh.toml");
    fs::write(&path, large_mesh(4096)).unwrap();
    let loaded = load(&path, SecretsMode::Required).ok().unwrap();
    assert_eq!(loaded.config.peers.len(), 4096);
    fs::write(&path, large_mesh(4097)).unwrap();
    let error = load(&path, SecretsMode::Required).err().unwrap().to_string();
    assert!(error.starts_with("error: short_id 4096 is above 4095\n"), "{error}");
}

#[test]
fn of_thousands_of_errors_in_one_line_the_first_are_shown() {
    let dir = directory();
    let path = dir.path().join("mesh.toml");
    let peers = "{ name = 1, short_id = 1.0, address = 1 }, ".repeat(4096);
    fs::write(&path, format!("peer = [{peers}]")).unwrap();
    let error = load(&path, SecretsMode::Required).err().unwrap().to_string();
    assert_eq!(error.matches("\nerror: ").count() + 1, 100);
    // Three for each peer, and three missing tables.
    let summary = "12291 errors, of which the first 100 are shown; nothing was changed";
    assert!(error.ends_with(summary), "{}", &error[error.len() - 100..]);
}

/// A small generator of numbers, so that each run is the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A file with secrets where they may stand wrongly.
fn file_with_secrets() -> String {
    format!(
        "[mesh]\nname = \"lab\"\nreqid = 0x4d530001\n\n[traffic]\nport = 4789\n\n[keys]\n\
         mesh_key = \"{HEX}\"\nprivate_key = {{ file = \"x\", value = 'correct' }}\n\
         psk = \"\"\"\nhorse\n\"\"\"\nratchet = {{ env = \"{BASE64}\" }}\n# psk = \"correct\"\n\n\
         [rotation]\ngeneration = 1\n\n[[peer]]\nname = \"a\"\nshort_id = 1\n\
         address = \"192.0.2.1\"\nmesh_key = \"horse\"\npublic_key = '{BASE64}'\n"
    )
}

/// The same in a file of peers.
fn json_with_secrets() -> String {
    format!(
        "{{\n  \"peer\": [\n    {{\n      \"name\": \"a\",\n      \"short_id\": 1,\n      \
         \"mesh_key\": {{\n        \"value\": [\n          \"correct\"\n        ]\n      }},\n      \
         \"address\": \"192.0.2.1\"\n    }},\n    {{ \"name\": \"b\", \"psk\": \"horse\", \"short_id\": 2, \
         \"private_key\": \"{BASE64}\" }},\n    {{ \"name\": \"c\", \"x\": \"{HEX}\", \"ratchet\":\n\
         \"correct\" }}\n  ]\n}}\n"
    )
}

/// Damages a text between its secrets, which stay whole.
fn damaged(text: &str, numbers: &mut Numbers) -> String {
    const PIECES: [&str; 17] = [
        ":", "\"", "'", "\"\"\"", "'''", "\n", "=", "{", "}", "[", "]", ",", "#", ".", "\\", "é",
        "\t",
    ];
    let mut text = text.to_owned();
    for _ in 0..=numbers.below(4) {
        let mut at = numbers.below(text.len());
        at = (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap();
        let length = text[at..].chars().next().map_or(0, char::len_utf8);
        let inside = |marker: &&str| {
            text.match_indices(*marker)
                .any(|(start, _)| (start..start + marker.len()).contains(&at))
        };
        let secrets =
            [HEX, BASE64, "correct", "horse", "mesh_key", "private_key", "psk", "ratchet"];
        if secrets.iter().any(inside) {
            continue;
        }
        let end = if numbers.below(2) == 0 { at + length } else { at };
        let piece = if numbers.below(3) == 0 { "" } else { PIECES[numbers.below(PIECES.len())] };
        text.replace_range(at..end, piece);
    }
    text
}

#[test]
fn no_damage_to_a_file_brings_a_secret_out() {
    let dir = directory();
    let path = dir.path().join("mesh.toml");
    let mut numbers = Numbers(1);
    let runs = std::env::var("MESHSEC_DAMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let including = "[mesh]\nname = \"lab\"\ninclude = [\"peers.json\"]\n";
    for run in 0..runs {
        let text = if run % 2 == 0 {
            let text = damaged(&file_with_secrets(), &mut numbers);
            fs::write(&path, &text).unwrap();
            text
        } else {
            let text = damaged(&json_with_secrets(), &mut numbers);
            fs::write(dir.path().join("peers.json"), &text).unwrap();
            fs::set_permissions(dir.path().join("peers.json"), fs::Permissions::from_mode(0o644))
                .unwrap();
            fs::write(&path, including).unwrap();
            text
        };
        let error = load(&path, SecretsMode::Ignored).err().unwrap();
        for output in [error.to_string(), format!("{error:?}")] {
            for marker in MARKERS {
                assert!(!output.contains(marker), "{marker} of\n{text}\nis in\n{output}");
            }
        }
    }
}
