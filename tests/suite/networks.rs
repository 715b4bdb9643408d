//! A mesh of kind "networks": policies, guards, the interface, its addresses and routes.

mod arrivals;
mod decisions;
mod words;

use std::net::IpAddr;

use meshsec::{
    apply::{Report, Target, apply},
    config::{Config, Guard, InterfaceWish, Traffic},
    desired::{Desired, Keyring},
    kernel::{Kernel, Memory},
    model::{
        FibAction, FibEntry, Interface, LocalAddress, Mtu, PeerName, Policy, PolicyRole, Prefix,
        Reqid, State, Step,
    },
    plan::{Change, ObjectKind, Phase, Plan, undo},
    restore::{restore, unlike},
};

use crate::{
    common::{REQID, host, mesh, nothing, observe, wanted},
    packets_to_networks::{Fate, Follows, leaves},
};

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const OTHERS: Reqid = Reqid(0x4d53_0002);

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

fn local(address: &str, device: &str) -> LocalAddress {
    LocalAddress { address: address.parse().unwrap(), device: device.into() }
}

const NETWORKS: [[&str; 2]; 3] = [
    ["10.9.0.0/16", "fd00:9::/48"],
    ["10.2.0.0/16", "fd00:2::/48"],
    ["10.3.0.0/16", "fd00:3::/48"],
];

/// A mesh of three, each with a network of each family. The first host has an address in its own.
fn lab(generation: u64) -> Config {
    let mut config = Config {
        traffic: Traffic::Networks,
        guard: Guard::Off,
        tunnel: Some(InterfaceWish { device: "mesh0".into(), mtu: Mtu::Exactly(1400) }),
        ..mesh(generation, &LAB)
    };
    for (peer, networks) in config.peers.iter_mut().zip(NETWORKS) {
        peer.networks = networks.map(prefix).into();
    }
    config.peers[0].inside = ["10.9.0.1", "fd00:9::1"].map(|at| at.parse().unwrap()).into();
    config
}

fn with_networks() -> (Desired, Keyring) {
    wanted(&lab(1))
}

/// A packet for an address of each network.
fn packets() -> Vec<[IpAddr; 2]> {
    [
        ["10.9.0.1", "10.2.0.7"],
        ["fd00:9::1", "fd00:2::7"],
        ["10.9.0.1", "10.3.255.7"],
        ["fd00:9::1", "fd00:3::7"],
    ]
    .map(|ends| ends.map(|end| end.parse().unwrap()))
    .into()
}

fn perform(desired: &Desired, keyring: &Keyring, kernel: &mut Memory) -> Report {
    let plan = Plan::new(desired, &observe(kernel), REQID);
    apply(kernel, &Target { desired, keyring, reqid: REQID }, &plan, &mut |_| {})
}

/// A host on which it was applied, beside objects of others.
fn applied() -> Memory {
    let (desired, keyring) = with_networks();
    let mut kernel = host(&mesh(1, &LAB));
    foreign().into_iter().for_each(|entry| kernel.state_mut().fib.push(entry));
    kernel.state_mut().interfaces.push(Interface::of_mesh("ipsec0", OTHERS, 1300));
    kernel.state_mut().addresses.push(local("10.8.0.1", "ipsec0"));
    let report = perform(&desired, &keyring, &mut kernel);
    assert!(report.is_complete(), "{:?}", report.failed.first().map(|(_, error)| error.clone()));
    kernel
}

/// Entries that are not the mesh's, though near.
fn foreign() -> Vec<FibEntry> {
    let network = prefix("10.2.0.0/16");
    vec![
        FibEntry::blackhole(network, OTHERS),
        FibEntry { protocol: 4, ..FibEntry::blackhole(network, Reqid(7)) },
        FibEntry { metric: 9, protocol: 4, ..FibEntry::through(network, "mesh0", None) },
        FibEntry { metric: 8, ..FibEntry::through(network, "ipsec0", None) },
    ]
}

/// Another program's work.
type Spoil<'a> = &'a dyn Fn(&mut State);

