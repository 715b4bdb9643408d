//! Running other programs: quietly, in full view, or both at once.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use crate::failure::{Attempt, Failure};

/// Runs `command` with its output on the terminal.
pub fn show(command: &mut Command) -> Result<ExitStatus, Failure> {
    command.stdin(Stdio::null()).status().attempt(format_args!("run {}", name(command)))
}

/// Runs `command` in full view; any status but 0 is an error.
pub fn must(command: &mut Command) -> Result<(), Failure> {
    let status = show(command)?;
    if status.success() { Ok(()) } else { Err(ended(command, status)) }
}

/// Runs `command` and returns its standard output; any status but 0 is an error.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = command.output().attempt(format_args!("run {}", name(command)))?;
    if !output.status.success() {
        return Err(ended(command, output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `command` runs and succeeds; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs `command`, shows its standard output as it comes and returns all of it.
pub fn tee(command: &mut Command) -> Result<(ExitStatus, String), Failure> {
    let mut child = spawn_teed(command)?;
    let copier = copy_to_terminal(&mut child, "");
    let status = child.wait().attempt(format_args!("wait for {}", name(command)))?;
    Ok((status, finish(copier)))
}

/// Starts `command` with its standard output in a pipe, for [`copy_to_terminal`].
pub fn spawn_teed(command: &mut Command) -> Result<Child, Failure> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .attempt(format_args!("run {}", name(command)))
}

/// Copies the standard output of `child` to this process's and keeps it, until the child closes it.
/// With a label it is copied by lines. Labels tell children apart that run at the same time.
pub fn copy_to_terminal(child: &mut Child, label: &str) -> JoinHandle<String> {
    let source = child.stdout.take();
    let label = label.to_owned();
    std::thread::spawn(move || source.map(|source| copy(source, &label)).unwrap_or_default())
}

/// The text that a copier has collected.
pub fn finish(copier: JoinHandle<String>) -> String {
    copier.join().unwrap_or_default()
}

fn copy(mut source: impl Read, label: &str) -> String {
    let mut kept = Vec::new();
    let mut shown = 0;
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..length]);
        let end = if label.is_empty() { kept.len() } else { end_of_lines(&kept) };
        if end > shown {
            write_labelled(&kept[shown..end], label);
            shown = end;
        }
    }
    if shown < kept.len() {
        write_labelled(&kept[shown..], label);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The end of the last complete line.
fn end_of_lines(text: &[u8]) -> usize {
    text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// Writes `text`, each line of it after the label.
fn write_labelled(text: &[u8], label: &str) {
    let text = String::from_utf8_lossy(text);
    let mut terminal = std::io::stdout().lock();
    // A reader that went away (`| head`) must not stop the tests: go on, unseen.
    let _ = if label.is_empty() {
        terminal.write_all(text.as_bytes())
    } else {
        text.lines().try_for_each(|line| writeln!(terminal, "{label}: {line}"))
    };
    let _ = terminal.flush();
}

/// Finds `program` as a shell would, also where users' PATH has no sbin.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn ended(command: &Command, status: ExitStatus) -> Failure {
    let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    Failure::new(format!("`{} {}` ended with {status}", name(command), arguments.join(" ")))
}
