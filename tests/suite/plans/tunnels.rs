//! Golden plans about devices that make tunnels.

use std::net::IpAddr;

use super::*;
use crate::common::{link, observe, plan, route};
use meshsec::{
    config::LinkWish,
    model::{Destination, Link, Mtu, Tunnel, TunnelKind},
    plan::{ConflictCode, Plan, WarningCode},
};

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn to(last: u8) -> Destination {
    Destination { address: address(last), port: None }
}

/// A VXLAN device that sends to both peers.
pub(super) fn vxlan(device: &str, port: u16) -> Tunnel {
    Tunnel {
        device: device.into(),
        kind: TunnelKind::Vxlan,
        port,
        local: Some(address(1)),
        remote: None,
        lower: Some("eth0".into()),
        master: None,
        external: false,
        other_names: BTreeSet::new(),
        entries: Some([to(2), to(3)].into()),
    }
}

/// A mesh with a [link] that names a device, and one without a [link].
fn with_link(device: Option<&str>) -> Config {
    let link = device.map(|device| LinkWish { device: device.into(), mtu: Mtu::Auto });
    Config { link, ..lab() }
}

/// A host where that mesh was applied, with these tunnel devices.
fn host_with(config: &Config, tunnels: &[Tunnel]) -> Memory {
    let mut kernel = applied_host(config);
    let state = kernel.state_mut();
    for tunnel in tunnels.iter().filter(|tunnel| tunnel.device != crate::common::VXLAN) {
        state.links.push(link(&tunnel.device, 1400));
    }
    state.links.iter_mut().filter(|link| link.name != "eth0").for_each(|link| link.mtu = 1400);
    state.tunnels = Some(tunnels.to_vec());
    kernel
}

fn planned(link: Option<&str>, tunnels: &[Tunnel]) -> Plan {
    let config = with_link(link);
    plan(&config, &mut host_with(&config, tunnels))
}

/// The codes of warnings, and how many conflicts there are.
fn told(plan: &Plan) -> (Vec<&'static str>, usize) {
    (plan.warnings.iter().map(|line| line.code.word()).collect(), plan.conflicts.len())
}

#[test]
fn a_device_that_sends_what_is_protected_is_not_worth_a_word() {
    for link in [None, Some("vxlan42")] {
        assert_eq!(told(&planned(link, &[vxlan("vxlan42", 4789)])), (vec![], 0));
    }
    let external = Tunnel { external: true, entries: Some([].into()), ..vxlan("vxlan42", 4789) };
    let config = with_link(None);
    let mut kernel = host_with(&config, &[external]);
    assert_eq!(told(&plan(&config, &mut kernel)), (vec![], 0));
    // The one device of Open vSwitch takes packets of any size.
    let is_tunnel = |link: &&mut Link| link.name == crate::common::VXLAN;
    kernel.state_mut().links.iter_mut().find(is_tunnel).unwrap().mtu = 65_000;
    assert_eq!(told(&plan(&config, &mut kernel)), (vec![], 0));
    kernel.state_mut().tunnels.iter_mut().flatten().for_each(|tunnel| tunnel.external = false);
    assert_eq!(told(&plan(&config, &mut kernel)), (vec!["mtu-too-large"], 0));
}

#[test]
fn the_device_of_the_link_sends_to_another_port() {
    let config = with_link(Some("vxlan42"));
    let mut kernel = host(&config);
    kernel.state_mut().tunnels = Some(vec![vxlan("vxlan42", 8472)]);
    golden("the-device-of-the-link-sends-to-another-port", &config, &mut kernel);
    assert!(crate::common::applied(&config, &mut kernel).changed_anything());
    let left = plan(&config, &mut kernel);
    assert_eq!((told(&left), left.steps.len()), ((vec![], 1), 0));
}

#[test]
fn the_device_of_the_link_makes_no_tunnels_of_the_kind() {
    let config = with_link(Some("br0"));
    let mut kernel = host_with(&config, &[vxlan("vxlan42", 4789), vxlan("vxlan43", 4789)]);
    kernel.state_mut().links.push(Link { kind: Some("bridge".into()), ..link("br0", 1500) });
    golden("the-device-of-the-link-is-a-bridge", &config, &mut kernel);
    let geneve = Tunnel { kind: TunnelKind::Geneve, ..vxlan("vxlan42", 4789) };
    assert_eq!(told(&planned(Some("vxlan42"), &[geneve])), (vec![], 1));
    let alone = planned(Some("vxlan42"), &[]);
    assert_eq!(told(&alone), (vec![], 1));
    let text = &alone.conflicts[0].text;
    assert!(text.ends_with("; this host has no vxlan device"), "{text}");
    let device = planned(Some("eth0"), &[vxlan("vxlan42", 4789)]);
    assert_eq!(told(&device), (vec!["link-is-underlay"], 0));
}

