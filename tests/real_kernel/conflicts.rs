//! Foreign objects in the way: named, left alone, and a stop for their own peer.

use crate::{
    fixture::{A, B, C, Lab, spi},
    xfrm,
};

const APPLY: [&str; 2] = ["apply", "--auto-approve"];

/// Host a could not deal with b, and did with c.
fn only_c_is_served(lab: &Lab) {
    lab.apply(C);
    lab.reaches(A, C);
    let sas = xfrm::sas(lab.host(A));
    assert!(sas.contains_key(&spi(1, C, A)), "no SA from c on a: {sas:#?}");
    let from_b = sas.get(&spi(2, B, A));
    assert!(from_b.is_none(), "an SA of b was made in spite of the conflict: {from_b:#?}");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_foreign_policy_that_lets_a_peers_traffic_out_in_clear_stops_that_peer() {
    // The rules of the second guard would drop packets that the policies let pass.
    let mut lab = Lab::new(3);
    lab.mesh.guard = "\"xfrm\"";
    lab.write_all(&lab.mesh);
    // Between two peers, of any protocol: a policy in a peer's way is not in the guard's.
    let foreign = format!("src {}/32 dst {}/32 dir out", lab.address(A), lab.address(B));
    lab.host(A).ip(&format!("xfrm policy add {foreign} action allow priority 10"));

    let plan = lab.meshsec(A, &["plan"]).exits(1);
    let plan = plan.says("dir out allow priority 10  stops peer b");
    plan.says("a foreign policy outranks that of the mesh and lets the traffic pass in the clear");
    lab.meshsec(A, &APPLY).exits(3).says("TRAFFIC TO b FLOWS IN THE CLEAR");
    only_c_is_served(&lab);
    // All that is left is the conflict: nothing is to do, nothing was changed.
    lab.meshsec(A, &APPLY).exits(1);

    assert!(lab.host(A).ip("xfrm policy").contains("priority 10 "), "the foreign policy is gone");
    lab.host(A).ip(&format!("xfrm policy delete {foreign}"));
    lab.apply(A);
    lab.apply(B);
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_wider_foreign_policy_stops_the_peers_that_it_covers_where_there_is_no_guard() {
    let mut lab = Lab::new(3);
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    let foreign = format!("dst {}/32 dir out", lab.address(B));
    lab.host(A).ip(&format!("xfrm policy add {foreign} action allow priority 10"));
    lab.meshsec(A, &["plan"]).exits(1).says("stops peer b");
    lab.meshsec(A, &APPLY).exits(3);
    only_c_is_served(&lab);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_foreign_policy_that_outranks_the_guard_stops_everything() {
    let lab = Lab::new(2);
    lab.host(A).ip("xfrm policy add dir out action allow priority 10");
    let before = xfrm::databases(lab.host(A));
    let plan = lab.meshsec(A, &["plan", "--format", "json"]).exits(1).json();
    let all = plan["conflicts"]
        .as_array()
        .expect("a list")
        .iter()
        .any(|conflict| conflict["peers"].is_null() && conflict["code"] == "outranks-guard");
    assert!(all, "no conflict with the guard in {plan:#}");
    lab.meshsec(A, &APPLY).exits(1);
    assert_eq!(before, xfrm::databases(lab.host(A)), "something was changed");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_foreign_policy_with_the_selector_of_ours_is_never_taken_over() {
    let lab = Lab::new(3);
    let (a, b) = (lab.address(A), lab.address(B));
    lab.host(A).ip(&format!(
        "xfrm policy add src {a}/32 dst {b}/32 proto udp dport 4789 dir out priority 9 \
         tmpl proto esp reqid 77 mode transport"
    ));
    lab.meshsec(A, &["plan"])
        .exits(1)
        .says("a foreign policy has the selector of the mesh's policy");
    lab.meshsec(A, &APPLY).exits(3).says("stops peer b");
    only_c_is_served(&lab);
    lab.does_not_reach(A, B);
    assert!(lab.host(A).ip("xfrm policy").contains("reqid 77"), "the foreign policy is gone");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_foreign_sa_on_our_spi_stops_its_own_peer() {
    let lab = Lab::new(3);
    let (a, b, spi) = (lab.address(A), lab.address(B), spi(1, B, A));
    lab.host(A).ip(&format!(
        "xfrm state add src {b} dst {a} proto esp spi {spi:#x} reqid 77 mode transport {}",
        xfrm::AEAD
    ));
    let plan = lab.meshsec(A, &["plan"]).exits(1);
    plan.says(&format!("{spi:#x} reqid 0x4d  stops peer b"))
        .says("a foreign SA has the destination and SPI of an SA of the mesh");
    lab.meshsec(A, &APPLY).exits(3).says("stops peer b");
    only_c_is_served(&lab);
    assert_eq!(xfrm::sas(lab.host(A))[&spi].reqid, 77, "the foreign SA is not what it was");
    lab.does_not_reach(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_sysctl_that_takes_packets_past_all_policies_is_a_conflict() {
    let lab = Lab::new(2);
    for (family, device, name) in [
        ("ipv4", "eth0", "disable_xfrm"),
        ("ipv4", "eth0", "disable_policy"),
        ("ipv4", "all", "disable_xfrm"),
        ("ipv4", "all", "disable_policy"),
        ("ipv6", "eth0", "disable_policy"),
    ] {
        let sysctl = format!("net/{family}/conf/{device}/{name}");
        let file = format!("{family}/conf/{device}/{name}");
        lab.host(A).set_sysctl(&file, "1");
        lab.meshsec(A, &["plan"]).exits(1).says(&format!("sysctl -w {sysctl}=0"));
        lab.meshsec(A, &APPLY).exits(1);
        assert_eq!(xfrm::databases(lab.host(A)), "", "something was changed");
        lab.host(A).set_sysctl(&file, "0");
    }
    lab.apply(A);
}

/// The reason of the conflict: with the sysctl, packets do pass the policies.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn disable_xfrm_sends_protected_traffic_in_clear_and_an_applied_host_says_so() {
    let mut lab = Lab::new(2);
    // The second guard looks at no sysctl, and drops clear packets.
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    lab.host(A).set_sysctl("ipv4/conf/eth0/disable_xfrm", "1");
    let capture = lab.capture();
    lab.does_not_reach(A, B);
    capture.stop().has_clear(1);
    lab.meshsec(A, &["plan"]).exits(1).says("packets of eth0 pass all policies");
}
