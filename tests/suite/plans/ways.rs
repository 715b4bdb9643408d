//! Golden plans about the ways to peers: routes, and sysctls of their devices.

use std::net::IpAddr;

use super::*;
use crate::common::{observe, plan, route};
use meshsec::{
    config::Select,
    model::{Hidden, Link, Mark, Queue, Route},
    plan::{Flow, WarningCode, flow_out},
};

/// Guarded by policies alone: rules of iptables look at no sysctl.
fn by_policies(config: Config) -> Config {
    Config { guard: Guard::Policies, ..config }
}

fn lab() -> Config {
    by_policies(super::lab())
}

fn bypass(device: &str, name: &str) -> Bypass {
    Bypass { device: device.into(), ipv6: false, name: name.into() }
}

/// The way to the peer with an address that ends in this number.
fn way(state: &mut State, to: u8) -> &mut Route {
    state.routes.iter_mut().find(|route| route.to == IpAddr::from([192, 0, 2, to])).unwrap()
}

fn ways(state: &mut State, to: u8, devices: &[&str]) {
    let way = way(state, to);
    *way = route(way.from, way.to, devices);
}

/// As in a fabric where hosts announce their addresses.
fn address_to_lo(state: &mut State) {
    state.addresses[0].device = "lo".into();
    state.links.push(Link { kind: Some("loopback".into()), ..crate::common::link("lo", 65536) });
}

