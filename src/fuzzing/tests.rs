//! The corpora, replayed.

use std::{fs, panic::catch_unwind, path::Path};

use serde_json::{Value, json};

use super::TARGETS;

/// The least number of inputs that `fuzz/corpus` has for each target.
const FEWEST: usize = 10;

#[test]
fn every_input_of_the_corpora_still_holds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let inputs: Vec<_> = fs::read_dir(corpora.join(name)).unwrap().collect();
        assert!(
            inputs.len() >= FEWEST,
            "{name} has {} inputs: the corpus is missing",
            inputs.len()
        );
        for path in inputs.into_iter().map(|entry| entry.unwrap().path()) {
            let input = fs::read(&path).unwrap();
            if catch_unwind(|| target(&input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "something does not hold of {broken:#?}");
}

/// ESC, CR, LF, NUL, DEL, CSI as one character, and characters that turn text around or end a line.
const FOREIGN: &str = "\u{1b}[2J\r\nNo changes.\0\u{7f}\u{9b}2J\u{61c}\u{202e}\u{2066}\u{2028}";

/// Snapshots with control characters in every kind of name and text that others give. A plan, a
/// show, a status or the metrics printed each of them unchanged, or might.
fn foreign_states() -> Vec<Value> {
    let sa = |of_its_own: Value| {
        let sa = json!({
            "id": { "dst": "192.0.2.2", "proto": 50, "spi": "0x84001002" },
            "src": "192.0.2.1", "reqid": 1_297_285_121, "mode": "transport", "selector": null,
            "algorithm": "larval", "key": "unknown", "replay": { "window": 0, "esn": false },
        });
        json!({ "sas": [merged(sa, of_its_own)] })
    };
    let any = json!({ "address": "0.0.0.0", "length": 0 });
    let policy = json!({
        "id": { "direction": "out", "selector": { "src": any, "dst": any } },
        "priority": 1, "action": "allow", "templates": [], "extras": [FOREIGN],
    });
    let chain = json!({
        "id": { "backend": "nf_tables", "family": "ipv4", "table": format!("mangle{FOREIGN}"),
                "name": format!("MESHSEC-4d530001-OUT{FOREIGN}") },
        "rules": [{ "other": FOREIGN }], "references": [FOREIGN],
        "jumps": [{ "conditions": FOREIGN, "behind": FOREIGN }],
    });
    let firewall = |of_it: Value| json!({ "firewall": merged(json!({ "backends": {} }), of_it) });
    let unseen = json!({ "family": "ipv4", "system": true, "what": FOREIGN, "reason": FOREIGN });
    let tunnel = |device: &str, port: u16| {
        json!({ "device": device, "kind": "vxlan", "port": port, "lower": FOREIGN,
                "master": FOREIGN, "other_names": ["vxlan42", FOREIGN], "entries": null })
    };
    let here = json!({
        "addresses": [{ "address": "192.0.2.1", "device": FOREIGN }],
        "links": [{ "name": FOREIGN, "mtu": 9000, "kind": FOREIGN }],
        "routes": [{ "to": "192.0.2.2", "from": "192.0.2.1", "devices": [FOREIGN],
                     "no_carrier": [FOREIGN], "vrfs": [FOREIGN], "refused": FOREIGN }],
    });
    let bypass =
        json!({ "bypasses": [{ "device": FOREIGN, "ipv6": false, "name": "disable_xfrm" }] });
    let bridge = json!({ "links": [{ "name": FOREIGN, "mtu": 9000, "kind": "bridge" },
                                   { "name": "vxlan42", "mtu": 8000, "kind": "vxlan" }] });
    let tunnels = json!({ "tunnels": [tunnel(FOREIGN, 4789), tunnel("vxlan42", 4789)] });
    let others = json!({ "tunnels": [tunnel(FOREIGN, 8472)] });
    vec![
        sa(json!({ "extras": [FOREIGN] })),
        sa(json!({ "algorithm": { "other": FOREIGN } })),
        sa(json!({ "offload": { "device": FOREIGN, "inbound": false } })),
        sa(json!({ "reqid": 7, "offload": { "device": FOREIGN, "inbound": false } })),
        json!({ "policies": [policy] }),
        json!({ "bypasses": [{ "device": "all", "ipv6": false, "name": FOREIGN }] }),
        firewall(json!({ "chains": [chain] })),
        firewall(json!({ "marks": [{ "user": FOREIGN, "bits": u32::MAX }] })),
        firewall(json!({ "unseen": [unseen] })),
        here.clone(),
        merged(here.clone(), bypass),
        merged(merged(here.clone(), bridge), tunnels),
        merged(here, others),
        json!({ "translations": [{ "rule": FOREIGN, "chain": FOREIGN, "certain": true },
                                 { "rule": FOREIGN, "chain": FOREIGN, "certain": false }] }),
    ]
}

fn merged(mut below: Value, above: Value) -> Value {
    let (Some(all), Value::Object(above)) = (below.as_object_mut(), above) else {
        panic!("objects alone are merged");
    };
    all.extend(above);
    below
}

/// Found by the snapshot target: names from the kernel or a snapshot were printed unchanged.
#[test]
fn nothing_in_a_snapshot_moves_the_cursor() {
    for state in foreign_states() {
        let empty = json!({ "sas": [], "policies": [], "addresses": [], "bypasses": [] });
        let state = merged(empty, state);
        for (taken, version) in (0..8).flat_map(|taken| [(taken, "1.0"), (taken, "2.0")]) {
            let snapshot = json!({
                "format_version": version, "taken": taken, "mesh": "lab", "state": state,
            });
            let text = snapshot.to_string();
            crate::commands::fuzzing::must_be_snapshot(text.as_bytes());
            super::snapshot(text.as_bytes());
        }
    }
}

#[test]
fn every_target_of_cargo_fuzz_is_here() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<String> = fs::read_dir(targets)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut names = TARGETS.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(files, names);
}
