//! Runs that are killed while hosts of two sites send each other packets.

use super::sites::{FAMILIES, Sites, network};
use crate::{
    fixture::{A, B, Underlay},
    kill,
};

/// Whether a family's packets to the other site meet a blackhole or the interface.
fn is_guarded(sites: &Sites, family: Underlay) -> bool {
    let version = if family == Underlay::V4 { "-4" } else { "-6" };
    let words = format!("{version} route show {} proto 77", network(family, B));
    !sites.lab.host(A).ip(&words).is_empty()
}

/// Kills a run at each of its requests. Where the other site's networks have a blackhole by then,
/// nothing is sent in the clear, and the next apply repairs everything.
#[track_caller]
fn kill_at_each(sites: &Sites, words: &[&str], prepare: impl Fn()) {
    let lab = &sites.lab;
    prepare();
    let requests = kill::requests(lab, words);
    assert!(requests.len() > 7, "{requests:?}");
    for number in requests.into_iter().filter(|number| kill::is_point(*number)) {
        prepare();
        let capture = sites.capture();
        kill::at_request(lab, words, number);
        let is_closed = FAMILIES.iter().all(|family| is_guarded(sites, *family));
        sites.answers(A, B);
        let recording = capture.stop();
        if is_closed {
            recording.is_closed();
        }
        lab.apply(A);
        lab.has_converged(A);
        sites.reaches(A, B);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_first_apply_that_is_killed_opens_nothing_that_it_has_closed() {
    let sites = Sites::over(Underlay::V4, 2);
    sites.lab.apply(B);
    let words = ["apply", "--auto-approve"];
    kill_at_each(&sites, &words, || {
        sites.lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_destroy_that_is_killed_opens_nothing_while_there_is_a_guard() {
    let sites = Sites::over(Underlay::V4, 2);
    sites.lab.apply_all();
    kill_at_each(&sites, &["destroy", "--auto-approve"], || {
        sites.lab.apply(A);
    });
}
