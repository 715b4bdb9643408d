//! examples/ci: the comment on a change, and the files of the two systems of continuous integration.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

const FILE: &str = "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = { file = \"mesh.key\" }\n\
                    [rotation]\ngeneration = 5\n\
                    [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
                    [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"192.0.2.2\"\n";

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/ci"))
}

/// Runs plan.sh on a file without its secret, in a directory where plan.json is written.
fn plan(directory: &Path, file: &str, more: &[&str]) -> Output {
    let found = Command::new("jq").arg("--version").output();
    assert!(found.is_ok(), "jq is needed (apt-get install jq): {found:?}");
    fs::write(directory.join("mesh.toml"), file).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_meshsec")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg(folder().join("plan.sh")).arg("mesh.toml").args(more);
    command.env("PATH", path).env("PLAN_JSON", "plan.json").current_dir(directory);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[test]
fn a_comment_has_the_plan_of_every_host() {
    let directory = tempfile::tempdir().unwrap();
    let output = plan(directory.path(), FILE, &[]);
    let comment = text(&output);
    assert!(output.status.success(), "{comment}");
    // The mark by which the next run finds it, and the sums.
    let head = "<!-- meshsec -->\n### meshsec: mesh lab, 2 hosts: 36 to create, 0 to update, \
                0 to replace, 0 to delete\n";
    assert!(comment.starts_with(head), "{comment}");
    for host in ["a", "b"] {
        let row = format!("| {host} | 5 | 18 | 0 | 0 | 0 | 0 | keys-not-checked |");
        assert!(comment.contains(&row), "{comment}");
        assert!(comment.contains(&format!("<summary>{host}</summary>")), "{comment}");
    }
    assert!(comment.contains("\n+ sa dst 192.0.2.2 proto esp spi 0x94001002 (peer b): missing\n"));
    let sums = fs::read(directory.path().join("plan.json")).unwrap();
    let sums: Value = serde_json::from_slice(&sums).unwrap();
    assert_eq!(sums, json!({ "create": 36, "update": 0, "delete": 0 }));
}

#[test]
fn a_comment_on_a_wrong_file_names_the_errors_as_text() {
    let directory = tempfile::tempdir().unwrap();
    let wrong = FILE.replace("[mesh]\n", "[mesh]\n\"</pre><b>@all\" = 1\n");
    let output = plan(directory.path(), &wrong, &[]);
    let comment = text(&output);
    assert_eq!(output.status.code(), Some(1), "{comment}");
    assert!(comment.starts_with("<!-- meshsec -->\n### meshsec: the file is **not valid**\n"));
    assert!(comment.contains("mesh.toml:2:1: unknown key"), "{comment}");
    assert!(comment.contains("&lt;/pre&gt;&lt;b&gt;@all"), "{comment}");
    assert_eq!(comment.matches("</pre>").count(), 1, "{comment}");
}

/// Writes a snapshot of host a, which holds these policies and nothing else.
fn snapshot(directory: &Path, policies: &Value) {
    let folder = directory.join("snapshots");
    fs::create_dir_all(&folder).unwrap();
    let state = json!({
        "sas": [], "policies": policies, "bypasses": [], "routes": [], "tunnels": [], "usage": [],
        "addresses": [{ "address": "192.0.2.1", "device": "eth0" }],
        "links": [{ "name": "eth0", "mtu": 1500 }],
        "firewall": {
            "backends": { "ipv4": "nf_tables", "ipv6": "nf_tables" }, "absent": [], "foreign": [],
            "chains": [], "marks": [], "unseen": [], "whole": true,
        },
    });
    let snapshot = json!({
        "format_version": "2.0", "taken": 1_768_570_200, "mesh": "lab", "local": "a", "state": state
    });
    fs::write(folder.join("a.json"), snapshot.to_string()).unwrap();
}

#[test]
fn a_comment_names_hosts_without_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    snapshot(directory.path(), &json!([]));
    let output = plan(directory.path(), FILE, &["snapshots"]);
    let comment = text(&output);
    assert!(output.status.success(), "{comment}");
    assert!(comment.contains("mesh lab, 1 hosts: "), "{comment}");
    assert!(comment.contains("Without a snapshot, and so without a plan: b"), "{comment}");
}

#[test]
fn a_conflict_is_in_the_comment_and_fails_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let all = json!({ "address": "0.0.0.0", "length": 0 });
    let port = json!({ "port": 0, "mask": 0 });
    let lets_all_pass = json!({
        "id": {
            "direction": "out", "if_id": 0, "sub": false,
            "selector": {
                "src": all, "dst": all, "proto": 0, "sport": port, "dport": port,
                "ifindex": 0, "user": 0,
            },
        },
        "priority": 1, "action": "allow", "templates": [],
    });
    snapshot(directory.path(), &json!([lets_all_pass]));
    let output = plan(directory.path(), FILE, &["snapshots"]);
    let comment = text(&output);
    assert_eq!(output.status.code(), Some(1), "{comment}");
    assert!(comment.contains("**Foreign objects are in the way"), "{comment}");
    assert!(comment.contains("\nconflict outranks-"), "{comment}");
}

/// Both files are YAML, and run the script that is tested here.
#[test]
fn the_jobs_are_yaml_and_run_the_script() {
    for name in ["github.yml", "gitlab.yml"] {
        let script = "import sys, yaml, json; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
        let file = fs::File::open(folder().join(name)).unwrap();
        let mut python = Command::new("/usr/bin/python3");
        let output = python.args(["-c", script]).stdin(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "python3-yaml is needed, or {name} is wrong: {said}");
        let job = String::from_utf8(output.stdout).unwrap();
        assert!(job.contains("sh ci/plan.sh mesh.toml"), "{name}: {job}");
        assert!(!job.contains("secrets."), "{name} needs a secret");
    }
}
