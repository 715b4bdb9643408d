//! `--confirm-within` on this machine's kernel, which need not have ESP: guards alone go and come
//! back.

use std::{
    io::{self, BufRead, BufReader, PipeReader, Read},
    process::{Child, Command, Output, Stdio},
};

use crate::common::namespace::{inside, ip};

/// The reqid of a mesh with the name lab.
const LAB: &str = "0x4d53a511";

const MESHSEC: &str = env!("CARGO_BIN_EXE_meshsec");

fn set_up_guards() {
    ip("link set lo up");
    for direction in ["in", "out"] {
        ip(&format!(
            "xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 4789 dir {direction} \
             action block priority {LAB}"
        ));
    }
}

/// The lines of `ip xfrm policy`, in no order.
fn policies() -> Vec<String> {
    let output = Command::new("ip").args(["xfrm", "policy"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    lines.sort();
    lines
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// A destroy that waits to be confirmed.
struct Waiting {
    child: Child,
    says: BufReader<PipeReader>,
    said: String,
}

impl Waiting {
    fn start(time: &str) -> Self {
        let (reader, writer) = io::pipe().unwrap();
        let (mut says, mut said) = (BufReader::new(reader), String::new());
        let child = Command::new(MESHSEC)
            .args(["destroy", "--mesh", "lab", "--auto-approve", "--confirm-within", time])
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        while !said.contains("meshsec confirm") {
            assert!(says.read_line(&mut said).unwrap() > 0, "it has ended: {said}");
        }
        Self { child, says, said }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(status.success(), "SIG{name}");
    }

    /// Its exit status, none after a signal that has ended it, and all that it said.
    fn end(mut self) -> (Option<i32>, String) {
        self.says.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap().code(), self.said)
    }
}

/// Root has to hold the right to change the network, which root in a container may not.
#[test]
fn only_a_process_that_may_change_the_network_confirms_and_other_runs_wait() {
    if !inside("confirm::only_a_process_that_may_change_the_network_confirms_and_other_runs_wait") {
        return;
    }
    set_up_guards();
    let waiting = Waiting::start("20s");
    let mut other = Command::new("setpriv");
    other.args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]);
    let (status, said) = run(other.args([MESHSEC, "confirm"]));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("only root, or the user who runs apply, may confirm it"), "{said}");
    let hurried = ["destroy", "--mesh", "lab", "--auto-approve", "--lock-timeout=0s"];
    let (status, said) = run(Command::new(MESHSEC).args(hurried));
    assert_eq!(status, Some(1), "{said}");
    let holder = format!("held by process {}", waiting.child.id());
    assert!(said.contains(&holder), "{said}");
    let (status, said) = run(Command::new(MESHSEC).arg("confirm"));
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = waiting.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("Confirmed."), "{said}");
    assert_eq!(policies(), [""; 0]);
}

/// A process that a signal has ended would bring nothing back.
#[test]
fn a_wait_ends_by_time_or_by_any_signal_that_asks_for_it_and_all_comes_back() {
    if !inside("confirm::a_wait_ends_by_time_or_by_any_signal_that_asks_for_it_and_all_comes_back")
    {
        return;
    }
    set_up_guards();
    let before = policies();
    for (time, signal, why) in [
        ("1s", None, "Not confirmed in time"),
        ("20s", Some("HUP"), "The terminal is gone (SIGHUP)"),
        ("20s", Some("INT"), "Interrupted"),
        ("20s", Some("QUIT"), "Interrupted"),
        ("20s", Some("TERM"), "Told to end (SIGTERM)"),
    ] {
        let waiting = Waiting::start(time);
        assert_eq!(policies(), [""; 0]);
        if let Some(signal) = signal {
            waiting.signal(signal);
        }
        let (status, said) = waiting.end();
        assert_eq!(status, Some(1), "{why}: {said}");
        assert!(said.contains(why) && said.contains("Reverted: 2 steps."), "{why}: {said}");
        assert_eq!(policies(), before, "{why}");
    }
}

/// Scripts go by the exit status: 1 says that all is as before.
#[test]
fn a_revert_that_brings_back_a_part_says_so_by_its_status_and_names_the_rest() {
    if !inside("confirm::a_revert_that_brings_back_a_part_says_so_by_its_status_and_names_the_rest")
    {
        return;
    }
    set_up_guards();
    let waiting = Waiting::start("20s");
    ip("xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 4789 dir in priority 7");
    waiting.signal("TERM");
    let (status, said) = waiting.end();
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("Not reverted as a whole: 1 steps done"), "{said}");
    assert!(said.contains("dport 4789 dir in is missing"), "{said}");
}
