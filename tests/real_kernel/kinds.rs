//! Other traffic than VXLAN: Geneve, and conversations with a port.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    capture::MARKER,
    fixture::{A, B, Lab},
    ping,
    wait::wait_for,
};

const QUESTION: &[u8] = b"a question that nobody else may read";
const ANSWER: &[u8] = b"an answer that nobody else may read either";

/// A question and its answer over TCP, the server being in the place `to` at a port.
fn converses(lab: &Lab, from: usize, to: usize, port: u16) {
    let address = lab.address(to);
    // A socket stays in the namespace that it was made in.
    let listener = lab
        .host(to)
        .inside(|| TcpListener::bind((address.as_str(), port)).expect("the port is free"));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut question = [0; QUESTION.len()];
        stream.read_exact(&mut question).expect("the question arrives");
        stream.write_all(ANSWER).expect("the answer can be sent");
        question
    });
    let mut client =
        lab.host(from).inside(|| TcpStream::connect((address.as_str(), port)).expect("it answers"));
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
    client.write_all(QUESTION).expect("the question can be sent");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the answer arrives");
    assert_eq!(answer, ANSWER);
    assert_eq!(server.join().expect("the server does not panic"), QUESTION);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_conversation_with_a_port_shows_no_clear_byte_in_either_direction() {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = "kind = { protocol = \"tcp\", port = 443 }";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    let contains = |name: &str, text: &[u8]| {
        let bytes = fs::read(lab.directory().join(name)).expect("the recording is there");
        bytes.windows(text.len()).any(|window| window == text)
    };

    let before = lab.capture();
    let name = before.name();
    converses(&lab, A, B, 443);
    before.stop();
    assert!(contains(&name, QUESTION) && contains(&name, ANSWER), "clear text would be seen");

    lab.apply_all();
    let capture = lab.capture();
    let name = capture.name();
    converses(&lab, A, B, 443);
    converses(&lab, B, A, 443);
    let recording = capture.stop();
    recording.has_none("tcp");
    recording.has_only_esp(10);
    assert!(!contains(&name, QUESTION) && !contains(&name, ANSWER));
    lab.places().for_each(|place| lab.has_converged(place));
}

/// The third port is not in the list. At last a rule of policy routing sends packets to one port by a
/// device that they pass all policies on.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn several_ports_are_encrypted_and_a_port_beside_them_is_not() {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = "kind = { protocol = \"tcp\", port = [8443, 443] }";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let capture = lab.capture();
    for port in [443, 8443] {
        converses(&lab, A, B, port);
        converses(&lab, B, A, port);
    }
    let recording = capture.stop();
    recording.has_none("tcp");
    recording.has_only_esp(20);

    let capture = lab.capture();
    converses(&lab, A, B, 8080);
    let recording = capture.stop();
    recording.has_none("esp");
    assert!(recording.packets("tcp port 8080").len() >= 6, "the port beside them is in the clear");
    lab.places().for_each(|place| lab.has_converged(place));

    let to = lab.address(B);
    lab.host(A).ip_batch(&format!(
        "link add up1 type dummy\nlink set up1 up\nroute add {to}/32 dev up1 table 100\n\
         rule add to {to} ipproto tcp dport 8443 lookup 100\n"
    ));
    lab.has_converged(A);
    lab.host(A).set_sysctl("ipv4/conf/up1/disable_xfrm", "1");
    lab.meshsec(A, &["plan"]).exits(1).says("sysctl net/ipv4/conf/up1/disable_xfrm = 1");
}

