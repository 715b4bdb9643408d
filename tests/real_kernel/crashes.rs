//! A run that is killed leaves nothing that leaks, and the next one goes on from there.
//!
//! Here it is killed right before each of its requests to change something, and right after the
//! last: that is every state that a crash can leave. Two kernels share the requests (`kill::is_point`). `crashes_at_random` chooses other moments,
//! `crash_by_mark` those around iptables.

use crate::{
    destroy::add_foreign,
    encap::Holder,
    fixture::{A, B, Lab, Underlay},
    inject, kill,
    mesh_file::MeshFile,
    ping::Stream,
    traffic::Tcp,
    xfrm,
};

pub const APPLY: &[&str] = &["apply", "--auto-approve"];
pub const DESTROY: &[&str] = &["destroy", "--auto-approve"];

/// Brings host a to where a run begins, and says which run that is.
type Goal<'a> = &'a mut dyn FnMut(&Lab) -> &'static [&'static str];

/// Kills a run for each of the goals, in turn, at every request that is this kernel's turn. `check`
/// is called after each kill and `finish` completes the killed run. Returns the number of requests.
fn at_every_request(
    lab: &Lab,
    goals: &mut [Goal<'_>],
    check: &mut dyn FnMut(&Lab),
    finish: &mut dyn FnMut(&Lab, &'static [&'static str]),
) -> usize {
    let requests: Vec<Vec<usize>> = goals
        .iter_mut()
        .map(|goal| {
            let words = goal(lab);
            let requests = kill::requests(lab, words);
            finish(lab, words);
            requests
        })
        .collect();
    let longest = requests.iter().map(Vec::len).max().unwrap_or(0);
    for at in (0..longest).filter(|at| kill::is_point(*at)) {
        for (goal, requests) in goals.iter_mut().zip(&requests) {
            let words = goal(lab);
            if let Some(&number) = requests.get(at) {
                kill::at_request(lab, words, number);
                check(lab);
            }
            finish(lab, words);
        }
    }
    requests.iter().map(Vec::len).sum()
}

/// The next run goes to the end: an apply proves that nothing is left to be done.
pub fn finish(lab: &Lab, words: &[&str]) {
    lab.meshsec(A, words).exits(0);
}

/// Sends a burst where there is a guard. Where there is none nothing has begun, or nothing is
/// left, and clear text flows as before: it is not sent.
pub fn send_if_guarded(lab: &Lab, guarded: &mut usize) {
    if xfrm::has_guard(lab.host(A), 4789) {
        *guarded += 1;
        inject::try_send(lab, lab.host(A), &lab.address(A), B);
    }
}

/// Fails unless the mesh works and foreign objects on host a are as they were.
fn is_well(lab: &Lab, foreign: &str) {
    lab.apply_all();
    lab.has_converged(A);
    lab.reaches(A, B);
    lab.meshsec(A, DESTROY).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), foreign, "something foreign was touched");
}

