//! ICMP errors quote decrypted packets: they leave encrypted too, and arrive.

use std::{io::ErrorKind, net::UdpSocket, time::Duration};

use crate::{
    capture::{MARKER, Recording},
    fixture::{A, B, Lab, Underlay, VXLAN, inner},
    iptables::{BY_MARK, Backend},
    namespace::Namespace,
    ping,
    traffic::Flood,
    wait::wait_for,
};

/// How many errors a host has received, by the name that `/proc/net/snmp` gives them.
pub fn received(host: &Namespace, underlay: Underlay, name: &str) -> u64 {
    match underlay {
        Underlay::V4 => {
            let table = host.proc_net("snmp");
            let mut rows = table.lines().filter_map(|line| line.strip_prefix("Icmp: "));
            let (names, numbers) = (rows.next().expect("names"), rows.next().expect("numbers"));
            let mut columns = names.split(' ').zip(numbers.split(' '));
            let column = columns.find(|(column, _)| *column == name);
            column.expect("it is counted").1.parse().expect("a number")
        }
        Underlay::V6 => {
            let table = host.proc_net("snmp6");
            let name = format!("Icmp6{name}");
            let rows = table.lines().filter_map(|line| line.split_once(char::is_whitespace));
            let row = rows.filter(|(row, _)| **row == name).map(|(_, number)| number).next();
            row.expect("it is counted").trim().parse().expect("a number")
        }
    }
}

fn errors(host: &Namespace, underlay: Underlay) -> u64 {
    received(host, underlay, "InDestUnreachs")
}

fn icmp(underlay: Underlay) -> &'static str {
    match underlay {
        Underlay::V4 => "icmp",
        Underlay::V6 => "icmp6",
    }
}

/// Pings from a to b, which answers by an error, until one has arrived.
fn unanswered_pings(lab: &Lab, underlay: Underlay) -> Recording {
    let before = errors(lab.host(A), underlay);
    let capture = lab.capture();
    wait_for("an ICMP error to arrive", || {
        assert_eq!(ping::answers(lab.host(A), &inner(B), 3), 0, "b answers");
        (errors(lab.host(A), underlay) > before).then_some(())
    });
    capture.stop()
}

/// Has host b answer packets that nobody takes, by an error that quotes them.
fn refuse(lab: &Lab, underlay: Underlay, how: &str) {
    match how {
        "no socket" => _ = lab.host(B).ip(&format!("link set {VXLAN} down")),
        "REJECT" => {
            for words in ["-A INPUT -p esp -j ACCEPT", "-A INPUT -p udp -j REJECT"] {
                Backend::Nft.tables(lab.host(B), underlay, words);
            }
        }
        other => panic!("nothing does {other}"),
    }
}

fn show_nothing(underlay: Underlay, how: &str, traffic: &'static str) {
    let mut lab = Lab::over(&[underlay; 2]);
    lab.mesh.traffic = traffic;
    lab.write_all(&lab.mesh);
    refuse(&lab, underlay, how);
    let before = unanswered_pings(&lab, underlay);
    assert!(!before.marked(icmp(underlay)).is_empty(), "errors in the clear would be seen");

    lab.apply_all();
    let recording = unanswered_pings(&lab, underlay);
    recording.has_only_esp(3);
    let answers = format!("src host {} and esp", lab.address(B));
    assert!(!recording.packets(&answers).is_empty(), "b has sent no error");
    lab.has_converged(B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_a_tunnel_device_that_is_down_show_nothing() {
    show_nothing(Underlay::V4, "no socket", "kind = \"vxlan\"");
    show_nothing(Underlay::V6, "no socket", "kind = \"vxlan\"");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_a_firewall_that_rejects_show_nothing() {
    show_nothing(Underlay::V4, "REJECT", "kind = \"vxlan\"");
    show_nothing(Underlay::V6, "REJECT", "kind = \"vxlan\"");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn about_marked_traffic_show_nothing() {
    show_nothing(Underlay::V4, "no socket", BY_MARK);
    show_nothing(Underlay::V6, "REJECT", BY_MARK);
}

/// A datagram from a to b, where nobody listens, until the error has come back.
fn is_refused(lab: &Lab, underlay: Underlay) {
    let address =
        |place| (lab.address(place).parse::<std::net::IpAddr>().expect("an address"), 514);
    let socket = lab.host(A).inside(|| UdpSocket::bind(address(A)).expect("the port is free"));
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout can be set");
    socket.connect(address(B)).expect("UDP connects to anything");
    wait_for(&format!("an error over {underlay:?}"), || {
        let sent = socket.send(MARKER);
        let error = sent.and_then(|_| socket.recv(&mut [0; 10])).expect_err("nobody answers");
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_a_port_without_a_listener_show_nothing() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let mut lab = Lab::over(&[underlay; 2]);
        lab.mesh.traffic = "kind = { protocol = \"udp\", port = 514 }";
        lab.mesh.guard = "false";
        lab.write_all(&lab.mesh);
        let capture = lab.capture();
        is_refused(&lab, underlay);
        assert!(!capture.stop().marked(icmp(underlay)).is_empty(), "it would be seen");
        lab.apply_all();
        let capture = lab.capture();
        is_refused(&lab, underlay);
        capture.stop().has_only_esp(2);
    }
}

/// From the first packet that is decrypted to the last: the peer sends all the time.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn show_nothing_while_a_host_applies_and_destroys() {
    for how in ["no socket", "REJECT"] {
        let lab = Lab::new(2);
        refuse(&lab, Underlay::V4, how);
        lab.apply(A);
        let capture = lab.capture();
        let flood = Flood::start(&lab, A, B);
        for _ in 0..5 {
            lab.apply(B);
            lab.meshsec(B, &["destroy", "--auto-approve"]).exits(0);
        }
        drop(flood);
        capture.stop().is_closed();
    }
}

/// Neither mesh needs the other's policies for errors, nor loses them with it.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_two_meshes_on_two_hosts_show_nothing_whichever_goes() {
    let lab = Lab::new(2);
    refuse(&lab, Underlay::V4, "no socket");
    let mut other = lab.mesh.clone();
    other.traffic = "kind = { protocol = \"udp\", port = 514 }";
    other.guard = "false";
    let other = other.renamed("other", 16);
    lab.apply_all();
    lab.write_all(&other);
    lab.apply_all();
    lab.places().for_each(|place| lab.has_converged(place));
    unanswered_pings(&lab, Underlay::V4).has_only_esp(3);
    let capture = lab.capture();
    is_refused(&lab, Underlay::V4);
    capture.stop().has_only_esp(2);
    for place in lab.places() {
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
    }
    unanswered_pings(&lab, Underlay::V4).has_only_esp(3);
    lab.write_all(&lab.mesh);
    lab.places().for_each(|place| lab.has_converged(place));
}
