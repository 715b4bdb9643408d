//! Performs a plan's steps and proves that none is left.
//!
//! Steps run phase by phase. A step that fails stops its own peer: the phases that follow leave
//! that peer as it is, protected or blocked. A failed step of no peer, such as a guard, stops
//! everything, apart from an MTU, on which no protection depends. Peers that were stopped before
//! their policies had all been switched get their old state back, where that is safe. Then the
//! kernel is looked at again, and only an empty second plan is success.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    desired::{Desired, Keyring},
    kernel::{Errno, Kernel, KernelError, SystemCause},
    model::{Algorithm, ChainId, Key, Live, PeerName, Reqid, Sa, SaId, Spi, Start},
    plan::{
        ChainChange, ChainStep, Flow, Lack, Operation, Phase, Plan, PlannedStep, SaStep, Step,
        StepKind, flows_out, undo,
    },
};

/// Steps handed to the kernel at once, so that progress can be shown between.
const BATCH: usize = 512;

/// The number of times that an apply looks again and goes on after the kernel's answers got lost.
const ROUNDS: usize = 3;

/// The wanted state, and the keys for it.
pub struct Target<'a> {
    /// The wanted objects of the host.
    pub desired: &'a Desired,
    /// The keys of its SAs.
    pub keyring: &'a Keyring,
    /// The reqid of their mesh.
    pub reqid: Reqid,
}

/// The report of an apply.
#[derive(Default)]
pub struct Report {
    /// Steps that the kernel took, and that were not rolled back.
    pub done: Vec<PlannedStep>,
    /// Steps that the kernel took and that were rolled back, because another of
    /// the same peer had failed.
    pub undone: Vec<PlannedStep>,
    /// Steps that it refused, with its errors.
    pub failed: Vec<(PlannedStep, KernelError)>,
    /// Steps that were not tried after that.
    pub left: Vec<PlannedStep>,
    /// Chains of the second guard that this kernel can't have, and why.
    pub left_out: BTreeMap<ChainId, KernelError>,
    /// Whether an SA or a chain that was made to try the kernel is still there.
    pub probe_stays: bool,
    /// Whether answers got lost on the way, so that more was done than is reported here.
    pub answers_lost: bool,
    /// Why the run as a whole ended early.
    pub stopped: Option<KernelError>,
    /// The second plan; `None` if the kernel could not be looked at.
    pub after: Option<Plan>,
    /// The fate of each peer's traffic where not all is as it should be.
    pub flows: BTreeMap<PeerName, Flow>,
    /// Of a revert, the objects that are not as they were held; `None` for other runs, and where
    /// the kernel could not be looked at.
    pub unlike: Option<Vec<String>>,
}

impl Report {
    /// Whether everything was done and the second plan is empty.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
            && self.left.is_empty()
            && self.stopped.is_none()
            && self.after.as_ref().is_some_and(Plan::is_empty)
    }

    /// Whether, after a revert, the host was seen to hold the same as before.
    pub fn is_restored(&self) -> bool {
        self.unlike.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether all that protects is in place: an MTU may be missing.
    pub fn is_in_place(&self) -> bool {
        self.failed.iter().all(|(step, _)| step.step.kind.is_optional())
            && self.left.iter().all(|step| step.step.kind.is_optional())
            && self.stopped.is_none()
            && self.after.as_ref().is_some_and(Plan::protects)
    }

    /// Whether a step is about a chain that this kernel can't have.
    fn leaves_out(&self, kind: &StepKind<()>) -> bool {
        matches!(kind, StepKind::Chain(ChainStep::Set { id, .. }) if self.left_out.contains_key(id))
    }

    /// The peers with SAs and policies that were not all put in place.
    fn unfinished(&self) -> BTreeSet<PeerName> {
        let failed = self.failed.iter().map(|(step, _)| step);
        let early = failed.chain(&self.left).filter(|step| step.phase < Phase::Wait);
        early.filter_map(|step| step.step.peer.clone()).collect()
    }

    /// Whether anything was done, as far as is known.
    pub fn changed_anything(&self) -> bool {
        !self.done.is_empty()
            || self.probe_stays
            || self.answers_lost
            || matches!(self.stopped, Some(KernelError::Lost { .. }))
    }
}

