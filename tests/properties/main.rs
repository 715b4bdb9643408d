//! Properties of plans, over random meshes, damages and failures in memory.
//!
//! `prefixes` judges every prefix of every plan by a model of the kernel's own
//! (`tests/packets`). Those here follow meshes through their lives, and ask
//! `flow_out`, with which that model agrees. `PROPTEST_CASES=1000000` runs more.

mod agreement;
#[path = "../common/mod.rs"]
mod common;
mod encap;
mod found;
mod hosts;
mod left_out;
#[path = "../packets/mod.rs"]
mod packets;
mod prefixes;
mod rotation;
mod settled;
mod stages;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use common::{REQID, applied, applied_host, mesh, observe, wanted, wanted_at};
use meshsec::{
    config::{Config, Esp, Guard, LinkWish, Rotation, Select, Traffic},
    kernel::{Errno, Kernel, memory::Memory},
    model::{
        Action, Backend, Chain, ChainId, ChainRole, Cipher, Direction, Family, Firewall, Jump,
        KeyView, Mark, Mode, Mtu, Period, Policy, PolicyId, Replay, Reqid, Rule, Sa, SaId,
        Selector, Spi, State, Template, Time,
    },
    plan::{
        ChainChange, Change, ConflictCode, Flow, Operation, Phase, Plan, WarningCode, flow_out,
    },
};
use proptest::{prelude::*, test_runner::RngSeed};

/// The local peer and five others; the last two are of the other family.
const ADDRESSES: [&str; 6] =
    ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::5", "2001:db8::6"];

/// How many cases, always the same ones; or as many as `PROPTEST_CASES` says,
/// others every time, or those of `PROPTEST_RNG_SEED`. Failures become tests
/// with a name, so that no file of seeds is kept.
pub fn cases(number: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|number| number.parse().ok());
    let default = ProptestConfig::default();
    let rng_seed = if asked.is_some() { default.rng_seed } else { RngSeed::Fixed(5) };
    let cases = asked.unwrap_or(number);
    // Some tests leave out one of three hosts, however many there are.
    let max_global_rejects = cases.saturating_add(1024);
    ProptestConfig { cases, rng_seed, max_global_rejects, failure_persistence: None, ..default }
}

/// A mesh of the local peer and some of the others.
fn meshes(generations: std::ops::Range<u64>) -> impl Strategy<Value = Config> {
    let peers = proptest::collection::vec(any::<bool>(), ADDRESSES.len() - 1);
    let windows = prop_oneof![Just((0, false)), Just((1024, false)), Just((64, true))];
    let mtus = prop_oneof![Just(Mtu::Auto), (1300..1500u32).prop_map(Mtu::Exactly)];
    let links = proptest::option::of(mtus);
    let guards = proptest::sample::select(vec![Guard::Both, Guard::Off, Guard::Policies]);
    let by_port = guards.prop_map(|guard| (Select::Port, guard));
    let marks = vec![(0x20000, 0x20000), (0x1, 0x3), (0x2, 0x3)];
    let by_mark = proptest::sample::select(marks)
        .prop_map(|(value, mask)| (Select::Mark(Mark { value, mask }), Guard::Both));
    let selects = prop_oneof![by_port, by_mark];
    (generations, peers, selects, any::<[bool; 3]>(), windows, links).prop_map(
        |(generation, peers, (select, guard), [small_key, all, offload], (window, esn), link)| {
            let mut config = mesh(generation, &ADDRESSES);
            let mut kept = [true].into_iter().chain(peers);
            config.peers.retain(|_| kept.next().unwrap());
            (config.select, config.guard) = (select, guard);
            config.esp.replay = Replay { window, esn };
            config.esp.offload = offload.then(|| "eth0".into());
            config.link = link.map(|mtu| LinkWish { device: common::VXLAN.into(), mtu });
            if all && !guard.is_on() {
                (config.traffic, config.link) = (Traffic::All, None);
            }
            if small_key {
                config.esp.cipher = Cipher::Aes128Gcm;
            }
            config
        },
    )
}

