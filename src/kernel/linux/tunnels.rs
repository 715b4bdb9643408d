//! VXLAN and Geneve devices, their settings and their destinations.
//!
//! Their settings come with the list of devices, the forwarding entries of VXLAN
//! by one dump each (`RTM_GETNEIGH`). Needs no privilege.
#![forbid(unsafe_code)]
#![allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]

use std::collections::BTreeSet;

use rtnetlink::packet_route::link::{
    InfoData, InfoGeneve, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage, Prop,
};

use super::{
    decode::Names,
    link::Devices,
    netlink::{Engine, Protocol},
    routes::address,
    wire::{attributes, garbled},
};
use crate::{
    kernel::KernelError,
    model::{Destination, Tunnel, TunnelKind},
};

/// `RTM_GETNEIGH` and `RTM_NEWNEIGH` (linux/rtnetlink.h).
const LIST_ENTRIES: (u16, u16) = (30, 28);
/// `AF_BRIDGE`.
const BRIDGE: u8 = 7;
/// A `struct ndmsg`.
const HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NDA_PORT: u16 = 6;

/// The tunnel device that a message describes, if the device is one.
pub(super) fn device(message: &LinkMessage, names: &Names) -> Option<Tunnel> {
    let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("index {index}"));
    let mut tunnel = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(settings)) => Some(vxlan(settings, name)),
            LinkInfo::Data(InfoData::Geneve(settings)) => Some(geneve(settings)),
            _ => None,
        }),
        _ => None,
    })?;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => tunnel.device.clone_from(name),
            LinkAttribute::Controller(index) => tunnel.master = Some(name(*index)),
            LinkAttribute::PropList(list) => {
                tunnel.other_names.extend(list.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }))
            }
            _ => {}
        }
    }
    Some(tunnel)
}

fn nameless(kind: TunnelKind, port: u16) -> Tunnel {
    Tunnel {
        device: String::new(),
        kind,
        port,
        local: None,
        remote: None,
        lower: None,
        master: None,
        external: false,
        other_names: BTreeSet::new(),
        entries: None,
    }
}

fn vxlan(settings: &[InfoVxlan], name: impl Fn(u32) -> String) -> Tunnel {
    // The driver's default port, which iproute2 leaves unchanged without `dstport`.
    let mut tunnel = nameless(TunnelKind::Vxlan, 8472);
    for setting in settings {
        match setting {
            InfoVxlan::Port(port) => tunnel.port = *port,
            InfoVxlan::Local(address) => tunnel.local = Some((*address).into()),
            InfoVxlan::Local6(address) => tunnel.local = Some((*address).into()),
            InfoVxlan::Group(address) => tunnel.remote = Some((*address).into()),
            InfoVxlan::Group6(address) => tunnel.remote = Some((*address).into()),
            InfoVxlan::Link(index) if *index != 0 => tunnel.lower = Some(name(*index)),
            InfoVxlan::CollectMetadata(external) => tunnel.external = *external,
            _ => {}
        }
    }
    specified(tunnel)
}

fn geneve(settings: &[InfoGeneve]) -> Tunnel {
    let mut tunnel = nameless(TunnelKind::Geneve, 6081);
    for setting in settings {
        match setting {
            InfoGeneve::Port(port) => tunnel.port = *port,
            InfoGeneve::Local(address) => tunnel.local = Some((*address).into()),
            InfoGeneve::Local6(address) => tunnel.local = Some((*address).into()),
            InfoGeneve::Remote(address) => tunnel.remote = Some((*address).into()),
            InfoGeneve::Remote6(address) => tunnel.remote = Some((*address).into()),
            InfoGeneve::CollectMetadata => tunnel.external = true,
            _ => {}
        }
    }
    Tunnel { entries: Some(BTreeSet::new()), ..specified(tunnel) }
}

/// Some kernels show an address that is not set as zeros.
fn specified(tunnel: Tunnel) -> Tunnel {
    Tunnel {
        local: tunnel.local.filter(|address| !address.is_unspecified()),
        remote: tunnel.remote.filter(|address| !address.is_unspecified()),
        ..tunnel
    }
}