/// A message to the operator while steps run.
pub enum Progress<'a> {
    /// The kernel took a step.
    Done(&'a PlannedStep),
    /// A step was rolled back by this one.
    RolledBack(&'a PlannedStep),
    /// The kernel refused a step.
    Failed(&'a PlannedStep, &'a KernelError),
    /// A chain of the second guard can't be had, and the policies guard alone.
    LeftOut(&'a ChainId, &'a KernelError),
    /// Answers got lost: another look, another plan.
    Again,
    /// The plan of a revert.
    Planned(&'a Plan),
    /// Some of the held objects have not come back: another look, another plan.
    Retry,
}

/// The steps that are left out after others have failed.
pub(crate) trait Course {
    /// Learns of a step that failed.
    fn failed(&mut self, step: &Step<()>);
    /// Whether a step is still to be performed.
    fn allows(&self, step: &PlannedStep) -> bool;
}

/// The course of an apply: a step that fails stops its own peer, or all.
#[derive(Default)]
struct Stopped(BTreeSet<Option<PeerName>>);

impl Course for Stopped {
    fn failed(&mut self, step: &Step<()>) {
        self.0.insert(step.peer.clone());
    }

    fn allows(&self, step: &PlannedStep) -> bool {
        // The policies of a peer that was stopped may still need it, and where a guard is its only
        // remaining policy, that goes on blocking.
        let last =
            matches!(step.phase, Phase::DeleteGuards | Phase::DeleteDiscovery | Phase::DeleteEncap);
        let needed = last && !self.0.is_empty();
        !needed && !self.0.contains(&None) && !self.0.contains(&step.step.peer)
    }
}

/// Performs `plan`, looks again, and reports.
pub fn apply(
    kernel: &mut dyn Kernel,
    goal: &Target<'_>,
    plan: &Plan,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Report {
    let mut report = Report::default();
    let mut steps = plan.steps.clone();
    if let Err(error) = probe(kernel, plan, &mut report) {
        report.left = steps;
        report.stopped = Some(error);
        return report;
    }
    for (id, error) in &report.left_out {
        progress(Progress::LeftOut(id, error));
    }
    for round in 1.. {
        report.left.clear();
        steps.retain(|step| !report.leaves_out(&step.step.kind));
        match run_round(kernel, goal, &steps, &mut report, progress) {
            Ok(Round::Over) => break,
            Ok(Round::Again(again)) if round < ROUNDS => steps = again,
            Ok(Round::Again(again)) => {
                report.left = again;
                break;
            }
            Err(lost) => {
                report.answers_lost = true;
                match (round < ROUNDS, kernel.observe(goal.reqid)) {
                    (true, Ok(live)) => steps = Plan::new(goal.desired, &live, goal.reqid).steps,
                    _ => {
                        report.stopped = Some(lost);
                        break;
                    }
                }
            }
        }
        progress(Progress::Again);
    }
    roll_back(kernel, goal, plan, &mut report, progress);
    verify(kernel, goal, &mut report);
    report
}

/// The end of a round of steps.
enum Round {
    /// Nothing is left to try.
    Over,
    /// The guards were about to go, and something that stands in for them has gone since the plan
    /// was made: these are the steps of a new plan.
    Again(Vec<PlannedStep>),
}

/// Runs the steps of a plan; `Err` if answers got lost on the way.
fn run_round(
    kernel: &mut dyn Kernel,
    goal: &Target<'_>,
    steps: &[PlannedStep],
    report: &mut Report,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Round, KernelError> {
    let mut course = Stopped::default();
    let is_early = |step: &PlannedStep| step.phase < Phase::DeleteGuards;
    let (early, late) = steps.split_at(steps.partition_point(is_early));
    run_steps(kernel, goal.keyring, early, report, &mut course, progress)?;
    let late = match guards_go(late, &course, goal) {
        false => late.to_vec(),
        true => match kernel.observe(goal.reqid) {
            Ok(live) => {
                let again = Plan::new(goal.desired, &live, goal.reqid).steps;
                let counts = |step: &&PlannedStep| is_early(step) && !step.step.kind.is_optional();
                if again.iter().filter(counts).any(|step| !is_done(&step.step.kind, &live)) {
                    return Ok(Round::Again(again));
                }
                again
            }
            Err(error) => {
                report.left.extend_from_slice(late);
                report.stopped = Some(error);
                return Ok(Round::Over);
            }
        },
    };
    let late: Vec<_> = late.into_iter().filter(|step| !is_early(step)).collect();
    run_steps(kernel, goal.keyring, &late, report, &mut course, progress)?;
    Ok(Round::Over)
}

/// Whether a chain is as a step sets it. One whose rules change has the old and the new ones until the
/// guards go, so every plan until then asks for that.
fn is_done(kind: &StepKind<()>, live: &Live) -> bool {
    let StepKind::Chain(ChainStep::Set { id, rules, .. }) = kind else { return false };
    let mut chains = live.0.firewall.chains.iter();
    chains.any(|chain| chain.id == *id && chain.rules == *rules && chain.is_reached())
}

/// Whether guards go now, while packets are still to be protected. Policies or chains of the mesh
/// stand in for these guards. Another program may have deleted those since the plan was made, so
/// the kernel is looked at again. Where that look fails, the guards stay.
fn guards_go(late: &[PlannedStep], course: &Stopped, goal: &Target<'_>) -> bool {
    let goes = |step: &PlannedStep| step.phase == Phase::DeleteGuards && course.allows(step);
    !goal.desired.policies.is_empty() && late.iter().any(goes)
}

/// Gives peers that could not be finished the state from before `plan` was begun, where that is
/// safe. Not after answers got lost: nobody could trust those to the next requests.
fn roll_back(
    kernel: &mut dyn Kernel,
    goal: &Target<'_>,
    plan: &Plan,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress<'_>),
) {
    let unfinished = report.unfinished();
    if unfinished.is_empty() || report.stopped.is_some() {
        return;
    }
    let Ok(live) = kernel.observe(goal.reqid) else { return };
    let steps = undo(plan, goal.desired, &live, goal.reqid, &unfinished);
    let mut back = Report::default();
    let mut tell = |told: Progress<'_>| match told {
        Progress::Done(step) => progress(Progress::RolledBack(step)),
        Progress::RolledBack(_)
        | Progress::Failed(..)
        | Progress::LeftOut(..)
        | Progress::Again
        | Progress::Planned(_)
        | Progress::Retry => progress(told),
    };
    let mut course = Stopped::default();
    if let Err(lost) = run_steps(kernel, goal.keyring, &steps, &mut back, &mut course, &mut tell) {
        report.stopped = Some(lost);
    }
    report.failed.append(&mut back.failed);
    let gone: BTreeSet<String> = back.done.iter().map(PlannedStep::id).collect();
    let of_peer = |step: &PlannedStep| step.step.peer.is_some() && gone.contains(&step.id());
    (report.undone, report.done) = report.done.drain(..).partition(of_peer);
}

/// Finds out whether the kernel can do the SAs and chains that are to come,
/// before anything changes.
///
/// By trying, since a kernel's version tells little of its modules.
fn probe(kernel: &mut dyn Kernel, plan: &Plan, report: &mut Report) -> Result<(), KernelError> {
    probe_sa(kernel, plan, &mut report.probe_stays)?;
    probe_chains(kernel, plan, report)
}

/// Makes each chain that is missing, without a rule that leads to it: no packet
/// gets there before its own step. Where one can't be made, those that were go,
/// unless policies guard without it: then it alone is left out.
fn probe_chains(
    kernel: &mut dyn Kernel,
    plan: &Plan,
    report: &mut Report,
) -> Result<(), KernelError> {
    let mut made = Vec::new();
    for change in &plan.changes {
        let Operation::Chain(ChainChange::Set { live: None, id, rules }) = &change.operation else {
            continue;
        };
        let set =
            StepKind::Chain(ChainStep::Set { id: id.clone(), rules: rules.clone(), jump: false });
        made.push(StepKind::Chain(ChainStep::Delete(id.clone())));
        let optional = set.is_optional();
        let Err(error) = perform_one(kernel, set) else { continue };
        if optional && !matches!(error, KernelError::Lost { .. }) {
            report.left_out.insert(id.clone(), error);
            continue;
        }
        for delete in made {
            // A chain that can't go either has no rule that leads to it.
            report.probe_stays |= perform_one(kernel, delete).is_err();
        }
        return Err(error);
    }
    Ok(())
}

fn perform_one(kernel: &mut dyn Kernel, kind: StepKind) -> Result<(), KernelError> {
    kernel.perform(&[Step { peer: None, kind }])?.into_iter().collect()
}

/// Adds an SA on an SPI that no pair ever has, and deletes it.
///
/// A run that is killed in between leaves an SA that the next one deletes by its reqid. Until then
/// the in policies would take packets under it, so its key is random and known to nobody.
fn probe_sa(kernel: &mut dyn Kernel, plan: &Plan, stays: &mut bool) -> Result<(), KernelError> {
    let sample = plan.steps.iter().find_map(|planned| Some(planned.step.kind.added()?.sa));
    let Some(sample) = sample else { return Ok(()) };
    let Algorithm::Aead { key_bits, .. } = sample.algorithm else { return Ok(()) };
    let spi = sample.id.spi;
    // Nobody speaks to itself, so that from and to are never the same.
    let to = u32::from(spi.to().get());
    let itself = Spi::from_raw((spi.raw() & 0xff00_0000) | (to << 12) | to);
    let sa = Sa { id: SaId::esp(sample.id.dst, itself), ends: None, ..sample.clone() };
    let tried = sa.clone();
    let key = Arc::new(random_key(key_bits as usize / 8)?);
    let step = |kind| [Step { peer: None, kind }];
    let delete = step(StepKind::Sa(SaStep::Delete(sa.id)));
    let start = Start::Fresh;
    match kernel.perform(&step(StepKind::Sa(SaStep::Add { sa, key, start })))?.pop() {
        Some(Ok(())) => {
            let offloaded = offloaded(kernel, &tried);
            *stays = true;
            kernel.perform(&delete)?.into_iter().collect::<Result<(), _>>()?;
            *stays = false;
            offloaded
        }
        // Its owner can't be told from here, so it stays.
        Some(Err(KernelError::Refused { errno: Errno::EEXIST, .. })) | None => Ok(()),
        Some(Err(error)) => Err(of_trial(error)),
    }
}

/// Says of an SA that stands in no plan that it was a trial.
fn of_trial(error: KernelError) -> KernelError {
    match error {
        KernelError::Refused { doing, errno, detail } => {
            let doing = format!("{doing}, a trial of what this kernel can, on an SPI of no pair");
            KernelError::Refused { doing, errno, detail }
        }
        KernelError::System { .. }
        | KernelError::Garbled(_)
        | KernelError::Lost { .. }
        | KernelError::Changed(_) => error,
    }
}

/// Fails if the device that an SA was to be offloaded to has not taken it.
///
/// The kernel does not report that and does the work by itself (`xfrm_dev_state_add`).
fn offloaded(kernel: &mut dyn Kernel, tried: &Sa) -> Result<(), KernelError> {
    let Some(offload) = &tried.offload else { return Ok(()) };
    let live = kernel.observe(tried.reqid)?;
    let found = live.0.sas.iter().find(|sa| sa.id == tried.id);
    if found.is_some_and(|sa| sa.offload.as_ref() == Some(offload)) {
        return Ok(());
    }
    let device = &offload.device;
    Err(KernelError::System {
        cause: SystemCause::OffloadRefused,
        doing: format!("cannot offload ESP to {device}"),
        reason: format!(
            "{device} does not take such an SA, and the kernel would do the work by itself; \
             leave offload out of [esp], or name a device whose esp-hw-offload is on (`ethtool -k \
             {device}`) and that can do this cipher and ESN"
        ),
    })
}

fn random_key(length: usize) -> Result<Key, KernelError> {
    let mut bytes = vec![0; length].into_boxed_slice();
    getrandom::fill(&mut bytes).map_err(|error| KernelError::System {
        cause: SystemCause::Other,
        doing: "cannot make a random key".into(),
        reason: error.to_string(),
    })?;
    Ok(Key::new(bytes))
}

/// Runs steps phase by phase; `Err` if answers got lost on the way.
pub(crate) fn run_steps(
    kernel: &mut dyn Kernel,
    keyring: &Keyring,
    steps: &[PlannedStep],
    report: &mut Report,
    course: &mut dyn Course,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), KernelError> {
    for phase in steps.chunk_by(|a, b| a.phase == b.phase) {
        for batch in phase.chunks(BATCH) {
            let (go, skip): (Vec<_>, Vec<_>) =
                batch.iter().cloned().partition(|step| course.allows(step));
            report.left.extend(skip);
            for (step, error) in perform(kernel, keyring, go, report, progress)? {
                progress(Progress::Failed(&step, &error));
                if !step.step.kind.is_optional() {
                    course.failed(&step.step);
                }
                report.failed.push((step, error));
            }
        }
    }
    Ok(())
}

/// Hands steps to the kernel and returns those that it refused.
fn perform(
    kernel: &mut dyn Kernel,
    keyring: &Keyring,
    planned: Vec<PlannedStep>,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<(PlannedStep, KernelError)>, KernelError> {
    let mut failed = Vec::new();
    let mut ready = Vec::new();
    let mut steps = Vec::new();
    for step in planned {
        match with_key(&step.step, keyring) {
            Ok(keyed) => {
                steps.push(keyed);
                ready.push(step);
            }
            Err(error) => failed.push((step, error)),
        }
    }
    if steps.is_empty() {
        return Ok(failed);
    }
    for (step, answer) in ready.into_iter().zip(kernel.perform(&steps)?) {
        match answer {
            Ok(()) => {
                progress(Progress::Done(&step));
                report.done.push(step);
            }
            Err(error) => failed.push((step, error)),
        }
    }
    Ok(failed)
}

/// Puts the key into a planned step. A plan made without secrets has none.
fn with_key(step: &Step<()>, keyring: &Keyring) -> Result<Step<Arc<Key>>, KernelError> {
    step.keyed(|id| {
        keyring.get(id).ok_or_else(|| KernelError::System {
            cause: SystemCause::Other,
            doing: format!("cannot add SA {id}"),
            reason: "its key is not at hand".into(),
        })
    })
}

/// Looks again. Reports the remaining plan, and the fate of those peers' traffic.
pub(crate) fn verify(
    kernel: &mut dyn Kernel,
    goal: &Target<'_>,
    report: &mut Report,
) -> Option<Live> {
    let live = match kernel.observe(goal.reqid) {
        Ok(live) => live,
        Err(error) => {
            report.stopped.get_or_insert(error);
            return None;
        }
    };
    let mut after = Plan::new(goal.desired, &live, goal.reqid);
    after.changes.retain(|change| {
        !matches!(&change.operation, Operation::Chain(ChainChange::Set { id, .. }) if report.left_out.contains_key(id))
    });
    after.steps.retain(|step| !report.leaves_out(&step.step.kind));
    after.lacks.extend(report.left_out.iter().map(|(id, error)| Lack {
        family: id.family,
        chain: Some(id.clone()),
        unseen: false,
        why: error.to_string(),
    }));
    let failed = report.failed.iter().filter(|(step, _)| !step.step.kind.is_optional());
    let unfinished: BTreeSet<Option<&PeerName>> = after
        .changes
        .iter()
        .filter(|change| !change.is_optional())
        .map(|change| change.peer.as_ref())
        .chain(failed.map(|(step, _)| step.step.peer.as_ref()))
        .collect();
    let stopped = after.stopped();
    let concerned = |peer: &PeerName| {
        unfinished.contains(&None) || unfinished.contains(&Some(peer)) || stopped.covers(Some(peer))
    };
    report.flows = flows_out(&live.0, goal.desired, concerned);
    report.after = Some(after);
    Some(live)
}
