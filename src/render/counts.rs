//! How many changes a plan has, of guards, chains and each peer.

use std::{collections::BTreeMap, fmt::Write};

use crate::{
    model::PeerName,
    plan::{Change, ChangeAction, list},
};

/// Numbers of changes by their effect, in the order in which they are told.
type Counts = [usize; 4];

const ACTIONS: [ChangeAction; 4] =
    [ChangeAction::Create, ChangeAction::Update, ChangeAction::Replace, ChangeAction::Delete];

/// A line for each number of changes: peers that have the same share it.
pub(super) fn write_counts(text: &mut String, changes: &[Change]) {
    let mut others: BTreeMap<&'static str, Counts> = BTreeMap::new();
    let mut peers: BTreeMap<&PeerName, Counts> = BTreeMap::new();
    for change in changes {
        let counts = match &change.peer {
            Some(peer) => peers.entry(peer).or_default(),
            None => others.entry(change.kind().title()).or_default(),
        };
        let at = ACTIONS.iter().position(|action| *action == change.action());
        counts[at.unwrap_or_default()] += 1;
    }
    let mut alike: BTreeMap<Counts, Vec<&PeerName>> = BTreeMap::new();
    peers.into_iter().for_each(|(peer, counts)| alike.entry(counts).or_default().push(peer));
    if !changes.is_empty() {
        text.push('\n');
    }
    for (title, counts) in others {
        let _ = writeln!(text, "  {title}: {}", in_words(counts));
    }
    for (counts, peers) in alike {
        let each = if peers.len() == 1 { "" } else { " each" };
        let _ = writeln!(text, "  {}: {}{each}", names(&peers), in_words(counts));
    }
}

fn names(peers: &[&PeerName]) -> String {
    let title = if peers.len() == 1 { "Peer" } else { "Peers" };
    format!("{title} {}", list(&peers.iter().map(ToString::to_string).collect::<Vec<_>>()))
}

fn in_words(counts: Counts) -> String {
    let words = ACTIONS.iter().zip(counts).filter(|(_, count)| *count > 0);
    words
        .map(|(action, count)| format!("{count} to {}", action.word()))
        .collect::<Vec<_>>()
        .join(", ")
}
