//! Reverting an apply in a mesh with generations by the clock.

use super::*;

/// A file by the clock, and a host on which it was applied in generation 1000.
fn by_the_clock() -> (Config, Memory, Period) {
    let period = Period::new(600).unwrap();
    let esp = Esp { replay: Replay { window: 64, esn: true }, ..lab(1).esp };
    let clock = Config { rotation: Rotation::Period(period), esp, ..lab(1) };
    let mut kernel = host(&clock);
    kernel.set_now(Time::from_seconds(600 * 1000 + 10));
    assert!(applied(&clock, &mut kernel).is_complete());
    (clock, kernel, period)
}

#[test]
fn what_comes_back_is_of_the_generation_of_now() {
    let (clock, mut kernel, _) = by_the_clock();
    let begin = kernel.now();
    let live = observe(&mut kernel);
    // Another kind of traffic, under the same keys.
    let to = Config { traffic: Traffic::Vxlan { port: 8472 }, ..clock.clone() };
    let then = wanted_at(&to, begin);
    let plan = Plan::new(&then.0, &live, REQID);
    let (mut back, mut keyring) = way_back(&live, wanted_at(&clock, begin).1, &plan, &then.0);
    perform(&mut kernel, &then.0, &then.1);
    // Two periods later all that was held outbound has ended.
    let later = Time::from_seconds(600 * 1002 + 10);
    kernel.set_now(later);
    forget_ended(&mut back, later);
    follow_the_clock(&mut back, &mut keyring, &then.0, &wanted_at(&to, later));
    let report = go_back(&mut kernel, &back, &keyring);
    assert!(report.is_restored(), "{:?}", report.unlike);
    // All that a first apply of the old file would set up now, and no SA that peers don't take.
    let plan = Plan::new(&wanted_at(&clock, later).0, &observe(&mut kernel), REQID);
    assert!(plan.is_empty(), "{} changes", plan.changes.len());
    let flow = flow_out(&observe(&mut kernel).0, &packet(PEERS[1]));
    let spi = Spi::new(
        meshsec::model::Generation::new(1002).unwrap(),
        lab(1).peers[0].short_id,
        lab(1).peers[1].short_id,
    );
    assert_eq!(flow, Flow::Protected(spi));
}

/// A period ends while an apply of another stage waits for its confirmation.
#[test]
fn a_revert_of_a_stage_follows_the_clock() {
    use Stage::{Enforce, Receive, Send};
    let (clock, ..) = by_the_clock();
    let later = Time::from_seconds(600 * 1001 + 10);
    for (from, to) in [(Enforce, Receive), (Send, Receive), (Receive, Send), (Receive, Enforce)] {
        let [before, after] = [from, to].map(|stage| Config { stage, ..clock.clone() });
        let mut kernel = host(&before);
        kernel.set_now(Time::from_seconds(600 * 1000 + 300));
        assert!(applied(&before, &mut kernel).is_complete());
        let (begin, live) = (kernel.now(), observe(&mut kernel));
        let then = wanted_at(&after, begin);
        let plan = Plan::new(&then.0, &live, REQID);
        let (mut back, mut keyring) = way_back(&live, wanted_at(&before, begin).1, &plan, &then.0);
        perform(&mut kernel, &then.0, &then.1);
        kernel.set_now(later);
        follow_the_clock(&mut back, &mut keyring, &then.0, &wanted_at(&after.enforced(), later));
        forget_ended(&mut back, later);
        let report = go_back(&mut kernel, &back, &keyring);
        assert!(report.is_restored(), "{from} to {to}: {:?}", report.unlike);
        let flow = flow_out(&observe(&mut kernel).0, &packet(PEERS[1]));
        assert_eq!(matches!(flow, Flow::Protected(_)), from.sends(), "{from} to {to}: {flow}");
        let plan = Plan::new(&wanted_at(&before, later).0, &observe(&mut kernel), REQID);
        assert!(plan.is_empty(), "{from} to {to}: {} changes", plan.changes.len());
    }
}

#[test]
fn what_was_held_under_other_keys_stays_as_it_was() {
    let (clock, mut kernel, _) = by_the_clock();
    let begin = kernel.now();
    let live = observe(&mut kernel);
    let esp = Esp { cipher: Cipher::Aes128Gcm, ..clock.esp.clone() };
    let to = Config { esp, ..clock.clone() };
    let then = wanted_at(&to, begin);
    let plan = Plan::new(&then.0, &live, REQID);
    let (mut back, mut keyring) = way_back(&live, wanted_at(&clock, begin).1, &plan, &then.0);
    let before: Vec<SaId> = back.sas.keys().copied().collect();
    let later = Time::from_seconds(600 * 1001 + 10);
    follow_the_clock(&mut back, &mut keyring, &then.0, &wanted_at(&to, later));
    assert!(back.sas.keys().copied().eq(before));
}
