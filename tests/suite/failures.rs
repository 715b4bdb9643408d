//! The course of an apply when the kernel refuses a step or loses an answer.

use std::net::IpAddr;

use crate::common::{applied, applied_host, host, mesh, observe};
use meshsec::{
    config::{Config, Esp, Guard, LinkWish, Ports, Protocol, Select, Traffic},
    kernel::{Errno, memory::Memory},
    model::{Cipher, Direction, Mark, Mtu, Policy, PolicyId, Reqid, Sa, Selector, Spi, State},
    plan::{Flow, Phase, PlannedStep, flow_out},
    render::{Verb, report_text},
};

const ENOMEM: Errno = Errno(12);
/// The probe's SA, and its end, come before the steps.
const PROBE: usize = 2;

/// Guarded by policies alone, so that the steps are those of XFRM.
fn lab(generation: u64) -> Config {
    let guard = Guard::Policies;
    Config { guard, ..mesh(generation, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]) }
}

/// The same with both guards.
fn both() -> Config {
    Config { guard: Guard::Both, ..lab(1) }
}

fn packet_to(peer: &str) -> Selector {
    Selector::hosts("192.0.2.1".parse().unwrap(), peer.parse().unwrap()).to_port(17, 4789)
}

/// The objects of a state for a peer.
fn of_peer(state: &State, peer: &str) -> (Vec<Sa>, Vec<Policy>) {
    let peer: IpAddr = peer.parse().unwrap();
    let sas = state.sas.iter().filter(|sa| sa.src == peer || sa.id.dst == peer);
    let ends = |policy: &&Policy| {
        let selector = policy.id.selector;
        selector.src.address == peer || selector.dst.address == peer
    };
    (sas.cloned().collect(), state.policies.iter().filter(ends).cloned().collect())
}

#[test]
fn a_failed_sa_stops_its_own_peer_and_no_other() {
    let mut kernel = applied_host(&lab(1));
    let before = of_peer(&observe(&mut kernel).0, "192.0.2.2");
    let request = first(&lab(2), &mut kernel, Phase::InboundSas);
    kernel.refuse(request, ENOMEM);
    let report = applied(&lab(2), &mut kernel);

    assert!(!report.is_complete() && report.changed_anything());
    assert!(!report.is_in_place(), "b needs the old key");
    let failed: Vec<String> = report.failed.iter().map(|(step, _)| step.id()).collect();
    assert_eq!(failed, ["dst 192.0.2.1 proto esp spi 0x8c002001"]);
    let left: Vec<&str> = report.left.iter().map(|step| step.name()).collect();
    assert_eq!(left, ["update_policy", "delete_sa", "delete_sa"]);
    let undone: Vec<String> = report.undone.iter().map(|step| step.id()).collect();
    assert_eq!(undone.len(), 1 + 3, "b's outbound SA and its policies for ICMP errors");
    assert_eq!(undone[0], "dst 192.0.2.2 proto esp spi 0x88001002");
    assert!(report.done.iter().all(|step| undone.iter().all(|id| *id != step.id())));
    assert!(report.left.iter().all(|step| step.step.peer.as_ref().unwrap().as_str() == "b"));

    let live = observe(&mut kernel).0;
    let old = Flow::Protected(Spi::from_raw(0x8400_1002));
    assert_eq!(of_peer(&live, "192.0.2.2"), before, "b is what it was");
    assert_eq!(flow_out(&live, &packet_to("192.0.2.2")), old, "b goes on as before");
    let new = Flow::Protected(Spi::from_raw(0x8800_1003));
    assert_eq!(flow_out(&live, &packet_to("192.0.2.3")), new, "c has moved");
    let flows: Vec<_> = report.flows.iter().map(|(peer, flow)| (peer.as_str(), *flow)).collect();
    assert_eq!(flows, [("b", old)]);
    assert!(applied(&lab(2), &mut kernel).is_complete());
}

