//! Objects that `export` prints, put up by `ip -batch`.

use crate::{
    encap::Holder,
    fixture::{A, B, Lab, Underlay},
    ping,
};

fn put_up_by_ip(lab: &Lab) {
    let lines = lab.meshsec(A, &["export", "--as=ip-batch", "--show-secrets"]).exits(0).stdout;
    lab.host(A).ip_batch(&lines);
    lab.apply(B);
}

/// Host a is put up by ip alone, and host b by meshsec.
fn works_and_lacks_policies_for_icmp_errors(underlay: Underlay, esp: &'static str, lacks: usize) {
    let mut lab = Lab::over(&[underlay; 2]);
    (lab.mesh.guard, lab.mesh.esp) = ("\"xfrm\"", esp);
    lab.write_all(&lab.mesh);
    let is_in_udp = esp.contains("encap");
    let _holders = [A, B].map(|at| is_in_udp.then(|| Holder::start(lab.host(at), underlay, 4500)));
    put_up_by_ip(&lab);
    let plan = lab.plan(A);
    let changes = plan["changes"].as_array().expect("a list");
    let id = |change: &serde_json::Value| change["id"].as_str().unwrap().contains("icmp");
    assert!(changes.iter().all(|change| change["action"] == "create" && id(change)), "{plan:#}");
    assert_eq!(changes.len(), lacks);
    let capture = lab.capture();
    lab.reaches(A, B);
    lab.reaches(B, A);
    capture.stop().is_closed();
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_mesh_works_after_the_lines_of_an_export() {
    works_and_lacks_policies_for_icmp_errors(Underlay::V4, "encap = 4500", 3);
    works_and_lacks_policies_for_icmp_errors(
        Underlay::V6,
        "cipher = \"aes128-gcm\"\nesn = true\nreplay_window = 128",
        4,
    );
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_plan_for_all_traffic_is_empty_after_the_lines_of_an_export() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let mut lab = Lab::over(&[underlay; 2]);
        (lab.mesh.traffic, lab.mesh.guard) = ("kind = \"all\"", "false");
        lab.write_all(&lab.mesh);
        put_up_by_ip(&lab);
        lab.has_converged(A);
        let capture = lab.capture();
        assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3);
        capture.stop().is_closed();
    }
}
