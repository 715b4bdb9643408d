//! The small world of one pair, enumerated: every state of a host's parts, every event on the way, both
//! hosts at once.
//!
//! docs/verification.md says what is modelled and what is not. `cargo test` looks at a small set of
//! worlds; `cargo xtask enumerate` at all of them, which `MESHSEC_WORLDS=all` asks for.

#[path = "../common/mod.rs"]
mod common;
mod edits;
mod files;
mod judge;
#[path = "../packets/mod.rs"]
mod packets;
mod pairs;
mod report;
mod reverts;
mod starts;
mod watched;
mod worlds;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use files::{At, Kind, kinds, kinds_of_both_families};
use judge::Property;
use meshsec::model::Stage;
use report::Tally;
use starts::{GENERATION, Host, Start};
use watched::{Disturbance, Event};
use worlds::{Beginning, Cast, Scene, World, applied};

/// A part of the work that one thread does.
type Job = Box<dyn Fn(&mut Tally) + Send + Sync>;

/// The stages, the one before the first among them.
const STAGES: [Option<Stage>; 4] =
    [None, Some(Stage::Receive), Some(Stage::Send), Some(Stage::Enforce)];

/// The files that hosts come from: each stage, and at the last one the generations around.
fn files() -> Vec<At> {
    let generations = [GENERATION - 1, GENERATION + 1, GENERATION + 2];
    let around = generations.map(|generation| At::new(Some(Stage::Enforce), generation));
    STAGES.map(|stage| At::new(stage, GENERATION)).into_iter().chain(around).collect()
}

/// The worlds of one host in any state that no apply has left so. Nothing happens on the way: a crash
/// leads to a state that is another beginning, and foreign objects are in the beginning already.
fn of_parts(kind: Kind, goal: At, chosen: fn(&Start) -> bool) -> Job {
    Box::new(move |tally| {
        let cast = Cast::new(kind);
        let scene = Scene::new(&cast, goal);
        for start in Start::all(kind).into_iter().filter(chosen) {
            let world = World { beginning: Beginning::Parts(start), goal, disturbance: None };
            scene.run(start.host(&cast), &world, tally);
        }
    })
}

/// The worlds of one host that an apply has left as it is: each event at each request of the next.
fn of_events(kind: Kind, from: At, goal: At) -> Job {
    Box::new(move |tally| {
        let cast = Cast::new(kind);
        let scene = Scene::new(&cast, goal);
        let begin = applied(kind, false, from);
        let host = || {
            let foreign = cast.bystanders.clone();
            let mut kernel = begin.clone();
            kernel.state_mut().sas.extend(foreign.sas.iter().cloned());
            kernel.state_mut().policies.extend(foreign.policies.iter().cloned());
            Host { kernel, foreign }
        };
        let calm = World { beginning: Beginning::Applied(from), goal, disturbance: None };
        let requests = scene.run(host(), &calm, tally);
        for event in Event::ALL {
            for before in 0..requests {
                let disturbance = Some(Disturbance { event, before });
                scene.run(host(), &World { disturbance, ..calm }, tally);
            }
        }
    })
}

/// Moves of a pair that lose no packet: to the stage or the generation next to it, or to both.
fn moves() -> Vec<(At, At)> {
    let generations = [GENERATION, GENERATION + 1];
    let all: Vec<At> = STAGES
        .into_iter()
        .flat_map(|stage| generations.map(|generation| At::new(stage, generation)))
        .collect();
    let pairs = all.iter().flat_map(|from| all.iter().map(|to| (*from, *to)));
    let is_move = |from: &At, to: &At| from != to && from.stage.or(to.stage).is_some();
    pairs.filter(|(from, to)| is_move(from, to) && from.is_next_to(*to)).collect()
}

/// The small set: what `cargo test` looks at.
fn small() -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let goal = At::new(Some(Stage::Enforce), GENERATION);
    let chosen = ["vxlan", "vxlan by mark", "vxlan, guard xfrm", "vxlan, no guard", "all"];
    for kind in kinds().into_iter().filter(|kind| chosen.contains(&kind.name)) {
        jobs.push(of_parts(kind, goal, |start| start.oddities() <= 2));
        for stage in &STAGES[..3] {
            jobs.push(of_parts(kind, At::new(*stage, GENERATION), |start| start.oddities() <= 1));
        }
        let nothing = At::new(None, GENERATION);
        jobs.push(of_events(kind, nothing, goal));
        jobs.push(of_events(kind, goal, nothing));
        for (from, to) in moves() {
            let (next, now) = (GENERATION + 1, GENERATION);
            if (from.generation, to.generation) == (now, next) && from.stage == to.stage {
                jobs.push(of_events(kind, from, to));
                jobs.push(Box::new(move |tally| pairs::judge(kind, from, to, tally)));
            }
            if (from.generation, to.generation) == (now, now) && from.stage != to.stage {
                jobs.push(of_events(kind, from, to));
                jobs.push(Box::new(move |tally| pairs::judge(kind, from, to, tally)));
                jobs.push(Box::new(move |tally| reverts::judge(kind, from, to, tally)));
            }
        }
    }
    jobs
}

/// All worlds.
fn all() -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    // In every state of its parts Geneve is VXLAN with another port.
    for kind in kinds().into_iter().filter(|kind| kind.name != "geneve") {
        for stage in STAGES {
            let goal = At::new(stage, GENERATION);
            jobs.push(of_parts(kind, goal, |_| true));
        }
    }
    for kind in kinds_of_both_families() {
        for from in files() {
            for to in files().into_iter().filter(|to| *to != from) {
                jobs.push(of_events(kind, from, to));
                jobs.push(Box::new(move |tally| reverts::judge(kind, from, to, tally)));
            }
        }
        for (from, to) in moves() {
            jobs.push(Box::new(move |tally| pairs::judge(kind, from, to, tally)));
        }
    }
    jobs
}

/// Does all jobs, on all cores.
fn enumerate(jobs: &[Job]) -> Tally {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut tally = Tally::default();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            job(&mut tally);
        }
        tally
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut all = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| all.merge(worker.join().expect("a worker")));
    });
    all
}

#[test]
fn every_world_is_safe() {
    let everything = std::env::var("MESHSEC_WORLDS").is_ok_and(|worlds| worlds == "all");
    let begin = Instant::now();
    let tally = enumerate(&if everything { all() } else { small() });
    println!("{}", tally.report(begin.elapsed()));
    assert!(!tally.has_failed(), "a property does not hold: see above");
}

/// Rules that are broken on purpose (`cargo xtask enumerate --broken`) are still in the source, and
/// each names a property that there is.
#[test]
fn every_break_still_applies_and_names_its_property() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let breaks = edits::all(root).unwrap();
    assert!(breaks.len() >= 10, "{}", breaks.len());
    let names: BTreeSet<&str> = Property::ALL.iter().map(|property| property.name()).collect();
    let page = std::fs::read_to_string(root.join("docs/verification.md")).unwrap();
    for one in &breaks {
        assert!(names.contains(&*one.property), "{}: no property {}", one.name, one.property);
        let row = format!("| `{}` | {} | `{}` |", one.name, one.why, one.property);
        assert!(page.contains(&row), "docs/verification.md has no row:\n{row}");
        for edit in &one.edits {
            let text = std::fs::read_to_string(root.join(&edit.path)).unwrap();
            edit.apply(&text).unwrap_or_else(|what| panic!("{}: {what}", one.name));
        }
    }
    for property in Property::ALL {
        let row = format!("| `{}` | {} |", property.name(), property.sentence());
        assert!(page.contains(&row), "docs/verification.md has no row:\n{row}");
    }
}
