//! Reverts an unconfirmed apply.
//!
//! An apply stops where a foreign object is in its way, and where a step fails: the host is then
//! protected or blocked. A revert is for a host that may be cut off by the apply. So it performs
//! every step of the way back. Objects that others have set up meanwhile are not a reason to stop,
//! and a step that fails stops no other one, unless traffic that was protected would leave
//! unencrypted by that. Then it compares the host's state with the one before.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{
    apply::{Course, Progress, Report, Target, run_steps, verify},
    desired::Desired,
    kernel::Kernel,
    model::{
        ChainId, Direction, Family, FibAction, IPPROTO_UDP, Live, PolicyId, Prefix, Reqid, Rule,
        Selector,
    },
    plan::{ChainStep, Plan, PlannedStep, PolicyStep, RouteStep, Step, StepKind},
    restore::unlike,
};

/// The number of times that a revert tries failed steps.
const ROUNDS: usize = 5;
/// The time before it tries again: another program may hold the lock of iptables, or may have taken
/// all memory.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the host hold the objects of `goal`, and reports.
pub fn revert(
    kernel: &mut dyn Kernel,
    goal: &Target<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Report {
    let mut report = Report::default();
    for round in 1..=ROUNDS {
        (report.failed, report.left, report.stopped) = Default::default();
        let may_help = once(kernel, goal, &mut report, progress);
        if report.is_restored() || !may_help || round == ROUNDS {
            break;
        }
        progress(Progress::Retry);
        // It does not matter whether it waits: the next round counts.
        let _ = kernel.perform(&[Step { peer: None, kind: StepKind::Wait(PAUSE) }]);
    }
    report
}

/// One look, one plan, all of its steps, and a second look. Whether another round may do better.
fn once(
    kernel: &mut dyn Kernel,
    goal: &Target<'_>,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress<'_>),
) -> bool {
    (report.after, report.unlike) = (None, None);
    let live = match kernel.observe(goal.reqid) {
        Ok(live) => live,
        Err(error) => {
            report.stopped = Some(error);
            return true;
        }
    };
    let plan = Plan::new(goal.desired, &live, goal.reqid);
    progress(Progress::Planned(&plan));
    let mut course = Lost::beside(goal.desired, &live, goal.reqid);
    let lost = run_steps(kernel, goal.keyring, &plan.steps, report, &mut course, progress).err();
    let now = verify(kernel, goal, report);
    report.unlike = now.map(|live| unlike(goal.desired, &live, goal.reqid));
    report.answers_lost |= lost.is_some();
    if !report.is_restored() && report.stopped.is_none() {
        report.stopped = lost;
    }
    let cannot_look = report.after.as_ref().is_none_or(|after| !after.conflicts.is_empty());
    !report.failed.is_empty() || report.stopped.is_some() || !plan.is_empty() || cannot_look
}

/// The course of a revert. Everything is performed, except steps that would open packets which a
/// lost object, one that could not be put in place, was to protect.
struct Lost<'a> {
    wanted: &'a Desired,
    packets: Vec<(Direction, Selector)>,
}

impl<'a> Lost<'a> {
    /// The objects that can't come back, because a foreign one has their place.
    fn beside(desired: &'a Desired, live: &Live, reqid: Reqid) -> Self {
        let foreign = live.0.foreign_policies(reqid);
        let wanted =
            |id: &PolicyId| desired.policies.contains_key(id) || desired.guards.contains_key(id);
        let ids = foreign.map(|policy| policy.id).filter(wanted);
        let packets = ids.map(|id| (id.direction, id.selector)).collect();
        Self { wanted: desired, packets }
    }

    /// Whether a deletion lets packets pass that a lost object was to refuse.
    fn opens(&self, direction: Direction, gone: &Selector) -> bool {
        self.packets
            .iter()
            .any(|(other, lost)| *other == direction && (lost.covers(gone) || gone.covers(lost)))
    }

    /// The packets that a chain which could not be set was to drop. Where a guard blocks the same,
    /// nothing is lost.
    fn dropped_by(&self, id: &ChainId, rules: &[Rule]) -> Vec<(Direction, Selector)> {
        let any = match id.family {
            Family::Ipv4 => Prefix::any(Ipv4Addr::UNSPECIFIED.into()),
            Family::Ipv6 => Prefix::any(Ipv6Addr::UNSPECIFIED.into()),
        };
        let drops = rules.iter().filter_map(|rule| match rule {
            Rule::Block { port, direction } | Rule::Drop { port, direction } => {
                Some((*direction, Selector::between(any, any).to_port(IPPROTO_UDP, *port)))
            }
            // The blackholes of these networks were there too, and drop the same.
            Rule::BlockTo { .. } => None,
            Rule::Pass { .. }
            | Rule::PassDevice { .. }
            | Rule::PassProtected { .. }
            | Rule::PassOutside { .. }
            | Rule::Mark { .. }
            | Rule::Other(_) => None,
        });
        let guarded = |direction: Direction, selector: Selector| {
            self.wanted.guards.contains_key(&PolicyId::new(direction, selector))
        };
        drops.filter(|(direction, selector)| !guarded(*direction, *selector)).collect()
    }
}

