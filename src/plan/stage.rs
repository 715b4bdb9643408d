//! The stages of pairs: the costs of a move from one to another, and the clear text that they let
//! pass.
//!
//! Hosts that are at most one stage apart lose no packet. A plan sees this host alone, so it says
//! where this host skips a stage, and which peers have not been heard under the mesh's SAs.

use std::collections::{BTreeMap, BTreeSet};

use super::warn::names;
use crate::{
    desired::{Desired, Goal},
    model::{
        Direction, Live, PeerName, Policy, PolicyId, PolicyRole, Reqid, Sa, Stage, State, Warning,
        WarningCode,
    },
};

/// The advice where a stage is skipped.
pub(super) const BY_STAGES: &str = "a running network loses nothing if all hosts go by stages, see STAGES in \
                         meshsec-rotation(7)";

/// The reason of what goes because packets leave in the clear.
pub(super) const SENDS_CLEAR_TEXT: &str = "packets leave in the clear at stage receive";

/// All warnings about stages.
pub(super) fn warnings(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    match desired.goal {
        Goal::Mesh => {
            let found = Found::of(desired, &live.0, reqid);
            let moves = found.moves(&live.0).into_iter().chain(found.unheard(&live.0));
            found.clear_text().into_iter().chain(moves).collect()
        }
        Goal::Nothing => end(&live.0, reqid).into_iter().collect(),
        Goal::Before { .. } => Vec::new(),
    }
}

/// The policies of a peer that tell its stage in the kernel.
#[derive(Debug, Clone, Copy, Default)]
struct Policies {
    /// One for packets that leave.
    out: bool,
    /// One for packets that come in.
    into: bool,
    /// One for packets that come in, which takes clear text too.
    open: bool,
}

impl Policies {
    /// The stage; `None` before the first.
    fn stage(self) -> Option<Stage> {
        match self {
            Self { out: false, into: false, .. } => None,
            Self { out: false, open: true, .. } => Some(Stage::Receive),
            Self { out: true, open: true, .. } | Self { out: true, into: false, .. } => {
                Some(Stage::Send)
            }
            Self { into: true, open: false, .. } => Some(Stage::Enforce),
        }
    }
}

/// The wanted stages, and those that the kernel's policies are of.
struct Found<'a> {
    desired: &'a Desired,
    reqid: Reqid,
    policies: BTreeMap<&'a PeerName, Policies>,
    /// The peers by their stages: in the kernel, and wanted.
    stages: BTreeMap<(Option<Stage>, Stage), Peers<'a>>,
}

type Peers<'a> = BTreeSet<&'a PeerName>;

impl<'a> Found<'a> {
    fn of(desired: &'a Desired, state: &State, reqid: Reqid) -> Self {
        let mut policies = BTreeMap::<_, Policies>::new();
        let ours = state.policies_of(reqid).filter(|policy| is_of_a_pair(policy, reqid));
        for policy in ours {
            let is_out = match policy.id.direction {
                Direction::Out => true,
                Direction::In => false,
                Direction::Fwd => continue,
            };
            let far = policy.id.far_end();
            let paired = desired.peers.get(&far.address).filter(|_| policy.id.if_id == 0);
            let paired = paired.or_else(|| desired.networks.get(&far));
            let Some(peer) = paired.or_else(|| desired.not_paired.get(&far.address)) else {
                continue;
            };
            let found = policies.entry(peer).or_default();
            found.out |= is_out;
            found.into |= !is_out;
            found.open |= !is_out && takes_clear_text(policy, state);
        }
        let mut stages = BTreeMap::<_, Peers<'_>>::new();
        for peer in desired.peers.values() {
            let live = policies.get(peer).and_then(|found| found.stage());
            stages.entry((live, desired.stage(peer))).or_default().insert(peer);
        }
        Self { desired, reqid, policies, stages }
    }

