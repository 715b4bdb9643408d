//! A host that lost its SAs and policies, as a reboot does it, and recordings of before.

use crate::{
    fixture::{A, B, Lab, inner, spi},
    ping, replay, xfrm,
};

/// Takes everything away, and applies again.
fn reboot(lab: &Lab, place: usize) {
    lab.host(place).ip("xfrm state flush");
    lab.host(place).ip("xfrm policy flush");
    lab.apply(place);
}

fn pings(lab: &Lab, count: u32) -> u32 {
    ping::answers(lab.host(A), &inner(B), count)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_a_period_traffic_flows_at_once_and_recordings_are_refused() {
    let mut lab = Lab::new(2);
    // A generation ends at midnight in UTC, and not while this runs.
    lab.mesh.period = Some("1d");
    // A small one, so that a few packets pass it.
    lab.mesh.esp = "replay_window = 32";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let capture = lab.capture();
    lab.reaches(A, B);
    assert_eq!(pings(&lab, 20), 20);
    let recording = capture.stop();
    recording.has_only_esp(40);
    replay::is_refused(&lab, &recording, A);
    replay::is_refused(&lab, &recording, B);

    reboot(&lab, A);
    assert_eq!(pings(&lab, 60), 60, "not one is lost, with the replay window on");
    replay::is_refused(&lab, &recording, B);
    replay::is_refused(&lab, &recording, A);

    // The promise for the host that lost its memory: once, until the window of genuine packets has
    // passed them.
    reboot(&lab, A);
    replay::is_taken(&lab, &recording, A);
    replay::is_refused(&lab, &recording, A);
    assert_eq!(pings(&lab, 60), 60);
    replay::is_refused(&lab, &recording, A);
    lab.places().for_each(|place| lab.has_converged(place));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_a_period_an_sa_that_is_replaced_goes_on_above_the_old_one() {
    let mut lab = Lab::new(2);
    lab.mesh.period = Some("1d");
    lab.write_all(&lab.mesh);
    lab.apply_all();
    assert_eq!(pings(&lab, 20), 20);
    let host = lab.host(A);
    let before = xfrm::sas(host);
    // An update changes lifetimes and nothing else; these are wrong in both directions.
    for sa in before.values() {
        host.ip(&format!("xfrm state update {} limit time-hard 5000", xfrm::as_words(sa)));
    }
    lab.meshsec(A, &["plan"]).exits(0).says("its lifetime differs");
    lab.apply(A);
    let mut used = 0;
    for (spi, sa) in xfrm::sas(host) {
        let (sent, received) = xfrm::numbers(&sa);
        let (sent_before, received_before) = xfrm::numbers(&before[&spi]);
        assert_eq!(received, received_before, "{}", sa.text);
        if sa.word_after("src") == lab.address(A) {
            assert_eq!(sent, sent_before + (1 << 20), "{}", sa.text);
        }
        used += received;
    }
    assert!(used > 0, "packets were received");
    assert_eq!(pings(&lab, 20), 20);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_a_period_outbound_sas_end_with_the_next_generation() {
    let mut lab = Lab::new(2);
    lab.mesh.period = Some("1d");
    lab.write_all(&lab.mesh);
    lab.apply_all();
    const DAY: u64 = 86_400;
    for sa in xfrm::sas(lab.host(A)).into_values() {
        let added = xfrm::added(&sa);
        let hard = xfrm::hard_lifetime(&sa);
        if sa.word_after("src") == lab.address(A) {
            let end = (added / DAY + 2) * DAY;
            assert!((added + hard).abs_diff(end) <= 2, "{}", sa.text);
        } else {
            assert_eq!(hard, 0, "{}", sa.text);
        }
    }
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_a_generation_a_window_locks_a_rebooted_host_out_until_it_is_raised() {
    let mut lab = Lab::new(2);
    lab.mesh.esp = "esn = true\nreplay_window = 64";
    lab.write_all(&lab.mesh);
    lab.meshsec(A, &["plan"]).exits(0).says("after a restart a host is cut off");
    lab.apply_all();
    lab.reaches(A, B);
    assert_eq!(pings(&lab, 100), 100);
    reboot(&lab, A);
    lab.does_not_reach(A, B);
    lab.write_all(&lab.mesh.of_generation(2));
    lab.apply_all();
    lab.reaches(A, B);
    assert!(xfrm::sas(lab.host(A)).contains_key(&spi(2, A, B)));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_status_says_what_was_carried_and_what_was_refused() {
    let mut lab = Lab::new(3);
    lab.mesh.period = Some("1d");
    lab.write_all(&lab.mesh);
    lab.apply(A);
    lab.apply(B);
    let capture = lab.capture();
    assert_eq!(pings(&lab, 20), 20);
    replay::is_refused(&lab, &capture.stop(), A);
    let status = lab.meshsec(A, &["status", "--format", "json"]).exits(0).json();
    // Idle peers come before those that are protected.
    let [c, b] = [0, 1].map(|place| &status["peers"][place]);
    assert_eq!((&b["verdict"], &c["verdict"]), (&"protected".into(), &"idle".into()));
    assert_eq!((&b["traffic"], &c["traffic"]), (&"encrypted".into(), &"encrypted".into()));
    let packets = |peer: &serde_json::Value, direction: &str| -> u64 {
        let sas = peer["sas"].as_array().expect("an array").iter();
        let of_direction = sas.filter(|sa| sa["direction"] == *direction);
        of_direction.map(|sa| sa["packets"].as_u64().expect("a number")).sum()
    };
    assert_eq!((packets(b, "out"), packets(b, "in")), (20, 20));
    assert_eq!((packets(c, "out"), packets(c, "in")), (0, 0));
    assert!(status["counters"]["XfrmInStateSeqError"].as_u64() >= Some(20), "{status}");
    let status = lab.meshsec(A, &["status", "-v"]).exits(0).says("20 packets");
    status.says("Nothing differs from the file").says("2 peers: 1 idle, 1 protected.");
    let metrics = lab.meshsec(A, &["status", "--format", "prometheus"]).exits(0);
    metrics.says("meshsec_peer_traffic{mesh=\"lab\",peer=\"b\",traffic=\"encrypted\"} 1");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_a_generation_and_its_defaults_traffic_flows_at_once() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.reaches(A, B);
    assert_eq!(pings(&lab, 20), 20);
    reboot(&lab, A);
    assert_eq!(pings(&lab, 20), 20);
}