/// The request of an apply that is the first of a phase.
fn first(config: &Config, kernel: &mut Memory, phase: Phase) -> usize {
    let steps = crate::common::plan(config, kernel).steps;
    PROBE + steps.iter().position(|step| step.phase == phase).expect("there is one")
}

/// The requests of a first apply that add the policies of a peer.
fn requests(config: &Config, peer: &str) -> Vec<usize> {
    let steps = crate::common::plan(config, &mut host(config)).steps;
    let of_peer = |step: &PlannedStep| {
        step.phase == Phase::Policies
            && step.step.peer.as_ref().is_some_and(|name| name.as_str() == peer)
    };
    let numbered = steps.iter().enumerate().filter(|(_, step)| of_peer(step));
    numbered.map(|(number, _)| PROBE + number).collect()
}

#[test]
fn a_new_peer_whose_policy_fails_is_taken_back_behind_the_guard() {
    for nth in requests(&lab(1), "b") {
        let mut kernel = host(&lab(1));
        kernel.refuse(nth, ENOMEM);
        let report = applied(&lab(1), &mut kernel);
        let live = observe(&mut kernel).0;
        let stopped = report.failed[0].0.step.peer.as_ref().unwrap().to_string();
        let (stopped, other) = match stopped.as_str() {
            "b" => ("192.0.2.2", "192.0.2.3"),
            _ => ("192.0.2.3", "192.0.2.2"),
        };
        assert_eq!(of_peer(&live, stopped), (vec![], vec![]));
        assert_eq!(flow_out(&live, &packet_to(stopped)), Flow::Blocked);
        assert!(matches!(flow_out(&live, &packet_to(other)), Flow::Protected(_)));
        assert!(report.undone.len() >= 4 && report.left.is_empty(), "{}", report.undone.len());
        assert!(report.changed_anything(), "the guards stay");
        assert!(applied(&lab(1), &mut kernel).is_complete());
    }
}

#[test]
fn a_policy_in_stays_where_no_guard_would_block_what_it_refuses() {
    let open = Config { guard: Guard::Off, ..lab(1) };
    let mut refused_in_some = 0;
    for nth in requests(&open, "b") {
        let mut kernel = host(&open);
        kernel.refuse(nth, ENOMEM);
        let report = applied(&open, &mut kernel);
        let (sas, policies) = of_peer(&observe(&mut kernel).0, "192.0.2.2");
        // The object that was there first refuses clear text in its direction.
        if !policies.is_empty() {
            refused_in_some += 1;
            assert_eq!(sas.len(), 4, "{} needs its SAs", policies[0].id);
            assert!(report.undone.is_empty());
        }
        assert!(applied(&open, &mut kernel).is_complete());
    }
    assert_eq!(refused_in_some, 3);
}

#[test]
fn a_replaced_sa_is_not_taken_back_since_nobody_has_its_key() {
    let narrow = Config {
        esp: Esp { cipher: Cipher::Aes128Gcm, ..lab(1).esp },
        rotation: lab(2).rotation,
        ..lab(1)
    };
    let mut kernel = applied_host(&lab(1));
    // The inbound SAs of b are replaced, its policy out is refused.
    let request = first(&narrow, &mut kernel, Phase::Policies);
    kernel.refuse(request, ENOMEM);
    let report = applied(&narrow, &mut kernel);
    assert!(report.undone.is_empty() && !report.left.is_empty());
    assert_ne!(flow_out(&observe(&mut kernel).0, &packet_to("192.0.2.2")), Flow::Clear);
    assert!(applied(&narrow, &mut kernel).is_complete());
}

#[test]
fn sas_that_were_lost_come_back_even_if_one_is_refused() {
    let mut kernel = applied_host(&lab(1));
    kernel.state_mut().sas.clear();
    // One of b's inbound SAs; its policies are there and ask for the others.
    let request = first(&lab(1), &mut kernel, Phase::InboundSas);
    kernel.refuse(request, ENOMEM);
    let report = applied(&lab(1), &mut kernel);
    assert!(report.undone.is_empty());
    assert_eq!(observe(&mut kernel).0.sas.len(), 7);
}

