//! Saved plans with an edited visible part: only the plan that was looked at is performed.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::common::namespace::{inside, ip};
use serde_json::{Value, json};

const MESH: &str = r#"
[mesh]
name = "lab"
[traffic]
kind = "vxlan"
[keys]
mesh_key = { file = "mesh.key" }
[rotation]
period = "1d"
[[peer]]
name = "a"
short_id = 1
address = "192.0.2.1"
[[peer]]
name = "b"
short_id = 2
address = "192.0.2.2"
"#;

fn meshsec(directory: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.current_dir(directory).args(["-c", "mesh.toml"]).args(words);
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (output.status.code(), said)
}

/// A way to edit the text of a saved plan.
type Edit = fn(&mut Value);

#[test]
fn a_plan_that_was_edited_is_refused() {
    if !inside("saved_plans::a_plan_that_was_edited_is_refused") {
        return;
    }
    ip("address add 192.0.2.1/24 dev lo");
    ip("link set lo up");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    fs::write(file("mesh.toml"), MESH).unwrap();
    fs::write(file("mesh.key"), "5f".repeat(32)).unwrap();
    fs::set_permissions(file("mesh.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let (status, said) = meshsec(directory.path(), &["plan", "--out", "plan.json"]);
    assert_eq!(status, Some(0), "{said}");
    let saved = fs::read_to_string(file("plan.json")).unwrap();

    let refused = |text: &str, why: &str| {
        fs::write(file("plan.json"), text).unwrap();
        let (status, said) = meshsec(directory.path(), &["apply", "plan.json"]);
        assert!(status == Some(1) && said.contains(why), "wanted {why}: {said}");
        let policies = Command::new("ip").args(["xfrm", "policy"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&policies), "");
    };
    let edited = |edit: Edit| {
        let mut value: Value = serde_json::from_str(&saved).unwrap();
        edit(&mut value);
        serde_json::to_string_pretty(&value).unwrap() + "\n"
    };
    let edits: [(Edit, &str); 6] = [
        (|saved| saved["plan"]["changes"] = json!([]), "\"changes\""),
        (|saved| saved["plan"]["steps"] = json!([]), "\"steps\""),
        (|saved| saved["plan"]["warnings"] = json!([{"code": "x", "text": "y"}]), "\"warnings\""),
        (|saved| saved["plan"]["clock"]["now"] = json!("2026-01-01T00:00:00Z"), "\"clock\""),
        (|saved| saved["plan"]["summary"]["create"] = json!(0), "\"summary\""),
        (|saved| saved["plan"]["note"] = json!("this plan changes nothing"), "\"note\""),
    ];
    for (edit, what) in edits {
        refused(&edited(edit), &format!("what a plan of now shows ({what})"));
    }
    // A reader may see the first of two, and a parser take the second.
    let twice = saved.replacen("\"changes\": [", "\"changes\": [],\n    \"changes\": [", 1);
    refused(&twice, "what a plan of now shows (its layout)");
    refused(&saved.replacen("  ", "", 1), "its layout");
    refused(&edited(|saved| saved["premises"]["plan"] = json!("00")), "this plan is stale");
    // As it was saved it is performed, as far as this kernel has ESP.
    fs::write(file("plan.json"), &saved).unwrap();
    let (_, said) = meshsec(directory.path(), &["apply", "plan.json"]);
    assert!(!said.contains("what a plan of now shows") && !said.contains("stale"), "{said}");
}
