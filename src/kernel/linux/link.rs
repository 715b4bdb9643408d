//! Devices, their addresses and their MTU, by rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    future::Future,
    net::IpAddr,
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    },
};
use rustix::net::{self, AddressFamily, SocketType};

use super::{decode::Names, interface, tunnels};
use crate::{
    kernel::{Errno, KernelError, SystemCause, rules},
    model::{Interface, Link, LocalAddress, MtuStep, ObjectStep, Queue, Sa, SaStep, Tunnel},
};

/// The devices of the calling thread's network namespace and their addresses,
/// each sorted. Needs no privilege.
///
/// # Errors
///
/// [`KernelError::System`] if they can't be read, or if there are none: a
/// failed dump of rtnetlink looks like an empty one.
pub fn devices_and_addresses() -> Result<(Vec<Link>, Vec<LocalAddress>), KernelError> {
    let Devices { links, addresses, .. } = Devices::observe()?;
    Ok((links, addresses))
}

/// Devices, their addresses and their names by index.
pub(super) struct Devices {
    pub names: Names,
    pub links: Vec<Link>,
    pub addresses: Vec<LocalAddress>,
    pub interfaces: Vec<Interface>,
    /// Tunnels without their forwarding entries.
    pub tunnels: Vec<Tunnel>,
    /// The VRF of each device that is in one, and of each VRF itself.
    vrfs: BTreeMap<String, u32>,
}

impl Devices {
    /// As [`devices_and_addresses`].
    pub(super) fn observe() -> Result<Self, KernelError> {
        let failed = |reason: String| KernelError::System {
            cause: SystemCause::Other,
            doing: "cannot list this host's devices and addresses".into(),
            reason,
        };
        let (devices, messages) = ask(list).map_err(|error| failed(error.to_string()))?;
        if devices.is_empty() {
            return Err(failed("the kernel shows no device, not even lo".into()));
        }
        let names: Names =
            devices.iter().map(|(index, device)| (*index, device.link.name.clone())).collect();
        let mut addresses: Vec<_> =
            messages.iter().filter_map(|message| local(message, &names)).collect();
        if addresses.is_empty() {
            return Err(failed(
                "the kernel shows no address, not even that of lo: is lo up?".into(),
            ));
        }
        addresses.sort();
        addresses.dedup();
        let mut links: Vec<_> = devices.values().map(|device| device.link.clone()).collect();
        links.sort();
        let vrfs = vrfs(&devices);
        let messages = || devices.values().map(|device| &device.message);
        let interfaces = messages().filter_map(interface::decoded).collect();
        let tunnels = messages().filter_map(|message| tunnels::device(message, &names)).collect();
        Ok(Self { names, links, addresses, interfaces, tunnels, vrfs })
    }

    /// The name of a device. One that came after they were listed has none yet.
    pub(super) fn name(&self, index: u32) -> String {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("index {index}"))
    }

    /// The number of a device.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.names.iter().find(|(_, known)| *known == name).map(|(index, _)| *index)
    }

    /// The VRFs that the devices with an address are in.
    pub(super) fn vrfs_of(&self, address: IpAddr) -> BTreeSet<u32> {
        let carriers = self.addresses.iter().filter(|local| local.address == address);
        carriers.filter_map(|local| self.vrfs.get(&local.device).copied()).collect()
    }

    /// The name of the VRF that a device is in.
    pub(super) fn vrf_of(&self, device: &str) -> Option<String> {
        self.vrf_by_index(*self.vrfs.get(device)?)
    }

    /// The name of a device that is a VRF.
    pub(super) fn vrf_by_index(&self, index: u32) -> Option<String> {
        let name = self.names.get(&index)?;
        (self.vrfs.get(name) == Some(&index)).then(|| name.clone())
    }
}

/// A device and the message that describes it.
struct Device {
    link: Link,
    message: LinkMessage,
}

#[allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]
fn vrfs(devices: &BTreeMap<u32, Device>) -> BTreeMap<String, u32> {
    let is_vrf = |index: &u32| {
        devices.get(index).is_some_and(|device| device.link.kind.as_deref() == Some("vrf"))
    };
    let of = |(index, device): (&u32, &Device)| {
        let master = device.message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(master) => Some(*master),
            _ => None,
        });
        let vrf = [Some(*index), master].into_iter().flatten().find(is_vrf)?;
        Some((device.link.name.clone(), vrf))
    };
    devices.iter().filter_map(of).collect()
}

