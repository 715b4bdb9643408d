//! The one course of every command that changes the kernel: `apply`, with or without a saved plan,
//! and `destroy`. [`change`] reads from top to bottom as the argument for its safety.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use super::{
    Status,
    live::Source,
    moment, named,
    prepared::{self, Prepared, file_name},
    print_to_reader,
    printer::Printer,
    progress::Meter,
    ratchet::{self, Turn},
    revert::Wait,
    saved,
};
use crate::{
    apply::{self, Report, Target},
    cli::{Format, Global, NamedArgs, RunArgs},
    config::{self, KeySource, Loaded, Moment, SecretsMode},
    desired::{Desired, Goal, Keyring, Marking, desired},
    error::Error,
    kernel::{
        Kernel,
        linux::{Linux, clock, lock},
    },
    model::{ErrorCode, Live, NamedMesh, Reqid},
    plan::Plan,
    privilege::{self, Files},
    render::{
        ConfirmationOutcome, RatchetAdvance, Subject, Verb, View, plan_text, report_json,
        report_text,
    },
};

/// The time for the last text to be printed, where nobody may read it any more.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A change of the kernel that somebody asks for.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    /// The objects of the file.
    Apply,
    /// The same, by a plan that was saved, or not at all.
    Saved(&'a Path),
    /// No object of the mesh of the file, or of one that is named.
    Destroy(&'a NamedArgs),
}

/// A request, with all that it reads before it looks at the kernel.
enum Job<'a> {
    Apply(Loaded),
    Saved(&'a Path, Loaded),
    Destroy(Loaded),
    DestroyNamed(NamedMesh),
}

/// Changes the kernel, if the operator approves, and proves that nothing is left to be done.
pub(super) fn change(
    global: &Global,
    args: &RunArgs,
    request: Request<'_>,
) -> Result<Status, Error> {
    refuse_questions_without_answer(global, args)?;

    // 1. Read the file, unless a mesh is named that has none. From then on the process has only the
    // capabilities that the rest needs. The lock's file is opened before, while the process still
    // has the right to.
    let place = lock::Place::open();
    let job = Job::read(global, request)?;

    // 2. Lock the network namespace, from the first look to the last.
    let lock = super::lock(place, args.lock_timeout)?;
    let mut kernel = job.kernel(global)?;

    // 3. Look, plan and ask, until the approved plan is a plan for the kernel as it is.
    let Some((prepared, live)) = approved_plan(global, args, &job, &mut kernel)? else {
        return Ok(Status::Error);
    };
    let file = file_name(global);
    let view = job.view(&prepared, &file);
    let target = prepared.target(job.reqid());

    // 4. Prepare to revert, or refuse, while nothing has changed.
    let wait = match args.confirm_within {
        Some(time) if !prepared.plan.steps.is_empty() => {
            Some(Wait::begin(&mut kernel, &target, &prepared.plan, &live, time)?)
        }
        _ => None,
    };

    // 5. Perform the steps in their order, look again, and report any difference that is left.
    let output = Output::start(global.format, args.extent.quiet, job.verb())?;
    let report = output.perform(&mut kernel, &target, &view);
    output.report(&view, &report);

    // 6. Wait for a confirmation, and revert without one. A dead terminal must not keep this from
    // its end.
    let patience = wait.as_ref().map(|_| LAST_WORDS);
    let outcome = wait.filter(|_| report.changed_anything()).map(|mut wait| {
        lock.note("waits to be confirmed");
        let json = global.format == Format::Json;
        wait.ask(&output.printer, json);
        let now = || job.desired_now(&prepared);
        wait.end(&mut kernel, (&view.subject.name(), &now), &output.printer, json)
    });

    // 7. Turn the ratchet. Only now: objects that are not proven to be in place, or were reverted,
    // may need the old keys.
    let kept = outcome.as_ref().is_none_or(|outcome| outcome.report.is_none());
    let turn = job.turn(&prepared);
    let advance = turn.map(|turn| match kept && report.is_in_place() {
        true => turn.perform(),
        false => turn.hold(),
    });

    // 8. Conclude.
    output.finish(&view, &report, advance.as_ref(), outcome.as_ref(), patience);
    Ok(match outcome.and_then(|outcome| outcome.report) {
        // All changes were reverted.
        Some(back) if back.is_restored() => Status::Error,
        Some(_) => Status::Partial,
        None => status(&report, advance.as_ref()),
    })
}

impl<'a> Job<'a> {
    /// Reads the file and its secrets, as far as the request needs them.
    fn read(global: &Global, request: Request<'a>) -> Result<Self, Error> {
        let load = |secrets| Ok::<_, Error>(config::load(global.file(), secrets)?);
        let job = match request {
            Request::Apply => Self::Apply(load(SecretsMode::Required)?),
            Request::Saved(path) => Self::Saved(path, load(SecretsMode::Required)?),
            Request::Destroy(args) => match named::named(global, args)? {
                Some(mesh) => return Ok(Self::DestroyNamed(mesh)),
                None => Self::Destroy(load(SecretsMode::Ignored).inspect_err(|_| {
                    named::point_out(global);
                })?),
            },
        };
        if let Some(loaded) = job.loaded() {
            privilege::file_read(&loaded.config, job.later_files()).map_err(Error::Privilege)?;
        }
        Ok(job)
    }

    fn loaded(&self) -> Option<&Loaded> {
        match self {
            Self::Apply(loaded) | Self::Saved(_, loaded) | Self::Destroy(loaded) => Some(loaded),
            Self::DestroyNamed(_) => None,
        }
    }

    fn reqid(&self) -> Reqid {
        match self {
            Self::Apply(loaded) | Self::Saved(_, loaded) | Self::Destroy(loaded) => {
                loaded.config.reqid
            }
            Self::DestroyNamed(mesh) => mesh.reqid,
        }
    }

    fn verb(&self) -> Verb {
        match self {
            Self::Apply(_) | Self::Saved(..) => Verb::Apply,
            Self::Destroy(_) | Self::DestroyNamed(_) => Verb::Destroy,
        }
    }

    /// The access to files that is needed after mesh.toml and its secrets are read.
    fn later_files(&self) -> Files {
        match self {
            Self::Apply(loaded) | Self::Saved(_, loaded)
                if matches!(loaded.config.keys, KeySource::Ratchet(_)) =>
            {
                Files::Replaces
            }
            Self::Saved(..) => Files::Reads,
            Self::Apply(_) | Self::Destroy(_) | Self::DestroyNamed(_) => Files::Neither,
        }
    }

    fn kernel(&self, global: &Global) -> Result<Linux, Error> {
        match self {
            Self::Apply(loaded) => Ok(super::kernel_to_plan(global, &loaded.config)?),
            // A saved plan pins the whole live state.
            Self::Saved(_, loaded) | Self::Destroy(loaded) => {
                Ok(super::kernel_for(global, &loaded.config)?)
            }
            Self::DestroyNamed(_) => named::kernel_to_change(),
        }
    }

    /// The plan as it is to be shown.
    fn view<'v>(&'v self, prepared: &'v Prepared<'_>, file: &'v str) -> View<'v> {
        match self {
            Self::Apply(loaded) | Self::Saved(_, loaded) | Self::Destroy(loaded) => {
                prepared.view(&loaded.config, file)
            }
            Self::DestroyNamed(mesh) => View {
                subject: Subject::Named(mesh),
                local: None,
                plan: &prepared.plan,
                warnings: &prepared.warnings,
                outcomes: &prepared.outcomes,
                file: "",
            },
        }
    }

    /// The plan for a live state, with its warnings. A saved plan that does not hold is an error.
    fn prepare(&self, global: &Global, live: &Live) -> Result<Prepared<'_>, Error> {
        match self {
            Self::Apply(loaded) => prepare_apply(global, loaded, live),
            Self::Saved(path, loaded) => {
                let prepared = prepare_apply(global, loaded, live)?;
                saved::check(path, loaded, &prepared, live)?;
                Ok(prepared)
            }
            Self::Destroy(loaded) => prepare_destroy(global, loaded, live),
            Self::DestroyNamed(mesh) => Ok(prepare_destroy_named(mesh, live)),
        }
    }

    /// The part of the world that has changed so much since a plan was made that it is not the
    /// plan any more.
    ///
    /// The plan is approved, not the live state: where other programs add and delete SAs all the
    /// time no two looks are the same. A saved plan pins the whole live state, and is checked
    /// again.
    fn change_since(
        &self,
        global: &Global,
        prepared: &Prepared<'_>,
        [before, now]: [&Live; 2],
    ) -> Result<Option<&'static str>, Error> {
        const STATE: &str = "The kernel's state";
        let same = before.0.same_objects(&now.0);
        let holds = match self {
            Self::Destroy(_) | Self::DestroyNamed(_) => {
                same || Plan::new(&prepared.desired, now, self.reqid())
                    .asks_the_same_as(&prepared.plan)
            }
            Self::Apply(loaded) | Self::Saved(_, loaded)
                if moment::now(&loaded.config)?.generation != prepared.moment.generation =>
            {
                return Ok(Some("The generation"));
            }
            Self::Apply(loaded) => same || prepared.holds_for(global, loaded, now)?,
            Self::Saved(..) => same,
        };
        Ok((!holds).then_some(STATE))
    }

    /// The desired state that a revert is to follow, where generations follow the clock.
    fn desired_now(&self, prepared: &Prepared<'_>) -> Option<(Desired, Keyring)> {
        match self {
            Self::Apply(loaded) | Self::Saved(_, loaded) => {
                let moment = moment::now(&loaded.config).ok().filter(|now| now.clock.is_some())?;
                // At the last stage, with all SAs that another stage may have held.
                let config = loaded.config.enforced();
                Some(desired(&config, moment, prepared.local?, loaded.secrets.as_ref()))
            }
            Self::Destroy(_) | Self::DestroyNamed(_) => None,
        }
    }

    /// The work on a ratchet once all is in place.
    fn turn(&self, prepared: &Prepared<'_>) -> Option<Turn<'_>> {
        match self {
            Self::Apply(loaded) | Self::Saved(_, loaded) => {
                Turn::of(&loaded.config, prepared.moment)
            }
            Self::Destroy(_) | Self::DestroyNamed(_) => None,
        }
    }
}

