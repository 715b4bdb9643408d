//! What a shell offers when somebody presses TAB.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The words that bash offers for the last of these.
fn offered(directory: &Path, words: &[&str]) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_meshsec")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source completions/meshsec.bash\n\
         function=$(complete -p meshsec | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         cd {}\n\
         COMP_WORDS=(meshsec {}) COMP_CWORD={} COMP_TYPE=9\n\
         $function meshsec {} ''\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        directory.display(),
        quoted.join(" "),
        words.len(),
        quoted.last().unwrap(),
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &script]).env("PATH", path).stdin(Stdio::null());
    bash.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = bash.output().expect("bash can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).unwrap().lines().map(|word| word.trim().into()).collect()
}

#[test]
fn bash_completes_commands_peers_and_words_of_live() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy("examples/three-hosts.toml", directory.path().join("mesh.toml")).unwrap();
    let at = directory.path();
    assert_eq!(offered(at, &["stat"]), ["status"]);
    assert_eq!(offered(at, &["-c", "mesh.toml", "--local", ""]), ["a", "b", "c"]);
    assert_eq!(offered(at, &["-c", "mesh.toml", "status", "b"]), ["b"]);
    assert_eq!(offered(at, &["--config=mesh.toml", "plan", "--peer", ""]), ["a", "b", "c"]);
    assert_eq!(offered(at, &["plan", "--live", "em"]), ["empty"]);
    assert_eq!(offered(at, &["plan", "--live", "me"]), ["mesh.toml"]);
    // A file that can't be read is no reason for a message in the middle of a line.
    assert_eq!(offered(at, &["-c", "absent.toml", "--local", ""]), [""]);
}

/// A variable that is left over in the environment keeps no command from its work.
#[test]
fn a_command_is_run_whatever_the_environment_says_of_completion() {
    let mut meshsec = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    meshsec.args(["-c", "examples/three-hosts.toml", "validate", "--without-secrets"]);
    meshsec.env("MESHSEC_COMPLETE", "bash").current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = meshsec.output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("is valid: mesh lab"), "{said}");
}
