//! Why traffic is dead, or in the clear: findings about a host, and one sentence about the cause.
//!
//! Conflicts and warnings of a plan, verdicts about peers, and the facts of an [`Examination`] each
//! become a finding of a check. Nothing here is looked at anew. Pure.
#![forbid(unsafe_code)]

mod cause;
mod firewall;
mod fixes;
mod host;
mod peers;
mod plan;
mod refused;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Config, Peer},
    model::{CheckCode, Counters, Examination, PeerName, State, Time, Usage, Warning},
    verdict::{Case, Judgement, PeerState},
};

pub use peers::Moved;

/// The facts to be judged.
pub struct Facts<'a> {
    /// The file.
    pub config: &'a Config,
    /// The local peer, if it is known.
    pub local: Option<&'a Peer>,
    /// The time of the second look.
    pub now: Time,
    /// The seconds between two looks.
    pub seconds: u64,
    /// The state of the host: devices, addresses and routes alone where the rest can't be read.
    pub state: &'a State,
    /// The mesh's SAs and policies, judged; `None` where they can't be.
    pub mesh: Option<MeshFacts<'a>>,
    /// Why they can't be judged.
    pub stop: Option<Finding>,
    /// All warnings.
    pub warnings: &'a [Warning],
    /// The counters of both looks.
    pub counters: [&'a Counters; 2],
    /// The facts that were read once.
    pub examination: &'a Examination,
}

/// The mesh's objects, judged.
pub struct MeshFacts<'a> {
    /// The facts that were judged.
    pub case: Case<'a>,
    /// The verdicts.
    pub judged: &'a Judgement,
    /// The use of the SAs at the first look.
    pub before: &'a [Usage],
}

/// The outcome of a check, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Somebody should look.
    Attention,
    /// It could not be judged: a part can't be read, or nothing happened by which to tell.
    Unknown,
    /// All is well.
    Ok,
}

impl Outcome {
    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub code: CheckCode,
    /// The peers that it is about; none where it is about the host.
    pub peers: Vec<PeerName>,
    /// The outcome.
    pub outcome: Outcome,
    /// The reason, which may hold foreign text.
    pub text: String,
    /// What to do.
    pub remedy: Option<String>,
    /// Whether it is a cause of dead or clear traffic, and not only a sign of it.
    pub explains: bool,
}

impl Finding {
    /// A finding about the host that is no cause of anything.
    pub fn new(code: CheckCode, outcome: Outcome, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, peers: Vec::new(), outcome, text, remedy: None, explains: false }
    }

    fn ok(code: CheckCode, text: impl Into<String>) -> Self {
        Self::new(code, Outcome::Ok, text)
    }

    fn unknown(code: CheckCode, text: impl Into<String>) -> Self {
        Self::new(code, Outcome::Unknown, text)
    }

    fn attention(code: CheckCode, text: impl Into<String>) -> Self {
        Self::new(code, Outcome::Attention, text)
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn about(self, peers: Vec<PeerName>) -> Self {
        Self { peers, ..self }
    }

    /// Marks it as a cause.
    #[must_use]
    pub fn cause(self) -> Self {
        Self { explains: true, ..self }
    }
}

/// All findings, and the sentence that sums them up.
pub struct Diagnosis {
    /// The packets of each peer between two looks.
    pub moved: BTreeMap<PeerName, Moved>,
    /// The counters of refused packets that have risen; `None` where they can't be read.
    pub refused: Option<BTreeMap<String, u64>>,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The cause, or the host to look at.
    pub conclusion: String,
    /// Whether somebody should look.
    pub needs_attention: bool,
}

/// Judges the facts.
pub fn diagnose(facts: &Facts<'_>) -> Diagnosis {
    let mut findings: Vec<Finding> = facts.stop.iter().cloned().collect();
    findings.extend(host::findings(facts));
    findings.extend(plan::findings(facts));
    findings.extend(firewall::findings(facts));
    findings.extend(refused::findings(facts));
    findings.extend(peers::findings(facts));
    // One check may have several findings; it is well only where it has no other.
    let bad: BTreeSet<CheckCode> = findings
        .iter()
        .filter(|finding| finding.outcome != Outcome::Ok && finding.peers.is_empty())
        .map(|finding| finding.code)
        .collect();
    findings.retain(|finding| {
        finding.outcome != Outcome::Ok || !finding.peers.is_empty() || !bad.contains(&finding.code)
    });
    findings.sort_by_key(|finding| (finding.outcome, finding.code));
    let needs_attention = facts.stop.is_some()
        || findings.iter().any(|finding| finding.outcome == Outcome::Attention);
    let conclusion = cause::conclusion(facts, &findings);
    let mesh = facts.mesh.as_ref();
    let moved = |peer: &PeerState| Some((peer.name.clone(), peers::moved(mesh?, peer)));
    let moved = facts.peers().iter().filter_map(moved).collect();
    let [before, after] = facts.counters.map(|counters| counters.refused.as_ref());
    let refused = before.zip(after).map(|(before, after)| refused::moved(before, after));
    Diagnosis { moved, refused, findings, conclusion, needs_attention }
}

impl Facts<'_> {
    fn peers(&self) -> &[PeerState] {
        self.mesh.as_ref().map_or(&[], |mesh| &mesh.judged.peers)
    }

    /// The name of the peer with an address.
    fn name_of(&self, address: IpAddr) -> Option<&PeerName> {
        let mut peers = self.config.peers.iter();
        peers.find(|peer| peer.reached_at() == address).map(|peer| &peer.name)
    }

    /// The devices that packets to peers leave by.
    fn devices(&self) -> BTreeSet<&str> {
        let routes = self.state.routes.iter();
        routes.flat_map(|route| route.devices.iter().map(String::as_str)).collect()
    }
}

/// Some of several names, and how many more there are.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    crate::plan::list(&items)
}

fn plural(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}