fn prepare_apply<'a>(
    global: &Global,
    loaded: &'a Loaded,
    live: &Live,
) -> Result<Prepared<'a>, Error> {
    let moment = moment::now(&loaded.config)?;
    let mut prepared = prepared::prepare(global, loaded, moment, (live, &Source::Kernel))?;
    prepared.warnings.extend(moment::warning(moment));
    prepared.warnings.extend(ratchet::warning(loaded, moment));
    prepared.warn_of_missing_address(global, live);
    prepared.warn_of_modules();
    Ok(prepared)
}

fn prepare_destroy<'a>(
    global: &Global,
    loaded: &'a Loaded,
    live: &Live,
) -> Result<Prepared<'a>, Error> {
    let config = &loaded.config;
    let local = super::local_if_any(global, config, live)?;
    // Only names, for the plan's text: nothing is wanted.
    let others = config.peers.iter().filter(|peer| local.is_none_or(|l| l.name != peer.name));
    let desired = Desired {
        local: local.map(|peer| peer.address),
        peers: others.map(|peer| (peer.reached_at(), peer.name.clone())).collect(),
        goal: Goal::Nothing,
        marking: Marking::of(config),
        ..Desired::default()
    };
    let plan = Plan::new(&desired, live, config.reqid);
    // Only shown: a clock that is wrong keeps nobody from removing everything.
    let moment = config.rotation.at(clock::now());
    let (keyring, warnings) = Default::default();
    let outcomes = BTreeMap::new();
    Ok(Prepared { local, moment, desired, keyring, plan, warnings, outcomes })
}

