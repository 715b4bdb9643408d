//! What exceptions let pass, in words.

use std::collections::BTreeSet;

use super::{
    change::{Change, Operation, peer_of},
    policy::PolicyChange,
    warn::names,
};
use crate::{
    desired::{Desired, Goal},
    model::{Passage, PeerName, Policy, Warning, WarningCode},
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
                "; whoever forges the address of {} reaches every port of this host, from that source \
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
    lines.extend(changing(desired, changes));
    lines
}

/// Before the last stage a pair takes these packets in either form, and where the whole pair is new
/// another warning tells what is lost.
fn changing(desired: &Desired, changes: &[Change]) -> Option<Warning> {
    let new: BTreeSet<&PeerName> = changes
        .iter()
        .filter(|change| matches!(change.operation, Operation::Policy(PolicyChange::Create(_))))
        .filter_map(|change| change.peer.as_ref())
        .collect();
    let ends = |policy: &Policy| {
        let selector = policy.id.selector;
        peer_of(desired, selector.src.address, selector.dst.address)
    };
    let changed = |change: &'_ Change| match change.of_policy()? {
        PolicyChange::Create(policy) | PolicyChange::Delete(policy) => {
            ends(policy).filter(|_| policy.passage() == Some(Passage::Exception))
        }
        PolicyChange::Update { .. } => None,
    };
    let peers: BTreeSet<&PeerName> = changes
        .iter()
        .filter_map(changed)
        .filter(|peer| desired.stage(peer).enforces() && !new.contains(peer))
        .collect();
    (!peers.is_empty()).then(|| {
        let text = format!(
            "exceptions change: their packets are lost between this host and {}, and never in the \
             clear against the file, until both have applied it; with stage = \"send\" on all hosts \
             meanwhile none is lost",
            names(&peers)
        );
        Warning::new(WarningCode::ExceptionChanges, text)
    })
}
