//! New generations under load, hosts moving to each at random moments.
//!
//! A hundred take an emulated machine half an hour, so that there are fewer by
//! default; `MESHSEC_ROTATIONS=100` says how many.

use std::collections::BTreeMap;

use crate::{
    fixture::{A, B, C, Lab},
    ping::Stream,
    random::{Random, how_often},
    traffic::Tcp,
    xfrm,
};

const ROTATIONS: u32 = 5;

/// Every host goes to a generation at a moment of its own.
fn move_all(lab: &Lab, generation: u64, random: &mut Random) {
    lab.write_all(&lab.mesh.of_generation(generation));
    lab.all_at_random(random, &["apply", "--auto-approve"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn rotations_at_random_moments_lose_nothing() {
    let rotations = u64::from(how_often("MESHSEC_ROTATIONS", ROTATIONS));
    let lab = Lab::new(3);
    lab.apply_all();
    let pairs = [(A, B), (B, C), (C, A)];
    pairs.iter().for_each(|&(from, to)| lab.reaches(from, to));
    let counters = || -> Vec<BTreeMap<String, u64>> {
        lab.places().map(|place| xfrm::counters(lab.host(place))).collect()
    };
    let before = counters();
    let capture = lab.capture();
    let floods = pairs.map(|(from, to)| Stream::flood(&lab, from, to));
    let tcp = Tcp::start(&lab, A, B);
    let mut random = Random::new();
    for rotation in 1..=rotations {
        move_all(&lab, lab.mesh.generation + rotation, &mut random);
        tcp.wait_for_more();
    }
    tcp.all_arrived();
    floods.into_iter().for_each(Stream::lost_nothing);
    let recording = capture.stop();
    recording.has_only_esp(1_000);
    for (before, after) in before.iter().zip(counters()) {
        let mut moved = xfrm::moved(before, &after);
        // A packet on a cached route that a policy change has just dropped.
        let unrouted = moved.remove("XfrmInError").unwrap_or(0);
        println!("XfrmInError moved by {unrouted}");
        assert!(moved.is_empty(), "{moved:?}");
        assert!(unrouted < 10, "XfrmInError moved by {unrouted}");
    }
    lab.places().for_each(|place| lab.has_converged(place));
}
