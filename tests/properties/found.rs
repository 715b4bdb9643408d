//! Finds of random cases, each in its own words.

use meshsec::{
    config::{Config, Guard, Traffic},
    desired::{Desired, Goal},
    kernel::memory::Memory,
    model::{
        Action, Algorithm, Bypass, Direction, Level, Mark, Mode, Policy, PortMatch, Prefix, Reqid,
        Rule, Sa, Selector, Spi, State,
    },
    plan::{Flow, Phase, Plan, PlannedStep, PolicyStep, StepKind, WarningCode, flow_out},
};

use crate::{
    common::{REQID, applied_host, mesh, observe, plan},
    packets::{Fate, Packet, leaks, leaves},
};

/// AH's number as an IP protocol (RFC 4302).
const IPPROTO_AH: u8 = 51;

fn lab() -> Config {
    mesh(1, &["192.0.2.1", "192.0.2.2", "192.0.2.3"])
}

fn open() -> Config {
    Config { guard: Guard::Off, ..lab() }
}

/// The same with policies as its guard, and no rules of iptables.
fn by_policies() -> Config {
    Config { guard: Guard::Policies, ..lab() }
}

fn packet_to(peer: &str) -> Packet {
    Packet::udp("192.0.2.1".parse().unwrap(), peer.parse().unwrap(), 4789)
}

fn out_to<'s>(state: &'s mut State, packet: &Packet) -> &'s mut Policy {
    let out = |policy: &&mut Policy| {
        policy.id.direction == Direction::Out
            && policy.id.selector.dst == Prefix::host(packet.dst)
            && !policy.is_for_icmp_errors()
    };
    state.policies.iter_mut().find(out).unwrap()
}

fn sa_to<'s>(state: &'s mut State, packet: &Packet) -> &'s mut Sa {
    state.sas.iter_mut().find(|sa| sa.id.dst == packet.dst).unwrap()
}

/// Both models of the look-ups, of a host on which one thing is not as it was.
fn told(config: &Config, odd: impl FnOnce(&mut State)) -> (Flow, bool) {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(config);
    odd(kernel.state_mut());
    let flow = flow_out(kernel.state(), &packet.selector());
    (flow, leaks(kernel.state(), &packet))
}

#[test]
fn a_sysctl_that_takes_packets_past_policies_is_told_of_as_clear_text() {
    let bypass =
        |device: &str, name: &str| Bypass { device: device.into(), ipv6: false, name: name.into() };
    for device in ["eth0", "all"] {
        let odd = |state: &mut State| state.bypasses.push(bypass(device, "disable_xfrm"));
        assert_eq!(told(&by_policies(), odd), (Flow::Clear, true));
        // Rules of iptables look at no sysctl.
        assert_eq!(told(&lab(), odd), (Flow::Blocked, false));
    }
    for (device, name) in [("eth1", "disable_xfrm"), ("eth0", "disable_policy")] {
        let odd = |state: &mut State| state.bypasses.push(bypass(device, name));
        let (flow, leaks) = told(&lab(), odd);
        assert!(matches!(flow, Flow::Protected(_)) && !leaks, "{device} {name}: {flow}");
    }
}

#[test]
fn an_sa_that_the_kernel_would_not_find_protects_nothing() {
    let packet = packet_to("192.0.2.2");
    type Odd = fn(&mut Sa);
    let odd: [Odd; 2] = [|sa| sa.if_id = 7, |sa| sa.id.mark = Mark { value: 1, mask: 1 }];
    for odd in odd {
        assert_eq!(told(&lab(), |state| odd(sa_to(state, &packet))), (Flow::Blocked, false));
    }
    // A template without a reqid takes any SA of incoming packets, and none of ours of outgoing
    // ones.
    let odd = |state: &mut State| out_to(state, &packet).templates[0].reqid = Reqid(0);
    assert_eq!(told(&lab(), odd), (Flow::Blocked, false));
}

