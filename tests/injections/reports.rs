//! The text of a report, beside the state of the kernel.

use std::collections::BTreeSet;

use meshsec::{
    apply::{Report, Target, apply},
    kernel::{Kernel, KernelError, Memory},
    model::{Chain, ChainId, Policy, Sa, State},
    plan::{
        AddressStep, ChainChange, ChainStep, Change, Flow, InterfaceStep, MtuStep, Operation, Plan,
        PlannedStep, PolicyStep, RouteStep, SaStep, StepKind,
    },
};

use crate::{
    common::{REQID, observe},
    faulty::{Faults, Faulty},
    packets::{Fate, leaves},
    scenarios::Scenario,
};

/// Applies with faults, and then without.
///
/// # Errors
///
/// The first thing that is not as it should be.
pub fn check(scenario: &Scenario, faults: &Faults) -> Result<Faulty, String> {
    let before = scenario.kernel.state().clone();
    let mut kernel = Faulty::new(scenario.kernel.clone(), faults.clone(), &scenario.packets);
    let report = applied(scenario, &mut kernel);
    if let Some(leaked) = kernel.leaked {
        return Err(format!("in the clear: {leaked}"));
    }
    let mut memory = kernel.memory.clone();
    if foreign(memory.state()) != foreign(&before) {
        return Err("what is foreign was touched".into());
    }
    is_right(scenario, faults, &report, &before, &mut memory)?;
    converges(scenario, memory)?;
    Ok(kernel)
}

fn applied(scenario: &Scenario, kernel: &mut Faulty) -> Report {
    let Scenario { desired, keyring, .. } = scenario;
    let goal = Target { desired, keyring, reqid: REQID };
    let plan = Plan::new(desired, &observe(&mut kernel.memory), REQID);
    apply(kernel, &goal, &plan, &mut |_| {})
}

fn foreign(state: &State) -> (Vec<Sa>, Vec<Policy>) {
    let sas = state.sas.iter().filter(|sa| sa.reqid != REQID);
    let policies = state.policies.iter().filter(|policy| !policy.belongs_to(REQID));
    (sas.cloned().collect(), policies.cloned().collect())
}

/// The mesh's objects, and the differences that may be told.
fn ours(state: &State) -> (Vec<Sa>, Vec<Policy>, Vec<Chain>, Vec<u32>) {
    let state = state.clone().sorted();
    let links = state.links.iter().map(|link| link.mtu).collect();
    (state.sas, state.policies, state.firewall.chains, links)
}

fn is_right(
    scenario: &Scenario,
    faults: &Faults,
    report: &Report,
    before: &State,
    memory: &mut Memory,
) -> Result<(), String> {
    let plan = Plan::new(&scenario.desired, &observe(memory), REQID);
    let is_lost = matches!(report.stopped, Some(KernelError::Lost { .. }));
    // Of the second guard, chains that this kernel refused on trial are told and stay wanted.
    let is_left_out = |change: &Change| matches!(&change.operation, Operation::Chain(ChainChange::Set { id, .. }) if report.left_out.contains_key(id));
    let is_empty = plan.conflicts.is_empty() && plan.changes.iter().all(is_left_out);
    if report.is_complete() && !(is_empty && faults_are_harmless(report)) {
        return Err("complete, and a second plan is not empty".into());
    }
    if report.after.as_ref().is_some_and(|after| after.is_empty() != is_empty) {
        return Err("its second plan is not that of the kernel".into());
    }
    if !report.changed_anything() && ours(before) != ours(memory.state()) {
        return Err("nothing changed, it says".into());
    }
    let state = memory.state();
    for (number, step) in report.done.iter().enumerate() {
        let later = &report.done[number + 1..];
        // On the way back a loss leaves open which steps are still done.
        if !is_lost && !is_overtaken(step, later) && !is_visible(step, state) {
            return Err(format!("{} {} is done and not there", step.name(), step.id()));
        }
    }
    let failed = report.failed.iter().map(|(step, _)| step).filter(|_| faults.lost.is_empty());
    let not_done = report.left.iter().chain(failed).chain(&report.undone).filter(|_| !is_lost);
    for step in not_done {
        if adds(step) && is_visible(step, state) && !is_visible(step, before) {
            return Err(format!("{} {} is not done and there", step.name(), step.id()));
        }
    }
    match report.after {
        Some(_) => flows_are_right(scenario, report, state),
        None => Ok(()),
    }
}

