//! `plan --all`: plans for every host of the mesh, on any machine, and checks that all pairs agree.
//!
//! Hosts are worked out a few at a time, one on each processor, and only a line of each is kept.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZero,
    ops::Range,
    path::{Path, PathBuf},
    thread,
};

use super::{
    Status, live, moment,
    prepared::{Prepared, prepare_for},
    print, print_json,
};
use crate::{
    agreement::{Disagreement, Ends, Row, difference},
    cli::{Format, Global, PlanArgs},
    config::{self, Config, Loaded, Moment, Peer, Secrets, SecretsMode},
    desired::{desired, of_pair},
    error::Error,
    model::{ErrorCode, Live, LocalAddress, PeerName, State},
    plan::Plan,
    privilege::Files,
    render::{HostPlan, PlanAllView, plan_all_json, plan_all_text},
};

/// The largest mesh with whole plans: that takes seconds. Of a larger one each host's objects are
/// counted, which an empty host lacks all, and their warnings are left out.
const LARGE: usize = 400;

/// Exits with 1 where a host has a conflict or no snapshot, or a pair does not agree.
pub(super) fn run(global: &Global, args: &PlanArgs) -> Result<Status, Error> {
    check_options(global, args)?;
    // No empty host has a key to compare, so none is derived.
    let (secrets, later) = match args.live() {
        "empty" => (SecretsMode::LeftOut, Files::Neither),
        _ => (SecretsMode::Optional, Files::Reads),
    };
    let loaded = super::load(global, secrets, later)?;
    let now = moment::now(&loaded.config)?;
    let all = match args.live() {
        "empty" => from_empty(loaded, now),
        folder => from_snapshots(loaded, now, Path::new(folder))?,
    };
    let view = all.view(now);
    match global.format {
        Format::Text | Format::Prometheus => print(&plan_all_text(&view))?,
        Format::Json => print_json(&plan_all_json(&view))?,
    }
    Ok(match &view {
        view if view.is_refused() => Status::Error,
        view if view.has_changes() && args.detailed_exitcode => Status::Pending,
        _ => Status::Done,
    })
}

fn check_options(global: &Global, args: &PlanArgs) -> Result<(), Error> {
    let refused = |text: &str| Err(Error::request(ErrorCode::OptionsDisagree, text));
    match (args.live(), &global.local) {
        ("kernel", _) => refused(
            "--all plans for hosts other than this one, and --live kernel is this one; leave it out, \
             or name a folder of snapshots",
        ),
        (_, Some(_)) => refused("--all plans for every peer, and --local names one; leave it out"),
        (_, None) => Ok(()),
    }
}

/// All plans, and all pairs.
struct All {
    loaded: Loaded,
    hosts: Vec<HostPlan>,
    missing: Vec<PeerName>,
    ignored: usize,
    ends: Ends,
    disagreements: Vec<Disagreement>,
    from_snapshots: bool,
}

impl All {
    fn view(&self, moment: Moment) -> PlanAllView<'_> {
        PlanAllView {
            config: &self.loaded.config,
            moment,
            hosts: &self.hosts,
            missing: &self.missing,
            ignored: self.ignored,
            warnings_left_out: !self.from_snapshots && self.hosts.len() > LARGE,
            pairs: self.ends.pairs,
            unfit: self.ends.unfit,
            disagreements: &self.disagreements,
            warnings: &self.loaded.warnings,
            from_snapshots: self.from_snapshots,
        }
    }
}

fn from_empty(loaded: Loaded, now: Moment) -> All {
    let config = &loaded.config;
    let ends = all_ends(config, now);
    let mut hosts = Vec::new();
    let line = |place: usize| match config.peers.len() {
        0..=LARGE => planned_from_empty(config, now, &config.peers[place]),
        _ => {
            let objects = ends.objects(config, now, place);
            HostPlan::of_empty(&config.peers[place].name, objects, now.generation)
        }
    };
    in_turns(0..config.peers.len(), line, |host| hosts.push(host));
    let disagreements = in_words(config, &ends, now);
    All {
        loaded,
        hosts,
        missing: Vec::new(),
        ignored: 0,
        ends,
        disagreements,
        from_snapshots: false,
    }
}

