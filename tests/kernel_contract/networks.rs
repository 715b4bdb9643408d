//! Interfaces, addresses and routes.

use std::{collections::BTreeSet, net::IpAddr};

use meshsec::{
    kernel::{Errno, Kernel, KernelError, Linux},
    model::{
        AddressStep, FibAction, FibEntry, Interface, InterfaceStep, LocalAddress, Prefix, Reqid,
        RouteStep, Ways,
    },
    plan::StepKind,
};

use crate::{
    bench::{Bench, in_a_fresh_namespace, ip},
    suite::OURS,
};

const OTHERS: Reqid = Reqid(0x4d53_0002);
const NETWORKS: [&str; 2] = ["10.1.0.0/16", "fd00:1::/48"];
const INSIDE: [&str; 2] = ["10.9.0.1", "fd00:9::1"];

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

fn interface() -> Interface {
    Interface::of_mesh("mesh0", OURS, 1400)
}

fn add(interface: Interface) -> StepKind {
    StepKind::Interface(InterfaceStep::Add(interface))
}

fn set(interface: Interface) -> StepKind {
    StepKind::Interface(InterfaceStep::Set(interface))
}

fn delete(name: &str, reqid: Reqid) -> StepKind {
    StepKind::Interface(InterfaceStep::Delete { name: name.into(), if_id: reqid.0 })
}

fn address(text: &str, device: &str) -> LocalAddress {
    LocalAddress { address: text.parse().unwrap(), device: device.into() }
}

fn add_route(entry: FibEntry) -> StepKind {
    StepKind::Route(RouteStep::Add(entry))
}

fn delete_route(entry: FibEntry) -> StepKind {
    StepKind::Route(RouteStep::Delete(entry))
}

#[track_caller]
fn refused(answer: Result<(), KernelError>, errno: Errno) {
    match answer {
        Err(KernelError::Refused { errno: found, .. }) => assert_eq!(found, errno),
        other => panic!("{other:?} where {errno} was due"),
    }
}

/// The interface with its addresses.
fn with_addresses(bench: &mut dyn Bench) {
    bench.done(add(interface()));
    for inside in INSIDE {
        bench.done(StepKind::Address(AddressStep::Add(address(inside, "mesh0"))));
    }
}

/// All entries of a mesh, sorted.
fn entries() -> Vec<FibEntry> {
    let mut entries = Vec::new();
    for (network, inside) in NETWORKS.into_iter().zip(INSIDE) {
        let source: IpAddr = inside.parse().unwrap();
        entries.push(FibEntry::through(prefix(network), "mesh0", Some(source)));
        entries.push(FibEntry::blackhole(prefix(network), OURS));
    }
    entries.sort();
    entries
}

pub fn an_interface_is_observed_as_it_was_added(bench: &mut dyn Bench) {
    bench.done(add(interface()));
    let live = bench.look().0;
    assert_eq!(live.interfaces, [interface()]);
    let link = live.link("mesh0").expect("a device");
    assert_eq!((link.mtu, link.kind.as_deref()), (1400, Some("xfrm")));
    let on_it = |local: &&LocalAddress| local.device == "mesh0";
    assert_eq!(live.addresses.iter().find(on_it), None, "it makes no address");
}

pub fn an_interface_of_a_taken_name_or_number_is_eexist(bench: &mut dyn Bench) {
    bench.done(add(interface()));
    refused(bench.one(add(Interface::of_mesh("mesh0", OTHERS, 1400))), Errno::EEXIST);
    refused(bench.one(add(Interface::of_mesh("mesh1", OURS, 1400))), Errno::EEXIST);
    bench.plant_device("vx0");
    refused(bench.one(add(Interface::of_mesh("vx0", OTHERS, 1400))), Errno::EEXIST);
    refused(bench.one(add(Interface::of_mesh("mesh2", Reqid(0), 1400))), Errno::EINVAL);
    assert_eq!(bench.look().0.interfaces, [interface()]);
    bench.done(add(Interface::of_mesh("mesh1", OTHERS, 1400)));
    assert_eq!(bench.look().0.interfaces.len(), 2);
}

pub fn an_interface_is_set_to_what_is_wanted(bench: &mut dyn Bench) {
    bench.done(add(interface()));
    for changed in [
        Interface { mtu: 1300, ..interface() },
        Interface { up: false, ..interface() },
        Interface { skips_policies: false, ..interface() },
        Interface { up: false, makes_addresses: true, ..interface() },
    ] {
        bench.done(set(changed.clone()));
        assert_eq!(bench.look().0.interfaces, [changed]);
        bench.done(set(interface()));
        assert_eq!(bench.look().0.interfaces, [interface()]);
    }
    refused(bench.one(set(Interface::of_mesh("mesh0", OTHERS, 1300))), Errno::ENODEV);
    refused(bench.one(set(Interface::of_mesh("mesh1", OURS, 1300))), Errno::ENODEV);
    assert_eq!(bench.look().0.interfaces, [interface()]);
}