#[test]
fn a_policy_that_was_switched_is_switched_back_with_its_sas_still_there() {
    let mut before = lab(1);
    before.traffic = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::one(443) };
    before.guard = Guard::Off;
    let after = Config { rotation: lab(2).rotation, ..before.clone() };
    let mut kernel = applied_host(&before);
    let was = of_peer(&observe(&mut kernel).0, "192.0.2.2");
    let steps = crate::common::plan(&after, &mut kernel).steps;
    // b has two policies out, for either port: the second one is refused.
    let second = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| step.phase == Phase::Policies)
        .filter(|(_, step)| step.step.peer.as_ref().is_some_and(|peer| peer.as_str() == "b"))
        .nth(1)
        .unwrap()
        .0;
    kernel.refuse(PROBE + second, ENOMEM);
    let report = applied(&after, &mut kernel);
    assert_eq!(of_peer(&observe(&mut kernel).0, "192.0.2.2"), was);
    let undone: Vec<&str> = report.undone.iter().map(|step| step.name()).collect();
    let icmp_errors = ["update_policy"; 3];
    let undone_last = ["add_sa", "update_policy"];
    assert_eq!(undone, [&["add_sa"], &icmp_errors[..], &undone_last].concat());
    assert!(applied(&after, &mut kernel).is_complete());
}

#[test]
fn a_peer_that_was_switched_stays_so_where_only_old_sas_can_not_go() {
    let before = mesh(1, &["192.0.2.1", "192.0.2.2"]);
    let after = mesh(2, &["192.0.2.1", "192.0.2.2"]);
    let mut kernel = applied_host(&before);
    let steps = crate::common::plan(&after, &mut kernel).steps;
    let deletes = steps.iter().enumerate().filter(|(_, step)| step.phase == Phase::DeleteSas);
    deletes.for_each(|(nth, _)| kernel.refuse(PROBE + nth, ENOMEM));
    let report = applied(&after, &mut kernel);
    assert_eq!((report.failed.len(), report.left.len(), report.undone.len()), (1, 1, 0));
    let new = Flow::Protected(Spi::from_raw(0x8800_1002));
    assert_eq!(flow_out(&observe(&mut kernel).0, &packet_to("192.0.2.2")), new);
}

#[test]
fn a_way_back_that_fails_is_told_and_leaves_what_is_needed() {
    let mut kernel = host(&lab(1));
    // c's last policy; then, on the way back, the first of those that are there.
    let last = *requests(&lab(1), "c").last().unwrap();
    kernel.refuse(last, ENOMEM);
    kernel.refuse(last + 1, ENOMEM);
    let report = applied(&lab(1), &mut kernel);
    assert_eq!(report.failed.len(), 2);
    let live = observe(&mut kernel).0;
    assert!(applied(&lab(1), &mut kernel).is_complete());
    assert_eq!(live.sas.len(), 8, "what is there needs its SAs");
    assert_eq!(of_peer(&live, "192.0.2.3").1.len(), 1 + 3, "with those for ICMP errors");
}

#[test]
fn a_probe_that_is_left_behind_has_a_key_that_nobody_knows_and_goes_next_time() {
    let left_behind = || {
        let mut kernel = host(&lab(1));
        // The probe's end is refused, as if the run had been killed before it.
        kernel.refuse(PROBE - 1, ENOMEM);
        let report = applied(&lab(1), &mut kernel);
        assert!(report.done.is_empty() && report.stopped.is_some());
        assert!(report.probe_stays && report.changed_anything());
        let sas = observe(&mut kernel).0.sas;
        assert_eq!(sas.len(), 1);
        assert!(applied(&lab(1), &mut kernel).is_complete());
        sas[0].key
    };
    assert!(left_behind().differs(left_behind()), "each probe has a key of its own");
}

