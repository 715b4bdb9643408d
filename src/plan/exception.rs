//! What exceptions let pass, in words.

use std::collections::BTreeSet;

use super::{
    change::{Change, ChangeAction, ObjectKind},
    warn::names,
};
use crate::{
    desired::{Desired, Goal},
    model::{Passage, PeerName, Warning, WarningCode},
};

/// Says what passes in the clear, and whom that lets in; and whose packets are lost for a while.
pub(super) fn warnings(desired: &Desired, changes: &[Change]) -> Vec<Warning> {
    if desired.goal != Goal::Mesh {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for (packets, excepted) in &desired.exceptions {
        let peers: BTreeSet<&PeerName> = excepted.peers.iter().collect();
        let servers: BTreeSet<&PeerName> = excepted.servers.iter().collect();
        let opens = match servers.is_empty() {
            true => String::new(),
            false => format!(
                "; who forges the address of {} gets in to every port of this host, from that source \
                 port",
                names(&servers)
            ),
        };
        let text = format!(
            "{packets} with {} passes in the clear, as [[except]] asks{opens}",
            names(&peers)
        );
        lines.push(Warning::new(WarningCode::Excepted, text));
    }
    let turns = |change: &&Change| {
        change.passage() == Some(Passage::Exception)
            && match change.action() {
                ChangeAction::Create | ChangeAction::Delete => true,
                ChangeAction::Update | ChangeAction::Replace => false,
            }
    };
    let is_new = desired.sas.len() == changes.iter().filter(|change| is_new_sa(change)).count();
    if changes.iter().any(|change| turns(&change)) && !is_new {
        let text = "exceptions change: their packets are lost, and never in the clear against the file, \
                    between two hosts of which one has applied it; with stage = \"send\" on all hosts \
                    meanwhile none is lost";
        lines.push(Warning::new(WarningCode::ExceptionChanges, text));
    }
    lines
}

/// Whether an SA is made where there was none: then the traffic as a whole waits for the other end.
fn is_new_sa(change: &Change) -> bool {
    change.kind() == ObjectKind::Sa && change.action() == ChangeAction::Create
}
