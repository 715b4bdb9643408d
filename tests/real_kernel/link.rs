//! The MTU of the VXLAN's device: the number is right, it is set, and kept.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use crate::{
    fixture::{A, B, Lab, Underlay, VXLAN, inner},
    ping,
    shell::Ran,
};

/// Two hosts with a file that asks for the MTU that fits.
fn lab(underlay: Underlay) -> Lab {
    let mut lab = Lab::over(&[underlay, underlay]);
    lab.mesh.link = "device = \"vxlan42\"\nmtu = \"auto\"";
    lab.write_all(&lab.mesh);
    lab
}

/// The MTU of a host's device.
pub fn mtu(lab: &Lab, place: usize, device: &str) -> String {
    let text = lab.host(place).ip(&format!("link show {device}"));
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).unwrap_or_else(|| panic!("no mtu in {text}")).to_owned()
}

/// One ping with a packet in the VXLAN of this length, which must not be fragmented there.
pub fn ping(lab: &Lab, length: usize) -> bool {
    let mut ping = ping::command();
    let payload = (length - 28).to_string();
    ping.args(["-q", "-c", "2", "-i", "0.1", "-W", "1", "-M", "do", "-s", &payload, &inner(B)]);
    lab.host(A).run(&mut ping).status == 0
}

fn fits_to_the_byte(underlay: Underlay, largest: usize) {
    let lab = lab(underlay);
    for place in [A, B] {
        // Over IPv4 the outer packet would be fragmented without it.
        lab.host(place).ip(&format!("link set {VXLAN} type vxlan id 42 df set"));
        lab.host(place).ip(&format!("link set {VXLAN} mtu 1430"));
    }
    lab.apply(A).says("mtu: 1430 -> ").says(&format!("set_mtu dev {VXLAN} mtu {largest}"));
    lab.apply(B);
    for place in [A, B] {
        assert_eq!(mtu(&lab, place, VXLAN), largest.to_string());
        lab.has_converged(place);
    }
    // Drift, which the next apply repairs; until then one byte more can be tried.
    lab.host(A).ip(&format!("link set {VXLAN} mtu 1430"));
    lab.host(B).ip(&format!("link set {VXLAN} mtu 1430"));
    let capture = lab.capture();
    assert!(ping(&lab, largest), "{largest} bytes pass");
    assert!(!ping(&lab, largest + 1), "{} bytes do not", largest + 1);
    let recording = capture.stop();
    recording.has_only_esp(4);
    let fragments = recording.packets("ip[6:2] & 0x3fff != 0 or ip6[6] = 44");
    assert!(fragments.is_empty(), "{fragments:#?}");

    let plan = lab.plan(A);
    let change = &plan["changes"][0];
    assert_eq!(change["kind"], "link");
    assert_eq!(change["id"], format!("dev {VXLAN}"));
    assert_eq!(change["fields"][0]["after"], largest.to_string());
    assert_eq!(plan["steps"][0]["step"], "set_mtu");
    let file = lab.directory().join("a.json");
    std::fs::write(&file, lab.meshsec(A, &["snapshot"]).exits(0).stdout)
        .expect("it can be written");
    let elsewhere = ["plan", "--format", "json", "--live", file.to_str().expect("a path")];
    assert_eq!(lab.meshsec(B, &elsewhere).exits(0).json(), plan, "a snapshot gives the same plan");
    lab.apply(A);
    assert_eq!(mtu(&lab, A, VXLAN), largest.to_string());
    lab.has_converged(A);
    let shown = lab.meshsec(A, &["mtu"]).exits(0);
    shown.says("1500  MTU of eth0").says(&format!("= {largest}  largest MTU of {VXLAN}"));
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(mtu(&lab, A, VXLAN), largest.to_string(), "destroy leaves it");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_largest_packet_fits_ipv4_to_the_byte() {
    fits_to_the_byte(Underlay::V4, 1416);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_largest_packet_fits_ipv6_to_the_byte() {
    fits_to_the_byte(Underlay::V6, 1396);
}

/// An apply that can't set the MTU, and does all else.
fn applies_but_the_mtu(lab: &Lab) -> Ran {
    let ran = lab.meshsec(A, &["apply", "--auto-approve"]).exits(3);
    lab.apply(B);
    lab.reaches(A, B);
    ran
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_mtu_that_the_kernel_refuses_stops_nothing_else() {
    let mut lab = Lab::new(2);
    lab.mesh.link = "device = \"vxlan42\"\nmtu = 9000";
    lab.write(A, &lab.mesh);
    applies_but_the_mtu(&lab)
        .says("cannot set the MTU of vxlan42 to 9000: EINVAL")
        .says("mtu = 9000 of [link] is more than 1416");
    // Nothing is left but the MTU.
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1).says("0 steps done, 1 failed");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_is_not_known_is_a_warning_and_stops_nothing() {
    let lab = lab(Underlay::V4);
    lab.apply(B);
    // The device goes: there is nothing to set, and all else is done.
    lab.host(A).ip(&format!("link set {VXLAN} down"));
    lab.host(A).ip(&format!("link set {VXLAN} name other"));
    lab.apply(A).says("this host has no device vxlan42");
    lab.has_converged(A);
    lab.host(A).ip(&format!("link set other name {VXLAN}"));
    assert_eq!(lab.plan(A)["changes"][0]["kind"], "link");

    // The address moves to a device that no packet leaves by.
    lab.host(A).ip("link add dummy0 type dummy");
    lab.host(A).ip("link set dummy0 up");
    lab.host(A).ip("address delete 192.0.2.1/24 dev eth0");
    lab.host(A).ip("address add 192.0.2.1/32 dev dummy0");
    lab.host(A).ip("route add 192.0.2.0/24 dev eth0 src 192.0.2.1");
    lab.apply(A).says("the largest that fits the 1500 of eth0");
    assert_eq!(mtu(&lab, A, VXLAN), "1416");
    lab.meshsec(A, &["mtu"]).exits(0).says("1500  MTU of eth0");
    lab.meshsec(A, &["mtu", "--underlay-mtu", "1500"]).exits(0).says("= 1416");

    // Of two ways the smaller MTU counts.
    lab.host(A).ip("link add dummy1 mtu 1400 type bridge");
    lab.host(A).ip("link set dummy1 up");
    lab.host(A).ip("route add 192.0.2.2/32 dev dummy1 src 192.0.2.1");
    lab.apply(A).says("the largest that fits the 1400 of dummy1");
    assert_eq!(mtu(&lab, A, VXLAN), "1316");

    // A device with no room for anything.
    lab.host(A).ip("link set dummy1 mtu 68");
    lab.meshsec(A, &["plan"]).exits(0).says("the 68 of dummy1 leaves no room").says("No changes.");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_device_of_the_local_address_is_never_shrunk() {
    let mut lab = Lab::new(2);
    lab.mesh.link = "device = \"eth0\"";
    lab.write(A, &lab.mesh);
    lab.apply(A).says("eth0, which [link] names, carries 192.0.2.1 itself");
    assert_eq!(mtu(&lab, A, "eth0"), "1500");
}

/// Why [link] is refused for other kinds: their connections need no help.
fn tcp_fits_by_itself(underlay: Underlay) {
    const BYTES: usize = 100_000;
    let mut lab = Lab::over(&[underlay, underlay]);
    lab.mesh.traffic = "kind = { protocol = \"tcp\", port = 443 }";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let capture = lab.capture();
    let address = (lab.address(B).parse::<std::net::IpAddr>().expect("an address"), 443);
    let listener = lab.host(B).inside(|| TcpListener::bind(address).expect("the port is free"));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        stream.write_all(&vec![7; BYTES]).expect("it can be sent");
    });
    let mut client = lab.host(A).inside(|| TcpStream::connect(address).expect("it answers"));
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("it arrives");
    server.join().expect("the server does not panic");
    assert_eq!(received.len(), BYTES);
    let recording = capture.stop();
    recording.has_only_esp(BYTES / 1500);
    recording.has_none("ip[6:2] & 0x3fff != 0 or ip6[6] = 44");
    assert!(!recording.packets("greater 1400").is_empty(), "segments are as large as they can be");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn tcp_over_ipv4_learns_the_smaller_mtu_by_itself() {
    tcp_fits_by_itself(Underlay::V4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn tcp_over_ipv6_learns_the_smaller_mtu_by_itself() {
    tcp_fits_by_itself(Underlay::V6);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn over_ipv4_what_is_too_large_leaves_in_encrypted_fragments_unless_df_is_set() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.places().for_each(|place| _ = lab.host(place).ip(&format!("link set {VXLAN} mtu 1430")));
    let capture = lab.capture();
    assert!(ping(&lab, 1417));
    let recording = capture.stop();
    recording.has_none("udp port 4789 or (udp and ip[6:2] & 0x1fff != 0)");
    recording.is_closed();
    assert!(!recording.packets("ip[6:2] & 0x2000 != 0 and ip proto 50").is_empty());
}