fn by_mark() -> Config {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    Config { select: Select::Mark(mark), ..both() }
}

/// Selected by its port and without a guard, b has nothing but its policy.
#[test]
fn chains_stay_while_a_peer_that_they_guard_is_stopped() {
    let after = Config { guard: Guard::Off, ..lab(1) };
    let packet = packet_to("192.0.2.2");
    let mut kernel = applied_host(&by_mark());
    // The policy of b by its port.
    kernel.refuse(0, ENOMEM);
    let report = applied(&after, &mut kernel);
    let failed: Vec<String> = report.failed.iter().map(|(step, _)| step.id()).collect();
    assert_eq!(failed, [format!("{packet} dir out")]);
    assert_eq!(flow_out(&observe(&mut kernel).0, &packet), Flow::Blocked);
    assert!(applied(&after, &mut kernel).is_complete());

    let mut kernel = applied_host(&by_mark());
    let state = kernel.state_mut();
    let mut theirs =
        state.policies.iter().find(|p| p.id.direction == Direction::Out).unwrap().clone();
    theirs.id = PolicyId::new(Direction::Out, packet);
    theirs.templates[0].reqid = Reqid(9);
    state.policies.push(theirs);
    let report = applied(&after, &mut kernel);
    assert_eq!(report.after.unwrap().conflicts.len(), 1);
    assert_eq!(flow_out(&observe(&mut kernel).0, &packet), Flow::Blocked);
    kernel
        .state_mut()
        .policies
        .retain(|policy| policy.templates.iter().all(|t| t.reqid != Reqid(9)));
    assert!(applied(&after, &mut kernel).is_complete());
}

#[test]
fn a_failed_guard_stops_everything() {
    let mut kernel = host(&lab(1));
    kernel.refuse(PROBE, ENOMEM);
    let report = applied(&lab(1), &mut kernel);
    let all = crate::common::plan(&lab(1), &mut host(&lab(1))).steps.len();
    assert_eq!((report.done.len(), report.failed.len(), report.left.len()), (3, 1, all - 4));
    assert!(observe(&mut kernel).0.sas.is_empty());
    assert!(applied(&lab(1), &mut kernel).is_complete());
}

#[test]
fn a_lost_answer_is_looked_for_and_the_apply_goes_on() {
    for (call, performed) in [(2, 0), (2, 3), (3, 6), (4, 1), (5, 2)] {
        let mut kernel = host(&lab(1));
        kernel.lose(call, performed);
        let report = applied(&lab(1), &mut kernel);
        assert!(report.is_complete(), "call {call}, {performed} performed");
    }
}

#[test]
fn answers_that_are_always_lost_end_the_apply_with_what_is_left() {
    let mut kernel = host(&lab(1));
    (2..30).for_each(|call| kernel.lose(call, 0));
    let report = applied(&lab(1), &mut kernel);
    assert!(!report.is_complete() && report.changed_anything());
    assert!(report.stopped.unwrap().to_string().contains("ENOBUFS"));
    let all = crate::common::plan(&lab(1), &mut host(&lab(1))).changes.len();
    assert_eq!(report.after.unwrap().changes.len(), all);
}

#[test]
fn an_mtu_that_is_refused_stops_nothing_else() {
    let link = Some(LinkWish { device: crate::common::VXLAN.into(), mtu: Mtu::Auto });
    let config = Config { link, ..lab(1) };
    let mut kernel = host(&config);
    // After the four guards.
    kernel.refuse(PROBE + 4, Errno::EINVAL);
    let report = applied(&config, &mut kernel);
    let failed: Vec<String> = report.failed.iter().map(|(step, _)| step.id()).collect();
    assert_eq!(failed, ["dev vxlan42 mtu 1416"]);
    assert!(report.left.is_empty() && report.changed_anything() && !report.is_complete());
    assert!(report.flows.is_empty(), "the traffic of every peer is as it should be");
    assert!(report.is_in_place(), "no old key is needed");
    let live = observe(&mut kernel).0;
    assert!(matches!(flow_out(&live, &packet_to("192.0.2.2")), Flow::Protected(_)));
    assert!(applied(&config, &mut kernel).is_complete());
    assert_eq!(kernel.state().link(crate::common::VXLAN).unwrap().mtu, 1416);
}

