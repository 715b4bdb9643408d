//! `compare` as text.

use std::fmt::Write;

use super::{
    Plain, Subject,
    plan_all::write_missing,
    text::{RED, YELLOW, title},
};
use crate::{
    compare::{Cut, Finding, Rollout, RolloutState, Seen, Way},
    config::{Config, Moment},
    model::{PeerName, Warning},
};

/// Two hosts beside each other.
pub struct CompareView<'a> {
    /// The file.
    pub config: &'a Config,
    /// The generation at the time of the first look.
    pub moment: Moment,
    /// The first host.
    pub near: Seen<'a>,
    /// The second host.
    pub far: Seen<'a>,
    /// The packets of each to the other.
    pub ways: [Way; 2],
    /// The parts that differ.
    pub findings: Vec<Finding>,
}

/// All hosts beside each other, and the rollout of the file.
pub struct RolloutView<'a> {
    /// The file.
    pub config: &'a Config,
    /// The generation of now.
    pub moment: Moment,
    /// The number of hosts with a snapshot.
    pub hosts: usize,
    /// Hosts without one.
    pub missing: Vec<PeerName>,
    /// Files in the folder that are not snapshots by their names.
    pub ignored: usize,
    /// The result.
    pub rollout: Rollout,
    /// Warnings of the file and its secrets.
    pub warnings: &'a [Warning],
}

impl RolloutView<'_> {
    /// Whether all is known, and no packet is lost at any point, if hosts come in the order.
    pub fn is_clear(&self) -> bool {
        let lost = |cut: &Cut| match cut.at {
            RolloutState::Before | RolloutState::After => true,
            RolloutState::SenderFirst | RolloutState::ReceiverFirst => false,
        };
        self.missing.is_empty()
            && self.rollout.order.is_some()
            && !self.rollout.cuts.iter().any(lost)
    }

    fn of(&self, point: RolloutState) -> Vec<&Cut> {
        self.rollout.cuts.iter().filter(|cut| cut.at == point).collect()
    }
}

/// Two hosts as text.
pub fn compare_text(view: &CompareView<'_>) -> String {
    let (config, moment) = (view.config, view.moment);
    let mut text = title(Subject::File { config, moment }, None);
    let (near, far) = (&view.near.peer.name, &view.far.peer.name);
    let _ = writeln!(text, "\nPackets:");
    for way in &view.ways {
        write_way(&mut text, way);
    }
    if view.findings.is_empty() {
        let _ = writeln!(text, "\nNothing differs between {near} and {far}.");
        return text;
    }
    let _ = writeln!(text, "\nDifferences:");
    let width = near.as_str().len().max(far.as_str().len());
    for finding in &view.findings {
        let _ = writeln!(text, "    {}", finding.code.name());
        for (name, value) in [(near, &finding.near), (far, &finding.far)] {
            let _ = writeln!(text, "        {:width$}  {}", name.as_str(), Plain(value));
        }
    }
    text
}

fn write_way(text: &mut String, way: &Way) {
    let color = if way.fate.arrives() { anstyle::Style::new() } else { RED };
    let _ = writeln!(text, "    {color}from {} to {}: {}{color:#}", way.from, way.to, way.fate);
}

/// Losses that are listed at one point; the others are counted.
const SHOWN: usize = 20;

/// A rollout as text.
pub fn rollout_text(view: &RolloutView<'_>) -> String {
    let (config, moment) = (view.config, view.moment);
    let mut text = title(Subject::File { config, moment }, None);
    let _ = writeln!(text, "\n{} hosts, {} pairs", view.hosts, view.rollout.pairs);
    write_missing(&mut text, &view.missing, view.ignored);
    for (point, what) in [
        (RolloutState::Before, "Lost now, before anything changes:"),
        (
            RolloutState::SenderFirst,
            "Lost while the sender has applied the file and the receiver has not:",
        ),
        (
            RolloutState::ReceiverFirst,
            "Lost while the receiver has applied the file and the sender has not:",
        ),
        (RolloutState::After, "Lost once both have applied the file:"),
    ] {
        write_cuts(&mut text, what, &view.of(point));
    }
    for warning in view.warnings {
        let _ = writeln!(text, "\n{YELLOW}Warning:{YELLOW:#} {}", Plain(warning));
    }
    let _ = writeln!(text, "\n{}", conclusion(view));
    text
}

fn write_cuts(text: &mut String, what: &str, cuts: &[&Cut]) {
    if cuts.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{what}");
    cuts.iter().take(SHOWN).for_each(|cut| write_way(text, &cut.way));
    if let more @ 1.. = cuts.len().saturating_sub(SHOWN) {
        let _ = writeln!(text, "    and {more} more");
    }
}

/// The last line.
fn conclusion(view: &RolloutView<'_>) -> String {
    let known = match view.missing.is_empty() {
        true => String::new(),
        false => " of hosts that have a snapshot".into(),
    };
    let after = match view.of(RolloutState::After).len() {
        0 => String::new(),
        lost => format!(" Once it is done, packets are lost in {lost} directions."),
    };
    match &view.rollout.order {
        _ if view.rollout.any_order => {
            format!("Rollout: in any order, no pair{known} is cut on the way.{after}")
        }
        Some(order) => {
            let names: Vec<&str> = order.iter().map(PeerName::as_str).collect();
            format!(
                "Rollout: no pair{known} is cut on the way in this order: {}.{after}",
                names.join(", ")
            )
        }
        None => format!("Rollout: each order of hosts cuts some pair{known} on the way.{after}"),
    }
}
