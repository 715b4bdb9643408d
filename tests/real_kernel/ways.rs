//! The device that packets leave by is not the one that carries their address: the sysctls of the
//! first count, whichever device has the address.

use crate::{
    fixture::{A, B, Lab, Underlay, VXLAN},
    ping,
};

const APPLY: [&str; 2] = ["apply", "--auto-approve"];

/// Moves the underlay address of host a from eth0 to another device, as in a
/// fabric in which hosts announce their addresses.
fn announce(lab: &Lab, underlay: Underlay, device: &str) {
    let address = underlay.address(A);
    let host = lab.host(A);
    if device != "lo" {
        host.ip_batch(&format!("link add {device} type dummy\nlink set {device} up\n"));
    }
    match underlay {
        Underlay::V4 => host.ip_batch(&format!(
            "address del {address}/24 dev eth0\naddress add {address}/32 dev {device}\n\
             route add 192.0.2.0/24 dev eth0 src {address}\n\
             route add broadcast 192.0.2.255 dev eth0 table local src {address}\n"
        )),
        Underlay::V6 => host.ip_batch(&format!(
            "address del {address}/64 dev eth0\naddress add {address}/128 dev {device} nodad\n\
             route add 2001:db8::/64 dev eth0 src {address}\n"
        )),
    }
}

/// Hosts without guards: the second one looks at no sysctl, and drops clear packets.
fn unguarded(underlay: Underlay) -> Lab {
    let mut lab = Lab::over(&[underlay; 2]);
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab
}

