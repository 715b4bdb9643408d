//! Whether all hosts of a mesh have applied the generation of the file, by evidence.
//!
//! Every host receives under the generation before its own, its own and the next, so that two hosts
//! that are two generations apart are cut off from each other. The file may be raised once every
//! host has applied it:
//!
//! * Before a raise to *g*+1 every host is at *g*. Until the next one each is at *g* or *g*+1. So no
//!   two hosts are two apart as long as no raise comes before every host is at the file's
//!   generation. It takes no more than that, and this module asks for no less.
//! * A host sends under the one generation that it has applied. A genuine packet under *g* proves
//!   that its sender had applied *g* when it left, and its sender never goes back by itself.
//! * The SAs and policies of a host are proof of the host itself, with or without traffic.
//! * So a host is at *g* if its own state says so, or if another host was heard to receive under *g*
//!   from it. Nothing else counts: an idle pair tells nothing, and neither does the file.
//!
//! A file that was put back by one, by hand, leaves old proof behind: packets under *g* from the
//! first time, and snapshots of then. So a packet counts only if it came after its receiver has
//! applied *g* this time, which is when the outbound SA of *g* was added; a snapshot only if every
//! host with evidence had applied *g* by then, and if it is not old. A lowered file needs a settled
//! mesh as much as a raised one.
//!
//! A packet under another generation, within a given time before the look, is a doubt too: it may
//! be of a host with a pair that its `apply` has not switched, of an old file, or of a file that is
//! newer than this one; and packets in flight would be lost, as the SA that takes them goes with
//! the next raise.
//!
//! Its limits: evidence is of the hosts that it is about, and of those that they hear. A pair of two
//! others, one of which has switched some of its pairs and not all, is seen in their snapshots
//! alone. An SPI tells a generation modulo 32. Times are those of each host's clock. Snapshots are
//! believed, and so are packets that somebody replays where no window refuses them, which proves as
//! much unless the file was put back. A host that applies an older copy of the file after a newer one
//! breaks the rule.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Case, LastUse, SaEvidence, Sightings, evidence, seconds_since};
use crate::{
    config::{Config, Moment, Peer},
    desired::desired,
    model::{Direction, Generation, Live, PeerName, Policy, PolicyId, Spi, Stage, Time},
    plan::Plan,
};

/// Evidence that is older, in seconds, counts for nothing.
pub const OLDEST_EVIDENCE: u64 = 3600;
/// Evidence from farther ahead, in seconds, is of a clock that is wrong.
const AHEAD: u64 = 30;

/// The question, and the facts that all evidence is measured by.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The file.
    pub config: &'a Config,
    /// The generation of now.
    pub moment: Moment,
    /// The time by the clock.
    pub now: Time,
    /// The time for which no packet may have come under another generation.
    pub quiet: Duration,
}

/// The state of one host, as evidence.
#[derive(Clone)]
pub struct EvidenceOfHost<'a> {
    /// The host.
    pub host: &'a Peer,
    /// The snapshot's file; `None` is the kernel that was looked at.
    pub source: Option<String>,
    /// The time of the look.
    pub taken: Time,
    /// Whether it counts.
    pub not_counted: Option<NotCounted>,
    pairs: BTreeMap<PeerName, Pair>,
    has_counters: bool,
}

/// Why the state of a host counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCounted {
    /// So many seconds old.
    Old(u64),
    /// So many seconds ahead of the clock here.
    Ahead(u64),
    /// Not from after the second in which another host has applied the generation.
    BeforeApply(PeerName),
    /// It has no counters of SAs.
    NoCounters,
}

/// The pair of such a host with a peer.
#[derive(Clone)]
struct Pair {
    stage: Stage,
    /// Whether the SAs and policies of the generation are there.
    is_applied: bool,
    /// When the last of the SAs that came with the generation was added.
    applied: Option<Time>,
    /// When the host began to send under the generation, if it does.
    sends_since: Option<Time>,
    /// The generations under which packets have come.
    heard: Vec<(Generation, LastUse)>,
}

