//! Objects that `export` prints, put up by `ip -batch`.

use crate::{
    encap::Holder,
    fixture::{A, B, Lab, Underlay},
};

/// Puts up host a by ip alone, and host b by meshsec.
fn is_the_mesh(lab: &Lab) {
    let lines = lab.meshsec(A, &["export", "--as=ip-batch", "--show-secrets"]).exits(0).stdout;
    lab.host(A).ip_batch(&lines);
    lab.has_converged(A);
    lab.apply(B);
    let capture = lab.capture();
    lab.reaches(A, B);
    lab.reaches(B, A);
    capture.stop().is_closed();
}

fn lab(underlay: Underlay, esp: &'static str) -> Lab {
    let mut lab = Lab::over(&[underlay; 2]);
    (lab.mesh.guard, lab.mesh.esp) = ("\"xfrm\"", esp);
    lab.write_all(&lab.mesh);
    lab
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_plan_is_empty_after_the_lines_of_an_export() {
    is_the_mesh(&lab(Underlay::V4, "cipher = \"aes128-gcm\""));
    is_the_mesh(&lab(Underlay::V6, "esn = true\nreplay_window = 128"));
    let lab = lab(Underlay::V4, "encap = 4500");
    let _holders = [A, B].map(|place| Holder::start(lab.host(place), Underlay::V4, 4500));
    is_the_mesh(&lab);
}
