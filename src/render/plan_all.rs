//! `plan --all` as text: a line for each host, the pairs, and the sum.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    Plain,
    text::{RED, YELLOW, title},
};
use crate::{
    agreement::Disagreement,
    config::{Config, Moment},
    model::{Generation, PeerName, Warning, WarningCode},
    plan::{ChangeAction, Plan},
};

/// The conflicts of one host in words; the others are counted.
const SHOWN: usize = 3;

/// The plan of one host, in numbers.
pub struct HostPlan {
    /// The host.
    pub peer: PeerName,
    /// The generation that it is planned for.
    pub generation: Generation,
    /// The file of its live state; `None` is an empty host.
    pub snapshot: Option<String>,
    /// Changes, by action.
    pub create: usize,
    /// Changes, by action.
    pub update: usize,
    /// Changes, by action.
    pub replace: usize,
    /// Changes, by action.
    pub delete: usize,
    /// Its number of conflicts, and the first of them in words.
    pub conflicts: (usize, Vec<String>),
    /// The warnings of its plan.
    pub warnings: Vec<Warning>,
}

impl HostPlan {
    /// The numbers of a plan.
    pub fn of(
        peer: &PeerName,
        plan: &Plan,
        generation: Generation,
        snapshot: Option<String>,
    ) -> Self {
        let conflicts = plan.conflicts.iter().map(|conflict| conflict.text.clone());
        Self {
            peer: peer.clone(),
            generation,
            snapshot,
            create: plan.count(ChangeAction::Create),
            update: plan.count(ChangeAction::Update),
            replace: plan.count(ChangeAction::Replace),
            delete: plan.count(ChangeAction::Delete),
            conflicts: (plan.conflicts.len(), conflicts.take(SHOWN).collect()),
            warnings: plan.warnings.clone(),
        }
    }

    /// The numbers of a plan for an empty host, which creates all objects that are wanted.
    pub fn of_empty(peer: &PeerName, objects: usize, generation: Generation) -> Self {
        Self { create: objects, ..Self::of(peer, &Plan::default(), generation, None) }
    }

    fn changes(&self) -> usize {
        self.create + self.update + self.replace + self.delete
    }
}

/// All plans with their context.
pub struct PlanAllView<'a> {
    /// The file.
    pub config: &'a Config,
    /// The generation of now.
    pub moment: Moment,
    /// The hosts, in the order of their names.
    pub hosts: &'a [HostPlan],
    /// Hosts of which the folder has no snapshot.
    pub missing: &'a [PeerName],
    /// Files in the folder that are not snapshots by their names.
    pub ignored: usize,
    /// Whether warnings of hosts were not looked for.
    pub warnings_left_out: bool,
    /// The number of pairs.
    pub pairs: usize,
    /// The number of pairs and directions that don't agree.
    pub unfit: usize,
    /// The first of them, in words.
    pub disagreements: &'a [Disagreement],
    /// Warnings of the file and its secrets.
    pub warnings: &'a [Warning],
    /// Whether live states come from snapshots.
    pub from_snapshots: bool,
}

/// Warnings with one code: the first text, and the number of hosts that have some.
pub(super) struct Counted<'a> {
    pub(super) code: WarningCode,
    pub(super) text: &'a str,
    /// 0 is the file itself.
    pub(super) hosts: usize,
}

impl PlanAllView<'_> {
    /// Whether something stands in the way of a host, or is not known.
    pub fn is_refused(&self) -> bool {
        let conflict = self.hosts.iter().any(|host| host.conflicts.0 > 0);
        conflict || self.unfit > 0 || !self.missing.is_empty()
    }

    /// Whether some host has changes.
    pub fn has_changes(&self) -> bool {
        self.hosts.iter().any(|host| host.changes() > 0)
    }

    /// The sums of all hosts: create, update, replace, delete.
    pub(super) fn sums(&self) -> [usize; 4] {
        let sum = |number: fn(&HostPlan) -> usize| self.hosts.iter().map(number).sum();
        [
            sum(|host| host.create),
            sum(|host| host.update),
            sum(|host| host.replace),
            sum(|host| host.delete),
        ]
    }

    /// The warnings of all hosts, each code once.
    pub(super) fn all_warnings(&self) -> Vec<Counted<'_>> {
        let of_file = self.warnings.iter();
        let mut all: Vec<Counted<'_>> = of_file
            .map(|warning| Counted { code: warning.code, text: &warning.text, hosts: 0 })
            .collect();
        let mut by_code = BTreeMap::<&str, Counted<'_>>::new();
        for host in self.hosts {
            let mut seen = BTreeMap::new();
            for warning in &host.warnings {
                seen.entry(warning.code.word()).or_insert(warning);
            }
            for (word, warning) in seen {
                let first = Counted { code: warning.code, text: &warning.text, hosts: 0 };
                by_code.entry(word).or_insert(first).hosts += 1;
            }
        }
        all.extend(by_code.into_values());
        all
    }
}

