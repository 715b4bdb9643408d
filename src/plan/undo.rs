//! The rollback of an apply's steps for peers that it could not finish; pure.
//!
//! A peer with its SAs in place and policies that could not be switched is protected or blocked, so
//! that nothing has to be done for safety. But it is neither in its old state nor in the wanted
//! one. Where a rollback makes nothing worse, it gets its old state back.
//!
//! Never rolled back: guards, chains and MTUs, which protect others too; objects that can't be made
//! again, since nobody keeps the key of an SA that was replaced; and anything at all where more
//! packets would leave or come in in the clear.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Plan,
    change::{Change, ObjectKind},
    flow::{Flow, flow_out},
    sequence::{IN_FLIGHT, Phase, PlannedStep},
};
use crate::{
    desired::Desired,
    model::{
        Direction, Live, Mode, PeerName, Policy, PolicyStep, Reqid, Sa, SaId, SaStep, Selector,
        State, Step, StepKind,
    },
};

/// The steps that give `unfinished` peers the state from before `plan` was begun, in order, where
/// that is safe; `live` is the present state.
pub fn undo(
    plan: &Plan,
    desired: &Desired,
    live: &Live,
    reqid: Reqid,
    unfinished: &BTreeSet<PeerName>,
) -> Vec<PlannedStep> {
    let now = RollBack { desired, state: &live.0, reqid };
    let mut changes: BTreeMap<&PeerName, Vec<&Change>> = BTreeMap::new();
    for change in &plan.changes {
        if let Some(peer) = change.peer.as_ref().filter(|peer| unfinished.contains(peer)) {
            changes.entry(peer).or_default().push(change);
        }
    }
    let steps = changes.into_iter().filter_map(|(peer, changes)| now.steps_of(peer, &changes));
    in_order(steps.flatten().collect())
}

/// Policies before the SAs that they ask for, and between the two the packets under way.
fn in_order(mut steps: Vec<PlannedStep>) -> Vec<PlannedStep> {
    let has = |phase| steps.iter().any(|step| step.phase == phase);
    if has(Phase::Policies) && (has(Phase::DeleteSas) || has(Phase::DeleteOutboundSas)) {
        let step = Step { peer: None, kind: StepKind::Wait(IN_FLIGHT) };
        steps.push(PlannedStep { step, phase: Phase::Wait });
    }
    steps.sort_by_key(|step| step.phase);
    steps
}

/// The wanted state, and the state so far.
pub(super) struct RollBack<'a> {
    pub(super) desired: &'a Desired,
    pub(super) state: &'a State,
    pub(super) reqid: Reqid,
}

