//! Recorded packets, sent again.

use std::process::Command;

use crate::{
    capture::Recording,
    fixture::{Lab, VXLAN, underlay_mac},
    wait::wait_for,
    xfrm,
};

const SEND_AGAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_kernel/send_again.py");

/// Sends everything that was recorded on its way to a host once more; returns how much that was.
fn send_again(lab: &Lab, recording: &Recording, place: usize) -> u64 {
    let mut command = Command::new("python3");
    command.arg(SEND_AGAIN).arg(recording.path());
    command.args([format!("port{place}"), underlay_mac(place)]);
    let sent = lab.wire.run(&mut command).exits(0).stdout;
    let sent = sent.trim().parse().expect("it prints a number");
    assert!(sent > 0, "nothing was recorded on its way to host {place}");
    sent
}

/// Sends a recording to a host again, which refuses all of it as old.
#[track_caller]
pub fn is_refused(lab: &Lab, recording: &Recording, place: usize) {
    let host = lab.host(place);
    // A number below the window counts as old, or as one of 2^32 more: then the
    // packet's integrity check fails, as it covers the high half (RFC 4303, A2.2).
    let refused = || {
        let counters = xfrm::counters(host);
        counters["XfrmInStateSeqError"] + counters["XfrmInStateProtoError"]
    };
    let (received, before) = (host.received(VXLAN), refused());
    let sent = send_again(lab, recording, place);
    wait_for(&format!("{sent} recorded packets to be refused"), || {
        (refused() >= before + sent).then_some(())
    });
    assert_eq!(host.received(VXLAN), received, "a recorded packet got to the VXLAN device");
}

/// Sends a recording to a host again, which takes all of it.
#[track_caller]
pub fn is_taken(lab: &Lab, recording: &Recording, place: usize) {
    let host = lab.host(place);
    let before = host.received(VXLAN);
    let sent = send_again(lab, recording, place);
    wait_for(&format!("{sent} recorded packets to be taken"), || {
        (host.received(VXLAN) >= before + sent).then_some(())
    });
}
