//! Traffic selected by a mark, in both backends of iptables.

use crate::{
    fixture::{A, B, D, Lab, Underlay},
    guards::waits_for_its_peer,
    inject,
    iptables::{Backend, IN, MARK, OUT},
    ping::{self, Stream},
    xfrm,
};

/// Both backends and both families; the other two pairs in the first test alone.
fn everywhere(check: fn(Backend, Underlay)) {
    check(Backend::Nft, Underlay::V4);
    check(Backend::Legacy, Underlay::V6);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn marked_traffic_leaves_encrypted_or_not_at_all() {
    let check = |backend: Backend, underlay| {
        let lab = backend.lab(&[underlay; 2]);
        waits_for_its_peer(&lab);
        lab.places().for_each(|place| lab.has_converged(place));
        let rules = backend.saved(lab.host(A));
        // Of each family a jump to each of three chains, one rule that marks and two in each that
        // guards, for any number of peers.
        assert_eq!(rules.matches("-A ").count(), 2 * (3 + 1 + 2 + 2), "{rules}");
        assert!(!backend.other().saved(lab.host(A)).contains("MESHSEC"));
    };
    for backend in Backend::BOTH {
        check(backend, Underlay::V4);
        check(backend, Underlay::V6);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn without_the_marking_rule_no_packet_leaves_in_clear() {
    everywhere(|backend, underlay| {
        let lab = backend.lab(&[underlay; 2]);
        lab.apply_all();
        lab.reaches(A, B);
        let host = lab.host(A);
        let capture = lab.capture();
        for damage in [
            vec![format!("-t mangle -F {MARK}")],
            vec![format!("-t mangle -D OUTPUT -j {MARK}")],
            vec!["-t mangle -F".into(), "-t mangle -X".into()],
            vec!["-t mangle -I OUTPUT -j ACCEPT".into()],
        ] {
            for words in &damage {
                backend.tables(host, underlay, words);
            }
            lab.does_not_reach(A, B);
            inject::try_send(&lab, host, &lab.address(A), B);
            lab.apply(A);
            lab.reaches(A, B);
        }
        capture.stop().has_only_esp(20);
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn nothing_leaves_for_a_stranger_nor_gets_in_from_one() {
    everywhere(|backend, underlay| {
        let lab = backend.lab(&[underlay; 4]);
        lab.reaches(A, D);
        lab.write(A, &lab.mesh.of_peers(&[A, B]));
        lab.apply(A);
        let capture = lab.capture();
        lab.does_not_reach(A, D);
        inject::try_send(&lab, lab.host(A), &lab.address(A), D);
        capture.stop().is_closed();
        // The chain in the filter table is asked after the policies for a packet to a socket.
        let stranger = lab.host(D);
        inject::never_gets_in(&lab, stranger, &lab.address(D), A);
        inject::never_gets_in(&lab, lab.host(B), &lab.address(B), A);
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn packets_that_carry_the_mark_already_are_protected_or_dropped() {
    for backend in Backend::BOTH {
        for (mark, value) in [("the mesh's", "131072"), ("all bits", "4294967295")] {
            let lab = backend.lab(&[Underlay::V4; 2]);
            lab.apply_all();
            let capture = lab.capture();
            let ping = |value: &str| {
                let mut ping = ping::command();
                ping.args(["-q", "-m", value, "-i", "0.05", "-W", "1", "-c", "5"]);
                lab.host(A).run(ping.arg(crate::fixture::inner(B)))
            };
            let said = ping(value).stdout;
            capture.stop().is_closed();
            assert!(said.contains("5 received"), "with {mark}: {said}");
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn connection_tracking_and_nat_are_no_way_out() {
    everywhere(|backend, underlay| {
        let lab = backend.lab(&[underlay; 2]);
        let host = lab.host(A);
        backend.tables(host, underlay, "-t nat -A POSTROUTING -j MASQUERADE");
        backend.tables(
            host,
            underlay,
            "-A OUTPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
        );
        backend.tables(host, underlay, "-P OUTPUT DROP");
        backend.tables(host, underlay, "-A OUTPUT -j ACCEPT");
        lab.apply_all();
        let capture = lab.capture();
        lab.reaches(A, B);
        backend.tables(host, underlay, &format!("-t mangle -F {MARK}"));
        lab.does_not_reach(A, B);
        capture.stop().has_only_esp(6);
        assert!(backend.saved(host).contains(":OUTPUT DROP\n"), "the policy is another's");
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_rotation_of_marked_traffic_loses_nothing() {
    for backend in Backend::BOTH {
        let lab = backend.lab(&[Underlay::V4; 2]);
        lab.apply_all();
        let capture = lab.capture();
        let stream = Stream::start(&lab, A, B);
        for generation in 2..5 {
            for place in [A, B] {
                lab.write(place, &lab.mesh.of_generation(generation));
                lab.apply(place);
                stream.wait_for_more(5);
            }
        }
        stream.lost_nothing();
        capture.stop().has_only_esp(50);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_snapshot_has_the_chains_and_show_tells_of_them() {
    let lab = Backend::Nft.lab(&[Underlay::V4; 2]);
    lab.apply_all();
    let host = lab.host(A);
    Backend::Nft.tables(host, Underlay::V4, &format!("-D OUTPUT -j {OUT}"));
    let snapshot = lab.meshsec(A, &["snapshot"]).exits(0).stdout;
    let file = lab.directory().join("snapshot.json");
    std::fs::write(&file, snapshot).expect("a snapshot can be written");
    let live = file.to_str().expect("the path is UTF-8");
    let there = lab.meshsec(A, &["plan", "--format", "json", "--live", live]).exits(0).json();
    let here = lab.plan(A);
    assert_eq!(here["changes"], there["changes"]);
    assert_eq!(here["changes"][0]["reason"]["text"], "no rule leads to it", "{here:#}");
    assert_eq!(here["changes"][0]["kind"], "chain");
    let shown = lab.meshsec(A, &["show"]).exits(0);
    shown
        .says("no rule of OUTPUT leads to it")
        .says("from INPUT")
        .says("--set-xmark 0x20000/0x20000");
}

/// The chains that are there, in both families.
pub fn chains(lab: &Lab, backend: Backend, place: usize) -> usize {
    let saved = backend.saved(lab.host(place));
    [MARK, OUT, IN].iter().map(|name| saved.matches(&format!(":{name} -")).count()).sum()
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn destroy_takes_the_chains_and_says_what_flows_in_clear_then() {
    for backend in Backend::BOTH {
        let lab = backend.lab(&[Underlay::V4; 2]);
        lab.apply_all();
        assert_eq!(chains(&lab, backend, A), 6);
        let said = lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
        said.says("they leave in the clear").says("dst 0.0.0.0/0 proto udp dport 4789");
        assert_eq!(xfrm::databases(lab.host(A)), "");
        assert_eq!(chains(&lab, backend, A), 0);
        assert_eq!(backend.saved(lab.host(A)).matches("-A ").count(), 0);
        lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    }
}