#[test]
fn a_tunnel_device_sends_where_nothing_protects_it() {
    let config = with_link(None);
    let mut wrong_entry = vxlan("vxlan42", 4789);
    let entry = Destination { port: Some(4799), ..to(2) };
    wrong_entry.entries = Some([to(3), entry].into());
    let others = [vxlan("vxlan7", 8472), vxlan("vxlan8", 8472), wrong_entry];
    golden("tunnels-to-other-ports", &config, &mut host_with(&config, &others));
}

#[test]
fn what_another_mesh_protects_is_not_worth_a_word() {
    let config = with_link(None);
    let mut kernel = host_with(&config, &[vxlan("vxlan7", 8472)]);
    assert_eq!(told(&plan(&config, &mut kernel)).0, ["tunnel-unprotected"]);
    let other = Config {
        traffic: Traffic::Vxlan { port: 8472 },
        reqid: Reqid(0x4d53_0002),
        ..with_link(None)
    };
    let guards = crate::common::wanted(&other).0.guards.into_values();
    // A policy for what arrives protects nothing that leaves.
    let (arriving, leaving): (Vec<Policy>, Vec<Policy>) =
        guards.partition(|guard| guard.id.direction == Direction::In);
    kernel.state_mut().policies.extend(arriving);
    assert_eq!(told(&plan(&config, &mut kernel)).0, ["tunnel-unprotected"]);
    kernel.state_mut().policies.extend(leaving);
    assert_eq!(told(&plan(&config, &mut kernel)).0, [""; 0]);
}

#[test]
fn a_tunnel_device_sends_to_and_from_others_than_peers() {
    let group = Some([239, 1, 1, 1].into());
    let devices = [
        Tunnel { remote: group, ..vxlan("vxlan10", 4789) },
        Tunnel { local: Some(address(101)), ..vxlan("vxlan11", 4789) },
        Tunnel { entries: Some((2..30).map(to).collect()), ..vxlan("vxlan12", 4789) },
        Tunnel { entries: None, ..vxlan("vxlan13", 4789) },
    ];
    let config = with_link(None);
    golden("tunnels-to-and-from-others", &config, &mut host_with(&config, &devices));
}

/// Nothing leaves for this host itself, nor over IPv4 for an address of IPv6.
#[test]
fn a_tunnel_device_that_names_its_own_host_is_not_worth_a_word() {
    let of_ipv6 = Destination { address: "2001:db8::9".parse().unwrap(), port: None };
    let entries = Some([to(1), to(2), of_ipv6].into());
    let device = Tunnel { entries, ..vxlan("vxlan42", 4789) };
    assert_eq!(told(&planned(None, &[device])), (vec![], 0));
}

#[test]
fn a_tunnel_device_without_an_address_gets_that_of_the_route() {
    let config = with_link(None);
    let mut kernel = host_with(&config, &[Tunnel { local: None, ..vxlan("vxlan42", 4789) }]);
    assert_eq!(told(&plan(&config, &mut kernel)), (vec![], 0));
    kernel.state_mut().routes[0].source = Some(address(101));
    golden("a-tunnel-from-the-address-of-the-route", &config, &mut kernel);
    let only = Tunnel { local: None, entries: Some([to(3)].into()), ..vxlan("vxlan42", 4789) };
    kernel.state_mut().tunnels = Some(vec![only]);
    assert_eq!(told(&plan(&config, &mut kernel)), (vec![], 0), "it sends to another peer");
    // Where others say where each packet goes, the entries tell nothing.
    kernel.state_mut().tunnels.iter_mut().flatten().for_each(|tunnel| tunnel.external = true);
    assert_eq!(told(&plan(&config, &mut kernel)), (vec!["tunnel-source"], 0));
}

/// A bridge with an MTU that fits, and a VRF, whose own MTU stops nothing.
#[test]
fn a_device_above_a_tunnel_is_not_worth_a_word() {
    for named in [None, Some("vxlan42")] {
        for (kind, mtu) in [("bridge", 1400), ("vrf", 65_575)] {
            let config = with_link(named);
            let above = Tunnel { master: Some("above".into()), ..vxlan("vxlan42", 4789) };
            let mut kernel = host_with(&config, &[above]);
            kernel.state_mut().links.push(Link { kind: Some(kind.into()), ..link("above", mtu) });
            assert_eq!(told(&plan(&config, &mut kernel)), (vec![], 0), "{kind}");
        }
    }
}

