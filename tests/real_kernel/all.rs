//! Kind all: everything between two hosts, and the traffic that must go on beside it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    capture::MARKER,
    fixture::{A, B, Lab, Underlay, write_secret},
    ping,
    wait::wait_for,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn lab(underlay: Underlay) -> Lab {
    let mut lab = Lab::over(&[underlay, underlay]);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab
}

fn address(lab: &Lab, place: usize) -> IpAddr {
    lab.address(place).parse().expect("an address")
}

/// A connection between the hosts, and a server that echoes.
fn connect(lab: &Lab) -> (TcpStream, JoinHandle<()>) {
    let listener = lab.host(B).inside(|| TcpListener::bind((address(lab, B), 22)));
    let listener = listener.expect("the port is free");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..length]).expect("it can be sent back");
        }
    });
    let client = lab.host(A).inside(|| TcpStream::connect((address(lab, B), 22)));
    let client = client.expect("the server answers");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    (client, server)
}

fn converse(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("it can be sent");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("the answer comes");
    assert_eq!(answer, text);
}

fn an_open_connection_goes_on(underlay: Underlay) {
    let lab = lab(underlay);
    let (mut stream, server) = connect(&lab);
    converse(&mut stream, b"before the first apply");
    lab.apply(B).says("all traffic (ssh too) with a that flowed in the clear stops here");
    // Packets sent while only one end has applied wait for the other.
    stream.write_all(b"in between").expect("it is put into the send buffer");
    lab.apply(A);
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).expect("the answer comes after all");
    assert_eq!(&answer, b"in between");

    let capture = lab.capture();
    converse(&mut stream, &MARKER.repeat(200));
    drop(stream);
    server.join().expect("the server does not panic");
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3);
    assert_eq!(ping::answers(lab.host(B), &lab.address(A), 3), 3);
    datagrams(&lab, 500 * MARKER.len());
    closed_port(&lab);
    let recording = capture.stop();
    recording.has_only_esp(20);
    lab.places().for_each(|place| lab.has_converged(place));

    for place in lab.places() {
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
        assert_eq!(lab.host(place).ip("xfrm policy"), "");
    }
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3, "in the clear again");
}

