//! Ports that come to a kind with a protocol and ports, and ports that go: the costs of the time in
//! which one host has applied and the other has not.
//!
//! At stage send there are none. A host takes encrypted packets of any port, since its SAs are for
//! all, and clear text of the ports of its policies.

use std::collections::BTreeSet;

use super::{change::Change, policy::PolicyChange, stage::BY_STAGES, warn::names};
use crate::{
    desired::{Desired, Goal},
    model::{Direction, PeerName, Policy, PortMatch, Selector, Warning, WarningCode},
};

/// The ports of some policies, in words: `tcp ports 2888, 3888`; `None` for other kinds.
pub(super) fn named<'a>(
    desired: &Desired,
    policies: impl Iterator<Item = &'a Policy>,
) -> Option<String> {
    let protocol = desired.traffic?.protocol()?;
    let ports: BTreeSet<u16> = policies.filter_map(|policy| port(&policy.id.selector)).collect();
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
    (!ports.is_empty()).then(|| format!("{} {noun} {}", protocol.name(), numbers.join(", ")))
}

/// The port that a selector is for, as source or destination.
fn port(selector: &Selector) -> Option<u16> {
    let exact = |ports: PortMatch| (ports.mask == u16::MAX).then_some(ports.port);
    exact(selector.dport).or_else(|| exact(selector.sport))
}

/// The policy that refused clear text, if a change deletes one.
fn opens(change: &Change) -> Option<&Policy> {
    let PolicyChange::Delete(policy) = change.of_policy()? else { return None };
    let refused = policy.id.direction == Direction::In && !policy.lets_clear_text_pass();
    refused.then_some(policy)
}

/// Ports that are protected no more with peers that still are: where clear text was refused, the
/// other end refuses it until it has applied.
pub(super) fn removed(desired: &Desired, changes: &[Change]) -> Option<Warning> {
    if desired.goal != Goal::Mesh {
        return None;
    }
    let paired: BTreeSet<&PeerName> = desired.peers.values().collect();
    let gone = changes.iter().filter_map(|change| {
        let peer = change.peer.as_ref().filter(|peer| paired.contains(peer))?;
        Some((peer, opens(change)?))
    });
    let (peers, policies): (BTreeSet<&PeerName>, Vec<&Policy>) = gone.unzip();
    let ports = named(desired, policies.into_iter())?;
    let text = format!(
        "{ports} with {}: packets leave here in the clear from now on, and the other end refuses \
         them until it has applied too; {BY_STAGES}",
        names(&peers)
    );
    Some(Warning::new(WarningCode::StageSkipped, text))
}
