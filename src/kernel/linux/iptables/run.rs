//! Running the programs of iptables.
//!
//! By absolute path from a fixed list of directories, with a fixed environment, in bounded time. A
//! program that fails is an error, with any output, and never an empty answer.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::kernel::{KernelError, SystemCause};

/// The directories of programs, in the order of a root shell's PATH. The caller's own PATH has no
/// influence on the programs that run as root.
const DIRECTORIES: [&str; 7] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/run/current-system/sw/bin",
];
/// The PATH that a program may need to find others, such as modprobe.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The time limit of a program, its wait for the lock included.
const LIMIT: Duration = Duration::from_secs(30);
/// The interval of checks whether a program has ended.
const POLL: Duration = Duration::from_millis(1);
/// The message of iptables-nft on a kernel without nf_tables.
const NO_NF_TABLES: &str = "Failed to initialize nft: Protocol not supported";
/// The length of a program's own output in an error.
const WORDS_SHOWN: usize = 400;

/// The path of a program, if it exists and may be executed.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| {
        let executable = |data: std::fs::Metadata| data.permissions().mode() & 0o111 != 0;
        path.metadata().is_ok_and(|data| data.is_file() && executable(data))
    })
}

/// Runs a program to its end, gives it `input`, and returns its output.
///
/// It runs in the network namespace of the calling thread.
///
/// # Errors
///
/// [`KernelError::System`] if it can't be run, takes too long, is killed or
/// exits with anything but 0.
pub(super) fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, KernelError> {
    run_within(LIMIT, program, arguments, input)
}

fn run_within(
    limit: Duration,
    program: &Path,
    arguments: &[&str],
    input: &str,
) -> Result<String, KernelError> {
    let failed = |cause, reason: String| KernelError::System {
        cause,
        doing: format!("{} {} failed", program.display(), arguments.join(" ")),
        reason,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(SystemCause::Other, error.to_string()))?;
    write_all(&mut child, input.into());
    let printed = read_all(child.stdout.take());
    let said = read_all(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = wait(&mut child, deadline)
        .map_err(|error| failed(SystemCause::Other, error.to_string()))?
        .ok_or_else(|| {
            failed(SystemCause::Other, format!("it took longer than {} s", limit.as_secs()))
        })?;
    // A process that it left running may hold its output open.
    let left = || deadline.saturating_duration_since(Instant::now()).max(POLL);
    let (printed, said) = (printed.recv_timeout(left()), said.recv_timeout(left()));
    let (Ok(printed), Ok(said)) = (printed, said) else {
        return Err(failed(SystemCause::Other, "its output has no end".into()));
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&said);
        let cause = match said.contains(NO_NF_TABLES) {
            true => SystemCause::NoNfTables,
            false => SystemCause::Other,
        };
        return Err(failed(cause, reason(status, &said)));
    }
    String::from_utf8(printed)
        .map_err(|_| failed(SystemCause::Other, "its output is not UTF-8".into()))
}

/// Writes from a thread of its own: a program may print much before it reads.
fn write_all(child: &mut Child, input: String) {
    let Some(mut stdin) = child.stdin.take() else { return };
    thread::spawn(move || {
        // A program that ends before it has read everything reports that by its status.
        let _ = stdin.write_all(input.as_bytes());
    });
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if pipe.read_to_end(&mut bytes).is_ok() {
                let _ = sender.send(bytes);
            }
        });
    }
    receiver
}

