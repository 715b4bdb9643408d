//! The devices that a packet leaves and comes in by, and their sysctls that take it past all policies.

use std::net::IpAddr;

use meshsec::model::{Bypass, Route, State};

use super::Packet;

/// Whether a sysctl lets a packet leave past all policies.
pub fn leaves_past_policies(state: &State, packet: &Packet) -> bool {
    !bypasses_out(state, packet).is_empty()
}

/// The sysctls that let a packet leave past all policies: IN_DEV_NOXFRM of the
/// device of its route (`__mkroute_output`), wherever its source address is.
pub fn bypasses_out<'s>(state: &'s State, packet: &Packet) -> Vec<&'s Bypass> {
    let devices: Vec<&str> = match route(state, packet) {
        Some(route) => route.devices.iter().map(|device| &**device).collect(),
        None => ways_out(state, packet.src),
    };
    set(state, packet.src, "disable_xfrm", &devices)
}

/// The route that a packet takes, if it is known. From another address it is the same: routes are
/// by destination.
pub fn route<'s>(state: &'s State, packet: &Packet) -> Option<&'s Route> {
    let routes = state.routes.iter().filter(|way| way.to == packet.dst);
    routes.min_by_key(|way| way.from != packet.src)
}

/// Where nobody knows the route: the devices that carry the source address, or
/// all if these are some by which nothing leaves.
fn ways_out(state: &State, src: IpAddr) -> Vec<&str> {
    let inner = |device: &str| {
        let link = state.links.iter().find(|link| link.name == device);
        let kind = link.and_then(|link| link.kind.as_deref());
        device == "lo" || matches!(kind, Some("loopback" | "dummy" | "vrf"))
    };
    let carriers = carriers(state, src);
    let known = |device: &&&str| state.links.iter().any(|link| link.name == **device);
    if carriers.iter().filter(known).any(|device| !inner(device)) {
        return carriers;
    }
    let all = state.bypasses.iter().map(|bypass| &*bypass.device);
    all.filter(|device| *device != "lo").collect()
}

/// Whether a sysctl lets a packet in past all policies.
pub fn arrives_past_policies(state: &State, packet: &Packet) -> bool {
    !bypasses_in(state, packet).is_empty()
}

/// The sysctls that let a packet in past all policies. Over IPv4: IN_DEV_NOPOLICY of the device that
/// it comes in by (`ip_route_input_slow`), and not of a VRF. All devices count by which packets to
/// peers leave. Over IPv6: that of the device that has its address, lo too (`addrconf_f6i_alloc`).
pub fn bypasses_in<'s>(state: &'s State, packet: &Packet) -> Vec<&'s Bypass> {
    let mut devices = entered(state, packet.dst);
    if packet.dst.is_ipv4() {
        let routes = state.routes.iter().filter(|route| route.from == packet.dst);
        devices.extend(routes.flat_map(|route| &route.devices).map(|device| &**device));
    }
    set(state, packet.dst, "disable_policy", &devices)
}

/// Of the devices that have an address those that count for packets that arrive. Over IPv4 nothing
/// comes in by a device without another end.
fn entered(state: &State, local: IpAddr) -> Vec<&str> {
    let inner = |device: &&str| {
        let link = state.links.iter().find(|link| link.name == **device);
        local.is_ipv4() && link.is_some_and(|link| link.kind.as_deref() == Some("dummy"))
    };
    carriers(state, local).into_iter().filter(|device| !inner(device)).collect()
}

/// The devices that have an address; lo counts for IPv6 alone.
fn carriers(state: &State, local: IpAddr) -> Vec<&str> {
    let here = state.addresses.iter().filter(|address| address.address == local);
    let devices = here.map(|address| &*address.device);
    devices.filter(|device| *device != "lo" || local.is_ipv6()).collect()
}

/// The sysctls of this name that are set, of all devices or of one of these.
fn set<'s>(state: &'s State, like: IpAddr, sysctl: &str, devices: &[&str]) -> Vec<&'s Bypass> {
    let is_set = |bypass: &&Bypass| {
        (&*bypass.name, bypass.ipv6) == (sysctl, like.is_ipv6())
            && (bypass.device == "all" || devices.contains(&&*bypass.device))
    };
    state.bypasses.iter().filter(is_set).collect()
}
