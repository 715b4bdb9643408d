//! Others flush more than is theirs: the plan says so, and apply heals it.

use crate::{
    fixture::{A, B, Lab, Underlay},
    iptables::Backend,
    namespace::Namespace,
    ping::Stream,
    wait::wait_for,
    xfrm,
};

/// As libreswan's ipsec.service has it under ExecStopPost (4.10 and later), in its order.
fn libreswan_stops(host: &Namespace) {
    for words in ["xfrm policy flush", "xfrm state flush"] {
        host.ip(words);
    }
}

/// Fails unless the plan's warnings are these, in text and in JSON.
#[track_caller]
fn is_told(lab: &Lab, lines: &[&str]) {
    let warnings = lab.plan(A)["warnings"].clone();
    let warnings = warnings.as_array().expect("a list");
    let text = |warning: &serde_json::Value| warning["text"].as_str().expect("a text").to_owned();
    // On a host without an object of the mesh its stages are a subject, and no flush is.
    let about = |warning: &&serde_json::Value| warning["code"] != "stage-skipped";
    let warnings: Vec<String> = warnings.iter().filter(about).map(text).collect();
    assert_eq!(warnings.len(), lines.len(), "{warnings:#?}");
    let text = lab.meshsec(A, &["plan"]).exits(0);
    for (warning, line) in warnings.iter().zip(lines) {
        assert!(warning.contains(line), "wanted {line:?}: {warnings:#?}");
        text.clone().says(&format!("Warning: {warning}"));
    }
}

/// Fails unless the plan is to create so many guards, SAs and policies, and nothing else.
#[track_caller]
fn creates(lab: &Lab, wanted: [usize; 3]) {
    let plan = lab.plan(A);
    let changes = plan["changes"].as_array().expect("a list");
    let of = |kind| changes.iter().filter(|change| change["kind"] == kind).count();
    assert!(changes.iter().all(|change| change["action"] == "create"), "{plan:#}");
    assert_eq!(["guard", "sa", "policy"].map(of), wanted, "{plan:#}");
    assert_eq!(changes.len(), wanted.iter().sum::<usize>(), "{plan:#}");
}

/// Fails unless packets of host a leave in the clear, as the plan says.
#[track_caller]
fn leaks(lab: &Lab) {
    let capture = lab.capture();
    lab.does_not_reach(A, B);
    capture.stop().has_clear(1);
}

/// Applies on host a; from the first encrypted packet on none leaves it in the clear.
#[track_caller]
fn heals(lab: &Lab) {
    let stream = Stream::start_unanswered(lab, A, B);
    let capture = lab.capture();
    lab.apply(A);
    stream.wait_for_more(5);
    drop(stream);
    let recording = capture.stop();
    let sent =
        recording.packets(&format!("src host {} and (esp or udp port 4789)", lab.address(A)));
    let clear = sent.iter().take_while(|line| !line.contains("ESP(")).count();
    assert!(sent.len() >= clear + 5, "{sent:#?}");
    let late = sent[clear..].iter().filter(|line| !line.contains("ESP(")).count();
    assert_eq!(late, 0, "packets in the clear after encrypted ones: {sent:#?}");
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn all_sas_flushed_is_told_and_heals() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.host(A).ip("xfrm state flush");
    let capture = lab.capture();
    is_told(&lab, &["`ip xfrm state flush`", "packets to b are blocked until meshsec apply runs"]);
    creates(&lab, [0, 4, 0]);
    lab.does_not_reach(A, B);
    heals(&lab);
    capture.stop().is_closed();
}

/// With rules of iptables, which outlive the policies, and with policies alone.
const GUARDS: [&str; 2] = ["true", "\"xfrm\""];

/// Two hosts that have applied a mesh with this guard.
fn guarded(guard: &'static str) -> Lab {
    let mut lab = Lab::new(2);
    lab.mesh.guard = guard;
    lab.write_all(&lab.mesh);
    lab.apply_all();
    lab
}

/// Fails unless host a, without its policies, sends nothing in the clear where rules guard, and
/// something where none do; and unless an apply heals it.
#[track_caller]
fn is_blocked_or_leaks_and_heals(lab: &Lab) {
    if lab.mesh.guard == GUARDS[1] {
        leaks(lab);
        return heals(lab);
    }
    let capture = lab.capture();
    lab.does_not_reach(A, B);
    heals(lab);
    capture.stop().is_closed_for(&format!("src host {}", lab.address(A)));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn all_policies_flushed_is_told_and_heals() {
    for (guard, fate) in GUARDS.into_iter().zip(["are blocked", "leave in the clear"]) {
        let lab = guarded(guard);
        lab.host(A).ip("xfrm policy flush");
        is_told(
            &lab,
            &["`ip xfrm policy flush`", &format!("packets to b {fate} until meshsec apply runs")],
        );
        creates(&lab, [4, 0, 6]);
        is_blocked_or_leaks_and_heals(&lab);
    }
}

/// The rules of the second guard are left, and they tell. Without them nothing is left that could
/// tell this host from one that was never applied on.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_stop_of_libreswan_heals() {
    let told = ["libreswan's service", "packets to b are blocked until meshsec apply runs"];
    for (guard, told) in GUARDS.into_iter().zip([&told[..], &[]]) {
        let lab = guarded(guard);
        libreswan_stops(lab.host(A));
        assert_eq!(xfrm::databases(lab.host(A)), "");
        is_told(&lab, told);
        creates(&lab, [4, 4, 6]);
        is_blocked_or_leaks_and_heals(&lab);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_stop_of_libreswan_beside_a_mesh_by_mark_is_told_and_nothing_leaves_in_clear() {
    for backend in super::backends(Backend::Nft) {
        let lab = backend.lab(&[Underlay::V4; 2]);
        lab.apply_all();
        let capture = lab.capture();
        libreswan_stops(lab.host(A));
        lab.does_not_reach(A, B);
        is_told(
            &lab,
            &["libreswan's service", "packets to b are blocked until meshsec apply runs"],
        );
        heals(&lab);
        capture.stop().is_closed();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_flushed_iptables_is_told_and_heals() {
    for backend in super::backends(Backend::Legacy) {
        let lab = backend.lab(&[Underlay::V6; 2]);
        lab.apply_all();
        for words in ["-F", "-X", "-t mangle -F", "-t mangle -X"] {
            backend.tables(lab.host(A), Underlay::V6, words);
        }
        is_told(
            &lab,
            &["something has flushed the table", "leave in the clear until meshsec apply runs"],
        );
        leaks(&lab);
        heals(&lab);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn nothing_is_told_of_a_flush_where_none_was() {
    let lab = Lab::new(3);
    is_told(&lab, &[]);
    lab.apply_all();
    let stream = Stream::start(&lab, B, A);
    lab.write(A, &lab.mesh.of_peers(&[A, B]));
    lab.apply(A);
    lab.write(A, &lab.mesh);
    is_told(&lab, &[]);
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    wait_for("the peer's packets to find no SA", || {
        (xfrm::counters(lab.host(A))["XfrmInNoStates"] > 0).then_some(())
    });
    is_told(&lab, &[]);
    drop(stream);
}