/// The kernel finds such an SA where its hash puts it beside those from no address (seen on 6.12).
#[test]
fn an_sa_from_another_address_may_be_found() {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&lab());
    let sa = sa_to(kernel.state_mut(), &packet);
    let spi = sa.id.spi;
    sa.src = [192, 0, 2, 9].into();
    assert_eq!(flow_out(kernel.state(), &packet.selector()), Flow::Blocked);
    let fates = leaves(kernel.state(), &packet);
    assert_eq!(fates, [Fate::Protected(spi), Fate::Dropped].into());

    // So one that encrypts nothing may let packets leave that would wait for another.
    let ah = |state: &mut State| {
        out_to(state, &packet).templates[0].proto = IPPROTO_AH;
        let sa = sa_to(state, &packet);
        (sa.id.proto, sa.src) = (IPPROTO_AH, [192, 0, 2, 9].into());
    };
    assert_eq!(told(&lab(), ah), (Flow::Clear, true));
}

/// One from no address is always found, unless an SA that has no key yet ends the search before.
#[test]
fn an_sa_from_no_address_is_found_last() {
    let packet = packet_to("192.0.2.2");
    let wide = |state: &mut State| sa_to(state, &packet).src = [0, 0, 0, 0].into();
    let (flow, leaks) = told(&lab(), wide);
    assert!(matches!(flow, Flow::Protected(_)) && !leaks, "{flow}");
    for (from, found) in [([192, 0, 2, 1], false), ([0, 0, 0, 0], false), ([192, 0, 2, 9], true)] {
        let larval = |state: &mut State| {
            let policy = out_to(state, &packet);
            (policy.templates[0].spi, policy.templates[0].level) = (Spi::from_raw(0), Level::Use);
            let mut sa = sa_to(state, &packet).clone();
            wide(state);
            (sa.algorithm, sa.src, sa.id.spi) = (Algorithm::Larval, from.into(), Spi::from_raw(7));
            state.sas.push(sa);
        };
        let (flow, leaks) = told(&by_policies(), larval);
        assert_eq!((flow != Flow::Clear, !leaks), (found, found), "from {from:?}: {flow}");
    }
}

#[test]
fn what_is_authenticated_alone_can_be_read() {
    let packet = packet_to("192.0.2.2");
    let ah = |state: &mut State| {
        out_to(state, &packet).templates[0].proto = 51;
        sa_to(state, &packet).id.proto = 51;
    };
    assert_eq!(told(&lab(), ah), (Flow::Clear, true));

    // Somebody else's, ahead of ours: as if it asked for nothing.
    let mut kernel = applied_host(&lab());
    let mut theirs = out_to(kernel.state_mut(), &packet).clone();
    (theirs.id.selector.proto, theirs.priority) = (0, 10);
    (theirs.templates[0].proto, theirs.templates[0].reqid) = (51, Reqid(9));
    kernel.state_mut().policies.push(theirs);
    assert_eq!(plan(&lab(), &mut kernel).conflicts.len(), 1);
}

/// A policy of ours, edited so that it lets clear text pass ahead of the guard,
/// is closed with the guards and not only once all SAs are there.
#[test]
fn what_lets_clear_text_pass_ahead_of_a_guard_is_closed_first() {
    let packet = packet_to("192.0.2.2");
    let after = Config { rotation: mesh(2, &["192.0.2.1"]).rotation, ..by_policies() };
    let edited = |kernel: &mut Memory, to_port: bool| {
        let policy = out_to(kernel.state_mut(), &packet);
        policy.templates[0].level = Level::Use;
        if !to_port {
            policy.id.selector = Selector::hosts(packet.src, packet.dst);
        }
        kernel.state_mut().sas.retain(|sa| sa.id.dst != packet.dst);
        assert!(leaks(kernel.state(), &packet));
    };
    for to_port in [true, false] {
        let mut kernel = applied_host(&by_policies());
        edited(&mut kernel, to_port);
        let steps = plan(&after, &mut kernel).steps;
        let first = &steps[0];
        assert_eq!(first.phase, Phase::Guards);
        assert_eq!(first.name(), "update_policy");
        let step = first.step.keyed(|_| Err(())).unwrap();
        assert!(meshsec::kernel::Kernel::perform(&mut kernel, &[step]).unwrap()[0].is_ok());
        assert!(!leaks(kernel.state(), &packet));
    }
}

