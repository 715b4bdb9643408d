//! The steps that give a peer back its old state where an apply could not finish it.

use super::*;
use crate::common::{REQID, observe, wanted};
use meshsec::{
    model::{Chain, ChainRole, IPPROTO_ESP, IPPROTO_UDP, PEER_PRIORITY, PeerName, PortMatch},
    plan::{Phase, Plan, undo},
};

/// Two peers, guarded by policies.
fn lab(generation: u64) -> Config {
    Config { guard: Guard::Policies, ..mesh(generation, &LAB[..2]) }
}

fn open(generation: u64) -> Config {
    Config { guard: Guard::Off, ..lab(generation) }
}

/// The names of the steps back for b, from a plan for a host; `done` makes the present state of the
/// one that the plan leads to. With the phases.
fn back(
    config: &Config,
    mut before: Memory,
    done: impl FnOnce(&State, &mut State),
) -> Vec<(Phase, &'static str)> {
    let (desired, _) = wanted(config);
    let live = observe(&mut before);
    let plan = Plan::new(&desired, &live, REQID);
    assert_eq!(plan.conflicts, []);
    let mut kernel = Memory::holding(before.state().clone());
    kernel.offload_to("eth0");
    assert!(crate::common::applied(config, &mut kernel).is_complete());
    done(&live.0, kernel.state_mut());
    let unfinished = [PeerName::new("b").unwrap()].into();
    let steps = undo(&plan, &desired, &observe(&mut kernel), REQID, &unfinished);
    steps.iter().map(|step| (step.phase, step.name())).collect()
}

