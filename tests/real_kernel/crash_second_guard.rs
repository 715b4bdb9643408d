//! A run that is killed while it puts up or takes down the second guard: before, within and behind
//! each change of iptables, of which two kernels take turns (`kill::is_point`), as they do at the
//! backends (`kill::backends`). Its requests to the kernel are what `crashes` kills it at.

use crate::{
    crash_by_mark::{at_restores, lab_with_rules},
    crashes::{APPLY, DESTROY, finish},
    fixture::{A, B, D, Lab, Underlay},
    inject,
    iptables::{Backend, OUT},
    kill::{self, Restores},
    mesh_file::MeshFile,
    traffic::Flood,
    xfrm,
};

const BY_PORT: &str = "kind = \"vxlan\"";

/// Selected by port, with rules of others on host a, and what they are.
fn lab(backend: Backend) -> (Lab, String) {
    let (mut lab, rules) = lab_with_rules(backend);
    lab.mesh.traffic = BY_PORT;
    lab.write_all(&lab.mesh);
    (lab, rules)
}

/// Whether policies or rules are there that keep clear text on host a.
fn is_guarded(lab: &Lab, backend: Backend) -> bool {
    let host = lab.host(A);
    xfrm::has_guard(host, 4789) || backend.saved(host).contains(&format!("-A OUTPUT -j {OUT}"))
}

/// Fails unless the mesh works with both guards, and rules of others are as they were.
fn is_well(lab: &Lab, backend: Backend, rules: &str) {
    lab.write_all(&lab.mesh);
    lab.apply_all();
    lab.has_converged(A);
    assert_eq!(lab.plan(A)["second_guard_missing"], serde_json::json!([]));
    lab.reaches(A, B);
    finish(lab, DESTROY);
    assert_eq!(backend.saved(lab.host(A)), rules, "rules of others were touched");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_first_apply_or_a_destroy_killed_at_the_second_guard_lets_nothing_out_once_there_is_a_guard() {
    for backend in kill::backends() {
        let (mut lab, rules) = lab(backend);
        let restores = Restores::new(&lab, backend);
        // Four chains are made, and four are set; four go.
        for (words, before, least) in [(APPLY, DESTROY, 4), (DESTROY, APPLY, 2)] {
            let capture = lab.capture();
            let mut guarded = 0;
            let goal = |lab: &mut Lab| finish(lab, before);
            let kills = at_restores(2, &mut lab, &restores, words, &goal, &mut |lab| {
                if is_guarded(lab, backend) {
                    guarded += 1;
                    inject::try_send(lab, lab.host(A), &lab.address(A), B);
                }
            });
            capture.stop().is_closed();
            println!("{backend:?} {words:?}: {kills} kills, {guarded} guarded");
            assert!(kills >= least, "{kills} kills at iptables-restore, wanted {least}");
            assert!(guarded >= 2, "{guarded} runs were killed while there was a guard");
        }
        is_well(&lab, backend, &rules);
    }
}

/// From policies alone to both guards and back, while both hosts send.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_while_the_second_guard_comes_or_goes_lets_nothing_out() {
    for backend in kill::backends() {
        let (mut lab, rules) = lab(backend);
        let restores = Restores::new(&lab, backend);
        let both = lab.mesh.clone();
        let alone = MeshFile { guard: "\"xfrm\"", ..lab.mesh.clone() };
        lab.apply_all();
        let capture = lab.capture();
        let floods = [Flood::start(&lab, A, B), Flood::start(&lab, B, A)];
        for (from, to, least) in [(&alone, &both, 4), (&both, &alone, 2)] {
            let goal = |lab: &mut Lab| {
                lab.write(A, from);
                finish(lab, APPLY);
                lab.write(A, to);
            };
            let kills = at_restores(2, &mut lab, &restores, APPLY, &goal, &mut |lab| {
                inject::try_send(lab, lab.host(A), &lab.address(A), B);
            });
            lab.has_converged(A);
            println!("{backend:?}: {kills} kills");
            assert!(kills >= least, "{kills} kills at iptables-restore, wanted {least}");
        }
        drop(floods);
        capture.stop().has_only_esp(50);
        is_well(&lab, backend, &rules);
    }
}

/// A run that was killed when it had put up a part of the rules: what they drop stays dropped once
/// all policies are gone, and the next apply puts up the rest.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn policies_flushed_after_a_crash_open_nothing_that_rules_guard_and_the_next_apply_heals() {
    let backend = Backend::Nft;
    let mut lab = Lab::over(&[Underlay::V4; 4]);
    backend.is_the_systems(&mut lab);
    lab.write_all(&lab.mesh.of_peers(&[A, B]));
    lab.apply(B);
    let restores = Restores::new(&lab, backend);
    // The chains are made in, out, in, out, or the other way round; then they are set.
    let mut outs = 0;
    for at in 5..=8 {
        let (_, killed) = restores.run(&mut lab, APPLY, at, crate::kill::Restore::Done);
        assert!(killed, "there are fewer than {at} changes of iptables");
        lab.host(A).ip("xfrm policy flush");
        if backend.saved(lab.host(A)).contains(&format!("-A OUTPUT -j {OUT}")) {
            outs += 1;
            let capture = lab.capture();
            for to in [B, D] {
                assert_eq!(inject::try_send(&lab, lab.host(A), &lab.address(A), to), 0);
            }
            capture.stop().is_closed();
        }
        lab.apply(A);
        lab.has_converged(A);
        lab.reaches(A, B);
        finish(&lab, DESTROY);
    }
    assert!(outs >= 1, "no run was killed when it had put up rules");
}
