//! Which pairs stand while something is in the way, and what is kept up for them and for nobody.

use super::*;
use meshsec::{
    config::{Ports, Protocol},
    model::{Algorithm, Level, PortMatch},
};

/// A pair stands by an SA of the mesh that takes packets of the peer to this host, as they come.
#[test]
fn a_pair_stands_by_an_sa_that_receives_its_packets() {
    let config = mesh(5, &HOSTS[..2]);
    let adds = |edit: fn(&mut Sa)| {
        let mut kernel = applied_host(&config);
        let state = kernel.state_mut();
        let local = config.peers[0].address;
        state.sas.retain(|sa| sa.id.dst == local && sa.id.spi.generation_low() == 5);
        let [sa] = &mut state.sas[..] else { panic!("one SA") };
        edit(sa);
        InTheWay::Sysctl.come(&mut kernel);
        let plan = plan(&config, &mut kernel);
        assert!(!plan.conflicts.is_empty());
        plan.steps.iter().any(|step| step.name() == "add_sa")
    };
    assert!(adds(|_| {}));
    assert!(!adds(|sa| sa.id.dst = [192, 0, 2, 77].into()), "another address of this host");
    assert!(!adds(|sa| sa.src = [192, 0, 2, 99].into()), "another host");
    assert!(!adds(|sa| (sa.reqid, sa.id.spi) = (Reqid(7), Spi::from_raw(0xc000_0001))));
    assert!(!adds(|sa| sa.id.mark = Mark { value: 1, mask: 1 }));
    assert!(!adds(|sa| sa.algorithm = Algorithm::Larval));
}

/// A mesh of policies alone with one peer that a conflict stops; and the names of the steps that
/// are about no peer.
fn steps_of_nobody(config: &Config, edit: impl FnOnce(&mut Memory)) -> Vec<&'static str> {
    let mut kernel = applied_host(config);
    edit(&mut kernel);
    let to_b = Selector::hosts(config.peers[0].address, config.peers[1].address);
    let narrow = Selector { proto: IPPROTO_UDP, sport: PortMatch::exactly(7), ..to_b };
    kernel.state_mut().policies.push(foreign(Direction::Out, narrow, Action::Allow, 5));
    let plan = plan(config, &mut kernel);
    let stopped: Vec<_> = plan.conflicts.iter().filter_map(|found| found.stops.peers()).collect();
    assert_eq!((plan.conflicts.len(), stopped.len()), (1, 1), "it stops one peer");
    let of_nobody = plan.steps.iter().filter(|step| step.step.peer.is_none());
    of_nobody.map(|step| step.name()).filter(|name| *name != "wait").collect()
}

/// A policy of the mesh for no peer may be what protects one that is stopped. One that refuses
/// nothing is not needed where there is a guard.
#[test]
fn a_policy_of_nobody_goes_if_nothing_may_need_it() {
    let wide = |level| {
        move |kernel: &mut Memory| {
            let state = kernel.state_mut();
            let out = |policy: &&Policy| {
                policy.id.direction == Direction::Out
                    && !policy.templates.is_empty()
                    && !policy.is_for_icmp_errors()
            };
            let mut wide = state.policies.iter().find(out).unwrap().clone();
            (wide.id.selector.dst.length, wide.templates[0].level) = (24, level);
            state.policies.push(wide);
        }
    };
    let guarded = Config { guard: Guard::Policies, ..mesh(5, &HOSTS) };
    let open = Config { guard: Guard::Off, ..mesh(5, &HOSTS) };
    assert_eq!(steps_of_nobody(&guarded, wide(Level::Use)), ["update_policy", "delete_policy"]);
    assert_eq!(steps_of_nobody(&guarded, wide(Level::Required)), [""; 0]);
    assert_eq!(steps_of_nobody(&open, wide(Level::Use)), [""; 0]);
    assert_eq!(steps_of_nobody(&open, wide(Level::Required)), [""; 0]);
    // Peers that are stopped may need neighbour discovery.
    let guarded = Config { guard: Guard::Policies, ..mesh(5, &HOSTS6) };
    let discovery = |kernel: &mut Memory| {
        kernel.state_mut().policies.extend(Policy::discovery(REQID));
    };
    assert_eq!(steps_of_nobody(&guarded, discovery), [""; 0]);
}

/// Of the policies of a pair that stands, those that close something are made, and no others.
#[test]
fn a_pair_that_stands_gets_no_second_policy_out() {
    let traffic = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::one(443) };
    let config = Config { guard: Guard::Off, traffic, ..mesh(5, &HOSTS[..2]) };
    let mut kernel = applied_host(&config);
    let lost = |policy: &Policy| {
        policy.id.direction == Direction::Out && policy.id.selector.sport.mask != 0
    };
    kernel.state_mut().policies.retain(|policy| !lost(policy) || policy.is_for_icmp_errors());
    InTheWay::Sysctl.come(&mut kernel);
    let plan = plan(&of_generation(&config, 6), &mut kernel);
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name()).collect();
    assert!(names.contains(&"update_policy"), "it goes on: {names:?}");
    assert!(!names.contains(&"add_policy"), "{names:?}");
}

/// A guard that is there is kept up, for a peer that is new as well.
#[test]
fn a_guard_that_somebody_edited_is_repaired_whatever_is_in_the_way() {
    let config = mesh(5, &HOSTS[..2]);
    let mut kernel = applied_host(&config);
    let guard = kernel.state_mut().policies.iter_mut().find(|policy| policy.is_guard());
    guard.unwrap().extras.insert("flag localok".into());
    InTheWay::Sysctl.come(&mut kernel);
    let plan = plan(&config, &mut kernel);
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name()).collect();
    assert_eq!(names, ["update_guard"]);
}
