//! `destroy`: nothing of ours stays, and nothing else goes.

use crate::{
    fixture::{A, B, Lab},
    xfrm,
};

/// Objects of somebody else, which are in nobody's way.
pub fn add_foreign(lab: &Lab) {
    let host = lab.host(A);
    host.ip(&format!(
        "xfrm state add src 198.51.100.1 dst 192.0.2.1 proto esp spi 0x1234 reqid 77 \
         mode tunnel replay-window 32 {}",
        xfrm::AEAD
    ));
    host.ip(&format!(
        "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1235 reqid 78 \
         mode transport {}",
        xfrm::AEAD
    ));
    host.ip("xfrm policy add src 10.0.0.0/8 dst 198.51.100.0/24 dir out priority 3 \
         tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 77 mode tunnel");
    host.ip("xfrm policy add src 198.51.100.0/24 dst 10.0.0.0/8 dir fwd action allow priority 9");
    host.ip("xfrm policy add dst 192.0.2.2/32 proto tcp dport 4789 dir out action block");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn destroy_leaves_both_databases_as_they_were_and_says_what_flows_in_clear_then() {
    let lab = Lab::new(2);
    add_foreign(&lab);
    let before = xfrm::databases(lab.host(A));
    assert!(before.matches("src ").count() > 5, "no foreign objects in {before}");
    lab.apply_all();
    lab.reaches(A, B);
    // The guards stay while the peers go: a file is all that destroy needs.
    std::fs::remove_file(lab.file(A).with_file_name("mesh.key")).expect("it is there");

    let capture = lab.capture();
    let said = lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    said.says("they leave in the clear").says("proto udp dport 4789");
    assert_eq!(before, xfrm::databases(lab.host(A)));
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);

    lab.meshsec(B, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(B)), "");
    lab.reaches(A, B);
    capture.stop().has_clear(6);
}
