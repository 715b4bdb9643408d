//! The effect of a plan on packets, in words.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write};

use super::{
    Subject, View,
    text::{BOLD, traffic},
};
use crate::plan::{FarEnd, Flow, Outcome, list};

/// A line for each effect, with the hosts that have it in common.
pub(super) fn write_outcomes(text: &mut String, view: &View<'_>) {
    if view.outcomes.is_empty() {
        return;
    }
    let packets = match view.subject {
        Subject::File { config, .. } => traffic(config),
        Subject::Named(_) => "traffic".into(),
    };
    let _ = writeln!(text, "\n{BOLD}Effect on {packets} that leaves{BOLD:#}");
    // The worst first.
    let mut alike: BTreeMap<(Reverse<u8>, String), Vec<&FarEnd>> = BTreeMap::new();
    for (far, outcome) in view.outcomes {
        let place = Reverse(rank(outcome.after));
        alike.entry((place, in_words(*outcome))).or_default().push(far);
    }
    for ((_, effect), ends) in alike {
        let _ = writeln!(text, "    {}: {effect}", listed(&ends));
    }
}

fn rank(flow: Flow) -> u8 {
    match flow {
        Flow::Protected(_) => 0,
        Flow::Blocked => 1,
        Flow::Clear => 2,
    }
}

fn in_words(Outcome { before, after }: Outcome) -> String {
    match before.word() == after.word() {
        true => format!("{}, as before", word(after)),
        false => format!("{}, and before {}", word(after), word(before)),
    }
}

fn word(flow: Flow) -> &'static str {
    match flow {
        Flow::Protected(_) => "encrypted",
        Flow::Blocked => "blocked",
        Flow::Clear => "in the clear",
    }
}

fn listed(ends: &[&FarEnd]) -> String {
    let name = |end: &&FarEnd| match end {
        FarEnd::Peer(peer) => peer.to_string(),
        FarEnd::Former(address) => address.to_string(),
        FarEnd::Others => "all other hosts".into(),
    };
    format!("to {}", list(&ends.iter().map(name).collect::<Vec<_>>()))
}
