//! `apply`: shows the plan, asks, does it, proves it.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{
    Status, moment,
    plan::{self, Prepared, file_name},
    print, print_json,
    ratchet::{self, Turn},
    saved::Premises,
};
use crate::{
    apply::{self, Goal, Progress, Report},
    cli::{ApplyArgs, Format, Global, RunArgs},
    config::{self, Config, SecretsMode},
    error::Error,
    kernel::{
        Kernel,
        linux::{Linux, lock},
    },
    plan::Plan,
    render::{Turned, View, plan_text, report_json, report_text},
};

/// Above this many steps, progress is one line and not a line a step.
const STEPS_SHOWN: usize = 64;

/// Holds the namespace's lock from the first look to the last.
pub fn run(global: &Global, args: &ApplyArgs) -> Result<Status, Error> {
    if args.plan.is_none() {
        needs_approval(global, &args.run)?;
    }
    let loaded = config::load(&global.config, SecretsMode::Required)?;
    let _lock = lock::acquire(args.run.lock_timeout)?;
    let mut kernel = super::kernel_for(&loaded.config)?;
    let mut live = kernel.observe(loaded.config.reqid)?;
    loop {
        let moment = moment::now(&loaded.config)?;
        let mut prepared = plan::prepare(global, &loaded, moment, &live)?;
        prepared.warnings.extend(moment::warning(moment));
        prepared.warnings.extend(ratchet::warning(&loaded, moment));
        prepared.warn_of_missing_address(&live);
        let turn = Turn::of(&loaded.config, moment);
        if let Some(path) = &args.plan {
            Premises::of(&loaded, &prepared, &live)?.check_saved(path)?;
        }
        let args =
            RunArgs { auto_approve: args.run.auto_approve || args.plan.is_some(), ..args.run };
        let run = Run { global, args: &args, config: &loaded.config, verb: "apply", turn };
        let file = file_name(global);
        if !run.approved(&prepared.view(&loaded.config, &file))? {
            return Ok(Status::Error);
        }
        let again = kernel.observe(loaded.config.reqid)?;
        let same_generation = moment::now(&loaded.config)?.generation == moment.generation;
        if same_generation && again.0.same_objects(&live.0) {
            return run.perform(&mut kernel, &prepared);
        }
        let what = if same_generation { "The kernel's state" } else { "The generation" };
        anstream::eprintln!("{what} changed meanwhile; planning again.");
        live = again;
    }
}

/// Refuses early what can't be asked about.
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

/// What `apply` and `destroy` share: to show, to ask, to do and to report.
pub(super) struct Run<'a> {
    pub(super) global: &'a Global,
    pub(super) args: &'a RunArgs,
    pub(super) config: &'a Config,
    pub(super) verb: &'static str,
    /// What becomes of a ratchet once all is done.
    pub(super) turn: Option<Turn<'a>>,
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
        print(&format!("\nTo {} this, type yes: ", self.verb))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if answer.trim() == "yes" {
            return Ok(true);
        }
        anstream::eprintln!("Not approved; nothing was changed.");
        Ok(false)
    }

    fn perform(&self, kernel: &mut Linux, prepared: &Prepared<'_>) -> Result<Status, Error> {
        let file = file_name(self.global);
        let goal = Goal {
            desired: &prepared.desired,
            keyring: &prepared.keyring,
            reqid: self.config.reqid,
        };
        self.carry_out(kernel, &goal, &prepared.view(self.config, &file))
    }

    /// Performs a plan, and says how it went.
    pub(super) fn carry_out(
        &self,
        kernel: &mut Linux,
        goal: &Goal<'_>,
        view: &View<'_>,
    ) -> Result<Status, Error> {
        let plan = view.plan;
        let report = if plan.steps.is_empty() {
            Report { after: Some(plan.clone()), ..Report::default() }
        } else {
            let mut meter = Meter::new(plan, self.global.format);
            apply::apply(kernel, goal, plan, &mut |progress| meter.show(progress))
        };
        // Only now: what is not proven to be in place may need the old keys.
        let turned = self.turn.as_ref().map(|turn| match report.is_in_place() {
            true => turn.perform(),
            false => turn.hold(),
        });
        self.tell(view, &report, turned.as_ref());
        Ok(status(&report, turned.as_ref()))
    }

    /// The work is done: a closed output must not change the status.
    fn tell(&self, view: &View<'_>, report: &Report, turned: Option<&Turned>) {
        let _ = match self.global.format {
            Format::Json => print_json(&report_json(view, report, turned)),
            Format::Text | Format::Prometheus => {
                let mut text = String::new();
                if !view.plan.steps.is_empty() {
                    text += &format!("\n{}", report_text(report, view.file, self.verb));
                }
                text += &turned.map(Turned::text).unwrap_or_default();
                print(&text)
            }
        };
    }
}

fn status(report: &Report, turned: Option<&Turned>) -> Status {
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
/// Never an error: a terminal that is gone must not stop a half-done apply.
struct Meter {
    total: usize,
    done: usize,
    each: bool,
    count: bool,
}

impl Meter {
    fn new(plan: &Plan, format: Format) -> Self {
        let total = plan.steps.len();
        let text = format == Format::Text;
        let each = text && total <= STEPS_SHOWN;
        Self { total, done: 0, each, count: text && !each && io::stdout().is_terminal() }
    }

    fn show(&mut self, progress: Progress<'_>) {
        let mut out = anstream::stdout().lock();
        let _ = match progress {
            Progress::Done(step) => {
                self.done += 1;
                if self.each {
                    writeln!(out, "{:>5}/{} {} {}", self.done, self.total, step.name(), step.id())
                } else if self.count && (self.done.is_multiple_of(64) || self.done == self.total) {
                    let end = if self.done == self.total { "\n" } else { "" };
                    write!(out, "\r{} of {} steps{end}", self.done, self.total)
                        .and_then(|()| out.flush())
                } else {
                    Ok(())
                }
            }
            Progress::TakenBack(step) if self.each => {
                writeln!(out, "{:>11} {} {}", "taken back:", step.name(), step.id())
            }
            Progress::TakenBack(_) => Ok(()),
            Progress::Failed(step, error) => {
                writeln!(io::stderr(), "error: {}: {error}", step.name())
            }
            Progress::Again => {
                writeln!(io::stderr(), "The kernel's answers got lost; looking and planning again.")
            }
        };
    }
}
