//! The corpora, replayed.

use std::{fs, panic::catch_unwind, path::Path};

use super::TARGETS;

/// Inputs that `fuzz/corpus` has at least for each target.
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

/// Found by the snapshot target: whatever the kernel or a snapshot calls by name was printed as
/// it was. Each of these is a place where a plan, a show or a status prints it.
#[test]
fn nothing_in_a_snapshot_moves_the_cursor() {
    let escape = r"\u001b[2J\nNo changes.\u202e";
    let id = r#""dst":"192.0.2.2","proto":50,"spi":"0x81001002""#;
    let sa = |algorithm: &str, extras: &str| {
        format!(
            r#"{{"id":{{{id}}},"src":"192.0.2.1","reqid":1297285121,"mode":"transport",
            "selector":null,"algorithm":{algorithm},"key":"unknown",
            "replay":{{"window":0,"esn":false}},"extras":[{extras}]}}"#
        )
    };
    let name = format!("\"{escape}\"");
    let chain = format!(
        r#"{{"id":{{"backend":"nf_tables","family":"ipv4","table":"filter",
        "name":"MESHSEC-4d530001-OUT{escape}"}},"rules":[{{"other":{name}}}],"jumps":[]}}"#
    );
    let mut states = vec![
        format!(r#""sas":[{}]"#, sa(r#""larval""#, &name)),
        format!(r#""sas":[{}]"#, sa(&format!(r#"{{"other":{name}}}"#), "")),
        format!(r#""bypasses":[{{"device":"all","ipv6":false,"name":{name}}}]"#),
        format!(r#""firewall":{{"backends":{{}},"chains":[{chain}]}}"#),
        format!(r#""firewall":{{"backends":{{}},"marks":[{{"user":{name},"bits":4294967295}}]}}"#),
    ];
    let unseen = format!(r#"{{"family":"ipv4","system":true,"what":{name},"reason":{name}}}"#);
    states.push(format!(r#""firewall":{{"backends":{{}},"unseen":[{unseen}]}}"#));
    for state in states {
        let empty = ["sas", "policies", "addresses", "bypasses"].map(|key| format!("\"{key}\":[]"));
        let given = |field: &&String| !state.starts_with(field.trim_end_matches("[]"));
        let fields: Vec<&String> = empty.iter().filter(given).chain([&state]).collect();
        let state = fields.into_iter().map(String::as_str).collect::<Vec<_>>().join(",");
        for (taken, version) in (0..8).flat_map(|taken| [(taken, "1.0"), (taken, "2.0")]) {
            let text = format!(
                r#"{{"format_version":"{version}","taken":{taken},"mesh":"lab","state":{{{state}}}}}"#
            );
            crate::commands::fuzzing::read(text.as_bytes());
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