impl Course for Lost<'_> {
    fn failed(&mut self, step: &Step<()>) {
        match &step.kind {
            StepKind::Policy(PolicyStep::Add(policy)) if policy.refuses() => {
                self.packets.push((policy.id.direction, policy.id.selector));
            }
            StepKind::Chain(ChainStep::Set { id, rules, .. }) => {
                let dropped = self.dropped_by(id, rules);
                self.packets.extend(dropped);
            }
            StepKind::Route(RouteStep::Add(entry)) if entry.action == FibAction::Blackhole => {
                self.packets.push((Direction::Out, Selector::to_network(entry.to)));
            }
            StepKind::Policy(_)
            | StepKind::Chain(ChainStep::Delete(_))
            | StepKind::Sa(_)
            | StepKind::Mtu(_)
            | StepKind::Interface(_)
            | StepKind::Address(_)
            | StepKind::Route(_)
            | StepKind::Wait(_) => {}
        }
    }

    fn allows(&self, step: &PlannedStep) -> bool {
        match &step.step.kind {
            StepKind::Policy(PolicyStep::Delete(policy)) if policy.refuses() => {
                !self.opens(policy.id.direction, &policy.id.selector)
            }
            // Its rules are not known here.
            StepKind::Chain(ChainStep::Delete(_)) => self.packets.is_empty(),
            StepKind::Route(RouteStep::Delete(entry)) if entry.action == FibAction::Blackhole => {
                !self.opens(Direction::Out, &Selector::to_network(entry.to))
            }
            StepKind::Policy(_)
            | StepKind::Chain(ChainStep::Set { .. })
            | StepKind::Sa(_)
            | StepKind::Mtu(_)
            | StepKind::Interface(_)
            | StepKind::Address(_)
            | StepKind::Route(_)
            | StepKind::Wait(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Action, Backend, ChainRole, Policy},
        plan::Phase,
    };

    const OURS: Reqid = Reqid(0x4d53_0001);

    fn prefix(address: [u8; 4], length: u8) -> Prefix {
        Prefix { address: address.into(), length }
    }

    /// The packets from one prefix to another, for the tunnel's port.
    fn packets(dst: Prefix) -> Selector {
        Selector::between(prefix([0; 4], 0), dst).to_port(IPPROTO_UDP, 4789)
    }

    fn block(direction: Direction, dst: Prefix) -> Policy {
        let id = PolicyId::new(direction, packets(dst));
        let templates = Vec::new();
        let extras = Default::default();
        Policy { id, priority: OURS.0, action: Action::Block, index: None, templates, extras }
    }

    fn chain() -> ChainId {
        ChainId::new(Backend::NfTables, Family::Ipv4, ChainRole::MangleOut, OURS)
    }

    fn allows(lost: &Lost<'_>, kind: StepKind<()>) -> bool {
        lost.allows(&PlannedStep { step: Step { peer: None, kind }, phase: Phase::DeletePolicies })
    }

    /// Which deletions of policies are still performed: of the same packets, of fewer, of
    /// more, of others, of the same the other way, and of a chain.
    fn deletions(lost: &Lost<'_>) -> [bool; 6] {
        let delete = |direction, dst| {
            allows(lost, StepKind::Policy(PolicyStep::Delete(block(direction, dst))))
        };
        [
            delete(Direction::Out, prefix([10, 0, 0, 0], 8)),
            delete(Direction::Out, prefix([10, 1, 0, 0], 16)),
            delete(Direction::Out, prefix([0; 4], 0)),
            delete(Direction::Out, prefix([192, 0, 2, 1], 32)),
            delete(Direction::In, prefix([10, 0, 0, 0], 8)),
            allows(lost, StepKind::Chain(ChainStep::Delete(chain()))),
        ]
    }

    #[test]
    fn what_blocks_goes_only_if_all_that_is_to_block_instead_could_be_put_up() {
        let desired = Desired::default();
        let mut lost = Lost { wanted: &desired, packets: Vec::new() };
        assert_eq!(deletions(&lost), [true; 6], "nothing was lost");
        let guard = block(Direction::Out, prefix([10, 0, 0, 0], 8));
        lost.failed(&Step { peer: None, kind: StepKind::Policy(PolicyStep::Add(guard.clone())) });
        let kept = [false, false, false, true, true, false];
        assert_eq!(deletions(&lost), kept, "a guard could not be put up");
        // Or a foreign object has its place.
        let (mut live, mut desired) = (Live::default(), Desired::default());
        desired.guards.insert(guard.id, guard.clone());
        live.0.policies.push(Policy { priority: 7, ..guard });
        assert_eq!(deletions(&Lost::beside(&desired, &live, OURS)), kept);
    }

    #[test]
    fn a_chain_that_could_not_be_set_blocks_nothing_unless_a_guard_does() {
        let any = || block(Direction::Out, prefix([0; 4], 0));
        for rule in [
            Rule::Block { port: 4789, direction: Direction::Out },
            Rule::Drop { port: 4789, direction: Direction::Out },
        ] {
            let mut desired = Desired::default();
            let kind =
                StepKind::Chain(ChainStep::Set { id: chain(), rules: vec![rule], jump: true });
            let set = Step { peer: None, kind };
            let mut lost = Lost { wanted: &desired, packets: Vec::new() };
            lost.failed(&set);
            assert_eq!(deletions(&lost), [false, false, false, false, true, false]);
            desired.guards.insert(any().id, any());
            let mut lost = Lost { wanted: &desired, packets: Vec::new() };
            lost.failed(&set);
            assert_eq!(deletions(&lost), [true; 6]);
        }
    }
}
