//! Shell scripts that run one command in a known environment, as root, in a guest or on the host.

use std::path::Path;

/// Directories of programs, independent of the user that runs the task: a user's PATH has no sbin,
/// and may put another Python before the one with the installed packages.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that are passed on, by the beginning of their names.
const PASSED: [&str; 5] = ["CI", "MESHSEC_", "NO_COLOR", "PROPTEST_", "RUST_BACKTRACE"];

/// A script that changes to `directory` and becomes `command`.
pub fn run_in(directory: &Path, command: &[String], extra: &[(&str, &str)]) -> String {
    let mut script = format!("cd {} || exit 125\n", quote(&directory.to_string_lossy()));
    script.push_str("exec env -i");
    for (name, value) in environment(extra) {
        script.push(' ');
        script.push_str(&quote(&format!("{name}={value}")));
    }
    for word in command {
        script.push(' ');
        script.push_str(&quote(word));
    }
    script.push('\n');
    script
}

fn environment(extra: &[(&str, &str)]) -> Vec<(String, String)> {
    let fixed = [("HOME", "/root"), ("LANG", "C.UTF-8"), ("PATH", PATH), ("TERM", "dumb")];
    let passed = std::env::vars().filter(|(name, _)| {
        PASSED
            .iter()
            .any(|begin| name == begin || (begin.ends_with('_') && name.starts_with(begin)))
    });
    fixed
        .iter()
        .chain(extra)
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .chain(passed)
        .collect()
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_command_unchanged() {
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
    }

    #[test]
    fn the_script_changes_directory_first() {
        let script = run_in(Path::new("/a b"), &["ls".into(), "-l".into()], &[]);
        assert!(script.starts_with("cd '/a b' || exit 125\nexec env -i 'HOME=/root'"), "{script}");
        assert!(script.ends_with(" 'ls' '-l'\n"), "{script}");
    }
}
