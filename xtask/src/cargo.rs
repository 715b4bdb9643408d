//! Calling cargo and finding what it built.

use std::path::PathBuf;
use std::process::Command;

use crate::failure::{Attempt, Failure};
use crate::process;

/// The repository.
pub fn root() -> Result<PathBuf, Failure> {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    PathBuf::from(here).canonicalize().attempt("find the repository")
}

/// The cargo that runs this task, in the repository.
pub fn cargo() -> Result<Command, Failure> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Runs cargo with `arguments`, which build `target`, and returns the path of its program.
pub fn build(arguments: &[&str], target: &str) -> Result<PathBuf, Failure> {
    let messages = process::output(
        cargo()?.args(arguments).args(["--locked", "--message-format=json-render-diagnostics"]),
    )?;
    executable(&messages, target)
        .ok_or_else(|| Failure::new(format!("cargo built no program for the target {target}")))
}

/// Finds the program of `target` in cargo's messages, one JSON object a line. A search of strings
/// is enough for two fields whose form cargo guarantees.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let name = format!("\"name\":\"{target}\"");
    let path = messages
        .lines()
        .filter(|line| line.contains(&name))
        .find_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'))?
        .0;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_that_of_the_target() {
        let messages = r#"{"target":{"name":"meshsec"},"executable":"/t/meshsec"}
{"target":{"name":"real_kernel"},"executable":null}
{"target":{"name":"real_kernel"},"executable":"/t/real_kernel-1"}"#;
        assert_eq!(executable(messages, "real_kernel"), Some("/t/real_kernel-1".into()));
        assert_eq!(executable(messages, "other"), None);
    }
}