fn socket(lab: &Lab, place: usize) -> UdpSocket {
    let socket = lab.host(place).inside(|| UdpSocket::bind((address(lab, place), 5000)));
    let socket = socket.expect("the port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

/// A datagram that leaves in fragments, there and back.
fn datagrams(lab: &Lab, length: usize) {
    let (a, b) = (socket(lab, A), socket(lab, B));
    let mut bytes = vec![0; length + 1];
    for (from, to, place) in [(&a, &b, B), (&b, &a, A)] {
        from.send_to(&MARKER.repeat(length / MARKER.len()), (address(lab, place), 5000))
            .expect("it can be sent");
        assert_eq!(to.recv(&mut bytes).expect("it arrives"), length);
    }
}

/// An ICMP error comes back: nobody listens there.
fn closed_port(lab: &Lab) {
    let socket = lab.host(A).inside(|| UdpSocket::bind((address(lab, A), 5001)));
    let socket = socket.expect("the port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket.connect((address(lab, B), 5002)).expect("UDP connects to anything");
    socket.send(MARKER).expect("it can be sent");
    let error = socket.recv(&mut [0; 10]).expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_open_connection_over_ipv4_goes_on_when_both_ends_have_applied() {
    an_open_connection_goes_on(Underlay::V4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_open_connection_over_ipv6_goes_on_when_both_ends_have_applied() {
    an_open_connection_goes_on(Underlay::V6);
}

/// Makes a host forget the link-layer address of the other, which the laboratory has entered.
fn forget(lab: &Lab, place: usize, other: usize) {
    lab.host(place).try_ip(&format!("neigh delete {} dev eth0", lab.address(other)));
}

fn neighbour(lab: &Lab, place: usize, other: usize) -> String {
    lab.host(place).ip(&format!("-6 neigh show {} dev eth0", lab.address(other)))
}

/// Whether hosts that have forgotten each other find each other again.
fn find_each_other(lab: &Lab) -> bool {
    let pairs = [(A, B), (B, A)];
    pairs.iter().for_each(|&(place, other)| forget(lab, place, other));
    pairs.iter().all(|&(place, other)| {
        let mut ping = ping::command();
        ping.args(["-q", "-c", "1", "-W", "1", &lab.address(other)]);
        lab.host(place).run(&mut ping);
        neighbour(lab, place, other).contains("lladdr")
    })
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn neighbours_find_each_other_whoever_has_applied_and_with_any_key() {
    let lab = lab(Underlay::V6);
    assert!(find_each_other(&lab), "before");
    lab.apply(A);
    assert!(find_each_other(&lab), "where one has applied");
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 2), 0);
    lab.apply(B);
    assert!(find_each_other(&lab), "where both have");
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3);

    let key = lab.file(B).with_file_name("mesh.key");
    write_secret(&key, &"ab".repeat(32));
    lab.apply(B);
    assert!(find_each_other(&lab), "where the keys differ");
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 2), 0);

    // All of this is due to those policies: without them the hosts are lost to each other.
    for kind in [135, 136] {
        for direction in ["in", "out"] {
            lab.host(A).ip(&format!(
                "xfrm policy delete src ::/0 dst ::/0 proto ipv6-icmp type {kind} dir {direction}"
            ));
        }
    }
    assert!(!find_each_other(&lab), "without the policies");
    assert_eq!(lab.plan(A)["summary"]["create"], 4);
    lab.apply(A);
    assert!(find_each_other(&lab), "with them again");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_neighbour_stays_reachable_when_it_is_asked_again() {
    let lab = lab(Underlay::V6);
    for (place, other) in [(A, B), (B, A)] {
        lab.apply(place);
        for (name, value) in [
            ("base_reachable_time_ms", 1000),
            ("delay_first_probe_time", 1),
            ("retrans_time_ms", 200),
        ] {
            let path = format!("/proc/sys/net/ipv6/neigh/eth0/{name}");
            lab.host(place).inside(|| std::fs::write(&path, value.to_string())).expect("a sysctl");
        }
        forget(&lab, place, other);
    }
    let capture = lab.capture();
    // Not ping, which tells the kernel with each packet that the neighbour is there.
    let (a, b) = (socket(&lab, A), socket(&lab, B));
    for number in 0..40u8 {
        a.send_to(&[number], (address(&lab, B), 5000)).expect("it can be sent");
        let mut received = [0];
        b.recv(&mut received).expect("it arrives");
        assert_eq!(received, [number]);
        thread::sleep(Duration::from_millis(200));
    }
    let recording = capture.stop();
    recording.has_only_esp(40);
    // The neighbour was asked again and again, and answers from its own address.
    let answered = recording.packets("icmp6 and ip6[40] = 136 and not ether multicast");
    assert!(answered.len() >= 2, "{answered:#?}");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_is_foreign_in_the_place_of_neighbour_discovery_is_named_or_serves() {
    const PLACE: &str = "src ::/0 dst ::/0 proto ipv6-icmp type 135 dir in";
    let lab = lab(Underlay::V6);
    let host = lab.host(A);
    host.ip(&format!("xfrm policy add {PLACE} action block priority 7"));
    lab.meshsec(A, &["plan"])
        .exits(1)
        .says("has the selector of the mesh's policy for neighbour discovery");
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1);
    // The very index, as another program may choose it: lab's reqid is 0x4d53a511.
    host.ip(&format!("xfrm policy delete {PLACE}"));
    host.ip("xfrm policy add src 2001:db8:9::/64 dst ::/0 dir in index 3577368848 priority 7000");
    lab.meshsec(A, &["plan"]).exits(1).says("has the index of the one that lets neighbour");
    host.ip("xfrm policy delete src 2001:db8:9::/64 dst ::/0 dir in");
    // A foreign policy to the same effect will do, and stays when the mesh goes.
    host.ip(&format!("xfrm policy add {PLACE} priority 7"));
    lab.apply_all();
    lab.has_converged(A);
    assert!(find_each_other(&lab));
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    assert!(host.ip("xfrm policy").contains("priority 7 "));
    host.ip(&format!("xfrm policy delete {PLACE}"));
    assert_eq!(host.ip("xfrm policy"), "");

    // Drift: the priority, which the kernel changes in place and keeps the index.
    lab.apply(A);
    host.ip(&format!("xfrm policy update {PLACE} priority 2000"));
    assert_eq!(lab.plan(A)["changes"][0]["fields"][0]["name"], "priority");
    lab.apply(A);
    lab.has_converged(A);
    wait_for("the guards of another kind to follow", || {
        let mut mesh = lab.mesh.clone();
        mesh.traffic = "kind = \"vxlan\"";
        lab.write(A, &mesh);
        lab.apply(A);
        lab.has_converged(A);
        // Types 1 to 4 are of errors, which the other kind has policies for.
        let policies = host.ip("xfrm policy");
        (!["type 135", "type 136"].iter().any(|kind| policies.contains(kind))).then_some(())
    });
}