/// A laboratory with objects of others on host a, and how they look.
pub fn lab_with_foreign() -> (Lab, String) {
    let lab = Lab::new(2);
    add_foreign(&lab);
    let foreign = xfrm::databases(lab.host(A));
    (lab, foreign)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_first_apply_or_a_destroy_that_is_killed_lets_nothing_out_as_long_as_there_is_a_guard() {
    let (lab, foreign) = lab_with_foreign();
    let capture = lab.capture();
    let mut guarded = 0;
    let mut turn = 0;
    let kills = at_every_request(
        &lab,
        &mut [&mut |_| APPLY, &mut |_| DESTROY],
        &mut |lab| send_if_guarded(lab, &mut guarded),
        // A killed run is finished in one turn, and undone in the other.
        &mut |lab, words| {
            turn += 1;
            if turn % 4 < 2 {
                finish(lab, if words == APPLY { DESTROY } else { APPLY });
            }
            finish(lab, words);
        },
    );
    capture.stop().is_closed();
    is_well(&lab, &foreign);
    // The probe and its end, guards, inbound SAs, outbound SAs, policies, and the end; policies,
    // SAs, guards, and the end.
    assert!(kills >= 11, "{kills} requests, wanted 11");
    assert!(guarded >= 3, "{guarded} runs were killed while there was a guard");
}

/// Goes to and fro between two files on host a, killing at every request, while both hosts send.
/// Nothing but ESP may leave. Returns the number of kills.
fn to_and_fro(
    lab: &Lab,
    foreign: &str,
    to: &mut dyn FnMut(&Lab),
    fro: &mut dyn FnMut(&Lab),
) -> usize {
    lab.apply_all();
    let capture = lab.capture();
    let streams = [Stream::start_unanswered(lab, A, B), Stream::start_unanswered(lab, B, A)];
    let kills = at_every_request(
        lab,
        &mut [
            &mut |lab| {
                to(lab);
                APPLY
            },
            &mut |lab| {
                fro(lab);
                APPLY
            },
        ],
        &mut |lab| {
            inject::try_send(lab, lab.host(A), &lab.address(A), B);
        },
        &mut |lab, words| finish(lab, words),
    );
    lab.write_all(&lab.mesh);
    lab.apply_all();
    streams.iter().for_each(|stream| stream.wait_for_more(5));
    drop(streams);
    capture.stop().has_only_esp(10);
    is_well(lab, foreign);
    kills
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_adds_or_removes_a_peer_lets_nothing_out() {
    let (lab, foreign) = lab_with_foreign();
    let alone = lab.mesh.of_peers(&[A]);
    let kills = to_and_fro(&lab, &foreign, &mut |lab| lab.write(A, &alone), &mut |lab| {
        lab.write(A, &lab.mesh)
    });
    // Policies, SAs, and the end; the probe and its end, SAs, policies, and the end.
    assert!(kills >= 9, "{kills} requests, wanted 9");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_replaces_sas_lets_nothing_out() {
    let (lab, foreign) = lab_with_foreign();
    let mut other = lab.mesh.clone();
    other.esp = "cipher = \"chacha20-poly1305\"";
    let kills = to_and_fro(&lab, &foreign, &mut |lab| lab.write(A, &other), &mut |lab| {
        lab.write(A, &lab.mesh)
    });
    // The probe and its end, inbound SAs, outbound SAs, and the end; twice.
    assert!(kills >= 10, "{kills} requests, wanted 10");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_moves_the_port_or_sets_an_mtu_lets_nothing_out() {
    let (lab, foreign) = lab_with_foreign();
    let mut other = lab.mesh.clone();
    other.traffic = "kind = \"vxlan\"\nport = 4790";
    other.link = "device = \"vxlan43\"\nmtu = 1300";
    // A device of the other port, as [link] wants one that the file protects.
    let local = lab.address(A);
    lab.host(A).ip(&format!(
        "link add vxlan43 mtu 1400 type vxlan id 43 dstport 4790 local {local} dev eth0 nolearning"
    ));
    // Packets to the old port have no guard any more once the apply is done, so that nothing but
    // bursts is sent, and only while it has.
    lab.apply_all();
    let capture = lab.capture();
    let mut guarded = 0;
    let kills = at_every_request(
        &lab,
        &mut [
            &mut |lab| {
                lab.write(A, &other);
                lab.host(A).ip("link set vxlan43 mtu 1400");
                APPLY
            },
            &mut |lab| {
                lab.write(A, &lab.mesh);
                APPLY
            },
        ],
        &mut |lab| send_if_guarded(lab, &mut guarded),
        &mut |lab, words| finish(lab, words),
    );
    capture.stop().is_closed();
    is_well(&lab, &foreign);
    // Guards, the MTU, policies, policies that go, guards that go, and the end; as many back, but
    // for the MTU.
    assert!(kills >= 11, "{kills} requests, wanted 11");
    assert!(guarded >= 4, "{guarded} runs were killed while there was a guard");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_changes_the_generation_lets_nothing_out_and_loses_nothing() {
    let (mut lab, foreign) = lab_with_foreign();
    lab.apply_all();
    let capture = lab.capture();
    let streams = [Stream::start(&lab, A, B), Stream::start(&lab, B, A)];
    let tcp = Tcp::start(&lab, A, B);
    let mut generation = lab.mesh.generation;
    let kills = at_every_request(
        &lab,
        &mut [&mut |lab| {
            generation += 1;
            lab.write_all(&lab.mesh.of_generation(generation));
            APPLY
        }],
        &mut |_| streams.iter().for_each(|stream| stream.wait_for_more(2)),
        &mut |lab, words| {
            finish(lab, words);
            lab.apply(B);
        },
    );
    // Every step leaves the SAs that are in use, so even a killed apply costs no packet.
    streams.into_iter().for_each(Stream::lost_nothing);
    tcp.all_arrived();
    capture.stop().has_only_esp(50);
    lab.mesh = lab.mesh.of_generation(generation);
    is_well(&lab, &foreign);
    // The probe and its end, inbound SA, outbound SA, policy, deletions, and the end.
    assert!(kills >= 7, "{kills} requests, wanted 7");
}

/// Kills applies on host a that go to and fro between two files, while packets flow. Every step
/// leaves the SAs that are in use, so even a killed apply costs no packet, and none is in the clear.
/// Returns the number of kills.
fn to_and_fro_without_a_loss(lab: &Lab, to: &MeshFile, encrypted: &str) -> usize {
    lab.apply_all();
    let capture = lab.capture();
    let streams = [Stream::start(lab, A, B), Stream::start(lab, B, A)];
    let tcp = Tcp::start(lab, A, B);
    let goal = |mesh: &MeshFile| {
        let mesh = mesh.clone();
        move |lab: &Lab| {
            lab.write(A, &mesh);
            APPLY
        }
    };
    let kills = at_every_request(
        lab,
        &mut [&mut goal(to), &mut goal(&lab.mesh)],
        &mut |_| streams.iter().for_each(|stream| stream.wait_for_more(2)),
        &mut |lab, words| finish(lab, words),
    );
    streams.into_iter().for_each(Stream::lost_nothing);
    tcp.all_arrived();
    let recording = capture.stop();
    recording.is_closed();
    assert!(recording.packets(encrypted).len() > 50, "packets went as {encrypted}");
    kills
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_moves_the_stage_lets_nothing_out_and_loses_nothing() {
    let (lab, foreign) = lab_with_foreign();
    let kills = to_and_fro_without_a_loss(&lab, &lab.mesh.at("send"), "esp");
    is_well(&lab, &foreign);
    // Policies, guards that go, and the end; guards, policies, and the end.
    assert!(kills >= 6, "{kills} requests, wanted 6");
}

/// Host a goes into UDP by its generation, and back, while b stays.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_it_goes_into_udp_lets_nothing_out_and_loses_nothing() {
    let (mut lab, foreign) = lab_with_foreign();
    lab.mesh.esp = "encap = { port = 4500, from = 2 }";
    lab.write_all(&lab.mesh);
    let _holders = [A, B].map(|place| Holder::start(lab.host(place), Underlay::V4, 4500));
    let kills = to_and_fro_without_a_loss(&lab, &lab.mesh.of_generation(2), "udp port 4500");
    is_well(&lab, &foreign);
    // The probe and its end, inbound SA, outbound SA, policy, deletion, and the end; twice.
    assert!(kills >= 12, "{kills} requests, wanted 12");
}
