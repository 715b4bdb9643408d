//! `status`: whether each peer is protected, once or again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use signal_hook::{consts as signals, low_level::pipe};

use super::{Status, moment, named, print, print_json};
use crate::{
    cli::{Format, Global, StatusArgs},
    config::{Config, Moment, Peer, SecretsMode},
    desired::{Desired, desired},
    error::Error,
    kernel::{
        Kernel, Linux,
        linux::{clock, counters},
    },
    model::{ErrorCode, Live, NamedMesh, PeerName, Time},
    plan::{Plan, Warning, WarningCode},
    privilege::Files,
    render::{
        Layout, NamedStatusView, Sample, StatusView, named_status_json, named_status_text,
        status_json, status_prometheus, status_text,
    },
    verdict::{Case, Judgement, Reason, Sightings, judge},
};

/// How often --wait-heard looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// The time to watch a kernel that does not tell when SAs were used, and the longest time where a
/// peer does not answer.
const SIGHTING: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// Needs no secret: keys are not compared.
pub(super) fn run(global: &Global, args: &StatusArgs) -> Result<Status, Error> {
    if args.watch.is_some() && global.format == Format::Prometheus {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "--watch is for people and programs: use text or json",
        ));
    }
    if let Some(mesh) = named::named(global, &args.named)? {
        return of_named(global, args, &mesh);
    }
    let loaded = super::load(global, SecretsMode::Ignored, Files::Neither)?;
    let config = &loaded.config;
    let mut watcher = Watcher {
        global,
        args,
        config,
        asked: super::asked(config, &args.peers)?,
        kernel: super::kernel_for(global, config)?,
        sightings: Sightings::default(),
    };
    match (args.watch, args.wait_heard) {
        (Some(interval), _) => watcher.watch(interval),
        (None, Some(time)) => watcher.wait_heard(time),
        (None, None) => watcher.once(),
    }
}

/// What the kernel tells of a mesh without its file. There is no verdict.
fn of_named(global: &Global, args: &StatusArgs, mesh: &NamedMesh) -> Result<Status, Error> {
    let needs_a_file = !args.peers.is_empty()
        || args.strict
        || args.wait_heard.is_some()
        || args.watch.is_some()
        || global.format == Format::Prometheus;
    if needs_a_file {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "without a file there is no verdict about peers, and --mesh and --reqid go with none of \
             PEER, --strict, --wait-heard, --watch and --format prometheus",
        ));
    }
    let live = named::kernel()?.observe(mesh.reqid)?;
    let counters = counters()?.unwrap_or_default();
    let warnings: Vec<Warning> = named::warning(&live, mesh).into_iter().collect();
    let view = NamedStatusView {
        mesh,
        now: clock::now(),
        live: &live,
        peers: named::hosts(&live, mesh.reqid),
        counters: &counters,
        warnings: &warnings,
    };
    match global.format {
        Format::Text | Format::Prometheus => print(&named_status_text(&view))?,
        Format::Json => print_json(&named_status_json(&view))?,
    }
    Ok(Status::Done)
}

/// Refuses peers that the operator named and that this host has nothing to do with.
pub(super) fn are_pairs(
    asked: &BTreeSet<PeerName>,
    local: &Peer,
    desired: &Desired,
) -> Result<(), Error> {
    if asked.contains(&local.name) {
        return Err(Error::request(
            ErrorCode::PeerUnknown,
            format!("{} is this host: name another peer", local.name),
        ));
    }
    let is_left_out = |name: &&PeerName| desired.not_paired.values().any(|peer| peer == *name);
    if let Some(name) = asked.iter().find(is_left_out) {
        return Err(Error::request(
            ErrorCode::PeerUnknown,
            format!("this host forms no pair with {name}, as pairs in [mesh] says"),
        ));
    }
    match asked.iter().find(|name| desired.unpaired.contains(*name)) {
        None => Ok(()),
        Some(name) => Err(Error::request(
            ErrorCode::PeerUnknown,
            format!("this host forms no pair with {name}: one has an IPv4 address, the other IPv6"),
        )),
    }
}

struct Watcher<'a> {
    global: &'a Global,
    args: &'a StatusArgs,
    config: &'a Config,
    asked: BTreeSet<PeerName>,
    kernel: Linux,
    sightings: Sightings,
}

/// The result of one look.
struct Look<'a> {
    now: Time,
    moment: Moment,
    local: &'a Peer,
    desired: Desired,
    live: Live,
    plan: Plan,
    counters: BTreeMap<String, u64>,
    warnings: Vec<Warning>,
}

impl<'a> Watcher<'a> {
    fn once(&mut self) -> Result<Status, Error> {
        let look = self.look_with_sightings()?;
        let judged = judge(&self.case(&look));
        self.show(&look, &judged, None)?;
        Ok(status(&judged))
    }

