//! The sysctls that take packets past all policies: which are in the way, which are told, and which
//! are neither.

use std::net::IpAddr;

use super::*;
use crate::common::{plan, route};
use meshsec::{
    config::{Config, Exception},
    model::{Family, Link, LocalAddress, Queue},
    plan::{ConflictCode, WarningCode},
};

/// What a plan says of a sysctl.
#[derive(Debug, PartialEq)]
enum Says {
    Nothing,
    /// A warning.
    Told,
    /// A conflict that stops the peer with this name.
    Stops(&'static str),
    StopsAll,
}
use Says::{Nothing, Stops, StopsAll, Told};

/// The meshes: with policies as its guard, with both guards, and without a guard.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Guarded {
    ByPolicies,
    Twice,
    Not,
}
use Guarded::{ByPolicies, Not, Twice};

fn config(guarded: Guarded, peers: &[&str]) -> Config {
    let lab = mesh(1, peers);
    match guarded {
        ByPolicies => Config { guard: Guard::Policies, ..lab },
        Twice => lab,
        Not => Config { guard: Guard::Off, traffic: Traffic::All, ..lab },
    }
}

const LAB6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// A host with its address on one device, that sends to its peers by others; a peer without a device
/// has an unknown way.
fn host_of(config: &Config, carrier: &str, by: [Option<&str>; 2]) -> Memory {
    let mut kernel = host(config);
    let local = config.peers[0].address;
    let state = kernel.state_mut();
    state.addresses[0].device = carrier.into();
    let other: IpAddr = if local.is_ipv4() { [10, 9, 9, 9].into() } else { [9; 8].into() };
    state.addresses.push(LocalAddress { address: other, device: "eth9".into() });
    let ways = config.peers[1..].iter().zip(by);
    let ways = ways.filter_map(|(peer, by)| Some(route(local, peer.address, &[by?])));
    state.routes = ways.collect();
    // From another address of the host packets take another way, which says nothing.
    state.routes.push(route(other, config.peers[1].address, &["eth8"]));
    kernel
}

/// What is said of a sysctl, written as its path below `net/`.
fn says(config: &Config, kernel: &Memory, sysctl: &str) -> Says {
    let mut kernel = Memory::holding(kernel.state().clone());
    let words: Vec<&str> = sysctl.split('/').collect();
    let [family, device, name] = words[..] else { panic!("{sysctl}") };
    let ipv6 = family == "ipv6";
    kernel.state_mut().bypasses = vec![Bypass { device: device.into(), ipv6, name: name.into() }];
    let plan = plan(config, &mut kernel);
    let key = format!("net/{family}/conf/{device}/{name}");
    let warnings = plan.warnings.iter().filter(|line| line.code == WarningCode::PastTheGuard);
    let warnings: Vec<&str> = warnings.map(|line| line.text.as_str()).collect();
    match (plan.conflicts.as_slice(), warnings.as_slice()) {
        ([], []) => Nothing,
        ([], [text]) => {
            let moves = if name == "disable_xfrm" { "leave by" } else { "come in by" };
            let begin = format!("packets that {moves} {device} pass all policies");
            assert!(text.starts_with(&begin) && text.ends_with(&format!("sysctl -w {key}=0")));
            Told
        }
        ([conflict], []) => {
            assert_eq!(conflict.code, ConflictCode::Bypass);
            assert_eq!(conflict.object, format!("sysctl {key} = 1"));
            assert!(conflict.text.ends_with(&format!("sysctl -w {key}=0")));
            StopsAll
        }
        ([conflict], [_]) => {
            let peers = conflict.stops.peers().expect("a warning is for strangers");
            let names: Vec<&str> = peers.iter().map(|name| name.as_str()).collect();
            Stops(match names[..] {
                ["b"] => "b",
                ["c"] => "c",
                _ => panic!("{names:?}"),
            })
        }
        other => panic!("{other:?}"),
    }
}

