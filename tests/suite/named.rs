//! `destroy`, `show` and `status` of a mesh that is named without its file.

use std::process::{Command, Output};

use serde_json::Value;

use crate::{
    common::namespace::{inside, ip},
    schema::assert_valid,
};

/// The reqid of a mesh with the name lab.
const LAB: &str = "0x4d53a511";

fn meshsec(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    // A directory without any file.
    let nowhere = tempfile::tempdir().unwrap();
    command.current_dir(nowhere.path()).args(words.split_whitespace()).output().unwrap()
}

/// What it says, with the exit status.
fn said(words: &str) -> (Option<i32>, String) {
    let output = meshsec(words);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn document(schema: &str, words: &str) -> Value {
    let output = meshsec(&format!("{words} --format json"));
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_valid(schema, &document);
    document
}

/// The policies of a host of the mesh; SAs need a kernel with ESP.
fn set_up() {
    ip("address add 192.0.2.1/24 dev lo");
    ip("link set lo up");
    let (a, b) = ("192.0.2.1", "192.0.2.2");
    let tmpl = |src, dst, spi: &str| {
        format!("tmpl src {src} dst {dst} proto esp {spi} reqid {LAB} mode transport")
    };
    let traffic = "proto udp dport 4789";
    let (out, inbound) = (tmpl(a, b, "spi 0x84001002"), tmpl(b, a, ""));
    ip(&format!("xfrm policy add src {a} dst {b} {traffic} dir out priority 1000 {out}"));
    ip(&format!("xfrm policy add src {b} dst {a} {traffic} dir in priority 1000 {inbound}"));
    for direction in ["in", "out"] {
        ip(&format!(
            "xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 {traffic} dir {direction} action block \
             priority {LAB}"
        ));
    }
    // Those of others: another mesh, and a policy of the same selector as none of ours.
    ip("xfrm policy add src 192.0.2.1 dst 192.0.2.3 dir out tmpl src 192.0.2.1 dst 192.0.2.3 \
        proto esp reqid 0x4d530007 mode transport");
    ip("xfrm policy add src 10.0.0.0/8 dst 192.0.2.0/24 dir out action block priority 7");
}

fn policies() -> String {
    let output = Command::new("ip").args(["xfrm", "policy"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_mesh_is_shown_and_removed_without_its_file() {
    if !inside("named::a_mesh_is_shown_and_removed_without_its_file") {
        return;
    }
    set_up();
    let (status, shown) = said("show --mesh lab");
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.starts_with("Mesh lab, reqid 0x4d53a511: without its file\n"), "{shown}");
    assert!(shown.contains("\nGuards\n") && shown.contains("\nSAs and policies\n"), "{shown}");
    let shown = document("show", "show --reqid 0x4d53a511");
    assert_eq!((&shown["mesh"], &shown["generation"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["ours"].as_array().unwrap().len(), 4);

    let (status, told) = said("status --mesh lab");
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("There is no verdict"), "{told}");
    let blocked = "  src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 4789: blocked\n";
    assert!(told.contains(&format!("\n192.0.2.2\n{blocked}")), "{told}");
    let told = document("named-status", "status --mesh lab");
    assert_eq!((&told["mesh"], &told["guards"]), (&"lab".into(), &2.into()));
    assert_eq!(told["hosts"][0]["packets"][0]["traffic"], "blocked");

    let report = document("report", "destroy --mesh lab --auto-approve");
    assert_eq!((&report["complete"], &report["plan"]["mesh"]), (&true.into(), &"lab".into()));
    assert_eq!(report["plan"]["changes"][2]["peer"], "192.0.2.2");
    assert_eq!(report["plan"]["warnings"][0]["code"], "left-in-the-clear");
    let left = policies();
    assert!(!left.contains("4789"), "{left}");
    assert!(left.contains("192.0.2.3/32") && left.contains("priority 7"), "{left}");

    let (status, again) = said("destroy --reqid 1297327377 --auto-approve");
    assert_eq!(status, Some(0), "{again}");
    let end = "No changes. The kernel holds no object with reqid 0x4d53a511.\n";
    assert!(again.ends_with(end), "{again}");
    assert!(again.contains("no object with reqid 0x4d53a511 is here"), "{again}");
    assert!(again.contains("0x4d530007 (1)"), "{again}");
}

#[test]
fn what_does_not_go_without_a_file_is_refused_with_the_reason() {
    for (words, says) in [
        ("destroy --mesh lab -c mesh.toml", "-c names one: leave -c out"),
        ("-c mesh.toml show --reqid 0x4d53a511", "-c names one: leave -c out"),
        ("--local a status --mesh lab", "leave --local out"),
        ("destroy --mesh lab --reqid 0x4d53a511", "cannot be used with"),
        ("destroy --mesh Lab --auto-approve", "\"Lab\" can't be a mesh's name"),
        ("destroy --reqid 7 --auto-approve", "smaller ones are of other programs"),
        ("show --reqid lab", "\"lab\" can't be a mesh's reqid"),
        ("status b --mesh lab", "without a file there is no verdict"),
        ("status --mesh lab --strict", "without a file there is no verdict"),
        ("status --mesh lab --watch", "without a file there is no verdict"),
        ("status --mesh lab --wait-heard 1s", "without a file there is no verdict"),
        ("status --mesh lab --format prometheus", "without a file there is no verdict"),
        ("apply --mesh lab", "unexpected argument"),
        ("plan --mesh lab", "unexpected argument"),
    ] {
        let auto = if words.starts_with("destroy") { " --auto-approve" } else { "" };
        let words =
            if words.contains("--auto-approve") { words.into() } else { format!("{words}{auto}") };
        let (status, text) = said(&words);
        assert_eq!(status, Some(1), "{words}: {text}");
        assert!(text.contains(says), "{words}: {text}");
    }
}

/// Where a broken file keeps destroy from its work, it says how to go without.
#[test]
fn destroy_says_how_to_go_without_the_file() {
    let (status, text) = said("destroy --auto-approve -c broken.toml");
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("destroy --mesh NAME, or --reqid, removes a mesh without its file"),
        "{text}"
    );
    let json = meshsec("destroy --auto-approve -c broken.toml --format json");
    assert_valid("errors", &serde_json::from_slice(&json.stderr).unwrap());
}
