//! A ratchet turns with the generations, once the generations that it leaves behind are not needed
//! any more.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::{
    fixture::{A, B, C, Lab, write_secret},
    mesh_file::MESH_KEY,
    ping::Stream,
    shell, xfrm,
};

fn ratchet(lab: &Lab, place: usize) -> PathBuf {
    lab.file(place).with_file_name("ratchet")
}

/// Hosts with a copy of one ratchet each, and no mesh key anywhere.
fn lab(hosts: usize) -> Lab {
    let mut lab = Lab::new(hosts);
    lab.mesh.keys = "ratchet = { file = \"ratchet\" }";
    lab.write_all(&lab.mesh);
    let mut init = lab.command(A, &["ratchet", "init"]);
    shell::run_with(&mut init, MESH_KEY).exits(0).says("destroy the mesh key");
    for place in lab.places() {
        if place != A {
            copy(&lab, A, place);
        }
        forget_mesh_key(&lab, place);
    }
    lab
}

fn copy(lab: &Lab, from: usize, to: usize) {
    let text = fs::read_to_string(ratchet(lab, from)).expect("the ratchet is there");
    write_secret(&ratchet(lab, to), text.trim_end());
}

fn forget_mesh_key(lab: &Lab, place: usize) {
    fs::remove_file(lab.file(place).with_file_name("mesh.key")).expect("it was written");
}

/// The file of a host, and the oldest generation in it.
fn at(lab: &Lab, place: usize) -> (String, u64) {
    let text = fs::read_to_string(ratchet(lab, place)).expect("the ratchet is there");
    let number = text.lines().find_map(|line| line.strip_prefix("generation "));
    let number = number.and_then(|number| number.parse().ok()).expect("a ratchet says where it is");
    (text, number)
}

