//! Exceptions from kind all: what they name flows in the clear, and nothing else does.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use crate::{
    capture::{MARKER, Recording},
    fixture::{A, B, Lab, Underlay},
    ping, xfrm,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn address(lab: &Lab, place: usize) -> IpAddr {
    lab.address(place).parse().expect("an address")
}

/// A conversation between two hosts, with a port of the second; the marker goes both ways.
fn converse(lab: &Lab, from: usize, to: usize, port: u16) {
    let at = (address(lab, to), port);
    let listener = lab.host(to).inside(|| TcpListener::bind(at)).expect("the port is free");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut bytes = [0; MARKER.len()];
        stream.read_exact(&mut bytes).expect("it comes");
        stream.write_all(&bytes).expect("it can be sent back");
    });
    let mut stream = lab.host(from).inside(|| TcpStream::connect(at)).expect("it answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(MARKER).expect("it can be sent");
    let mut answer = [0; MARKER.len()];
    stream.read_exact(&mut answer).expect("the answer comes");
    assert_eq!(&answer, MARKER);
    server.join().expect("the server does not panic");
}

/// A datagram to a port at which nobody listens; the error about it comes back.
fn closed_port(lab: &Lab) {
    let socket = lab.host(A).inside(|| UdpSocket::bind((address(lab, A), 0))).expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket.connect((address(lab, B), 5002)).expect("UDP connects to anything");
    socket.send(MARKER).expect("it can be sent");
    socket.recv(&mut [0; 8]).expect_err("nobody listens there");
}

/// What the exceptions name can be read, and nothing else.
fn only_exceptions_can_be_read(recording: &Recording, errors: &str) {
    let ssh = "tcp port 22";
    assert!(recording.marked(ssh).len() >= 2, "both ways");
    assert!(recording.marked("icmp or icmp6").len() >= 6, "pings and their answers");
    let others = format!("not ({ssh}) and not icmp and not icmp6");
    let marked = recording.marked(&others);
    assert!(marked.is_empty(), "{} packets can be read", marked.len());
    assert!(recording.packets("esp").len() >= 8);
    // The error about a datagram, which quotes it, is encrypted.
    recording.has_none(errors);
}

fn exceptions(underlay: Underlay) {
    let mut lab = Lab::over(&[underlay, underlay]);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    lab.mesh.tail = "\n[[except]]\nprotocol = \"tcp\"\nport = 22\nserves = [\"b\"]\n\n\
                     [[except]]\nprotocol = \"udp\"\nport = 514\nserves = [\"b\"]\n\n\
                     [[except]]\nicmp = true\n";
    lab.write_all(&lab.mesh);
    lab.apply(A).says("tcp port 22 with b passes in the clear, as [[except]] asks; whoever forges");
    // An exception flows before the other host has applied.
    converse(&lab, A, B, 22);
    lab.apply(B).says("tcp port 22 with a passes in the clear, as [[except]] asks\n");
    lab.places().for_each(|place| lab.has_converged(place));
    let capture = lab.capture();
    converse(&lab, A, B, 22);
    converse(&lab, A, B, 23);
    // The same port of the host that does not offer the service.
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3);
    assert_eq!(ping::answers(lab.host(B), &lab.address(A), 3), 3);
    closed_port(&lab);
    let errors = match underlay {
        Underlay::V4 => "icmp[0] = 3",
        Underlay::V6 => "icmp6 and ip6[40] = 1",
    };
    only_exceptions_can_be_read(&capture.stop(), errors);
    let capture = lab.capture();
    converse(&lab, B, A, 22);
    capture.stop().is_closed();
    let status = lab.meshsec(A, &["status"]).exits(0);
    status.says("1 protected");
    lab.meshsec(A, &["show"]).exits(0).says("Exceptions");

    // Sockets that were open keep the route that they have found.
    let listener = lab.host(B).inside(|| UdpSocket::bind((address(&lab, B), 514)));
    let _listener = listener.expect("the port is free");
    let open = lab.host(A).inside(|| UdpSocket::bind((address(&lab, A), 0))).expect("a port");
    open.connect((address(&lab, B), 514)).expect("UDP connects to anything");
    open.send(MARKER).expect("it can be sent");
    lab.mesh.tail = "";
    lab.write_all(&lab.mesh);
    lab.apply(A).says("exceptions change: their packets are lost");
    lab.apply(B);
    let capture = lab.capture();
    open.send(MARKER).expect("it can be sent");
    converse(&lab, A, B, 22);
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3);
    let recording = capture.stop();
    recording.is_closed();
    assert!(recording.packets("esp").len() > 8, "the open socket's packet among them");
    for place in lab.places() {
        lab.has_converged(place);
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
        assert_eq!(xfrm::databases(lab.host(place)), "");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn over_ipv4_only_what_the_file_excepts_is_in_the_clear() {
    exceptions(Underlay::V4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn over_ipv6_only_what_the_file_excepts_is_in_the_clear() {
    exceptions(Underlay::V6);
}
