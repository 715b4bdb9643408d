//! Tests that need a network namespace of their own, and to be root in it.

use std::process::Command;

/// Set where a test runs in a namespace of its own.
const INSIDE: &str = "MESHSEC_TEST_INSIDE";

/// Whether this is the inside: true there, and on the outside false once the test
/// named `test` has passed inside. So that test begins by `if !inside("…") { return }`.
///
/// An ordinary user becomes root in a user namespace. Where neither is allowed
/// the test fails and says so: it can't run there.
#[track_caller]
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--mount", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = command.output().expect("unshare is needed (apt-get install util-linux)");
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "in a network namespace of its own, which this test needs: {}\n{said}",
        output.status
    );
    false
}

/// `ip` with these words.
#[track_caller]
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output();
    let output = output.expect("ip is needed (apt-get install iproute2)");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}
