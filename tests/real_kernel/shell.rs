//! Running programs, and their answers.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    thread,
};

/// The answer of a program.
#[derive(Debug, Clone)]
pub struct Ran {
    pub command: String,
    /// 128 and the signal's number where a signal ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(command: &Command, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().map(|signal| 128 + signal);
        Self {
            command: format!("{command:?}"),
            status: output.status.code().or(signal).expect("a program exits or is killed"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails unless this was the exit status.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert!(self.status == status, "wanted exit status {status} of {self}");
        self
    }

    /// Fails unless this is somewhere in the output.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "wanted {text:?} from {self}");
        self
    }

    /// Fails if this is somewhere in the output.
    #[track_caller]
    pub fn lacks(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(!said, "did not want {text:?} from {self}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON, {e}: {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command}\nexit status {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_with(command, "")
}

/// Runs a program that reads `input`.
#[track_caller]
pub fn run_with(command: &mut Command, input: &str) -> Ran {
    command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| {
        panic!("{:?} can't be run, and the tests need it: {e}", command.get_program())
    });
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    // From a thread of its own: a program may write much before it reads.
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("a child can be waited for");
    writer.join().expect("writing does not panic");
    Ran::of(command, output)
}

/// `ip` with these words.
#[track_caller]
pub fn ip(words: &str) -> Ran {
    run(Command::new("ip").args(words.split_whitespace())).exits(0)
}

/// `ip -batch` with these lines.
#[track_caller]
pub fn ip_batch(lines: &str) {
    run_with(Command::new("ip").args(["-batch", "-"]), lines).exits(0);
}
