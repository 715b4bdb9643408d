//! Changes -> steps, in the one order in which nothing leaks.
//!
//! 1. Guards and the chains that guard go in first, and policies that let clear text pass ahead of
//!    them are closed: from then on unprotected traffic is blocked.
//! 2. The tunnel's MTU, before any of its packets is protected and so longer.
//! 3. Outbound SAs, then policies that let neighbour discovery pass and those that cover ICMP
//!    errors, then inbound SAs: from the first decrypted packet on, no error that quotes it is in
//!    the clear. An SA without a policy harms nothing, while a policy without its SA drops packets,
//!    or makes the kernel create a larval SA on our SPI.
//! 4. Policies, each replaced atomically. Then the mark that selects them.
//! 5. One wait, so that packets under way still find the SAs that go next.
//! 6. The mark, policies of no peer, then SAs, then guards go. Until then, packets of a peer that
//!    lost its policy met the guard. Policies that cover ICMP errors go once nothing is decrypted
//!    any more, and before the SAs that they ask for.
//!
//! A guard comes or goes in the middle of this order where a chain replaces it, or it a chain: a
//! block policy out meets a packet before it is marked. So it must not be there while the mark
//! alone selects policies, and as long as the chain stands nothing needs it.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{
    chains,
    change::{Change, ObjectKind, Operation},
};
use crate::{
    desired::{Desired, WantedSa},
    model::{
        Chain, ChainId, ChainRole, Direction, Family, IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6,
        Level, Mode, Policy, PolicyId, PortMatch, Rule, SaId, Step, StepKind,
    },
};

/// The time given to packets under way before their SAs go.
pub(super) const IN_FLIGHT: Duration = Duration::from_millis(200);

/// A step of a plan, without its key.
#[derive(Clone)]
pub struct PlannedStep {
    /// The request to the kernel.
    pub step: Step<()>,
    /// Its place in the order; steps of one phase don't depend on each other.
    pub phase: Phase,
}

/// The parts of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Guards are added and repaired, and so are the chains that guard. Policies of the mesh that
    /// let clear text pass ahead of them are closed.
    Guards,
    /// The tunnel's device gets its MTU.
    Link,
    /// SAs with the SPI of a marked one are deleted.
    EvictSas,
    /// The marked ones are deleted.
    EvictTwins,
    /// Outbound SAs are added and replaced.
    OutboundSas,
    /// Neighbour discovery is let pass.
    Discovery,
    /// Policies that cover ICMP errors are added and updated.
    IcmpErrors,
    /// Inbound SAs are added and replaced.
    InboundSas,
    /// Policies are added and updated.
    Policies,
    /// Guards that a chain replaces until the end are added.
    LateGuards,
    /// The chains that mark are set.
    Mark,
    /// Packets in flight arrive.
    Wait,
    /// Unwanted chains that mark are deleted.
    Unmark,
    /// Guards that a chain replaces from now on are deleted.
    EarlyGuards,
    /// Unwanted policies are deleted.
    DeletePolicies,
    /// Unwanted SAs are deleted, except outbound ones.
    DeleteSas,
    /// Unwanted policies that cover ICMP errors are deleted.
    DeleteIcmpErrors,
    /// Unwanted outbound SAs are deleted.
    DeleteOutboundSas,
    /// Unwanted guards and other chains are deleted.
    DeleteGuards,
    /// Policies for neighbour discovery are deleted, as nothing needs them any more.
    DeleteDiscovery,
}

