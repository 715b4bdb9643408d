//! Applies that nobody confirms: the host gets its former state back.

use meshsec::{
    apply::{Target, apply},
    kernel::Kernel,
    model::State,
    plan::Plan,
    restore::restore,
    revert::revert,
};

use crate::{
    common::{REQID, observe},
    files::{At, Kind},
    judge::{Judge, Property},
    report::{Failure, Tally},
    starts::Foreign,
    watched::{Disturbance, Event, Moment, Targets, Watched},
    worlds::{applied, objects},
};

/// The flushes that may happen while the program waits for its confirmation.
const MEANWHILE: [Option<Event>; 4] =
    [None, Some(Event::FlushSas), Some(Event::FlushPolicies), Some(Event::FlushChains)];

/// Goes from one file to another, with any one request refused or none, and back, with any flush in
/// between.
pub fn judge(kind: Kind, from: At, to: At, tally: &mut Tally) {
    let requests = there_and_back(kind, from, to, None, None, tally);
    for meanwhile in MEANWHILE {
        for refused in (0..requests).map(Some).chain([None]) {
            there_and_back(kind, from, to, refused, meanwhile, tally);
        }
    }
}

fn there_and_back(
    kind: Kind,
    from: At,
    to: At,
    refused: Option<usize>,
    meanwhile: Option<Event>,
    tally: &mut Tally,
) -> usize {
    tally.add(vec![("reverts", format!("of {to} to {from}"))]);
    tally.count(Property::Reverted);
    let mut kernel = applied(kind, false, from);
    let before = objects(kernel.state());
    let (desired, keyring) = kind.goal(false, to);
    let live = observe(&mut kernel);
    let plan = Plan::new(&desired, &live, REQID);
    let keys = kind.goal(false, from).1;
    let (back, keys) = restore(&live, keys, &plan, &desired, REQID)
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let targets = Targets::default();
    let mut log = Vec::new();
    let mut note = |_: &State, moment: &Moment<'_>, requests| {
        if let Moment::After(step) = moment {
            log.push(format!("{requests}. {} {}", step.kind.name(), step.kind.id()));
        }
    };
    let disturbance = refused.map(|before| Disturbance { event: Event::Refused, before });
    let mut watched = Watched::new(kernel, disturbance, &targets, &mut note);
    let target = Target { desired: &desired, keyring: &keyring, reqid: REQID };
    apply(&mut watched, &target, &plan, &mut |_| {});
    let (mut kernel, requests) = (watched.memory, watched.requests);
    if let Some(event) = meanwhile {
        event.flush(kernel.state_mut());
    }
    log.push(format!("-- meanwhile: {meanwhile:?}; the revert"));
    let mut judge = Judge::new(kind, from, Foreign::default(), kernel.state(), true);
    let mut look =
        |state: &State, moment: &Moment<'_>, requests| judge.look(state, moment, requests);
    let mut watched = Watched::new(kernel, None, &targets, &mut look);
    let target = Target { desired: &back, keyring: &keys, reqid: REQID };
    let report = revert(&mut watched, &target, &mut |_| {});
    let mut kernel = watched.memory;
    log.append(&mut judge.log);
    let after = objects(&kernel.observe(REQID).expect("a look").0);
    let what = match judge.finding {
        Some(finding) => Some(finding.what),
        None if !report.is_restored() => Some("the revert reports no success".into()),
        None if after != before => Some("the host is not as it was".into()),
        None => None,
    };
    if let Some(what) = what {
        let event = disturbance.map_or_else(|| "none".into(), |event| event.to_string());
        let world = format!("  mesh:    {kind}\n  from {from} to {to} and back, event: {event}\n");
        tally.fail(Failure::told(Property::Reverted, 0, world, &log, &what));
    }
    requests
}
