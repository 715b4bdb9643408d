//! What `apply --confirm-within` prepares, waits for, and does if nobody confirms.

use std::time::Duration;

use super::{
    apply::Meter,
    confirm::{Verdict, Waiter},
    printer::Printer,
};
use crate::{
    apply::{self, Goal, Report},
    cli::Format,
    config::Config,
    desired::{Desired, Keyring},
    error::Error,
    kernel::{
        Kernel,
        linux::{Linux, clock},
    },
    model::{Live, Reqid},
    plan::Plan,
    render::{Ended, TAKE_BACK, report_text},
    restore,
};

/// A run that has to be confirmed, and what there was before it.
pub(super) struct Wait {
    waiter: Waiter,
    time: Duration,
    before: Desired,
    keyring: Keyring,
    reqid: Reqid,
}

impl Wait {
    /// Prepares, before anything changes, to take `plan` back to `live`.
    pub(super) fn begin(
        kernel: &mut Linux,
        goal: &Goal<'_>,
        plan: &Plan,
        live: &Live,
        time: Duration,
    ) -> Result<Self, Error> {
        let reqid = goal.reqid;
        let keys = kernel.keys(reqid)?.into_iter().collect();
        let (before, keyring) = restore::restore(live, keys, plan, goal.desired, reqid)
            .map_err(|problems| Error::Irreversible { problems })?;
        Ok(Self { waiter: Waiter::begin()?, time, before, keyring, reqid })
    }

    /// Says what to do. In JSON that goes to standard error.
    pub(super) fn ask(&self, printer: &Printer, json: bool) {
        let time = humantime::format_duration(self.time);
        let text = format!(
            "Run `meshsec confirm` within {time}, best from a new connection, or all of this is \
             taken back. Ctrl-C takes it back now."
        );
        if json { printer.err(text) } else { printer.out(text + "\n") }
    }

    /// Waits, and takes all back unless it was confirmed.
    pub(super) fn end(
        &mut self,
        kernel: &mut Linux,
        config: &Config,
        printer: &Printer,
        json: bool,
    ) -> Ended {
        let verdict = self.waiter.wait(self.time, config.mesh.as_str());
        let (word, text) = (verdict.word(), verdict.to_string());
        if verdict == Verdict::Confirmed {
            if !json {
                printer.out("Confirmed.\n");
            }
            return Ended { word, report: None };
        }
        printer.err(format!("{text}; taking all of it back."));
        let report = self.take_back(kernel, printer, json);
        if !json {
            printer.out(report_text(&report, "", TAKE_BACK));
        }
        Ended { word, report: Some(report) }
    }

    fn take_back(&mut self, kernel: &mut Linux, printer: &Printer, json: bool) -> Report {
        restore::forget_ended(&mut self.before, clock::now());
        let live = match kernel.observe(self.reqid) {
            Ok(live) => live,
            Err(error) => return Report { stopped: Some(error), ..Report::default() },
        };
        let goal = Goal { desired: &self.before, keyring: &self.keyring, reqid: self.reqid };
        let plan = Plan::new(&self.before, &live, self.reqid);
        if plan.is_empty() {
            return Report { after: Some(plan), ..Report::default() };
        }
        for warning in &plan.warnings {
            printer.err(format!("warning: {warning}"));
        }
        let format = if json { Format::Json } else { Format::Text };
        let mut meter = Meter::new(&plan, format, printer);
        apply::apply(kernel, &goal, &plan, &mut |progress| meter.show(progress))
    }
}
