//! Sysctls that plans depend on, and the counters of errors.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use crate::{
    kernel::{KernelError, SystemCause},
    model::{Bypass, Link},
};

/// The text of a file of `/proc`; `None` where the kernel has no such file.
///
/// # Errors
///
/// [`KernelError::System`] if it exists and can't be read.
pub(super) fn read_if_any(path: &Path) -> Result<Option<String>, KernelError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::System {
            cause: SystemCause::Other,
            doing: format!("cannot read {}", path.display()),
            reason: error.to_string(),
        }),
    }
}

/// Errors in this network namespace since it began: the counters of `/proc/net/xfrm_stat` that are
/// not 0. `None` where there is no such file, which doesn't mean that there were no errors.
///
/// # Errors
///
/// [`KernelError::System`] if they exist and can't be read.
pub fn counters() -> Result<Option<BTreeMap<String, u64>>, KernelError> {
    let Some(text) = read_if_any(Path::new("/proc/thread-self/net/xfrm_stat"))? else {
        return Ok(None);
    };
    let counter = |line: &str| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    Ok(Some(text.lines().filter_map(counter).filter(|(_, number)| *number != 0).collect()))
}

/// Whether the kernel sends NAT keepalives (`XFRMA_NAT_KEEPALIVE_INTERVAL`, Linux 6.11); `None` where
/// it does not tell.
///
/// A kernel that does not know the attribute takes it without a word. The counters of SAs used in the
/// wrong direction came one version before, with the attribute that keepalives need. An SA that is
/// read back without its keepalive tells the two versions apart.
pub(super) fn keepalives() -> Option<bool> {
    let text = read_if_any(Path::new("/proc/thread-self/net/xfrm_stat")).ok()??;
    Some(text.lines().any(|line| line.starts_with("XfrmOutStateDirError")))
}

/// The sysctls that are set and let packets bypass policies, of `all` and of all devices. `None`
/// where they can't be seen, as with `ProcSubset=pid`, or in a container without `/proc/sys`.
///
/// lo is left out, over IPv4: it has them set from the start, and packets that leave by it don't
/// leave the host.
///
/// # Errors
///
/// [`KernelError::System`] if one exists and can't be read.
pub(super) fn bypasses(links: &[Link]) -> Result<Option<Vec<Bypass>>, KernelError> {
    bypasses_under(Path::new("/proc/sys/net"), links)
}

fn bypasses_under(root: &Path, links: &[Link]) -> Result<Option<Vec<Bypass>>, KernelError> {
    // Every kernel with IPv4 has this one.
    if read_if_any(&root.join("ipv4/conf/all/disable_policy"))?.is_none() {
        return Ok(None);
    }
    let devices = links.iter().map(|link| link.name.as_str()).chain(["all"]);
    let mut found = Vec::new();
    for device in devices {
        for ipv6 in [false, true] {
            let family = root.join(if ipv6 { "ipv6/conf" } else { "ipv4/conf" }).join(device);
            for name in ["disable_xfrm", "disable_policy"] {
                let counts = ipv6 || device != "lo";
                if counts && is_set(&family.join(name))? {
                    found.push(Bypass { device: device.into(), ipv6, name: name.into() });
                }
            }
        }
    }
    found.sort();
    Ok(Some(found))
}

/// Whether IPv6 is off on a device, or would be on a new one. That of `all` is copied to these as it is
/// set (`addrconf_disable_ipv6`). A device whose MTU is too small for IPv6 has no sysctl.
///
/// # Errors
///
/// [`KernelError::System`] if the sysctl exists and can't be read.
pub(super) fn ipv6_off(device: Option<&str>) -> Result<bool, KernelError> {
    ipv6_off_under(Path::new("/proc/sys/net"), device)
}

fn ipv6_off_under(root: &Path, device: Option<&str>) -> Result<bool, KernelError> {
    for device in device.into_iter().chain(["default"]) {
        let path = root.join("ipv6/conf").join(device).join("disable_ipv6");
        if let Some(text) = read_if_any(&path)? {
            return Ok(text.trim() != "0");
        }
    }
    // A kernel without IPv6, or no sight of sysctls. Every kernel with IPv4 has this one.
    Ok(read_if_any(&root.join("ipv4/conf/all/disable_policy"))?.is_some())
}

/// Whether a sysctl is set. One that doesn't exist is not: IPv6 has no
/// disable_xfrm, and a device may be gone by now.
fn is_set(path: &Path) -> Result<bool, KernelError> {
    Ok(read_if_any(path)?.is_some_and(|text| text.trim() != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link { name: name.into(), mtu: 1500, kind: None, queue: None }
    }

    #[test]
    fn ipv6_is_off_by_the_devices_sysctl_or_that_of_new_ones() {
        let root = tempfile::tempdir().unwrap();
        let set = |place: &str, value: &str| {
            let path = root.path().join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        let off = |device| ipv6_off_under(root.path(), device).unwrap();
        assert!(!off(None), "no sight of sysctls");
        set("ipv4/conf/all/disable_policy", "0\n");
        assert!(off(None) && off(Some("mesh0")), "a kernel without IPv6");
        set("ipv6/conf/default/disable_ipv6", "0\n");
        assert!(!off(None) && !off(Some("mesh0")));
        set("ipv6/conf/mesh0/disable_ipv6", "1\n");
        assert!(!off(None) && off(Some("mesh0")));
        set("ipv6/conf/default/disable_ipv6", "1\n");
        set("ipv6/conf/mesh0/disable_ipv6", "0\n");
        assert!(off(None) && !off(Some("mesh0")));
    }

    #[test]
    fn this_host_can_be_asked() {
        assert!(bypasses(&[link("lo")]).is_ok());
    }

    #[test]
    fn a_sysctl_counts_if_it_is_not_0_on_any_device_but_lo() {
        let root = tempfile::tempdir().unwrap();
        let set = |family: &str, device: &str, name: &str, value: &str| {
            let directory = root.path().join(family).join("conf").join(device);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), value).unwrap();
        };
        set("ipv4", "eth0", "disable_xfrm", "1\n");
        set("ipv4", "eth0", "disable_policy", "0\n");
        set("ipv6", "eth0", "disable_policy", "1\n");
        set("ipv4", "gone", "disable_xfrm", "1\n");
        set("ipv4", "lo", "disable_xfrm", "1\n");
        set("ipv6", "lo", "disable_policy", "1\n");
        assert_eq!(bypasses_under(root.path(), &[link("eth0")]).unwrap(), None, "not to be seen");
        set("ipv4", "all", "disable_policy", "2\n");
        let found = bypasses_under(root.path(), &[link("lo"), link("eth0")]).unwrap();
        let bypass = |device: &str, ipv6, name: &str| Bypass {
            device: device.into(),
            ipv6,
            name: name.into(),
        };
        assert_eq!(
            found.unwrap(),
            [
                bypass("all", false, "disable_policy"),
                bypass("eth0", false, "disable_xfrm"),
                bypass("eth0", true, "disable_policy"),
                bypass("lo", true, "disable_policy"),
            ]
        );
    }
}
