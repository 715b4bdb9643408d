//! Policies of a kind of their own, and those of others that look like ours.

use meshsec::{
    config::{Config, Ports, Protocol, Traffic},
    model::{
        Action, Direction, Level, LocalAddress, Mode, Policy, Prefix, Selector, Spi, State,
        Template, WarningCode,
    },
    plan::Phase,
};

use super::{edited, foreign_allow, lab, policy};
use crate::{
    common::{REQID, applied, applied_host, mesh, plan},
    golden_plans::golden,
};

/// Version 0.1 had no policies for forwarded packets, and none for ICMP errors.
fn as_of_0_1(state: &mut State) {
    let is_new =
        |policy: &Policy| policy.id.direction == Direction::Fwd || policy.is_for_icmp_errors();
    assert!(state.policies.iter().any(is_new));
    state.policies.retain(|policy| !is_new(policy));
}

#[test]
fn a_mesh_of_version_0_1_gets_what_it_lacks() {
    edited("a-mesh-of-version-0-1-gets-what-it-lacks", as_of_0_1);
}

/// And nothing is said of traffic that stops, as none does.
#[test]
fn a_mesh_of_version_0_1_without_a_guard_gets_what_it_lacks() {
    let traffic = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::one(443) };
    let config = Config { traffic, guard: meshsec::config::Guard::Off, ..lab() };
    let mut kernel = applied_host(&config);
    as_of_0_1(kernel.state_mut());
    golden("a-mesh-of-version-0-1-without-a-guard-gets-what-it-lacks", &config, &mut kernel);
    assert!(applied(&config, &mut kernel).is_complete());
}

/// A number that strongSwan gives to policies between two networks of /24.
#[test]
fn what_allows_or_transforms_is_no_guard_whatever_its_priority() {
    let net = |text: &str| Prefix { address: text.parse().unwrap(), length: 24 };
    let selector = Selector::between(net("10.1.0.0"), net("10.2.0.0"));
    let mut kernel = applied_host(&lab());
    let mut theirs = foreign_allow(Direction::Out, selector, REQID.0);
    kernel.state_mut().policies.push(theirs.clone());
    (theirs.id.direction, theirs.action) = (Direction::In, Action::Block);
    let ends = ["192.0.2.1", "192.0.2.9"].map(|text| text.parse().unwrap());
    let reqid = meshsec::model::Reqid(9);
    theirs.templates = vec![Template::transport(ends[1], ends[0], Spi::from_raw(0), reqid)];
    kernel.state_mut().policies.push(theirs);
    // The first is as old as the guard may be, and lets pass packets that it blocks: a conflict.
    let planned = plan(&lab(), &mut kernel);
    assert!(planned.changes.is_empty() && planned.conflicts.len() == 1);
    kernel
        .state_mut()
        .policies
        .retain(|policy| policy.action == Action::Block || !policy.templates.is_empty());
    assert!(plan(&lab(), &mut kernel).is_empty());
    // One that blocks and has no templates can't be told from a guard of ours.
    let found = kernel.state_mut().policies.last_mut().unwrap();
    found.templates.clear();
    assert_eq!(plan(&lab(), &mut kernel).changes.len(), 1);
}

/// Policies are for one address, and there is no guard for the others.
#[test]
fn a_host_without_a_guard_has_other_addresses() {
    let config = Config { traffic: Traffic::All, guard: meshsec::config::Guard::Off, ..lab() };
    let mut kernel = applied_host(&config);
    let on = |device: &str, address: &str| LocalAddress {
        address: address.parse().unwrap(),
        device: device.into(),
    };
    let theirs = [("lo", "127.0.0.1"), ("eth0", "169.254.3.4"), ("eth0", "2001:db8::7")];
    kernel.state_mut().addresses.extend(theirs.map(|(device, address)| on(device, address)));
    assert!(plan(&config, &mut kernel).warnings.is_empty());
    let docker = (0..9).map(|number| on("docker0", &format!("172.17.{number}.1")));
    kernel.state_mut().addresses.extend(docker);
    kernel.state_mut().addresses.push(on("eth0", "192.0.2.101"));
    golden("a-host-without-a-guard-has-other-addresses", &config, &mut kernel);
    // Over IPv6 too, those that no packet to a peer comes from are no others.
    let of_ipv6 = ["2001:db8::1", "2001:db8::2"];
    let config = Config { guard: meshsec::config::Guard::Off, ..mesh(1, &of_ipv6) };
    let mut kernel = applied_host(&config);
    let theirs = [on("lo", "::1"), on("eth0", "fe80::1"), on("eth0", "192.0.2.7")];
    kernel.state_mut().addresses.extend(theirs);
    assert!(plan(&config, &mut kernel).warnings.is_empty());
    // With a guard they are blocked.
    let mut guarded = applied_host(&lab());
    guarded.state_mut().addresses.push(on("eth0", "192.0.2.101"));
    assert!(plan(&lab(), &mut guarded).warnings.is_empty());
}

/// The guard blocks its packets then, without rules of iptables as well.
#[test]
fn a_peer_that_goes_leaves_nothing_in_the_clear_behind_a_guard() {
    let config = Config { guard: meshsec::config::Guard::Policies, ..lab() };
    let mut kernel = applied_host(&config);
    let mut fewer = config.clone();
    fewer.peers.pop();
    let warnings = plan(&fewer, &mut kernel).warnings;
    assert!(warnings.iter().all(|line| line.code != WarningCode::LeftInTheClear), "{warnings:?}");
}

/// A policy that lets clear text in, and goes, refuses it before anything else happens. If it can, it
/// goes on taking what comes encrypted until the end.
#[test]
fn a_policy_that_lets_clear_text_in_is_closed_before_it_goes() {
    let steps = |edit: fn(&mut Template)| {
        let mut kernel = applied_host(&lab());
        let state = kernel.state_mut();
        let mut wide = policy(state, Direction::In, "192.0.2.2").clone();
        let Selector { src, dst, .. } = wide.id.selector;
        wide.id.selector = Selector::between(src, dst);
        wide.templates[0].level = Level::Use;
        edit(&mut wide.templates[0]);
        state.policies.push(wide);
        let steps = plan(&lab(), &mut kernel).steps;
        steps.iter().map(|step| (step.phase, step.name())).collect::<Vec<_>>()
    };
    let [closed, gone] = [(Phase::Guards, "update_policy"), (Phase::Guards, "delete_policy")];
    assert_eq!(steps(|_| ()), [closed, (Phase::DeletePolicies, "delete_policy")]);
    // As these would refuse the mesh's packets, or go on taking clear text.
    assert_eq!(steps(|template| template.mode = Mode::Tunnel), [gone]);
    assert_eq!(steps(|template| template.proto = 51), [gone]);
}
