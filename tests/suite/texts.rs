//! Answers of the command line to everything that people type.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::common::namespace::{inside, ip};

fn mesh() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = { file = \"mesh.key\" }\n\
                [rotation]\ngeneration = 5\n\
                [[peer]]\nname = \"h1\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
                [[peer]]\nname = \"h2\"\nshort_id = 2\naddress = \"192.0.2.2\"\n";
    fs::write(dir.path().join("mesh.toml"), text).unwrap();
    dir
}

fn meshsec(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(arguments).current_dir(dir).output().unwrap()
}

fn said(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = meshsec(dir, arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn an_spi_is_taken_as_tcpdump_prints_it_and_its_peers_have_names() {
    let dir = mesh();
    let with_names = "0x84001002: generation 1 (modulo 32), lane 0, from 1 (h1, 192.0.2.1), \
                      to 2 (h2, 192.0.2.2)\n";
    for spi in ["0x84001002", "spi=0x84001002", "spi=0x84001002,"] {
        let (status, text) = said(dir.path(), &["-c", "mesh.toml", "spi", spi]);
        assert_eq!((status, text.as_str()), (Some(0), with_names), "{spi}");
    }
    let without = said(dir.path(), &["-c", "none.toml", "spi", "0x84001002"]).1;
    assert_eq!(without, "0x84001002: generation 1 (modulo 32), lane 0, from 1, to 2\n");
    let old = said(dir.path(), &["-c", "none.toml", "spi", "0x85001002"]);
    let says = "0x85001002: generation 1 (modulo 32), lane 1, from 1, to 2\n\
                This version makes SPIs of lane 0 alone. Version 0.1 had another layout, in which \
                this is generation 5 (modulo 128).\n";
    assert_eq!((old.0, old.1.as_str()), (Some(0), says));
    let stranger = said(dir.path(), &["-c", "mesh.toml", "spi", "0x84009002"]).1;
    assert!(stranger.contains("from 9 (not a peer of the file), to 2 (h2"), "{stranger}");
    let json = said(dir.path(), &["-c", "mesh.toml", "--format", "json", "spi", "0x84001002"]).1;
    assert!(json.contains("\"from_peer\": \"h1\"") && json.contains("\"from\": 1"), "{json}");
}

/// Programs get the errors as one document, with each place in the file and without its lines.
#[test]
fn errors_are_json_where_json_is_wanted() {
    let dir = mesh();
    let file = dir.path().join("mesh.toml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("generation = 5", "generation = -5\npassword = \"s3cr3t\""))
        .unwrap();
    let json = |arguments: &[&str]| {
        let arguments = [&["-c", "mesh.toml", "--format", "json"], arguments].concat();
        let output = meshsec(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("s3cr3t"), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let found = json(&["validate"]);
    assert_eq!(found["format_version"], "2.0");
    let errors = found["errors"].as_array().unwrap();
    let places: Vec<_> = errors.iter().map(|error| (&error["line"], &error["column"])).collect();
    // The first is the secret's file, which is not there.
    let wanted = [(4, 12), (6, 14), (7, 1)].map(|(line, column)| (line.into(), column.into()));
    let wanted: Vec<_> = wanted.iter().map(|(line, column)| (line, column)).collect();
    assert_eq!(places, wanted, "{errors:?}");
    for error in errors {
        assert_eq!(error["code"], "config-refused");
        assert_eq!(error["file"], "mesh.toml");
        assert!(error["text"].is_string() && error["hint"].is_string(), "{error}");
    }
    let found = json(&["spi", "12"]);
    assert_eq!(found["errors"][0]["code"], "spi-refused");
    assert_eq!(found["errors"][0]["line"], serde_json::Value::Null);
    let found = json(&["apply"]);
    assert_eq!(found["errors"][0]["code"], "approval-missing");
}

#[test]
fn hex_without_0x_is_recognised() {
    let dir = mesh();
    for spi in ["81001002", "8100100a"] {
        let (status, text) = said(dir.path(), &["spi", spi]);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(&format!("; did you mean 0x{spi}?")), "{text}");
    }
    let (_, text) = said(dir.path(), &["spi", "x\u{1b}"]);
    assert!(text.contains("is not an SPI; write 32 bits such as 0x84001002"), "{text:?}");
}

#[test]
fn options_that_others_have_are_told_what_they_are_called_here() {
    let dir = mesh();
    for (arguments, tip) in [
        (&["apply", "-y"][..], "tip: write --auto-approve"),
        (&["destroy", "--yes"], "tip: write --auto-approve"),
        (&["plan", "mesh.toml"], "tip: the mesh's file is named with -c FILE"),
        (&["apply", "--dry-run"], "tip: meshsec plan shows what apply would do"),
        (&["apply", "mesh.toml"], "for a mesh.toml write -c FILE"),
    ] {
        let (status, text) = said(dir.path(), arguments);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(tip) && !text.contains("as a value"), "{arguments:?}: {text}");
    }
}

/// Here the time is that of the snapshot; on a host it is the clock's.
#[test]
fn a_time_before_the_release_is_refused_where_generations_follow_the_clock() {
    let dir = mesh();
    let file = dir.path().join("mesh.toml");
    let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/every-name.json");
    let plan = ["-c", "mesh.toml", "--local", "h1", "plan", "--live", snapshot];
    let by_number = said(dir.path(), &plan).1;
    assert!(by_number.contains("Plan: "), "{by_number}");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("generation = 5", "period = \"1h\"")).unwrap();
    let (status, text) = said(dir.path(), &plan);
    assert_eq!(status, Some(1), "{text}");
    let refusal = "error: the clock shows 2026-01-16 13:30 UTC, before this program's release";
    assert!(text.starts_with(refusal) && !text.contains("Plan: "), "{text}");
}

