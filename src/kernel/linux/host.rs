//! Addresses, devices and sysctls: what else of a host plans depend on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::LinkAttribute,
};

use crate::{
    kernel::KernelError,
    model::{Bypass, LocalAddress},
};

/// The addresses of all devices of the calling thread's network namespace,
/// sorted. Needs no privilege.
///
/// # Errors
///
/// [`KernelError::System`] if they can't be read, or if there are none: a
/// failed dump of rtnetlink looks like an empty one.
pub fn local_addresses() -> Result<Vec<LocalAddress>, KernelError> {
    let failed = |reason: String| KernelError::System {
        doing: "cannot list this host's addresses".into(),
        reason,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let (devices, messages) =
        runtime.block_on(list()).map_err(|error| failed(error.to_string()))?;
    if devices.is_empty() {
        return Err(failed("the kernel shows no device, not even lo".into()));
    }
    let mut addresses: Vec<_> =
        messages.iter().filter_map(|message| local(message, &devices)).collect();
    if addresses.is_empty() {
        return Err(failed("the kernel shows none, not even that of lo: is lo up?".into()));
    }
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

async fn list() -> Result<(BTreeMap<u32, String>, Vec<AddressMessage>), Box<dyn std::error::Error>>
{
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let addresses = handle.address().get().execute().try_collect().await?;
    let devices = links.into_iter().filter_map(|link| {
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })?;
        Some((link.header.index, name))
    });
    Ok((devices.collect(), addresses))
}

/// This host's address in a message. With a point-to-point device, the other
/// attribute is the other end's.
fn local(message: &AddressMessage, devices: &BTreeMap<u32, String>) -> Option<LocalAddress> {
    let (mut own, mut any) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => any = Some(*address),
            _ => {}
        }
    }
    let address: IpAddr = own.or(any)?;
    let index = message.header.index;
    // A device that came between the two dumps has no name yet.
    let device = devices.get(&index).cloned().unwrap_or_else(|| format!("index {index}"));
    Some(LocalAddress { address, device })
}

/// The sysctls that are set and let packets pass policies, of `all` and of
/// each device that has an address.
///
/// # Errors
///
/// [`KernelError::System`] if one exists and can't be read.
pub fn bypasses(addresses: &[LocalAddress]) -> Result<Vec<Bypass>, KernelError> {
    bypasses_under(Path::new("/proc/sys/net"), addresses)
}

fn bypasses_under(root: &Path, addresses: &[LocalAddress]) -> Result<Vec<Bypass>, KernelError> {
    let devices: BTreeSet<&str> =
        addresses.iter().map(|local| local.device.as_str()).chain(["all"]).collect();
    let mut found = Vec::new();
    for device in devices {
        for ipv6 in [false, true] {
            for name in ["disable_xfrm", "disable_policy"] {
                let family = if ipv6 { "ipv6" } else { "ipv4" };
                if is_set(root.join(family).join("conf").join(device).join(name))? {
                    found.push(Bypass { device: device.into(), ipv6, name: name.into() });
                }
            }
        }
    }
    Ok(found)
}

/// Whether a sysctl is set. One that doesn't exist is not: IPv6 has no
/// disable_xfrm, and a device may be gone by now.
fn is_set(path: PathBuf) -> Result<bool, KernelError> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(KernelError::System {
            doing: format!("cannot read {}", path.display()),
            reason: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_the_address_of_lo() {
        let addresses = local_addresses().unwrap();
        let lo = LocalAddress { address: [127, 0, 0, 1].into(), device: "lo".into() };
        assert!(addresses.contains(&lo), "{addresses:?}");
        assert!(bypasses(&addresses).is_ok());
    }

    #[test]
    fn a_sysctl_counts_if_it_is_not_0_and_the_device_has_an_address() {
        let root = tempfile::tempdir().unwrap();
        let set = |family: &str, device: &str, name: &str, value: &str| {
            let directory = root.path().join(family).join("conf").join(device);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), value).unwrap();
        };
        set("ipv4", "eth0", "disable_xfrm", "1\n");
        set("ipv4", "eth0", "disable_policy", "0\n");
        set("ipv6", "eth0", "disable_policy", "1\n");
        set("ipv4", "eth1", "disable_xfrm", "1\n");
        set("ipv4", "all", "disable_policy", "2\n");
        let local = LocalAddress { address: [192, 0, 2, 1].into(), device: "eth0".into() };
        let found = bypasses_under(root.path(), &[local.clone(), local]).unwrap();
        let bypass = |device: &str, ipv6, name: &str| Bypass {
            device: device.into(),
            ipv6,
            name: name.into(),
        };
        assert_eq!(
            found,
            [
                bypass("all", false, "disable_policy"),
                bypass("eth0", false, "disable_xfrm"),
                bypass("eth0", true, "disable_policy"),
            ]
        );
    }
}
