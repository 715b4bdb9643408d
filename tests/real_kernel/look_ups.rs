//! How the kernel looks up policies and SAs, as the packet model of the properties takes it to be
//! (`tests/packets`). Each case changes one thing by hand on a host that has applied.

use std::{net::UdpSocket, process::Command};

use crate::{
    capture::MARKER,
    fixture::{A, B, D, Lab, Underlay, inner},
    inject, ping,
    shell::Ran,
};

const REQID: u32 = 0x4d53_a511;

/// Hosts a and b in a mesh whose guard is the policies alone, and host d beside it.
fn lab(underlay: Underlay) -> Lab {
    let mut lab = Lab::over(&[underlay; 4]);
    lab.mesh = lab.mesh.of_peers(&[A, B]);
    lab.mesh.guard = "\"xfrm\"";
    for place in [A, B] {
        lab.write(place, &lab.mesh);
        lab.apply(place);
    }
    lab.reaches(A, B);
    lab
}

/// The policy of host a for what comes from host b, in words for `ip xfrm policy`.
fn policy_in(lab: &Lab, table: &str, level: &str) -> String {
    format!(
        "src {} dst {} proto udp dport 4789 dir in {table} priority 1000 \
         tmpl proto esp reqid {REQID} mode transport level {level}",
        lab.address(B),
        lab.address(A),
    )
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_sub_policy_lets_nothing_pass_and_asks_for_an_sa_of_its_own() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let lab = lab(underlay);
        let length = if underlay == Underlay::V4 { 32 } else { 128 };
        lab.host(D).ip(&format!("address add {}/{length} dev eth0 nodad", lab.address(B)));
        let forged = |counter| inject::is_dropped(&lab, lab.host(D), &lab.address(B), A, counter);
        let host = lab.host(A);
        host.ip(&format!("xfrm policy add {}", policy_in(&lab, "ptype sub", "use")));
        forged("XfrmInTmplMismatch");
        lab.reaches(B, A);
        // It goes without ever asking for an SA.
        let plan = lab.meshsec(A, &["plan", "--format", "json"]).json();
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(1), "{plan:#}");
        // One SA is not enough for two templates that ask for it.
        host.ip(&format!("xfrm policy update {}", policy_in(&lab, "ptype sub", "required")));
        lab.does_not_reach(B, A);
        lab.apply(A);
        lab.reaches(B, A);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_policy_of_level_use_takes_clear_text_and_sends_it_where_the_sa_is_missing() {
    let lab = lab(Underlay::V4);
    lab.host(D).ip(&format!("address add {}/32 dev eth0", lab.address(B)));
    inject::is_dropped(&lab, lab.host(D), &lab.address(B), A, "XfrmInTmplMismatch");
    lab.host(A).ip(&format!("xfrm policy update {}", policy_in(&lab, "", "use")));
    inject::gets_in(&lab, lab.host(D), &lab.address(B), A);

    let [a, b] = [A, B].map(|place| lab.address(place));
    let out = format!("src {a} dst {b} proto udp dport 4789 dir out priority 1000");
    let template = format!("tmpl src {a} dst {b} proto esp reqid {REQID} mode transport level use");
    lab.host(A).ip(&format!("xfrm policy update {out} {template}"));
    let to_b = format!("src host {a} and dst host {b}");
    let sent = || {
        let capture = lab.capture();
        ping::answers(lab.host(A), &inner(B), 3);
        let recording = capture.stop();
        (recording.packets(&format!("{to_b} and esp")).len(), recording.marked(&to_b).len())
    };
    let (encrypted, clear) = sent();
    assert!(encrypted >= 3 && clear == 0, "{encrypted} packets of ESP, {clear} in the clear");
    lab.host(A).ip("xfrm state flush");
    let (encrypted, clear) = sent();
    assert!(encrypted == 0 && clear >= 3, "{encrypted} packets of ESP, {clear} in the clear");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn from_another_address_of_the_host_a_guard_blocks_and_nothing_else_protects() {
    for (traffic, guard, blocks) in
        [("kind = \"vxlan\"", "\"xfrm\"", true), ("kind = \"all\"", "false", false)]
    {
        let mut lab = Lab::new(2);
        (lab.mesh.traffic, lab.mesh.guard) = (traffic, guard);
        lab.write_all(&lab.mesh);
        lab.host(A).ip("address add 192.0.2.101/24 dev eth0");
        lab.apply_all();
        let capture = lab.capture();
        let sent = lab.host(A).inside(|| {
            let socket = UdpSocket::bind("192.0.2.101:0").expect("host a has the address");
            socket.send_to(MARKER, (lab.address(B).as_str(), 4789)).is_ok()
        });
        assert_eq!(sent, !blocks, "{traffic}");
        let shown = capture.stop().marked("src host 192.0.2.101");
        assert_eq!(shown.is_empty(), blocks, "{traffic}");
        if !blocks {
            lab.meshsec(A, &["plan"]).exits(0).says("192.0.2.101");
        }
    }
}

/// Sends one datagram to the tunnel's port by a socket with a policy of its own, which asks for
/// nothing, as those of IKE daemons do.
fn send_past_policies(lab: &Lab, to: &str) -> Ran {
    let marker: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
    // struct xfrm_userpolicy_info: a selector of a family alone, lifetimes, and the direction out.
    let script = format!(
        "import socket, struct\n\
         v6 = ':' in '{to}'\n\
         family, level, option = (socket.AF_INET6, 41, 35) if v6 else (socket.AF_INET, 0, 17)\n\
         s = socket.socket(family, socket.SOCK_DGRAM)\n\
         selector = bytes(40) + struct.pack('=HBBB3xiI', family, 0, 0, 0, 0, 0)\n\
         policy = selector + bytes(96) + struct.pack('=IIBBBB4x', 0, 0, 1, 0, 0, 0)\n\
         s.setsockopt(level, option, policy)\n\
         s.sendto(bytes.fromhex('{marker}'), ('{to}', 4789))\n"
    );
    lab.host(A).run(Command::new("python3").args(["-c", &script]))
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_socket_with_a_policy_of_its_own_passes_the_guards_policies_and_not_its_rules() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let mut lab = lab(underlay);
        for to in [B, D] {
            let capture = lab.capture();
            send_past_policies(&lab, &lab.address(to)).exits(0);
            capture.stop().has_clear(1);
        }
        lab.mesh.guard = "true";
        lab.write(A, &lab.mesh);
        lab.apply(A);
        let capture = lab.capture();
        for to in [B, D] {
            let ran = send_past_policies(&lab, &lab.address(to));
            assert!(ran.stderr.contains("Operation not permitted"), "{ran}");
        }
        capture.stop().is_closed();
    }
}
