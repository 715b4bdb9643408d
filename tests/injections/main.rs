//! Any failure, anywhere: nothing leaks, the report is right, the next apply converges.
//!
//! Every request of every scenario is refused, with every errno; every answer
//! is lost, after any number of its steps; every look fails. Then several at once.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod faulty;
#[path = "../packets/mod.rs"]
mod packets;
mod reports;
mod scenarios;

use faulty::{Faults, Faulty};
use proptest::{prelude::*, test_runner::RngSeed};
use reports::check;
use scenarios::{Scenario, scenarios};

/// EPERM, ENOENT, ESRCH, EINTR, EAGAIN, ENOMEM, EBUSY, EEXIST, ENODEV, EINVAL,
/// ENOSPC, ENOSYS, EPROTONOSUPPORT, EOPNOTSUPP, ENOBUFS.
const ERRNOS: [i32; 15] = [1, 2, 3, 4, 11, 12, 16, 17, 19, 22, 28, 38, 93, 95, 105];

/// Applies with faults, and judges the result.
fn run(scenario: &Scenario, faults: &Faults) -> Faulty {
    check(scenario, faults).unwrap_or_else(|error| panic!("{}, {faults:?}: {error}", scenario.name))
}

#[test]
fn any_request_may_be_refused_with_any_errno() {
    for scenario in scenarios() {
        let all = run(&scenario, &Faults::default()).requests;
        for request in 0..all {
            for errno in ERRNOS {
                run(&scenario, &Faults::refuse(request, errno));
            }
        }
    }
}

#[test]
fn any_answer_may_be_lost_after_any_number_of_steps() {
    for scenario in scenarios() {
        let calls = run(&scenario, &Faults::default()).calls;
        for (call, length) in calls.into_iter().enumerate() {
            for performed in 0..=length {
                run(&scenario, &Faults::lose(call, performed));
            }
        }
    }
}

#[test]
fn any_look_may_fail_by_itself_and_after_any_refusal_or_loss() {
    for scenario in scenarios() {
        let dry = run(&scenario, &Faults::default());
        let refused = (0..dry.requests).map(|request| Faults::refuse(request, 12));
        let lost = (0..dry.calls.len()).map(|call| Faults::lose(call, dry.calls[call] / 2));
        for faults in refused.chain(lost).chain([Faults::default()]) {
            for look in 0..run(&scenario, &faults).looks {
                for cut in [true, false] {
                    run(&scenario, &faults.clone().and_blind(look, cut));
                }
            }
        }
    }
}

#[test]
fn answers_that_are_always_lost_leave_nothing_open() {
    for scenario in scenarios() {
        for performed in [0, 1, usize::MAX] {
            let lost = (0..100).map(|call| (call, performed)).collect();
            run(&scenario, &Faults { lost, ..Faults::default() });
        }
    }
}

fn several() -> impl Strategy<Value = Faults> {
    let refused = proptest::collection::btree_map(0..60usize, 1..120i32, 0..4);
    let lost = proptest::collection::btree_map(0..14usize, 0..12usize, 0..3);
    let blind = proptest::collection::btree_map(0..4usize, any::<bool>(), 0..2);
    (refused, lost, blind).prop_map(|(refused, lost, blind)| Faults { refused, lost, blind })
}

fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|number| number.parse().ok());
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(5) };
    let cases = asked.unwrap_or(500);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn several_things_may_fail_in_one_run(faults in several()) {
        for scenario in scenarios() {
            let judged = check(&scenario, &faults);
            prop_assert!(judged.is_ok(), "{}: {}", scenario.name, judged.err().unwrap());
        }
    }
}
