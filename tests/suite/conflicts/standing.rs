//! Which pairs stand while something is in the way, and what is kept up for them and for nobody.

use super::*;
use meshsec::{
    config::{LinkWish, Ports, Protocol},
    model::{Algorithm, Mtu, PortMatch, State},
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
            let mut wide = first_out(kernel.state());
            (wide.id.selector.dst.length, wide.templates[0].level) = (24, level);
            kernel.state_mut().policies.push(wide);
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

/// The first policy out of a state that is for other packets than ICMP errors.
fn first_out(state: &State) -> Policy {
    let out = |policy: &&Policy| {
        policy.id.direction == Direction::Out
            && !policy.templates.is_empty()
            && !policy.is_for_icmp_errors()
    };
    state.policies.iter().find(out).unwrap().clone()
}

/// One of nobody that covers ICMP errors stays, as it may be the only one, and lets no clear text
/// pass from then on. One of the stopped peer stays as it is.
#[test]
fn a_policy_of_nobody_that_covers_errors_stays_and_is_closed() {
    let open = Config { guard: Guard::Off, traffic: Traffic::All, ..mesh(5, &HOSTS) };
    let second = |length: u8, sport, level| {
        move |kernel: &mut Memory| {
            let mut policy = first_out(kernel.state());
            (policy.id.selector.dst.length, policy.templates[0].level) = (length, level);
            (policy.id.selector.proto, policy.id.selector.sport) = (1, sport);
            kernel.state_mut().policies.push(policy);
        }
    };
    let (any, one) = (PortMatch::ANY, PortMatch::exactly(8));
    assert_eq!(steps_of_nobody(&open, second(24, any, Level::Use)), ["update_policy"]);
    assert_eq!(steps_of_nobody(&open, second(24, any, Level::Required)), [""; 0]);
    let of_b = |level| {
        let mut kernel = applied_host(&open);
        second(32, one, level)(&mut kernel);
        InTheWay::Sysctl.come(&mut kernel);
        let plan = plan(&open, &mut kernel);
        (plan.steps.len(), plan.held)
    };
    assert_eq!(of_b(Level::Use), (0, 1));
    assert_eq!(of_b(Level::Required), (0, 1));
}

/// While a policy that takes clear text for want of an SA has to stay, it keeps the SAs that it may
/// send under: those of its SPI, or any, to the hosts that it is for.
#[test]
fn sas_that_an_open_policy_may_send_under_stay() {
    let config = Config { guard: Guard::Off, ..mesh(5, &HOSTS) };
    let spi_to = |peer: usize| {
        let ids = [0, peer].map(|place| config.peers[place].short_id);
        Spi::new(Generation::new(5).unwrap(), ids[0], ids[1])
    };
    let host = |level, spi| {
        let mut kernel = applied_host(&config);
        let mut wide = first_out(kernel.state());
        wide.id.selector.dst = Prefix { length: 31, ..wide.id.selector.dst };
        (wide.templates[0].level, wide.templates[0].spi) = (level, spi);
        let to_b = Selector::hosts(config.peers[0].address, config.peers[1].address);
        let narrow = Selector { proto: IPPROTO_UDP, sport: PortMatch::exactly(7), ..to_b };
        let foreign = foreign(Direction::Out, narrow, Action::Allow, 5);
        kernel.state_mut().policies.extend([wide, foreign]);
        kernel
    };
    let out = |spi: Spi| spi.from() == config.peers[0].short_id;
    let (b, c, none) = (spi_to(1), spi_to(2), Spi::from_raw(0x0999));
    for (level, spi, gone) in [
        (Level::Use, Spi::from_raw(0), vec![]),
        (Level::Use, b, vec![c]),
        (Level::Use, c, vec![b]),
        (Level::Use, none, vec![b, c]),
        (Level::Required, Spi::from_raw(0), vec![b, c]),
    ] {
        let plan = plan(&of_generation(&config, 6), &mut host(level, spi));
        let deleted = plan.steps.iter().filter_map(|step| match &step.step.kind {
            StepKind::Sa(SaStep::Delete(id)) if out(id.spi) => Some(id.spi),
            _ => None,
        });
        assert_eq!(deleted.collect::<Vec<_>>(), gone, "{level} {spi}");
    }
    // To replace one would leave a gap, in which its packets pass in the clear.
    let replaced = |level| {
        let mut kernel = host(level, Spi::from_raw(0));
        let of_c = |sa: &&mut Sa| sa.id.dst == config.peers[2].address;
        kernel.state_mut().sas.iter_mut().find(of_c).unwrap().replay.window = 32;
        let plan = plan(&config, &mut kernel);
        plan.steps.iter().any(|step| step.name() == "replace_sa")
    };
    assert!(!replaced(Level::Use));
    assert!(replaced(Level::Required));
}

/// A policy of a pair that stands gets its own form back, unless it would rank later than a foreign
/// object allows or let clear text pass.
#[test]
fn a_policy_of_a_pair_that_stands_is_not_moved_behind_what_is_in_the_way() {
    let config = mesh(5, &HOSTS[..2]);
    let updates = |config: &Config, edit: &dyn Fn(&mut Policy)| {
        let mut kernel = applied_host(config);
        let id = first_out(kernel.state()).id;
        let policy = kernel.state_mut().policies.iter_mut().find(|policy| policy.id == id);
        edit(policy.unwrap());
        InTheWay::Sysctl.come(&mut kernel);
        let plan = plan(config, &mut kernel);
        assert!(!plan.conflicts.is_empty());
        plan.steps.iter().any(|step| step.name() == "update_policy")
    };
    assert!(updates(&config, &|policy| policy.priority += 1));
    assert!(!updates(&config, &|policy| policy.priority = 5));
    // One that refuses nothing keeps nothing from the foreign object.
    let open = |policy: &mut Policy| (policy.priority, policy.templates[0].level) = (5, Level::Use);
    assert!(updates(&config, &open));
    let readable = |policy: &mut Policy| (policy.priority, policy.templates[0].proto) = (5, 51);
    assert!(!updates(&config, &readable));
    let unguarded = Config { guard: Guard::Off, ..config };
    let at_send = Config { stage: Stage::Send, ..unguarded.clone() };
    let mut kernel = applied_host(&unguarded);
    InTheWay::Sysctl.come(&mut kernel);
    assert_eq!(plan(&at_send, &mut kernel).changes, []);
}

/// A device of [link] for other packets stops nobody: what nothing needs any more goes.
#[test]
fn guards_go_where_a_conflict_stops_nobody() {
    let link = |device: &str| Some(LinkWish { device: device.into(), mtu: Mtu::Auto });
    let config = mesh(5, &HOSTS[..2]);
    let unguarded = Config { guard: Guard::Off, link: link("br0"), ..config.clone() };
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    state.links.push(crate::common::link("br0", 1400));
    state.tunnels = Some(Vec::new());
    let plan = plan(&unguarded, &mut kernel);
    let codes: Vec<_> = plan.conflicts.iter().map(|found| found.code).collect();
    assert_eq!((codes, plan.held), (vec![ConflictCode::LinkKind], 0));
    assert!(plan.steps.iter().any(|step| step.name() == "delete_guard"));
}

/// A guard for two hosts is of no peer. So it stays with the others while something is in the way.
#[test]
fn a_guard_of_two_hosts_stays_while_something_is_in_the_way() {
    let narrow = |kernel: &mut Memory| {
        let selector = first_out(kernel.state()).id.selector;
        let guard =
            foreign(Direction::Out, selector.to_port(IPPROTO_UDP, 53), Action::Block, REQID.0);
        kernel.state_mut().policies.push(guard);
    };
    let config = Config { guard: Guard::Policies, ..mesh(5, &HOSTS) };
    assert_eq!(steps_of_nobody(&config, narrow), [""; 0]);
    let mut kernel = applied_host(&config);
    narrow(&mut kernel);
    let changes = plan(&config, &mut kernel).changes;
    assert_eq!(changes.iter().map(|change| &change.peer).collect::<Vec<_>>(), [&None]);
}

/// What is to come back is not held back for SAs that were not there, and that a policy asks for.
#[test]
fn an_sa_that_was_not_there_before_an_apply_goes_though_a_policy_asks_for_it() {
    let config = mesh(5, &HOSTS);
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    let pinned = first_out(state).templates[0].spi;
    let of_c = Prefix::host(HOSTS[2].parse().unwrap());
    let out_to_c = |policy: &&mut Policy| {
        policy.id.direction == Direction::Out && policy.id.selector.dst == of_c
    };
    let taken = state.policies.iter_mut().find(out_to_c).unwrap();
    taken.templates[0].reqid = Reqid(7);
    let (mut before, _) = wanted_at(&config, Time::default());
    before.goal =
        meshsec::desired::Goal::Before { kept_chains: BTreeSet::new(), needs_chains: false };
    before.sas.retain(|id, _| id.spi != pinned);
    let plan = Plan::new(&before, &observe(&mut kernel), REQID);
    assert_eq!(plan.conflicts[0].code, ConflictCode::SelectorTaken);
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name()).collect();
    assert_eq!(names, ["delete_sa"]);
}
