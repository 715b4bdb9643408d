//! A host set up by hand, from the words of the key schedule alone.

use std::process::Command;

use crate::{
    fixture::{A, B, C, Lab, Underlay},
    mesh_file::MESH_KEY,
    namespace::Namespace,
    shell,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_kernel/by_hand.py");

/// Lets the script, which knows nothing of meshsec, give the objects that the host in `place`
/// needs.
pub fn commands(lab: &Lab, place: usize, cipher: &str) -> String {
    script(lab, place, cipher, "")
}

fn script(lab: &Lab, place: usize, cipher: &str, layout: &str) -> String {
    let mut script = Command::new("python3");
    script.env("SPI_LAYOUT", layout);
    script.args([SCRIPT, "lab", MESH_KEY, &lab.mesh.generation.to_string(), cipher]);
    let others = lab.places().filter(|&other| other != place);
    for end in [place].into_iter().chain(others) {
        script.args([(end + 1).to_string(), lab.address(end)]);
    }
    shell::run(&mut script).exits(0).stdout
}

fn set_up(lab: &Lab, host: &Namespace, place: usize, cipher: &str) {
    host.ip_batch(&commands(lab, place, cipher));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_set_up_by_ip_xfrm_alone_talks_to_hosts_that_meshsec_set_up() {
    let lab = Lab::new(3);
    lab.apply(A);
    lab.apply(C);
    set_up(&lab, lab.host(B), B, "aes256-gcm");
    let capture = lab.capture();
    lab.reaches(A, B);
    lab.reaches(B, C);
    capture.stop().has_only_esp(12);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_was_set_up_by_hand_lacks_guards_and_policies_for_errors_and_forwarded_packets_alone() {
    let mut lab = Lab::over(&[Underlay::V6; 2]);
    lab.mesh.esp = "cipher = \"aes128-gcm\"";
    lab.mesh.generation = 0;
    lab.write_all(&lab.mesh);
    set_up(&lab, lab.host(B), B, "aes128-gcm");
    let plan = lab.plan(B);
    let changes = plan["changes"].as_array().expect("a list");
    assert!(changes.iter().all(|change| change["action"] == "create"), "{plan:#}");
    let of = |kind| changes.iter().filter(|change| change["kind"] == kind).count();
    // Four types of errors, and one policy fwd.
    assert_eq!(["guard", "chain", "policy", "sa"].map(of), [4, 4, 5, 0], "{plan:#}");
    lab.apply_all();
    lab.reaches(A, B);
}

/// At generation 43 the old SPI of generation 44 is the new one of generation 43.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn hosts_with_the_spis_of_version_0_1_are_cut_from_the_first_apply_to_the_second() {
    for generation in [1, 43] {
        let mut lab = Lab::new(2);
        lab.mesh.generation = generation;
        lab.write_all(&lab.mesh);
        for place in lab.places() {
            lab.host(place).ip_batch(&script(&lab, place, "aes256-gcm", "0.1"));
        }
        let capture = lab.capture();
        lab.reaches(A, B);
        let plan = lab.meshsec(A, &["plan"]).exits(0);
        plan.says("SPIs of version 0.1 get the layout of today");
        lab.apply(A);
        lab.has_converged(A);
        lab.does_not_reach(A, B);
        lab.does_not_reach(B, A);
        lab.apply(B);
        lab.reaches(A, B);
        lab.places().for_each(|place| lab.has_converged(place));
        capture.stop().has_only_esp(8);
    }
}
