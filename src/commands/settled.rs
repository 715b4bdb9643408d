//! `settled`: whether all hosts have applied the generation, and the evidence that `rotate` asks
//! for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{Status, document::unread, live, moment, print, print_json};
use crate::{
    cli::{EvidenceArgs, Format, Global},
    config::{Config, Moment, SecretsMode},
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

/// The evidence while it comes together.
struct Gathering<'a> {
    global: &'a Global,
    args: &'a EvidenceArgs,
    config: &'a Config,
    /// The generation that it is about, however long the wait.
    moment: Moment,
    /// Evidence of snapshots.
    seen: Vec<EvidenceOfHost<'a>>,
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
        let moment = moment::now(config)?;
        let seen = snapshots(&args.seen, config, moment)?;
        let sightings = Sightings::default();
        Ok(Self { global, args, config, moment, seen, kernel, sightings })
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
        let (config, moment) = (self.config, self.moment);
        let mut evidence = self.seen.clone();
        let here = match &mut self.kernel {
            Some(kernel) => Some(kernel.observe(config.reqid)?),
            None => None,
        };
        let now = clock::now();
        if let Some(mut live) = here {
            let host = super::local_peer(self.global, config, &live.0.addresses)?;
            self.sightings.complete(&mut live.0, now);
            // Its own snapshot is older.
            evidence.retain(|of_host| of_host.host.name != host.name);
            let look = (&live, now);
            let of_here = EvidenceOfHost::new((config, moment), host, look, &self.sightings, None);
            evidence.insert(0, of_here);
        }
        let quiet = self.args.quiet.unwrap_or(QUIET);
        let question = Question { config, moment, now, quiet };
        let settlement = settle(&question, evidence);
        Ok((question, settlement))
    }
}

/// The evidence of the newest snapshot of each host. Those before it tell which counters have
/// risen. One state is held at a time, as those of a large mesh are large.
fn snapshots<'a>(
    files: &[PathBuf],
    config: &'a Config,
    moment: Moment,
) -> Result<Vec<EvidenceOfHost<'a>>, Error> {
    let mut hosts = BTreeMap::<&PeerName, Vec<(Time, &Path)>>::new();
    for path in files {
        let (host, _, taken) = live::seen(path, config)?;
        hosts.entry(&host.name).or_default().push((taken, path));
    }
    let newest = hosts.into_values().map(|mut files| {
        files.sort();
        let mut sightings = Sightings::default();
        let mut newest = None;
        for (time, path) in files {
            let (host, mut state, taken) = live::seen(path, config)?;
            if taken != time {
                return Err(unread(path, "another program has changed it".into()));
            }
            sightings.complete(&mut state, taken);
            newest = Some((host, Live(state), taken, path.display().to_string()));
        }
        Ok(newest.map(|(host, live, taken, source)| {
            let look = (&live, taken);
            EvidenceOfHost::new((config, moment), host, look, &sightings, Some(source))
        }))
    });
    newest.filter_map(Result::transpose).collect()
}
