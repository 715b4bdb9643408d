//! Packets that the kernel refuses: `/proc/net/xfrm_stat`, and the counters of SAs.

use std::collections::BTreeMap;

use super::{Facts, Finding, MeshFacts, list, peers};
use crate::{
    model::{CheckCode, PeerName},
    verdict::{Came, PeerState, counter_meaning},
};

const CODE: CheckCode = CheckCode::Refused;

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = by_sa(facts);
    let [before, after] = facts.counters.map(|counters| counters.refused.as_ref());
    let (Some(before), Some(after)) = (before, after) else {
        let text = "the kernel's counters of refused packets can't be read: there is no \
                    /proc/net/xfrm_stat (CONFIG_XFRM_STATISTICS)";
        found.push(Finding::unknown(CODE, text));
        return found;
    };
    found.extend(moved(before, after).into_iter().map(|(name, number)| {
        let meaning = meaning(facts, &name);
        let text = format!("{name} has risen by {number} in {} s{meaning}", facts.seconds);
        let finding = Finding::attention(CODE, text);
        if is_cause(facts, &name) { finding.cause() } else { finding }
    }));
    if found.is_empty() {
        found.push(earlier(facts, after));
    }
    found
}

/// Whether a counter that rises tells why traffic is dead. Anybody may send ESP to a host whose
/// peers are all heard, and some counters rise while SAs are replaced.
fn is_cause(facts: &Facts<'_>, name: &str) -> bool {
    let passes = ["XfrmInError", "XfrmInStateInvalid", "XfrmOutStateInvalid"];
    let is_unheard = |peer: &PeerState| peer.came != Came::Heard;
    !passes.contains(&name) && (name.starts_with("XfrmOut") || facts.peers().iter().any(is_unheard))
}

/// The counters that rise.
pub(super) fn moved(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let by = |(name, number): (&String, &u64)| {
        let number = number.saturating_sub(before.get(name).copied().unwrap_or(0));
        (number > 0).then(|| (name.clone(), number))
    };
    after.iter().filter_map(by).collect()
}

fn meaning(facts: &Facts<'_>, name: &str) -> String {
    let has_sas = facts.state.sas_of(facts.config.reqid).next().is_some();
    let has_networks = facts.config.peers.iter().any(|peer| !peer.networks.is_empty());
    let meaning = counter_meaning(name, has_sas, has_networks);
    meaning.map(|meaning| format!(": {meaning}")).unwrap_or_default()
}

/// Counters that stand still are of earlier; they count where a peer is not heard.
fn earlier(facts: &Facts<'_>, counters: &BTreeMap<String, u64>) -> Finding {
    // Each look for the socket of ESP in UDP has left its datagrams there.
    let has_encap = facts.config.esp.encap.is_some();
    let all = counters.iter().filter(|(name, _)| !has_encap || *name != "XfrmInNoStates");
    let all: Vec<String> =
        all.map(|(name, number)| format!("{name} {number}{}", meaning(facts, name))).collect();
    let none = format!("no packet was refused in {} s", facts.seconds);
    if all.is_empty() {
        return Finding::ok(CODE, none);
    }
    let text = format!("{none}; since this network namespace began: {}", list(all));
    let has_come = counters.keys().any(|name| name.starts_with("XfrmIn"));
    let is_unheard = |peer: &PeerState| peer.came != Came::Heard;
    let has_peers = !facts.peers().is_empty();
    match has_come && has_peers && facts.peers().iter().all(is_unheard) {
        true => Finding::attention(CODE, text),
        false => Finding::ok(CODE, text),
    }
}

/// Packets that SAs of a peer refused between the two looks, or ever, where it is not heard.
fn by_sa(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(mesh) = &facts.mesh else { return Vec::new() };
    let mut forged = Vec::new();
    let mut replayed = Vec::new();
    for peer in &mesh.judged.peers {
        if !counts(mesh, peer) {
            continue;
        }
        match peer.refused.forged > 0 {
            true => forged.push(peer.name.clone()),
            false => replayed.push(peer.name.clone()),
        }
    }
    let mut found = Vec::new();
    found.extend(forged.first().cloned().and_then(|first| {
        let remedy = format!(
            "compare secret, cipher and generation of both hosts: on {first} meshsec snapshot > \
             {first}.json, and here meshsec --local {first} plan --live {first}.json"
        );
        about(&forged, "came under another key, and were refused", &remedy)
    }));
    found.extend(about(&replayed, "were refused as replayed or too old", {
        "if the sender was restarted or its clock put back, raise the generation on all hosts"
    }));
    found
}

fn counts(mesh: &MeshFacts<'_>, peer: &PeerState) -> bool {
    let now = peers::moved(mesh, peer).refused > 0;
    peer.refused.total() > 0 && (now || peer.came != Came::Heard)
}

fn about(names: &[PeerName], were: &str, remedy: &str) -> Option<Finding> {
    (!names.is_empty()).then(|| {
        let text = format!("packets {were}");
        Finding::attention(CODE, text).remedy(remedy).about(names.to_vec()).cause()
    })
}