fn has_foreign(state: &State) -> bool {
    foreign().iter().all(|entry| state.fib.contains(entry))
        && state.interface_of(OTHERS).is_some()
        && state.addresses.contains(&local("10.8.0.1", "ipsec0"))
}

#[test]
fn blackholes_come_first_and_routes_last_and_they_go_in_reverse() {
    let (desired, keyring) = with_networks();
    let mut kernel = host(&mesh(1, &LAB));
    let order = |plan: &Plan| -> Vec<(Phase, &'static str)> {
        let mut names: Vec<_> = plan.steps.iter().map(|step| (step.phase, step.name())).collect();
        names.dedup();
        names.retain(|(_, name)| {
            ["interface", "address", "route", "sa", "policy", "guard", "chain"]
                .iter()
                .any(|kind| name.ends_with(&format!("_{kind}")))
        });
        names
    };
    let plan = Plan::new(&desired, &observe(&mut kernel), REQID);
    assert_eq!(
        order(&plan),
        [
            (Phase::Guards, "add_guard"),
            (Phase::Guards, "set_chain"),
            (Phase::Guards, "add_route"),
            (Phase::OutboundSas, "add_sa"),
            (Phase::InboundSas, "add_sa"),
            (Phase::Policies, "add_policy"),
            (Phase::Interface, "add_interface"),
            (Phase::Addresses, "add_address"),
            (Phase::Routes, "add_route"),
        ]
    );
    assert!(perform(&desired, &keyring, &mut kernel).is_complete());
    let plan = Plan::new(&nothing(&mesh(1, &LAB)), &observe(&mut kernel), REQID);
    assert_eq!(
        order(&plan),
        [
            (Phase::DeleteRoutes, "delete_route"),
            (Phase::DeleteInterface, "delete_interface"),
            (Phase::DeletePolicies, "delete_policy"),
            (Phase::DeleteSas, "delete_sa"),
            (Phase::DeleteOutboundSas, "delete_sa"),
            (Phase::DeleteGuards, "delete_chain"),
            (Phase::DeleteGuards, "delete_guard"),
            (Phase::DeleteGuards, "delete_route"),
        ]
    );
}

/// Performs a plan step by step, and tells the fate of all packets after each.
fn followed(
    (desired, keyring): &(Desired, Keyring),
    kernel: &mut Memory,
    follows: Follows,
    mut see: impl FnMut(Phase, Vec<Fate>),
) {
    let plan = Plan::new(desired, &observe(kernel), REQID);
    for planned in &plan.steps {
        let step: Step = planned.step.keyed(|id| keyring.get(id).ok_or(())).unwrap();
        assert_eq!(kernel.perform(&[step]).unwrap(), [Ok(())], "{}", planned.id());
        let state = kernel.state();
        let fates = packets().into_iter().map(|[src, dst]| leaves(state, src, dst, follows));
        see(planned.phase, fates.collect());
    }
}

#[test]
fn at_no_step_does_a_packet_leave_in_the_clear_that_was_closed() {
    for follows in Follows::ALL {
        let mesh_of_networks = with_networks();
        let mut kernel = host(&mesh(1, &LAB));
        let mut worst = vec![Fate::Leaks; packets().len()];
        followed(&mesh_of_networks, &mut kernel, follows, |phase, fates| {
            for (worst, fate) in worst.iter_mut().zip(fates) {
                assert!(fate <= *worst, "{fate:?} after {worst:?}, in {phase:?}, {follows:?}");
                *worst = fate;
            }
        });
        let ends_well = |fate: &Fate| match follows {
            Follows::Tables => matches!(fate, Fate::Protected(_)),
            Follows::Underlay => *fate == Fate::Dropped,
        };
        assert!(worst.iter().all(ends_well), "{worst:?} {follows:?}");
        let nothing = (nothing(&mesh(1, &LAB)), Keyring::default());
        followed(&nothing, &mut kernel, follows, |phase, fates| {
            let leaks = fates.contains(&Fate::Leaks);
            assert!(!leaks || phase >= Phase::DeleteGuards, "{fates:?} in {phase:?}");
        });
        assert_eq!(kernel.state().fib, []);
        assert_eq!(kernel.state().firewall.chains, []);
    }
}