#[test]
fn without_a_link_the_mtu_is_looked_at() {
    let bridged = Tunnel { master: Some("br0".into()), ..vxlan("vxlan42", 4789) };
    let config = with_link(None);
    let mut kernel = host_with(&config, &[bridged, vxlan("vxlan43", 8472)]);
    let links = &mut kernel.state_mut().links;
    links.iter_mut().filter(|link| link.name != "eth0").for_each(|link| link.mtu = 1450);
    links.push(Link { kind: Some("bridge".into()), ..link("br0", 1500) });
    golden("the-mtu-of-a-tunnel-that-no-link-names", &config, &mut kernel);
}

#[test]
fn a_name_that_is_shown_and_is_not_a_device_is_told() {
    let altname = Tunnel { other_names: ["overlay".into()].into(), ..vxlan("vxlan42", 4789) };
    for (name, hint) in [
        ("vxlan42@eth0", "write device = \"vxlan42\""),
        ("overlay", "write device = \"vxlan42\""),
        ("vxlan9", "apply again when it is there; the vxlan devices of this host: vxlan42"),
    ] {
        let plan = planned(Some(name), std::slice::from_ref(&altname));
        let text = &plan.warnings[0].text;
        assert!(text.ends_with(hint), "{text}");
    }
}

#[test]
fn the_mtu_of_the_device_of_the_route_counts() {
    let config = with_link(Some("vxlan42"));
    let mut kernel = host_with(&config, &[vxlan("vxlan42", 4789)]);
    let state = kernel.state_mut();
    state.addresses[0].device = "lo".into();
    state.links.push(link("eth1", 1300));
    state.routes[0] = route(address(1), address(2), &["eth1"]);
    let live = observe(&mut kernel);
    assert_eq!(meshsec::plan::underlay(&live.0, address(1)).unwrap().name, "eth1");
}

/// A device of the other kind has no port that could be set right.
#[test]
fn a_device_of_another_kind_is_told_from_one_with_another_port() {
    let code = |tunnel: Tunnel| planned(Some("vxlan42"), &[tunnel]).conflicts[0].code;
    let geneve = Tunnel { kind: TunnelKind::Geneve, ..vxlan("vxlan42", 8472) };
    assert_eq!(code(geneve), ConflictCode::LinkKind);
    assert_eq!(code(vxlan("vxlan42", 8472)), ConflictCode::LinkPort);
}

/// A host without tunnels is told of none.
#[test]
fn a_missing_device_is_told_where_there_are_no_tunnels() {
    let text = &planned(Some("vxlan9"), &[]).warnings[0].text;
    assert!(text.ends_with("so its MTU is not set; apply again when it is there"), "{text}");
}

/// A bridge is compared with the MTU that its port has after the apply, if [link] sets that.
#[test]
fn a_bridge_is_compared_with_the_mtu_that_its_port_gets() {
    let told = |named: &str, own, bridge| {
        let bridged = Tunnel { master: Some("br0".into()), ..vxlan("vxlan42", 4789) };
        let wish = LinkWish { device: named.into(), mtu: Mtu::Exactly(1300) };
        let config = Config { link: Some(wish), ..lab() };
        let mut kernel = host_with(&config, &[bridged, vxlan("vxlan43", 4789)]);
        let links = &mut kernel.state_mut().links;
        links.iter_mut().filter(|link| link.name == "vxlan42").for_each(|link| link.mtu = own);
        links.push(Link { kind: Some("bridge".into()), ..link("br0", bridge) });
        let plan = plan(&config, &mut kernel);
        let lines = plan.warnings.iter().filter(|line| line.code == WarningCode::BridgeMtu);
        let remedies = lines.map(|line| line.text.rsplit(' ').next().unwrap().to_owned());
        remedies.collect::<Vec<_>>()
    };
    assert_eq!(told("vxlan42", 1400, 1400), ["1300"]);
    assert_eq!(told("vxlan42", 1200, 1300), [""; 0]);
    assert_eq!(told("vxlan43", 1400, 1400), [""; 0]);
    assert_eq!(told("vxlan43", 1200, 1300), ["1200"]);
}
