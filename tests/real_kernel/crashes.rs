//! An apply that is killed leaves nothing that leaks, and the next one goes on from there.
//!
//! It is killed right before each of its requests to change something, which
//! makes every state that a crash can leave, and at moments spread over its run.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    capture::CLEAR,
    fixture::{A, B, Lab},
    inject,
    ping::Stream,
    shell, xfrm,
};

pub const KILL_AT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_kernel/kill_at.py");

/// Kills by the clock, besides those by request.
const BY_CLOCK: u32 = 3;

/// When an apply is killed.
enum Kill {
    /// Right before its change of this number, beginning with 1.
    AtChange(u32),
    /// After a time.
    After(Duration),
}

impl Kill {
    /// Runs an apply on host a and kills it; false if it was done before.
    fn an_apply(&self, lab: &Lab) -> bool {
        match self {
            Self::AtChange(number) => {
                let mut command = Command::new("python3");
                command.args([KILL_AT, &number.to_string(), env!("CARGO_BIN_EXE_meshsec")]);
                command.args(["--netns", &lab.host(A).0, "apply", "--auto-approve"]);
                command.arg("-c").arg(lab.file(A));
                let ran = shell::run(&mut command);
                assert!(ran.stderr.is_empty(), "apply or its killer failed: {ran}");
                ran.status == 0
            }
            Self::After(time) => {
                let mut command = lab.command(A, &["apply", "--auto-approve"]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut child = command.spawn().expect("meshsec can be run");
                thread::sleep(*time);
                let done = matches!(child.try_wait(), Ok(Some(_)));
                let _ = child.kill();
                let _ = child.wait();
                !done
            }
        }
    }
}

/// Calls `once` with all the moments to kill at, until it says that nothing was left to be killed.
/// Returns how many kills were right before a change.
///
/// `once` says too how long a whole apply takes, for the kills by the clock.
fn everywhere(mut once: impl FnMut(&Kill) -> (bool, Duration)) -> u32 {
    let mut kills = 0;
    let mut whole = Duration::ZERO;
    loop {
        let (killed, duration) = once(&Kill::AtChange(kills + 1));
        whole = whole.max(duration);
        if !killed {
            break;
        }
        kills += 1;
    }
    for part in 0..BY_CLOCK {
        once(&Kill::After(whole * part / BY_CLOCK));
    }
    kills
}

/// Lets an apply on host a finish what a killed one began, and times it.
fn finish(lab: &Lab) -> Duration {
    let begin = Instant::now();
    lab.apply(A);
    begin.elapsed()
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_on_a_bare_host_lets_nothing_out_once_the_guard_is_there() {
    let lab = Lab::new(2);
    let capture = lab.capture();
    let mut guarded = 0;
    let kills = everywhere(|kill| {
        lab.host(A).ip_batch("xfrm policy flush\nxfrm state flush\n");
        let killed = kill.an_apply(&lab);
        // Without a guard nothing has begun, and clear text flows as before: it is not sent here.
        if xfrm::has_guard(lab.host(A)) {
            guarded += 1;
            inject::try_send(&lab, lab.host(A), &lab.address(A), B);
        }
        (killed, finish(&lab))
    });
    lab.has_converged(A);
    lab.apply(B);
    lab.reaches(A, B);
    let recording = capture.stop();
    recording.has_none(CLEAR);
    // The probe and its end, guards, inbound SAs, outbound SAs, policies.
    assert!(kills >= 6, "{kills} kills at requests, wanted 6");
    assert!(guarded >= 3, "{guarded} applies put up a guard before they were killed");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_adds_or_removes_a_peer_lets_nothing_out() {
    let lab = Lab::new(2);
    let (alone, both) = (lab.mesh.of_peers(&[A]), lab.mesh.clone());
    lab.apply(B);
    lab.write(A, &alone);
    lab.apply(A);
    let capture = lab.capture();
    let stream = Stream::start_unanswered(&lab, A, B);
    let kills = everywhere(|kill| {
        lab.write(A, &both);
        let added = !kill.an_apply(&lab);
        finish(&lab);
        lab.write(A, &alone);
        let removed = !kill.an_apply(&lab);
        (!added || !removed, finish(&lab))
    });
    // Inbound SAs, outbound SA, policies.
    assert!(kills >= 3, "{kills} kills at requests, wanted 3");
    lab.write(A, &both);
    lab.apply(A);
    lab.has_converged(A);
    stream.wait_for_more(5);
    drop(stream);
    capture.stop().has_only_esp(10);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_changes_the_generation_lets_nothing_out_and_loses_nothing() {
    let lab = Lab::new(2);
    lab.apply_all();
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    let mut generation = lab.mesh.generation;
    let kills = everywhere(|kill| {
        generation += 1;
        lab.write_all(&lab.mesh.of_generation(generation));
        let killed = kill.an_apply(&lab);
        stream.wait_for_more(3);
        let duration = finish(&lab);
        lab.apply(B);
        (killed, duration)
    });
    lab.has_converged(A);
    // Every step leaves the SAs that are in use, so even a killed apply costs no packet.
    stream.lost_nothing();
    capture.stop().has_only_esp(50);
    // Inbound SA, outbound SA, policy, and what goes.
    assert!(kills >= 4, "{kills} kills at requests, wanted 4");
}
