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
