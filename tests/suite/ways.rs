//! The kernel's answers about the ways to peers and tunnel devices, in a network namespace of this
//! machine. Needs no ESP.

use std::{collections::BTreeSet, fs, net::IpAddr};

use crate::common::namespace::{inside, ip};
use meshsec::{
    config::Config,
    desired::ways,
    kernel::{Kernel, Linux},
    model::{Destination, Hidden, Route, State, Tunnel, TunnelKind},
};

/// The observed state of the mesh of three peers, from the first.
fn observe(config: &Config) -> State {
    let mut kernel = Linux::open()
        .unwrap()
        .looking_at(meshsec::kernel::linux::Look::Leftovers)
        .asking_for(ways(config, None));
    kernel.observe(crate::common::REQID).unwrap().0
}

fn lab() -> Config {
    crate::common::mesh(1, &["192.0.2.1", "192.0.2.2", "198.51.100.3"])
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(ToString::to_string).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn way(state: &State, to: &str) -> Route {
    state.routes.iter().find(|route| route.to == address(to)).cloned().expect("it was asked for")
}

fn devices(list: &[&str]) {
    ip("link set lo up");
    for name in list {
        ip(&format!("link add {name} type veth peer name {name}-far"));
        ip(&format!("link set {name} up"));
        ip(&format!("link set {name}-far up"));
    }
}

#[test]
fn the_device_of_a_route_is_not_the_one_with_the_address() {
    if !inside("ways::the_device_of_a_route_is_not_the_one_with_the_address") {
        return;
    }
    devices(&["u0"]);
    ip("addr add 192.0.2.1/32 dev lo");
    ip("addr add 10.0.0.1/24 dev u0");
    ip("route add 192.0.2.2/32 dev u0");
    ip("route add unreachable 198.51.100.3/32");
    let state = observe(&lab());
    assert_eq!(state.routes.len(), 2);
    let route = way(&state, "192.0.2.2");
    assert_eq!((route.from, &route.devices), (address("192.0.2.1"), &names(&["u0"])));
    assert_eq!(route.source, Some(address("10.0.0.1")), "what the kernel picks by itself");
    assert_eq!(route.refused, None);
    let route = way(&state, "198.51.100.3");
    assert!(route.devices.is_empty() && route.refused.is_some(), "{route:?}");
}

#[test]
fn all_devices_of_a_route_by_several_are_seen() {
    if !inside("ways::all_devices_of_a_route_by_several_are_seen") {
        return;
    }
    devices(&["u0", "u1"]);
    ip("addr add 192.0.2.1/32 dev lo");
    ip("addr add 10.0.0.1/24 dev u0");
    ip("addr add 10.0.1.1/24 dev u1");
    ip("route add 192.0.2.2/32 nexthop via 10.0.0.2 dev u0 nexthop via 10.0.1.2 dev u1");
    ip("route add 198.51.100.3/32 via 10.0.1.2");
    ip("link set u1-far down");
    // The kernel marks routes as without a carrier within a second (`linkwatch_schedule_work`).
    let begin = std::time::Instant::now();
    let state = loop {
        let state = observe(&lab());
        let told = !way(&state, "198.51.100.3").no_carrier.is_empty();
        if told || begin.elapsed() > std::time::Duration::from_secs(20) {
            break state;
        }
    };
    let route = way(&state, "192.0.2.2");
    assert_eq!(route.devices, names(&["u0", "u1"]));
    let route = way(&state, "198.51.100.3");
    assert_eq!((&route.devices, &route.no_carrier), (&names(&["u1"]), &names(&["u1"])));
}

#[test]
fn all_devices_of_a_route_by_several_are_seen_over_ipv6() {
    if !inside("ways::all_devices_of_a_route_by_several_are_seen_over_ipv6") {
        return;
    }
    devices(&["u0", "u1"]);
    ip("addr add 2001:db8::1/128 dev lo");
    ip("addr add fd00::1/64 dev u0 nodad");
    ip("addr add fd01::1/64 dev u1 nodad");
    ip("route add 2001:db8::2/128 nexthop via fd00::2 dev u0 nexthop via fd01::2 dev u1");
    let state = observe(&crate::common::mesh(1, &["2001:db8::1", "2001:db8::2", "2001:db8::3"]));
    let route = way(&state, "2001:db8::2");
    assert_eq!(route.devices, names(&["u0", "u1"]));
    assert!(way(&state, "2001:db8::3").refused.is_some());
}

#[test]
fn tunnel_devices_and_their_destinations_are_seen() {
    if !inside("ways::tunnel_devices_and_their_destinations_are_seen") {
        return;
    }
    devices(&["u0"]);
    ip("addr add 192.0.2.1/24 dev u0");
    ip("link add vxlan42 type vxlan id 42 local 192.0.2.1 remote 192.0.2.2 dev u0");
    ip("link property add dev vxlan42 altname overlay");
    ip("link add br0 type bridge");
    ip("link set vxlan42 master br0");
    ip("link add vxlan43 type vxlan id 43 group 239.1.1.1 dev u0 dstport 4789");
    ip("link add vxlan44 type vxlan external dstport 4790");
    let fdb = ["fdb", "append", "00:00:00:00:00:00", "dev", "vxlan42", "dst", "192.0.2.7"];
    for port in [&[][..], &["port", "4799"]] {
        let done = std::process::Command::new("bridge").args(fdb).args(port).status().unwrap();
        assert!(done.success());
    }
    let state = observe(&lab());
    let tunnels = state.tunnels.unwrap();
    let found = |name: &str| tunnels.iter().find(|tunnel| tunnel.device == name).unwrap().clone();
    let to = |text: &str, port| Destination { address: address(text), port };
    let first = Tunnel {
        device: "vxlan42".into(),
        kind: TunnelKind::Vxlan,
        port: 8472,
        local: Some(address("192.0.2.1")),
        remote: Some(address("192.0.2.2")),
        lower: Some("u0".into()),
        master: Some("br0".into()),
        external: false,
        other_names: names(&["overlay"]),
        entries: Some(
            [to("192.0.2.2", None), to("192.0.2.7", None), to("192.0.2.7", Some(4799))].into(),
        ),
    };
    assert_eq!(found("vxlan42"), first);
    assert_eq!(found("vxlan43").remote, Some(address("239.1.1.1")));
    assert_eq!((found("vxlan43").port, found("vxlan43").local), (4789, None));
    assert!(found("vxlan44").external);
}

#[test]
fn sysctls_of_all_devices_are_read() {
    if !inside("ways::sysctls_of_all_devices_are_read") {
        return;
    }
    devices(&["u0"]);
    ip("addr add 192.0.2.1/32 dev lo");
    fs::write("/proc/sys/net/ipv4/conf/u0/disable_xfrm", "1").unwrap();
    let state = observe(&lab());
    let set: Vec<_> = state.bypasses.iter().map(|set| (&*set.device, &*set.name)).collect();
    assert_eq!(set, [("u0", "disable_xfrm")]);
    assert!(state.hidden.is_empty());
}

#[test]
fn sysctls_that_cannot_be_seen_are_not_taken_for_unset() {
    if !inside("ways::sysctls_that_cannot_be_seen_are_not_taken_for_unset") {
        return;
    }
    devices(&["u0"]);
    let mount = ["-t", "proc", "-o", "subset=pid", "proc", "/proc"];
    assert!(std::process::Command::new("mount").args(mount).status().unwrap().success());
    assert_eq!(observe(&lab()).hidden, [Hidden::Sysctls].into());
}