/// The status, or `None` if it was killed because time was up.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// The meaning of a status, the program's output, and the remedy.
///
/// Statuses are those of iptables' `enum xtables_exittype`: 2 is the usage, 3 the version, 4 a
/// resource. The program's texts tell more than its statuses.
fn reason(status: ExitStatus, said: &str) -> String {
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |text: &str| said.contains(text);
    let hint = if has("ermission denied") || has("must be root") {
        "; needs CAP_NET_ADMIN, and iptables-legacy CAP_NET_RAW and root's files too: run as root"
    } else if has("xtables lock") || has("Can't lock") {
        "; another program works on the rules: run this again"
    } else if has("Table does not exist")
        || ["can't", "Cannot", "unable to"].iter().any(|not| has(&format!("{not} initialize")))
    {
        "; the kernel has no such table: load its module (iptable_filter, iptable_mangle, \
         ip6table_filter, ip6table_mangle)"
    } else if has("No chain/target/match by that name")
        || has("missing kernel module")
        || has("No such file or directory")
        || has("Extension")
    {
        "; the kernel or iptables lacks a part of the rule: load xt_policy and xt_MARK"
    } else if has("not supported") {
        "; the kernel lacks nf_tables, or its table is in another form"
    } else if status.code() == Some(2) || has("unrecognized option") {
        "; is it older than 1.6.2?"
    } else {
        ""
    };
    let shown: String = said.chars().take(WORDS_SHOWN).collect();
    let shown = if shown.is_empty() { "it said nothing".into() } else { shown };
    match status.code() {
        Some(code) => format!("exit status {code}: {shown}{hint}"),
        None => format!("{status}: {shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(limit: Duration, script: &str, input: &str) -> Result<String, String> {
        run_within(limit, Path::new("/bin/sh"), &["-c", script], input)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_is_its_own_and_the_input_arrives() {
        let input = "line\n".repeat(100_000);
        let answer = sh(LIMIT, "cat; /usr/bin/env", &input).unwrap();
        let environment = answer.strip_prefix(&input).unwrap();
        let mut lines: Vec<&str> = environment.lines().collect();
        // Lines of the shell itself.
        lines.retain(|line| {
            !["PWD=", "_=", "SHLVL=", "OLDPWD="].iter().any(|own| line.starts_with(own))
        });
        lines.sort_unstable();
        assert_eq!(lines, ["LC_ALL=C", &format!("PATH={PATH}")]);
    }

    #[test]
    fn any_status_but_0_is_an_error_whatever_was_printed() {
        for (script, text) in [
            ("echo '*filter'; exit 1", "exit status 1: it said nothing"),
            (
                "echo 'Another app is currently holding the xtables lock.' >&2; exit 4",
                "run this again",
            ),
            ("echo 'x: Permission denied (you must be root)' >&2; exit 4", "needs CAP_NET_ADMIN"),
            ("echo 'unknown option' >&2; exit 2", "older than 1.6.2"),
            ("echo 'Cannot initialize: iptables who?' >&2; exit 1", "load its module"),
            ("kill -9 $$", "signal: 9"),
        ] {
            let error = sh(LIMIT, script, "").unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    /// A kernel without nf_tables has no rules there, which any other failure leaves open.
    #[test]
    fn a_kernel_without_nf_tables_is_told_from_other_failures() {
        let cause = |said: &str| {
            let script = format!("echo '{said}' >&2; exit 1");
            let ended = run_within(LIMIT, Path::new("/bin/sh"), &["-c", &script], "");
            match ended {
                Err(KernelError::System { cause, .. }) => cause,
                other => panic!("{other:?}"),
            }
        };
        let absent = "iptables/1.8.9 Failed to initialize nft: Protocol not supported";
        assert_eq!(cause(absent), SystemCause::NoNfTables);
        assert_eq!(
            cause("iptables/1.8.9 Failed to initialize nft: Permission denied"),
            SystemCause::Other
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let begin = Instant::now();
        let error = sh(Duration::from_millis(200), "exec sleep 60", "").unwrap_err();
        assert!(error.contains("took longer"), "{error}");
        let error = sh(Duration::from_millis(200), "sleep 60 & exit 0", "").unwrap_err();
        assert!(error.contains("has no end"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn output_that_is_no_text_is_an_error() {
        assert!(sh(LIMIT, r"printf '\377'", "").unwrap_err().contains("not UTF-8"));
    }
}
