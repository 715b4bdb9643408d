//! A running network is enrolled stage by stage, and left again, without a lost packet.
//!
//! Ten rounds take an emulated machine some minutes, so that there are fewer by default;
//! `MESHSEC_ENROLMENTS=10` says how many.

use crate::{
    fixture::{A, B, C, Lab, Underlay},
    iptables::{BY_MARK, Backend},
    ping::Stream,
    random::{Random, how_often},
    traffic::Tcp,
};

const ENROLMENTS: u32 = 1;

/// Every host goes to a stage.
fn move_all(lab: &Lab, stage: &'static str, random: &mut Random) {
    lab.write_all(&lab.mesh.at(stage));
    lab.all_at_random(random, &["apply", "--auto-approve"]);
}

/// Enrols the hosts of a lab and takes them out again, several times.
fn enrol_and_leave(lab: &Lab) {
    let mut random = Random::new();
    let ring: Vec<(usize, usize)> =
        lab.places().map(|from| (from, (from + 1) % lab.places().len())).collect();
    let floods: Vec<Stream> =
        ring.into_iter().map(|(from, to)| Stream::flood(lab, from, to)).collect();
    let tcp = Tcp::start(lab, A, B);
    for _ in 0..how_often("MESHSEC_ENROLMENTS", ENROLMENTS) {
        let before = lab.capture();
        move_all(lab, "receive", &mut random);
        lab.meshsec(A, &["status"]).exits(0).says("in the clear, as stage receive asks");
        move_all(lab, "send", &mut random);
        before.stop().has_clear(10);
        // Encrypted from the last host's stage send on.
        let capture = lab.capture();
        tcp.wait_for_more();
        lab.meshsec(A, &["status"]).exits(0).says("stage send of b");
        move_all(lab, "enforce", &mut random);
        tcp.wait_for_more();
        lab.meshsec(A, &["status"]).exits(0).says("protected");
        move_all(lab, "send", &mut random);
        capture.stop().has_only_esp(100);
        move_all(lab, "receive", &mut random);
        lab.all_at_random(&mut random, &["destroy", "--auto-approve"]);
        tcp.wait_for_more();
    }
    tcp.all_arrived();
    floods.into_iter().for_each(Stream::lost_nothing);
    for place in lab.places() {
        for words in ["xfrm state", "xfrm policy"] {
            let left = lab.host(place).ip(words);
            assert!(left.is_empty(), "{left}");
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_running_overlay_is_enrolled_and_left_without_a_lost_packet() {
    enrol_and_leave(&Lab::new(3));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_running_overlay_that_a_mark_selects_is_enrolled_and_left_without_a_lost_packet() {
    let mut lab = Backend::Nft.lab(&[Underlay::V6; 2]);
    lab.mesh.traffic = BY_MARK;
    enrol_and_leave(&lab);
}

/// A mesh of everything between a and b enforces, and c, which talks to both in the clear, joins it
/// and leaves again.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_joins_a_mesh_that_enforces_and_leaves_it_without_a_lost_packet() {
    let mut lab = Lab::new(3);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    let two = lab.mesh.of_peers(&[A, B]);
    for place in [A, B] {
        lab.write(place, &two);
        lab.apply(place);
    }
    let floods =
        [(A, B), (B, C), (C, A)].map(|(from, to)| Stream::between(&lab, from, &lab.address(to)));
    let mut random = Random::new();
    let mut stages = |stages: &[&'static str]| {
        for stage in stages {
            let mut mesh = lab.mesh.clone();
            mesh.peers[C].stage = Some(stage);
            lab.write_all(&mesh);
            lab.all_at_random(&mut random, &["apply", "--auto-approve"]);
        }
    };
    stages(&["receive", "send", "enforce"]);
    let capture = lab.capture();
    floods.iter().for_each(|flood| flood.wait_for_more(10));
    capture.stop().is_closed();
    lab.places().for_each(|place| lab.has_converged(place));
    stages(&["send", "receive"]);
    for place in [A, B] {
        lab.write(place, &two);
        lab.apply(place);
    }
    lab.meshsec(C, &["destroy", "--auto-approve"]).exits(0);
    floods.into_iter().for_each(Stream::lost_nothing);
    lab.has_converged(A);
}

/// The warning is of the peers that the counters of SAs show nothing of.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_plan_names_the_peers_that_do_not_send_encrypted_yet() {
    let lab = Lab::new(3);
    let floods = [(A, B), (A, C)].map(|(from, to)| Stream::flood(&lab, from, to));
    lab.write_all(&lab.mesh.at("receive"));
    lab.apply_all();
    for place in [A, B] {
        lab.write(place, &lab.mesh.at("send"));
        lab.apply(place);
    }
    floods.iter().for_each(|flood| flood.wait_for_more(10));
    lab.write(A, &lab.mesh.at("enforce"));
    lab.meshsec(A, &["plan"]).exits(0).says("no encrypted packet has come from c yet");
    // And it is so: the clear text of c is refused.
    lab.apply(A);
    lab.does_not_reach(A, C);
    lab.reaches(A, B);
    lab.write(C, &lab.mesh.at("send"));
    lab.apply(C);
    lab.reaches(A, C);
}
