//! Foreign policies that are in the way, and those beside them that are not.

use super::*;
use crate::common::{REQID, observe, plan, wanted};
use meshsec::{
    desired::{Desired, Goal},
    model::{Hidden, IPPROTO_UDP, PEER_PRIORITY, ReasonCode, Translation},
    plan::{ConflictCode, Plan, WarningCode},
};

/// IPv6's number for ICMP, and its type of a question for a neighbour (RFC 4443, RFC 4861).
const ICMPV6: u8 = 58;
const SOLICITATION: u16 = 135;

fn lab6() -> Config {
    let traffic = Traffic::All;
    Config { guard: Guard::Off, traffic, ..mesh(1, &["2001:db8::1", "2001:db8::2"]) }
}

fn everywhere(like: &str) -> Selector {
    let any = Prefix::any(like.parse().unwrap());
    Selector::between(any, any)
}

fn any() -> Selector {
    everywhere("0.0.0.0")
}

/// The conflicts of a mesh with a foreign policy, on a host that has applied it.
fn conflicts(config: &Config, foreign: Policy) -> Vec<ConflictCode> {
    let mut kernel = applied_host(config);
    kernel.state_mut().policies.push(foreign);
    plan(config, &mut kernel).conflicts.into_iter().map(|conflict| conflict.code).collect()
}

/// On equal priority the kernel prefers the older policy.
#[test]
fn a_policy_of_equal_priority_outranks() {
    let open = Config { guard: Guard::Off, ..lab() };
    let out = |priority| foreign_allow(Direction::Out, any(), priority);
    assert_eq!(conflicts(&open, out(PEER_PRIORITY)), [ConflictCode::OutranksPeer]);
    assert_eq!(conflicts(&open, out(PEER_PRIORITY + 1)), []);
    assert_eq!(conflicts(&lab(), out(REQID.0)), [ConflictCode::OutranksGuard]);
    assert_eq!(conflicts(&lab(), out(REQID.0 + 1)), []);
}

#[test]
fn a_policy_for_other_packets_is_not_in_the_way() {
    // A guard is not asked about forwarded packets, nor about other protocols or ports.
    let stranger = Prefix::host([198, 51, 100, 9].into());
    let from_stranger = Selector { src: stranger, ..any() };
    assert_eq!(conflicts(&lab(), foreign_allow(Direction::Fwd, from_stranger, 5)), []);
    for selector in [Selector { proto: 6, ..any() }, any().to_port(IPPROTO_UDP, 53)] {
        assert_eq!(conflicts(&lab(), foreign_allow(Direction::Out, selector, 5)), []);
    }
    // That of an XFRM interface is asked about packets of that interface alone.
    let mut policy = foreign_allow(Direction::Out, any(), 5);
    policy.id.if_id = 7;
    assert_eq!(conflicts(&lab(), policy), []);
}

/// The mesh lets neighbour discovery pass itself, out and in, and nothing else.
#[test]
fn a_policy_that_lets_neighbour_discovery_pass_is_not_in_the_way() {
    let all = everywhere("::");
    let discovery = all.from_port(ICMPV6, SOLICITATION);
    // One with a narrower selector, as the selector itself would be taken.
    let discovery = Selector {
        src: Prefix { address: "2001:db8::".parse().unwrap(), length: 64 },
        ..discovery
    };
    for (direction, selector, found) in [
        (Direction::Out, discovery, None),
        (Direction::In, discovery, None),
        (Direction::Fwd, discovery, Some(ConflictCode::OutranksPeer)),
        (Direction::Out, all, Some(ConflictCode::OutranksPeer)),
    ] {
        let found_now = conflicts(&lab6(), foreign_allow(direction, selector, 5));
        assert_eq!(found_now, Vec::from_iter(found), "{direction} {selector}");
    }
}

/// The kernel's look-up finds it for the packets of its mark, and then no other.
#[test]
fn a_foreign_sa_with_a_mark_has_our_spi_as_well() {
    let mut kernel = host(&lab());
    let mut theirs = foreign_sa("192.0.2.2", 0x8400_1002, 7);
    theirs.id.mark = Mark { value: 5, mask: 0xff };
    kernel.state_mut().sas.push(theirs);
    let found = plan(&lab(), &mut kernel).conflicts;
    let codes: Vec<ConflictCode> = found.iter().map(|conflict| conflict.code).collect();
    assert_eq!(codes, [ConflictCode::SpiTaken]);
}