fn set_generation(lab: &Lab, place: usize, generation: u64) {
    lab.write(place, &lab.mesh.of_generation(generation));
    forget_mesh_key(lab, place);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn two_rotations_lose_no_packet_and_leave_no_old_key_behind() {
    let lab = lab(3);
    lab.apply(A);
    lab.apply(B);
    lab.reaches(A, B);
    assert_eq!(at(&lab, A).1, 0, "at generation 1 that of 0 is accepted");
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    let mut chains = vec![at(&lab, A).0];
    for generation in [2, 3] {
        for place in [A, B] {
            set_generation(&lab, place, generation);
            // A plan shows the changes and leaves the file alone.
            lab.meshsec(place, &["plan"]).exits(0);
            assert_eq!(at(&lab, place).1, generation - 2);
            let turned = format!("The ratchet is at generation {} now", generation - 1);
            lab.apply(place).says(&turned);
            assert_eq!(at(&lab, place).1, generation - 1);
            lab.has_converged(place);
            stream.wait_for_more(5);
        }
        assert_eq!(at(&lab, A).0, at(&lab, B).0);
        chains.push(at(&lab, A).0);
    }
    stream.lost_nothing();
    chains.dedup();
    assert_eq!(chains.len(), 3);
    for place in [A, B] {
        let directory = lab.file(place).parent().expect("it has one").to_owned();
        assert_eq!(
            fs::read_dir(directory).expect("it is there").count(),
            2,
            "nothing is left over"
        );
        let mode = fs::metadata(ratchet(&lab, place)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    // A host that joins now gets the present file.
    set_generation(&lab, C, 3);
    copy(&lab, A, C);
    lab.apply(C);
    lab.reaches(C, A);
    lab.reaches(B, C);
    capture.stop().has_only_esp(20);
    // Going back by one is possible, and by two it is not.
    set_generation(&lab, A, 2);
    lab.apply(A);
    lab.reaches(A, B);
    lab.has_converged(A);
    set_generation(&lab, A, 1);
    let said = "the keys of generation 1 are destroyed";
    lab.meshsec(A, &["plan"]).exits(1).says(said);
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1).says(said);
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_that_was_off_for_long_catches_up_and_a_jump_destroys_nothing() {
    let lab = lab(2);
    lab.apply_all();
    let before = at(&lab, A).0;
    for place in [A, B] {
        set_generation(&lab, place, 9000);
        let said = "run meshsec ratchet advance --to 8999";
        lab.meshsec(place, &["plan"]).exits(0).says(said);
        lab.apply(place).says(said);
        assert_eq!(at(&lab, place).0, before);
        lab.has_converged(place);
    }
    lab.reaches(A, B);
    lab.meshsec(A, &["ratchet", "advance", "--to", "8999"]).exits(0);
    assert_eq!(at(&lab, A).1, 8999);
    lab.has_converged(A);
    lab.reaches(A, B);
    // The number was wrong: the host that didn't advance goes back.
    set_generation(&lab, B, 1);
    lab.apply(B);
    lab.has_converged(B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_ratchet_that_cannot_be_turned_is_told_and_traffic_flows() {
    let lab = lab(2);
    lab.apply_all();
    // Where the new version would be written there is something that can't be removed.
    let obstacle = lab.file(A).with_file_name(".ratchet.meshsec");
    fs::create_dir_all(obstacle.join("full")).expect("it can be made");
    for place in [A, B] {
        set_generation(&lab, place, 2);
    }
    lab.apply(B);
    let json = lab.meshsec(A, &["apply", "--auto-approve", "--format", "json"]).exits(3).json();
    assert_eq!(json["complete"], true);
    assert!(
        json["ratchet"]["error"].as_str().is_some_and(|e| e.contains("cannot lock the draft of"))
    );
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(3).says("The ratchet was not turned");
    lab.reaches(A, B);
    assert_eq!(at(&lab, A).1, 0);
    fs::remove_dir_all(&obstacle).expect("it can be removed");
    let json = lab.meshsec(A, &["apply", "--auto-approve", "--format", "json"]).exits(0).json();
    assert_eq!(json["ratchet"], serde_json::json!({ "before": 0, "after": 1, "error": null }));
    assert_eq!(at(&lab, A).0, at(&lab, B).0);
    assert!(xfrm::sas(lab.host(A)).len() == 4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_that_is_not_complete_turns_no_ratchet() {
    let lab = lab(2);
    lab.apply_all();
    let foreign = crate::fixture::spi(3, B, A);
    lab.host(A).ip(&format!(
        "xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi {foreign:#x} reqid 77 \
         mode transport {}",
        xfrm::AEAD
    ));
    set_generation(&lab, A, 2);
    let json = lab.meshsec(A, &["apply", "--auto-approve", "--format", "json"]).json();
    assert_eq!(at(&lab, A).1, 0, "a peer may still need the keys of generation 0");
    assert_eq!((&json["ratchet"]["before"], &json["ratchet"]["after"]), (&0.into(), &0.into()));
    assert!(json["ratchet"]["error"].as_str().is_some_and(|e| e.contains("incomplete")));
    lab.meshsec(A, &["apply", "--auto-approve"]).says("The ratchet stays at generation 0");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_mtu_that_the_kernel_refuses_keeps_no_ratchet_from_turning() {
    let mut lab = lab(2);
    lab.mesh.link = "device = \"vxlan42\"\nmtu = 9000";
    set_generation(&lab, A, 1);
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(3);
    set_generation(&lab, A, 2);
    let apply = ["apply", "--auto-approve", "--format", "json"];
    let json = lab.meshsec(A, &apply).exits(3).json();
    assert_eq!(json["complete"], false);
    assert_eq!(json["ratchet"], serde_json::json!({ "before": 0, "after": 1, "error": null }));
    // Nothing but the ratchet changes.
    copy(&lab, B, A);
    let json = lab.meshsec(A, &apply).exits(3).json();
    assert_eq!(json["ratchet"], serde_json::json!({ "before": 0, "after": 1, "error": null }));
    lab.meshsec(A, &apply).exits(1);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_number_that_was_raised_twice_destroys_nothing() {
    let lab = lab(2);
    lab.apply_all();
    set_generation(&lab, A, 3);
    let said = "if generation 3 is right, run meshsec ratchet advance --to 2";
    lab.meshsec(A, &["plan"]).exits(0).says(said);
    lab.apply(A).says(said);
    assert_eq!(at(&lab, A).1, 0);
    set_generation(&lab, A, 1);
    lab.apply(A);
    lab.reaches(A, B);
}
