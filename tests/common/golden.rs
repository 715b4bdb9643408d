//! Golden files; above all plans, in tests/plan.

use std::{fs, path::Path};

use meshsec::{
    config::Config,
    kernel::memory::Memory,
    render::{View, plan_json, plan_text},
};

use super::*;

/// Above this many changes only the text is kept: the JSON of a long plan says
/// nothing that a short one's doesn't.
const CHANGES_IN_JSON: usize = 12;

/// Compares with `tests/plan/<name>.txt` and, for a short plan, `.json`, and
/// checks that the plan, performed, leaves nothing to do.
pub fn golden(name: &str, config: &Config, kernel: &mut Memory) {
    let now = kernel.now();
    let plan = super::plan(config, kernel);
    let view = View {
        config,
        moment: config.rotation.at(now),
        local: Some(&config.peers[0]),
        plan: &plan,
        warnings: &[],
        file: "mesh.toml",
    };
    let text = anstream::adapter::strip_str(&plan_text(&view)).to_string();
    compare(&format!("tests/plan/{name}.txt"), &text);
    if plan.changes.len() <= CHANGES_IN_JSON {
        let json = serde_json::to_string_pretty(&plan_json(&view)).unwrap();
        compare(&format!("tests/plan/{name}.json"), &(json + "\n"));
    }
    if plan.conflicts.is_empty() {
        let report = applied(config, kernel);
        assert!(report.is_complete(), "{name}: apply leaves nothing to do");
    }
}

/// Compares with the expected output in a file of the project, or writes it anew.
pub fn compare(file: &str, actual: &str) {
    if let Some(difference) = difference(file, actual) {
        panic!("{difference}");
    }
}

/// How an output differs from a file of the project, if it does; or writes the file anew.
pub fn difference(file: &str, actual: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(&path, actual).unwrap();
        return None;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    (expected != actual).then(|| {
        let diff = similar::TextDiff::from_lines(expected.as_str(), actual);
        let shown = diff.unified_diff().header("expected", "actual").to_string();
        format!("{file} differs; UPDATE_GOLDEN=1 cargo test writes it anew:\n{shown}")
    })
}
