//! The documents that commands print, in a network namespace.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::{assert_strict, documents::read, root};
use crate::common::namespace::{inside, ip};

fn mesh_toml(keys: &str, rotation: &str) -> String {
    format!(
        "[mesh]\nname = \"lab\"\nreqid = 0x4d530001\n[keys]\n{keys}\n[rotation]\n{rotation}\n\
         [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
         [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"192.0.2.2\"\n"
    )
}

const MESH_KEY: &str = "mesh_key = { file = \"mesh.key\" }";
const SECRET: &str = "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f\n";

/// A host's files.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("mesh.key", SECRET);
        fs::set_permissions(host.at("mesh.key"), fs::Permissions::from_mode(0o600)).unwrap();
        host.write("period.toml", &mesh_toml(MESH_KEY, "period = \"1d\""));
        host.write("generation.toml", &mesh_toml(MESH_KEY, "generation = 3"));
        let ratchet = "ratchet = { file = \"ratchet\" }";
        host.write("ratchet.toml", &mesh_toml(ratchet, "generation = 3"));
        host.write("wrong.toml", &mesh_toml("", "generation = -3"));
        let including = "include = [\"peers.json\"]\n[keys]";
        host.write(
            "including.toml",
            &mesh_toml(MESH_KEY, "generation = 3").replace("[keys]", including),
        );
        let peer = r#"{ "peer": [ { "name": "c", "short_id": 3, "address": "192.0.2.3" } ] }"#;
        host.write("peers.json", peer);
        host
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    /// The program on the file `mesh`, with a secret on standard input.
    fn run(&self, mesh: &str, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.current_dir(self.0.path()).args(["-c", &format!("{mesh}.toml")]);
        command.args(words.split_whitespace()).args(["--format", "json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may have ended by now.
        let _ = child.stdin.take().unwrap().write_all(SECRET.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Fails unless a command prints a document of that name, to standard error if it is `errors`.
    #[track_caller]
    fn prints(&self, name: &str, mesh: &str, words: &str) -> Value {
        let output = self.run(mesh, words);
        let said = String::from_utf8_lossy(&output.stderr);
        let text = if name == "errors" { &output.stderr } else { &output.stdout };
        let document = serde_json::from_slice(text)
            .unwrap_or_else(|error| panic!("{words}: {error}; {}: {said}", output.status));
        assert_strict(name, &document);
        document
    }
}

#[test]
fn documents_of_commands_are_as_their_schemas_say() {
    if !inside("schemas::commands::documents_of_commands_are_as_their_schemas_say") {
        return;
    }
    ip("address add 192.0.2.1/24 dev lo");
    ip("link set lo up");
    let host = Host::new();
    for mesh in ["period", "generation", "including"] {
        host.prints("validate", mesh, "validate");
        host.prints("validate", mesh, "validate --without-secrets");
        host.prints("plan", mesh, "plan");
        host.prints("plan", mesh, "plan --live empty");
        host.prints("show", mesh, "show --all");
        host.prints("status", mesh, "status");
        host.prints("doctor", mesh, "doctor --for 1s --probe");
        host.prints("mtu", mesh, "mtu --underlay-mtu 1500");
        host.prints("spi", mesh, "spi 0x84001002");
    }
    host.prints("prove", "generation", "prove --count 1 --wait 100ms");
    host.prints("prove", "including", "prove --count 1 --wait 100ms");
    host.prints("spi", "absent", "spi 0x84001fff");
    host.prints("errors", "generation", "show --mesh lab");
    host.prints("plan", "period", "plan --out plan.json");
    assert_strict("saved-plan", &read(&host.at("plan.json")));
    host.prints("plan", "including", "plan --out including.json");
    assert_strict("saved-plan", &read(&host.at("including.json")));
    let snapshot = host.prints("snapshot", "period", "snapshot");
    host.write("live.json", &snapshot.to_string());
    host.prints("plan", "period", "plan --live live.json");
    // Only a kernel with ESP takes SAs; without it the run ends before the first step.
    let applied = host.run("generation", "apply --auto-approve");
    let name = if applied.stdout.is_empty() { "errors" } else { "report" };
    let text = [applied.stdout, applied.stderr].concat();
    assert_strict(name, &serde_json::from_slice(&text).unwrap());
    host.prints("report", "generation", "destroy --auto-approve");
    let live = host.prints("snapshot", "generation", "snapshot");
    assert_eq!(live["local"], "a");
    host.write("a.json", &live.to_string());
    host.prints("settled", "generation", "settled --seen a.json");
    host.prints("settled", "generation", "settled --here --seen a.json");
    host.prints("settled", "period", "settled");
    host.prints("settled", "generation", "rotate --here");
    host.prints("rotate", "generation", "rotate");
    host.prints("ratchet-init", "ratchet", "ratchet init");
    host.prints("validate", "ratchet", "validate");
    host.prints("ratchet-advance", "ratchet", "ratchet advance --to 2");
    host.prints("errors", "generation", "confirm");
    host.prints("errors", "wrong", "validate");
    host.prints("errors", "absent", "validate");
    assert_strict("confirm", &serde_json::to_value(meshsec::render::confirm_json("lab")).unwrap());
}

/// A snapshot of version 0.1 lacks members that came later.
#[test]
fn snapshots_of_version_0_1_are_read_and_saved_plans_are_refused_by_name() {
    let host = Host::new();
    let old = |name: &str| root().join("tests/snapshots").join(name);
    let plan = |file: &Path| {
        let words = format!("--local a plan --live {}", file.display());
        host.prints("plan", "generation", &words)
    };
    let planned = plan(&old("version-0.1.json"));
    let read = |change: &Value| change["id"] == "dst 192.0.2.2 proto esp spi 0x81001002";
    let read = planned["changes"].as_array().unwrap().iter().find(|change| read(change)).unwrap();
    assert_eq!(read["reason"]["code"], "old-layout");
    plan(&old("every-name.json"));

    let saved = r#"{ "format_version": "1.0", "premises": {}, "plan": {} }"#;
    host.write("plan.json", saved);
    let refused = host.prints("errors", "generation", "apply plan.json --auto-approve");
    let error = &refused["errors"][0];
    assert_eq!(error["code"], "document-refused");
    let text = error["text"].as_str().unwrap();
    assert!(text.contains("format \"1.0\" is not known; this meshsec reads 2.0"), "{text}");

    host.write("live.json", r#"{ "format_version": "3.0" }"#);
    let refused = host.prints("errors", "generation", "--local a plan --live live.json");
    let text = refused["errors"][0]["text"].as_str().unwrap();
    assert!(text.contains("\"3.0\" is not known; this meshsec reads 1.0 and 2.0"), "{text}");
}
