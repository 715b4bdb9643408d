//! Documents with every part that they can have, made in memory.

use std::{collections::BTreeSet, fs, path::Path};

use meshsec::{
    apply::Report,
    config::{Config, Esp, Guard, Rotation},
    kernel::{Errno, memory::Memory},
    model::{Action, Bypass, Direction, Link, Period, Policy, PolicyId, Replay, Selector, Time},
    render::{
        ConfirmationOutcome, JsonSnapshot, NO_OUTCOMES, RatchetAdvance, ShowView, Subject, View,
        plan_json, report_json, show_json,
    },
};
use serde::Serialize;
use serde_json::Value;

use crate::common::{applied, applied_host, host, mesh, observe, plan};

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

/// The content of a file of JSON.
pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The documents, each with the name of its schema.
pub fn documents() -> Vec<(&'static str, Value)> {
    let mut documents = vec![
        ("plan", of_plan(&mesh(1, &LAB), &mut host(&mesh(1, &LAB)))),
        ("plan", of_plan(&by_the_clock(), &mut on_time(&by_the_clock()))),
        ("show", of_show(&mesh(1, &LAB), &mut with_foreign_objects(), true)),
        ("show", of_show(&by_the_clock(), &mut on_time(&by_the_clock()), false)),
        ("snapshot", of_snapshot(&mut with_foreign_objects())),
    ];
    documents.extend(reports().into_iter().map(|report| ("report", report)));
    documents.push(("status", read(&super::root().join("tests/status/much-is-wrong.json"))));
    documents
}

fn json(document: &impl Serialize) -> Value {
    serde_json::to_value(document).unwrap()
}

fn by_the_clock() -> Config {
    let replay = Replay { window: 1024, esn: true };
    let esp = Esp { replay, ..mesh(1, &LAB).esp };
    Config { rotation: Rotation::Period(Period::new(3600).unwrap()), esp, ..mesh(1, &LAB) }
}

fn on_time(config: &Config) -> Memory {
    let mut kernel = host(config);
    kernel.set_now(Time::from_seconds(1_768_570_200));
    assert!(applied(config, &mut kernel).is_complete());
    kernel
}

/// With a foreign policy that outranks those of b, a sysctl in the way, and policies of sockets.
fn with_foreign_objects() -> Memory {
    let mut kernel = applied_host(&mesh(1, &LAB));
    let [a, b] = [LAB[0], LAB[1]].map(|address| address.parse().unwrap());
    let policy = |direction| Policy {
        id: PolicyId::new(direction, Selector::hosts(a, b)),
        priority: 5,
        action: Action::Allow,
        index: None,
        templates: Vec::new(),
        extras: BTreeSet::new(),
    };
    let state = kernel.state_mut();
    state.policies.push(policy(Direction::Out));
    state.socket_policies.push(policy(Direction::Out));
    state.links.push(Link {
        name: "lo".into(),
        mtu: 65536,
        kind: Some("loopback".into()),
        queue: None,
    });
    state.bypasses.push(Bypass { device: "lo".into(), ipv6: false, name: "disable_xfrm".into() });
    kernel
}

fn view<'a>(config: &'a Config, kernel: &Memory, plan: &'a meshsec::plan::Plan) -> View<'a> {
    let moment = config.rotation.at(kernel.now());
    let local = Some(&config.peers[0]);
    let subject = Subject::File { config, moment };
    View { subject, local, plan, warnings: &[], outcomes: &NO_OUTCOMES, file: "mesh.toml" }
}

fn of_plan(config: &Config, kernel: &mut Memory) -> Value {
    let plan = plan(config, kernel);
    json(&plan_json(&view(config, kernel, &plan)))
}

fn of_show(config: &Config, kernel: &mut Memory, all: bool) -> Value {
    let (moment, local) = (config.rotation.at(kernel.now()), Some(&config.peers[0]));
    let live = observe(kernel);
    let subject = Subject::File { config, moment };
    json(&show_json(&ShowView { subject, local, live: &live, all }))
}

fn of_snapshot(kernel: &mut Memory) -> Value {
    json(&JsonSnapshot {
        format_version: meshsec::render::FORMAT_VERSION.into(),
        taken: 0,
        mesh: "lab".into(),
        local: Some("a".into()),
        state: observe(kernel).0,
    })
}

/// A report of an apply on a host with a mesh of generation 1.
fn applied_report(
    kernel: &mut Memory,
    advance: Option<RatchetAdvance>,
    outcome: impl FnOnce() -> Option<ConfirmationOutcome>,
) -> Value {
    let config = next();
    let plan = plan(&config, kernel);
    let report = applied(&config, kernel);
    json(&report_json(&view(&config, kernel, &plan), &report, advance.as_ref(), outcome().as_ref()))
}

fn next() -> Config {
    Config { guard: Guard::Policies, ..mesh(2, &LAB) }
}

/// A host on which a request of the next apply fails.
fn failing(request: usize) -> Memory {
    let mut kernel = applied_host(&Config { guard: Guard::Policies, ..mesh(1, &LAB) });
    kernel.refuse(request, Errno(12));
    kernel
}

/// The report of a revert that has failed.
fn reverted() -> Option<ConfirmationOutcome> {
    let report = applied(&next(), &mut failing(7));
    let unlike = Some(vec!["policy dir out".into()]);
    Some(ConfirmationOutcome { word: "time_up", report: Some(Report { unlike, ..report }) })
}

fn reports() -> Vec<Value> {
    let turned = || Some(RatchetAdvance { before: Some(1), after: Some(2), error: None });
    let stays = RatchetAdvance { before: None, after: None, error: Some("it is torn".into()) };
    let confirmed = || Some(ConfirmationOutcome { word: "confirmed", report: None });
    let mut kernel = applied_host(&mesh(1, &LAB));
    let reports = vec![
        applied_report(&mut kernel, turned(), || None),
        applied_report(&mut with_foreign_objects(), Some(stays), confirmed),
        applied_report(&mut failing(7), None, reverted),
        applied_report(&mut failing(0), None, || None),
    ];
    for part in ["failed", "left", "undone", "traffic", "stopped", "conflicts"] {
        let empty = |report: &Value| match &report[part] {
            Value::Array(list) => list.is_empty(),
            Value::Object(members) => members.is_empty(),
            other => other.is_null(),
        };
        assert!(!reports.iter().all(empty), "no report has {part}");
    }
    reports
}
