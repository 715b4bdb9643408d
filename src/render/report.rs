//! The report of an apply or destroy, as text.

use std::fmt::{self, Write};

use super::Plain;
use crate::{
    apply::Report,
    plan::{Conflict, Flow, Plan},
};

/// The number of lines of one kind that are shown before the rest is counted.
const LINES_SHOWN: usize = 20;

/// The change that a report is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The kernel was to match the file.
    Apply,
    /// All of the mesh was to go.
    Destroy,
    /// The state before an apply was to come back.
    Revert,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "apply",
            Self::Destroy => "destroy",
            Self::Revert => "revert",
        })
    }
}

/// The steps that were done, those that were not, and whether traffic flows.
pub fn report_text(report: &Report, file: &str, verb: Verb) -> String {
    let mut text = String::new();
    let complete = match verb {
        Verb::Revert => report.is_restored(),
        Verb::Apply | Verb::Destroy => report.is_complete(),
    };
    match complete {
        true => write_complete(&mut text, report, file, verb),
        false => write_incomplete(&mut text, report, verb),
    }
    text
}

fn write_complete(text: &mut String, report: &Report, file: &str, verb: Verb) {
    let steps = report.done.len();
    let _ = match verb {
        Verb::Destroy => {
            let unseen = report.after.as_ref().is_some_and(|after| after.unseen_rules);
            let stay = match unseen {
                true => " A part of the firewall can't be seen: chains of the mesh may stay there.",
                false => "",
            };
            writeln!(text, "Destroy complete: {steps} steps.{stay}")
        }
        Verb::Revert => {
            writeln!(text, "Reverted: {steps} steps. The kernel holds what it held before.")
        }
        Verb::Apply => {
            let matches = report.after.as_ref().map(|after| after.matches(file));
            let matches = matches.unwrap_or_default();
            writeln!(text, "Apply complete: {steps} steps. {}", Plain(matches))
        }
    };
    write_some(text, left_out(report));
}

fn write_incomplete(text: &mut String, report: &Report, verb: Verb) {
    let what = match verb {
        Verb::Revert => "Not reverted as a whole",
        Verb::Apply | Verb::Destroy => "Incomplete",
    };
    let _ = writeln!(
        text,
        "{what}: {} steps done, {} failed, {} left{}.",
        report.done.len(),
        report.failed.len(),
        report.left.len(),
        match report.undone.len() {
            0 => String::new(),
            rolled_back => format!(", {rolled_back} rolled back"),
        }
    );
    let failed = report.failed.iter().map(|(_, error)| format!("failed: {error}"));
    write_some(text, failed);
    write_some(text, left_out(report));
    let undone = report.undone.iter();
    let undone = undone.map(|step| format!("rolled back: {} {}", step.name(), step.id()));
    write_some(text, undone);
    let left = report.left.iter().map(|step| format!("left: {} {}", step.name(), step.id()));
    write_some(text, left);
    if let Some(error) = &report.stopped {
        let _ = writeln!(text, "  stopped: {}", Plain(error));
    }
    let unlike = report.unlike.iter().flatten();
    write_some(
        text,
        unlike.map(|what| format!("not as before: {what}")).collect::<Vec<_>>().into_iter(),
    );
    if report.answers_lost {
        *text += "  answers of the kernel got lost: more may be done than is told here\n";
    }
    if report.probe_stays {
        *text += "  that by which the kernel was tried, an SA or an empty chain, stays until the next apply\n";
    }
    if let Some(after) = &report.after {
        write_second_plan(text, report, after);
    }
    let flows = report.flows.iter().map(|(peer, flow)| match flow {
        Flow::Clear => format!("TRAFFIC TO {peer} FLOWS IN THE CLEAR"),
        Flow::Protected(_) | Flow::Blocked => format!("traffic to {peer}: {flow}"),
    });
    write_some(text, flows);
}

/// The differences that a second look has found.
fn write_second_plan(text: &mut String, report: &Report, after: &Plan) {
    let conflicts = after.conflicts.iter().map(|conflict| {
        let Conflict { stops, object, text, .. } = conflict;
        format!("in conflict, stops {stops}: {object}: {text}")
    });
    write_some(text, conflicts);
    if after.held > 0 {
        let _ = writeln!(text, "  held back by conflicts: {}", after.held);
    }
    // Steps that failed or are left were named above; this tells of another program that undid
    // some.
    if report.failed.is_empty() && report.left.is_empty() && report.unlike.is_none() {
        let undone = after
            .changes
            .iter()
            .map(|change| format!("not as wanted again: {} {}", change.kind().word(), change.id()));
        write_some(text, undone);
    }
}

/// Chains of the second guard that this kernel can't have.
fn left_out(report: &Report) -> impl ExactSizeIterator<Item = String> {
    report.left_out.iter().map(|(id, error)| format!("left out: chain {id}: {error}"))
}

fn write_some(text: &mut String, lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(LINES_SHOWN);
    for line in lines.take(LINES_SHOWN) {
        let _ = writeln!(text, "  {}", Plain(line));
    }
    if more > 0 {
        let _ = writeln!(text, "  and {more} more of these");
    }
}

/// The end of a wait for a confirmation.
pub struct ConfirmationOutcome {
    /// `confirmed`, or why not.
    pub word: &'static str,
    /// The report of the revert, if it was not confirmed.
    pub report: Option<Report>,
}

/// The result of turning a ratchet.
pub struct RatchetAdvance {
    /// The oldest generation with keys that could be made before; `None` if it couldn't be read.
    pub before: Option<u64>,
    /// The oldest one with keys that can be made now.
    pub after: Option<u64>,
    /// Why it was not turned, or the place where its old content may be left.
    pub error: Option<String>,
}

impl RatchetAdvance {
    /// A line for people; empty where nothing was to do.
    pub fn text(&self) -> String {
        match self {
            Self { before: None, error: Some(error), .. } => format!(
                "The ratchet was not turned, and the old keys can still be made: {}.\n\
                 Run apply again when that is put right.\n",
                Plain(error)
            ),
            Self { before, after: Some(after), error: Some(error) } if *before < Some(*after) => {
                format!(
                    "The ratchet is at generation {after} now, but keys of generations before it \
                     may not be destroyed on this host: {}.\n",
                    Plain(error)
                )
            }
            Self { before: Some(before), error: Some(error), .. } => format!(
                "The ratchet stays at generation {before}, and older keys than are accepted may \
                 still be made: {}.\n",
                Plain(error)
            ),
            Self { before: Some(before), after: Some(after), .. } if before < after => format!(
                "The ratchet is at generation {after} now; the keys of all generations before it \
                 are destroyed on this host.\n"
            ),
            _ => String::new(),
        }
    }
}