#[test]
fn mtu_says_what_is_needed_below() {
    let dir = mesh();
    let (status, text) = said(dir.path(), &["-c", "mesh.toml", "mtu", "--inner-mtu", "1500"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("   1584  MTU needed below for 1500 bytes inside\n"), "{text}");
    assert!(text.contains("= 1500  largest MTU of the tunnel's device"), "{text}");
    let (status, text) = said(dir.path(), &["-c", "mesh.toml", "mtu", "--inner-mtu", "65500"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("no IP packet carries 65500 bytes inside"), "{text}");
}

/// At a terminal, by script(1), with standard output in a file.
#[test]
fn apply_asks_at_the_terminal_where_standard_output_is_a_file() {
    if !inside("texts::apply_asks_at_the_terminal_where_standard_output_is_a_file") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    let dir = mesh();
    let key = dir.path().join("mesh.key");
    fs::write(&key, "5f".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let typed = format!(
        "{} -c mesh.toml --local h1 apply > log; echo status $?",
        env!("CARGO_BIN_EXE_meshsec")
    );
    let mut script = Command::new("script");
    script.args(["-q", "-c", &typed, "/dev/null"]).current_dir(dir.path());
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    script.stdin.take().unwrap().write_all(b"no\n").unwrap();
    let screen = script.wait_with_output().unwrap().stdout;
    let screen = String::from_utf8_lossy(&screen).into_owned();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(screen.contains("To apply this, type yes: "), "{screen}\n{log}");
    assert!(screen.contains("status 1") && log.contains("Plan: "), "{screen}\n{log}");
    assert!(!log.contains("type yes"), "{log}");
}

#[test]
fn the_file_may_come_from_standard_input() {
    let dir = mesh();
    let text = fs::read_to_string(dir.path().join("mesh.toml")).unwrap();
    let fed = |words: &[&str], text: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.args(words).current_dir(dir.path()).stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("meshsec runs");
        // A command that refuses reads nothing.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let plan = ["-c", "-", "--local", "h1", "plan", "--live", "empty"];
    let (status, said) = fed(&plan, &text);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("Peer h2 (192.0.2.2)"), "{said}");
    // Secrets are looked for in the working directory, and errors have a place.
    assert!(said.contains("cannot read secret mesh.key: no such file"), "{said}");
    let (status, said) =
        fed(&["-c", "-", "validate"], &text.replace("short_id = 2", "short_id = 1"));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("--> -:"), "{said}");
    // So are the files that it includes.
    let peer = |id| {
        format!(
            "{{ \"peer\": [ {{ \"name\": \"c\", \"short_id\": {id}, \"address\": \"192.0.2.9\" }} ] }}"
        )
    };
    let including = text.replace("[mesh]", "[mesh]\ninclude = [\"peers.json\"]");
    fs::write(dir.path().join("peers.json"), peer(9)).unwrap();
    let (status, said) = fed(&plan, &including);
    assert!(status == Some(0) && said.contains("Peer c (192.0.2.9)"), "{said}");
    fs::write(dir.path().join("peers.json"), peer(1)).unwrap();
    let (status, said) = fed(&plan, &including);
    assert!(status == Some(1) && said.contains("taken by the peer on line 10 of -\n"), "{said}");
    for words in [&["plan", "--out", "plan.json"][..], &["apply", "plan.json"]] {
        let (status, said) = fed(&[&["-c", "-"], words].concat(), &text);
        assert!(status == Some(1) && said.contains("standard input is none"), "{said}");
        assert!(!dir.path().join("plan.json").exists());
    }
    for words in [&["rotate"][..], &["ratchet", "init"]] {
        let (status, said) = fed(&[&["-c", "-"], words].concat(), &text);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("takes none from standard input"), "{said}");
    }
    let (status, said) = fed(&plan, &"#".repeat((4 << 20) + 1));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("larger than 4096 KiB"), "{said}");
}

