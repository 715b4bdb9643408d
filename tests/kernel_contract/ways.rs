//! Routes and tunnel devices that not every kernel has: VRFs and Geneve.

use std::net::IpAddr;

use meshsec::{
    kernel::{Kernel, Linux},
    model::{Member, State, TunnelKind, Ways},
};

use crate::{
    bench::{in_a_fresh_namespace, ip},
    suite::OURS,
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn observe(members: &[&str]) -> State {
    let members = members
        .iter()
        .map(|member| Member { address: address(member), reached_at: address(member), port: None })
        .collect();
    let ways = Ways { members, tunnel: Some(TunnelKind::Vxlan), ..Ways::default() };
    Linux::open()
        .unwrap()
        .looking_at(meshsec::kernel::linux::Look::Leftovers)
        .asking_for(ways)
        .observe(OURS)
        .unwrap()
        .0
}

/// Two devices, up, each with its other end.
fn underlay_devices() {
    for name in ["u0", "u1"] {
        ip(&format!("link add {name} type veth peer name {name}-far"));
        ip(&format!("link set {name} up"));
        ip(&format!("link set {name}-far up"));
    }
}

#[test]
#[ignore = "needs VRFs: cargo xtask test"]
fn a_route_in_a_vrf_is_looked_up_there() {
    in_a_fresh_namespace(|| {
        underlay_devices();
        ip("link add red type vrf table 10");
        ip("link set red up");
        ip("link set u0 master red");
        ip("addr add 192.0.2.1/24 dev u0");
        ip("addr add 10.0.1.1/24 dev u1");
        ip("route add default via 10.0.1.2");
        let routes = observe(&["192.0.2.1", "192.0.2.2"]).routes;
        assert_eq!(routes.len(), 1);
        let route = &routes[0];
        assert_eq!(route.devices, ["u0".to_owned()].into());
        assert_eq!(route.vrfs, ["red".to_owned()].into());
        assert_eq!(route.source, Some(address("192.0.2.1")));
    });
}

#[test]
fn every_device_of_a_route_with_several_next_hops_is_seen() {
    in_a_fresh_namespace(|| {
        underlay_devices();
        ip("addr add 192.0.2.1/32 dev u0");
        ip("addr add 2001:db8::1/128 dev u0 nodad");
        ip("route add 192.0.2.2/32 nexthop dev u0 nexthop dev u1");
        // Over IPv6 each next hop is a router.
        ip("addr add 2001:db8:a::1/64 dev u0 nodad");
        ip("addr add 2001:db8:b::1/64 dev u1 nodad");
        let hops = "nexthop via 2001:db8:a::2 dev u0 nexthop via 2001:db8:b::2 dev u1";
        ip(&format!("-6 route add 2001:db8::2/128 {hops}"));
        for members in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]] {
            let routes = observe(&members).routes;
            assert_eq!(routes.len(), 1);
            assert_eq!(routes[0].devices, ["u0", "u1"].map(String::from).into());
        }
    });
}

#[test]
#[ignore = "needs Geneve: cargo xtask test"]
fn geneve_devices_are_seen() {
    in_a_fresh_namespace(|| {
        ip("link add gnv0 type geneve id 7 remote 192.0.2.9");
        ip("link add gnv1 type geneve external dstport 6082");
        let tunnels = observe(&[]).tunnels.unwrap();
        let all = |tunnel: &meshsec::model::Tunnel| {
            (tunnel.device.clone(), tunnel.kind, tunnel.port, tunnel.external)
        };
        let found: Vec<_> = tunnels.iter().map(all).collect();
        let geneve = TunnelKind::Geneve;
        let wanted = [("gnv0", 6081, false), ("gnv1", 6082, true)];
        let wanted = wanted.map(|(name, port, external)| (name.into(), geneve, port, external));
        assert_eq!(found, wanted);
        assert_eq!(tunnels[0].remote, Some(address("192.0.2.9")));
    });
}
