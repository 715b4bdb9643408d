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
    let mut script = Command::new("python3");
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