/// All plans as text.
pub fn plan_all_text(view: &PlanAllView<'_>) -> String {
    let (config, moment) = (view.config, view.moment);
    let mut text = title(super::Subject::File { config, moment }, None);
    text.push('\n');
    let names = view.hosts.iter().map(|host| host.peer.as_str().len());
    let width = names.max().unwrap_or_default();
    for host in view.hosts {
        let _ = writeln!(text, "{}", host_line(host, width));
        for conflict in &host.conflicts.1 {
            let _ = writeln!(text, "    {RED}Conflict:{RED:#} {}", Plain(conflict));
        }
        if host.conflicts.0 > host.conflicts.1.len() {
            let more = host.conflicts.0 - host.conflicts.1.len();
            let _ = writeln!(text, "    and {more} more conflicts");
        }
    }
    write_missing(&mut text, view.missing, view.ignored);
    write_pairs(&mut text, view);
    write_warnings(&mut text, view);
    let [create, update, replace, delete] = view.sums();
    let _ = writeln!(
        text,
        "\nPlans: {} hosts, {create} to create, {update} to update, {replace} to replace, {delete} \
         to delete.",
        view.hosts.len()
    );
    text
}

fn host_line(host: &HostPlan, width: usize) -> String {
    let name = host.peer.as_str();
    let from = host.snapshot.as_ref().map(|file| format!(" ({})", Plain(file)));
    let from = from.unwrap_or_default();
    if host.changes() == 0 {
        return format!("{name:width$}  no changes{from}");
    }
    format!(
        "{name:width$}  {} to create, {} to update, {} to replace, {} to delete{from}",
        host.create, host.update, host.replace, host.delete
    )
}

/// The hosts without a snapshot in a folder, and the number of its other entries.
pub(super) fn write_missing(text: &mut String, missing: &[PeerName], ignored: usize) {
    for name in missing {
        let _ = writeln!(
            text,
            "{RED}{name}: no snapshot in the folder, so nothing is known of it{RED:#}"
        );
    }
    if ignored > 0 {
        let _ = writeln!(
            text,
            "Not looked at: {} entries of the folder that are no files ending with .json",
            ignored
        );
    }
}

fn write_pairs(text: &mut String, view: &PlanAllView<'_>) {
    let pairs = view.pairs;
    if view.unfit == 0 {
        let _ = writeln!(
            text,
            "\nPairs: both ends of all {pairs} agree: the SAs, policies and packets that one sends are \
             those that the other takes in."
        );
        return;
    }
    let _ = writeln!(
        text,
        "\n{RED}Pairs: {} directions of {pairs} pairs do not agree.{RED:#}",
        view.unfit
    );
    for disagreement in view.disagreements {
        let _ = writeln!(text, "    {}", Plain(disagreement));
    }
    if view.unfit > view.disagreements.len() {
        let _ = writeln!(text, "    and {} more", view.unfit - view.disagreements.len());
    }
}

fn write_warnings(text: &mut String, view: &PlanAllView<'_>) {
    let mut gap = "\n";
    for warning in view.all_warnings() {
        let hosts = match warning.hosts {
            0 => String::new(),
            1 => "on 1 host: ".into(),
            hosts => format!("on {hosts} hosts, such as: "),
        };
        let _ = writeln!(text, "{gap}{YELLOW}Warning:{YELLOW:#} {hosts}{}", Plain(warning.text));
        gap = "";
    }
    if view.warnings_left_out {
        let _ = writeln!(
            text,
            "\nThe hosts are too many to look for the warnings of each: meshsec plan --local NAME --live \
             empty has those of one."
        );
    }
}