/// The index of the device that an SA is to be offloaded to, or 0, for `step`.
///
/// For a device that is gone, the kernel would take another, by the route to the peer
/// (`xfrm_dev_state_add`).
pub(super) fn offload_index(sa: &Sa, step: &SaStep) -> Result<u32, KernelError> {
    let Some(offload) = &sa.offload else { return Ok(0) };
    index(&offload.device).map_err(|errno| KernelError::Refused {
        doing: step.attempt(),
        errno,
        detail: Some(rules::no_offload_device()),
    })
}

/// The number of the device of this name. Any socket may ask. The shipped unit allows a Unix one.
pub(super) fn index(device: &str) -> Result<u32, Errno> {
    net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .and_then(|socket| net::netdevice::name_to_index(socket, device))
        .map_err(|errno| Errno(errno.raw_os_error()))
}

/// The addresses of all devices.
///
/// # Errors
///
/// As [`devices_and_addresses`].
pub fn local_addresses() -> Result<Vec<LocalAddress>, KernelError> {
    Ok(devices_and_addresses()?.1)
}

/// Sets a device's MTU.
pub(super) fn set_mtu(step: &MtuStep) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_name(&step.device).mtu(step.mtu).build();
    change(step.attempt(), rules::mtu_refused, async |handle| {
        handle.link().change(message).execute().await
    })
}

/// Asks rtnetlink for a change. `meaning` explains an error number.
pub(super) fn change<F>(
    doing: String,
    meaning: impl FnOnce(Errno) -> Option<String>,
    request: impl FnOnce(Handle) -> F,
) -> Result<(), KernelError>
where
    F: Future<Output = Result<(), rtnetlink::Error>>,
{
    let system = |doing, reason| KernelError::System { cause: SystemCause::Other, doing, reason };
    match ask(async |handle| Ok(request(handle).await)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(rtnetlink::Error::NetlinkError(refusal))) => {
            let errno = Errno(refusal.raw_code().abs());
            Err(KernelError::Refused { doing, errno, detail: meaning(errno) })
        }
        Ok(Err(error)) => Err(system(doing, error.to_string())),
        Err(error) => Err(system(doing, error.to_string())),
    }
}

/// Asks rtnetlink one question, and waits for the answer.
pub(super) fn ask<T, F>(question: impl FnOnce(Handle) -> F) -> Result<T, Box<dyn Error>>
where
    F: Future<Output = Result<T, Box<dyn Error>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        question(handle).await
    })
}

async fn list(
    handle: Handle,
) -> Result<(BTreeMap<u32, Device>, Vec<AddressMessage>), Box<dyn Error>> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let addresses = handle.address().get().execute().try_collect().await?;
    let devices = links.into_iter().filter_map(|message| {
        let link = device(&message)?;
        Some((message.header.index, Device { link, message }))
    });
    Ok((devices.collect(), addresses))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]
fn device(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut mtu, mut kind) = (None, None, None);
    let (mut discipline, mut queues) = (None, 1);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            LinkAttribute::Qdisc(name) => discipline = Some(name.as_str()),
            LinkAttribute::NumTxQueues(number) => queues = *number,
            LinkAttribute::LinkInfo(info) => {
                kind = info.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if message.header.link_layer_type == LinkLayerType::Loopback {
        kind = Some("loopback".into());
    }
    let queue = queue(discipline, queues).filter(|_| kind.as_deref() == Some("vrf"));
    Some(Link { name: name?, mtu: mtu?, kind, queue })
}

/// What makes a VRF queue its packets (`qdisc_tx_is_default`).
fn queue(discipline: Option<&str>, queues: u32) -> Option<Queue> {
    match discipline {
        _ if queues > 1 => Some(Queue::Transmit(queues)),
        None | Some("noqueue" | "noop") => None,
        Some(name) => Some(Queue::Discipline(name.into())),
    }
}

/// This host's address in a message. On a point-to-point device, the other attribute is the address
/// of the other end.
#[allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]
fn local(message: &AddressMessage, names: &Names) -> Option<LocalAddress> {
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
    let device = names.get(&index).cloned().unwrap_or_else(|| format!("index {index}"));
    Some(LocalAddress { address, device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_lo_and_its_address() {
        let (links, addresses) = devices_and_addresses().unwrap();
        let lo = LocalAddress { address: [127, 0, 0, 1].into(), device: "lo".into() };
        assert!(addresses.contains(&lo), "{addresses:?}");
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.mtu > 0 && lo.ends_here(), "{lo:?}");
    }
}
