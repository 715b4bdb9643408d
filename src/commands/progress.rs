//! The progress of a run, step by step.

use std::io::{self, IsTerminal};

use super::printer::Printer;
use crate::{apply::Progress, cli::Format, plan::Plan, render::Plain};

/// Above this many steps, progress is one line and not a line a step.
const STEPS_SHOWN: usize = 64;

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
    /// With `--quiet` steps are not shown; failures always are.
    pub(super) fn new(plan: &Plan, format: Format, quiet: bool, printer: &'p Printer) -> Self {
        let total = plan.steps.len();
        let text = format == Format::Text && !quiet;
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