/// A sub policy lets nothing pass that the main table refuses. Closed, it would ask for an SA of
/// its own beside the one that the main policy asks for.
#[test]
fn a_sub_policy_of_ours_goes_as_it_is() {
    let packet = packet_to("192.0.2.2");
    for direction in [Direction::Out, Direction::In] {
        let mut kernel = applied_host(&by_policies());
        let state = kernel.state_mut();
        let of_peer = |policy: &&Policy| {
            let Selector { src, dst, .. } = policy.id.selector;
            policy.id.direction == direction
                && !policy.is_for_icmp_errors()
                && [src, dst].contains(&Prefix::host(packet.dst))
        };
        let mut sub = state.policies.iter().find(of_peer).unwrap().clone();
        sub.id.sub = true;
        sub.templates[0].level = Level::Use;
        state.policies.push(sub);
        let steps = plan(&by_policies(), &mut kernel).steps;
        assert_eq!(steps.iter().map(PlannedStep::name).collect::<Vec<_>>(), ["delete_policy"]);
        assert_eq!(steps[0].phase, Phase::DeletePolicies);
    }
}

/// Where a mark selects, packets are looked up before they have it. A policy of ours that takes
/// them on their way would drop them if it asked for an SA, and no guard out comes behind it.
#[test]
fn a_policy_for_what_is_not_marked_yet_goes_as_it_is() {
    let packet = packet_to("192.0.2.2");
    let mark = Mark { value: 1, mask: 1 };
    let config = Config { select: meshsec::config::Select::Mark(mark), ..lab() };
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    let mut wide = out_to(state, &packet).clone();
    (wide.id.mark, wide.id.selector.dst) = (Mark::NONE, Prefix::any(packet.dst));
    wide.templates[0].level = Level::Use;
    state.policies.push(wide);
    let steps = plan(&config, &mut kernel).steps;
    assert_eq!(steps.iter().map(PlannedStep::name).collect::<Vec<_>>(), ["delete_policy"]);
}

/// A policy of ours that lets clear text pass where it finds no SA stays under a conflict, and so
/// does the SA that it finds: it would be replaced with a gap.
#[test]
fn no_sa_is_replaced_under_a_policy_that_is_open_and_stays() {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&by_policies());
    let state = kernel.state_mut();
    let mut open = out_to(state, &packet).clone();
    (open.id.selector.dst, open.templates[0].level) = (Prefix::any(packet.dst), Level::Use);
    let mut theirs = open.clone();
    theirs.id.selector.sport = PortMatch::exactly(7);
    theirs.templates.clear();
    state.policies.extend([open, theirs]);
    let sa = sa_to(state, &packet);
    sa.replay.window = 32;
    let planned = plan(&by_policies(), &mut kernel);
    assert_eq!(planned.conflicts.len(), 1);
    let names: Vec<_> = planned.steps.iter().map(PlannedStep::name).collect();
    assert!(!names.contains(&"replace_sa"), "{names:?}");
}

/// An SA of ours that somebody has edited to AH receives nothing encrypted. A conflict then holds
/// the pair back as one that is new, or ICMP errors would show what it is to receive.
#[test]
fn a_pair_stands_by_its_sas_of_esp_alone() {
    let packet = packet_to("192.0.2.2");
    for (proto, goes_on) in [(50, true), (51, false)] {
        let mut kernel = applied_host(&by_policies());
        let state = kernel.state_mut();
        let mut theirs = out_to(state, &packet).clone();
        theirs.id.selector.sport = PortMatch::exactly(7);
        theirs.templates.clear();
        state.policies.push(theirs);
        let mut received = state.sas.iter().find(|sa| sa.src == packet.dst).unwrap().clone();
        received.id.proto = proto;
        state.sas.retain(|sa| ![sa.src, sa.id.dst].contains(&packet.dst));
        state.sas.push(received);
        let planned = plan(&by_policies(), &mut kernel);
        assert_eq!(planned.conflicts.len(), 1);
        let adds = planned.steps.iter().any(|step| step.name() == "add_sa");
        assert_eq!(adds, goes_on, "protocol {proto}");
    }
}

