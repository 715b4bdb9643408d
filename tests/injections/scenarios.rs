//! Hosts, and their change.

use std::net::IpAddr;

use meshsec::{
    config::{Config, Esp, Guard, LinkWish, Ports, Protocol, Rotation, Select, Traffic},
    desired::{Desired, Keyring},
    kernel::Memory,
    model::{
        Cipher, Direction, Level, Mark, Mtu, Period, Policy, PolicyId, Replay, Reqid, Selector,
        Time,
    },
};

use crate::{
    common::{self, applied, applied_host, host, mesh, nothing, wanted_at},
    packets::Packet,
};

/// The change by an apply, or a destroy.
pub struct Scenario {
    pub name: &'static str,
    pub kernel: Memory,
    pub desired: Desired,
    pub keyring: Keyring,
    /// Packets of which the file says that they are not in the clear, before and after.
    pub packets: Vec<Packet>,
    /// The kind's packets, by their destination.
    pub of_peers: Vec<Packet>,
}

const ALL: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];

fn lab(generation: u64) -> Config {
    mesh(generation, &ALL[..3])
}

fn open(generation: u64) -> Config {
    Config { guard: Guard::Off, ..lab(generation) }
}

fn by_mark(generation: u64) -> Config {
    let select = Select::Mark(Mark { value: 0x20000, mask: 0x20000 });
    Config { select, ..lab(generation) }
}

fn with_cipher(cipher: Cipher) -> Config {
    Config { esp: Esp { cipher, ..lab(1).esp }, ..lab(1) }
}

fn by_clock() -> Config {
    let replay = Replay { window: 1024, esn: true };
    let rotation = Rotation::Period(Period::new(600).unwrap());
    Config { rotation, esp: Esp { replay, ..lab(1).esp }, ..lab(1) }
}

fn of_kind(traffic: Traffic, generation: u64) -> Config {
    Config { traffic, ..open(generation) }
}

fn all_of_ipv6(generation: u64) -> Config {
    Config {
        traffic: Traffic::All,
        guard: Guard::Off,
        ..mesh(generation, &["2001:db8::1", "2001:db8::2"])
    }
}

/// All of them. Small, so that everything can be tried at every point.
pub fn scenarios() -> Vec<Scenario> {
    let link = LinkWish { device: common::VXLAN.into(), mtu: Mtu::Auto };
    let tcp = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::one(443) };
    let before = |config: &Config| applied_host(config);
    let geneve = Traffic::Geneve { port: 6081 };
    let other_port = Config { traffic: geneve, ..lab(1) };
    let other_by_mark = Config { traffic: geneve, ..by_mark(1) };
    vec![
        to("a first apply", host(&lab(1)), &lab(1), &lab(1)),
        to("a first apply without a guard", host(&open(1)), &open(1), &open(1)),
        to("a first apply by mark", host(&by_mark(1)), &by_mark(1), &by_mark(1)),
        to("a raise", before(&lab(1)), &lab(1), &lab(2)),
        to("a raise without a guard", before(&open(1)), &open(1), &open(2)),
        to("a raise by mark", before(&by_mark(1)), &by_mark(1), &by_mark(2)),
        to("a jump", before(&lab(1)), &lab(1), &lab(9)),
        to("a new peer", before(&lab(1)), &lab(1), &mesh(1, &ALL)),
        to("a removed peer", before(&mesh(1, &ALL)), &mesh(1, &ALL), &lab(1)),
        to("another cipher", before(&lab(1)), &lab(1), &with_cipher(Cipher::Aes128Gcm)),
        to("from port to mark", before(&lab(1)), &lab(1), &by_mark(1)),
        to("from mark to port", before(&by_mark(1)), &by_mark(1), &lab(1)),
        to("from mark to port without a guard", before(&by_mark(1)), &by_mark(1), &open(1)),
        to("another port", before(&lab(1)), &lab(1), &other_port),
        to("another port by mark", before(&by_mark(1)), &by_mark(1), &other_by_mark),
        to("no guard any more", before(&lab(1)), &lab(1), &open(1)),
        to("an MTU", before(&lab(1)), &lab(1), &Config { link: Some(link), ..lab(1) }),
        to("a conversation", before(&of_kind(tcp, 1)), &of_kind(tcp, 1), &of_kind(tcp, 2)),
        to("all of IPv6", host(&all_of_ipv6(1)), &all_of_ipv6(1), &all_of_ipv6(1)),
        to("a raise of all of IPv6", before(&all_of_ipv6(1)), &all_of_ipv6(1), &all_of_ipv6(2)),
        to("a raise by the clock", by_the_clock(), &by_clock(), &by_clock()),
        to("a damaged host", damaged(&lab(1)), &lab(1), &lab(2)),
        to("a conflict", in_conflict(&lab(1)), &lab(1), &lab(2)),
        destroy("a destroy", before(&lab(1)), &lab(1)),
        destroy("a destroy by mark", before(&by_mark(1)), &by_mark(1)),
        destroy("a destroy of all of IPv6", before(&all_of_ipv6(1)), &all_of_ipv6(1)),
    ]
}

