//! Changes -> steps, in the one order in which nothing leaks.
//!
//! 1. Guards go in first: from then on unprotected traffic is blocked.
//! 2. The tunnel's MTU, before any of its packets is protected and so longer.
//! 3. Inbound SAs, then outbound ones: an SA without a policy harms nothing,
//!    while a policy without its SA drops packets, or makes the kernel create a
//!    larval SA on our SPI.
//! 4. What lets neighbour discovery pass, before policies that would stop it.
//! 5. Policies, each replaced atomically.
//! 6. One wait, so that packets under way still find the SAs that go next.
//! 7. Policies of nobody's, then SAs, then guards go. Before that, whoever lost
//!    its policy met the guard.

use std::{fmt, time::Duration};

use super::{
    change::{Change, ObjectKind, What},
    step::{Step, StepKind},
};
use crate::{
    desired::WantedSa,
    model::{Direction, SaId},
};

/// How long packets under way are waited for before their SAs go.
const IN_FLIGHT: Duration = Duration::from_millis(200);

/// A step of a plan, without its key.
#[derive(Clone)]
pub struct PlannedStep {
    /// What is asked of the kernel.
    pub step: Step<()>,
    /// Where in the order it belongs; steps of one phase don't depend on each other.
    pub phase: Phase,
}

/// The parts of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Guards are added and repaired.
    Guards,
    /// The tunnel's device gets its MTU.
    Link,
    /// SAs go that share their SPI with a marked one.
    EvictSas,
    /// The marked ones go.
    EvictTwins,
    /// Inbound SAs are added and replaced.
    InboundSas,
    /// Outbound SAs are added and replaced.
    OutboundSas,
    /// Neighbour discovery is let pass.
    Discovery,
    /// Policies are added and updated.
    Policies,
    /// Packets in flight arrive.
    Wait,
    /// Policies that nothing asks for go.
    DeletePolicies,
    /// SAs that nothing asks for go.
    DeleteSas,
    /// Guards that nothing asks for go.
    DeleteGuards,
    /// Neighbour discovery needs no policy any more.
    DeleteDiscovery,
}

impl Phase {
    /// Why it comes where it does.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Guards => "guards first: what is not protected is blocked from here on",
            Self::Link => "the MTU before packets grow by encryption",
            Self::EvictSas => {
                "an SA without mark is deleted before its marked twin, or goes with it"
            }
            Self::EvictTwins => "SAs with a mark go, so that the SPI is free",
            Self::InboundSas => "inbound SAs before anybody sends under them",
            Self::OutboundSas => "outbound SAs before the policies that ask for them",
            Self::Discovery => "neighbour discovery, which no host can do without, before policies",
            Self::Policies => "policies once their SAs are there; each switches atomically",
            Self::Wait => "packets in flight still find the SAs that go next",
            Self::DeletePolicies => {
                "policies before their SAs, so that none asks for an SA that is gone"
            }
            Self::DeleteSas => "SAs that nobody sends under any more",
            Self::DeleteGuards => "guards last",
            Self::DeleteDiscovery => "neighbour discovery, which no policy covers any more",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guards => "put up guards",
            Self::Link => "set the MTU",
            Self::EvictSas => "clear SAs with marked twins",
            Self::EvictTwins => "delete marked SAs",
            Self::InboundSas => "add inbound SAs",
            Self::OutboundSas => "add outbound SAs",
            Self::Discovery => "let neighbour discovery pass",
            Self::Policies => "switch policies",
            Self::Wait => "wait",
            Self::DeletePolicies => "delete policies",
            Self::DeleteSas => "delete SAs",
            Self::DeleteGuards => "take down guards",
            Self::DeleteDiscovery => "delete neighbour discovery",
        })
    }
}

/// Orders all that the changes ask for.
pub(super) fn sequence(changes: &[Change]) -> Vec<PlannedStep> {
    let mut steps: Vec<PlannedStep> = changes.iter().flat_map(steps_of).collect();
    let switches = steps.iter().any(|step| step.phase == Phase::Policies);
    let deletes = steps.iter().any(|step| step.phase == Phase::DeleteSas);
    if switches && deletes {
        steps.push(PlannedStep {
            step: Step { peer: None, kind: StepKind::Wait(IN_FLIGHT) },
            phase: Phase::Wait,
        });
    }
    steps.sort_by_key(|step| step.phase);
    steps
}

