//! The last sentence: the cause, or the host on which to look, and for what.

use super::{Facts, Finding, Outcome, list, peers, plural};
use crate::{
    model::{CheckCode, PeerName},
    verdict::Came,
};

/// One sentence.
pub(super) fn conclusion(facts: &Facts<'_>, findings: &[Finding]) -> String {
    let bad: Vec<&Finding> =
        findings.iter().filter(|finding| finding.outcome == Outcome::Attention).collect();
    if let Some(stop) = &facts.stop {
        return here(stop);
    }
    // Some findings explain all others; the checks are in the order of causes.
    if let Some(cause) = bad.iter().find(|finding| finding.explains) {
        return here(cause);
    }
    let mut unheard = bad.iter().filter(|finding| finding.code == CheckCode::Heard);
    if let Some(first) = unheard.next() {
        let names: Vec<&PeerName> =
            first.peers.iter().chain(unheard.flat_map(|finding| &finding.peers)).collect();
        return format!("{}{}.", there(facts, &names), unread_rules(findings));
    }
    match bad.first() {
        Some(first) => here(first),
        None => nothing(facts, findings),
    }
}

/// The cause is on this host.
fn here(finding: &Finding) -> String {
    let whose = match finding.peers.as_slice() {
        [] => String::new(),
        names => format!(" ({})", list(names)),
    };
    let remedy = finding.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let code = finding.code.word();
    format!("On this host, {code}{whose}: {}{remedy}.", finding.text.trim_end_matches('.'))
}

/// Nothing here tells why: the cause is at the other end, or between.
fn there(facts: &Facts<'_>, names: &[&PeerName]) -> String {
    let mut names = names.to_vec();
    names.sort();
    let (first, all) = (names.first().map(ToString::to_string).unwrap_or_default(), list(&names));
    let esp = esp(facts);
    let every = names.len() > 1 && facts.peers().iter().all(|peer| peer.came != Came::Heard);
    let common = match every {
        true => format!(
            "Nothing comes from any peer: does something that all have in common, such as a firewall in \
             front of this host or its uplink, drop {esp}? "
        ),
        false => String::new(),
    };
    let wrong = format!(
        "it has not applied, or has another secret, cipher, generation, clock, short_id or address of \
         this host, or a firewall there drops {esp}"
    );
    let probes = &facts.examination.probes;
    let of = |name: &&PeerName| {
        let peer = facts.config.peers.iter().find(|peer| peer.name == **name)?;
        probes.get(&peer.reached_at())?.answers
    };
    let answers: Vec<Option<bool>> = names.iter().map(of).collect();
    match (answers.contains(&Some(true)), answers.contains(&Some(false))) {
        (true, _) => format!(
            "{common}Look on {all}: pings are answered, and nothing encrypted comes: run meshsec doctor \
             on {first}, which tells whether {wrong}, or look for one on the way that does"
        ),
        (false, true) => format!(
            "{common}Look at the network between this host and {all}: no ping is answered (or pings are \
             filtered) and nothing encrypted comes: look whether {first} is up, and its link, and what meshsec doctor \
             there finds"
        ),
        (false, false) => format!(
            "{common}Look on {all}: packets leave here encrypted and nothing encrypted comes back: run \
             meshsec doctor on {first}, which tells whether {wrong}; meshsec doctor --probe here tells \
             whether it answers pings"
        ),
    }
}

/// Rules of this host that may be the cause, and that nobody here has read.
fn unread_rules(findings: &[Finding]) -> &'static str {
    let is_unread = |finding: &Finding| {
        finding.code == CheckCode::Firewall && finding.outcome == Outcome::Unknown
    };
    match findings.iter().any(is_unread) {
        true => "; rules of a firewall on this host could not be read, and may be the cause too",
        false => "",
    }
}

/// The packets that carry ESP.
fn esp(facts: &Facts<'_>) -> String {
    let generation = facts.mesh.as_ref().map(|mesh| mesh.case.moment.generation);
    match generation.and_then(|generation| facts.config.esp.port_at(generation)) {
        None => "ESP (IP protocol 50)".into(),
        Some(port) => format!("UDP port {port}, which holds ESP"),
    }
}

fn nothing(facts: &Facts<'_>, findings: &[Finding]) -> String {
    let unknown: std::collections::BTreeSet<CheckCode> = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Unknown)
        .map(|finding| finding.code)
        .collect();
    let unknown = match unknown.is_empty() {
        true => String::new(),
        false => format!("; not known: {}", list(unknown.into_iter().map(CheckCode::word))),
    };
    let peers = facts.peers();
    if peers.is_empty() {
        return format!(
            "This host forms no pair with a peer of the file, so there is no traffic to look at{unknown}."
        );
    }
    let sum = |mesh: &super::MeshFacts<'_>| -> u64 {
        peers.iter().map(|peer| peers::moved(mesh, peer).sent).sum()
    };
    let is_idle = facts.mesh.as_ref().is_some_and(|mesh| sum(mesh) == 0);
    let idle = match is_idle {
        true => {
            format!(
                "; no packet left for a peer in {} s: run this while traffic flows",
                facts.seconds
            )
        }
        false => String::new(),
    };
    let with = plural(peers.len() as u64, "peer", "peers");
    format!("Nothing was found on this host that stops traffic with {with}{unknown}{idle}.")
}