/// Where the kernel lacks the table, the policies guard alone, and all else is done.
#[test]
fn a_second_guard_that_the_kernel_can_not_have_is_left_out() {
    let mut kernel = host(&both());
    kernel.lack("mangle");
    let report = applied(&both(), &mut kernel);
    assert!(report.is_complete() && report.is_in_place());
    assert_eq!(report.left_out.len(), 4);
    assert_eq!((report.failed.len(), report.left.len()), (0, 0));
    let text = report_text(&report, "mesh.toml", Verb::Apply);
    assert!(
        text.contains(
            "The kernel matches mesh.toml, but the second guard of IPv4 and IPv6 is missing.\n"
        ) && text.matches("\n  left out: chain ip").count() == 4
            && text.contains("the kernel has no such table"),
        "{text}"
    );
    assert!(kernel.state().firewall.chains.is_empty());
    assert_eq!(crate::common::plan(&both(), &mut kernel).changes.len(), 4, "it stays wanted");
    assert_eq!(flow_out(&kernel.state().clone(), &packet_to("192.0.2.99")), Flow::Blocked);
}

/// A step of the second guard that fails stops no peer, whichever it is.
#[test]
fn a_failed_rule_of_the_second_guard_stops_nothing_else() {
    let chains = 4;
    for nth in 0..chains {
        let mut kernel = host(&both());
        // Behind the trial of an SA, that of the chains, and the policies that guard.
        kernel.refuse(PROBE + chains + 4 + nth, Errno::EINVAL);
        let report = applied(&both(), &mut kernel);
        let failed: Vec<&str> = report.failed.iter().map(|(step, _)| step.name()).collect();
        assert_eq!(failed, ["set_chain"]);
        assert!(report.left.is_empty() && !report.is_complete() && report.is_in_place());
        let live = observe(&mut kernel).0;
        assert!(matches!(flow_out(&live, &packet_to("192.0.2.2")), Flow::Protected(_)));
        assert!(applied(&both(), &mut kernel).is_complete());
    }
}

/// Where a mark comes in place of ports, a chain that stays would drop packets without a mark.
#[test]
fn a_chain_that_can_not_go_keeps_the_policies_that_it_lets_pass() {
    let mut kernel = applied_host(&both());
    let plan = crate::common::plan(&by_mark(), &mut kernel);
    let is_early = |step: &&meshsec::plan::PlannedStep| {
        step.phase == Phase::EarlyGuards && step.name() == "delete_chain"
    };
    let before = plan.steps.iter().position(|step| is_early(&step)).unwrap();
    let tried = plan.steps.iter().filter(|step| step.name() == "set_chain").count();
    let waits = plan.steps[..before].iter().filter(|step| step.name() == "wait").count();
    assert_eq!(waits, 0);
    kernel.refuse(tried + before, Errno::EINVAL);
    let report = applied(&by_mark(), &mut kernel);
    assert_eq!(report.failed[0].0.name(), "delete_chain");
    let live = observe(&mut kernel).0;
    assert!(matches!(flow_out(&live, &packet_to("192.0.2.2")), Flow::Protected(_)));
    assert!(applied(&by_mark(), &mut kernel).is_complete());
    let live = observe(&mut kernel).0;
    assert!(matches!(flow_out(&live, &packet_to("192.0.2.2")), Flow::Protected(_)));
}