/// Before the network is up, and not for a namespace that --netns names or for a snapshot.
#[test]
fn a_host_without_a_peers_address_is_the_peer_with_its_name() {
    if !inside("texts::a_host_without_a_peers_address_is_the_peer_with_its_name") {
        return;
    }
    let dir = mesh();
    fs::write(dir.path().join("mesh.key"), "00".repeat(31) + "01\n").unwrap();
    fs::set_permissions(dir.path().join("mesh.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let named = |host_name: &str, words: &str| {
        let program = env!("CARGO_BIN_EXE_meshsec");
        let script = format!(
            "echo {host_name} > /proc/sys/kernel/hostname && exec {program} -c mesh.toml {words}"
        );
        let mut command = Command::new("unshare");
        let output = command.args(["--uts", "sh", "-c", &script]).current_dir(dir.path()).output();
        let output = output.unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    ip("link set lo up");
    let missing = "this host has the name of h2, but not its address 192.0.2.2; if it is another \
                   peer, say so with --local NAME";
    for host_name in ["h2", "H2.example.org"] {
        let text = named(host_name, "plan");
        assert!(text.contains(missing) && text.contains("Peer h1"), "{text}");
    }
    assert!(named("h3", "plan").contains("this host has no peer's address"));
    assert!(named("h2", "plan --live empty").contains("this host has no peer's address"));
    let text = fs::read_to_string(dir.path().join("mesh.toml")).unwrap();
    let with_domain = text.replace("\"h2\"", "\"h2.example.org\"");
    fs::write(dir.path().join("mesh.toml"), &with_domain).unwrap();
    let plan = named("h2", "plan");
    assert!(plan.contains("this host has the name of h2.example.org, but not its"), "{plan}");
    assert!(named("h2.example.net", "plan").contains("this host has no peer's address: it has"));
    let two = with_domain.replace("\"h1\"", "\"h2.example.net\"");
    fs::write(dir.path().join("mesh.toml"), two).unwrap();
    let several = "its name \"h2\" is that of several peers; use --local NAME with one of: \
                   h2.example.net (192.0.2.1), h2.example.org (192.0.2.2)";
    assert!(named("h2", "plan").contains(several));
    fs::write(dir.path().join("mesh.toml"), text).unwrap();
    ip("addr add 192.0.2.1/32 dev lo");
    let text = named("h2", "plan");
    assert!(text.contains("Peer h2") && !text.contains("has the name of"), "{text}");
}