fn the_uplink_counts(device: &str) {
    let lab = unguarded(Underlay::V4);
    announce(&lab, Underlay::V4, device);
    lab.apply_all();
    lab.reaches(A, B);
    lab.has_converged(A);
    lab.host(A).set_sysctl("ipv4/conf/eth0/disable_xfrm", "1");
    let capture = lab.capture();
    lab.does_not_reach(A, B);
    capture.stop().has_clear(1);
    let sysctl = "sysctl net/ipv4/conf/eth0/disable_xfrm = 1  stops all";
    lab.meshsec(A, &["plan"]).exits(1).says(sysctl);
    let status = lab.meshsec(A, &["status", "--format", "json"]).json();
    assert_eq!(status["peers"][0]["traffic"], "clear", "{status:#}");
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    lab.meshsec(A, &APPLY).exits(1);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn disable_xfrm_on_the_uplink_is_seen_where_the_address_is_on_lo() {
    the_uplink_counts("lo");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn disable_xfrm_on_the_uplink_is_seen_where_the_address_is_on_a_dummy() {
    the_uplink_counts("dummy0");
}

/// How many of host b's clear packets host a takes.
fn taken_in_the_clear(lab: &Lab) -> u64 {
    let before = lab.host(A).received(VXLAN);
    ping::answers(lab.host(B), &crate::fixture::inner(A), 3);
    lab.host(A).received(VXLAN) - before
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn disable_policy_counts_where_packets_come_in_and_over_ipv6_where_the_address_is() {
    for (underlay, family, counts, other) in
        [(Underlay::V4, "ipv4", "eth0", "dummy0"), (Underlay::V6, "ipv6", "dummy0", "eth0")]
    {
        let lab = unguarded(underlay);
        announce(&lab, underlay, "dummy0");
        lab.apply(A);
        assert_eq!(taken_in_the_clear(&lab), 0);
        let set = |device: &str, value: &str| {
            lab.host(A).set_sysctl(&format!("{family}/conf/{device}/disable_policy"), value);
        };
        set(other, "1");
        assert_eq!(taken_in_the_clear(&lab), 0, "{family} {other}");
        lab.meshsec(A, &["plan"]).exits(0).says(&format!("by {other} pass all policies"));
        set(other, "0");
        set(counts, "1");
        // Over IPv6 it is read as the address is made.
        if underlay == Underlay::V6 {
            let address = underlay.address(A);
            lab.host(A).ip_batch(&format!(
                "address del {address}/128 dev dummy0\naddress add {address}/128 dev dummy0 nodad\n"
            ));
        }
        assert!(taken_in_the_clear(&lab) > 0, "{family} {counts}");
        lab.meshsec(A, &["plan"]).exits(1).says(&format!("conf/{counts}/disable_policy"));
    }
}

/// Two hosts with addresses on lo, and with everything between them protected. Host a has another
/// address on its uplink.
fn all_from_lo() -> Lab {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    announce(&lab, Underlay::V4, "lo");
    lab.host(A).ip("address add 198.51.100.1/24 dev eth0");
    lab.apply_all();
    lab
}

fn nat(lab: &Lab, program: &str, words: &str) {
    let mut command = std::process::Command::new(program);
    command.args(["-t", "nat"]).args(words.split(' '));
    lab.host(A).run(&mut command).exits(0);
}

/// Empties the table of connections, like `conntrack -F`: IPCTNL_MSG_CT_DELETE without an address.
fn forget_connections(host: &crate::namespace::Namespace) {
    let script = "import socket, struct\n\
                  s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)\n\
                  s.send(struct.pack('=IHHIIBBH', 20, 0x102, 5, 1, 0, socket.AF_UNSPEC, 0, 0))\n\
                  assert struct.unpack_from('=i', s.recv(4096), 16)[0] == 0\n";
    host.run(std::process::Command::new("python3").args(["-c", script])).exits(0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_rule_that_gives_packets_another_address_is_a_conflict_and_its_remedy_helps() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let lab = all_from_lo();
        lab.has_converged(A);
        nat(&lab, program, "-A POSTROUTING -o eth0 -j MASQUERADE");
        let capture = lab.capture();
        ping::answers(lab.host(A), &lab.address(B), 3);
        let recording = capture.stop();
        assert!(!recording.marked("icmp").is_empty(), "{program}: nothing left in the clear");
        lab.meshsec(A, &["plan"]).exits(1).says("stops all").says("-I POSTROUTING -s 192.0.2.1");
        nat(&lab, program, "-I POSTROUTING -s 192.0.2.1 -j ACCEPT");
        lab.has_converged(A);
        let capture = lab.capture();
        assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3, "{program}");
        assert!(capture.stop().marked("icmp").is_empty(), "{program}");
    }
}

/// An exception for packets that policies select is not one for the resulting ESP packets.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_rule_that_gives_esp_packets_another_address_is_told_and_its_remedy_helps() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let lab = all_from_lo();
        lab.has_converged(A);
        nat(&lab, program, "-A POSTROUTING -o eth0 -m policy --dir out --pol none -j MASQUERADE");
        let capture = lab.capture();
        assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 0, "{program}");
        let recording = capture.stop();
        assert!(recording.marked("icmp").is_empty(), "{program}: something left in the clear");
        let masqueraded = recording.packets("esp and src host 198.51.100.1");
        assert!(!masqueraded.is_empty(), "{program}: no ESP packet has another address");
        assert!(crate::xfrm::counters(lab.host(B))["XfrmInStateMismatch"] > 0, "{program}");
        lab.meshsec(A, &["plan"])
            .exits(0)
            .says("gives ESP packets to peers another address")
            .says("-I POSTROUTING -s 192.0.2.1 -j ACCEPT");
        nat(&lab, program, "-I POSTROUTING -s 192.0.2.1 -j ACCEPT");
        forget_connections(lab.host(A));
        lab.has_converged(A);
        assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3, "{program}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_device_of_the_link_on_another_port_is_a_conflict() {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = "kind = \"vxlan\"\nport = 4790";
    lab.mesh.link = "device = \"vxlan42\"";
    lab.write_all(&lab.mesh);
    for place in [A, B] {
        let apply = lab.meshsec(place, &APPLY).exits(3);
        apply.says("vxlan42 sends to port 4789, and [traffic] protects 4790");
    }
    let capture = lab.capture();
    ping::answers(lab.host(A), &crate::fixture::inner(B), 3);
    capture.stop().has_clear(1);
    lab.meshsec(A, &["plan"]).exits(1).says("write port = 4789 under [traffic]");
}