    /// Looks until every peer was heard, or time is up.
    fn wait_heard(&mut self, time: Duration) -> Result<Status, Error> {
        let begun = Instant::now();
        loop {
            let look = self.look()?;
            let mut judged = judge(&self.case(&look));
            let is_late = begun.elapsed() >= time;
            // Where the kernel does not tell when, a packet that was once heard may be from long
            // ago.
            let is_known = !self.sightings.are_needed() || begun.elapsed() >= SIGHTING[0];
            let unheard = if is_known { judged.unheard() } else { judged.unseen() };
            if unheard == 0 || is_late {
                judged.reasons.extend((unheard > 0).then_some(Reason::NotHeard(unheard)));
                self.show(&look, &judged, None)?;
                return Ok(status(&judged));
            }
            thread::sleep(BETWEEN_LOOKS.min(time.saturating_sub(begun.elapsed())));
        }
    }

    /// Looks until a signal comes, or nobody reads any more.
    fn watch(&mut self, interval: Duration) -> Result<Status, Error> {
        let mut signal = Signal::catch()?;
        let mut before = None;
        loop {
            let look = self.look()?;
            let judged = judge(&self.case(&look));
            before = match self.show(&look, &judged, before.as_ref()) {
                Err(error) if error.is_broken_pipe() => return Ok(status(&judged)),
                shown => Some(shown?),
            };
            if signal.comes_within(interval)? {
                return Ok(status(&judged));
            }
        }
    }

    /// One look. On kernels that do not tell when SAs were used, some more, until packets that
    /// leave were seen to be answered.
    fn look_with_sightings(&mut self) -> Result<Look<'a>, Error> {
        let begun = Instant::now();
        let mut look = self.look()?;
        let [least, most] = SIGHTING;
        while self.sightings.are_needed() && begun.elapsed() < most {
            let is_answered = judge(&self.case(&look)).unanswered() == 0;
            if begun.elapsed() >= least && is_answered {
                break;
            }
            thread::sleep(Duration::from_secs(1));
            look = self.look()?;
        }
        Ok(look)
    }

    fn look(&mut self) -> Result<Look<'a>, Error> {
        let config = self.config;
        let mut live = self.kernel.observe(config.reqid)?;
        let now = clock::now();
        self.sightings.complete(&mut live.0, now);
        let moment = moment::at(config, now)?;
        let local = super::local_peer(self.global, config, &live.0.addresses)?;
        let (desired, _) = desired(config, moment, local, None);
        are_pairs(&self.asked, local, &desired)?;
        let plan = Plan::new(&desired, &live, config.reqid);
        let mut warnings: Vec<Warning> = moment::warning(moment).into_iter().collect();
        let counters = counters()?;
        warnings.extend(counters.is_none().then(|| {
            let text = "the kernel's counters of refused packets can't be seen: there is no \
                        /proc/net/xfrm_stat (CONFIG_XFRM_STATISTICS)";
            Warning::new(WarningCode::CountersHidden, text)
        }));
        let counters = counters.unwrap_or_default();
        Ok(Look { now, moment, local, desired, live, plan, counters, warnings })
    }

    fn case<'l>(&'l self, look: &'l Look<'l>) -> Case<'l> {
        Case {
            config: self.config,
            moment: look.moment,
            now: look.now,
            local: look.local,
            desired: &look.desired,
            live: &look.live,
            plan: &look.plan,
            asked: &self.asked,
            strict: self.args.strict,
        }
    }

    /// Prints the findings, and returns the counters for the next look.
    fn show(
        &self,
        look: &Look<'_>,
        judged: &Judgement,
        before: Option<&Sample>,
    ) -> Result<Sample, Error> {
        let view = StatusView {
            case: self.case(look),
            judged,
            counters: &look.counters,
            warnings: &look.warnings,
            details: self.args.verbose || !self.asked.is_empty(),
            before,
        };
        let watched = self.args.watch.is_some();
        match self.global.format {
            // To the upper left, and the lines below go; a pipe gets neither.
            Format::Text if watched => {
                let time = look.now.rfc3339();
                let text = format!("\u{1b}[H\u{1b}[J{time}\n{}\n", status_text(&view));
                super::print_to_reader(&text)?;
            }
            Format::Text => print(&status_text(&view))?,
            Format::Json if watched => super::print_json_as(&status_json(&view), Layout::OneLine)?,
            Format::Json => print_json(&status_json(&view))?,
            Format::Prometheus => super::print_at_once(&status_prometheus(&view))?,
        }
        Ok(Sample::of(&view))
    }
}

fn status(judged: &Judgement) -> Status {
    if judged.reasons.is_empty() { Status::Done } else { Status::Attention }
}

/// A signal that ends the watch, which then tells its last findings.
struct Signal(UnixStream);

impl Signal {
    fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        for signal in [signals::SIGINT, signals::SIGTERM] {
            pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }

    fn comes_within(&mut self, time: Duration) -> io::Result<bool> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.0.set_read_timeout(Some(left))?;
            match self.0.read(&mut [0]) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
