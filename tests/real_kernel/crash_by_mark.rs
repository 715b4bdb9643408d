//! A run that is killed around the programs of iptables that it starts.

use crate::{
    crashes::{APPLY, DESTROY, finish},
    fixture::{A, B, Lab, Underlay},
    inject,
    iptables::{BY_MARK, Backend, OUT},
    kill::{self, Restore, Restores},
    random::how_often,
    traffic::Flood,
};

const BY_PORT: &str = "kind = \"vxlan\"";
pub const OTHER_MARK: &str = "kind = \"vxlan\"\nselect = \"mark\"\nmark = \"0x1/0x3\"";

const WAYS: [Restore; 3] = [Restore::Undone, Restore::CutOff, Restore::Done];

/// Kills a run at every third `iptables-restore` that it starts, each time in another of the ways;
/// if `MESHSEC_KILLS` is given, at each and in all of them.
///
/// `goal` brings host a to where the run begins.
fn at_every_restore(
    lab: &mut Lab,
    restores: &Restores,
    words: &[&str],
    goal: &dyn Fn(&mut Lab),
    check: &mut dyn FnMut(&Lab),
) -> u32 {
    at_restores(3, lab, restores, words, goal, check)
}

/// The same at every so-manieth.
pub fn at_restores(
    step: usize,
    lab: &mut Lab,
    restores: &Restores,
    words: &[&str],
    goal: &dyn Fn(&mut Lab),
    check: &mut dyn FnMut(&Lab),
) -> u32 {
    let all = how_often("MESHSEC_KILLS", 0) > 0;
    let (step, ways) = if all { (1, WAYS.len()) } else { (step, 1) };
    let begin = 1 + u32::from(step > 1 && kill::is_point(0));
    let mut kills = 0;
    for (turn, at) in (begin..).step_by(step).enumerate() {
        for way in 0..ways {
            goal(lab);
            let how = WAYS[(turn + way) % WAYS.len()];
            if !restores.run(lab, words, at, how).1 {
                return kills;
            }
            kills += 1;
            check(lab);
            lab.meshsec(A, words).exits(0);
        }
    }
    kills
}

fn is_well(lab: &mut Lab, backend: Backend, rules: &str) {
    lab.mesh.traffic = BY_MARK;
    lab.write_all(&lab.mesh);
    lab.apply_all();
    lab.has_converged(A);
    lab.reaches(A, B);
    finish(lab, DESTROY);
    assert_eq!(backend.saved(lab.host(A)), rules, "rules of others were touched");
}

/// A lab selected by mark, with rules of others on host a, and what they are.
pub fn lab_with_rules(backend: Backend) -> (Lab, String) {
    let lab = backend.lab(&[Underlay::V4; 2]);
    let others = crate::iptables::rules_of_others(20);
    backend.restore(lab.host(A), Underlay::V4, &others);
    // Tables stay that were made for chains of ours, so that they are made before.
    for underlay in [Underlay::V4, Underlay::V6] {
        for table in ["filter", "mangle"] {
            backend.tables(lab.host(A), underlay, &format!("-t {table} -A FORWARD -j ACCEPT"));
        }
    }
    let rules = backend.saved(lab.host(A));
    (lab, rules)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_first_apply_by_mark_that_is_killed_at_an_iptables_lets_nothing_out_once_the_guard_is_there() {
    let backend = Backend::Nft;
    let (mut lab, rules) = lab_with_rules(backend);
    let restores = Restores::new(&lab, backend);
    let capture = lab.capture();
    let mut guarded = 0;
    let jump = format!("-A OUTPUT -j {OUT}");
    let kills =
        at_every_restore(&mut lab, &restores, APPLY, &|lab| finish(lab, DESTROY), &mut |lab| {
            if backend.saved(lab.host(A)).contains(&jump) {
                guarded += 1;
                inject::try_send(lab, lab.host(A), &lab.address(A), B);
            }
        });
    capture.stop().is_closed();
    is_well(&mut lab, backend, &rules);
    println!("{kills} kills, {guarded} guarded");
    // Six chains are made, and six are set.
    assert!(kills >= 4, "{kills} kills at iptables-restore, wanted 4");
    assert!(guarded >= 1, "{guarded} runs were killed while there was a guard");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_killed_at_an_iptables_while_the_selection_changes_lets_nothing_out() {
    for (backend, selections) in [
        (Backend::Nft, [BY_PORT, BY_MARK]),
        (Backend::Nft, [BY_MARK, BY_PORT]),
        (Backend::Legacy, [BY_MARK, OTHER_MARK]),
    ] {
        let (mut lab, rules) = lab_with_rules(backend);
        let restores = Restores::new(&lab, backend);
        let [from, to] = selections;
        let select = |lab: &mut Lab, traffic| {
            lab.mesh.traffic = traffic;
            lab.write(A, &lab.mesh);
        };
        select(&mut lab, from);
        lab.apply_all();
        let capture = lab.capture();
        let floods = [Flood::start(&lab, A, B), Flood::start(&lab, B, A)];
        let kills = at_every_restore(
            &mut lab,
            &restores,
            APPLY,
            &|lab| {
                select(lab, from);
                finish(lab, APPLY);
                select(lab, to);
            },
            &mut |lab| {
                inject::try_send(lab, lab.host(A), &lab.address(A), B);
            },
        );
        drop(floods);
        capture.stop().has_only_esp(50);
        is_well(&mut lab, backend, &rules);
        println!("{backend:?}: {kills} kills");
        assert!(kills >= 1, "{kills} kills at iptables-restore");
    }
}
