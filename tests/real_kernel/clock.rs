//! Generations by a clock that jumps. These tests set it, so that they run in guests only.

use std::{fs, process::Command};

use crate::{
    fixture::{A, B, Lab},
    shell, xfrm,
};

fn now() -> u64 {
    let text = shell::run(Command::new("date").arg("+%s")).exits(0).stdout;
    text.trim().parse().expect("seconds")
}

/// The clock, set right again at the end.
pub struct Clock {
    ahead: i64,
}

impl Clock {
    /// By a relative date, since one program reads the clock and sets it to the nanosecond: a test
    /// that jumps to and fro must not lose seconds, by which sequence numbers would go back.
    fn set_on(seconds: i64) {
        shell::run(Command::new("date").args(["-u", "-s", &format!("{seconds} seconds")])).exits(0);
    }

    pub fn jump(&mut self, seconds: i64) {
        Self::set_on(seconds);
        self.ahead += seconds;
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        Self::set_on(-self.ahead);
    }
}

pub const PERIOD: u64 = 600;

pub fn lab() -> Lab {
    let mut lab = Lab::new(2);
    lab.mesh.period = Some("10m");
    lab.write_all(&lab.mesh);
    lab
}

/// Goes back to the year 2000, as a host does whose battery is empty.
pub fn clock_before_the_release() -> Clock {
    let mut clock = Clock { ahead: 0 };
    clock.jump(946_684_800 - now() as i64);
    clock
}

/// Goes to where a generation has just begun, so that none ends while a test runs.
pub fn clock_at_the_beginning() -> Clock {
    let mut clock = Clock { ahead: 0 };
    clock.jump((PERIOD - now() % PERIOD) as i64);
    clock
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_clock_that_jumps_heals_at_the_next_apply_and_nothing_leaks() {
    let mut clock = clock_at_the_beginning();
    let lab = lab();
    lab.apply_all();
    lab.reaches(A, B);
    let capture = lab.capture();
    // By the next generation, host by host: lossless.
    clock.jump(PERIOD as i64);
    lab.apply(A);
    lab.reaches(A, B);
    lab.apply(B);
    lab.reaches(A, B);
    for jump in [5, -3, 32, -32] {
        clock.jump(jump * PERIOD as i64);
        lab.apply(A);
        lab.has_converged(A);
        lab.apply(B);
        lab.has_converged(B);
        lab.reaches(A, B);
    }
    capture.stop().has_only_esp(30);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_whose_clock_was_ahead_is_not_refused_when_that_generation_comes() {
    let mut clock = clock_at_the_beginning();
    let lab = lab();
    lab.apply_all();
    lab.reaches(A, B);
    // Late in the generation to come, by a clock that is wrong.
    let wrong = PERIOD as i64 * 3 / 2;
    clock.jump(wrong);
    lab.apply(A);
    lab.reaches(A, B);
    clock.jump(-wrong);
    lab.apply_all();
    lab.reaches(A, B);
    // That generation comes, and it is early in it.
    clock.jump(PERIOD as i64);
    lab.apply_all();
    assert_eq!(crate::ping::answers(lab.host(A), &crate::fixture::inner(B), 20), 20);
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_on_which_nothing_applies_falls_silent() {
    let mut clock = clock_at_the_beginning();
    let lab = lab();
    lab.apply_all();
    lab.reaches(A, B);
    let capture = lab.capture();
    let from_a = |sa: &xfrm::Sa| sa.word_after("src") == lab.address(A);
    let out = xfrm::sas(lab.host(A)).into_values().find(from_a).expect("host a sends");
    clock.jump(2 * PERIOD as i64);
    // The kernel looks at the clock when an SA is due by its own counting, or a
    // second after an update, which here changes nothing. It may have looked since
    // the jump: then the SA has expired, and there is nothing left to update.
    let _ = lab.host(A).try_ip(&format!(
        "xfrm state update {} limit time-hard {}",
        xfrm::as_words(&out),
        xfrm::hard_lifetime(&out)
    ));
    let is_gone = || {
        let sent = xfrm::sas(lab.host(A)).into_values().filter(from_a).count();
        (sent == 0).then_some(())
    };
    crate::wait::wait_for("the outbound SA to expire", is_gone);
    lab.does_not_reach(A, B);
    lab.apply_all();
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
}

/// Sets the kernel's note that its clock is synchronised (`STA_UNSYNC` of adjtimex), as an NTP
/// client does.
fn synchronised(is: bool) {
    const SET: &str = "
import ctypes, sys
class Timex(ctypes.Structure):
    _fields_ = [('modes', ctypes.c_uint), ('offset', ctypes.c_long), ('freq', ctypes.c_long),
                ('maxerror', ctypes.c_long), ('esterror', ctypes.c_long), ('status', ctypes.c_int),
                ('rest', ctypes.c_byte * 256)]
t = Timex(modes=0x1c, status=int(sys.argv[1])) # ADJ_MAXERROR, ADJ_ESTERROR and ADJ_STATUS
assert ctypes.CDLL(None).adjtimex(ctypes.byref(t)) >= 0";
    let status = if is { "0" } else { "64" };
    shell::run(Command::new("python3").args(["-c", SET, status])).exits(0);
}

/// By a clock that may be wrong no old key is destroyed for good.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_the_kernel_says_of_its_clock_decides_about_warnings_and_ratchets() {
    let _clock = clock_at_the_beginning();
    let lab = lab();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let [mesh, ratchet] = ["mesh.toml", "ratchet"].map(|name| directory.path().join(name));
    let text = lab.mesh.text();
    let keys = text.lines().find(|line| line.starts_with("mesh_key")).expect("it has a key");
    fs::write(&mesh, text.replace(keys, "ratchet = { file = \"ratchet\" }")).expect("written");
    let key = directory.path().join("mesh.key");
    fs::write(&key, "5f".repeat(32)).expect("written");
    for (is, warns) in [(false, true), (true, false), (false, true)] {
        synchronised(is);
        let plan = lab.meshsec(A, &["plan"]).exits(0);
        let warned = plan.stdout.contains("its clock is not synchronised");
        assert_eq!(warned, warns, "{plan}");
        let _ = fs::remove_file(&ratchet);
        let init = "exec \"$0\" -c \"$1\" ratchet init <\"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", init, env!("CARGO_BIN_EXE_meshsec")]).args([&mesh, &key]);
        let made = shell::run(&mut command).exits(0).stdout;
        // At the beginning of the chain: from there all keys can be made.
        assert_eq!(made.contains("is made, at generation 0."), !is, "{made}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_clock_before_the_release_is_refused() {
    let lab = lab();
    lab.apply(A);
    let before = xfrm::databases(lab.host(A));
    let _clock = clock_before_the_release();
    for words in [&["plan"][..], &["apply", "--auto-approve"]] {
        let errors = lab.meshsec(A, words).exits(1).stderr;
        assert!(errors.contains("before this program's release"), "{errors}");
    }
    assert_eq!(xfrm::databases(lab.host(A)), before, "nothing was changed");
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
}