/// A doubt that all hosts have applied the generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The host that it is about.
    pub host: PeerName,
    /// The doubt.
    pub kind: DoubtKind,
}

/// The kinds of doubts, in the order in which they are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DoubtKind {
    /// Its own state lacks SAs or policies of the generation, with these peers.
    NotApplied(Vec<PeerName>),
    /// A packet has come from it under another generation.
    Other(Sighted),
    /// A packet has once come from it under another generation, and when is not known.
    OtherUntold(Sighted),
    /// No packet has come from it, at the hosts that have applied the generation and have a pair
    /// with it.
    NotHeard(Vec<PeerName>),
    /// Packets have come from it at this host, and whether any came since is not known.
    HeardUntold(PeerName),
    /// Its pairs are at a stage at which it sends nothing encrypted.
    SendsClear,
    /// It forms no pair with a host with evidence that counts.
    NoPair,
}

/// A packet under another generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighted {
    /// The generation.
    pub generation: Generation,
    /// The host that it came to.
    pub by: PeerName,
    /// The seconds from then to the look.
    pub ago: u64,
}

/// A host that is known to have applied the generation, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The host.
    pub host: PeerName,
    /// Whether its own state says so.
    pub by_itself: bool,
    /// A host that has heard it under the generation, and the time after which that was last.
    pub heard: Option<(PeerName, Time)>,
}

/// The answer.
pub struct Settlement<'a> {
    /// All evidence, with the parts that don't count.
    pub evidence: Vec<EvidenceOfHost<'a>>,
    /// The hosts that form a pair.
    pub hosts: Vec<Known>,
    /// The doubts, host by host.
    pub doubts: Vec<Doubt>,
}

impl Settlement<'_> {
    /// Whether every host is known to have applied the generation.
    pub fn is_settled(&self) -> bool {
        self.doubts.is_empty()
    }

    /// The number of hosts that are known to have applied it.
    pub fn known(&self) -> usize {
        self.hosts.iter().filter(|host| host.is_known()).count()
    }
}

impl Known {
    /// Whether it is known to have applied the generation.
    pub fn is_known(&self) -> bool {
        self.by_itself || self.heard.is_some()
    }
}

