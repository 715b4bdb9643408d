//! VXLAN packets written by hand, from a socket like any other.

use std::net::UdpSocket;

use crate::{
    capture::MARKER, fixture, fixture::Lab, fixture::VXLAN, namespace::Namespace, wait::wait_for,
    xfrm,
};

/// How many packets are sent at a time.
pub const PACKETS: u64 = 5;

/// Sends packets from `source`, an address of `sender`, to the VXLAN of the host in `place`.
fn send(lab: &Lab, sender: &Namespace, source: &str, place: usize) {
    assert_eq!(try_send(lab, sender, source, place), PACKETS, "the sender's kernel refused some");
}

/// Sends packets if the sender's own kernel lets them go; returns how many it took.
///
/// A block policy answers with EPERM, and a missing SA with other errors.
pub fn try_send(lab: &Lab, sender: &Namespace, source: &str, place: usize) -> u64 {
    let to = lab.address(place);
    let frame = frame(place);
    sender.inside(|| {
        let source = source.parse::<std::net::IpAddr>().expect("it is an address");
        let socket = UdpSocket::bind((source, 0)).expect("the sender has this address");
        let send = |_: &u64| socket.send_to(&frame, (to.as_str(), 4789)).is_ok();
        (0..PACKETS).filter(send).count() as u64
    })
}

/// Sends packets and waits until the VXLAN device has received them.
#[track_caller]
pub fn gets_in(lab: &Lab, sender: &Namespace, source: &str, place: usize) {
    let before = lab.host(place).received(VXLAN);
    send(lab, sender, source, place);
    wait_for("injected packets to arrive", || {
        (lab.host(place).received(VXLAN) >= before + PACKETS).then_some(())
    });
}

/// Sends packets and waits until `counter`, or a chain of a mesh, has seen them all; none may get to
/// the VXLAN device. Chains are asked before policies.
#[track_caller]
pub fn is_dropped(lab: &Lab, sender: &Namespace, source: &str, place: usize, counter: &str) {
    let host = lab.host(place);
    let count = || xfrm::counters(host)[counter] + dropped(host);
    let (received, dropped) = (host.received(VXLAN), count());
    send(lab, sender, source, place);
    wait_for(&format!("{counter} to rise by {PACKETS}"), || {
        assert_eq!(host.received(VXLAN), received, "an injected packet got to the VXLAN device");
        (count() >= dropped + PACKETS).then_some(())
    });
    assert_eq!(host.received(VXLAN), received, "an injected packet got to the VXLAN device");
}

/// Sends packets and then some that arrive elsewhere; none may get to the VXLAN device.
#[track_caller]
pub fn never_gets_in(lab: &Lab, sender: &Namespace, source: &str, place: usize) {
    let host = lab.host(place);
    let blocked = |name: &str| xfrm::counters(host)[name];
    let count = || blocked("XfrmInPolBlock") + blocked("XfrmInTmplMismatch") + dropped(host);
    let (received, before) = (host.received(VXLAN), count());
    send(lab, sender, source, place);
    wait_for("injected packets to be dropped", || (count() >= before + PACKETS).then_some(()));
    assert_eq!(host.received(VXLAN), received, "an injected packet got to the VXLAN device");
}

/// How many packets the chains for incoming packets have dropped, in both backends and families.
fn dropped(host: &Namespace) -> u64 {
    let programs = ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];
    let saved = programs.map(|program| {
        let mut command = std::process::Command::new(format!("{program}-save"));
        host.run(command.arg("-c")).exits(0).stdout
    });
    let count = |line: &str| {
        let drops = line.contains("-IN ! -i lo -p udp") && line.ends_with("-j DROP");
        let packets = line.strip_prefix('[')?.split(':').next()?;
        drops.then(|| packets.parse::<u64>().ok()).flatten()
    };
    saved.iter().flat_map(|text| text.lines().filter_map(count)).sum()
}

/// A VXLAN header (RFC 7348, section 5) and an Ethernet frame for the host in `place`.
fn frame(place: usize) -> Vec<u8> {
    let mut frame = vec![0x08, 0, 0, 0, 0, 0, 42, 0];
    frame.extend(mac(&fixture::inner_mac(place)));
    frame.extend(mac("02:42:00:00:00:99"));
    frame.extend([0x08, 0x00]);
    // The least of an IPv4 header that is looked at on the way: version and length.
    frame.extend([0x45, 0, 0, 40]);
    frame.extend([0; 36]);
    frame.extend(MARKER);
    frame
}

fn mac(text: &str) -> impl Iterator<Item = u8> + '_ {
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("it is a MAC address"))
}
