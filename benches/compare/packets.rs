//! The cost of a packet that a host sends, by the number of peers that it has.

use std::{
    fmt::Write,
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use meshsec::kernel::linux::netns;

use crate::{
    Bench, heading, medians,
    mesh::{Host, Keys, Mesh, address, succeeds},
    row,
};

/// Datagrams of one side of one round.
const PACKETS: u32 = 3000;
/// Bytes of a datagram: a small one, of which policies and SAs are the larger part.
const PAYLOAD: [u8; 64] = [0; 64];
const VXLAN: u16 = 4789;

/// Sends datagrams of the mesh's kind to the first peer, from the namespace of the calling thread.
fn send(socket: &UdpSocket) {
    for _ in 0..PACKETS {
        socket.send(&PAYLOAD).expect("a datagram leaves");
    }
}

/// A host with a mesh, and a socket of it. The first peer is nobody: its neighbour entry is fixed.
fn prepared(bench: &Bench, mesh: &Mesh, name: &str) -> (Host, UdpSocket) {
    let host = Host::new(name);
    host.ip("neighbour add 10.1.0.2 lladdr 02:00:00:00:00:02 nud permanent dev eth0");
    succeeds(&mut bench.apply(mesh, &host));
    netns::enter(&host.0).expect("a namespace");
    let socket = UdpSocket::bind("10.1.0.1:0").expect("a socket");
    socket.connect(("10.1.0.2", VXLAN)).expect("a route");
    // A first packet finds its route and its SA.
    let begin = Instant::now();
    while socket.send(&PAYLOAD).is_err() && begin.elapsed() < Duration::from_secs(5) {}
    (host, socket)
}

/// A chain with a rule for each peer that marks its packets, which is Weave Net's way. The rule of
/// the peer that is sent to is in the middle.
fn rules_for_peers(peers: u16) -> String {
    let middle = peers / 2;
    let mut rules = "*mangle\n:EACH -\n-A OUTPUT -j EACH\n".to_owned();
    for number in 0..peers {
        let peer = match number {
            number if number == middle => 1,
            number if number < middle => number + 2,
            number => number + 1,
        };
        let to = address(peer);
        let _ = writeln!(
            rules,
            "-A EACH -s 10.1.0.1 -d {to} -p udp --dport {VXLAN} -j MARK --or-mark 1"
        );
    }
    rules + "COMMIT\n"
}

/// Rows of one way to select the traffic.
fn rows(bench: &Bench, directory: &Path, select: &str, traffic: &str) {
    let mesh = |name: &str, peers| {
        Mesh::with(&directory.join(format!("{select}-{name}")), peers, Keys::MeshKey, traffic)
    };
    let (one, many) = (mesh("one", 1), mesh("many", bench.peers));
    let (host_of_one, of_one) = prepared(bench, &one, "one");
    let (host_of_many, of_many) = prepared(bench, &many, "many");
    let plain = UdpSocket::bind("10.1.0.1:0").expect("a socket");
    plain.connect(("10.1.0.2", 9)).expect("a route");
    // More rounds than of whole programs: one takes a moment.
    let [with_one, with_many, clear] = medians(
        bench.rounds * 6,
        [&mut || send(&of_one), &mut || send(&of_many), &mut || send(&plain)],
    );
    let what = format!("{PACKETS} datagrams, `{select}`, {} peers", bench.peers);
    row(&what, with_many, "the same with 1 peer", with_one, Some(1.05));
    row(&what, with_many, "of another port, in the clear, there", clear, None);
    if select == "mark" {
        let rules = bench.file("rules-for-peers", rules_for_peers(bench.peers).as_bytes());
        let restore = format!("iptables-restore --noflush < {rules}");
        succeeds(&mut host_of_many.program(&["sh", "-c", &restore]));
        let [with_rules, without] =
            medians(bench.rounds, [&mut || send(&of_many), &mut || send(&of_one)]);
        let what = format!("the same with a rule of iptables for each of {} peers", bench.peers);
        row(&what, with_rules, "`mark` with 1 peer and no such rule", without, None);
    }
    host_of_one.remove();
    host_of_many.remove();
}

/// Both ways to select the traffic.
pub fn sends(bench: &Bench) {
    println!("\nsent on one socket:\n");
    heading();
    rows(bench, &bench.directory, "port", "");
    rows(bench, &bench.directory, "mark", "select = \"mark\"\n");
}