/// Questions in datagrams to a port of another host and back, a hundred a second.
struct Echo {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    sender: JoinHandle<u32>,
    receiver: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl Echo {
    fn start(lab: &Lab, from: usize, to: usize, port: u16) -> Self {
        let bind = |place: usize, port| {
            let address = lab.address(place);
            let bound = lab.host(place).inside(|| UdpSocket::bind((address.as_str(), port)));
            let socket = bound.expect("the port is free");
            socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout can be set");
            socket
        };
        let (client, socket) = (bind(from, 0), bind(to, port));
        client.connect((lab.address(to).as_str(), port)).expect("a datagram needs no answer");
        let server = thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, sender)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], sender).expect("the answer can be sent");
            }
        });
        let answers = client.try_clone().expect("a second handle");
        let answered = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&answered);
        let receiver = thread::spawn(move || {
            while answers.recv(&mut [0; 512]).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                client.send(&MARKER.repeat(4)).expect("the question can be sent");
                sent += 1;
                thread::sleep(Duration::from_millis(10));
            }
            sent
        });
        Self { stop, answered, sender, receiver, server }
    }

    fn wait_for_more(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for("answers to datagrams", || {
            (self.answered.load(Ordering::Relaxed) >= before + 20).then_some(())
        });
    }

    /// Stops, and fails unless every question was answered.
    fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("all questions were sent");
        self.receiver.join().expect("the answers were read");
        self.server.join().expect("the server has answered");
        assert_eq!(self.answered.load(Ordering::Relaxed), sent);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_port_comes_and_goes_at_stage_send_without_a_lost_packet() {
    let mut lab = Lab::new(2);
    let (one, two) = (
        "kind = { protocol = \"udp\", port = 2181 }",
        "kind = { protocol = \"udp\", port = [2181, 2888] }",
    );
    lab.mesh.guard = "false";
    lab.mesh.traffic = one;
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let (old, new) = (Echo::start(&lab, A, B, 2181), Echo::start(&lab, B, A, 2888));
    let whole = lab.capture();
    let mut go = |traffic, stage| {
        lab.mesh.traffic = traffic;
        lab.write_all(&lab.mesh.at(stage));
        for place in [B, A] {
            lab.apply(place);
            old.wait_for_more();
            new.wait_for_more();
        }
        lab.capture()
    };
    go(one, "send");
    go(two, "send");
    let capture = go(two, "enforce");
    new.wait_for_more();
    let recording = capture.stop();
    recording.has_none("udp port 2181 or udp port 2888");
    recording.has_only_esp(40);
    go(two, "send");
    go(one, "send");
    let capture = go(one, "enforce");
    new.wait_for_more();
    assert!(capture.stop().marked("udp port 2888").len() > 20, "clear text of the port that went");
    let recording = whole.stop();
    recording.has_none("udp port 2181");
    old.lost_nothing();
    new.lost_nothing();
    lab.places().for_each(|place| lab.has_converged(place));
}

/// Gives a host a Geneve device to the other.
fn add_geneve(lab: &Lab, place: usize, other: usize) {
    lab.host(place).ip_batch(&format!(
        "link add gnv0 address {} mtu 1300 type geneve id 7 remote {}\n\
         link set gnv0 addrgenmode none\nlink set gnv0 up\n\
         address add {}/24 dev gnv0\nneigh add {} lladdr {} dev gnv0\n",
        geneve_mac(place),
        lab.address(other),
        geneve_address(place),
        geneve_address(other),
        geneve_mac(other),
    ));
}

fn geneve_mac(place: usize) -> String {
    format!("02:43:00:00:00:{:02x}", place + 1)
}

fn geneve_address(place: usize) -> String {
    format!("10.43.0.{}", place + 1)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn geneve_leaves_encrypted_or_not_at_all() {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = "kind = \"geneve\"";
    lab.write_all(&lab.mesh);
    add_geneve(&lab, A, B);
    add_geneve(&lab, B, A);
    let ping = |count| ping::answers(lab.host(A), &geneve_address(B), count);

    let before = lab.capture();
    assert_eq!(ping(3), 3, "Geneve works without meshsec");
    assert!(before.stop().marked("udp port 6081").len() >= 6, "clear Geneve would be seen");

    let capture = lab.capture();
    lab.apply(A);
    assert_eq!(ping(3), 0, "host b has no SA yet");
    lab.apply(B);
    assert_eq!(ping(3), 3);
    let recording = capture.stop();
    recording.has_none("udp port 6081");
    recording.has_only_esp(6);
    lab.places().for_each(|place| lab.has_converged(place));
}
