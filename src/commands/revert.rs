//! `--confirm-within`: prepares, waits, and reverts if nobody confirms.

use std::time::Duration;

use super::{
    confirm::{Verdict, Waiter},
    printer::Printer,
    progress::Meter,
};
use crate::{
    apply::{Progress, Report, Target},
    cli::Format,
    desired::{Desired, Keyring},
    error::Error,
    kernel::linux::{Linux, clock},
    model::{Live, Reqid},
    plan::Plan,
    render::{ConfirmationOutcome, Verb, report_text},
    restore,
    revert::revert,
};

/// A run that has to be confirmed, and the state before it.
pub(super) struct Wait {
    waiter: Waiter,
    time: Duration,
    before: Desired,
    keyring: Keyring,
    /// The desired state of the file when the apply began.
    then: Desired,
    reqid: Reqid,
}

/// The desired state of the file at the time of the call, if its secrets are at hand.
pub(super) type DesiredNow<'a> = &'a dyn Fn() -> Option<(Desired, Keyring)>;

impl Wait {
    /// Prepares, before anything changes, to revert `plan`, so that the host holds `live` again.
    pub(super) fn begin(
        kernel: &mut Linux,
        goal: &Target<'_>,
        plan: &Plan,
        live: &Live,
        time: Duration,
    ) -> Result<Self, Error> {
        let reqid = goal.reqid;
        let keys = kernel.keys(reqid)?.into_iter().collect();
        let (before, keyring) = restore::restore(live, keys, plan, goal.desired, reqid)
            .map_err(|problems| Error::Irreversible { problems })?;
        let then = goal.desired.clone();
        Ok(Self { waiter: Waiter::begin()?, time, before, keyring, then, reqid })
    }

    /// Tells the operator to confirm. In JSON that goes to standard error.
    ///
    /// An early confirmation came before all was applied, and is refused: that somebody could type
    /// then tells nothing about the network after it.
    pub(super) fn ask(&self, printer: &Printer, json: bool) {
        self.waiter.refuse_early();
        let time = humantime::format_duration(self.time);
        let text = format!(
            "Run `meshsec confirm` within {time}, best from a new connection, or all of this is \
             reverted. Ctrl-C reverts it now."
        );
        if json { printer.err(text) } else { printer.out(text + "\n") }
    }

    /// Waits, and reverts all unless it was confirmed.
    pub(super) fn end(
        &mut self,
        kernel: &mut Linux,
        (mesh, now): (&str, DesiredNow<'_>),
        printer: &Printer,
        json: bool,
    ) -> ConfirmationOutcome {
        let verdict = self.waiter.wait(self.time, mesh);
        let (word, text) = (verdict.word(), verdict.to_string());
        if verdict == Verdict::Confirmed {
            if !json {
                printer.out("Confirmed.\n");
            }
            return ConfirmationOutcome { word, report: None };
        }
        printer.err(format_args!("{text}; reverting all of it."));
        if let Some(now) = now() {
            restore::follow_the_clock(&mut self.before, &mut self.keyring, &self.then, &now);
        }
        let report = self.revert(kernel, printer, json);
        if !json {
            printer.out(report_text(&report, "", Verb::Revert));
        }
        ConfirmationOutcome { word, report: Some(report) }
    }

    fn revert(&mut self, kernel: &mut Linux, printer: &Printer, json: bool) -> Report {
        restore::forget_ended(&mut self.before, clock::now());
        let goal = Target { desired: &self.before, keyring: &self.keyring, reqid: self.reqid };
        let format = if json { Format::Json } else { Format::Text };
        let mut meter = None;
        revert(kernel, &goal, &mut |progress| match progress {
            Progress::Planned(plan) => {
                for warning in &plan.warnings {
                    printer.err(format_args!("warning: {warning}"));
                }
                meter = Some(Meter::new(plan, format, false, printer));
            }
            Progress::Done(_)
            | Progress::RolledBack(_)
            | Progress::Failed(..)
            | Progress::LeftOut(..)
            | Progress::Again
            | Progress::Retry => meter.iter_mut().for_each(|meter| meter.show(&progress)),
        })
    }
}
