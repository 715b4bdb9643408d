//! Desired x live -> changes.
//!
//! Compares normalised values, never attributes. An object of the mesh that nothing asks for goes;
//! foreign objects are not looked at here.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use super::{
    chains,
    change::{Change, ObjectKind, Operation},
    link,
};
use crate::{
    desired::{Desired, WantedSa},
    model::{
        Direction, Live, Mark, PeerName, Policy, PolicyId, Reason, ReasonCode, Reqid, Sa, SaId,
        Selector,
    },
};

/// All changes, guards and the link first, then by peer, SAs before policies.
pub(super) fn diff(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Change> {
    let sas: BTreeMap<SaId, &Sa> =
        live.0.sas.iter().filter(|sa| sa.reqid == reqid).map(|sa| (sa.id, sa)).collect();
    let policies: BTreeMap<PolicyId, &Policy> = live
        .0
        .policies
        .iter()
        .filter(|policy| policy.belongs_to(reqid))
        .map(|policy| (policy.id, policy))
        .collect();

    let mut changes: Vec<Change> = Vec::new();
    changes.extend(desired.sas.values().filter_map(|wanted| wanted_sa(wanted, &sas)));
    changes.extend(sas.values().filter_map(|sa| unwanted_sa(desired, sa)));
    for wanted in desired.policies.values() {
        let live = policies.get(&wanted.policy.id).copied();
        changes.extend(wanted_policy(Some(&wanted.peer), &wanted.policy, live));
    }
    for guard in desired.guards.values() {
        changes.extend(wanted_policy(None, guard, policies.get(&guard.id).copied()));
    }
    for policy in desired.discovery.values() {
        let ours = policies.get(&policy.id).copied();
        // A policy that another mesh has made on this host need not be made twice.
        let served = || live.0.policies.iter().any(|foreign| foreign.serves_as(policy));
        if ours.is_some() || !served() {
            changes.extend(wanted_policy(None, policy, ours));
        }
    }
    changes.extend(policies.values().filter_map(|policy| unwanted_policy(desired, policy)));
    changes.extend(chains::diff(desired, &live.0.firewall, reqid));

    changes.extend(link::change(desired, live));

    let rank = |change: &Change| match change.kind() {
        ObjectKind::Guard if change.peer.is_none() => 0,
        ObjectKind::Chain => 1,
        ObjectKind::Link => 2,
        ObjectKind::Sa => 3,
        ObjectKind::Policy | ObjectKind::Guard => 4 + u8::from(change.is_discovery()),
    };
    changes.sort_by(|a, b| (&a.peer, rank(a)).cmp(&(&b.peer, rank(b))));
    changes
}

fn wanted_sa(wanted: &WantedSa, live: &BTreeMap<SaId, &Sa>) -> Option<Change> {
    let id = wanted.sa.id;
    let at_spi =
        live.range(id..).take_while(|(other, _)| SaId { mark: Mark::NONE, ..**other } == id);
    let (mut same, mut twins) = (None, Vec::new());
    for (other, sa) in at_spi {
        if *other == id { same = Some(*sa) } else { twins.push((*sa).clone()) }
    }
    let reason = match (same, twins.is_empty()) {
        (None, true) => {
            let operation = Operation::CreateSa(wanted.clone());
            return Some(Change {
                peer: Some(wanted.peer.clone()),
                operation,
                reason: Reason::MISSING,
            });
        }
        (_, false) => Reason::new(
            ReasonCode::MarkedTwin,
            "an SA of ours with a mark has this SPI, and the kernel can't tell the two apart",
        ),
        (Some(sa), true) => difference(sa, &wanted.sa)?,
    };
    let operation = Operation::ReplaceSa { live: same.cloned(), wanted: wanted.clone(), twins };
    Some(Change { peer: Some(wanted.peer.clone()), operation, reason })
}

/// Why an SA isn't the wanted one, the most telling reason first.
fn difference(live: &Sa, wanted: &Sa) -> Option<Reason> {
    let (code, text) = if live.is_larval() {
        (ReasonCode::Larval, "the kernel holds a larval SA in its place")
    } else if live.extras != wanted.extras {
        (ReasonCode::Attributes, "it has attributes that a mesh's SA never has")
    } else if live.selector != wanted.selector {
        (ReasonCode::Selector, "its selector doesn't tie the key to the two addresses")
    } else if (live.src, live.mode) != (wanted.src, wanted.mode) {
        (ReasonCode::Addresses, "its addresses or mode differ")
    } else if live.algorithm != wanted.algorithm {
        (ReasonCode::Cipher, "its cipher differs")
    } else if live.key.differs(wanted.key) {
        (ReasonCode::Key, "its key differs")
    } else if live.offload != wanted.offload {
        (ReasonCode::Offload, "its offload to a device differs")
    } else if live.replay != wanted.replay {
        (ReasonCode::ReplayWindow, "its anti-replay window differs")
    } else if !live.expires_like(wanted) {
        (ReasonCode::Lifetime, "its lifetime differs")
    } else {
        return None;
    };
    Some(Reason::new(code, text))
}

fn unwanted_sa(desired: &Desired, sa: &Sa) -> Option<Change> {
    let unmarked = SaId { mark: Mark::NONE, ..sa.id };
    if desired.sas.contains_key(&unmarked) || desired.kept.contains(&sa.id) {
        return None; // wanted, a twin that goes with the replacement, or kept for its numbers
    }
    let peer = peer_of(desired, sa.src, sa.id.dst);
    let (code, text) = match peer {
        _ if desired.destroying => (ReasonCode::Destroying, "all of the mesh goes"),
        Some(_) => (ReasonCode::OtherGeneration, "not one of the generations before, now and next"),
        None => (ReasonCode::NoPeer, "no peer of mesh.toml has it"),
    };
    let reason = Reason::new(code, text);
    Some(Change { peer: peer.cloned(), operation: Operation::DeleteSa(sa.clone()), reason })
}

fn wanted_policy(
    peer: Option<&PeerName>,
    wanted: &Policy,
    live: Option<&Policy>,
) -> Option<Change> {
    let (operation, reason) = match live {
        None => (Operation::CreatePolicy(wanted.clone()), Reason::MISSING),
        Some(live) if live.same_as(wanted) => return None,
        Some(live) => {
            let operation = Operation::UpdatePolicy { live: live.clone(), wanted: wanted.clone() };
            (operation, policy_difference(live, wanted))
        }
    };
    Some(Change { peer: peer.cloned(), operation, reason })
}

fn policy_difference(live: &Policy, wanted: &Policy) -> Reason {
    let spis = |policy: &Policy| match policy.templates.as_slice() {
        [one] => Some(one.spi),
        _ => None,
    };
    let (code, text) = if live.lets_clear_text_pass() && !wanted.lets_clear_text_pass() {
        (ReasonCode::LetsClearTextPass, "it lets the traffic pass in the clear".into())
    } else if live.action != wanted.action {
        (ReasonCode::Action, "its action differs".into())
    } else if !live.extras.is_empty() {
        (ReasonCode::Attributes, "it has attributes that a mesh's policy never has".into())
    } else if live.templates.len() != wanted.templates.len() {
        let several: Cow<'static, str> =
            format!("it has {} templates", live.templates.len()).into();
        (ReasonCode::Templates, several)
    } else if spis(live) != spis(wanted) && wanted.id.direction == Direction::Out {
        (ReasonCode::Spi, "it sends under another SPI".into())
    } else if live.templates != wanted.templates {
        (ReasonCode::Template, "its template differs".into())
    } else {
        (ReasonCode::Priority, "its priority differs".into())
    };
    Reason::new(code, text)
}

fn unwanted_policy(desired: &Desired, policy: &Policy) -> Option<Change> {
    if desired.policies.contains_key(&policy.id)
        || desired.guards.contains_key(&policy.id)
        || desired.discovery.contains_key(&policy.id)
    {
        return None;
    }
    let PolicyId { selector, mark, if_id, sub, .. } = policy.id;
    let guard = policy.is_guard();
    let discovery = policy.templates.is_empty() && !guard;
    // A selector of many hosts is of no peer.
    let hosts = Selector::hosts(selector.src.address, selector.dst.address);
    let of_two = (selector.src, selector.dst) == (hosts.src, hosts.dst);
    let peer = (of_two && !guard)
        .then(|| peer_of(desired, selector.src.address, selector.dst.address))
        .flatten();
    let (code, text) = if desired.destroying {
        (ReasonCode::Destroying, "all of the mesh goes")
    } else if !mark.is_none() || if_id != 0 || sub {
        (
            ReasonCode::ForeignIdentity,
            "ours by its reqid, with a mark, an interface or a table that mesh.toml doesn't ask for",
        )
    } else if guard {
        (ReasonCode::Unwanted, "nothing in mesh.toml asks for this guard")
    } else if discovery {
        (ReasonCode::Unwanted, "no policy of the mesh covers neighbour discovery any more")
    } else if peer.is_some() {
        (ReasonCode::Unwanted, "nothing in mesh.toml asks for this selector")
    } else {
        (ReasonCode::NoPeer, "no peer of mesh.toml has it")
    };
    Some(Change {
        peer: peer.cloned(),
        operation: Operation::DeletePolicy(policy.clone()),
        reason: Reason::new(code, text),
    })
}

/// The peer at the far end, where one end is this host.
fn peer_of(desired: &Desired, src: IpAddr, dst: IpAddr) -> Option<&PeerName> {
    match desired.local {
        Some(local) if src == local => desired.peers.get(&dst),
        Some(local) if dst == local => desired.peers.get(&src),
        _ => None,
    }
}
