//! ESP offload, as far as it shows without a device that has it: veth has none.

use crate::{
    fixture::{A, Lab},
    xfrm,
};

fn lab(esp: &'static str) -> Lab {
    let mut lab = Lab::new(2);
    lab.mesh.esp = esp;
    lab.mesh.period = Some("1h");
    lab.write_all(&lab.mesh);
    lab
}

/// An apply that says this, and changes nothing.
fn is_refused(lab: &Lab, text: &str) {
    let before = xfrm::databases(lab.host(A));
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1).says(text);
    assert_eq!(xfrm::databases(lab.host(A)), before);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_device_without_offload_is_found_out_before_anything_changes() {
    let lab = lab("offload = \"eth0\"");
    is_refused(&lab, "cannot offload ESP to eth0");
    assert_eq!(xfrm::databases(lab.host(A)), "", "the probe is gone too");

    // With a mesh in place as well, which goes on as it was.
    let mut plain = lab.mesh.clone();
    plain.esp = "";
    lab.write(A, &plain);
    lab.apply(A);
    lab.write(A, &lab.mesh);
    assert_eq!(lab.plan(A)["changes"][0]["fields"][0]["after"], "dev eth0 dir in");
    is_refused(&lab, "cannot offload ESP to eth0");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_device_that_is_not_there_is_found_out_before_anything_changes() {
    let lab = lab("offload = { device = \"eth7\", mode = \"crypto\" }");
    lab.meshsec(A, &["plan"]).exits(0).says("this host has no device eth7");
    is_refused(&lab, "ENODEV: [esp] offload names a device that is not there");
}