/// The same with addresses of IPv6 for all.
fn meshes_of_ipv6(generations: std::ops::Range<u64>) -> impl Strategy<Value = Config> {
    meshes(generations).prop_map(|mut config| {
        for peer in &mut config.peers {
            let number = peer.short_id.get();
            peer.address = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]);
        }
        config
    })
}

/// Something done to a host behind our back.
#[derive(Debug, Clone)]
enum Damage {
    DropSa(usize),
    DropPolicy(usize),
    HideKeys,
    Unselect(usize),
    Larval(usize),
    Priority(usize, u32),
    Mark(usize),
    DropChain(usize),
    DropJump(usize),
    DropRule(usize),
    Hide(usize),
    Copy(usize),
    Flush,
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (0..40usize).prop_map(Damage::DropSa),
        (0..40usize).prop_map(Damage::DropPolicy),
        Just(Damage::HideKeys),
        (0..40usize).prop_map(Damage::Unselect),
        (0..40usize).prop_map(Damage::Larval),
        (0..40usize, 1..3000u32).prop_map(|(n, p)| Damage::Priority(n, p)),
        (0..40usize).prop_map(Damage::Mark),
        (0..6usize).prop_map(Damage::DropChain),
        (0..6usize).prop_map(Damage::DropJump),
        (0..6usize).prop_map(Damage::DropRule),
        (0..6usize).prop_map(Damage::Hide),
        (0..6usize).prop_map(Damage::Copy),
        Just(Damage::Flush),
    ];
    proptest::collection::vec(one, 0..4)
}

fn damage(kernel: &mut Memory, damages: &[Damage]) {
    for damage in damages {
        let state = kernel.state_mut();
        let (sas, policies) = (state.sas.len().max(1), state.policies.len().max(1));
        match damage {
            Damage::DropSa(n) if !state.sas.is_empty() => drop(state.sas.remove(n % sas)),
            Damage::DropPolicy(n) if !state.policies.is_empty() => {
                drop(state.policies.remove(n % policies));
            }
            Damage::HideKeys => state.sas.iter_mut().for_each(|sa| sa.key = KeyView::Unknown),
            Damage::Unselect(n) => {
                state.sas.get_mut(n % sas).into_iter().for_each(|sa| sa.selector = None);
            }
            Damage::Larval(n) => state.sas.get_mut(n % sas).into_iter().for_each(|sa| {
                sa.algorithm = meshsec::model::Algorithm::Larval;
                sa.key = KeyView::Unknown;
            }),
            // A guard with another priority is nobody's, and would be a conflict.
            Damage::Priority(n, priority) => {
                let peers = state.policies.iter_mut().filter(|p| !p.templates.is_empty());
                peers.skip(n % policies).take(1).for_each(|policy| policy.priority = *priority);
            }
            Damage::Mark(n) => {
                let marked = state.policies.get(n % policies).cloned();
                state.policies.extend(marked.map(|mut policy| {
                    policy.id.mark = meshsec::model::Mark { value: 1, mask: 1 };
                    policy
                }));
                let mut seen = BTreeSet::new();
                state.policies.retain(|policy| seen.insert(policy.id));
            }
            Damage::DropChain(_)
            | Damage::DropJump(_)
            | Damage::DropRule(_)
            | Damage::Hide(_)
            | Damage::Copy(_) => damage_chain(&mut state.firewall, damage),
            Damage::Flush => {
                state.sas.clear();
                state.policies.clear();
            }
            _ => {}
        }
    }
}

fn damage_chain(firewall: &mut Firewall, damage: &Damage) {
    let chains = &mut firewall.chains;
    match damage {
        Damage::DropChain(n) if *n < chains.len() => drop(chains.remove(*n)),
        Damage::DropJump(n) => chains.get_mut(*n).into_iter().for_each(|c| c.jumps.clear()),
        Damage::DropRule(n) => chains.get_mut(*n).into_iter().for_each(|c| c.rules.clear()),
        Damage::Hide(n) => chains.get_mut(*n).into_iter().for_each(|chain| {
            chain.jumps.iter_mut().for_each(|jump| jump.behind = Some("-j ACCEPT".into()));
        }),
        // Of a time when the other backend was the system's.
        Damage::Copy(n) => {
            let copy = chains.get(*n).cloned();
            chains.extend(copy.map(|mut chain| {
                chain.id.backend = Backend::Legacy;
                chain
            }));
            let mut seen = BTreeSet::new();
            chains.retain(|chain| seen.insert(chain.id.clone()));
        }
        _ => {}
    }
}

