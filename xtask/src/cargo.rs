//! Calling cargo and finding the programs that it built.

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

/// Builds the test programs of these targets, `arguments` naming them to cargo, and returns their
/// paths in the order of the targets.
pub fn build_tests(arguments: &[&str], targets: &[&str]) -> Result<Vec<PathBuf>, Failure> {
    let messages = build(&[&["test", "--no-run"], arguments].concat())?;
    let lines: Vec<&str> = messages.lines().filter(|line| line.contains(TEST_PROFILE)).collect();
    targets.iter().map(|target| found(&lines, target)).collect()
}

/// Builds the program of `target` with `arguments`, and returns its path.
pub fn build_program(arguments: &[&str], target: &str) -> Result<PathBuf, Failure> {
    found(&build(arguments)?.lines().collect::<Vec<_>>(), target)
}

/// Builds the programs of two targets at once with `arguments`, and returns their paths.
pub fn build_both(arguments: &[&str], targets: [&str; 2]) -> Result<[PathBuf; 2], Failure> {
    let messages = build(arguments)?;
    let lines: Vec<&str> = messages.lines().collect();
    Ok([found(&lines, targets[0])?, found(&lines, targets[1])?])
}

/// The end of the profile of a test program in cargo's messages. The same words end the target of
/// any program, but there other fields follow.
const TEST_PROFILE: &str = "\"test\":true},\"features\"";

fn build(arguments: &[&str]) -> Result<String, Failure> {
    process::output(
        cargo()?.args(arguments).args(["--locked", "--message-format=json-render-diagnostics"]),
    )
}

fn found(lines: &[&str], target: &str) -> Result<PathBuf, Failure> {
    executable(lines, target)
        .ok_or_else(|| Failure::new(format!("cargo built no program for the target {target}")))
}

/// Finds the program of `target` in cargo's messages, one JSON object a line. A search of strings
/// is enough for fields whose form cargo guarantees.
fn executable(lines: &[&str], target: &str) -> Option<PathBuf> {
    let name = format!("\"name\":\"{target}\"");
    let path = lines
        .iter()
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
        let lines: Vec<&str> = messages.lines().collect();
        assert_eq!(executable(&lines, "real_kernel"), Some("/t/real_kernel-1".into()));
        assert_eq!(executable(&lines, "other"), None);
    }
}
