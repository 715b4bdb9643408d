//! Golden files.

use std::{fs, path::Path};

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
