//! What an apply does when the kernel refuses a step or loses an answer.

mod common;

use common::{applied, applied_host, host, mesh, observe};
use meshsec::{
    config::{Config, LinkWish, Select},
    kernel::Errno,
    model::{Direction, Mark, Mtu, PolicyId, Reqid, Selector, Spi},
    plan::{Flow, flow_out},
};

const ENOMEM: Errno = Errno(12);
/// The probe's SA, and its end, come before the steps.
const PROBE: usize = 2;

fn lab(generation: u64) -> Config {
    mesh(generation, &["192.0.2.1", "192.0.2.2", "192.0.2.3"])
}

fn packet_to(peer: &str) -> Selector {
    Selector::hosts("192.0.2.1".parse().unwrap(), peer.parse().unwrap()).to_port(17, 4789)
}

#[test]
fn a_failed_sa_stops_its_own_peer_and_no_other() {
    let mut kernel = applied_host(&lab(1));
    // Two inbound SAs, then the outbound one to b.
    kernel.refuse(PROBE + 2, ENOMEM);
    let report = applied(&lab(2), &mut kernel);

    assert!(!report.is_complete() && report.changed_anything());
    assert!(!report.is_in_place(), "b needs the old key");
    let failed: Vec<String> = report.failed.iter().map(|(step, _)| step.id()).collect();
    assert_eq!(failed, ["dst 192.0.2.2 proto esp spi 0x82001002"]);
    let left: Vec<&str> = report.left.iter().map(|step| step.name()).collect();
    assert_eq!(left, ["update_policy", "delete_sa", "delete_sa"]);
    assert!(report.left.iter().all(|step| step.step.peer.as_ref().unwrap().as_str() == "b"));

    let live = observe(&mut kernel).0;
    let old = Flow::Protected(Spi::from_raw(0x8100_1002));
    assert_eq!(flow_out(&live, &packet_to("192.0.2.2")), old, "b goes on as before");
    let new = Flow::Protected(Spi::from_raw(0x8200_1003));
    assert_eq!(flow_out(&live, &packet_to("192.0.2.3")), new, "c has moved");
    let flows: Vec<_> = report.flows.iter().map(|(peer, flow)| (peer.as_str(), *flow)).collect();
    assert_eq!(flows, [("b", old)]);
    assert!(applied(&lab(2), &mut kernel).is_complete());
}

#[test]
fn a_probe_that_is_left_behind_has_a_key_that_nobody_knows_and_goes_next_time() {
    let left_behind = || {
        let mut kernel = host(&lab(1));
        // The probe's end is refused, as if the run had been killed before it.
        kernel.refuse(PROBE - 1, ENOMEM);
        let report = applied(&lab(1), &mut kernel);
        assert!(report.done.is_empty() && report.stopped.is_some());
        let sas = observe(&mut kernel).0.sas;
        assert_eq!(sas.len(), 1);
        assert!(applied(&lab(1), &mut kernel).is_complete());
        sas[0].key
    };
    assert!(left_behind().differs(left_behind()), "each probe has a key of its own");
}

fn by_mark() -> Config {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    Config { select: Select::Mark(mark), ..lab(1) }
}

/// Selected by its port and without a guard, b has nothing but its policy.
#[test]
fn chains_stay_while_a_peer_that_they_guard_is_stopped() {
    let after = Config { guard: false, ..lab(1) };
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
    assert_eq!((report.done.len(), report.failed.len(), report.left.len()), (3, 1, 12));
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
    assert_eq!(report.after.unwrap().changes.len(), 16);
}

#[test]
fn an_mtu_that_is_refused_stops_nothing_else() {
    let link = Some(LinkWish { device: common::VXLAN.into(), mtu: Mtu::Auto });
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
    assert_eq!(kernel.state().link(common::VXLAN).unwrap().mtu, 1416);
}