fn steps_of(change: &Change) -> Vec<PlannedStep> {
    let [put, take] = match (change.kind(), change.is_discovery()) {
        (ObjectKind::Guard, _) => [Phase::Guards, Phase::DeleteGuards],
        (_, true) => [Phase::Discovery, Phase::DeleteDiscovery],
        _ => [Phase::Policies, Phase::DeletePolicies],
    };
    let step = |phase, kind| PlannedStep { step: Step { peer: change.peer.clone(), kind }, phase };
    let delete = |phase, id: SaId| step(phase, StepKind::DeleteSa(id));
    match &change.what {
        What::CreateSa(wanted) => {
            let phase = sa_phase(wanted.direction);
            vec![step(phase, add(wanted))]
        }
        What::ReplaceSa { live, wanted, twins } if !twins.is_empty() => live
            .iter()
            .map(|sa| delete(Phase::EvictSas, sa.id))
            .chain(twins.iter().map(|twin| delete(Phase::EvictTwins, twin.id)))
            .chain([step(sa_phase(wanted.direction), add(wanted))])
            .collect(),
        What::ReplaceSa { live, wanted, .. } => {
            let larval = live.as_ref().is_some_and(|sa| sa.is_larval());
            let kind = if larval { add(wanted) } else { replace(wanted) };
            vec![step(sa_phase(wanted.direction), kind)]
        }
        What::DeleteSa(sa) => vec![delete(Phase::DeleteSas, sa.id)],
        What::CreatePolicy(policy) => {
            vec![step(put, StepKind::AddPolicy(policy.clone()))]
        }
        What::UpdatePolicy { wanted, .. } => {
            vec![step(put, StepKind::UpdatePolicy(wanted.clone()))]
        }
        What::DeletePolicy(policy) => {
            vec![step(take, StepKind::DeletePolicy(policy.clone()))]
        }
        What::SetMtu { device, after, .. } => {
            vec![step(Phase::Link, StepKind::SetMtu { device: device.clone(), mtu: *after })]
        }
    }
}

fn add(wanted: &WantedSa) -> StepKind<()> {
    StepKind::AddSa { sa: wanted.sa.clone(), key: (), start: wanted.start }
}

fn replace(wanted: &WantedSa) -> StepKind<()> {
    StepKind::ReplaceSa { sa: wanted.sa.clone(), key: (), start: wanted.start }
}

fn sa_phase(direction: Direction) -> Phase {
    match direction {
        Direction::Out => Phase::OutboundSas,
        _ => Phase::InboundSas,
    }
}

impl PlannedStep {
    /// What it is about: an object's identity, or a time.
    pub fn id(&self) -> String {
        match &self.step.kind {
            StepKind::AddSa { sa, .. } | StepKind::ReplaceSa { sa, .. } => sa.id.to_string(),
            StepKind::DeleteSa(id) => id.to_string(),
            StepKind::AddPolicy(policy)
            | StepKind::UpdatePolicy(policy)
            | StepKind::DeletePolicy(policy) => policy.id.to_string(),
            StepKind::SetMtu { device, mtu } => format!("dev {device} mtu {mtu}"),
            StepKind::Wait(time) => format!("{} ms", time.as_millis()),
        }
    }

    /// The step's name in JSON.
    pub fn name(&self) -> &'static str {
        match &self.step.kind {
            StepKind::AddSa { .. } => "add_sa",
            StepKind::ReplaceSa { .. } => "replace_sa",
            StepKind::DeleteSa(_) => "delete_sa",
            StepKind::AddPolicy(policy) if policy.is_guard() => "add_guard",
            StepKind::AddPolicy(_) => "add_policy",
            StepKind::UpdatePolicy(policy) if policy.is_guard() => "update_guard",
            StepKind::UpdatePolicy(_) => "update_policy",
            StepKind::DeletePolicy(policy) if policy.is_guard() => "delete_guard",
            StepKind::DeletePolicy(_) => "delete_policy",
            StepKind::SetMtu { .. } => "set_mtu",
            StepKind::Wait(_) => "wait",
        }
    }
}
