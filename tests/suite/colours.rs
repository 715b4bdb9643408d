//! Text that goes to a pager: colours that are asked for, and a reader that has enough.

use std::{
    io,
    process::{Command, Output},
};

const MESH: &str = "examples/three-hosts.toml";

fn plan(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(["-c", MESH, "plan", "--live", "empty", "--local", "a"]).args(arguments);
    command.env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR");
    command
}

fn is_coloured(output: &Output) -> bool {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.contains(&0x1b)
}

#[test]
fn a_pipe_gets_colours_only_where_they_are_asked_for() {
    let run = |arguments: &[&str]| is_coloured(&plan(arguments).output().unwrap());
    assert!(!run(&[]));
    assert!(!run(&["--color", "auto"]));
    assert!(run(&["--color", "always"]));
    assert!(!run(&["--color", "always", "--format", "json"]), "JSON has no colours");
}

#[test]
fn the_option_has_the_last_word_over_the_environment() {
    let run =
        |name: &str, when| is_coloured(&plan(&["--color", when]).env(name, "1").output().unwrap());
    assert!(run("CLICOLOR_FORCE", "auto"));
    assert!(!run("CLICOLOR_FORCE", "never"));
    assert!(run("NO_COLOR", "always"));
}

/// The end of a pager that was quit at the first page.
fn without_a_reader(mut command: Command) -> Output {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let child = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(command);
    child.wait_with_output().unwrap()
}

#[test]
fn a_reader_that_has_enough_leaves_the_exit_status_as_it_is() {
    for format in ["text", "json"] {
        let output = without_a_reader(plan(&["--format", format, "--detailed-exitcode"]));
        assert_eq!(output.status.code(), Some(2), "changes are pending, whoever reads of them");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("ipe"), "{output:?}");
    }
}