fn to(name: &'static str, mut kernel: Memory, before: &Config, after: &Config) -> Scenario {
    add_foreign(&mut kernel);
    let (desired, keyring) = wanted_at(after, kernel.now());
    let stay =
        |address: &IpAddr| after.guard.is_on() || after.peers.iter().any(|p| p.address == *address);
    let same_kind = before.traffic == after.traffic;
    let packets = of_peers(before).into_iter().filter(|packet| same_kind && stay(&packet.dst));
    let packets = packets.chain(of_peers(after)).chain(to_strangers(after)).collect();
    Scenario { name, kernel, desired, keyring, packets, of_peers: of_peers(after) }
}

fn destroy(name: &'static str, mut kernel: Memory, config: &Config) -> Scenario {
    add_foreign(&mut kernel);
    let (desired, keyring) = (nothing(config), Keyring::default());
    Scenario { name, kernel, desired, keyring, packets: vec![], of_peers: vec![] }
}

fn of_peers(config: &Config) -> Vec<Packet> {
    config.peers[1..].iter().flat_map(|peer| packets_to(config, peer.address)).collect()
}

/// Which the guard blocks.
fn to_strangers(config: &Config) -> Vec<Packet> {
    match config.guard.is_on() {
        true => packets_to(config, [192, 0, 2, 99].into()),
        false => Vec::new(),
    }
}

fn packets_to(config: &Config, dst: IpAddr) -> Vec<Packet> {
    let src = config.peers[0].address;
    let tcp = |sport, dport| Packet { proto: 6, sport, ..Packet::udp(src, dst, dport) };
    match config.traffic {
        Traffic::Vxlan { port } | Traffic::Geneve { port } => vec![Packet::udp(src, dst, port)],
        Traffic::All => vec![tcp(50_000, 22)],
        Traffic::Port { ports, .. } => {
            ports.iter().flat_map(|port| [tcp(50_000, port), tcp(port, 50_000)]).collect()
        }
        Traffic::Networks => Vec::new(),
    }
}

fn by_the_clock() -> Memory {
    let mut kernel = host(&by_clock());
    kernel.set_now(Time::from_seconds(6_030));
    assert!(applied(&by_clock(), &mut kernel).is_complete());
    kernel.set_now(Time::from_seconds(6_630));
    kernel
}

/// An SA is gone, another larval, one has a marked twin; a policy lets clear
/// text pass, two others are gone, and so is a guard.
fn damaged(config: &Config) -> Memory {
    let mut kernel = applied_host(config);
    let state = kernel.state_mut();
    let local = config.peers[0].address;
    state.sas.sort_by_key(|sa| sa.id.dst != local);
    state.policies.sort_by_key(Policy::is_for_icmp_errors);
    state.policies.pop();
    state.sas[0].algorithm = meshsec::model::Algorithm::Larval;
    state.sas.remove(1);
    let mut twin = state.sas[2].clone();
    twin.id.mark = Mark { value: 1, mask: 1 };
    state.sas.push(twin);
    state.policies.retain(|policy| !policy.is_guard() || policy.id.direction == Direction::Out);
    let mut peers = state.policies.iter_mut().filter(|policy| !policy.is_guard());
    peers.next().unwrap().templates[0].level = Level::Use;
    let gone = peers.next().unwrap().id;
    state.policies.retain(|policy| policy.id != gone);
    kernel
}

/// A foreign SA on b's new SPI.
fn in_conflict(config: &Config) -> Memory {
    let mut kernel = applied_host(config);
    let next = wanted_at(&lab(2), kernel.now()).0;
    let new = next.sas.values().find(|sa| sa.direction == Direction::Out).unwrap().sa.clone();
    kernel.state_mut().sas.push(meshsec::model::Sa { reqid: Reqid(7), ..new });
    kernel
}

/// An SA and a policy of somebody else, in nobody's way.
fn add_foreign(kernel: &mut Memory) {
    let (near, far) = ("198.51.100.1".parse().unwrap(), "198.51.100.2".parse().unwrap());
    let (desired, _) = wanted_at(&lab(1), kernel.now());
    let mut sa = desired.sas.values().next().unwrap().sa.clone();
    (sa.id.dst, sa.src, sa.reqid) = (far, near, Reqid(7));
    let mut policy = desired.policies.values().next().unwrap().policy.clone();
    policy.id = PolicyId::new(Direction::Out, Selector::hosts(near, far));
    policy.templates[0].reqid = Reqid(7);
    kernel.state_mut().sas.push(sa);
    kernel.state_mut().policies.push(policy);
}