fn prepare_destroy_named(mesh: &NamedMesh, live: &Live) -> Prepared<'static> {
    let desired = named::nothing(live, mesh.reqid);
    let plan = Plan::new(&desired, live, mesh.reqid);
    let warnings = named::warning(live, mesh).into_iter().collect();
    // Nobody knows the generation, and it is not shown.
    let moment = Moment { generation: Default::default(), clock: None };
    let (local, keyring, outcomes) = Default::default();
    Prepared { local, moment, desired, keyring, plan, warnings, outcomes }
}

/// The approved plan and the live state that it was made for; `None` if it was not approved.
fn approved_plan<'j>(
    global: &Global,
    args: &RunArgs,
    job: &'j Job<'_>,
    kernel: &mut Linux,
) -> Result<Option<(Prepared<'j>, Live)>, Error> {
    let file = file_name(global);
    let mut live = kernel.observe(job.reqid())?;
    loop {
        let mut prepared = job.prepare(global, &live)?;
        // One line does not show it.
        if global.format == Format::Json || !args.extent.quiet {
            prepared.foresee(&live, job.reqid());
        }
        if !approved(global, args, job.verb(), &job.view(&prepared, &file))? {
            return Ok(None);
        }
        let again = kernel.observe(job.reqid())?;
        let Some(what) = job.change_since(global, &prepared, [&live, &again])? else {
            return Ok(Some((prepared, again)));
        };
        super::say(format_args!("{what} changed meanwhile; planning again."));
        live = again;
    }
}

