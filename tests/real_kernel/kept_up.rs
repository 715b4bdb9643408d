//! A mesh by the clock, while something is in the way: pairs that stand go on.
//!
//! These tests set the clock, so that they run in guests only.

use crate::{
    clock::{self, PERIOD},
    fixture::{A, B, Lab, spi},
    ping::Stream,
    xfrm,
};

const APPLY: [&str; 2] = ["apply", "--auto-approve"];
const GENERATIONS: usize = 3;

/// Three generations come and go, with something in the way on host a.
fn goes_on(in_the_way: impl FnOnce(&Lab)) {
    let mut clock = clock::clock_at_the_beginning();
    let lab = clock::lab();
    lab.apply_all();
    lab.reaches(A, B);
    in_the_way(&lab);
    lab.meshsec(A, &APPLY).exits(1);
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    for _ in 0..GENERATIONS {
        clock.jump(PERIOD as i64);
        let report = lab.meshsec(A, &APPLY).exits(3);
        report.says("in conflict, stops all");
        stream.wait_for_more(5);
        lab.apply(B);
        stream.wait_for_more(5);
    }
    // All that goes on has been done: only the conflict is left.
    lab.meshsec(A, &APPLY).exits(1);
    let count = |place| xfrm::sas(lab.host(place)).len();
    assert_eq!(count(A), count(B), "SAs of old generations are left");
    stream.lost_nothing();
    capture.stop().has_only_esp(30);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_sysctl_that_somebody_sets_does_not_cut_a_mesh_by_the_clock() {
    goes_on(|lab| lab.host(A).set_sysctl("ipv4/conf/eth0/disable_policy", "1"));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_foreign_policy_that_outranks_the_guard_does_not_cut_a_mesh_by_the_clock() {
    goes_on(|lab| {
        let nets = "src 198.51.100.0/24 dst 203.0.113.0/24";
        lab.host(A).ip(&format!("xfrm policy add {nets} dir out priority 5000"));
    });
}

/// The next SA to send under is somebody else's: the pair goes on under the one that it has.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_taken_spi_leaves_its_pair_under_the_sa_that_it_has() {
    let lab = Lab::new(3);
    lab.apply_all();
    let generation = lab.mesh.generation;
    let next = spi(generation as u32 + 1, A, B);
    lab.host(A).ip(&format!(
        "xfrm state add src {} dst {} proto esp spi {next:#x} reqid 77 mode transport {}",
        lab.address(A),
        lab.address(B),
        xfrm::AEAD
    ));
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    let raised = lab.mesh.of_generation(generation + 1);
    lab.write_all(&raised);
    lab.apply(B);
    lab.meshsec(A, &APPLY).exits(3).says("stops peer b");
    stream.wait_for_more(10);
    lab.meshsec(A, &APPLY).exits(1);
    assert_eq!(xfrm::sas(lab.host(A))[&next].reqid, 77, "the foreign SA is not what it was");
    lab.host(A).ip(&format!("xfrm state delete dst {} proto esp spi {next:#x}", lab.address(B)));
    lab.apply(A);
    stream.wait_for_more(10);
    stream.lost_nothing();
    capture.stop().has_only_esp(30);
}