impl Phase {
    /// The reason for its place.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Guards => "guards first: what is not protected is blocked from here on",
            Self::Link => "the MTU before packets grow by encryption",
            Self::EvictSas => {
                "an SA without mark is deleted before its marked twin, or goes with it"
            }
            Self::EvictTwins => "SAs with a mark go, so that the SPI is free",
            Self::OutboundSas => "outbound SAs before the policies that ask for them",
            Self::IcmpErrors => {
                "policies that cover ICMP errors, which quote what is decrypted, before anything is"
            }
            Self::InboundSas => "inbound SAs before anybody sends under them",
            Self::Discovery => "neighbour discovery, which no host can do without, before policies",
            Self::Policies => "policies once their SAs are there; each switches atomically",
            Self::LateGuards => {
                "guards in place of the chains that go, once no packet needs its mark"
            }
            Self::Mark => "the mark once the policies that it selects are there",
            Self::Wait => "packets in flight still find the SAs that go next",
            Self::Unmark => "the mark before the policies that it selects",
            Self::EarlyGuards => {
                "chains guard in their place, and a packet would meet them before it is marked"
            }
            Self::DeletePolicies => {
                "policies before their SAs, so that none asks for an SA that is gone"
            }
            Self::DeleteSas => "SAs that nobody sends under any more",
            Self::DeleteIcmpErrors => {
                "nothing is decrypted any more that an ICMP error could quote"
            }
            Self::DeleteOutboundSas => "SAs that no policy asks for any more",
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
            Self::OutboundSas => "add outbound SAs",
            Self::IcmpErrors => "protect ICMP errors",
            Self::InboundSas => "add inbound SAs",
            Self::Discovery => "let neighbour discovery pass",
            Self::Policies => "switch policies",
            Self::LateGuards => "put up guards in place of chains",
            Self::Mark => "mark the traffic",
            Self::Wait => "wait",
            Self::Unmark => "stop marking",
            Self::EarlyGuards => "take down guards that chains replace",
            Self::DeletePolicies => "delete policies",
            Self::DeleteSas => "delete SAs",
            Self::DeleteIcmpErrors => "unprotect ICMP errors",
            Self::DeleteOutboundSas => "delete outbound SAs",
            Self::DeleteGuards => "take down guards",
            Self::DeleteDiscovery => "delete neighbour discovery",
        })
    }
}

/// Orders all steps that the changes ask for.
pub(super) fn sequence(changes: &[Change], desired: &Desired) -> Vec<PlannedStep> {
    let mut steps: Vec<PlannedStep> =
        changes.iter().flat_map(|change| steps_of(change, changes, desired)).collect();
    let has = |phases: &[Phase]| steps.iter().any(|step| phases.contains(&step.phase));
    let switches = has(&[Phase::IcmpErrors, Phase::Policies, Phase::Mark]);
    let deletes = has(&[Phase::DeleteSas, Phase::DeleteOutboundSas]);
    if switches && deletes {
        steps.push(PlannedStep {
            step: Step { peer: None, kind: StepKind::Wait(IN_FLIGHT) },
            phase: Phase::Wait,
        });
    }
    steps.sort_by_key(|step| (step.phase, rank(step)));
    steps
}

/// Chains are set right behind guards, and deleted right before them: a chain without a guard is
/// the sign of a flush of all policies, and not of a run that was cut short. Policies that let
/// clear text pass go after both have come.
fn rank(step: &PlannedStep) -> u8 {
    let is_chain = matches!(step.step.kind, StepKind::SetChain { .. } | StepKind::DeleteChain(_));
    let closes = matches!(step.step.kind, StepKind::AddPolicy(_) | StepKind::UpdatePolicy(_));
    match step.phase < Phase::Wait {
        true if closes => 0,
        true => 2 - u8::from(is_chain),
        false => u8::from(!is_chain),
    }
}