pub fn only_the_interface_of_that_name_and_number_is_deleted(bench: &mut dyn Bench) {
    bench.done(add(interface()));
    bench.done(delete("mesh0", OTHERS));
    bench.done(delete("mesh1", OURS));
    bench.done(delete("lo", OURS));
    assert_eq!(bench.look().0.interfaces, [interface()]);
    bench.done(delete("mesh0", OURS));
    assert_eq!(bench.look().0.interfaces, []);
    bench.done(delete("mesh0", OURS));
}

pub fn an_address_is_observed_as_it_was_added(bench: &mut dyn Bench) {
    with_addresses(bench);
    for inside in INSIDE {
        let local = address(inside, "mesh0");
        assert!(bench.look().0.addresses.contains(&local));
        refused(bench.one(StepKind::Address(AddressStep::Add(local.clone()))), Errno::EEXIST);
        bench.done(StepKind::Address(AddressStep::Delete(local.clone())));
        assert!(!bench.look().0.addresses.contains(&local));
        bench.done(StepKind::Address(AddressStep::Delete(local)));
    }
    let nowhere = address("10.9.0.2", "mesh9");
    refused(bench.one(StepKind::Address(AddressStep::Add(nowhere.clone()))), Errno::ENODEV);
    bench.done(StepKind::Address(AddressStep::Delete(nowhere)));
}

pub fn a_route_is_observed_as_it_was_added(bench: &mut dyn Bench) {
    with_addresses(bench);
    let entries = entries();
    for entry in &entries {
        bench.done(add_route(entry.clone()));
        refused(bench.one(add_route(entry.clone())), Errno::EEXIST);
    }
    let live = bench.look().0;
    assert_eq!(live.fib, entries);
    assert_eq!(live.fib_of(OURS).count(), 4);
    assert_eq!(live.fib_of(OTHERS).count(), 0);
    for (index, entry) in entries.iter().enumerate() {
        bench.done(delete_route(entry.clone()));
        assert_eq!(bench.look().0.fib, entries[index + 1..]);
        bench.done(delete_route(entry.clone()));
    }
}

pub fn only_a_route_that_is_as_given_is_deleted(bench: &mut dyn Bench) {
    with_addresses(bench);
    let kept = entries();
    kept.iter().for_each(|entry| bench.done(add_route(entry.clone())));
    for network in NETWORKS {
        bench.done(delete_route(FibEntry::blackhole(prefix(network), OTHERS)));
        bench.done(delete_route(FibEntry::through(prefix(network), "mesh9", None)));
    }
    assert_eq!(bench.look().0.fib, kept);
}

pub fn routes_go_with_the_interface_and_blackholes_stay(bench: &mut dyn Bench) {
    let is_blackhole = |entry: &FibEntry| entry.action == FibAction::Blackhole;
    let blackholes: Vec<FibEntry> = entries().into_iter().filter(is_blackhole).collect();
    for leave in [set(Interface { up: false, ..interface() }), delete("mesh0", OURS)] {
        with_addresses(bench);
        entries().into_iter().for_each(|entry| bench.done(add_route(entry)));
        assert_eq!(bench.look().0.fib, entries());
        bench.done(leave);
        let live = bench.look().0;
        assert_eq!(live.fib, blackholes);
        // Of a device that is down, addresses of IPv4 stay and those of IPv6 go.
        let on_it = live.addresses.iter().filter(|local| local.device == "mesh0");
        let left: Vec<String> = on_it.map(|local| local.address.to_string()).collect();
        let stays = if live.interfaces.is_empty() { &[][..] } else { &INSIDE[..1] };
        assert_eq!(left, stays);
        bench.done(delete("mesh0", OURS));
        blackholes.iter().for_each(|entry| bench.done(delete_route(entry.clone())));
    }
}

pub fn a_route_needs_its_device_up_and_its_source_here(bench: &mut dyn Bench) {
    for network in NETWORKS {
        let nowhere = FibEntry::through(prefix(network), "mesh0", None);
        refused(bench.one(add_route(nowhere)), Errno::ENODEV);
    }
    with_addresses(bench);
    for (network, source) in NETWORKS.into_iter().zip(["10.9.0.7", "fd00:9::7"]) {
        let source = Some(source.parse().unwrap());
        let entry = FibEntry::through(prefix(network), "mesh0", source);
        refused(bench.one(add_route(entry)), Errno::EINVAL);
    }
    bench.done(set(Interface { up: false, ..interface() }));
    for network in NETWORKS {
        let entry = FibEntry::through(prefix(network), "mesh0", None);
        refused(bench.one(add_route(entry)), Errno::ENETDOWN);
    }
    assert_eq!(bench.look().0.fib, []);
}