/// A peer that a conflict stops may have nothing but a policy of nobody's, or
/// the guard that the file no longer wants.
#[test]
fn what_blocks_a_peer_that_is_stopped_stays() {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&lab());
    sa_to(kernel.state_mut(), &packet).reqid = Reqid(9);
    let state = kernel.state_mut();
    state.policies.retain(|policy| {
        policy.id.selector.src != Prefix::host(packet.dst)
            && policy.id.selector.dst != Prefix::host(packet.dst)
    });
    let planned = plan(&open(), &mut kernel);
    assert_eq!(planned.conflicts.len(), 1);
    assert!(planned.steps.iter().all(|step| step.name() != "delete_guard"));

    // One of a whole network is of no peer, and not of c.
    let state = kernel.state_mut();
    state.policies.retain(|policy| !policy.is_guard());
    let mut wide = out_to(state, &packet_to("192.0.2.3")).clone();
    wide.id.selector.dst.length = 24;
    wide.action = Action::Block;
    state.policies.push(wide);
    assert!(!leaks(state, &packet));
    let planned = plan(&open(), &mut kernel);
    assert!(planned.changes.is_empty(), "{:?}", planned.changes);
}

/// The chain guards only up to somebody else's rule.
/// Closed, it would refuse the mesh's own SAs. It goes instead, as a guard blocks clear text.
/// A foreign policy lets the ICMP errors of a peer pass in the clear, which stops that peer. Another
/// policy with the mesh's reqid, for errors to everybody, still encrypts them.
#[test]
fn what_encrypts_the_errors_of_a_peer_that_is_stopped_stays() {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&by_policies());
    let policies = &mut kernel.state_mut().policies;
    let is_about = |policy: &&mut Policy| {
        policy.is_for_icmp_errors() && policy.id.selector.dst == Prefix::host(packet.dst)
    };
    let errors = policies.iter_mut().find(is_about).unwrap();
    let mut wide = errors.clone();
    wide.id.selector.dst = Prefix::any(packet.dst);
    wide.templates[0].level = Level::Use;
    errors.templates.clear();
    errors.priority = wide.priority + 1;
    policies.push(wide.clone());
    let plan = plan(&by_policies(), &mut kernel);
    assert_eq!(plan.conflicts.len(), 1);
    let goes = |step: &PlannedStep| step.name() == "delete_policy";
    assert!(!plan.steps.iter().any(goes), "the policy that encrypts goes");
    // It may be older than those of other peers, once these are switched: it lets nothing pass.
    let closes = |step: &PlannedStep| matches!(&step.step.kind, StepKind::Policy(PolicyStep::Update(policy)) if policy.id == wide.id && !policy.lets_clear_text_pass());
    assert!(plan.steps.iter().any(closes));
    assert_eq!((plan.changes.len(), plan.held), (1, 2));
}

#[test]
fn a_policy_in_of_tunnel_mode_goes_with_the_guards() {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&by_policies());
    let state = kernel.state_mut();
    let of_peer = |policy: &&Policy| {
        policy.id.direction == Direction::In && policy.id.selector.src == Prefix::host(packet.dst)
    };
    let mut wide = state.policies.iter().find(of_peer).unwrap().clone();
    wide.id.selector.dst = Prefix::any(packet.src);
    wide.priority = 1;
    wide.templates[0].level = Level::Use;
    wide.templates[0].mode = Mode::Tunnel;
    state.policies.push(wide);
    let steps = plan(&by_policies(), &mut kernel).steps;
    let steps: Vec<_> = steps.iter().map(|step| (step.phase, step.name())).collect();
    assert_eq!(steps, [(Phase::Guards, "delete_policy")]);
}