fn faults_are_harmless(report: &Report) -> bool {
    report.failed.is_empty() && report.left.is_empty()
}

/// Whether a later step of the run is about the same object.
fn is_overtaken(step: &PlannedStep, later: &[PlannedStep]) -> bool {
    later.iter().any(|other| other.id() == step.id())
}

fn adds(step: &PlannedStep) -> bool {
    matches!(
        step.step.kind,
        StepKind::Sa(SaStep::Add { .. })
            | StepKind::Policy(PolicyStep::Add(_) | PolicyStep::Update(_))
    )
}

/// Whether a state is as a step makes it.
fn is_visible(planned: &PlannedStep, state: &State) -> bool {
    let chain = |id: &ChainId| state.firewall.chains.iter().find(|chain| chain.id == *id);
    match &planned.step.kind {
        StepKind::Sa(SaStep::Add { sa, .. } | SaStep::Replace { sa, .. }) => {
            state.sas.iter().any(|there| there.id == sa.id && there.algorithm == sa.algorithm)
        }
        StepKind::Sa(SaStep::Delete(id)) => state.sas.iter().all(|sa| sa.id != *id),
        StepKind::Policy(PolicyStep::Add(policy) | PolicyStep::Update(policy)) => {
            state.policies.iter().any(|there| there.same_as(policy))
        }
        StepKind::Policy(PolicyStep::Delete(policy)) => {
            state.policies.iter().all(|there| there.id != policy.id)
        }
        StepKind::Mtu(MtuStep { device, mtu }) => state.link(device).unwrap().mtu == *mtu,
        StepKind::Chain(ChainStep::Set { id, rules, jump }) => {
            // The rules of an old port go last, and the answer to that may be lost.
            let part = |chain: &Chain| chain.rules.iter().all(|rule| rules.contains(rule));
            chain(id).is_some_and(|chain| part(chain) && chain.is_reached() == *jump)
        }
        StepKind::Chain(ChainStep::Delete(id)) => chain(id).is_none(),
        StepKind::Interface(InterfaceStep::Add(interface) | InterfaceStep::Set(interface)) => {
            state.interfaces.contains(interface)
        }
        StepKind::Interface(InterfaceStep::Delete { if_id, .. }) => {
            state.interfaces.iter().all(|interface| interface.if_id != *if_id)
        }
        StepKind::Address(AddressStep::Add(local)) => state.addresses.contains(local),
        StepKind::Address(AddressStep::Delete(local)) => !state.addresses.contains(local),
        StepKind::Route(RouteStep::Add(entry)) => state.fib.contains(entry),
        StepKind::Route(RouteStep::Delete(entry)) => !state.fib.contains(entry),
        StepKind::Wait(_) => true,
    }
}

/// It gives the worst fate of a peer's traffic; of a peer of which it says nothing, all is
/// protected.
fn flows_are_right(scenario: &Scenario, report: &Report, state: &State) -> Result<(), String> {
    let peers: BTreeSet<_> = scenario.of_peers.iter().map(|packet| packet.dst).collect();
    for peer in peers {
        let packets = scenario.of_peers.iter().filter(|packet| packet.dst == peer);
        let worst = packets.flat_map(|packet| leaves(state, packet)).max().unwrap();
        let name = &scenario.desired.peers[&peer];
        let told = report.flows.get(name);
        let right = matches!(
            (told, worst),
            (None | Some(Flow::Protected(_)), Fate::Protected(_))
                | (Some(Flow::Blocked), Fate::Dropped)
                | (Some(Flow::Clear), Fate::Leaks)
        );
        if !right {
            return Err(format!("of {name} it says {told:?}, and it is {worst:?}"));
        }
    }
    Ok(())
}

/// The next apply does all that is left, or all but changes in conflict.
fn converges(scenario: &Scenario, memory: Memory) -> Result<(), String> {
    let mut kernel = Faulty::new(memory, Faults::default(), &scenario.packets);
    let report = applied(scenario, &mut kernel);
    if let Some(leaked) = kernel.leaked {
        return Err(format!("in the clear in the next apply: {leaked}"));
    }
    let plan = Plan::new(&scenario.desired, &kernel.observe(REQID).unwrap(), REQID);
    let done = report.failed.is_empty() && report.left.is_empty() && plan.changes.is_empty();
    if done { Ok(()) } else { Err("the next apply does not converge".into()) }
}
