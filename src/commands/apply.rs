//! `apply`: shows the plan, asks, performs it, proves it.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use super::{
    Status, moment,
    plan::{self, Prepared, file_name},
    print,
    printer::Printer,
    ratchet::{self, Turn},
    revert::{DesiredNow, Wait},
    saved,
};
use crate::{
    apply::{self, Progress, Report, Target},
    cli::{ApplyArgs, Format, Global, RunArgs},
    config::{self, Config, KeySource, SecretsMode},
    desired::desired,
    error::Error,
    kernel::{
        Kernel,
        linux::{
            Linux,
            lock::{self, Lock},
        },
    },
    model::Live,
    plan::Plan,
    privilege::{self, Files},
    render::{Plain, RatchetAdvance, View, plan_text, report_json, report_text},
};

/// Above this many steps, progress is one line and not a line a step.
const STEPS_SHOWN: usize = 64;

/// The time for the last text to be printed, where nobody may read it any more.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Holds the namespace's lock from the first look to the last.
pub(super) fn run(global: &Global, args: &ApplyArgs) -> Result<Status, Error> {
    if args.plan.as_ref().is_some_and(|plan| plan.extension().is_some_and(|end| end == "toml")) {
        let message = "apply takes a plan that plan --out has saved; for a mesh.toml write -c FILE";
        return Err(Error::Usage(message.into()));
    }
    if args.plan.is_none() {
        needs_approval(global, &args.run)?;
    }
    // While the process still has the right to open it.
    let place = lock::Place::open();
    let loaded = config::load(&global.config, SecretsMode::Required)?;
    let later = match (&loaded.config.keys, &args.plan) {
        (KeySource::Ratchet(_), _) => Files::Replaces,
        (_, Some(_)) => Files::Reads,
        _ => Files::Leaves,
    };
    privilege::file_read(&loaded.config, later).map_err(Error::Privilege)?;
    let lock = super::lock(place, args.run.lock_timeout)?;
    let mut kernel = super::kernel_for(global, &loaded.config)?;
    let mut live = kernel.observe(loaded.config.reqid)?;
    loop {
        let moment = moment::now(&loaded.config)?;
        let mut prepared = plan::prepare(global, &loaded, moment, &live)?;
        prepared.warnings.extend(moment::warning(moment));
        prepared.warnings.extend(ratchet::warning(&loaded, moment));
        prepared.warn_of_missing_address(&live);
        prepared.warn_of_modules();
        let turn = Turn::of(&loaded.config, moment);
        let plan = args.plan.as_ref();
        if let Some(path) = plan {
            saved::check(path, &loaded, &prepared, &live)?;
        }
        let args = RunArgs { auto_approve: args.run.auto_approve || plan.is_some(), ..args.run };
        let config = &loaded.config;
        let now = || {
            let moment = moment::now(config).ok().filter(|now| now.clock.is_some())?;
            Some(desired(config, moment, prepared.local, loaded.secrets.as_ref()))
        };
        let run = Run { global, args: &args, config, verb: "apply", turn, lock: &lock, now: &now };
        let file = file_name(global);
        if !run.approved(&prepared.view(&loaded.config, &file))? {
            return Ok(Status::Error);
        }
        let again = kernel.observe(loaded.config.reqid)?;
        let same_generation = moment::now(&loaded.config)?.generation == moment.generation;
        // The plan is approved, not the live state: where other programs add and delete SAs all the
        // time no two looks are the same. A saved plan pins the whole live state, and is checked
        // again.
        let same = again.0.same_objects(&live.0)
            || (plan.is_none() && prepared.holds_for(global, &loaded, &again)?);
        if same_generation && same {
            return run.perform(&mut kernel, &prepared, &again);
        }
        let what = if same_generation { "The kernel's state" } else { "The generation" };
        super::say(format_args!("{what} changed meanwhile; planning again."));
        live = again;
    }
}

/// Where standard output goes to a file or a pipe, nobody would see the question in it.
fn ask(verb: &str) -> Result<(), Error> {
    let question = format!("\nTo {verb} this, type yes: ");
    if io::stdout().is_terminal() {
        return print(&question);
    }
    let mut terminal = io::stderr().lock();
    terminal.write_all(question.as_bytes())?;
    Ok(terminal.flush()?)
}

/// Refuses early a run that can't ask.
pub(super) fn needs_approval(global: &Global, args: &RunArgs) -> Result<(), Error> {
    if args.auto_approve {
        return Ok(());
    }
    if global.format == Format::Json {
        return Err(Error::Usage("--format json can't ask; add --auto-approve".into()));
    }
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(
            "standard input is no terminal, so nobody can be asked; add --auto-approve".into(),
        ));
    }
    Ok(())
}

/// The common part of `apply` and `destroy`: to show, to ask, to perform and to report.
pub(super) struct Run<'a> {
    pub(super) global: &'a Global,
    pub(super) args: &'a RunArgs,
    pub(super) config: &'a Config,
    pub(super) verb: &'static str,
    /// The work on a ratchet once all is done.
    pub(super) turn: Option<Turn<'a>>,
    pub(super) lock: &'a Lock,
    /// The desired state that a revert is to follow, where generations follow the clock.
    pub(super) now: DesiredNow<'a>,
}