#[test]
fn a_raise_of_the_generation_drops_nothing() {
    let mut kernel = applied();
    let next = wanted(&lab(2));
    followed(&next, &mut kernel, Follows::Tables, |phase, fates| {
        assert!(fates.iter().all(|fate| matches!(fate, Fate::Protected(_))), "{phase:?} {fates:?}");
    });
}

#[test]
fn closed_in_every_partial_state() {
    let healthy = applied().state().clone();
    let interface_goes = |state: &mut State| {
        state.interfaces.retain(|one| !one.belongs_to(REQID));
        state.fib.retain(|entry| entry.action != FibAction::device("mesh0"));
    };
    let parts: [(&str, Spoil); 8] = [
        ("interface", &interface_goes),
        ("routes", &|state| state.fib.retain(|entry| entry.action != FibAction::device("mesh0"))),
        ("sas", &|state| state.sas.clear()),
        ("policies", &|state| {
            state.policies.retain(|policy| policy.role_in(REQID) != Some(PolicyRole::Peer));
        }),
        ("all policies", &|state| state.policies.clear()),
        ("guards", &|state| state.policies.retain(|policy| !policy.is_guard_of(REQID))),
        ("sysctl", &|state| {
            state.interfaces.iter_mut().for_each(|one| one.skips_policies = false);
        }),
        ("chains", &|state| state.firewall.chains.iter_mut().for_each(|one| one.rules.clear())),
    ];
    for chosen in 0..1 << parts.len() {
        let mut state = healthy.clone();
        let chosen = || parts.iter().enumerate().filter(move |(n, _)| chosen & 1 << n != 0);
        chosen().for_each(|(_, (_, spoil))| spoil(&mut state));
        for [src, dst] in packets() {
            let names: Vec<&str> = chosen().map(|(_, (name, _))| *name).collect();
            let fate = |follows| leaves(&state, src, dst, follows);
            assert_ne!(fate(Follows::Tables), Fate::Leaks, "to {dst} without {names:?}");
            // Two things have to go: the chain, and over IPv4 the guard.
            let is_closed = !names.contains(&"chains")
                || dst.is_ipv4()
                    && !names.iter().any(|name| ["all policies", "guards"].contains(name));
            let closed = fate(Follows::Underlay) == Fate::Dropped;
            assert_eq!(closed, is_closed, "past the tables to {dst} without {names:?}");
        }
    }
}

#[test]
fn whatever_happened_to_them_is_drift_that_an_apply_repairs() {
    let healthy = applied().state().clone().sorted();
    let change = |state: &mut State, change: fn(&mut Interface)| {
        change(state.interfaces.iter_mut().find(|one| one.belongs_to(REQID)).unwrap());
    };
    let spoil: [(&str, Spoil); 9] = [
        ("the interface is gone", &|state| {
            state.interfaces.retain(|one| !one.belongs_to(REQID));
            state.links.retain(|link| link.name != "mesh0");
            state.addresses.retain(|local| local.device != "mesh0");
            state.fib.retain(|entry| entry.action != FibAction::device("mesh0"));
            state.fib.extend(foreign().into_iter().filter(|entry| entry.metric == 9));
        }),
        ("it is down", &|state| {
            change(state, |one| one.up = false);
            state.addresses.retain(|local| local.address.is_ipv4() || local.device != "mesh0");
            state
                .fib
                .retain(|entry| entry.action != FibAction::device("mesh0") || entry.metric == 9);
        }),
        ("it is up again without routes", &|state| {
            state
                .fib
                .retain(|entry| entry.action != FibAction::device("mesh0") || entry.metric == 9);
        }),
        ("it makes addresses", &|state| change(state, |one| one.makes_addresses = true)),
        ("policies of others meet its packets", &|state| {
            change(state, |one| one.skips_policies = false);
        }),
        ("another MTU", &|state| change(state, |one| one.mtu = 1500)),
        ("an address came", &|state| state.addresses.push(local("10.9.0.7", "mesh0"))),
        ("an address went", &|state| {
            state.addresses.retain(|one| *one != local("10.9.0.1", "mesh0"))
        }),
        ("blackholes were flushed", &|state| {
            state.fib.retain(|entry| {
                entry.action != FibAction::Blackhole || !entry.belongs_to(REQID, None)
            });
        }),
    ];
    let (desired, keyring) = with_networks();
    for (name, spoil) in spoil {
        let mut kernel = Memory::holding(healthy.clone());
        spoil(kernel.state_mut());
        assert!(!Plan::new(&desired, &observe(&mut kernel), REQID).is_empty(), "{name}");
        let report = perform(&desired, &keyring, &mut kernel);
        assert!(report.is_complete(), "{name}");
        let mut healed = kernel.state().clone().sorted();
        // The device is the same as before, where it had to be made again.
        healed.links.clone_from(&healthy.links);
        assert!(healed == healthy, "{name}");
    }
}