/// The fate of the tunnel's packets to the first peer, as a plan tells it.
fn flow(kernel: &mut Memory) -> Flow {
    let hosts = Selector::hosts([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let packet = Selector { sport: meshsec::model::PortMatch::exactly(49_152), ..hosts };
    flow_out(&observe(kernel).0, &packet.to_port(17, 4789))
}

#[test]
fn the_address_is_on_lo_and_the_device_of_the_route_bypasses_policies() {
    let mut kernel = applied_host(&lab());
    address_to_lo(kernel.state_mut());
    assert!(plan(&lab(), &mut kernel).is_empty());
    kernel.state_mut().bypasses.push(bypass("eth0", "disable_xfrm"));
    golden("the-address-is-on-lo-and-the-route-bypasses", &lab(), &mut kernel);
    assert_eq!(flow(&mut kernel), Flow::Clear);
}

#[test]
fn one_of_the_ways_to_a_peer_bypasses_policies() {
    let mut kernel = host(&lab());
    ways(kernel.state_mut(), 3, &["eth0", "eth1"]);
    kernel.state_mut().bypasses.push(bypass("eth1", "disable_xfrm"));
    golden("one-of-the-ways-to-a-peer-bypasses", &lab(), &mut kernel);
}

#[test]
fn the_device_of_the_address_bypasses_and_no_packet_leaves_by_it() {
    let mut kernel = applied_host(&lab());
    for to in [2, 3] {
        ways(kernel.state_mut(), to, &["eth1"]);
    }
    kernel.state_mut().bypasses.push(bypass("eth0", "disable_xfrm"));
    assert!(plan(&lab(), &mut kernel).conflicts.is_empty());
    assert!(matches!(flow(&mut kernel), Flow::Protected(_)));
}

#[test]
fn where_the_route_is_not_known_the_worst_is_told() {
    let mut kernel = applied_host(&lab());
    address_to_lo(kernel.state_mut());
    kernel.state_mut().routes.clear();
    assert!(matches!(flow(&mut kernel), Flow::Protected(_)));
    kernel.state_mut().bypasses.push(bypass("eth0", "disable_xfrm"));
    golden("the-routes-are-not-known", &lab(), &mut kernel);
    assert_eq!(flow(&mut kernel), Flow::Clear);
}

/// The device in the VRF counts, not the VRF.
#[test]
fn what_a_vrf_says_of_itself_counts_for_nothing() {
    let config = lab();
    let mut kernel = applied_host(&config);
    way(kernel.state_mut(), 2).vrfs.insert("red".into());
    for name in ["disable_policy", "disable_xfrm"] {
        kernel.state_mut().bypasses = vec![bypass("red", name)];
        assert!(plan(&config, &mut kernel).conflicts.is_empty(), "{name}");
        assert!(matches!(flow(&mut kernel), Flow::Protected(_)), "{name}");
    }
}

/// Puts the way to peer b into a VRF that has a queue.
fn queue_all(state: &mut State) {
    way(state, 2).vrfs.insert("red".into());
    let queue = Some(Queue::Discipline("pfifo".into()));
    state.links.push(Link { kind: Some("vrf".into()), queue, ..crate::common::link("red", 65575) });
}

#[test]
fn packets_wait_in_a_vrf() {
    let config = lab();
    let mut kernel = applied_host(&config);
    queue_all(kernel.state_mut());
    golden("packets-wait-in-a-vrf", &config, &mut kernel);
    assert_eq!(flow(&mut kernel), Flow::Clear);
    // The rules of the second guard drop them all the same.
    let both = super::lab();
    let mut kernel = applied_host(&both);
    queue_all(kernel.state_mut());
    let says =
        |config: &Config, kernel: &mut Memory| plan(config, kernel).conflicts[0].text.clone();
    assert!(says(&both, &mut kernel).contains("the second guard drops them, but not ICMP errors"));
    assert_eq!(flow(&mut kernel), Flow::Blocked);
    // They get their mark behind that.
    let select = Select::Mark(Mark { value: 0x2_0000, mask: 0x2_0000 });
    let marked = Config { select, ..super::lab() };
    let mut kernel = applied_host(&marked);
    queue_all(kernel.state_mut());
    let warnings = plan(&marked, &mut kernel).warnings;
    assert!(warnings.iter().any(|warning| warning.code == WarningCode::MarkInAVrf));
    assert!(says(&marked, &mut kernel).contains("without the type of ICMP errors, and these"));
    assert!(matches!(flow(&mut kernel), Flow::Protected(_)));
    // Policies for everything ask for no port.
    let mut kernel = applied_host(&config);
    queue_all(kernel.state_mut());
    let config = Config { traffic: Traffic::All, guard: meshsec::config::Guard::Off, ..lab() };
    assert!(plan(&config, &mut kernel).conflicts.iter().all(|line| !line.object.contains("VRF")));
}

#[test]
fn over_ipv6_the_device_with_the_address_counts() {
    let config = by_policies(mesh(1, &["2001:db8::1", "2001:db8::2"]));
    for (device, conflicts) in [("eth0", 0), ("eth1", 0), ("lo", 1)] {
        let mut kernel = applied_host(&config);
        address_to_lo(kernel.state_mut());
        let bypass = Bypass { ipv6: true, ..bypass(device, "disable_policy") };
        kernel.state_mut().bypasses.push(bypass);
        let plan = plan(&config, &mut kernel);
        assert_eq!(plan.conflicts.len(), conflicts, "{device}");
        assert_eq!(plan.warnings.len(), 1 - conflicts, "{device}");
    }
}

#[test]
fn routes_that_lead_nowhere_are_told() {
    edited("routes-that-lead-nowhere", |state| {
        ways(state, 2, &[]);
        way(state, 2).refused = Some("ENETUNREACH".into());
        way(state, 3).no_carrier.insert("eth0".into());
    });
}

#[test]
fn the_kernel_picks_another_source_address() {
    let config = Config { traffic: Traffic::All, guard: Guard::Off, ..mesh(1, &LAB[..2]) };
    let mut kernel = applied_host(&config);
    way(kernel.state_mut(), 2).source = Some([192, 0, 2, 101].into());
    golden("the-kernel-picks-another-source-address", &config, &mut kernel);
}

#[test]
fn sysctls_that_cannot_be_seen_are_told() {
    edited("sysctls-that-cannot-be-seen", |state| state.hidden = [Hidden::Sysctls].into());
}

fn masquerade(certain: bool) -> meshsec::model::Translation {
    let rule = "iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE".into();
    meshsec::model::Translation { rule, chain: "POSTROUTING".into(), certain, esp: false }
}

#[test]
fn a_rule_gives_packets_to_peers_another_address() {
    let config =
        Config { traffic: Traffic::All, guard: meshsec::config::Guard::Off, ..mesh(1, &LAB[..2]) };
    let mut kernel = applied_host(&config);
    kernel.state_mut().translations = vec![masquerade(true), masquerade(false)];
    golden("a-rule-gives-packets-to-peers-another-address", &config, &mut kernel);
}

#[test]
fn a_guard_blocks_what_a_rule_gives_another_address() {
    edited("a-guard-blocks-what-a-rule-gives-another-address", |state| {
        state.translations = vec![masquerade(true)];
        state.hidden = [Hidden::Translations].into();
    });
}

#[test]
fn disable_policy_of_a_dummy_with_the_address_is_no_conflict_over_ipv4() {
    let mut kernel = applied_host(&lab());
    let state = kernel.state_mut();
    state.addresses[0].device = "dummy0".into();
    state.links.push(Link { kind: Some("dummy".into()), ..crate::common::link("dummy0", 1500) });
    state.bypasses.push(bypass("dummy0", "disable_policy"));
    let plan = plan(&lab(), &mut kernel);
    assert_eq!((plan.conflicts.len(), plan.warnings.len()), (0, 1));
}