/// Objects of others that are in nobody's way.
fn add_foreign(kernel: &mut Memory) {
    let far: IpAddr = "198.51.100.1".parse().unwrap();
    let near: IpAddr = ADDRESSES[0].parse().unwrap();
    let reqid = Reqid(7);
    let selector = Selector::hosts(near, far);
    kernel.state_mut().sas.push(Sa {
        id: SaId::esp(far, Spi::from_raw(0xc000_0001)),
        src: near,
        reqid,
        mode: Mode::Tunnel,
        selector: None,
        algorithm: Cipher::Aes256Gcm.algorithm(),
        key: KeyView::Unknown,
        replay: Replay { window: 32, esn: false },
        ends: None,
        offload: None,
        encap: None,
        keepalive: None,
        if_id: 0,
        extras: BTreeSet::new(),
    });
    kernel.state_mut().policies.push(Policy {
        id: PolicyId::new(Direction::Out, selector),
        priority: 375_423,
        action: Action::Allow,
        index: None,
        templates: vec![Template::transport(near, far, Spi::from_raw(0), reqid)],
        extras: BTreeSet::new(),
    });
    kernel.state_mut().firewall.chains.push(Chain {
        id: ChainId::new(Backend::NfTables, Family::Ipv4, ChainRole::Out, reqid),
        rules: vec![Rule::Drop { port: 1, direction: Direction::Out }],
        jumps: vec![Jump::FIRST],
        references: Vec::new(),
    });
}

/// Objects that are not of the mesh.
fn foreign(kernel: &mut Memory) -> (Vec<Sa>, Vec<Policy>, Vec<Chain>) {
    let live = observe(kernel).0;
    (
        live.sas.into_iter().filter(|sa| sa.reqid != REQID).collect(),
        live.policies.into_iter().filter(|policy| !policy.belongs_to(REQID)).collect(),
        live.firewall.chains.into_iter().filter(|chain| !chain.id.belongs_to(REQID)).collect(),
    )
}

/// The packets to every peer of a mesh that the local one pairs with, and to a stranger.
fn packets(config: &Config) -> Vec<(IpAddr, Selector)> {
    let local = config.peers[0].address;
    let port = match config.traffic {
        Traffic::Vxlan { port } => port,
        _ => 4789,
    };
    let stranger: IpAddr = "192.0.2.99".parse().unwrap();
    config.peers[1..]
        .iter()
        .map(|peer| peer.address)
        .filter(|address| address.is_ipv4())
        .chain([stranger])
        .map(|address| (address, Selector::hosts(local, address).to_port(17, port)))
        .collect()
}

/// The last number sent under every SA.
fn numbers(kernel: &mut Memory) -> BTreeMap<SaId, u64> {
    observe(kernel).0.usage.iter().map(|usage| (usage.id, usage.sent)).collect()
}

/// Fails if a host can't ask a peer for its link-layer address, or answer it.
fn finds_its_neighbours(kernel: &Memory) -> Result<(), TestCaseError> {
    let state = kernel.state();
    let peers = state.policies.iter().map(|policy| &policy.id);
    let all = peers.filter(|id| id.selector.proto == 0 && !id.selector.is_ipv4());
    // No host forwards its questions to neighbours, or theirs to it.
    let all = all.filter(|id| id.direction != Direction::Fwd);
    for id in all {
        for kind in [135, 136] {
            let asked = id.selector.from_port(58, kind);
            // Incoming packets are looked up as outgoing ones.
            let turned = state.policies.iter().filter(|policy| policy.id.direction == id.direction);
            let turn = |policy: &Policy| {
                let id = PolicyId { direction: Direction::Out, ..policy.id };
                Policy { id, ..policy.clone() }
            };
            let state = State { policies: turned.map(turn).collect(), ..State::default() };
            prop_assert_eq!(flow_out(&state, &asked), Flow::Clear, "{}", asked);
        }
    }
    Ok(())
}