pub fn a_route_that_no_mesh_has_is_refused(bench: &mut dyn Bench) {
    with_addresses(bench);
    let ours = FibEntry::blackhole(prefix(NETWORKS[0]), OURS);
    for entry in [
        FibEntry { protocol: 4, ..ours.clone() },
        FibEntry { metric: 0, ..ours.clone() },
        FibEntry { action: FibAction::Other("unreachable".into()), ..ours.clone() },
        FibEntry { action: FibAction::Devices(Default::default()), ..ours.clone() },
        FibEntry {
            action: FibAction::Devices(["lo".into(), "mesh0".into()].into()),
            ..ours.clone()
        },
    ] {
        refused(bench.one(add_route(entry.clone())), Errno::EINVAL);
        refused(bench.one(delete_route(entry)), Errno::EINVAL);
    }
    assert_eq!(bench.look().0.fib, []);
}

/// The kernel's own list, beside routes of others.
#[test]
#[ignore = "needs XFRM interfaces: cargo xtask test"]
fn routes_of_others_are_read_where_they_overlap_with_the_networks() {
    in_a_fresh_namespace(|| {
        ip("link add u0 type dummy");
        ip("link add u1 type dummy");
        ip("addr add 192.0.2.1/24 dev u0");
        ip("addr add 2001:db8::1/64 dev u1 nodad");
        ip("link set u0 up");
        ip("link set u1 up");
        ip("route add default via 192.0.2.2");
        ip("route add 10.1.2.0/24 via 192.0.2.9 metric 5 proto static");
        ip("route add 10.1.3.0/24 nexthop via 192.0.2.8 nexthop via 192.0.2.9");
        ip("route add unreachable 10.1.0.0/16 table 77");
        ip("route add 10.2.0.0/16 dev u0");
        ip("route add unreachable 10.0.0.0/8 table 78");
        ip("rule add lookup 77 priority 100");
        ip("-6 route add fd00:1:0:5::/64 dev u1 metric 7");
        ip("-6 route add fd00:2::/48 dev u1");
        let networks = NETWORKS.map(prefix).to_vec();
        let ways = Ways { networks, ..Ways::default() };
        let fib = Linux::open().unwrap().asking_for(ways).observe(OURS).unwrap().0.fib;
        let shown: Vec<String> = fib.iter().map(FibEntry::to_string).collect();
        let default: Vec<&String> =
            shown.iter().filter(|line| line.starts_with("0.0.0.0/0")).collect();
        assert_eq!(default, ["0.0.0.0/0 dev u0 metric 0"]);
        let others: Vec<&String> =
            shown.iter().filter(|line| !line.contains("/0 ") && !line.contains("::/8")).collect();
        assert_eq!(
            others,
            [
                "unreachable 10.1.0.0/16 table 77 metric 0",
                "10.1.2.0/24 dev u0 metric 5",
                "10.1.3.0/24 dev u0 metric 0",
                "fd00:1:0:5::/64 dev u1 metric 7",
            ],
            "{shown:?}"
        );
        // Tables count that may be asked before the main one, as behind a goto.
        let ways = || Ways { networks: NETWORKS.map(prefix).to_vec(), ..Ways::default() };
        let tables = || -> BTreeSet<u32> {
            let fib = Linux::open().unwrap().asking_for(ways()).observe(OURS).unwrap().0.fib;
            fib.iter().map(|entry| entry.table).filter(|table| *table < 100).collect()
        };
        assert_eq!(tables(), BTreeSet::from([77]));
        ip("rule del priority 100");
        assert_eq!(tables(), BTreeSet::new());
        ip("rule add lookup main suppress_prefixlength 8 priority 10");
        ip("rule add lookup 78 priority 20");
        assert_eq!(tables(), BTreeSet::new());
        ip("rule del priority 10");
        ip("rule add lookup main suppress_prefixlength 16 priority 10");
        assert_eq!(tables(), BTreeSet::from([78]));
        ip("rule del priority 10");
        ip("rule del priority 20");
        ip("rule add lookup 78 priority 40000");
        ip("rule add goto 40000 priority 5");
        assert_eq!(tables(), BTreeSet::from([77, 78]));
        ip("rule del priority 5");
        // Those for some sources, or of a type of service, are told from others.
        ip("route add 10.1.0.0/16 tos 0x10 via 192.0.2.9 metric 50");
        ip("-6 route add fd00:1::/48 from fd00:9::/48 dev u1 metric 50");
        let fib = Linux::open().unwrap().asking_for(ways()).observe(OURS).unwrap().0.fib;
        let selective =
            fib.iter().filter(|entry| entry.selective).map(|entry| entry.to.to_string());
        assert_eq!(selective.collect::<Vec<_>>(), ["10.1.0.0/16", "fd00:1::/48"]);
        // Without networks only those of meshes are read.
        assert_eq!(Linux::open().unwrap().observe(OURS).unwrap().0.fib, []);
    });
}