impl Run<'_> {
    /// Shows the plan and asks, if there is anything to ask about.
    pub(super) fn approved(&self, view: &View<'_>) -> Result<bool, Error> {
        if self.global.format == Format::Text {
            print(&plan_text(view))?;
        }
        if self.args.auto_approve || view.plan.steps.is_empty() {
            return Ok(true);
        }
        ask(self.verb)?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if answer.trim() == "yes" {
            return Ok(true);
        }
        super::say(format_args!("Not approved; nothing was changed."));
        Ok(false)
    }

    fn perform(
        &self,
        kernel: &mut Linux,
        prepared: &Prepared<'_>,
        live: &Live,
    ) -> Result<Status, Error> {
        let file = file_name(self.global);
        let goal = Target {
            desired: &prepared.desired,
            keyring: &prepared.keyring,
            reqid: self.config.reqid,
        };
        self.carry_out(kernel, &goal, &prepared.view(self.config, &file), live)
    }

    /// Performs a plan, and says how it went; `live` is the state that it was made for.
    pub(super) fn carry_out(
        &self,
        kernel: &mut Linux,
        goal: &Target<'_>,
        view: &View<'_>,
        live: &Live,
    ) -> Result<Status, Error> {
        let plan = view.plan;
        let wait = match self.args.confirm_within {
            Some(time) if !plan.steps.is_empty() => {
                Some(Wait::begin(kernel, goal, plan, live, time)?)
            }
            _ => None,
        };
        let printer = Printer::start()?;
        let report = if plan.steps.is_empty() {
            Report { after: Some(plan.clone()), ..Report::default() }
        } else {
            let mut meter = Meter::new(plan, self.global.format, &printer);
            apply::apply(kernel, goal, plan, &mut |progress| meter.show(&progress))
        };
        let patience = wait.as_ref().map(|_| LAST_WORDS);
        let status = self.conclude(kernel, view, report, wait, &printer);
        printer.finish(patience);
        Ok(status)
    }

    /// Waits for a confirmation, if the operator asked for that, and tells how all has ended.
    fn conclude(
        &self,
        kernel: &mut Linux,
        view: &View<'_>,
        report: Report,
        wait: Option<Wait>,
        printer: &Printer,
    ) -> Status {
        let json = self.global.format == Format::Json;
        if !json && !view.plan.steps.is_empty() {
            printer.out(format!("\n{}", report_text(&report, view.file, self.verb)));
        }
        let waited = wait.filter(|_| report.changed_anything()).map(|mut wait| {
            self.lock.note("waits to be confirmed");
            wait.ask(printer, json);
            wait.end(kernel, (self.config, self.now), printer, json)
        });
        let kept = waited.as_ref().is_none_or(|ended| ended.report.is_none());
        // Only now: objects that are not proven to be in place, or were reverted, may need the old
        // keys.
        let turned = self.turn.as_ref().map(|turn| match kept && report.is_in_place() {
            true => turn.perform(),
            false => turn.hold(),
        });
        if json {
            printer.json(&report_json(view, &report, turned.as_ref(), waited.as_ref()));
        } else {
            printer.out(turned.as_ref().map(RatchetAdvance::text).unwrap_or_default());
        }
        match waited.and_then(|ended| ended.report) {
            // All changes were reverted.
            Some(back) if back.is_restored() => Status::Error,
            Some(_) => Status::Partial,
            None => status(&report, turned.as_ref()),
        }
    }
}

fn status(report: &Report, turned: Option<&RatchetAdvance>) -> Status {
    let turned_well = turned.is_none_or(|turned| turned.error.is_none());
    let has_turned = turned.is_some_and(|turned| turned.before != turned.after);
    if report.is_complete() {
        if turned_well { Status::Done } else { Status::Partial }
    } else if report.changed_anything() || has_turned {
        Status::Partial
    } else {
        Status::Error
    }
}

/// Progress on standard output: a line a step, or one line that counts.
///
/// Never an error, and never a delay: a terminal that is gone or stopped must
/// not stop a half-done apply.
pub(super) struct Meter<'p> {
    printer: &'p Printer,
    total: usize,
    done: usize,
    each: bool,
    count: bool,
}

impl<'p> Meter<'p> {
    pub(super) fn new(plan: &Plan, format: Format, printer: &'p Printer) -> Self {
        let total = plan.steps.len();
        let text = format == Format::Text;
        let each = text && total <= STEPS_SHOWN;
        Self { printer, total, done: 0, each, count: text && !each && io::stdout().is_terminal() }
    }

    pub(super) fn show(&mut self, progress: &Progress<'_>) {
        let (printer, total) = (self.printer, self.total);
        match progress {
            Progress::Done(step) => {
                self.done += 1;
                let done = self.done;
                if self.each {
                    printer.out(format!(
                        "{done:>5}/{total} {} {}\n",
                        step.name(),
                        Plain(step.id())
                    ));
                } else if self.count && (done.is_multiple_of(64) || done == total) {
                    let end = if done == total { "\n" } else { "" };
                    printer.out(format!("\r{done} of {total} steps{end}"));
                }
            }
            Progress::RolledBack(step) if self.each => {
                printer.out(format!("rolled back: {} {}\n", step.name(), Plain(step.id())));
            }
            Progress::RolledBack(_) | Progress::Planned(_) => {}
            Progress::Failed(step, error) => {
                printer.err(format_args!("error: {}: {error}", step.name()));
            }
            Progress::LeftOut(id, error) => printer.err(format_args!(
                "warning: chain {id} is left out, and the policies guard without it: {error}"
            )),
            Progress::Again => {
                printer.err("The kernel's answers got lost; looking and planning again.");
            }
            Progress::Retry => printer.err("Not all of it has come back; trying again."),
        }
    }
}
