//! The answers of `explain` beside what the kernel does with the very packets.

use std::net::UdpSocket;

use crate::{
    capture::{MARKER, Recording},
    fixture::{A, B, D, Lab, VXLAN},
    inject::PACKETS,
    namespace::Namespace,
};

/// A packet of host a: the port that it comes from, the host and port that it goes to.
const PACKETS_OUT: [(u16, usize, u16); 4] =
    [(40_001, B, 4789), (40_002, B, 9999), (40_003, D, 4789), (40_004, D, 9999)];

/// What explain says of a packet, as a word.
#[track_caller]
fn told(lab: &Lab, packet: &str) -> String {
    let words = ["explain", packet, "--format", "json"];
    let document = lab.meshsec(A, &words).exits(0).json();
    let verdicts = document["verdicts"].as_array().expect("it has verdicts");
    assert_eq!(verdicts.len(), 1, "{packet}: {document:#}");
    verdicts[0]["verdict"].as_str().expect("it is a word").to_owned()
}

fn send(lab: &Lab, host: &Namespace, from: (&str, u16), to: (usize, u16)) {
    let address = lab.address(to.0);
    host.inside(|| {
        let socket = UdpSocket::bind(from).expect("the sender has this address");
        // A policy that blocks answers with an error.
        (0..PACKETS).for_each(|_| _ = socket.send_to(MARKER, (address.as_str(), to.1)));
    });
}

/// What the recording shows of packets from a host's port, as explain's word.
fn seen(lab: &Lab, recording: &Recording, (sport, to, dport): (u16, usize, u16)) -> &'static str {
    let to = lab.address(to);
    let clear = format!("udp and src port {sport} and dst host {to} and dst port {dport}");
    match recording.marked(&clear).len() {
        0 if recording.packets(&format!("esp and dst host {to}")).is_empty() => "blocked",
        0 => "encrypted",
        _ => "clear",
    }
}

/// Fails unless explain tells the fate of each packet that host a sends, each in a recording of its
/// own.
#[track_caller]
fn agrees_out(lab: &Lab, state: &str, wanted: [&str; 4]) {
    let from = lab.address(A);
    for (packet, wanted) in PACKETS_OUT.into_iter().zip(wanted) {
        let (sport, to, dport) = packet;
        let words = format!("udp {from}:{sport} > {}:{dport}", lab.address(to));
        let told = told(lab, &words);
        let capture = lab.capture();
        send(lab, lab.host(A), (&from, sport), (to, dport));
        let seen = seen(lab, &capture.stop(), packet);
        assert_eq!((told.as_str(), seen), (wanted, wanted), "{state}: {words}");
    }
}

/// Fails unless explain tells whether host a takes clear text for its VXLAN.
#[track_caller]
fn agrees_in(lab: &Lab, state: &str, from: usize, wanted: &str) {
    agrees_in_under(lab, state, (from, ""), wanted);
}

/// The same of packets that arrive encrypted.
#[track_caller]
fn agrees_in_under(lab: &Lab, state: &str, (from, under): (usize, &str), wanted: &str) {
    let (source, host) = (lab.address(from), lab.host(A));
    let words = format!("udp {source}:40005 > {}:4789{under}", lab.address(A));
    assert_eq!(told(lab, &words), wanted, "{state}: {words}");
    let before = host.received(VXLAN);
    match wanted {
        "accepted" => crate::inject::gets_in(lab, lab.host(from), &source, A),
        _ => crate::inject::never_gets_in(lab, lab.host(from), &source, A),
    }
    let taken = host.received(VXLAN) > before;
    assert_eq!(taken, wanted == "accepted", "{state}: {words}");
}

/// Hosts a and b in a mesh, and host d beside it. Only host a has it applied.
fn lab() -> Lab {
    let mut lab = Lab::new(4);
    lab.mesh = lab.mesh.of_peers(&[A, B]);
    lab.write(A, &lab.mesh);
    // So that nothing waits for an answer of the neighbour.
    crate::ping::answers(lab.host(A), &lab.address(D), 1);
    crate::ping::answers(lab.host(A), &lab.address(B), 1);
    lab
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn explain_tells_what_packets_do_before_and_after_an_apply() {
    let lab = lab();
    agrees_out(&lab, "before", ["clear", "clear", "clear", "clear"]);
    agrees_in(&lab, "before", B, "accepted");
    // What it tells of the plan is what is there once that is done.
    let packet = format!("udp {}:40001 > {}:4789", lab.address(A), lab.address(B));
    let after = ["explain", &packet, "--after-plan"];
    lab.meshsec(A, &after).exits(0).says("Verdict: encrypted under SPI 0x84001002");
    lab.apply(A);
    agrees_out(&lab, "after", ["encrypted", "clear", "blocked", "clear"]);
    agrees_in(&lab, "after", B, "refused");
    agrees_in(&lab, "after", D, "refused");
    // Packets of b come encrypted once it has the mesh too.
    lab.write(B, &lab.mesh);
    lab.apply(B);
    agrees_in_under(&lab, "encrypted", (B, " under 0x84002001"), "accepted");
    // The kernel has no SA to take them with.
    lab.host(A).ip("xfrm state delete dst 192.0.2.1 proto esp spi 0x84002001");
    let words = "udp 192.0.2.2:40005 > 192.0.2.1:4789 under 0x84002001";
    assert_eq!(told(&lab, words), "refused");
    let missing = || crate::xfrm::counters(lab.host(A))["XfrmInNoStates"];
    let (before, received) = (missing(), lab.host(A).received(VXLAN));
    send(&lab, lab.host(B), ("192.0.2.2", 40_005), (A, 4789));
    crate::wait::wait_for("packets without an SA", || {
        (missing() >= before + PACKETS).then_some(())
    });
    assert_eq!(lab.host(A).received(VXLAN), received);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn explain_tells_what_packets_do_after_flushes() {
    let lab = lab();
    lab.apply(A);
    let host = lab.host(A);
    let foretold = |flushed: &[&str]| {
        let packet = format!("udp {}:40001 > {}:4789", lab.address(A), lab.address(B));
        let mut words = vec!["explain", &packet];
        flushed.iter().for_each(|flushed| words.extend(["--after-flush", flushed]));
        lab.meshsec(A, &words).exits(0).stdout
    };
    assert!(foretold(&["policies"]).contains("Verdict: blocked"));
    assert!(foretold(&["policies", "iptables"]).contains("Verdict: in the clear"));
    host.ip("xfrm state flush");
    agrees_out(&lab, "without SAs", ["blocked", "clear", "blocked", "clear"]);
    host.ip("xfrm policy flush");
    agrees_out(&lab, "without policies", ["blocked", "clear", "blocked", "clear"]);
    agrees_in(&lab, "without policies", B, "refused");
    for program in ["iptables", "ip6tables"] {
        host.run(std::process::Command::new(program).args(["-t", "mangle", "-F"])).exits(0);
    }
    agrees_out(&lab, "without anything", ["clear", "clear", "clear", "clear"]);
    agrees_in(&lab, "without anything", B, "accepted");
}
