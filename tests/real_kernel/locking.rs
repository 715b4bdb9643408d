//! One run at a time in a network namespace, whichever way it was entered.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    fixture::{A, B, Lab},
    shell::{self, Ran},
    wait::wait_for,
    xfrm,
};

/// meshsec through `ip netns exec`; all the other tests use `--netns`.
fn from_inside(lab: &Lab, place: usize, words: &[&str]) -> Ran {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.host(place).0, env!("CARGO_BIN_EXE_meshsec")]);
    command.arg("-c").arg(lab.file(place)).args(words);
    shell::run(&mut command)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn netns_does_from_outside_what_ip_netns_exec_does() {
    let lab = Lab::new(2);
    let plan = from_inside(&lab, A, &["plan", "--format", "json"]).exits(0);
    assert_eq!(plan.json(), lab.plan(A));
    from_inside(&lab, A, &["apply", "--auto-approve"]).exits(0);
    lab.has_converged(A);
    lab.apply(B);
    from_inside(&lab, B, &["plan", "--detailed-exitcode"]).exits(0);
    lab.reaches(A, B);
    let snapshot = |ran: Ran| {
        let mut json = ran.exits(0).json();
        json.as_object_mut().expect("an object").remove("taken");
        json
    };
    let inside = from_inside(&lab, A, &["snapshot"]);
    assert_eq!(snapshot(inside), snapshot(lab.meshsec(A, &["snapshot"])));
    from_inside(&lab, A, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), "");
}

/// An apply on a terminal, which waits to be answered with the lock in its hands.
struct Asking {
    child: Child,
    stdin: ChildStdin,
    said: Arc<Mutex<String>>,
}

impl Asking {
    fn start(lab: &Lab, place: usize) -> Self {
        let command = lab.command(place, &["apply"]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
        // `script` gives it a terminal, without which it would not ask.
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().expect("script can be run, and the test needs it");
        let mut stdout = child.stdout.take().expect("it is piped");
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                heard.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        let stdin = child.stdin.take().expect("it is piped");
        let asking = Self { child, stdin, said };
        wait_for("apply to ask", || asking.said().contains("type yes:").then_some(()));
        asking
    }

    fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Answers, and returns the exit status.
    fn answer(&mut self, word: &str) -> Option<i32> {
        writeln!(self.stdin, "{word}").expect("it reads");
        let status = wait_for("apply to end", || self.child.try_wait().expect("it is a child"));
        status.code()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_run_that_asks_keeps_others_waiting_in_its_own_namespace_only() {
    let lab = Lab::new(2);
    let mut asking = Asking::start(&lab, A);

    let impatient = ["apply", "--auto-approve", "--lock-timeout", "300ms"];
    lab.meshsec(A, &impatient).exits(1).says("cannot lock this network namespace");
    from_inside(&lab, A, &impatient).exits(1).says("--lock-timeout");
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(2);
    lab.meshsec(B, &impatient).exits(0).says("Apply complete");
    assert_eq!(xfrm::databases(lab.host(A)), "", "somebody applied while it asked");

    let mut patient = lab.command(A, &["apply", "--auto-approve"]);
    patient.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = patient.spawn().expect("meshsec can be run");
    assert_eq!(asking.answer("yes"), Some(0), "{}", asking.said());
    assert!(asking.said().contains("Apply complete"), "{}", asking.said());
    let output = waiting.wait_with_output().expect("it is a child");
    Ran::of(&patient, output).exits(0).says("No changes.");
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn whoever_does_not_say_yes_changes_nothing() {
    let lab = Lab::new(2);
    let mut asking = Asking::start(&lab, A);
    assert_eq!(asking.answer("y"), Some(1), "{}", asking.said());
    assert_eq!(xfrm::databases(lab.host(A)), "");
    lab.meshsec(A, &["apply"]).exits(1).says("--auto-approve");
    assert_eq!(xfrm::databases(lab.host(A)), "");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_several_runs_at_once_one_does_it_and_the_others_find_it_done() {
    let lab = Lab::new(2);
    let runs: Vec<Ran> = thread::scope(|scope| {
        let start = || scope.spawn(|| lab.meshsec(A, &["apply", "--auto-approve"]));
        let runs: Vec<_> = (0..4).map(|_| start()).collect();
        runs.into_iter().map(|run| run.join().expect("a run does not panic")).collect()
    });
    let done = runs.into_iter().map(|run| run.exits(0).says("The kernel matches mesh.toml."));
    let working = done.filter(|run| run.stdout.contains("Apply complete")).count();
    assert_eq!(working, 1, "runs that did something");
    lab.has_converged(A);
}
