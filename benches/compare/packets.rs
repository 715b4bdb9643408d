//! The cost of a packet that a host sends, by the number of peers that it has.

use std::{
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use meshsec::kernel::linux::netns;

use crate::{
    Bench, heading, medians,
    mesh::{Host, Keys, Mesh, succeeds},
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
