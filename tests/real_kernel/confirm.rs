//! `apply --confirm-within`: somebody who has cut himself off gets back the state before.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    fixture::{A, B, Lab},
    namespace::Namespace,
    ping::Stream,
    shell::{self, Ran},
    xfrm,
};

/// Long enough that no test gets there.
pub const LONG: &str = "10m";

/// The lists of `ip xfrm` but for the numbers that packets move, in no order.
pub fn databases(host: &Namespace) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in xfrm::databases(host).lines() {
        let moves = ["anti-replay", "seq-hi", "replay_window", "lastused"];
        if moves.iter().any(|word| line.contains(word)) {
            continue;
        }
        match blocks.last_mut() {
            Some(block) if line.starts_with(char::is_whitespace) => *block += &format!("\n{line}"),
            _ => blocks.push(line.into()),
        }
    }
    blocks.sort();
    blocks
}

/// A run that waits to be confirmed.
pub struct Waiting {
    command: String,
    child: Child,
    said: String,
    /// Its text for people, and the other of its outputs.
    rest: [Box<dyn Read>; 2],
}

impl Waiting {
    pub fn start(lab: &Lab, words: &[&str]) -> Self {
        let mut command = lab.command(A, words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("meshsec can be run");
        let mut said = String::new();
        let json = words.contains(&"json");
        let stdout: Box<dyn Read> = Box::new(child.stdout.take().expect("it is piped"));
        let stderr: Box<dyn Read> = Box::new(child.stderr.take().expect("it is piped"));
        let (told, other) = if json { (stderr, stdout) } else { (stdout, stderr) };
        let mut told = BufReader::new(told);
        while !said.contains("meshsec confirm") {
            let read = told.read_line(&mut said).expect("it can be read");
            assert!(read > 0, "it has ended without asking: {said}");
        }
        // Later output fits the pipes, and is read at the end.
        Self { command: format!("{command:?}"), child, said, rest: [Box::new(told), other] }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        shell::run(Command::new("kill").args([&format!("-{name}"), &pid])).exits(0);
    }

    /// All that it said, and how it ended.
    pub fn end(mut self) -> Ran {
        let [told, other] = self.rest.each_mut().map(|output| {
            let mut text = String::new();
            output.read_to_string(&mut text).expect("it is text");
            text
        });
        let status = self.child.wait().expect("it is a child");
        let status = status.code().or(status.signal().map(|signal| 128 + signal));
        Ran {
            command: self.command,
            status: status.expect("it has ended"),
            stdout: other,
            stderr: self.said + &told,
        }
    }
}

fn apply(lab: &Lab, time: &str) -> Waiting {
    Waiting::start(lab, &["apply", "--auto-approve", "--confirm-within", time])
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_is_confirmed_stays() {
    let lab = Lab::new(2);
    lab.meshsec(A, &["confirm"]).exits(1).says("nothing waits to be confirmed");
    let waiting = apply(&lab, LONG);
    lab.meshsec(B, &["confirm"]).exits(1).says("in this network namespace");
    let hurried = ["apply", "--auto-approve", "--lock-timeout", "0s"];
    lab.meshsec(A, &hurried).exits(1).says("cannot lock");
    lab.meshsec(A, &["confirm"]).exits(0).says("mesh lab stays as it is now");
    waiting.end().exits(0).says("Confirmed.");
    lab.has_converged(A);
    lab.apply(B);
    lab.reaches(A, B);

    lab.write(A, &lab.mesh.of_generation(2));
    let words = ["apply", "--auto-approve", "--confirm-within", LONG, "--format", "json"];
    let waiting = Waiting::start(&lab, &words);
    let confirmed = lab.meshsec(A, &["confirm", "--format", "json"]).exits(0).json();
    let wanted = serde_json::json!({
        "format_version": "2.0", "mesh": "lab", "confirmed": true
    });
    assert_eq!(confirmed, wanted);
    let report = waiting.end().exits(0).json();
    assert_eq!(report["confirmation"]["verdict"], "confirmed");
    // Nothing to do is nothing to confirm.
    lab.meshsec(A, &["apply", "--auto-approve", "--confirm-within", "1s"]).exits(0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_is_not_confirmed_is_reverted_in_time_and_costs_no_packet() {
    let lab = Lab::new(2);
    lab.apply_all();
    let (before, capture) = (databases(lab.host(A)), lab.capture());
    let stream = Stream::start(&lab, A, B);
    lab.write(A, &lab.mesh.of_generation(2));
    let begin = Instant::now();
    let ran = lab.meshsec(A, &["apply", "--auto-approve", "--confirm-within", "3s"]).exits(1);
    assert!(begin.elapsed() >= Duration::from_secs(3));
    ran.says("Apply complete").says("Not confirmed in time").says("Reverted");
    assert_eq!(databases(lab.host(A)), before);
    stream.wait_for_more(5);
    stream.lost_nothing();
    capture.stop().has_only_esp(10);
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(2);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn other_keys_a_new_peer_and_a_destroy_are_reverted_too() {
    let lab = Lab::new(3);
    lab.write(A, &lab.mesh.of_peers(&[A, B]));
    lab.apply(A);
    lab.apply(B);
    let (before, capture) = (databases(lab.host(A)), lab.capture());
    // A new peer, and another secret: the old keys are nowhere but in the kernel.
    lab.write(A, &lab.mesh);
    crate::fixture::write_secret(&lab.file(A).with_file_name("mesh.key"), &"17".repeat(32));
    let waiting = apply(&lab, LONG);
    assert_ne!(databases(lab.host(A)), before);
    waiting.signal("TSTP"); // which would stop it, so that nothing would be reverted
    waiting.signal("TERM");
    waiting.end().exits(1).says("Told to end (SIGTERM)").says("Reverted");
    assert_eq!(databases(lab.host(A)), before);
    lab.reaches(A, B);

    let words = ["destroy", "--auto-approve", "--confirm-within", LONG];
    let waiting = Waiting::start(&lab, &words);
    assert_eq!(databases(lab.host(A)), [""; 0]);
    waiting.signal("INT");
    waiting.end().exits(1).says("Interrupted");
    assert_eq!(databases(lab.host(A)), before);
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn nobody_else_can_confirm_and_a_killed_wait_leaves_what_was_applied() {
    let lab = Lab::new(2);
    let waiting = apply(&lab, LONG);
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let inside = ["ip", "netns", "exec", &lab.host(A).0];
    let confirm = [env!("CARGO_BIN_EXE_meshsec"), "confirm"];
    let mut command = Command::new(inside[0]);
    command.args(&inside[1..]).arg(other.get_program()).args(other.get_args()).args(confirm);
    shell::run(&mut command).exits(1).says("only root");
    waiting.signal("KILL");
    assert_eq!(waiting.end().status, 137);
    lab.has_converged(A);
    lab.meshsec(A, &["confirm"]).exits(1).says("nothing waits");
}

/// Runs meshsec on a terminal of its own, and does something to that terminal
/// once the first step is reported: it is gone, or it takes no more output.
const ON_TERMINAL: &str = "
import os, pty, sys
what, words = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(words[0], words)
said = b''
while b' add_guard ' not in said:
    said += os.read(terminal, 4096)
if what == 'gone':
    os.close(terminal)
else:
    os.write(terminal, b'\\x13')
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(status if status >= 0 else 128 - status)
";

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn it_is_reverted_when_the_terminal_is_gone_or_stuck() {
    let lab = Lab::new(2);
    let on_terminal = |what: &str, time: &str| {
        let words = ["apply", "--auto-approve", "--confirm-within", time];
        let meshsec = lab.command(A, &words);
        let mut command = Command::new("python3");
        command.args(["-c", ON_TERMINAL, what]).arg(meshsec.get_program()).args(meshsec.get_args());
        shell::run(&mut command)
    };
    on_terminal("gone", LONG).exits(1);
    assert_eq!(databases(lab.host(A)), [""; 0], "the terminal was gone");
    on_terminal("stuck", "3s").exits(1);
    assert_eq!(databases(lab.host(A)), [""; 0], "the terminal was stuck");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_could_not_be_brought_back_is_refused_before_anything_changes() {
    let lab = Lab::new(2);
    lab.apply(A);
    let host = lab.host(A);
    let reqid = xfrm::sas(host).values().next().expect("it has SAs").reqid;
    host.ip(&format!(
        "xfrm state add src 192.0.2.9 dst 192.0.2.1 proto esp spi 0x1234 reqid {reqid} mode \
         transport {} output-mark 7",
        xfrm::AEAD
    ));
    let before = databases(host);
    let words = ["apply", "--auto-approve", "--confirm-within", LONG];
    lab.meshsec(A, &words)
        .exits(1)
        .says("0x00001234: it has output-mark 0x7")
        .says("nothing was changed");
    assert_eq!(databases(host), before);
    lab.apply(A);
    lab.has_converged(A);
}
