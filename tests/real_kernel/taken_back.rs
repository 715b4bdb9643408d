//! An apply with steps that the kernel refuses half-way: its peer is as it was before.

use std::process::Command;

use crate::{
    fixture::{A, B, C, Lab},
    kill::KILL_AT,
    ping::Stream,
    shell::{self, Ran},
    xfrm,
};

/// Runs an apply on host a in which `ip` does `meanwhile` right before the request of this number.
fn apply_with(lab: &Lab, request: u32, meanwhile: &str) -> Ran {
    let mut command = Command::new("python3");
    command.args([KILL_AT, &request.to_string(), env!("CARGO_BIN_EXE_meshsec")]);
    command.args(["--netns", &lab.host(A).0, "apply", "--auto-approve", "--format", "json"]);
    command.arg("-c").arg(lab.file(A));
    command.env("INSTEAD", format!("ip -n {} {meanwhile}", lab.host(A).0));
    shell::run(&mut command)
}

fn names(report: &serde_json::Value, list: &str) -> Vec<String> {
    let steps = report[list].as_array().expect("a list").iter();
    steps.map(|step| step["step"].as_str().expect("a name").to_owned()).collect()
}

/// The probe and its end, guards, outbound SAs, policies for ICMP errors and inbound SAs come
/// before the policies.
const POLICIES: u32 = 7;

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_new_peer_whose_policy_is_refused_has_nothing_and_the_others_all() {
    let lab = Lab::new(3);
    lab.apply(C);
    let (us, them) = (lab.address(A), lab.address(B));
    let theirs = format!("src {us}/32 dst {them}/32 proto udp dport 4789 dir out");
    let template = "priority 9 tmpl proto esp reqid 9 mode transport";
    let ran = apply_with(&lab, POLICIES, &format!("xfrm policy add {theirs} {template}"));
    let report = ran.exits(3).json();
    assert_eq!(names(&report, "failed"), ["add_policy"]);
    let mut undone = names(&report, "undone");
    undone.sort();
    // In and fwd, and three for ICMP errors.
    assert_eq!(undone, [["add_policy"; 5].as_slice(), &["add_sa"; 4]].concat());
    assert_eq!(report["traffic"], serde_json::json!({ "b": "blocked" }));
    let text = xfrm::databases(lab.host(A));
    let of_b = text.lines().filter(|line| line.starts_with("src") && line.contains(&them));
    assert_eq!(of_b.count(), 1, "b has what is foreign and nothing else: {text}");
    lab.reaches(A, C);
    lab.host(A).ip(&format!("xfrm policy delete {theirs}"));
    lab.apply(A);
    lab.has_converged(A);
    lab.apply(B);
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_peer_whose_switch_is_refused_goes_on_under_the_old_generation() {
    let lab = Lab::new(3);
    lab.apply_all();
    let before = xfrm::sas(lab.host(A)).into_keys().collect::<Vec<_>>();
    let (us, them) = (lab.address(A), lab.address(B));
    // Ours to b gets a companion in its template, so that it is no longer as it was seen.
    let selector = format!("src {us}/32 dst {them}/32 proto udp dport 4789 dir out");
    let spi = crate::fixture::spi(1, A, B);
    let template =
        format!("tmpl src {us} dst {them} proto esp spi {spi:#x} reqid 7 mode transport");
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, C);
    lab.write(A, &lab.mesh.of_generation(2));
    // The probe and its end, the outbound SAs, a look at the policies for ICMP errors, their update,
    // the inbound SAs: there, before the next look.
    let update = format!("xfrm policy update {selector} priority 1000 {template}");
    let report = apply_with(&lab, 6, &update).exits(3).json();
    assert_eq!(names(&report, "failed"), ["update_policy"]);
    let mut undone = names(&report, "undone");
    undone.sort();
    assert_eq!(undone, [["add_sa"; 2].as_slice(), &["update_policy"; 3]].concat());
    let of_b = |spi: &u32| spi & 0xfff == 2 || spi >> 12 & 0xfff == 2;
    let now = xfrm::sas(lab.host(A)).into_keys().filter(of_b);
    assert_eq!(now.collect::<Vec<_>>(), before.into_iter().filter(of_b).collect::<Vec<_>>());
    stream.wait_for_more(3);
    stream.lost_nothing();
    capture.stop().has_only_esp(3);
}
