//! Changes -> steps, in the one order in which nothing leaks.
//!
//! 1. Exceptions go whose packets a new guard blocks. Guards and the chains that guard come, and
//!    policies that let clear text pass ahead of them are closed: from then on unprotected traffic is
//!    blocked.
//! 2. A smaller MTU of the tunnel, before any of its packets is protected and so longer. A larger one
//!    comes last.
//! 3. Outbound SAs, then policies that let neighbour discovery pass and those that cover ICMP
//!    errors, then inbound SAs: from the first decrypted packet on, no error that quotes it is in
//!    the clear. An SA without a policy harms nothing, while a policy without its SA drops packets,
//!    or makes the kernel create a larval SA on our SPI.
//! 4. Policies, each replaced atomically. Then the mark that selects them, or the interface, its
//!    addresses, and the routes that lead packets to it. Blackholes came with the guards.
//! 5. One wait, so that packets under way still find the SAs that go next.
//! 6. The mark, or routes, addresses and interface, policies of no peer, then SAs, then guards go. Until then, packets of a peer that
//!    lost its policy met the guard. Policies that cover ICMP errors go once nothing is decrypted
//!    any more, and before the SAs that they ask for.
//!
//! A guard comes or goes in the middle of this order where a chain replaces it, or it a chain: a
//! block policy out meets a packet before it is marked. So it must not be there while the mark
//! alone selects policies, and as long as the chain stands nothing needs it.

use std::{fmt, time::Duration};

use super::change::{Change, Context};
use crate::{
    desired::Desired,
    model::{PolicyStep, Step, StepKind},
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
    /// Policies for exceptions are deleted whose packets a guard that is added next will block.
    EndExceptions,
    /// Guards are added and repaired, and so are the chains that guard. Policies of the mesh that
    /// let clear text pass ahead of them are closed.
    Guards,
    /// The tunnel's device gets a smaller MTU.
    LowerMtu,
    /// SAs with the SPI of a marked one are deleted.
    EvictSas,
    /// The marked ones are deleted.
    EvictTwins,
    /// Outbound SAs are added and replaced.
    OutboundSas,
    /// Neighbour discovery is let pass.
    Discovery,
    /// The datagrams that hold ESP are let in.
    Encap,
    /// Exceptions are let pass.
    Exceptions,
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
    /// The XFRM interface is made, or set.
    Interface,
    /// It gets its addresses.
    Addresses,
    /// Routes lead packets for peers' networks to it.
    Routes,
    /// Packets in flight arrive.
    Wait,
    /// Unwanted routes to the interface are deleted.
    DeleteRoutes,
    /// Its unwanted addresses are deleted.
    DeleteAddresses,
    /// It is deleted, if it is unwanted.
    DeleteInterface,
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
    /// Policies that let ESP in UDP in are deleted, as nothing refuses it any more.
    DeleteEncap,
    /// Policies for exceptions are deleted where no pair protects these packets from now on. Others
    /// are closed first, with the pair's own policies.
    DeleteExceptions,
    /// The tunnel's device gets a larger MTU.
    RaiseMtu,
}

impl Phase {
    /// The reason for its place.
    pub fn reason(self) -> &'static str {
        match self {
            Self::EndExceptions => {
                "exceptions before the guards that block their packets: open sockets look again when a \
                 policy is added, and not when one is deleted"
            }
            Self::Guards => "guards first: what is not protected is blocked from here on",
            Self::LowerMtu => "the MTU before packets grow by encryption",
            Self::RaiseMtu => "a larger MTU once packets of that size fit",
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
            Self::Encap => "datagrams that hold ESP, before policies ask them for an SA",
            Self::Exceptions => "exceptions before policies would stop them",
            Self::Policies => "policies once their SAs are there; each switches atomically",
            Self::LateGuards => {
                "guards in place of the chains that go, once no packet needs its mark"
            }
            Self::Mark => "the mark once the policies that it selects are there",
            Self::Interface => "the interface once its policies are there",
            Self::Addresses => "addresses before the routes that have them as their source",
            Self::Routes => "routes last: until then packets meet blackholes",
            Self::DeleteRoutes => "routes first: from then on packets meet blackholes",
            Self::DeleteAddresses => "addresses that no route has as its source any more",
            Self::DeleteInterface => "the interface before its policies",
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
            Self::DeleteExceptions => "exceptions of pairs that protect these packets no more",
            Self::DeleteEncap => "ESP in UDP, which no policy covers any more",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndExceptions => "end exceptions that guards block",
            Self::Guards => "put up guards",
            Self::LowerMtu => "lower the MTU",
            Self::RaiseMtu => "raise the MTU",
            Self::EvictSas => "clear SAs with marked twins",
            Self::EvictTwins => "delete marked SAs",
            Self::OutboundSas => "add outbound SAs",
            Self::IcmpErrors => "protect ICMP errors",
            Self::InboundSas => "add inbound SAs",
            Self::Discovery => "let neighbour discovery pass",
            Self::Encap => "let ESP in UDP in",
            Self::Exceptions => "let exceptions pass",
            Self::Policies => "switch policies",
            Self::LateGuards => "put up guards in place of chains",
            Self::Mark => "mark the traffic",
            Self::Interface => "set the interface",
            Self::Addresses => "add addresses",
            Self::Routes => "add routes",
            Self::DeleteRoutes => "delete routes",
            Self::DeleteAddresses => "delete addresses",
            Self::DeleteInterface => "delete the interface",
            Self::Wait => "wait",
            Self::Unmark => "stop marking",
            Self::EarlyGuards => "take down guards that chains replace",
            Self::DeletePolicies => "delete policies",
            Self::DeleteSas => "delete SAs",
            Self::DeleteIcmpErrors => "unprotect ICMP errors",
            Self::DeleteOutboundSas => "delete outbound SAs",
            Self::DeleteGuards => "take down guards",
            Self::DeleteDiscovery => "delete neighbour discovery",
            Self::DeleteExceptions => "stop letting exceptions pass",
            Self::DeleteEncap => "stop letting ESP in UDP in",
        })
    }
}

/// Orders all steps that the changes ask for.
pub(super) fn sequence(changes: &[Change], desired: &Desired) -> Vec<PlannedStep> {
    let context = Context { changes, desired };
    let mut steps: Vec<PlannedStep> =
        changes.iter().flat_map(|change| steps_of(change, &context)).collect();
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

fn steps_of<'a>(
    change: &'a Change,
    context: &'a Context<'a>,
) -> impl Iterator<Item = PlannedStep> + 'a {
    let step =
        |(phase, kind)| PlannedStep { step: Step { peer: change.peer.clone(), kind }, phase };
    change.steps(context).into_iter().map(step)
}

/// Chains are set right behind guards, and deleted right before them: a chain without a guard is
/// the sign of a flush of all policies, and not of a run that was cut short. Policies that let
/// clear text pass go after both have come.
fn rank(step: &PlannedStep) -> u8 {
    let is_chain = matches!(step.step.kind, StepKind::Chain(_));
    let closes =
        matches!(step.step.kind, StepKind::Policy(PolicyStep::Add(_) | PolicyStep::Update(_)));
    match step.phase < Phase::Wait {
        true if closes => 0,
        true => 2 - u8::from(is_chain),
        false => u8::from(!is_chain),
    }
}

impl PlannedStep {
    /// Its object's identity, or a time.
    pub fn id(&self) -> String {
        self.step.kind.id()
    }

    /// The step's name in JSON.
    pub fn name(&self) -> &'static str {
        self.step.kind.name()
    }
}