/// Performs a plan one step at a time, and looks after each.
fn step_by_step(
    config: &Config,
    kernel: &mut Memory,
    mut look: impl FnMut(&mut Memory, usize) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (wanted, keyring) = wanted_at(config, kernel.now());
    let plan = Plan::new(&wanted, &observe(kernel), REQID);
    for (number, planned) in plan.steps.iter().enumerate() {
        look(kernel, number)?;
        let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).expect("a key for each SA");
        let answers = kernel.perform(&[step]).unwrap();
        prop_assert!(answers[0].is_ok(), "{:?}", answers[0]);
    }
    look(kernel, plan.steps.len())
}

/// Whether the objects that a file would find are taken for those of another file with its reqid,
/// and left alone: other traffic, and not one SA that the file asks for.
fn is_taken_for_another_mesh(config: &Config, kernel: &mut Memory) -> bool {
    let conflicts = common::plan(config, kernel).conflicts;
    conflicts.iter().any(|conflict| conflict.code == ConflictCode::SameReqid)
}

fn flow(kernel: &mut Memory, packet: &Selector) -> Flow {
    flow_out(&observe(kernel).0, packet)
}

proptest! {
    #![proptest_config(cases(512))]

    /// Once a packet is protected or blocked, no prefix of a plan lets it out
    /// in the clear, as long as the file wants a guard or the peer stays.
    #[test]
    fn no_prefix_of_a_plan_opens_what_was_closed(
        before in meshes(0..4), after in meshes(0..4), damages in damages()
    ) {
        let mut kernel = applied_host(&before);
        add_foreign(&mut kernel);
        damage(&mut kernel, &damages);
        let stays = |address| after.peers.iter().any(|peer| peer.address == address);
        let closed: Vec<Selector> = packets(&before)
            .into_iter()
            .filter(|(address, _)| after.guard.is_on() || stays(*address))
            .map(|(_, packet)| packet)
            .filter(|packet| flow(&mut kernel, packet) != Flow::Clear)
            .collect();
        step_by_step(&after, &mut kernel, |kernel, number| {
            for packet in &closed {
                prop_assert_ne!(flow(kernel, packet), Flow::Clear, "{} after {} steps", packet, number);
            }
            Ok(())
        })?;
    }

    /// Where everything is protected, neighbour discovery is not, at every
    /// prefix of a plan and after any failure.
    #[test]
    fn hosts_find_their_neighbours_at_any_moment(
        before in meshes_of_ipv6(0..4), after in meshes_of_ipv6(0..4),
        nth in proptest::option::of(0..40usize)
    ) {
        let mut kernel = applied_host(&before);
        finds_its_neighbours(&kernel)?;
        if let Some(nth) = nth {
            kernel.refuse(nth, Errno(12));
            applied(&after, &mut kernel);
            finds_its_neighbours(&kernel)?;
        }
        step_by_step(&after, &mut kernel, |kernel, _| finds_its_neighbours(kernel))?;
    }

    /// The traffic to a port that the file names no longer is blocked until its
    /// guards go, in the last phase, and the plan says that it is in the clear then.
    #[test]
    fn an_old_port_stays_closed_until_its_guards_go(
        before in meshes(0..2), after in meshes(0..2), damages in damages()
    ) {
        let traffic = Traffic::Vxlan { port: 4789 };
        let (before, mut after) = (Config { guard: Guard::Both, traffic, ..before }, after);
        after.traffic = Traffic::Vxlan { port: 8472 };
        after.esp.cipher = before.esp.cipher;
        let mut kernel = applied_host(&before);
        damage(&mut kernel, &damages);
        prop_assume!(!is_taken_for_another_mesh(&after, &mut kernel));
        let plan = common::plan(&after, &mut kernel);
        let last = plan.steps.iter().take_while(|step| step.phase < Phase::DeleteGuards).count();
        let closed: Vec<Selector> = packets(&before)
            .into_iter()
            .map(|(_, packet)| packet)
            .filter(|packet| flow(&mut kernel, packet) != Flow::Clear)
            .collect();
        if closed.len() == packets(&before).len() {
            let said = plan.warnings.iter().any(|line| line.code == WarningCode::LeftInTheClear);
            prop_assert!(said, "{:?}", plan.warnings);
        }
        step_by_step(&after, &mut kernel, |kernel, number| {
            // A policy of a peer that goes had no guard behind it where that was removed.
            for packet in closed.iter().filter(|_| number <= last && damages.is_empty()) {
                prop_assert_ne!(flow(kernel, packet), Flow::Clear, "{} after {}", packet, number);
            }
            Ok(())
        })?;
    }

    /// Peers that stay as they are keep their traffic at every step of a raise by one, beside any
    /// other change.
    #[test]
    fn a_peer_that_stays_keeps_its_traffic(
        before in meshes(1..4), after in meshes(0..2), up in any::<bool>()
    ) {
        let mut after = after;
        after.esp = before.esp.clone();
        let generation = before.rotation.at(Time::default()).generation;
        let next = if up { generation.next() } else { generation.previous().unwrap() };
        after.rotation = Rotation::Generation(next);
        let mut kernel = applied_host(&before);
        add_foreign(&mut kernel);
        let staying: Vec<Selector> = packets(&before)
            .into_iter()
            .filter(|(address, _)| {
                let is_in = |config: &Config| config.peers.iter().any(|p| p.address == *address);
                is_in(&before) && is_in(&after)
            })
            .map(|(_, packet)| packet)
            .collect();
        step_by_step(&after, &mut kernel, |kernel, number| {
            for packet in &staying {
                let now = flow(kernel, packet);
                prop_assert!(matches!(now, Flow::Protected(_)), "{packet} {now} after {number} steps");
            }
            Ok(())
        })?;
    }

    /// An apply leaves nothing to do, from any state; and touches nothing foreign.
    #[test]
    fn an_apply_converges_and_leaves_foreign_objects_alone(
        before in meshes(0..200), after in meshes(0..200), damages in damages()
    ) {
        let mut kernel = applied_host(&before);
        add_foreign(&mut kernel);
        damage(&mut kernel, &damages);
        prop_assume!(!is_taken_for_another_mesh(&after, &mut kernel));
        let others = foreign(&mut kernel);
        let report = applied(&after, &mut kernel);
        prop_assert!(report.is_complete());
        prop_assert_eq!(foreign(&mut kernel), others);
        prop_assert!(common::plan(&after, &mut kernel).steps.is_empty());
        for (address, packet) in packets(&after) {
            let peer = after.peers.iter().any(|peer| peer.address == address);
            let now = flow(&mut kernel, &packet);
            prop_assert!(!peer || matches!(now, Flow::Protected(_)), "{packet} {now}");
            prop_assert!(peer || !after.guard.is_on() || now == Flow::Blocked, "{packet} {now}");
        }
    }

    /// If any single request fails, or any answer is lost: the report is right, closed traffic
    /// stays closed, and the next apply converges.
    #[test]
    fn the_next_apply_goes_on_after_any_failure(
        before in meshes(0..3), after in meshes(0..3), nth in 0..60usize, errno in 1..120i32,
        lost in proptest::option::of((0..6usize, 0..20usize))
    ) {
        let mut kernel = applied_host(&before);
        prop_assume!(!is_taken_for_another_mesh(&after, &mut kernel));
        kernel.refuse(nth, Errno(errno));
        if let Some((call, performed)) = lost {
            kernel.lose(call, performed);
        }
        let closed: Vec<Selector> = packets(&before)
            .into_iter()
            .filter(|(address, _)| {
                after.guard.is_on() || after.peers.iter().any(|peer| peer.address == *address)
            })
            .map(|(_, packet)| packet)
            .filter(|packet| flow(&mut kernel, packet) != Flow::Clear)
            .collect();
        let report = applied(&after, &mut kernel);
        let left = common::plan(&after, &mut kernel);
        // Parts of the second guard that this kernel can't have are told, and stay wanted.
        let is_left_out = |change: &Change| {
            matches!(&change.operation, Operation::Chain(ChainChange::Set { id, .. }) if report.left_out.contains_key(id))
        };
        let done = left.conflicts.is_empty() && left.changes.iter().all(is_left_out);
        prop_assert_eq!(report.is_complete(), done && report.failed.is_empty());
        for packet in &closed {
            prop_assert_ne!(flow(&mut kernel, packet), Flow::Clear);
        }
        let mut healthy = Memory::holding(kernel.state().clone());
        healthy.offload_to("eth0");
        prop_assert!(applied(&after, &mut healthy).is_complete());
    }

    /// Where the clock says which generation it is: an apply at any moment converges, after any
    /// earlier time of the clock, and stays converged as long as the generation does; and SAs lost
    /// within a generation are made anew above all numbers that were sent.
    #[test]
    fn a_mesh_that_follows_the_clock_converges_whatever_it_shows(
        mesh in meshes(0..1), damages in damages(), jump in 0..5000u64, later in 0..600u64
    ) {
        let period = Period::new(600).unwrap();
        let esp = Esp { replay: Replay { window: 1024, esn: true }, ..mesh.esp };
        let config = Config { rotation: Rotation::Period(period), esp, ..mesh };
        let mut kernel = common::host(&config);
        for now in [3_000, 3_000 + jump, 3_000 + jump + later, 3_000] {
            kernel.set_now(Time::from_seconds(now));
            prop_assert!(applied(&config, &mut kernel).is_complete());
            prop_assert!(common::plan(&config, &mut kernel).is_empty());
            for (address, packet) in packets(&config) {
                let peer = config.peers.iter().any(|peer| peer.address == address);
                prop_assert!(!peer || matches!(flow(&mut kernel, &packet), Flow::Protected(_)));
            }
            let end = period.end(period.generation(kernel.now()));
            kernel.set_now(Time(end.0 - 1));
            prop_assert!(common::plan(&config, &mut kernel).is_empty(), "the plan never flaps");
        }
        let sent = numbers(&mut kernel);
        damage(&mut kernel, &damages);
        prop_assert!(applied(&config, &mut kernel).is_complete());
        for (id, number) in numbers(&mut kernel) {
            prop_assert!(sent.get(&id).is_none_or(|before| number >= *before), "{id}");
        }
    }

    /// Destroying leaves exactly the objects that were there before the first apply, but for the
    /// MTU.
    #[test]
    fn destroying_leaves_what_was_there_before(config in meshes(0..200)) {
        let mut kernel = common::host(&config);
        add_foreign(&mut kernel);
        let mut untouched = observe(&mut kernel);
        prop_assert!(applied(&config, &mut kernel).is_complete());
        let nothing = meshsec::desired::Desired { goal: meshsec::desired::Goal::Nothing, ..Default::default() };
        let keyring = meshsec::desired::Keyring::default();
        let goal = meshsec::apply::Target { desired: &nothing, keyring: &keyring, reqid: REQID };
        let plan = Plan::new(&nothing, &observe(&mut kernel), REQID);
        let report = meshsec::apply::apply(&mut kernel, &goal, &plan, &mut |_| {});
        prop_assert!(report.is_complete());
        let left = observe(&mut kernel);
        untouched.0.links = left.0.links.clone();
        prop_assert_eq!(left, untouched);
    }

    /// The order of peers in the file means nothing.
    #[test]
    fn the_order_of_peers_means_nothing(config in meshes(0..200), seed in any::<u64>()) {
        let mut shuffled = config.clone();
        let order = |name: &str| name.bytes().fold(seed, |sum, b| sum.rotate_left(7) ^ u64::from(b));
        shuffled.peers[1..].sort_by_key(|peer| order(peer.name.as_str()));
        let (a, b) = (wanted(&config).0, wanted(&shuffled).0);
        prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }
}