/// Refuses early a run that can't ask.
fn refuse_questions_without_answer(global: &Global, args: &RunArgs) -> Result<(), Error> {
    if args.auto_approve {
        return Ok(());
    }
    if global.format == Format::Json {
        return Err(Error::request(
            ErrorCode::ApprovalMissing,
            "--format json can't ask; add --auto-approve",
        ));
    }
    if !io::stdin().is_terminal() {
        return Err(Error::request(
            ErrorCode::ApprovalMissing,
            "standard input is no terminal, so nobody can be asked; add --auto-approve",
        ));
    }
    Ok(())
}

/// Shows the plan and asks, if there is anything to ask about.
fn approved(global: &Global, args: &RunArgs, verb: Verb, view: &View<'_>) -> Result<bool, Error> {
    let is_read = is_read(global, args, view)?;
    if args.auto_approve || view.plan.steps.is_empty() {
        return Ok(true);
    }
    if !is_read {
        super::say(format_args!("Nobody reads the plan, so nobody is asked; nothing was changed."));
        return Ok(false);
    }
    ask(verb)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(true);
    }
    super::say(format_args!("Not approved; nothing was changed."));
    Ok(false)
}

/// Shows the plan as text. False if the reader, such as a pager, is gone.
fn is_read(global: &Global, args: &RunArgs, view: &View<'_>) -> Result<bool, Error> {
    if global.format != Format::Text {
        return Ok(true);
    }
    match print_to_reader(&plan_text(view, &args.extent.into())) {
        Err(error) if error.is_broken_pipe() => Ok(false),
        shown => shown.map(|()| true),
    }
}

/// Where standard output goes to a file or a pipe, nobody would see the question in it.
fn ask(verb: Verb) -> Result<(), Error> {
    let question = format!("\nTo {verb} this, type yes: ");
    if io::stdout().is_terminal() {
        return print_to_reader(&question);
    }
    let mut terminal = io::stderr().lock();
    terminal.write_all(question.as_bytes())?;
    Ok(terminal.flush()?)
}

/// The output of a run that changes the kernel.
struct Output {
    format: Format,
    /// Without the steps, and the empty line behind them.
    quiet: bool,
    verb: Verb,
    printer: Printer,
}

impl Output {
    fn start(format: Format, quiet: bool, verb: Verb) -> Result<Self, Error> {
        Ok(Self { format, quiet, verb, printer: Printer::start()? })
    }

    /// Performs a plan, and shows its progress.
    fn perform(&self, kernel: &mut Linux, target: &Target<'_>, view: &View<'_>) -> Report {
        let plan = view.plan;
        if plan.steps.is_empty() {
            return Report { after: Some(plan.clone()), ..Report::default() };
        }
        let mut meter = Meter::new(plan, self.format, self.quiet, &self.printer);
        apply::apply(kernel, target, plan, &mut |progress| meter.show(&progress))
    }

    /// Says how a plan was performed, to people.
    fn report(&self, view: &View<'_>, report: &Report) {
        if self.format != Format::Json && !view.plan.steps.is_empty() {
            let gap = if self.quiet { "" } else { "\n" };
            self.printer.out(format!("{gap}{}", report_text(report, view.file, self.verb)));
        }
    }

    fn finish(
        self,
        view: &View<'_>,
        report: &Report,
        advance: Option<&RatchetAdvance>,
        outcome: Option<&ConfirmationOutcome>,
        patience: Option<Duration>,
    ) {
        match self.format {
            Format::Json => self.printer.json(&report_json(view, report, advance, outcome)),
            Format::Text | Format::Prometheus => {
                self.printer.out(advance.map(RatchetAdvance::text).unwrap_or_default());
            }
        }
        self.printer.finish(patience);
    }
}

fn status(report: &Report, advance: Option<&RatchetAdvance>) -> Status {
    let turned_well = advance.is_none_or(|advance| advance.error.is_none());
    let has_turned = advance.is_some_and(|advance| advance.before != advance.after);
    if report.is_complete() {
        if turned_well { Status::Done } else { Status::Partial }
    } else if report.changed_anything() || has_turned {
        Status::Partial
    } else {
        Status::Error
    }
}
