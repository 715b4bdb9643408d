//! Runs of meshsec on host a that end by `kill -9`.
//!
//! All that a run does to the kernel it does by requests and by programs of iptables. One request
//! may hold several messages; the kernel answers all of them before it takes a signal. So the
//! moments right before each request and around each program make every state that a crash can
//! leave.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    fixture::{A, Lab},
    iptables::Backend,
    random::how_often,
    shell,
};

/// A program that runs another one at the n-th request to change something, where `INSTEAD` is in
/// the environment.
pub const KILL_AT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_kernel/kill_at.py");

/// The exit status of a program killed by `SIGKILL`, as a shell has it.
const KILLED: i32 = 128 + 9;

/// Types of requests that change something: `XFRM_MSG_NEWSA`, `DELSA`, `NEWPOLICY`, `DELPOLICY`,
/// `UPDPOLICY` and `UPDSA`. `RTM_NEWLINK` and `RTM_SETLINK` are among these numbers too.
const CHANGES: [&str; 6] = ["0x10", "0x11", "0x13", "0x14", "0x19", "0x1a"];

/// Types of rtnetlink's requests that change something, but for those that have a number above.
const OTHER_CHANGES: [&str; 7] = [
    "RTM_NEWLINK",
    "RTM_SETLINK",
    "RTM_DELLINK",
    "RTM_NEWADDR",
    "RTM_DELADDR",
    "RTM_NEWROUTE",
    "RTM_DELROUTE",
];

/// meshsec under strace.
fn traced(lab: &Lab, options: &[&str], words: &[&str]) -> Command {
    let meshsec = lab.command(A, words);
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "trace=sendto"]).args(options);
    strace.arg(meshsec.get_program()).args(meshsec.get_args());
    strace
}

/// Runs meshsec to its end. Returns the numbers of those of its requests that change something,
/// and of the one after them.
#[track_caller]
pub fn requests(lab: &Lab, words: &[&str]) -> Vec<usize> {
    let record = lab.directory().join("requests");
    shell::run(&mut traced(lab, &["-o", &record.to_string_lossy()], words)).exits(0);
    let text = fs::read_to_string(&record).expect("strace has written it");
    let changes = |line: &str| {
        let kind = line.split_once("nlmsg_type=").map_or("", |(_, rest)| rest);
        let kind = kind.split(|end: char| !end.is_alphanumeric() && end != '_').next();
        let kind = kind.unwrap_or_default();
        CHANGES.contains(&kind) || OTHER_CHANGES.contains(&kind)
    };
    let lines = text.lines().filter(|line| line.starts_with("sendto("));
    let mut found: Vec<usize> =
        lines.zip(1..).filter(|(line, _)| changes(line)).map(|(_, number)| number).collect();
    found.extend(found.last().map(|last| last + 1));
    found
}

/// Runs meshsec and kills it as it is about to send the request of this number.
#[track_caller]
pub fn at_request(lab: &Lab, words: &[&str], number: usize) {
    let kill = format!("inject=sendto:signal=KILL:when={number}");
    let ran = shell::run(&mut traced(lab, &["-o", "/dev/null", "-e", &kill], words));
    assert!(ran.status == KILLED, "not killed at request {number}: {ran}");
}