impl<'a> EvidenceOfHost<'a> {
    /// What a state tells of its host and of the hosts that it hears. The uses of its SAs are
    /// completed from the looks before.
    pub fn new(
        (config, moment): (&'a Config, Moment),
        host: &'a Peer,
        (live, taken): (&Live, Time),
        sightings: &Sightings,
        source: Option<String>,
    ) -> Self {
        let (wanted, _) = desired(config, moment, host, None);
        let case = Case {
            config,
            moment,
            now: taken,
            local: host,
            desired: &wanted,
            live,
            plan: &Plan::default(),
            asked: &BTreeSet::new(),
            strict: false,
        };
        let (mut sas, _) = evidence::by_peer(&case);
        let behind = not_switched(&case);
        let pair = |peer: &PeerName| {
            let sas = sas.remove(peer).unwrap_or_default();
            (peer.clone(), pair(&case, peer, &sas, !behind.contains(peer), sightings))
        };
        let pairs = wanted.peers.values().map(pair).collect();
        let has_counters = live.0.sas_of(config.reqid).next().is_none() || !live.0.usage.is_empty();
        Self { host, source, taken, not_counted: None, pairs, has_counters }
    }

    fn pair(&self, peer: &PeerName) -> Option<&Pair> {
        self.pairs.get(peer)
    }

    /// When it has applied the generation, if it has.
    fn applied(&self) -> Option<Time> {
        self.pairs.values().filter_map(|pair| pair.applied).max()
    }

    /// Why it counts for nothing by itself.
    fn flaw(&self, now: Time) -> Option<NotCounted> {
        let (age, ahead) = (seconds_since(self.taken, now), seconds_since(now, self.taken));
        if ahead > AHEAD {
            Some(NotCounted::Ahead(ahead))
        } else if age > OLDEST_EVIDENCE {
            Some(NotCounted::Old(age))
        } else {
            (!self.has_counters).then_some(NotCounted::NoCounters)
        }
    }
}

fn pair(
    case: &Case<'_>,
    peer: &PeerName,
    sas: &[SaEvidence],
    is_switched: bool,
    sightings: &Sightings,
) -> Pair {
    let Case { moment, desired, .. } = *case;
    // An SA of another generation can have a wanted SPI only if 32 lie between.
    let added = |direction, generation| {
        let mut sas = sas.iter().filter(|sa| sa.wanted && sa.direction == Some(direction));
        sas.find(|sa| sa.generation == generation).map(|sa| sa.usage.added)
    };
    let came = [moment.generation, moment.generation.next()];
    let received = came.map(|generation| added(Direction::In, generation));
    let sends = added(Direction::Out, moment.generation);
    let stage = desired.stage(peer);
    let has_sas = received.iter().all(Option::is_some) && (sends.is_some() || !stage.sends());
    let heard = sas.iter().filter(|sa| sa.direction == Some(Direction::In));
    let heard = heard.filter_map(|sa| Some((sa.generation, sightings.last_use(&sa.usage)?)));
    let is_applied = has_sas && is_switched;
    Pair {
        stage,
        is_applied,
        applied: sends.max(received[1]).filter(|_| is_applied),
        sends_since: sends.filter(|_| is_applied),
        heard: heard.collect(),
    }
}

/// The peers to which some packets would not leave under the generation.
fn not_switched(case: &Case<'_>) -> BTreeSet<PeerName> {
    let spis = |policy: &Policy| -> Vec<Spi> {
        policy.templates.iter().map(|template| template.spi).collect()
    };
    let live = case.live.0.policies_of(case.config.reqid);
    let live: BTreeMap<PolicyId, &Policy> = live.map(|policy| (policy.id, policy)).collect();
    let wanted = case.desired.policies.values();
    let out = wanted.filter(|wanted| wanted.policy.id.direction == Direction::Out);
    let behind = out.filter(|wanted| {
        let there = live.get(&wanted.policy.id);
        there.is_none_or(|there| spis(there) != spis(&wanted.policy))
    });
    behind.map(|wanted| wanted.peer.clone()).collect()
}

/// Whether every host of the mesh is known to have applied the generation of now.
pub fn settle<'a>(
    question: &Question<'a>,
    mut evidence: Vec<EvidenceOfHost<'a>>,
) -> Settlement<'a> {
    leave_out(question, &mut evidence);
    let counted: Vec<&EvidenceOfHost<'_>> =
        evidence.iter().filter(|of_host| of_host.not_counted.is_none()).collect();
    let (mut hosts, mut doubts) = (Vec::new(), Vec::new());
    for peer in &question.config.peers {
        if has_pair(question.config, peer) {
            let (known, kinds) = judge_host(question, peer, &counted);
            hosts.push(known);
            let of_host = |kind| Doubt { host: peer.name.clone(), kind };
            doubts.extend(kinds.into_iter().map(of_host));
        }
    }
    Settlement { evidence, hosts, doubts }
}

/// A host without a pair has no SA, and no generation.
fn has_pair(config: &Config, peer: &Peer) -> bool {
    let is_other = |other: &&Peer| {
        other.name != peer.name && other.address.is_ipv4() == peer.address.is_ipv4()
    };
    config.peers.iter().filter(is_other).any(|other| config.is_pair(peer, other))
}

