//! Peers come and go while the others talk.

use crate::{
    fixture::{A, B, C, Lab},
    ping::Stream,
};

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_peer_comes_and_goes_without_a_lost_packet_between_the_others() {
    let lab = Lab::new(3);
    let without_c = lab.mesh.of_peers(&[A, B]);
    lab.write(A, &without_c);
    lab.write(B, &without_c);
    lab.apply(A);
    lab.apply(B);
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);

    lab.write_all(&lab.mesh);
    lab.apply_all();
    lab.reaches(A, C);
    lab.reaches(C, B);

    lab.write(A, &without_c);
    lab.write(B, &without_c);
    lab.apply(A);
    lab.apply(B);
    lab.meshsec(C, &["destroy", "--auto-approve"]).exits(0);
    lab.does_not_reach(C, A);
    stream.lost_nothing();
    let recording = capture.stop();
    let (a, b) = (lab.address(A), lab.address(B));
    recording.is_closed_for(&format!("src host {a} or src host {b}"));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn hosts_without_a_pair_are_strangers_and_the_others_talk() {
    let mut lab = Lab::new(3);
    lab.mesh.lines = "pairs = [[\"a\", \"*\"]]\n".into();
    lab.write_all(&lab.mesh);
    let capture = lab.capture();
    lab.apply_all();
    lab.reaches(A, B);
    lab.reaches(A, C);
    lab.does_not_reach(B, C);
    capture.stop().has_only_esp(10);
    lab.meshsec(B, &["plan"]).exits(0).says("no pair with c").says("is blocked by the guard");
    lab.meshsec(B, &["status", "c"]).exits(1).says("forms no pair with c");
    lab.places().for_each(|place| lab.has_converged(place));
}
