//! Other traffic than VXLAN: Geneve, and conversations with a port.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    fixture::{A, B, Lab},
    ping,
};

const QUESTION: &[u8] = b"a question that nobody else may read";
const ANSWER: &[u8] = b"an answer that nobody else may read either";

/// A question and its answer over TCP, the server being in the place `to`.
fn converses(lab: &Lab, from: usize, to: usize) {
    let address = format!("{}:443", lab.address(to));
    // A socket stays in the namespace that it was made in.
    let listener = lab.host(to).inside(|| TcpListener::bind(&address).expect("the port is free"));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut question = [0; QUESTION.len()];
        stream.read_exact(&mut question).expect("the question arrives");
        stream.write_all(ANSWER).expect("the answer can be sent");
        question
    });
    let mut client = lab.host(from).inside(|| TcpStream::connect(&address).expect("it answers"));
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
    converses(&lab, A, B);
    before.stop();
    assert!(contains(&name, QUESTION) && contains(&name, ANSWER), "clear text would be seen");

    lab.apply_all();
    let capture = lab.capture();
    let name = capture.name();
    converses(&lab, A, B);
    converses(&lab, B, A);
    let recording = capture.stop();
    recording.has_none("tcp");
    recording.has_only_esp(10);
    assert!(!contains(&name, QUESTION) && !contains(&name, ANSWER));
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
