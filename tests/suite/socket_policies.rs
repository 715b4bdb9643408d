//! Policies that a program sets for one of its own sockets (`IP_XFRM_POLICY`).

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use crate::common::namespace::{inside, ip};

/// Four sockets with a policy that lets UDP pass as it is, until its standard input ends.
const SOCKETS: &str = r#"
import socket, struct, sys
def policy(family, direction):
    selector = struct.pack("=32xHHHHHBBBxxxiI", 0, 0, 0, 0, family, 0, 0, 17, 0, 0)
    lifetimes = struct.pack("=4Q4Q4Q", *[2**64 - 1] * 4, *[0] * 8)
    return selector + lifetimes + struct.pack("=IIBBBB4x", 0, 0, direction, 0, 0, 0)
sockets = []
for family, level, option in ((socket.AF_INET, 0, 17), (socket.AF_INET6, 41, 35)):
    for direction in (0, 1):
        one = socket.socket(family, socket.SOCK_DGRAM)
        one.setsockopt(level, option, policy(family, direction))
        sockets.append(one)
print("ready", flush=True)
sys.stdin.read()
"#;

fn meshsec(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(["-c", "mesh.toml", "--local", "h1"]).args(arguments);
    let output = command.current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn show_lists_policies_of_single_sockets_and_plans_do_not_see_them() {
    if !inside("socket_policies::show_lists_policies_of_single_sockets_and_plans_do_not_see_them") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mesh = "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = { env = \"KEY\" }\n\
                [traffic]\nkind = \"all\"\n[rotation]\ngeneration = 5\n\
                [[peer]]\nname = \"h1\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
                [[peer]]\nname = \"h2\"\nshort_id = 2\naddress = \"192.0.2.2\"\n";
    fs::write(path.join("mesh.toml"), mesh).unwrap();
    let empty = meshsec(path, &["snapshot"]);
    fs::write(path.join("empty.json"), &empty).unwrap();
    assert!(!empty.contains("socket_policies"), "{empty}");

    let mut holder = Command::new("python3");
    holder.args(["-c", SOCKETS]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("python3 is needed");
    let mut ready = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n", "a socket takes a policy");

    let all = meshsec(path, &["show", "--all"]);
    for selector in ["src 0.0.0.0/0 dst 0.0.0.0/0 proto udp", "src ::/0 dst ::/0 proto udp"] {
        for direction in ["in", "out"] {
            let line = format!("  policy {selector} dir {direction}  of a single socket, allow");
            assert!(all.lines().any(|shown| shown.starts_with(&line)), "{line}:\n{all}");
        }
    }
    let json = meshsec(path, &["--format", "json", "show", "--all"]);
    assert_eq!(json.matches("of a single socket, allow").count(), 4, "{json}");
    assert!(!meshsec(path, &["show"]).contains("socket"));

    let taken = meshsec(path, &["snapshot"]);
    fs::write(path.join("taken.json"), &taken).unwrap();
    assert_eq!(taken.matches("\"extras\"").count(), 0, "{taken}");
    let plan = |file: &str| meshsec(path, &["--format", "json", "plan", "--live", file]);
    assert_eq!(plan("taken.json"), plan("empty.json"), "plans say nothing of them");

    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(!meshsec(path, &["show", "--all"]).contains("socket"), "they go with their sockets");
}
