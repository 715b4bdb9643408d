//! The guard: unprotected packets don't leave, and don't get in.

use crate::{
    fixture::{A, B, D, Lab, Underlay},
    inject, xfrm,
};

/// Nothing leaves a in the clear while b has not applied; then all is encrypted.
pub fn waits_for_its_peer(lab: &Lab) {
    lab.reaches(A, B);
    lab.apply(A);

    let capture = lab.capture();
    lab.does_not_reach(A, B);
    lab.does_not_reach(B, A);
    let recording = capture.stop();
    let host_a = lab.address(A);
    recording.is_closed_for(&format!("src host {host_a}"));
    // Clear packets of b were seen, so a's would have been.
    recording.has_clear(5);

    lab.apply(B);
    let capture = lab.capture();
    lab.reaches(A, B);
    lab.reaches(B, A);
    capture.stop().has_only_esp(12);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn nothing_leaves_in_clear_while_the_peer_has_not_applied() {
    waits_for_its_peer(&Lab::over(&[Underlay::V4; 2]));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn nothing_leaves_in_clear_over_ipv6_while_the_peer_has_not_applied() {
    waits_for_its_peer(&Lab::over(&[Underlay::V6; 2]));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn clear_text_gets_in_neither_from_a_stranger_nor_from_a_peer() {
    for underlay in [Underlay::V4, Underlay::V6] {
        // Host d is on the same switch and not in the mesh.
        let mut lab = Lab::over(&[underlay; 4]);
        lab.mesh = lab.mesh.of_peers(&[A, B]);
        lab.write(A, &lab.mesh);
        let (peer, stranger) = (lab.host(B), lab.host(D));
        inject::gets_in(&lab, peer, &lab.address(B), A);
        inject::gets_in(&lab, stranger, &lab.address(D), A);

        lab.apply(A);
        inject::is_dropped(&lab, peer, &lab.address(B), A, "XfrmInTmplMismatch");
        inject::is_dropped(&lab, stranger, &lab.address(D), A, "XfrmInPolBlock");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn nothing_leaves_for_a_stranger_once_there_is_a_guard() {
    for underlay in [Underlay::V4, Underlay::V6] {
        // Host d has a VXLAN device that a knows, and is not in the mesh.
        let lab = Lab::over(&[underlay; 4]);
        lab.reaches(A, D);
        lab.write(A, &lab.mesh.of_peers(&[A, B]));
        lab.apply(A);
        let capture = lab.capture();
        lab.does_not_reach(A, D);
        let refused = inject::try_send(&lab, lab.host(A), &lab.address(A), D);
        assert_eq!(refused, 0, "the kernel took packets for a stranger");
        // It answers nothing, since it gets nothing.
        capture.stop().is_closed();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_stranger_gets_in_under_no_address() {
    let lab = Lab::new(4);
    let mesh = lab.mesh.of_peers(&[A, B]);
    lab.write(A, &mesh);
    lab.apply(A);
    let stranger = lab.host(D);
    stranger.ip(&format!("address add {}/32 dev eth0", lab.address(B)));
    inject::is_dropped(&lab, stranger, &lab.address(B), A, "XfrmInTmplMismatch");
    // ESP without the key is nothing either: an SA like the peer's, with another key.
    stranger.ip(&format!(
        "xfrm state add src {b} dst {a} proto esp spi {spi:#x} reqid 7 mode transport {aead}",
        b = lab.address(B),
        a = lab.address(A),
        spi = crate::fixture::spi(1, B, A),
        aead = xfrm::AEAD,
    ));
    stranger.ip(&format!(
        "xfrm policy add src {b} dst {a} proto udp dport 4789 dir out \
         tmpl proto esp reqid 7 mode transport",
        b = lab.address(B),
        a = lab.address(A),
    ));
    inject::is_dropped(&lab, stranger, &lab.address(B), A, "XfrmInStateProtoError");
}

/// As at boot, before the network is configured.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_before_the_host_has_its_address_holds_once_it_has() {
    let lab = Lab::new(2);
    let host = lab.host(A);
    host.ip("address flush dev eth0");
    let words = ["--local", "a", "apply", "--auto-approve"];
    lab.meshsec(A, &words).exits(0).says("this host does not have 192.0.2.1");
    lab.apply(B);
    host.ip("address add 192.0.2.1/24 dev eth0");
    lab.has_converged(A);
    let capture = lab.capture();
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
}
