//! `settled`: whether all hosts have applied the generation, and the evidence that `rotate` asks
//! for.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{Status, live, moment, print, print_json};
use crate::{
    cli::{EvidenceArgs, Format, Global},
    config::{Config, Peer, SecretsMode},
    error::Error,
    kernel::{Kernel, Linux, linux::clock},
    model::{ErrorCode, Live, PeerName, Time},
    privilege::{self, Files},
    render::{SettledView, settled_json, settled_text},
    verdict::{EvidenceOfHost, Question, Settlement, Sightings, settle},
};

/// The time for which no packet may have come under another generation: longer than any packet
/// stays in flight.
const QUIET: Duration = Duration::from_secs(60);
/// How often --wait looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Needs no secret: keys are not compared.
pub(super) fn run(global: &Global, args: &EvidenceArgs) -> Result<Status, Error> {
    check(args)?;
    let later = if args.seen.is_empty() { Files::Neither } else { Files::Reads };
    let config = super::load(global, SecretsMode::Ignored, later)?.config;
    let gathering = Gathering::begin(global, args, &config)?;
    // The snapshots are read.
    privilege::file_read(&config, Files::Neither).map_err(Error::Privilege)?;
    gathering.answer(show(global.format))
}

/// Whether the evidence that was asked for says that the mesh is settled. If not, it is shown.
pub(super) fn is_settled(
    global: &Global,
    args: &EvidenceArgs,
    config: &Config,
) -> Result<bool, Error> {
    let show = show(global.format);
    let status =
        Gathering::begin(global, args, config)?.answer(|view| match view.is_settled() {
            true => Ok(()),
            false => show(view),
        })?;
    Ok(status == Status::Done)
}

fn show(format: Format) -> impl Fn(&SettledView<'_>) -> Result<(), Error> {
    move |view| match format {
        Format::Text | Format::Prometheus => print(&settled_text(view)),
        Format::Json => print_json(&settled_json(view)),
    }
}

/// Options that would have no effect are refused.
pub(super) fn check(args: &EvidenceArgs) -> Result<(), Error> {
    if args.wait.is_some() && !args.here && !args.seen.is_empty() {
        let text = "--wait looks at this host's kernel, and --seen at snapshots alone: add --here";
        return Err(Error::request(ErrorCode::OptionsDisagree, text));
    }
    Ok(())
}

/// A state, when it was seen, and the file that it is from.
type Look = (Time, Live, String);

/// The evidence while it comes together.
struct Gathering<'a> {
    global: &'a Global,
    args: &'a EvidenceArgs,
    config: &'a Config,
    /// The snapshots of each host, in the order in which they were taken.
    snapshots: BTreeMap<PeerName, (&'a Peer, Vec<Look>)>,
    /// This host's kernel, if it is looked at.
    kernel: Option<Linux>,
    sightings: Sightings,
}

impl<'a> Gathering<'a> {
    fn begin(
        global: &'a Global,
        args: &'a EvidenceArgs,
        config: &'a Config,
    ) -> Result<Self, Error> {
        let looks = args.here || args.seen.is_empty();
        let kernel = looks.then(|| super::kernel_for(global, config)).transpose()?;
        let snapshots = snapshots(&args.seen, config)?;
        Ok(Self { global, args, config, snapshots, kernel, sightings: Sightings::default() })
    }

    /// Looks until the mesh is settled, or time is up, and shows the last look.
    fn answer(
        mut self,
        show: impl Fn(&SettledView<'_>) -> Result<(), Error>,
    ) -> Result<Status, Error> {
        let (begun, time) = (Instant::now(), self.args.wait.unwrap_or_default());
        loop {
            let (question, settlement) = self.look()?;
            let left = time.saturating_sub(begun.elapsed());
            let is_settled = settlement.is_settled();
            if is_settled || left.is_zero() {
                show(&SettledView { question, settlement: &settlement })?;
                return Ok(if is_settled { Status::Done } else { Status::Attention });
            }
            thread::sleep(BETWEEN_LOOKS.min(left));
        }
    }

    fn look(&mut self) -> Result<(Question<'a>, Settlement<'a>), Error> {
        let config = self.config;
        let here = match &mut self.kernel {
            Some(kernel) => Some(kernel.observe(config.reqid)?),
            None => None,
        };
        let now = clock::now();
        let moment = moment::at(config, now)?;
        let quiet = self.args.quiet.unwrap_or(QUIET);
        let question = Question { config, moment, now, quiet };
        let mut evidence = Vec::new();
        let mut local = None;
        if let Some(mut live) = here {
            let host = super::local_peer(self.global, config, &live.0.addresses)?;
            self.sightings.complete(&mut live.0, now);
            let look = (&live, now);
            evidence.push(EvidenceOfHost::new(&question, host, look, &self.sightings, None));
            local = Some(&host.name);
        }
        let others = self.snapshots.values().filter(|(host, _)| Some(&host.name) != local);
        evidence.extend(others.filter_map(|(host, looks)| of_snapshots(&question, host, looks)));
        let settlement = settle(&question, evidence);
        Ok((question, settlement))
    }
}

/// Snapshots by the hosts that they are of.
fn snapshots<'a>(
    files: &[PathBuf],
    config: &'a Config,
) -> Result<BTreeMap<PeerName, (&'a Peer, Vec<Look>)>, Error> {
    let mut hosts = BTreeMap::<PeerName, (&Peer, Vec<Look>)>::new();
    for path in files {
        let (host, state, taken) = live::seen(path, config)?;
        let (_, looks) = hosts.entry(host.name.clone()).or_insert((host, Vec::new()));
        looks.push((taken, Live(state), path.display().to_string()));
    }
    hosts.values_mut().for_each(|(_, looks)| looks.sort_by_key(|(taken, ..)| *taken));
    Ok(hosts)
}

/// The newest snapshot of a host. Those before it tell which counters have risen.
fn of_snapshots<'a>(
    question: &Question<'a>,
    host: &'a Peer,
    looks: &[Look],
) -> Option<EvidenceOfHost<'a>> {
    let mut sightings = Sightings::default();
    let mut evidence = None;
    for (taken, live, source) in looks {
        let mut live = live.clone();
        sightings.complete(&mut live.0, *taken);
        let look = (&live, *taken);
        evidence =
            Some(EvidenceOfHost::new(question, host, look, &sightings, Some(source.clone())));
    }
    evidence
}