    /// The peers of a stage before the last.
    fn at(&self, stage: Stage) -> Peers<'a> {
        let peers = self.desired.stages.iter().filter(|(_, at)| **at == stage);
        peers.map(|(peer, _)| peer).collect()
    }

    /// Clear text that the file asks for.
    fn clear_text(&self) -> Vec<Warning> {
        let line = |peers: Peers<'_>, text: fn(&str) -> String| {
            let warning = |names: &str| Warning::new(WarningCode::ClearTextAccepted, text(names));
            (!peers.is_empty()).then(|| warning(&names(&peers)))
        };
        let receive = line(self.at(Stage::Receive), |names| {
            format!(
                "stage receive of {names}: packets leave in the clear, and come in encrypted or in the \
                 clear; stage send is next, when all hosts are at receive"
            )
        });
        let send = line(self.at(Stage::Send), |names| {
            format!(
                "stage send of {names}: packets leave encrypted, and come in encrypted or in the clear; \
                 stage enforce is next, when all hosts are at send"
            )
        });
        receive.into_iter().chain(send).collect()
    }

    /// Moves by more than one stage.
    fn moves(&self, state: &State) -> Vec<Warning> {
        let line = |from, to, text: &dyn Fn(&str) -> String| {
            let peers = self.stages.get(&(from, to))?;
            Some(Warning::new(WarningCode::StageSkipped, text(&names(peers))))
        };
        let unreceived = line(None, Stage::Send, &|names| {
            format!(
                "stage receive is skipped: packets to {names} are lost until the other end is at \
                 receive or send; {BY_STAGES}"
            )
        });
        let running = self.running(state);
        let cut = running.and_then(|device| {
            line(None, Stage::Enforce, &|names| {
                format!(
                    "{device} is here already, and its traffic with {names} is blocked until the \
                     other end has applied too; {BY_STAGES}"
                )
            })
        });
        let unsent = line(Some(Stage::Receive), Stage::Enforce, &|names| {
            format!(
                "stage send is skipped: packets that {names} may still send in the clear are \
                 refused; {BY_STAGES}"
            )
        });
        let down = line(Some(Stage::Enforce), Stage::Receive, &|names| {
            format!(
                "stage send is skipped: packets to {names} leave in the clear, and are lost until \
                 the other end is at send or receive; {BY_STAGES}"
            )
        });
        [unreceived, cut, unsent, down, self.parted()].into_iter().flatten().collect()
    }

    /// Pairs that `pairs` ends while packets leave encrypted.
    fn parted(&self) -> Option<Warning> {
        let sends = |peer: &&PeerName| self.policies.get(*peer).is_some_and(|found| found.out);
        let peers: Peers<'_> = self.desired.not_paired.values().filter(sends).collect();
        (!peers.is_empty()).then(|| {
            let text = format!(
                "no pair with {} any more: this host can't read encrypted packets from there, and at \
                 stage enforce that end refuses those in the clear; {BY_STAGES}",
                names(&peers)
            );
            Warning::new(WarningCode::StageSkipped, text)
        })
    }

    /// A tunnel device of the kind, on a host without an object of the mesh: none was flushed.
    fn running(&self, state: &State) -> Option<String> {
        let (kind, port) = self.desired.traffic?.device()?;
        let mut tunnels = state.tunnels.iter().flatten();
        let tunnel = tunnels.find(|tunnel| (tunnel.kind, tunnel.port) == (kind, port))?;
        let is_new = !self.desired.guards.is_empty() && !state.has_objects_of(self.reqid);
        is_new.then(|| tunnel.device.clone())
    }

    /// Peers whose clear text is refused from now on, and that were never heard under an SA.
    fn unheard(&self, state: &State) -> Option<Warning> {
        let is_open = |peer: &&PeerName| self.policies.get(*peer).is_some_and(|found| found.open);
        let refusing = self.stages.iter().filter(|((_, wanted), _)| wanted.enforces());
        let refusing = refusing.flat_map(|(_, peers)| peers.iter().copied());
        let mut peers: Peers<'_> = refusing.filter(is_open).collect();
        if !peers.is_empty() {
            let heard = self.heard(state);
            peers.retain(|peer| !heard.contains(peer));
        }
        (!peers.is_empty()).then(|| {
            let text = format!(
                "no encrypted packet has come from {} yet, and its clear text is refused from now on: \
                 see that it is at stage send; meshsec status --wait-heard 5m waits for such a packet",
                names(&peers)
            );
            Warning::new(WarningCode::NotHeardYet, text)
        })
    }

    /// The peers from which packets have come under SAs of the mesh since this host sends to them
    /// encrypted. Kernels before 6.2 tell that a packet has come, and not when.
    fn heard(&self, state: &State) -> Peers<'a> {
        let usage: BTreeMap<_, _> = state.usage.iter().map(|usage| (usage.id, usage)).collect();
        let sas = || state.sas_of(self.reqid);
        let mut since = BTreeMap::new();
        for sa in sas().filter(|sa| Some(sa.src) == self.desired.local) {
            let added = usage.get(&sa.id).map(|usage| usage.added);
            let first = since.entry(sa.id.dst).or_insert(added);
            *first = (*first).min(added);
        }
        let is_news = |sa: &&Sa| {
            usage.get(&sa.id).is_some_and(|usage| {
                let since = since.get(&sa.src).copied().flatten();
                usage.packets > 0 && usage.last.zip(since).is_none_or(|(last, since)| last >= since)
            })
        };
        sas().filter(is_news).filter_map(|sa| self.desired.peers.get(&sa.src)).collect()
    }
}

/// A destroy of a host that encrypts.
fn end(state: &State, reqid: Reqid) -> Option<Warning> {
    let encrypts =
        |policy: &Policy| policy.id.direction == Direction::Out && is_of_a_pair(policy, reqid);
    state.policies_of(reqid).any(encrypts).then(|| {
        let text = format!(
            "this host can't read any more what peers send encrypted, and peers at stage enforce \
             refuse what it sends in the clear; {BY_STAGES}"
        );
        Warning::new(WarningCode::StageSkipped, text)
    })
}

/// Whether the packets of a policy in are taken in the clear too. Those of a network are, unless its
/// guard is there: the policy itself meets only packets that have come by the interface.
fn takes_clear_text(policy: &Policy, state: &State) -> bool {
    let guard = PolicyId { if_id: 0, ..policy.id };
    match policy.id.if_id {
        0 => policy.lets_clear_text_pass(),
        _ => !state.policies.iter().any(|other| other.id == guard && other.is_guard()),
    }
}

/// Whether a policy is for the traffic of a pair.
fn is_of_a_pair(policy: &Policy, reqid: Reqid) -> bool {
    policy.role_in(reqid) == Some(PolicyRole::Peer) && !policy.is_for_icmp_errors()
}