impl RollBack<'_> {
    /// The way back for one peer; `None` where there is none, or none that is safe.
    fn steps_of(&self, peer: &PeerName, changes: &[&Change]) -> Option<Vec<PlannedStep>> {
        // Without a policy to come, its SAs are in use already.
        changes.iter().find(|change| change.kind() == ObjectKind::Policy)?;
        let ways: Vec<WayBack> =
            changes.iter().map(|change| change.way_back(self)).collect::<Option<_>>()?;
        if !self.stays_closed(peer, &ways) {
            return None;
        }
        let steps = changes.iter().zip(ways).filter_map(|(change, way)| {
            let (phase, kind) = match way {
                WayBack::Untouched => return None,
                WayBack::NoSa(id) if change.direction() == Some(Direction::Out) => {
                    (Phase::DeleteOutboundSas, StepKind::Sa(SaStep::Delete(id)))
                }
                WayBack::NoSa(id) => (Phase::DeleteSas, StepKind::Sa(SaStep::Delete(id))),
                WayBack::NoPolicy(policy) if policy.covers_icmp_errors() => {
                    (Phase::DeleteIcmpErrors, StepKind::Policy(PolicyStep::Delete(policy)))
                }
                WayBack::NoPolicy(policy) => {
                    (Phase::DeletePolicies, StepKind::Policy(PolicyStep::Delete(policy)))
                }
                WayBack::Policy(policy) => {
                    (Phase::Policies, StepKind::Policy(PolicyStep::Update(policy)))
                }
            };
            Some(PlannedStep { step: Step { peer: Some(peer.clone()), kind }, phase })
        });
        Some(steps.collect())
    }

    /// The live policy with the identity of `wanted`.
    pub(super) fn policy(&self, wanted: &Policy) -> Option<&Policy> {
        self.state.policies.iter().find(|policy| policy.id == wanted.id)
    }

    /// Whether a guard blocks incoming packets when this policy is gone. About packets that leave,
    /// [`Self::stays_closed`] asks the look-ups. No guard is for forwarded packets: a policy fwd
    /// goes where its twin in may. Those of an interface meet no clear text.
    pub(super) fn is_guarded(&self, policy: &Policy) -> bool {
        let guards = |guard: &&Policy| guard.is_guard_of(self.reqid);
        policy.id.direction == Direction::Out
            || policy.id.if_id != 0
            || self.state.policies.iter().filter(guards).any(|guard| {
                guard.id.direction == Direction::In && guard.id.selector.covers(&policy.id.selector)
            })
    }

    /// Whether no packet leaves for a peer in the clear after these ways back that doesn't now. ICMP
    /// errors may, where nothing of the peer is decrypted any more. Packets to other peers meet none
    /// of these objects, and would only take time.
    fn stays_closed(&self, peer: &PeerName, ways: &[WayBack]) -> bool {
        let wanted = self.desired.policies.values().filter(|wanted| wanted.peer == *peer);
        wanted.filter(|wanted| wanted.policy.id.direction == Direction::Out).all(|wanted| {
            let packet = self.desired.packets(wanted);
            if wanted.policy.is_for_icmp_errors() && !self.decrypts(&packet, ways) {
                return true;
            }
            let now = about(self.state, &packet);
            let after = after(now.clone(), ways);
            flow_out(&after, &packet) != Flow::Clear || flow_out(&now, &packet) == Flow::Clear
        })
    }

    /// Whether there are SAs after these ways back for packets from the destination of this one.
    fn decrypts(&self, packet: &Selector, ways: &[WayBack]) -> bool {
        let goes =
            |sa: &Sa| ways.iter().any(|way| matches!(way, WayBack::NoSa(id) if *id == sa.id));
        let mut sas = self.state.sas.iter();
        sas.any(|sa| sa.src == packet.dst.address && sa.reqid == self.reqid && !goes(sa))
    }
}

/// The way back of one object.
pub(super) enum WayBack {
    /// It is as it was.
    Untouched,
    /// An SA that was not there goes.
    NoSa(SaId),
    /// A policy that was not there goes.
    NoPolicy(Policy),
    /// A policy gets its old form.
    Policy(Policy),
}

/// The part of a state that a packet can meet, which is little of a large mesh's. More of it would
/// change no answer.
fn about(state: &State, packet: &Selector) -> State {
    let serves = |sa: &&Sa| sa.id.dst == packet.dst.address || sa.mode != Mode::Transport;
    let sas = state.sas.iter().filter(serves);
    let policies = state.policies.iter().filter(|policy| policy.id.selector.overlaps(packet));
    State {
        sas: sas.cloned().collect(),
        policies: policies.cloned().collect(),
        firewall: state.firewall.clone(),
        ..State::default()
    }
}

/// A state after these ways back.
fn after(mut state: State, ways: &[WayBack]) -> State {
    for way in ways {
        match way {
            WayBack::Untouched => {}
            WayBack::NoSa(id) => state.sas.retain(|sa| sa.id != *id),
            WayBack::NoPolicy(old) => state.policies.retain(|policy| policy.id != old.id),
            WayBack::Policy(old) => {
                state.policies.retain(|policy| policy.id != old.id);
                state.policies.push(old.clone());
            }
        }
    }
    state
}