/// All tunnel devices with their forwarding entries. The entries of a device that can't be read are
/// unknown: it may be gone by now.
///
/// # Errors
///
/// The socket can't be opened.
pub(super) fn with_entries(devices: &Devices) -> Result<Vec<Tunnel>, KernelError> {
    let mut tunnels = devices.tunnels.clone();
    if tunnels.iter().all(|tunnel| tunnel.kind != TunnelKind::Vxlan) {
        return Ok(tunnels);
    }
    let mut engine = Engine::open(Protocol::Route)?;
    for tunnel in tunnels.iter_mut().filter(|tunnel| tunnel.kind == TunnelKind::Vxlan) {
        let index = devices.index(&tunnel.device);
        tunnel.entries = index.and_then(|index| entries(&mut engine, index).ok());
    }
    Ok(tunnels)
}

/// The destinations of a device's forwarding entries.
fn entries(engine: &mut Engine, index: u32) -> Result<BTreeSet<Destination>, KernelError> {
    // A `struct ifinfomsg`, which narrows the dump to one device (`rtnl_fdb_dump`).
    let mut body = [0; 16];
    body[0] = BRIDGE;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let found =
        engine.dump(LIST_ENTRIES, &body, "forwarding entries", |message| destination(message))?;
    Ok(found.into_iter().collect())
}

/// The destination of a forwarding entry, if it has one.
fn destination(message: &[u8]) -> Result<Option<Destination>, KernelError> {
    let rest = message.get(HEADER..).ok_or_else(|| garbled("a short forwarding entry"))?;
    let (mut to, mut port) = (None, None);
    for (kind, range) in attributes(rest)? {
        let value = &rest[range];
        match kind {
            NDA_DST => to = Some(address(value)?),
            NDA_PORT => port = value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)),
            _ => {}
        }
    }
    let to = to.filter(|address| !address.is_unspecified());
    Ok(to.map(|address| Destination { address, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vxlan_device_without_a_port_sends_to_8472() {
        let name = |index: u32| format!("eth{index}");
        assert_eq!(vxlan(&[], name).port, 8472);
        let tunnel = vxlan(&[InfoVxlan::Port(4789), InfoVxlan::Link(3)], name);
        assert_eq!((tunnel.port, tunnel.lower.as_deref()), (4789, Some("eth3")));
    }

    #[test]
    fn the_ends_of_a_tunnel_are_read_in_both_families() {
        let ends = |tunnel: Tunnel| (tunnel.local, tunnel.remote);
        let (v4, v6) = ([[192, 0, 2, 1], [192, 0, 2, 2]], [[1; 16], [2; 16]]);
        let wanted4 = (Some(v4[0].into()), Some(v4[1].into()));
        let wanted6 = (Some(v6[0].into()), Some(v6[1].into()));
        let vxlan = |settings: &[InfoVxlan]| ends(vxlan(settings, |_| String::new()));
        let geneve = |settings: &[InfoGeneve]| ends(geneve(settings));
        let [local, remote] = v4.map(Into::into);
        assert_eq!(vxlan(&[InfoVxlan::Local(local), InfoVxlan::Group(remote)]), wanted4);
        assert_eq!(geneve(&[InfoGeneve::Local(local), InfoGeneve::Remote(remote)]), wanted4);
        let [local, remote] = v6.map(Into::into);
        assert_eq!(vxlan(&[InfoVxlan::Local6(local), InfoVxlan::Group6(remote)]), wanted6);
        assert_eq!(geneve(&[InfoGeneve::Local6(local), InfoGeneve::Remote6(remote)]), wanted6);
    }

    #[test]
    fn a_forwarding_entry_leads_to_an_address_or_nowhere() {
        let mut message = vec![0; HEADER];
        assert_eq!(destination(&message), Ok(None));
        message.extend_from_slice(&[8, 0, 1, 0, 192, 0, 2, 9, 6, 0, 6, 0, 0x21, 0x18, 0, 0]);
        let address = [192, 0, 2, 9].into();
        assert_eq!(destination(&message), Ok(Some(Destination { address, port: Some(8472) })));
        assert!(destination(&message[..8]).is_err());
    }
}