/// The phases in which a policy comes and goes.
fn policy_phases(change: &Change, changes: &[Change], desired: &Desired) -> [Phase; 2] {
    match (&change.operation, change.kind()) {
        (Operation::CreatePolicy(guard), ObjectKind::Guard)
            if is_guarded_by_leaving_chain(guard, changes) =>
        {
            [Phase::LateGuards, Phase::DeleteGuards]
        }
        (Operation::DeletePolicy(guard), ObjectKind::Guard)
            if is_guarded_by_new_chain(guard, desired) =>
        {
            [Phase::Guards, Phase::EarlyGuards]
        }
        // It lets packets pass in the clear that the guards are to block. No guard is for forwarded
        // packets: there it goes once its successor is there. One of the table of sub policies lets
        // no packet pass that the main table refuses, and one SA is not enough for two policies that
        // ask for it.
        (Operation::DeletePolicy(policy), _)
            if policy.lets_clear_text_pass()
                && policy.id.direction != Direction::Fwd
                && !policy.id.sub
                && !change.is_discovery()
                && !desired.guards.is_empty()
                && (has_guard(desired, policy.id.direction) || policy.covers_icmp_errors())
                && (hardened(policy).is_some() || may_be_guarded(policy)) =>
        {
            [Phase::Guards, Phase::Guards]
        }
        (_, ObjectKind::Guard) => [Phase::Guards, Phase::DeleteGuards],
        _ if change.is_discovery() => [Phase::Discovery, Phase::DeleteDiscovery],
        _ if change.covers_icmp_errors() => [Phase::IcmpErrors, Phase::DeleteIcmpErrors],
        _ => [Phase::Policies, Phase::DeletePolicies],
    }
}

fn steps_of(change: &Change, changes: &[Change], desired: &Desired) -> Vec<PlannedStep> {
    let [put, take] = policy_phases(change, changes, desired);
    let step = |phase, kind| PlannedStep { step: Step { peer: change.peer.clone(), kind }, phase };
    let delete = |phase, id: SaId| step(phase, StepKind::DeleteSa(id));
    match &change.operation {
        Operation::CreateSa(wanted) => {
            let phase = sa_phase(wanted.direction);
            vec![step(phase, add(wanted))]
        }
        Operation::ReplaceSa { live, wanted, twins } if !twins.is_empty() => live
            .iter()
            .map(|sa| delete(Phase::EvictSas, sa.id))
            .chain(twins.iter().map(|twin| delete(Phase::EvictTwins, twin.id)))
            .chain([step(sa_phase(wanted.direction), add(wanted))])
            .collect(),
        Operation::ReplaceSa { live, wanted, .. } => {
            let larval = live.as_ref().is_some_and(|sa| sa.is_larval());
            let kind = if larval { add(wanted) } else { replace(wanted) };
            vec![step(sa_phase(wanted.direction), kind)]
        }
        Operation::DeleteSa(sa) if desired.local == Some(sa.src) => {
            vec![delete(Phase::DeleteOutboundSas, sa.id)]
        }
        Operation::DeleteSa(sa) => vec![delete(Phase::DeleteSas, sa.id)],
        Operation::CreatePolicy(policy) => {
            vec![step(put, StepKind::AddPolicy(policy.clone()))]
        }
        Operation::UpdatePolicy { live, wanted } => {
            let first = closed(live, wanted).map(|policy| (Phase::Guards, policy));
            let then = first.as_ref().is_none_or(|(_, first)| first != wanted);
            first
                .into_iter()
                .chain(then.then(|| (put, wanted.clone())))
                .map(|(phase, policy)| step(phase, StepKind::UpdatePolicy(policy)))
                .collect()
        }
        Operation::DeletePolicy(policy) => {
            let closed = hardened(policy).filter(|_| take == Phase::Guards && !refuses_all(policy));
            let Some(closed) = closed else {
                return vec![step(take, StepKind::DeletePolicy(policy.clone()))];
            };
            // It goes when others do: it may be the only policy that covers ICMP errors.
            let late = match policy.covers_icmp_errors() {
                true => Phase::DeleteIcmpErrors,
                false => Phase::DeletePolicies,
            };
            let close = step(take, StepKind::UpdatePolicy(closed.clone()));
            vec![close, step(late, StepKind::DeletePolicy(closed))]
        }
        Operation::SetMtu { device, after, .. } => {
            vec![step(Phase::Link, StepKind::SetMtu { device: device.clone(), mtu: *after })]
        }
        Operation::SetChain { live, id, rules } => {
            steps_of_chain(live.as_ref(), id, rules, changes)
                .into_iter()
                .map(|(phase, kind)| step(phase, kind))
                .collect()
        }
        Operation::DeleteChain(chain) => {
            let phase = match chain.id.role() {
                Some(ChainRole::Mark) => Phase::Unmark,
                Some(ChainRole::MangleOut) if drops_traffic_to_be_marked(chain, desired) => {
                    Phase::EarlyGuards
                }
                Some(
                    ChainRole::Out | ChainRole::In | ChainRole::MangleOut | ChainRole::MangleIn,
                )
                | None => Phase::DeleteGuards,
            };
            vec![step(phase, StepKind::DeleteChain(chain.id.clone()))]
        }
    }
}