/// What stops all is told first, and then what stops one peer, by its name.
#[test]
fn conflicts_are_told_by_what_they_stop() {
    let mut kernel = host(&lab());
    let state = kernel.state_mut();
    state.sas.push(foreign_sa("192.0.2.2", 0x8400_1002, 7));
    let hosts = Selector::hosts("192.0.2.1".parse().unwrap(), "192.0.2.3".parse().unwrap());
    state.policies.push(foreign_allow(Direction::Out, hosts, 10));
    let bypass = Bypass { device: "eth0".into(), ipv6: false, name: "disable_policy".into() };
    state.bypasses.push(bypass);
    let found = plan(&lab(), &mut kernel).conflicts;
    let codes: Vec<ConflictCode> = found.iter().map(|conflict| conflict.code).collect();
    assert_eq!(codes, [ConflictCode::Bypass, ConflictCode::SpiTaken, ConflictCode::OutranksPeer]);
}

/// One between two other hosts is of no peer, though it has the mesh's reqid and goes.
#[test]
fn an_sa_between_two_other_hosts_is_of_no_peer() {
    let mut kernel = applied_host(&lab());
    let mut theirs = foreign_sa("192.0.2.3", 0x8400_2003, REQID.0);
    theirs.src = "192.0.2.2".parse().unwrap();
    kernel.state_mut().sas.push(theirs);
    let changes = plan(&lab(), &mut kernel).changes;
    let told: Vec<_> = changes.iter().map(|change| (&change.peer, change.reason.code)).collect();
    assert_eq!(told, [(&None, ReasonCode::NoPeer)]);
    assert_eq!(changes[0].direction(), None);
}

fn text_of(plan: &Plan) -> &str {
    assert_eq!(plan.conflicts.len(), 1, "{:?}", plan.conflicts);
    &plan.conflicts[0].text
}

type Pick = fn(&mut State) -> &mut Policy;

/// A guard has its mesh's reqid as its priority. One that somebody has edited may be the mesh's.
#[test]
fn an_edited_guard_is_told_from_a_foreign_policy() {
    let may_be_ours = |pick: Pick, priority| {
        let mut kernel = applied_host(&lab());
        let policy = pick(kernel.state_mut());
        (policy.action, policy.priority) = (Action::Allow, priority);
        policy.templates.iter_mut().for_each(|template| template.reqid = Reqid(7));
        text_of(&plan(&lab(), &mut kernel)).contains("edited by somebody")
    };
    let of_guard: Pick = |state| guard(state, Direction::In);
    let of_peer: Pick = |state| policy(state, Direction::Out, "192.0.2.2");
    assert!(may_be_ours(of_guard, REQID.0));
    assert!(!may_be_ours(of_guard, REQID.0 + 1));
    assert!(!may_be_ours(of_peer, REQID.0));
}

/// A policy for neighbour discovery whose index a foreign policy has can't be made; the others can.
#[test]
fn a_taken_index_holds_back_one_policy_of_those_that_are_to_come_back() {
    let (all, _) = wanted(&lab6());
    let restoring =
        Desired { goal: Goal::Before { kept_chains: BTreeSet::new(), needs_chains: false }, ..all };
    let mut kernel = host(&lab6());
    let before = Plan::new(&restoring, &observe(&mut kernel), REQID);
    let index = Policy::discovery(REQID).next().unwrap().index;
    let foreign = foreign_allow(Direction::In, Selector { proto: 200, ..any() }, 5);
    kernel.state_mut().policies.push(Policy { index, ..foreign });
    let plan = Plan::new(&restoring, &observe(&mut kernel), REQID);
    assert_eq!(plan.conflicts[0].code, ConflictCode::IndexTaken);
    assert_eq!((plan.changes.len(), plan.held), (before.changes.len() - 1, 1));
}

/// Nothing is to be protected any more, so that no sysctl, rule or route keeps the mesh there.
#[test]
fn a_destroy_is_kept_up_by_nothing_on_the_way_to_peers() {
    let config = Config { guard: Guard::Policies, ..lab() };
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    for (device, name) in [("all", "disable_xfrm"), ("eth9", "disable_policy")] {
        state.bypasses.push(Bypass { device: device.into(), ipv6: false, name: name.into() });
    }
    state.hidden = [Hidden::Sysctls, Hidden::Translations].into();
    let rule = "iptables-nft -t nat -A POSTROUTING -j MASQUERADE".into();
    let chain = "POSTROUTING".into();
    state.translations = vec![Translation { rule, chain, certain: true, esp: false }];
    state.routes[0].refused = Some("ENETUNREACH".into());
    state.routes.pop();
    let (all, _) = wanted(&config);
    let (local, peers) = (all.local, all.peers);
    let destroying = Desired { local, peers, goal: Goal::Nothing, ..Desired::default() };
    let plan = Plan::new(&destroying, &observe(&mut kernel), REQID);
    assert_eq!((plan.conflicts.len(), plan.held), (0, 0));
    let told: Vec<WarningCode> = plan.warnings.iter().map(|line| line.code).collect();
    assert_eq!(told, [WarningCode::LeftInTheClear, WarningCode::StageSkipped]);
}