fn names(steps: &[(Phase, &'static str)]) -> Vec<&'static str> {
    let mut names: Vec<_> = steps.iter().map(|(_, name)| *name).collect();
    names.dedup();
    names
}

/// Puts back the SAs that the apply has deleted, as if their deletion had failed.
fn keep_sas(before: &State, now: &mut State) {
    let gone = before.sas.iter().filter(|sa| now.sas.iter().all(|other| other.id != sa.id));
    let gone: Vec<Sa> = gone.cloned().collect();
    now.sas.extend(gone);
}

fn out_to_b(state: &mut State) -> &mut Policy {
    let is_out = |policy: &&mut Policy| {
        policy.id.direction == Direction::Out
            && policy.id.selector.dst == Prefix::host([192, 0, 2, 2].into())
            && !policy.is_for_icmp_errors()
    };
    state.policies.iter_mut().find(is_out).unwrap()
}

fn in_from_b(state: &mut State) -> &mut Policy {
    let from = Prefix::host([192, 0, 2, 2].into());
    let is_in = |policy: &&mut Policy| {
        policy.id.direction == Direction::In && policy.id.selector.src == from
    };
    state.policies.iter_mut().find(is_in).unwrap()
}

fn sa_from_b(state: &mut State) -> &mut Sa {
    state.sas.iter_mut().find(|sa| sa.src == std::net::IpAddr::from([192, 0, 2, 2])).unwrap()
}

fn sa_to_b(state: &mut State) -> &mut Sa {
    state.sas.iter_mut().find(|sa| sa.id.dst == std::net::IpAddr::from([192, 0, 2, 2])).unwrap()
}

/// The steps back for a peer that is new.
fn new(done: impl FnOnce(&mut State)) -> Vec<(Phase, &'static str)> {
    back(&lab(1), host(&lab(1)), |_, now| done(now))
}

/// The steps back from generation 2, with the SAs of generation 0 still there.
fn raised(done: impl FnOnce(&mut State)) -> Vec<(Phase, &'static str)> {
    back(&lab(2), applied_host(&lab(1)), |before, now| {
        keep_sas(before, now);
        done(now);
    })
}

/// The steps back on a host with something edited, after an apply.
fn repaired(
    config: &Config,
    edit: impl FnOnce(&mut State),
    done: impl FnOnce(&State, &mut State),
) -> Vec<(Phase, &'static str)> {
    let mut kernel = applied_host(config);
    edit(kernel.state_mut());
    back(config, kernel, done)
}

fn deleted(steps: &[(Phase, &'static str)]) -> usize {
    steps.iter().filter(|(_, name)| *name == "delete_sa").count()
}

/// Policies go before the SAs, and nothing is sent that a wait could be for.
#[test]
fn a_new_peer_goes_again() {
    let steps = new(|_| {});
    assert_eq!(names(&steps), ["delete_policy", "delete_sa", "delete_policy", "delete_sa"]);
    let phases: Vec<Phase> = steps.iter().map(|(phase, _)| *phase).collect();
    assert!(phases.is_sorted(), "{phases:?}");
    for phase in [Phase::DeletePolicies, Phase::DeleteIcmpErrors, Phase::DeleteOutboundSas] {
        assert!(phases.contains(&phase), "{phase:?} of {phases:?}");
    }
    assert_eq!(deleted(&steps), 4);
    // Somebody else's SA in the place of one stays, and so does one that has no key yet.
    assert_eq!(deleted(&new(|now| sa_from_b(now).reqid = Reqid(7))), 3);
    assert_eq!(deleted(&new(|now| sa_to_b(now).algorithm = Algorithm::Larval)), 3);
    // Somebody else's policy too.
    let foreign = |now: &mut State| in_from_b(now).templates[0].reqid = Reqid(7);
    assert_eq!(new(foreign).len(), steps.len() - 1);
    // One of the mesh that was edited since keeps everything.
    assert_eq!(new(|now| out_to_b(now).priority += 1), []);
}

/// Without a guard, or with one that is for other packets, the policies are all that refuses them.
#[test]
fn a_new_peer_stays_where_no_guard_takes_its_policies_place() {
    for direction in [Direction::In, Direction::Out] {
        let without = |now: &mut State| {
            now.policies.retain(|policy| !policy.is_guard() || policy.id.direction != direction);
        };
        assert_eq!(new(without), [], "{direction}");
        let other_port = |now: &mut State| {
            let other = guard(now, direction).id.selector.to_port(IPPROTO_UDP, 53);
            guard(now, direction).id.selector = other;
        };
        assert_eq!(new(other_port), [], "{direction}");
    }
    assert_eq!(new(|now| guard(now, Direction::In).priority += 1), []);
    assert_eq!(new(|now| guard(now, Direction::In).action = Action::Allow), []);
    // What leaves in the clear already does not keep it.
    let clear = Selector { src: Prefix::host([192, 0, 2, 1].into()), ..guarded() };
    let foreign = |now: &mut State| now.policies.push(foreign_allow(Direction::Out, clear, 1));
    assert_ne!(new(foreign), []);
}

fn guarded() -> Selector {
    let any = Prefix::any([0, 0, 0, 0].into());
    Selector::between(any, any).to_port(IPPROTO_UDP, 4789)
}

/// Policies for ICMP errors stay while an SA decrypts packets that those would quote.
#[test]
fn a_peer_with_an_sa_to_receive_by_keeps_its_policies_for_errors() {
    let receiving = |reqid: Reqid| {
        let mut kernel = host(&lab(1));
        let mut other = applied_host(&lab(1));
        let received = Sa { reqid, ..sa_from_b(other.state_mut()).clone() };
        kernel.state_mut().sas.push(received);
        kernel
    };
    assert_eq!(back(&lab(1), receiving(REQID), |_, _| {}), []);
    // One of others is not this mesh's to cover.
    let theirs = |_: &State, now: &mut State| {
        let mut sa = sa_from_b(now).clone();
        (sa.id.spi, sa.reqid) = (Spi::from_raw(0xc000_0001), Reqid(7));
        now.sas.push(sa);
    };
    assert_ne!(back(&lab(1), host(&lab(1)), theirs), []);
}

/// The wait is for packets under way between a switch of policies and the end of their SAs.
#[test]
fn a_peer_goes_back_a_generation_in_order() {
    let steps = raised(|_| {});
    assert_eq!(names(&steps), ["update_policy", "wait", "delete_sa"]);
    let phases: Vec<Phase> = steps.iter().map(|(phase, _)| *phase).collect();
    let ends = [Phase::Wait, Phase::DeleteSas, Phase::DeleteOutboundSas];
    assert!(phases.ends_with(&ends), "{phases:?}");
    let local = std::net::IpAddr::from([192, 0, 2, 1]);
    for (inbound, outbound) in [(true, false), (false, true), (false, false)] {
        let steps = raised(|now| {
            let goes = |sa: &Sa| match sa.id.dst == local {
                true => !inbound && sa.id.spi.generation_low() == 3,
                false => !outbound && sa.id.spi.generation_low() == 2,
            };
            now.sas.retain(|sa| !goes(sa));
        });
        let waits = steps.iter().any(|(phase, _)| *phase == Phase::Wait);
        assert_eq!((waits, deleted(&steps) > 0), (inbound || outbound, inbound || outbound));
    }
}

#[test]
fn a_peer_goes_back_to_nothing_that_can_not_be_made_again() {
    // The SAs of the oldest generation are gone.
    assert_eq!(back(&lab(2), applied_host(&lab(1)), |_, _| {}), []);
    // A policy was edited since, or is somebody else's by now.
    assert_eq!(raised(|now| out_to_b(now).priority += 1), []);
    assert_ne!(raised(|now| out_to_b(now).templates[0].reqid = Reqid(7)), []);
    // A policy had something that steps can't give it.
    let config = lab(1);
    let rank = |state: &mut State| out_to_b(state).priority += 1;
    assert_eq!(names(&repaired(&config, rank, |_, _| {})), ["update_policy"]);
    let with_extra = |state: &mut State| {
        rank(state);
        out_to_b(state).extras.insert("flag localok".into());
    };
    assert_eq!(repaired(&config, with_extra, |_, _| {}), []);
    // It let clear text pass.
    let open = |state: &mut State| out_to_b(state).templates[0].level = Level::Use;
    assert_eq!(repaired(&config, open, |_, _| {}), []);
    // A policy was deleted, or that failed.
    let second = |state: &mut State| {
        rank(state);
        let mut policy = out_to_b(state).clone();
        policy.id.selector.sport = PortMatch::exactly(7);
        state.policies.push(policy);
    };
    assert_eq!(repaired(&config, second, |_, _| {}), []);
    let stays = |before: &State, now: &mut State| {
        let sport = |policy: &&Policy| policy.id.selector.sport == PortMatch::exactly(7);
        now.policies.extend(before.policies.iter().find(sport).cloned());
    };
    assert_eq!(names(&repaired(&config, second, stays)), ["update_policy"]);
}

/// A replaced SA can't be made again; a placeholder is worth nothing, unless a marked twin was
/// replaced with it.
#[test]
fn a_replaced_sa_goes_back_if_it_was_larval() {
    let config = lab(1);
    let rank = |state: &mut State| out_to_b(state).priority += 1;
    let window = |state: &mut State| {
        rank(state);
        sa_from_b(state).replay.window = 32;
    };
    assert_eq!(repaired(&config, window, |_, _| {}), []);
    let stays = |before: &State, now: &mut State| now.sas.clone_from(&before.sas);
    assert_eq!(names(&repaired(&config, window, stays)), ["update_policy"]);
    let larval = |state: &mut State| {
        rank(state);
        let sa = sa_from_b(state);
        (sa.algorithm, sa.key) = (Algorithm::Larval, KeyView::Unknown);
    };
    let steps = repaired(&config, larval, |_, _| {});
    assert_eq!(names(&steps), ["update_policy", "wait", "delete_sa"]);
    let with_twin = |state: &mut State| {
        larval(state);
        let mut twin = sa_from_b(state).clone();
        twin.id.mark = Mark { value: 1, mask: 1 };
        state.sas.push(twin);
    };
    assert_eq!(repaired(&config, with_twin, |_, _| {}), []);
}

/// A foreign policy that has come since ranks between the old policy and the new one.
#[test]
fn a_policy_goes_back_to_no_rank_behind_a_foreign_one() {
    let behind = |state: &mut State| out_to_b(state).priority = PEER_PRIORITY + 1000;
    assert_eq!(names(&repaired(&open(1), behind, |_, _| {})), ["update_policy"]);
    let foreign = foreign_allow(Direction::Out, guarded(), PEER_PRIORITY + 500);
    let comes = |_: &State, now: &mut State| now.policies.push(foreign);
    assert_eq!(repaired(&open(1), behind, comes), []);
}

/// Where a mark selects, the chain refuses what the policies of the peer did.
#[test]
fn a_new_peer_goes_again_where_a_chain_drops() {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    let config = Config { select: meshsec::config::Select::Mark(mark), ..mesh(1, &LAB[..2]) };
    assert_ne!(back(&config, host(&config), |_, _| {}), []);
    // One that only marks lets them out.
    let marks = |chain: &Chain| chain.id.role() == Some(ChainRole::Mark);
    assert_eq!(back(&config, host(&config), |_, now| now.firewall.chains.retain(marks)), []);
}

/// A policy out that somebody has added since. It asks for an SA, and lets packets pass in the clear
/// without one.
fn optional(priority: u32, mode: Mode, dst: &str, reqid: Reqid) -> Policy {
    let template = Template {
        src: [192, 0, 2, 1].into(),
        dst: dst.parse().unwrap(),
        proto: IPPROTO_ESP,
        spi: Spi::from_raw(0),
        reqid,
        mode,
        level: Level::Use,
    };
    Policy { templates: vec![template], ..foreign_allow(Direction::Out, guarded(), priority) }
}

#[test]
fn a_new_peer_stays_where_another_policy_sends_under_its_sas() {
    let first = optional(1, Mode::Transport, "192.0.2.2", REQID);
    assert_eq!(new(|now| now.policies.push(first)), []);
}

/// The tunnel of others takes the packets over, and ends at another host than they do.
#[test]
fn a_new_peer_goes_again_where_a_tunnel_of_others_takes_its_packets() {
    let gateway = "198.51.100.7";
    let next = |has_sa| {
        move |now: &mut State| {
            now.policies.retain(|it| !it.is_guard() || it.id.direction != Direction::Out);
            now.policies.push(optional(PEER_PRIORITY + 1, Mode::Tunnel, gateway, Reqid(7)));
            let mut sa = foreign_sa(gateway, 0xc000_0001, 7);
            (sa.src, sa.mode, sa.selector) = ([192, 0, 2, 1].into(), Mode::Tunnel, None);
            now.sas.extend([sa].into_iter().filter(|_| has_sa));
        }
    };
    assert_ne!(new(next(true)), []);
    assert_eq!(new(next(false)), []);
}
