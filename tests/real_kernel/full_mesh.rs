//! A mesh of several hosts: all of its traffic arrives, and none of it in the clear.

use crate::fixture::{A, B, C, D, Lab, Underlay};

const WITH_ESN: &str = "esn = true\nreplay_window = 1024";
const AES128: &str = "cipher = \"aes128-gcm\"";
const CHACHA: &str = "cipher = \"chacha20-poly1305\"";
const DEFAULTS: &str = "";

/// Applies the mesh on three hosts, pings between every pair and looks at the wire.
fn sends_nothing_but_esp(underlay: Underlay, variants: &[&'static str]) {
    let mut lab = Lab::over(&[underlay; 3]);
    let before = lab.capture();
    lab.reaches(A, B);
    before.stop().has_clear(2);
    for esp in variants {
        lab.mesh.esp = esp;
        lab.write_all(&lab.mesh);
        lab.apply_all();
        let capture = lab.capture();
        for (from, to) in [(A, B), (B, C), (C, A)] {
            lab.reaches(from, to);
        }
        // Three pings a pair, each with its answer.
        capture.stop().has_only_esp(18);
    }
    lab.places().for_each(|place| lab.has_converged(place));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn three_hosts_over_ipv4_send_nothing_but_esp_whatever_the_cipher_and_window() {
    sends_nothing_but_esp(Underlay::V4, &[DEFAULTS, WITH_ESN, AES128, CHACHA]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn three_hosts_over_ipv6_send_nothing_but_esp_whatever_the_cipher_and_window() {
    sends_nothing_but_esp(Underlay::V6, &[DEFAULTS, WITH_ESN, AES128, CHACHA]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn peers_of_the_same_family_pair_and_the_plan_says_once_that_others_do_not() {
    let lab = Lab::over(&[Underlay::V4, Underlay::V4, Underlay::V6, Underlay::V6]);
    let plan = lab.meshsec(A, &["plan"]).exits(0);
    let warnings: Vec<&str> =
        plan.stdout.lines().filter(|line| line.contains("no pair with c, d")).collect();
    assert_eq!(warnings.len(), 1, "{plan}");
    lab.apply_all();
    let capture = lab.capture();
    lab.reaches(A, B);
    lab.reaches(C, D);
    let recording = capture.stop();
    recording.has_only_esp(12);
    recording.is_closed();
    for place in lab.places() {
        let sas = crate::xfrm::sas(lab.host(place));
        // One peer: three generations in, one out.
        assert_eq!(sas.len(), 4, "SAs of host {place}: {sas:#?}");
        lab.has_converged(place);
    }
}