/// The first replacement of a policy that lets the traffic pass in the clear, and that would do so
/// before any guard: the same policy without that. Not the wanted one, as its SAs may be still to
/// come.
fn closed(live: &Policy, wanted: &Policy) -> Option<Policy> {
    let opens = live.lets_clear_text_pass() && !wanted.lets_clear_text_pass();
    opens.then(|| hardened(live).unwrap_or_else(|| wanted.clone()))
}

/// Whether policies guard a direction. Where a mark selects, a rule guards packets out, and sees
/// what policies have made of them: one that asks for an SA before the mark is set would drop them.
fn has_guard(desired: &Desired, direction: Direction) -> bool {
    desired.guards.keys().any(|guard| guard.direction == direction)
}

/// Whether a guard may be for packets of a policy: none is for forwarded packets, or for ICMP.
fn may_be_guarded(policy: &Policy) -> bool {
    let PolicyId { direction, selector, .. } = policy.id;
    direction != Direction::Fwd && ![IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&selector.proto)
}

/// The same policy, letting no packet pass in the clear; `None` if it encrypts nothing.
fn hardened(policy: &Policy) -> Option<Policy> {
    let mut closed = Policy { index: None, extras: BTreeSet::new(), ..policy.clone() };
    let esp = closed.templates.iter_mut().filter(|template| template.proto == IPPROTO_ESP);
    esp.for_each(|template| template.level = Level::Required);
    (!closed.lets_clear_text_pass()).then_some(closed)
}

/// Whether a policy in would refuse the packets of the mesh's SAs, which are of transport mode, once
/// it lets no clear text pass. It goes at once then, as a guard blocks the clear text.
fn refuses_all(policy: &Policy) -> bool {
    policy.id.direction == Direction::In
        && policy.templates.iter().any(|template| template.mode != Mode::Transport)
}

fn add(wanted: &WantedSa) -> StepKind<()> {
    StepKind::AddSa { sa: wanted.sa.clone(), key: (), start: wanted.start }
}

fn replace(wanted: &WantedSa) -> StepKind<()> {
    StepKind::ReplaceSa { sa: wanted.sa.clone(), key: (), start: wanted.start }
}

/// A chain that guards drops the traffic to an old port until the end, when the guards of that port
/// go too.
fn steps_of_chain(
    live: Option<&Chain>,
    id: &ChainId,
    rules: &[Rule],
    changes: &[Change],
) -> Vec<(Phase, StepKind<()>)> {
    let set = |rules| StepKind::SetChain { id: id.clone(), rules, jump: true };
    if id.role() == Some(ChainRole::Mark) {
        return vec![(Phase::Mark, set(rules.to_vec()))];
    }
    let live = live.map_or(&[][..], |chain| &chain.rules);
    // The new rules drop all packets that those of version 0.1 drop for their port.
    let is_new = |guarded| rules.iter().any(|rule| rule.guarded() == Some(guarded));
    let stays = |rule: &&Rule| rule.guarded().is_some_and(|guarded| !is_new(guarded));
    let old: Vec<Rule> = live.iter().filter(stays).cloned().collect();
    let put = match id.role() {
        // It would drop packets that still need their mark, as a block policy would.
        Some(ChainRole::MangleOut) if replaces_leaving_chain(id, rules, changes) => {
            Phase::LateGuards
        }
        _ => Phase::Guards,
    };
    if old.is_empty() {
        return vec![(put, set(rules.to_vec()))];
    }
    let both = rules.iter().cloned().chain(old).collect();
    vec![(put, set(both)), (Phase::DeleteGuards, set(rules.to_vec()))]
}