#[test]
fn an_interface_that_was_renamed_is_made_again_under_its_name() {
    let (desired, keyring) = with_networks();
    let mut kernel = applied();
    let state = kernel.state_mut();
    state.interfaces.iter_mut().find(|one| one.belongs_to(REQID)).unwrap().name = "vpn".into();
    state.links.iter_mut().find(|link| link.name == "mesh0").unwrap().name = "vpn".into();
    for entry in &mut state.fib {
        if entry.action == FibAction::device("mesh0") {
            entry.action = FibAction::device("vpn");
        }
    }
    for local in state.addresses.iter_mut().filter(|local| local.device == "mesh0") {
        local.device = "vpn".into();
    }
    assert!(perform(&desired, &keyring, &mut kernel).is_complete());
    assert_eq!(kernel.state().interface_of(REQID).unwrap().name, "mesh0");
    assert!(kernel.state().link("vpn").is_none());
}

#[test]
fn a_destroy_takes_them_and_nothing_of_others() {
    let mut kernel = applied();
    assert!(has_foreign(kernel.state()));
    let desired = nothing(&mesh(1, &LAB));
    assert!(perform(&desired, &Keyring::default(), &mut kernel).is_complete());
    let state = kernel.state();
    assert_eq!(state.interface_of(REQID), None);
    assert_eq!(state.fib_of(REQID).count(), 0);
    assert!(state.interface_of(OTHERS).is_some());
    // Those that led by the mesh's interface went with it.
    let left = foreign().into_iter().filter(|entry| entry.metric != 9);
    assert!(left.into_iter().all(|entry| state.fib.contains(&entry)));
}

#[test]
fn a_revert_brings_them_back() {
    let mut kernel = applied();
    let (_, keyring) = with_networks();
    let to = nothing(&mesh(1, &LAB));
    let live = observe(&mut kernel);
    let plan = Plan::new(&to, &live, REQID);
    let (before, keys) = restore(&live, keyring, &plan, &to, REQID).unwrap();
    assert!(perform(&to, &Keyring::default(), &mut kernel).is_complete());
    assert!(!unlike(&before, &observe(&mut kernel), REQID).is_empty());
    perform(&before, &keys, &mut kernel);
    assert_eq!(unlike(&before, &observe(&mut kernel), REQID), Vec::<String>::new());
}