fn planned_from_empty(config: &Config, now: Moment, peer: &Peer) -> HostPlan {
    let (desired, _) = desired(config, now, peer, None);
    let plan = Plan::new(&desired, &Live(empty(peer)), config.reqid);
    HostPlan::of(&peer.name, &plan, now.generation, None)
}

/// Both ends of all pairs.
fn all_ends(config: &Config, now: Moment) -> Ends {
    let mut ends = Ends::new(config.peers.len());
    in_turns(0..config.peers.len(), |place| Row::of(config, now, place), |row| ends.add(row));
    ends
}

fn from_snapshots(mut loaded: Loaded, now: Moment, folder: &Path) -> Result<All, Error> {
    // Each host has a private key of its own, and this machine at most one of them.
    if matches!(loaded.secrets, Some(Secrets::PrivateKey { .. })) {
        loaded.secrets = None;
    }
    let (files, ignored) = snapshots(folder)?;
    let mut hosts = BTreeMap::<PeerName, HostPlan>::new();
    for path in files {
        let (peer, state, taken) = live::seen(&path, &loaded.config)?;
        let at = moment::at(&loaded.config, taken)?;
        loaded.check_ratchet(at.generation)?;
        let prepared = prepare_for(peer, &loaded, at, &Live(state));
        if let Some(first) = hosts.insert(peer.name.clone(), line(peer, &prepared, Some(&path))) {
            let first = config::quoted(&first.snapshot.unwrap_or_default());
            let reason = format!("it is of {}, as {first} is: keep one of them", peer.name);
            return Err(super::document::unread(&path, reason));
        }
    }
    let config = &loaded.config;
    let absent = config.peers.iter().filter(|peer| !hosts.contains_key(&peer.name));
    let missing = absent.map(|peer| peer.name.clone()).collect();
    let ends = all_ends(config, now);
    let disagreements = in_words(config, &ends, now);
    let hosts = hosts.into_values().collect();
    Ok(All { loaded, hosts, missing, ignored, ends, disagreements, from_snapshots: true })
}

/// The files of a folder that end with .json, in the order of their names, and the number of
/// others. Hidden ones are left alone, such as those that editors leave. Pipes and sockets would
/// hang.
pub(super) fn snapshots(folder: &Path) -> Result<(Vec<PathBuf>, usize), Error> {
    let unread = |error: io::Error| {
        let reason = match error.kind() == io::ErrorKind::NotADirectory {
            true => "--all takes a folder of snapshots".into(),
            false => error.to_string(),
        };
        super::document::unread(folder, reason)
    };
    let mut files = Vec::new();
    let mut ignored = 0;
    for entry in fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        let is_snapshot = path.extension().is_some_and(|extension| extension == "json");
        match is_snapshot && path.is_file() {
            true if !hidden => files.push(path),
            true | false => ignored += usize::from(!hidden),
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(super::document::unread(folder, "no file in it ends with .json".into())),
        false => Ok((files, ignored)),
    }
}

fn empty(peer: &Peer) -> State {
    let address = LocalAddress { address: peer.address, device: "?".into() };
    State { addresses: vec![address], ..State::default() }
}

fn line(peer: &Peer, prepared: &Prepared<'_>, path: Option<&Path>) -> HostPlan {
    let snapshot = path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    HostPlan::of(&peer.name, &prepared.plan, prepared.moment.generation, snapshot)
}

/// Works on one host per processor at once, and hands each result on in the order of the file.
fn in_turns<T: Send>(
    places: Range<usize>,
    work: impl Fn(usize) -> T + Sync,
    mut done: impl FnMut(T),
) {
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(16);
    for first in places.clone().step_by(processors) {
        thread::scope(|scope| {
            let work = &work;
            let some = first..places.end.min(first + processors);
            let threads: Vec<_> = some.map(|place| scope.spawn(move || work(place))).collect();
            for thread in threads {
                match thread.join() {
                    Ok(result) => done(result),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
}

fn in_words(config: &Config, ends: &Ends, now: Moment) -> Vec<Disagreement> {
    let wanted = |one: &Peer, other: &Peer| of_pair(config, now, one, other);
    let words = ends.first.iter().map(|(from, to)| {
        let [from, to] = [from, to].map(|place| &config.peers[*place]);
        difference(config, (from, &wanted(from, to)), (to, &wanted(to, from)), now.generation)
    });
    words.collect()
}
