//! Policies of a kind of their own, and those of others that look like ours.

use meshsec::{
    config::{Config, Ports, Protocol, Select, Traffic},
    model::{
        Action, Direction, Level, LocalAddress, Mark, Mode, Policy, Prefix, ReasonCode, Reqid,
        Selector, Spi, State, Template, WarningCode,
    },
    plan::{Phase, PolicyStep, StepKind},
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

/// One that covers ICMP errors goes when the others that do so go, as it may be the only one. One
/// that encrypts nothing can't be closed, and no guard is for ICMP.
#[test]
fn a_policy_that_covers_icmp_errors_goes_with_those() {
    let steps = |proto, template_proto| {
        let mut kernel = applied_host(&lab());
        let state = kernel.state_mut();
        let mut wide = policy(state, Direction::Out, "192.0.2.2").clone();
        let Selector { src, dst, .. } = wide.id.selector;
        wide.id.selector = Selector { proto, ..Selector::between(src, dst) };
        wide.extras.insert("flag localok".into());
        (wide.templates[0].level, wide.templates[0].proto) = (Level::Use, template_proto);
        state.policies.push(wide);
        plan(&lab(), &mut kernel).steps
    };
    let phases = |steps: &[meshsec::plan::PlannedStep]| {
        steps.iter().map(|step| (step.phase, step.name())).collect::<Vec<_>>()
    };
    let closed = steps(1, 50);
    let last = (Phase::DeleteIcmpErrors, "delete_policy");
    assert_eq!(phases(&closed), [(Phase::Guards, "update_policy"), last]);
    assert_eq!(phases(&steps(0, 50)), [(Phase::Guards, "update_policy"), last]);
    assert_eq!(phases(&steps(1, 51)), [last]);
    // No step can give a policy attributes that no mesh has.
    let StepKind::Policy(PolicyStep::Update(policy)) = &closed[0].step.kind else { panic!() };
    assert_eq!(policy.extras, [].into());
}

/// Where a mark selects, no policy guards what leaves. One that lets it pass in the clear goes behind
/// the packets' own.
#[test]
fn a_policy_out_that_lets_clear_text_pass_goes_late_where_a_mark_selects() {
    let select = Select::Mark(Mark { value: 0x20000, mask: 0x20000 });
    let config = Config { select, ..mesh(1, &["192.0.2.1", "192.0.2.2"]) };
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    let mut second = policy(state, Direction::Out, "192.0.2.2").clone();
    second.id.selector = second.id.selector.to_port(17, 53);
    second.templates[0].level = Level::Use;
    state.policies.push(second);
    let steps = plan(&config, &mut kernel).steps;
    let steps: Vec<_> = steps.iter().map(|step| (step.phase, step.name())).collect();
    assert_eq!(steps, [(Phase::DeletePolicies, "delete_policy")]);
}

#[test]
fn a_policy_of_another_interface_is_told_from_one_that_nothing_asks_for() {
    let reason = |if_id| {
        let mut kernel = applied_host(&lab());
        let state = kernel.state_mut();
        let mut second = policy(state, Direction::Out, "192.0.2.2").clone();
        (second.id.if_id, second.id.selector.proto) = (if_id, 6);
        state.policies.push(second);
        plan(&lab(), &mut kernel).changes[0].reason.code
    };
    assert_eq!(reason(7), ReasonCode::ForeignIdentity);
    assert_eq!(reason(0), ReasonCode::Unwanted);
}

/// Of packets that nothing protects any more the widest are named, once.
#[test]
fn packets_that_are_left_in_the_clear_are_named_by_the_widest_selector() {
    let config = Config { guard: meshsec::config::Guard::Off, ..lab() };
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    let mut second = policy(state, Direction::Out, "192.0.2.2").clone();
    let Selector { src, dst, .. } = second.id.selector;
    second.id.selector = Selector { proto: 6, ..Selector::between(src, dst) };
    let wide = Prefix { address: "192.0.2.9".parse().unwrap(), length: 24 };
    for (dst, user) in [(second.id.selector.dst, 0), (wide, 0), (wide, 1)] {
        (second.id.selector.dst, second.id.selector.user) = (dst, user);
        state.policies.push(second.clone());
    }
    let warnings = plan(&config, &mut kernel).warnings;
    let text = warnings.iter().find(|line| line.code == WarningCode::LeftInTheClear);
    let (_, named) = text.unwrap().text.split_once("in the clear: ").unwrap();
    assert_eq!(named, "src 192.0.2.1/32 dst 192.0.2.9/24 proto tcp");
}

/// Chains for what leaves and arrives drop nothing that is sent on, and one line more says no more
/// than the ninth.
#[test]
fn foreign_policies_whose_packets_chains_drop_are_told_or_counted() {
    let told = |direction, count: u8| {
        let mut kernel = applied_host(&lab());
        kernel.state_mut().policies.extend((0..count).map(|number| {
            let [a, b] = ["192.0.2.1".parse().unwrap(), [198, 51, 100, number].into()];
            let templates = vec![Template::transport(a, b, Spi::from_raw(0), Reqid(7))];
            let selector = Selector::hosts(a, b).to_port(17, 4789);
            Policy { templates, ..foreign_allow(direction, selector, 7) }
        }));
        let warnings = plan(&lab(), &mut kernel).warnings;
        let lines = warnings.into_iter().filter(|line| line.code == WarningCode::SecondGuardDrops);
        lines.map(|line| line.text).collect::<Vec<_>>()
    };
    assert_eq!(told(Direction::Fwd, 1), [""; 0]);
    assert_eq!(told(Direction::Out, 1).len(), 1);
    let nine = told(Direction::Out, 9);
    assert!(nine.len() == 9 && nine[8].starts_with("the foreign policy"), "{nine:?}");
    let ten = told(Direction::Out, 10);
    assert!(ten.len() == 9 && ten[8] == "the same is true of 2 more", "{ten:?}");
}

/// What the types of an object have no name for is told all the same.
#[test]
fn attributes_that_no_mesh_has_are_told() {
    let mut kernel = applied_host(&lab());
    let state = kernel.state_mut();
    policy(state, Direction::Out, "192.0.2.2").extras.insert("flag localok".into());
    state.sas[0].extras.insert("flag noecn".into());
    let changes = plan(&lab(), &mut kernel).changes;
    let told = changes.iter().flat_map(|change| change.fields());
    let told: Vec<_> = told.map(|field| (field.name, field.before, field.after)).collect();
    let expected = ["flag noecn", "flag localok"].map(|was| ("unexpected", Some(was.into()), None));
    assert_eq!(told, expected);
}

/// A policy out of mode tunnel is closed like any other: it meets no packets that arrive.
#[test]
fn a_policy_out_of_mode_tunnel_is_closed_before_it_goes() {
    let mut kernel = applied_host(&lab());
    let state = kernel.state_mut();
    let mut second = policy(state, Direction::Out, "192.0.2.2").clone();
    second.id.selector = second.id.selector.to_port(17, 53);
    (second.templates[0].level, second.templates[0].mode) = (Level::Use, Mode::Tunnel);
    state.policies.push(second);
    let steps = plan(&lab(), &mut kernel).steps;
    let steps: Vec<_> = steps.iter().map(|step| (step.phase, step.name())).collect();
    let last = (Phase::DeletePolicies, "delete_policy");
    assert_eq!(steps, [(Phase::Guards, "update_policy"), last]);
}

/// One that asks for any SA tells no generation from which it would be moved, nor a ShortID.
#[test]
fn a_policy_out_that_asks_for_any_sa_moves_from_no_generation() {
    let mut kernel = applied_host(&lab());
    policy(kernel.state_mut(), Direction::Out, "192.0.2.2").templates[0].spi = Spi::from_raw(0);
    let plan = plan(&lab(), &mut kernel);
    assert_eq!((plan.changes.len(), plan.warnings), (1, vec![]));
}