type Case = (Guarded, [&'static str; 3], &'static str, Says);

fn check(peers: &[&str], cases: impl IntoIterator<Item = Case>) {
    for (guarded, [carrier, to_b, to_c], sysctl, expected) in cases {
        let config = config(guarded, peers);
        let known = |by: &'static str| (by != "?").then_some(by);
        let kernel = host_of(&config, carrier, [known(to_b), known(to_c)]);
        let case = format!("{guarded:?}: {carrier} has the address, {to_b} and {to_c}: {sysctl}");
        assert_eq!(says(&config, &kernel, sysctl), expected, "{case}");
    }
}

/// The device that carries the address, and those by which packets leave for b and c; `?` where
/// the way is not known.
const PLAIN: [&str; 3] = ["eth0", "eth0", "eth0"];
const APART: [&str; 3] = ["eth0", "eth1", "eth2"];
const AWAY: [&str; 3] = ["eth0", "eth1", "eth1"];
const UNKNOWN: [&str; 3] = ["eth0", "?", "?"];
const ON_LO: [&str; 3] = ["lo", "eth0", "eth0"];
const ON_LO_UNKNOWN: [&str; 3] = ["lo", "?", "?"];

#[test]
fn over_ipv4_packets_leave_by_the_device_of_the_route() {
    check(
        &LAB,
        [
            (Not, PLAIN, "ipv4/all/disable_xfrm", StopsAll),
            (Not, PLAIN, "ipv4/eth0/disable_xfrm", StopsAll),
            (ByPolicies, APART, "ipv4/eth1/disable_xfrm", Stops("b")),
            (ByPolicies, APART, "ipv4/eth2/disable_xfrm", Stops("c")),
            (ByPolicies, APART, "ipv4/eth0/disable_xfrm", Told),
            (ByPolicies, AWAY, "ipv4/eth8/disable_xfrm", Told),
            (ByPolicies, UNKNOWN, "ipv4/eth0/disable_xfrm", StopsAll),
            (ByPolicies, ["eth0", "eth1", "?"], "ipv4/eth0/disable_xfrm", Stops("c")),
            (ByPolicies, UNKNOWN, "ipv4/eth9/disable_xfrm", Told),
            (ByPolicies, ON_LO_UNKNOWN, "ipv4/lo/disable_xfrm", Nothing),
            // Without a guard strangers are not of the mesh; its rules look at no sysctl.
            (Not, AWAY, "ipv4/eth0/disable_xfrm", Nothing),
            (Twice, AWAY, "ipv4/eth0/disable_xfrm", Nothing),
        ],
    );
}

#[test]
fn over_ipv4_packets_come_in_by_the_device_of_the_address_or_of_the_route() {
    check(
        &LAB,
        [
            (ByPolicies, AWAY, "ipv4/eth0/disable_policy", StopsAll),
            (ByPolicies, AWAY, "ipv4/eth1/disable_policy", StopsAll),
            (ByPolicies, ON_LO, "ipv4/eth0/disable_policy", StopsAll),
            (ByPolicies, ON_LO, "ipv4/lo/disable_policy", Nothing),
            (ByPolicies, AWAY, "ipv4/eth9/disable_policy", Told),
            // Packets may be forged where there is no guard; its rules look at no sysctl.
            (Not, AWAY, "ipv4/eth9/disable_policy", Told),
            (Twice, AWAY, "ipv4/eth9/disable_policy", Nothing),
        ],
    );
}

#[test]
fn over_ipv6_packets_come_in_by_the_device_of_the_address() {
    check(
        &LAB6,
        [
            (ByPolicies, AWAY, "ipv6/eth0/disable_policy", StopsAll),
            (ByPolicies, AWAY, "ipv6/eth1/disable_policy", Told),
            (ByPolicies, ON_LO, "ipv6/lo/disable_policy", StopsAll),
            (ByPolicies, APART, "ipv6/eth1/disable_xfrm", Stops("b")),
        ],
    );
}

/// Guards are for both families, and all else of the mesh for one.
#[test]
fn a_sysctl_of_the_other_family_is_in_the_way_of_guards_alone() {
    for (peers, other) in [(LAB, "ipv6"), (LAB6, "ipv4")] {
        for name in ["disable_xfrm", "disable_policy"] {
            let sysctl = |device| -> &'static str { format!("{other}/{device}/{name}").leak() };
            check(
                &peers,
                [
                    (Not, PLAIN, sysctl("all"), Nothing),
                    (ByPolicies, PLAIN, sysctl("all"), StopsAll),
                    (Not, PLAIN, sysctl("eth0"), Nothing),
                    (ByPolicies, PLAIN, sysctl("eth0"), StopsAll),
                    (ByPolicies, AWAY, sysctl("eth1"), Told),
                    (Twice, AWAY, sysctl("eth1"), Nothing),
                    (Not, AWAY, sysctl("eth1"), Nothing),
                    (ByPolicies, ON_LO, sysctl("lo"), Nothing),
                ],
            );
        }
    }
}

/// Rules of iptables stop what goes past the policies. Those that a family can't have stop nothing.
#[test]
fn without_rules_of_a_family_its_sysctls_are_told() {
    let config = config(Twice, &LAB);
    let mut kernel = host_of(&config, "eth0", [Some("eth1"); 2]);
    for (sysctl, expected) in [
        ("ipv6/eth1/disable_xfrm", Told),
        ("ipv6/eth1/disable_policy", Told),
        ("ipv4/eth0/disable_xfrm", Nothing),
        ("ipv4/eth9/disable_policy", Nothing),
    ] {
        kernel.state_mut().firewall.backends.remove(&Family::Ipv6);
        assert_eq!(says(&config, &kernel, sysctl), expected, "{sysctl}");
    }
}

/// Where a VRF has a queue, packets that wait in it are looked up again without their ports.
#[test]
fn a_vrf_with_a_queue_takes_packets_to_strangers_past_policies_that_guard() {
    let told = |guard: Guard, reached: bool| {
        let config = Config { guard, ..lab() };
        let mut kernel = applied_host(&config);
        let state = kernel.state_mut();
        let queue = Some(Queue::Discipline("pfifo".into()));
        let red = Link { kind: Some("vrf".into()), queue, ..crate::common::link("red", 1500) };
        state.links.push(red);
        if reached {
            state.routes.iter_mut().for_each(|route| route.vrfs = ["red".to_owned()].into());
        }
        let plan = crate::common::plan(&config, &mut kernel);
        let warns = plan.warnings.iter().any(|line| line.text.contains("wait in VRF red"));
        (plan.conflicts.len(), warns)
    };
    assert_eq!(told(Guard::Policies, false), (0, true));
    // Rules of iptables look at no policy; and a conflict says it already.
    assert_eq!(told(Guard::Both, false), (0, false));
    assert_eq!(told(Guard::Policies, true), (1, false));
    assert_eq!(told(Guard::Off, false), (0, false));
}

/// An echo reply has type 0, which is what a look-up without types sees of any ICMP.
#[test]
fn a_vrf_with_a_queue_shows_errors_beside_an_exception_for_echo() {
    let told = |exceptions: &[Exception]| {
        let traffic = Traffic::All;
        let config =
            Config { traffic, guard: Guard::Off, exceptions: exceptions.to_vec(), ..mesh(1, &LAB) };
        let mut kernel = applied_host(&config);
        let state = kernel.state_mut();
        let queue = Some(Queue::Discipline("pfifo".into()));
        let red = Link { kind: Some("vrf".into()), queue, ..crate::common::link("red", 1500) };
        state.links.push(red);
        state.routes.iter_mut().for_each(|route| route.vrfs = ["red".to_owned()].into());
        let conflicts = crate::common::plan(&config, &mut kernel).conflicts;
        conflicts.iter().any(|conflict| conflict.text.contains("like the echo replies"))
    };
    assert!(told(&[Exception::Echo]));
    assert!(!told(&[]));
}