/// A policy for packets between this host and one peer is in the way of that peer alone. One for any
/// packets more is in the way of the guard.
#[test]
fn a_policy_is_in_the_way_of_the_guard_unless_it_is_for_one_peer() {
    let host = |last: u8| Prefix::host([192, 0, 2, last].into());
    let wide = |last: u8, length| Prefix { length, ..host(last) };
    let (all, out, back) = (any().src, Direction::Out, Direction::In);
    let (guard, peer) = (ConflictCode::OutranksGuard, ConflictCode::OutranksPeer);
    for (direction, src, dst, found) in [
        (out, host(1), host(2), peer),
        (back, host(2), host(1), peer),
        (out, all, host(2), guard),
        (back, host(2), all, guard),
        (out, host(1), wide(2, 31), guard),
        (out, host(1), host(99), guard),
        (back, host(99), host(1), guard),
    ] {
        let foreign = foreign_allow(direction, Selector::between(src, dst), 5);
        assert_eq!(conflicts(&lab(), foreign), [found], "{direction} {src} {dst}");
    }
    // Without a guard one for packets to other hosts is in nobody's way.
    let open = Config { guard: Guard::Off, ..lab() };
    let elsewhere = Selector { src: all, ..Selector::between(host(1), wide(128, 25)) };
    for direction in [out, back, Direction::Fwd] {
        assert_eq!(conflicts(&open, foreign_allow(direction, elsewhere, 5)), [], "{direction}");
    }
}

/// A policy of others for ICMP errors alone takes nothing of the mesh's kind away from it.
#[test]
fn a_policy_that_transforms_icmp_errors_alone_is_not_told() {
    let mut kernel = applied_host(&lab());
    let errors = kernel.state().policies.iter().find(|policy| policy.is_for_icmp_errors());
    let mut foreign = errors.unwrap().clone();
    foreign.id.selector.src = any().src;
    (foreign.priority, foreign.templates[0].reqid) = (5, Reqid(7));
    kernel.state_mut().policies.push(foreign);
    let plan = plan(&lab(), &mut kernel);
    assert_eq!((plan.conflicts, plan.warnings), (vec![], vec![]));
}

/// Rules about ESP packets leave nothing in the clear, and a guard of any kind blocks the rest.
#[test]
fn translations_are_in_the_way_where_packets_leave_in_the_clear() {
    let rule = |esp| Translation {
        rule: "iptables-nft -t nat -A POSTROUTING -j MASQUERADE".into(),
        chain: "POSTROUTING".into(),
        certain: true,
        esp,
    };
    let open = Config { guard: Guard::Off, traffic: Traffic::All, ..lab() };
    let policies = Config { guard: Guard::Policies, ..lab() };
    for (config, esp, conflicts, fate) in [
        (&open, false, 1, ""),
        (&open, true, 0, "they are refused by the peer's SA"),
        (&policies, false, 0, "they are blocked by the guard"),
        (&policies, true, 0, "they are refused by the peer's SA"),
    ] {
        let mut kernel = applied_host(config);
        kernel.state_mut().translations = vec![rule(esp)];
        let plan = plan(config, &mut kernel);
        let told = plan.warnings.iter().filter(|line| line.code == WarningCode::Translated);
        let told: Vec<&str> = told.map(|line| line.text.as_str()).collect();
        assert_eq!(plan.conflicts.len(), conflicts, "{esp}");
        assert_eq!(told.len(), 1 - conflicts, "{esp}");
        assert!(told.iter().all(|text| text.contains(fate)), "{told:?}");
    }
}

/// A host without the local peer's address is told of that first, and one without devices is not
/// asked about any.
#[test]
fn ways_are_told_of_the_local_address_alone() {
    let codes = |edit: fn(&mut State)| -> Vec<WarningCode> {
        let mut kernel = applied_host(&lab());
        edit(kernel.state_mut());
        plan(&lab(), &mut kernel).warnings.iter().map(|line| line.code).collect()
    };
    assert_eq!(codes(|state| state.routes.clear()), [WarningCode::RouteUnknown]);
    let unknown = |codes: &[WarningCode]| codes.contains(&WarningCode::RouteUnknown);
    assert!(!unknown(&codes(|state| (state.routes.clear(), state.links.clear()).0)));
    assert!(!unknown(&codes(|state| (state.routes.clear(), state.addresses.clear()).0)));
    let from_elsewhere = |state: &mut State| {
        let mut other = state.routes[0].clone();
        (other.from, other.refused) = ([203, 0, 113, 9].into(), Some("ENETUNREACH".into()));
        state.routes.push(other);
    };
    assert_eq!(codes(from_elsewhere), []);
}