/// Whether a chain of the mangle table comes in place of one of the filter table that goes at the
/// end, and that packets get to.
fn replaces_leaving_chain(id: &ChainId, rules: &[Rule], changes: &[Change]) -> bool {
    let ports: BTreeSet<u16> = chains::guarded_ports(rules).collect();
    changes.iter().any(|change| {
        matches!(&change.operation, Operation::DeleteChain(chain)
            if chain.is_reached()
                && chain.id.role() == Some(ChainRole::Out)
                && chain.id.family == id.family
                && chains::guarded_ports(&chain.rules).any(|port| ports.contains(&port)))
    })
}

/// Whether a chain of the mangle table would drop packets before they get the mark by which a
/// policy is to select them.
fn drops_traffic_to_be_marked(chain: &Chain, desired: &Desired) -> bool {
    let marks = desired.chains.get(&(chain.id.family, ChainRole::Mark));
    let marked: BTreeSet<u16> =
        marks.into_iter().flat_map(|rules| chains::marked_ports(rules)).collect();
    let blocks = |rule: &Rule| rule.guarded().is_some_and(|(port, _)| marked.contains(&port));
    chain.rules.iter().any(blocks)
}

/// Whether a chain that goes at the end, and that packets get to, stands in for a guard that comes.
fn is_guarded_by_leaving_chain(guard: &Policy, changes: &[Change]) -> bool {
    changes.iter().any(|change| {
        matches!(&change.operation, Operation::DeleteChain(chain)
            if chain.is_reached() && drops_for(&chain.id, &chain.rules, guard))
    })
}

/// Whether a chain that is set before stands in for a guard that goes.
fn is_guarded_by_new_chain(guard: &Policy, desired: &Desired) -> bool {
    let chain = desired.chains.get(&(Family::of(&guard.id.selector), ChainRole::Out));
    chain.is_some_and(|rules| drops(rules, guard))
}

fn drops_for(id: &ChainId, rules: &[Rule], guard: &Policy) -> bool {
    id.role() == Some(ChainRole::Out)
        && id.family == Family::of(&guard.id.selector)
        && drops(rules, guard)
}

/// Whether rules drop the packets that a guard out blocks.
fn drops(rules: &[Rule], guard: &Policy) -> bool {
    let port = guard.id.selector.dport;
    guard.id.direction == Direction::Out
        && chains::guarded_ports(rules).any(|other| port == PortMatch::exactly(other))
}

fn sa_phase(direction: Direction) -> Phase {
    match direction {
        Direction::Out => Phase::OutboundSas,
        Direction::In | Direction::Fwd => Phase::InboundSas,
    }
}

impl PlannedStep {
    /// Its object's identity, or a time.
    pub fn id(&self) -> String {
        match &self.step.kind {
            StepKind::AddSa { sa, .. } | StepKind::ReplaceSa { sa, .. } => sa.id.to_string(),
            StepKind::DeleteSa(id) => id.to_string(),
            StepKind::AddPolicy(policy)
            | StepKind::UpdatePolicy(policy)
            | StepKind::DeletePolicy(policy) => policy.id.to_string(),
            StepKind::SetMtu { device, mtu } => format!("dev {device} mtu {mtu}"),
            StepKind::SetChain { id, .. } | StepKind::DeleteChain(id) => id.to_string(),
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
            StepKind::SetChain { .. } => "set_chain",
            StepKind::DeleteChain(_) => "delete_chain",
            StepKind::Wait(_) => "wait",
        }
    }
}
