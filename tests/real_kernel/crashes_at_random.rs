//! Kills at random moments, under traffic in both directions.
//!
//! `MESHSEC_KILLS=2000` says how many, and `MESHSEC_SEED=...` repeats the choices of a run.

use std::time::Duration;

use crate::{
    crash_by_mark::OTHER_MARK,
    crashes::{APPLY, finish, lab_with_foreign},
    fixture::{A, B, Lab, Underlay, VXLAN},
    inject,
    iptables::{BY_MARK, Backend},
    kill,
    mesh_file::{MeshFile, Peer},
    random::{Random, how_often},
    traffic::Flood,
    xfrm,
};

const KILLS: u32 = 40;
const KILLS_BY_MARK: u32 = 10;

/// Another file for host a: some of its content is as before, and some is not.
fn another(lab: &Lab, generation: &mut u64, random: &mut Random) -> MeshFile {
    *generation += random.below(2);
    let mut mesh = lab.mesh.of_generation(*generation);
    mesh.esp = random.choose(&[
        "",
        "cipher = \"aes128-gcm\"",
        "cipher = \"chacha20-poly1305\"\nreplay_window = 64",
        "esn = true\nreplay_window = 128",
    ]);
    mesh.link = random.choose(&["", "device = \"vxlan42\"\nmtu = 1300", "device = \"vxlan42\""]);
    // Hosts that are nowhere: more objects, in requests of many messages.
    for number in 0..random.below(6) as usize {
        mesh.peers.push(Peer {
            name: format!("nowhere{number}"),
            short_id: 100 + number,
            address: format!("192.0.2.{}", 100 + number),
            public_key: None,
            stage: None,
            outside: None,
            lines: String::new(),
        });
    }
    mesh
}

/// Kills applies of one file after the other, sometimes several of one, until there were enough.
/// Returns how many were killed in the midst of their work.
fn crash(lab: &Lab, kills: u32, random: &mut Random, next: &mut dyn FnMut(&mut Random)) -> u32 {
    let (mut killed, mut whole) = (0, Duration::from_millis(100));
    let mut tried = 0;
    while killed < kills {
        next(random);
        for _ in 0..=random.below(2) {
            let time = whole.mul_f64(random.below(1000) as f64 / 1000.0);
            killed += u32::from(kill::after(lab, APPLY, time));
            inject::try_send(lab, lab.host(A), &lab.address(A), B);
        }
        let took = kill::timed(|| finish(lab, APPLY));
        whole = (whole * 7 + took) / 8;
        tried += 1;
        assert!(tried < kills * 4 + 20, "{killed} kills in {tried} tries");
    }
    println!("{killed} kills");
    killed
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn whenever_an_apply_is_killed_nothing_leaks_the_next_converges_and_others_keep_what_is_theirs() {
    let (lab, foreign) = lab_with_foreign();
    lab.apply_all();
    let capture = lab.capture();
    let floods = [Flood::start(&lab, A, B), Flood::start(&lab, B, A)];
    let mut random = Random::new();
    let mut generation = lab.mesh.generation;
    let kills = how_often("MESHSEC_KILLS", KILLS);
    crash(&lab, kills, &mut random, &mut |random| {
        let mesh = another(&lab, &mut generation, random);
        lab.write(A, &mesh);
        if random.below(4) == 0 {
            lab.host(A).ip(&format!("link set {VXLAN} mtu 1400"));
        }
    });
    lab.write_all(&lab.mesh.of_generation(generation));
    lab.apply_all();
    lab.has_converged(A);
    lab.reaches(A, B);
    drop(floods);
    capture.stop().has_only_esp(500);
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), foreign, "something foreign was touched");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn whenever_an_apply_is_killed_that_selects_by_a_mark_nothing_leaks_and_the_next_converges() {
    let mut random = Random::new();
    let backend = random.choose(&Backend::BOTH);
    println!("{backend:?}");
    let lab = backend.lab(&[Underlay::V4; 2]);
    lab.apply_all();
    let capture = lab.capture();
    let floods = [Flood::start(&lab, A, B), Flood::start(&lab, B, A)];
    let kills = how_often("MESHSEC_KILLS", KILLS_BY_MARK * 10) / 10;
    crash(&lab, kills, &mut random, &mut |random| {
        let mut mesh = lab.mesh.clone();
        mesh.traffic = random.choose(&[BY_MARK, OTHER_MARK, "kind = \"vxlan\""]);
        lab.write(A, &mesh);
    });
    lab.write(A, &lab.mesh);
    lab.apply(A);
    lab.has_converged(A);
    lab.reaches(A, B);
    drop(floods);
    capture.stop().has_only_esp(50);
}