/// A policy of the mesh that ranks first and asks for AH drops packets for want of an SA. The wanted
/// one in its place would rank behind a foreign policy that lets them pass.
#[test]
fn a_policy_that_asks_for_ah_ahead_of_a_foreign_one_stays() {
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&open());
    let state = kernel.state_mut();
    let mut foreign = out_to(state, &packet).clone();
    foreign.id.selector = Selector::between(Prefix::host(packet.src), Prefix::any(packet.dst));
    foreign.priority = 999;
    foreign.templates.clear();
    let policy = out_to(state, &packet);
    policy.priority = 1;
    policy.templates[0].proto = IPPROTO_AH;
    state.policies.push(foreign);
    assert!(!leaks(kernel.state(), &packet));
    let plan = plan(&open(), &mut kernel);
    assert!(!plan.conflicts.is_empty());
    for planned in &plan.steps {
        let step = planned.step.keyed(|_| Err(()));
        let Ok(step) = step else { continue };
        assert!(meshsec::kernel::Kernel::perform(&mut kernel, &[step]).unwrap()[0].is_ok());
        assert!(!leaks(kernel.state(), &packet), "{} {}", planned.name(), planned.id());
    }
}

#[test]
fn a_chain_with_a_rule_of_others_takes_no_guards_place() {
    let by_mark =
        Config { select: meshsec::config::Select::Mark(Mark { value: 1, mask: 1 }), ..lab() };
    let mut kernel = applied_host(&by_mark);
    for chain in &mut kernel.state_mut().firewall.chains {
        chain.rules.insert(0, Rule::Other("-j ACCEPT".into()));
    }
    let steps = plan(&lab(), &mut kernel).steps;
    let guards = steps.iter().filter(|step| step.name() == "add_guard");
    assert!(guards.clone().count() == 2 && guards.into_iter().all(|g| g.phase == Phase::Guards));
}

/// Nothing but the mark protects a port with its other chain cut off.
#[test]
fn a_plan_that_stops_marking_says_what_is_in_clear_then() {
    let mark = meshsec::config::Select::Mark(Mark { value: 1, mask: 1 });
    let by_mark = Config { select: mark, ..lab() };
    let mut kernel = applied_host(&by_mark);
    let chains = &mut kernel.state_mut().firewall.chains;
    chains.retain(|chain| chain.id.table == "mangle");
    kernel.state_mut().policies.retain(|policy| !policy.is_guard());
    let other = meshsec::config::Traffic::Geneve { port: 6081 };
    let planned = plan(&Config { traffic: other, ..open() }, &mut kernel);
    let said = planned.warnings.iter().any(|line| {
        line.code == WarningCode::LeftInTheClear && line.text.contains("proto udp dport 4789")
    });
    assert!(said, "{:?}", planned.warnings);
}

/// Two policies that differ in `user` alone, which no look-up asks for, cover each other. Their
/// deletion opens what they protected all the same.
#[test]
fn a_destroy_warns_of_clear_text_where_a_policy_has_a_twin_of_another_user() {
    let config = Config { traffic: Traffic::All, guard: Guard::Off, ..lab() };
    let mut kernel = applied_host(&config);
    let packet = packet_to("192.0.2.2");
    let mut twin = out_to(kernel.state_mut(), &packet).clone();
    twin.id.selector.user = 7;
    kernel.state_mut().policies.push(twin);
    let nothing = Desired { goal: Goal::Nothing, ..Desired::default() };
    let plan = Plan::new(&nothing, &observe(&mut kernel), REQID);
    let text = plan.warnings.iter().find(|warning| warning.code == WarningCode::LeftInTheClear);
    let text = text.expect("a warning").to_string();
    assert!(text.contains("dst 192.0.2.2/32"), "{text}");
}
