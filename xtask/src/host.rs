//! This machine itself: becoming root, and whether its kernel has ESP.

use std::path::Path;
use std::process::Command;

use crate::{process, script};

/// A key of 36 bytes, for AES-256-GCM with its salt, that protects nothing.
const PROBE_KEY: &str =
    "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223";

/// A command that runs `program` as root: with sudo, unless this process is root.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Whether an SA with AES-GCM can be added in a network namespace. Only an attempt tells: the
/// version and configuration of a kernel don't.
pub fn has_esp() -> bool {
    let add = format!(
        "exec ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 reqid 1 \
         mode transport aead 'rfc4106(gcm(aes))' {PROBE_KEY} 128"
    );
    let words = ["unshare", "-n", "sh", "-c", &add].map(String::from);
    process::succeeds(&mut root_script(Path::new("/"), &words))
}

/// A command that runs `words` in `directory` as root, in the environment of a guest.
pub fn root_script(directory: &Path, words: &[String]) -> Command {
    let mut command = as_root("sh");
    command.arg("-c").arg(script::run_in(directory, words, &[]));
    command
}

fn is_root() -> bool {
    // The owner of this process's /proc entry is the effective user. No libc call is needed.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}
