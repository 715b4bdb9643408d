//! Whether another process may change this network namespace.
//!
//! Any process may take the name of an abstract socket. So the name counts only if its holder could
//! change the namespace itself: a process with `CAP_NET_ADMIN` in this user namespace. Uid 0 is not
//! enough where `/proc` tells more: the root of a container on the host's network has uid 0 but not
//! this capability.

use std::fs;

use rustix::{net::UCred, thread::CapabilitySet};

/// Whether the process at the other end may change this network namespace, as far as can be told.
/// Where `/proc` hides the process, root and the own user may.
pub fn may_change_network(peer: &UCred) -> bool {
    let told = rights(peer.pid.as_raw_nonzero().get());
    told.unwrap_or_else(|| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// The rights of a process by `/proc`.
fn rights(pid: i32) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let theirs = fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    // Capabilities count in the user namespace of their process. The creator of a user namespace
    // has all of them in it, but can't give it this process's map of users.
    let ours = fs::read_to_string("/proc/self/uid_map").ok()?;
    Some(theirs == ours && permits(&status)?)
}

fn permits(status: &str) -> Option<bool> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    let set = CapabilitySet::from_bits_retain(u64::from_str_radix(set.trim(), 16).ok()?);
    Some(set.contains(CapabilitySet::NET_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permitted_set_counts() {
        let status = |set: &str| format!("Name:\tx\nCapInh:\tffffffffffffffff\nCapPrm:\t{set}\n");
        assert_eq!(permits(&status("0000000000001000")), Some(true));
        // The capabilities of a container's root on the network of its host.
        assert_eq!(permits(&status("00000000a80425fb")), Some(false));
        assert_eq!(permits("Name:\tx\n"), None);
    }

    /// The creator of a user namespace has all capabilities in it, and none here.
    #[test]
    fn the_root_of_another_user_namespace_has_no_rights_in_this_one() {
        use std::{
            io::Read,
            process::{Command, Stdio},
        };
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", "echo in; exec cat"]);
        let mut other =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare runs");
        other.stdout.take().unwrap().read_exact(&mut [0; 3]).expect("user namespaces are allowed");
        let pid = i32::try_from(other.id()).unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert_eq!(permits(&status), Some(true), "there it may do all");
        assert_eq!(rights(pid), Some(false));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