/// Marks evidence that does not count.
fn leave_out(question: &Question<'_>, evidence: &mut [EvidenceOfHost<'_>]) {
    for of_host in evidence.iter_mut() {
        of_host.not_counted = of_host.flaw(question.now);
    }
    let counted = evidence.iter().filter(|of_host| of_host.not_counted.is_none());
    let applied = counted.filter_map(|of_host| Some((of_host.applied()?, &of_host.host.name)));
    let Some((last, host)) = applied.max().map(|(last, host)| (last, host.clone())) else { return };
    for of_host in evidence.iter_mut().filter(|of_host| of_host.not_counted.is_none()) {
        let is_before = of_host.taken.seconds() <= last.seconds() && of_host.host.name != host;
        of_host.not_counted = is_before.then(|| NotCounted::BeforeApply(host.clone()));
    }
}

/// Whether one host is known to have applied the generation, and the doubts about it.
fn judge_host(
    question: &Question<'_>,
    peer: &Peer,
    counted: &[&EvidenceOfHost<'_>],
) -> (Known, Vec<DoubtKind>) {
    let generation = question.moment.generation;
    let mut doubts: Vec<DoubtKind> = others(question, peer, counted).collect();
    let own = counted.iter().find(|of_host| of_host.host.name == peer.name);
    let missing: Vec<PeerName> = own
        .into_iter()
        .flat_map(|own| own.pairs.iter().filter(|(_, pair)| !pair.is_applied))
        .map(|(other, _)| other.clone())
        .collect();
    let by_itself = own.is_some() && missing.is_empty();
    let heard = counted.iter().filter_map(|by| {
        let pair = by.pair(&peer.name)?;
        let since = pair.sends_since?;
        let (_, last) = pair.heard.iter().find(|(under, _)| *under == generation)?;
        // Within one second, either may have been the first.
        let is_news = last.not_before.seconds() > since.seconds();
        is_news.then(|| (last.not_before, by.host.name.clone()))
    });
    let heard = heard.max().map(|(last, by)| (by, last));
    if !missing.is_empty() {
        doubts.push(DoubtKind::NotApplied(missing));
    } else if !by_itself && heard.is_none() {
        doubts.push(why_unheard(generation, peer, counted));
    }
    doubts.sort();
    (Known { host: peer.name.clone(), by_itself, heard }, doubts)
}

/// Packets of a host under other generations, within the time that is to be quiet.
fn others<'e>(
    question: &'e Question<'_>,
    peer: &'e Peer,
    counted: &'e [&EvidenceOfHost<'_>],
) -> impl Iterator<Item = DoubtKind> + 'e {
    let generation = question.moment.generation;
    counted.iter().flat_map(move |by| {
        let heard = by.pair(&peer.name).into_iter().flat_map(|pair| &pair.heard);
        heard.filter(move |(under, _)| *under != generation).filter_map(move |(under, last)| {
            let is_quiet = last.not_after.after(question.quiet) <= by.taken;
            let ago = seconds_since(last.not_after, by.taken);
            let sighted = Sighted { generation: *under, by: by.host.name.clone(), ago };
            (!is_quiet).then_some(match last.is_seen {
                true => DoubtKind::Other(sighted),
                false => DoubtKind::OtherUntold(sighted),
            })
        })
    })
}

/// Why nothing tells that a host has applied the generation.
fn why_unheard(generation: Generation, peer: &Peer, counted: &[&EvidenceOfHost<'_>]) -> DoubtKind {
    let pairs = counted.iter().filter_map(|by| Some((by, by.pair(&peer.name)?)));
    let pairs: Vec<_> = pairs.collect();
    let is_untold = |(_, pair): &&(&&EvidenceOfHost<'_>, &Pair)| {
        pair.is_applied
            && pair.heard.iter().any(|(under, last)| *under == generation && !last.is_seen)
    };
    if pairs.is_empty() {
        DoubtKind::NoPair
    } else if pairs.iter().all(|(_, pair)| !pair.stage.sends()) {
        DoubtKind::SendsClear
    } else if let Some((by, _)) = pairs.iter().find(is_untold) {
        DoubtKind::HeardUntold(by.host.name.clone())
    } else {
        let applied = pairs.iter().filter(|(_, pair)| pair.is_applied);
        DoubtKind::NotHeard(applied.map(|(by, _)| by.host.name.clone()).collect())
    }
}