#[test]
fn a_plan_names_them_in_the_words_of_ip() {
    let (desired, _) = with_networks();
    let mut kernel = host(&mesh(1, &LAB));
    let plan = Plan::new(&desired, &observe(&mut kernel), REQID);
    let kinds =
        [ObjectKind::Interface, ObjectKind::Address, ObjectKind::Blackhole, ObjectKind::Route];
    let lines: Vec<String> = kinds
        .into_iter()
        .filter_map(|kind| plan.changes.iter().find(|change| change.kind() == kind))
        .map(Change::line)
        .collect();
    let expected = [
        "dev mesh0 if_id 0x4d530001",
        "10.9.0.1/32 dev mesh0",
        "10.2.0.0/16 metric 1297285121",
        "10.2.0.0/16 dev mesh0 metric 1",
    ];
    assert_eq!(lines, expected);
    let of_b = plan
        .changes
        .iter()
        .filter(|change| change.peer.as_ref().is_some_and(|peer| peer.as_str() == "b"));
    let mut order: Vec<ObjectKind> = of_b.map(Change::kind).collect();
    order.dedup();
    let expected = [ObjectKind::Blackhole, ObjectKind::Sa, ObjectKind::Policy, ObjectKind::Route];
    assert_eq!(order, expected);
    let interface = plan.changes.iter().find(|change| change.kind() == ObjectKind::Interface);
    let fields = interface.unwrap().fields();
    let fields: Vec<String> = fields
        .into_iter()
        .map(|field| format!("{} {}", field.name, field.after.unwrap()))
        .collect();
    let expected = ["name mesh0", "mtu 1400", "up yes", "makes_addresses no", "skips_policies yes"];
    assert_eq!(fields, expected);
}

/// All of them can be made again.
#[test]
fn whatever_becomes_of_them_can_be_reverted() {
    let (wanted, keyring) = with_networks();
    let changes =
        [wanted, nothing(&mesh(1, &LAB))].into_iter().zip([host(&mesh(1, &LAB)), applied()]);
    for (desired, mut kernel) in changes {
        let live = observe(&mut kernel);
        let plan = Plan::new(&desired, &live, REQID);
        let of_networks = |change: &&Change| {
            !matches!(change.kind(), ObjectKind::Sa | ObjectKind::Policy | ObjectKind::Guard)
        };
        for change in plan.changes.iter().filter(of_networks) {
            let lost = change.irreversible(&live.0, &keyring);
            assert_eq!(lost, Vec::<String>::new(), "{}", change.line());
        }
    }
}

#[test]
fn a_host_that_lacks_one_of_them_is_not_protected() {
    let protects = |edit: fn(&mut State)| {
        let (desired, _) = with_networks();
        let mut kernel = applied();
        edit(kernel.state_mut());
        Plan::new(&desired, &observe(&mut kernel), REQID).protects()
    };
    assert!(protects(|_| ()));
    assert!(!protects(|state| state.fib.retain(|entry| entry.to != prefix("10.2.0.0/16"))));
    assert!(!protects(|state| state.addresses.retain(|at| at.device != "mesh0")));
    assert!(!protects(|state| state.interfaces.retain(|interface| interface.name != "mesh0")));
}

/// Routes come last, so that a peer without its own yet can go again. Once they are there, it stays.
#[test]
fn a_peer_goes_again_as_long_as_its_routes_are_not_there() {
    let (desired, keyring) = with_networks();
    let b: IpAddr = LAB[1].parse().unwrap();
    let left = |last: Phase| {
        let mut kernel = applied();
        let state = kernel.state_mut();
        state.sas.retain(|sa| sa.src != b && sa.id.dst != b);
        let is_of_b = |policy: &Policy| {
            policy.templates.iter().any(|template| template.src == b || template.dst == b)
        };
        state.policies.retain(|policy| !is_of_b(policy));
        let is_of_b = |entry: &FibEntry| NETWORKS[1].map(prefix).contains(&entry.to);
        state.fib.retain(|entry| !is_of_b(entry) || entry.action == FibAction::Blackhole);
        let plan = Plan::new(&desired, &observe(&mut kernel), REQID);
        for step in plan.steps.iter().filter(|step| step.phase <= last) {
            let step = step.step.keyed(|id| keyring.get(id).ok_or(*id)).unwrap();
            assert!(kernel.perform(&[step]).unwrap()[0].is_ok());
        }
        let unfinished = [PeerName::new("b").unwrap()].into();
        undo(&plan, &desired, &observe(&mut kernel), REQID, &unfinished).len()
    };
    assert_eq!(left(Phase::Routes), 0);
    assert_ne!(left(Phase::Policies), 0);
}