/// Runs meshsec and kills it after a time; false if it was done before.
pub fn after(lab: &Lab, words: &[&str], time: Duration) -> bool {
    let mut command = lab.command(A, words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("meshsec can be run");
    thread::sleep(time);
    let done = matches!(child.try_wait(), Ok(Some(_)));
    let _ = child.kill();
    let _ = child.wait();
    !done
}

/// Whether a run is killed at the point of this number on this kernel.
///
/// The kernels of the suite take turns: those with an even minor number, such as 6.12, are killed at
/// every even point, the others at every odd one. With `MESHSEC_KILLS`, each is killed at all points.
pub fn is_point(number: usize) -> bool {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel has a release");
    let minor = release.split(['.', '-']).nth(1).and_then(|minor| minor.parse::<usize>().ok());
    let minor = minor.expect("a release begins with two numbers");
    how_often("MESHSEC_KILLS", 0) > 0 || number % 2 == minor % 2
}

/// The backends of iptables with which runs are killed on this kernel: the kernels take turns.
pub fn backends() -> Vec<Backend> {
    match (how_often("MESHSEC_KILLS", 0) > 0, is_point(0)) {
        (true, _) => Backend::BOTH.into(),
        (false, true) => vec![Backend::Nft],
        (false, false) => vec![Backend::Legacy],
    }
}

/// How long something takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// The fate of an `iptables-restore` after its meshsec is killed.
#[derive(Debug, Clone, Copy)]
pub enum Restore {
    /// It was never started, or went with it.
    Undone,
    /// Its input from meshsec has been cut off before the `COMMIT`.
    CutOff,
    /// It goes on to its end.
    Done,
}

/// Programs in place of `iptables-restore` and `ip6tables-restore`, which kill the meshsec that
/// runs them when told to.
pub struct Restores {
    directory: PathBuf,
    hidden: Vec<(PathBuf, &'static str)>,
}

impl Restores {
    pub fn new(lab: &Lab, backend: Backend) -> Self {
        let directory = lab.directory().join(format!("killing-{}", backend.suffix()));
        fs::create_dir(&directory).expect("a directory can be made");
        for program in ["iptables", "ip6tables"] {
            let real = format!("/usr/sbin/{program}-{}", backend.suffix());
            std::os::unix::fs::symlink(&real, directory.join(program)).expect("a link");
            let path = directory.join(format!("{program}-{}-restore", backend.suffix()));
            let script = format!(
                "#!/bin/sh\n\
                 input=$(cat)\n\
                 real() {{ {real}-restore \"$@\"; }}\n\
                 cd {directory}\n\
                 read -r n <count; n=$((n + 1)); echo $n >count\n\
                 read -r at how <when\n\
                 if [ $n -ne $at ]; then printf '%s\\n' \"$input\" | real \"$@\"; exit; fi\n\
                 kill -9 $PPID\n\
                 case $how in\n\
                 CutOff) printf '%s\\n' \"${{input%COMMIT*}}\" | real \"$@\" 2>/dev/null;;\n\
                 Done) printf '%s\\n' \"$input\" | real \"$@\";;\n\
                 esac\n\
                 echo $how >ended\n",
                directory = directory.display()
            );
            fs::write(&path, script).expect("a script can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
        }
        let hidden = vec![(directory.clone(), "/usr/local/sbin")];
        Self { directory, hidden }
    }

    /// Runs meshsec with these programs, of which the one of this number kills it; `at` of 0 is
    /// none. Returns how many were run, and whether it was killed.
    #[track_caller]
    pub fn run(&self, lab: &mut Lab, words: &[&str], at: u32, how: Restore) -> (u32, bool) {
        let write = |name: &str, text: String| {
            fs::write(self.directory.join(name), text).expect("it can be written");
        };
        write("count", "0\n".into());
        write("when", format!("{at} {how:?}\n"));
        let _ = fs::remove_file(self.directory.join("ended"));
        let hidden = std::mem::replace(&mut lab.hidden, self.hidden.clone());
        let ran = lab.meshsec(A, words);
        lab.hidden = hidden;
        let killed = ran.status == KILLED;
        assert!(killed || ran.status == 0, "{ran}");
        if killed {
            // The program is nobody's child now, and its effects must not meet the next run.
            crate::wait::wait_for("an iptables-restore to end", || {
                self.directory.join("ended").exists().then_some(())
            });
        }
        let count = fs::read_to_string(self.directory.join("count")).expect("it was written");
        (count.trim().parse().expect("a number"), killed)
    }
}
