//! Two hosts at once: either stands anywhere in its run, or in any run after one that was cut short.

use meshsec::{
    apply::{Target, apply},
    kernel::memory::Memory,
    model::State,
    plan::Plan,
};

use crate::{
    common::{REQID, observe},
    files::{At, Kind},
    judge::{Property, told},
    packets::delivery::gets_through,
    report::{Failure, Tally},
    watched::{Disturbance, Event, Moment, Targets, Watched},
    worlds::{applied, objects},
};

/// A state of a host on its way, and the requests that have led there.
struct Reached {
    state: State,
    history: Vec<String>,
}

/// All states of a host between two files: after any number of requests of a run, and of runs that go
/// on after any crash. An answer that got lost leads to another look and another plan, as a crash does.
/// Beside these, all states of first runs in which one request was refused.
fn reached(kind: Kind, second: bool, from: At, to: At) -> Vec<Reached> {
    let (desired, keyring) = kind.goal(second, to);
    let target = Target { desired: &desired, keyring: &keyring, reqid: REQID };
    let begin = applied(kind, second, from).state().clone();
    let mut all = vec![Reached { state: objects(&begin), history: Vec::new() }];
    let run = |all: &mut Vec<Reached>, from: usize, refused: Option<usize>| {
        let mut history = all[from].history.clone();
        history.extend((from > 0).then(|| "-- a crash, and the next run".into()));
        let mut kernel = Memory::holding(all[from].state.clone());
        let plan = Plan::new(&desired, &observe(&mut kernel), REQID);
        let mut look = |state: &State, moment: &Moment<'_>, _| {
            if let Moment::After(step) = moment {
                history.push(format!("{} {}", step.kind.name(), step.kind.id()));
            }
            let state = objects(state);
            if all.iter().all(|reached| reached.state != state) {
                all.push(Reached { state, history: history.clone() });
            }
        };
        let disturbance = refused.map(|before| Disturbance { event: Event::Refused, before });
        let targets = Targets::default();
        let mut watched = Watched::new(kernel, disturbance, &targets, &mut look);
        apply(&mut watched, &target, &plan, &mut |_| {});
        watched.requests
    };
    let requests = run(&mut all, 0, None);
    let mut next = 1;
    while next < all.len() {
        run(&mut all, next, None);
        next += 1;
    }
    for refused in 0..requests {
        run(&mut all, 0, Some(refused));
    }
    all
}

/// Both hosts go from one file to another, and no packet is lost wherever they stand.
pub fn judge(kind: Kind, from: At, to: At, tally: &mut Tally) {
    let [first, second] = [false, true].map(|second| reached(kind, second, from, to));
    for one in &first {
        for other in &second {
            tally.add(vec![("two hosts", format!("from {from} to {to}"))]);
            tally.count(Property::NothingLost);
            for (is_back, a, b) in [(false, one, other), (true, other, one)] {
                let mut packets = kind.packets(is_back).into_iter();
                let lost = packets.find(|packet| !gets_through(&a.state, &b.state, packet));
                if let Some(packet) = lost {
                    let what = format!("{} is lost", told(&packet));
                    tally.fail(failure(kind, from, to, [one, other], &what));
                    break;
                }
            }
        }
    }
}

fn failure(kind: Kind, from: At, to: At, hosts: [&Reached; 2], what: &str) -> Failure {
    let world = format!("  mesh:    {kind}\n  both:    from {from} to {to}\n");
    let named = ["the first host", "the second host"].iter().zip(hosts);
    let log: Vec<String> = named
        .flat_map(|(name, host)| [&[format!("{name}:")][..], &host.history].concat())
        .collect();
    Failure::told(Property::NothingLost, 0, world, &log, what)
}
