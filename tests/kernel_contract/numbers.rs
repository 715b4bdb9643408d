//! Sequence numbers and lifetimes.

use std::sync::Arc;

use meshsec::{
    kernel::KernelError,
    model::{Cipher, ErrorCode, Key, KeyView, Period, Replay, Sa, Start, Time, Usage},
    plan::{SaStep, StepKind},
};

use crate::{
    bench::Bench,
    suite::{key, sa},
};

const ESN: Replay = Replay { window: 64, esn: true };
/// How much further an outbound SA goes on than the one that it replaces.
const AHEAD: u64 = 1 << 20;

fn with_esn() -> (Sa, Arc<Key>) {
    let (sa, key) = sa(Cipher::Aes256Gcm, false, 0x8000_0001);
    (Sa { replay: ESN, ..sa }, key)
}

/// A day is long enough for no test to run over its end, but for one in a million.
fn seeded(now: Time) -> (Period, Start) {
    let period = Period::new(Period::MAX).expect("a day");
    (period, Start::Seed { generation: period.generation(now), period })
}

fn usage(bench: &mut dyn Bench) -> Usage {
    bench.look().0.usage[0]
}

pub fn an_sa_begins_at_the_seed_of_the_moment(bench: &mut dyn Bench) {
    let before = bench.now();
    let (period, start) = seeded(before);
    let generation = period.generation(before);
    let (sa, key) = with_esn();
    bench.done(StepKind::Sa(SaStep::Add { sa, key, start }));
    let after = bench.now();
    let sent = usage(bench).sent;
    assert!(period.seed(generation, before).unwrap() <= sent);
    assert!(sent <= period.seed(generation, after).unwrap(), "{sent}");
    assert_eq!(usage(bench).received, 0);
}

pub fn a_clock_outside_of_the_generation_is_an_error(bench: &mut dyn Bench) {
    let now = bench.now();
    let (period, _) = seeded(now);
    let generation = period.generation(now);
    for other in [generation.previous().unwrap(), generation.next()] {
        let (sa, key) = with_esn();
        let start = Start::Seed { generation: other, period };
        for step in [
            StepKind::Sa(SaStep::Add { sa: sa.clone(), key: key.clone(), start }),
            StepKind::Sa(SaStep::Replace { sa, key, start }),
        ] {
            let answer = bench.one(step);
            let error: KernelError = answer.unwrap_err();
            assert_eq!(error.code(), ErrorCode::GenerationOver, "{error}");
        }
        assert_eq!(bench.look().0.sas, []);
    }
}

pub fn an_sa_that_is_replaced_under_its_key_goes_on(bench: &mut dyn Bench) {
    let (sa, key) = with_esn();
    let now = bench.now();
    let (_, start) = seeded(now);
    bench.done(StepKind::Sa(SaStep::Add { sa: sa.clone(), key: key.clone(), start }));
    let first = usage(bench).sent;
    // From something else to the selector that is wanted, with the same key.
    bench.done(StepKind::Sa(SaStep::Replace { sa: sa.clone(), key: key.clone(), start }));
    assert_eq!(usage(bench).sent, first + AHEAD);
    bench.done(StepKind::Sa(SaStep::Replace { sa, key, start: Start::Fresh }));
    assert_eq!(usage(bench).sent, first + 2 * AHEAD);
}

pub fn another_key_begins_anew(bench: &mut dyn Bench) {
    let (sa, old_key) = with_esn();
    let (_, start) = seeded(bench.now());
    bench.done(StepKind::Sa(SaStep::Add { sa: sa.clone(), key: old_key, start }));
    let key = key(Cipher::Aes256Gcm, 9);
    let sa = Sa { key: KeyView::Known(key.fingerprint()), ..sa };
    bench.done(StepKind::Sa(SaStep::Replace { sa, key, start: Start::Fresh }));
    assert_eq!(usage(bench).sent, 0);
}

pub fn numbers_go_on_where_the_window_is_turned_off(bench: &mut dyn Bench) {
    let (sa, key) = with_esn();
    let (_, start) = seeded(bench.now());
    bench.done(StepKind::Sa(SaStep::Add { sa: sa.clone(), key: key.clone(), start }));
    let first = usage(bench).sent;
    // A seed is below 2^31, so that the number fits 32 bits.
    let sa = Sa { replay: Replay { window: 0, esn: false }, ..sa };
    bench.done(StepKind::Sa(SaStep::Replace { sa, key, start: Start::Fresh }));
    assert_eq!(usage(bench).sent, first + AHEAD);
}

pub fn what_never_sent_has_nothing_to_go_on_from(bench: &mut dyn Bench) {
    let (sa, key) = with_esn();
    let sa = Sa { replay: Replay { window: 32, esn: false }, ..sa };
    bench.done(StepKind::Sa(SaStep::Add { sa: sa.clone(), key: key.clone(), start: Start::Fresh }));
    assert_eq!(usage(bench).sent, 0);
    for _ in 0..2 {
        bench.done(StepKind::Sa(SaStep::Replace {
            sa: sa.clone(),
            key: key.clone(),
            start: Start::Fresh,
        }));
    }
    assert_eq!(usage(bench).sent, 0);
}

pub fn an_sa_ends_when_it_should(bench: &mut dyn Bench) {
    let (sa, key) = with_esn();
    let now = bench.now();
    let ends = Some(Time::from_seconds(now.seconds() + 7200));
    let wanted = Sa { ends, ..sa };
    bench.done(StepKind::Sa(SaStep::Add { sa: wanted.clone(), key, start: Start::Fresh }));
    let found = bench.look().0.sas.remove(0);
    assert!(found.expires_like(&wanted), "{found:?}");
    assert_eq!(Sa { ends, ..found }, wanted);
    let later = Sa { ends: Some(Time::from_seconds(now.seconds() + 7210)), ..wanted.clone() };
    assert!(!later.expires_like(&wanted));
}

pub fn an_sa_that_would_have_ended_is_an_error(bench: &mut dyn Bench) {
    let (sa, key) = with_esn();
    let sa = Sa { ends: Some(bench.now()), ..sa };
    let answer = bench.one(StepKind::Sa(SaStep::Add { sa, key, start: Start::Fresh }));
    let error: KernelError = answer.unwrap_err();
    assert_eq!(error.code(), ErrorCode::GenerationOver, "{error}");
    assert_eq!(bench.look().0.sas, []);
}

pub fn only_ours_have_a_usage(bench: &mut dyn Bench) {
    let (sa, key) = with_esn();
    let foreign = Sa { reqid: crate::suite::FOREIGN, key: KeyView::Unknown, ..sa.clone() };
    bench.done(StepKind::Sa(SaStep::Add { sa: foreign, key, start: Start::Fresh }));
    let live = bench.look().0;
    assert_eq!((live.sas.len(), live.usage.len()), (1, 0));
}
