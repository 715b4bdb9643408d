//! Steps to requests, and answers to results: the rules that need more than one request.
//!
//! * A larval SA of the mesh in the way of a new SA is taken over.
//! * A policy is looked at right before it is replaced or deleted, so that foreign policies stay.
//! * A delete of an object that is gone already counts as done.
//!
//! The requests of each kind of object to XFRM are in a file of its own.

mod policy;
mod sa;

use std::{mem::take, thread};

use zeroize::Zeroizing;

use crate::{
    kernel::{Errno, KernelError},
    model::{ObjectStep, SaStep, Step, StepKind},
};

use super::{
    address, explain, fib, interface,
    iptables::Iptables,
    link,
    netlink::{Answer, Engine, LOOK_WINDOW, WINDOW},
    wire::{Refusal, Request, garbled},
};

type Outcome = Result<(), KernelError>;

/// Performs steps in order; see [`crate::kernel::Kernel::perform`].
pub(super) fn perform(
    engine: &mut Engine,
    iptables: &Iptables,
    steps: &[Step],
) -> Result<Vec<Outcome>, KernelError> {
    let outcomes = Vec::with_capacity(steps.len());
    let mut course = Course { engine, waiting: Vec::new(), outcomes };
    for step in steps {
        match &step.kind {
            StepKind::Sa(step) => course.waiting.push(step),
            StepKind::Policy(step) => course.waiting.push(step),
            StepKind::Mtu(step) => course.perform_alone(|| link::set_mtu(step))?,
            StepKind::Chain(step) => course.perform_alone(|| iptables.perform(step))?,
            StepKind::Interface(step) => course.perform_alone(|| interface::perform(step))?,
            StepKind::Address(step) => course.perform_alone(|| address::perform(step))?,
            StepKind::Route(step) => course.perform_alone(|| fib::perform(step))?,
            StepKind::Wait(time) => course.perform_alone(|| {
                thread::sleep(*time);
                Ok(())
            })?,
        }
    }
    course.send()?;
    Ok(course.outcomes)
}

/// The outcomes so far, and the steps that wait to be sent to XFRM together.
struct Course<'a> {
    engine: &'a mut Engine,
    waiting: Vec<&'a dyn XfrmStep>,
    outcomes: Vec<Outcome>,
}

impl Course<'_> {
    /// Performs a step that is not a request to XFRM, after those that wait.
    fn perform_alone(&mut self, perform: impl FnOnce() -> Outcome) -> Result<(), KernelError> {
        self.send()?;
        self.outcomes.push(perform());
        Ok(())
    }

    /// Performs the steps that wait.
    fn send(&mut self) -> Result<(), KernelError> {
        let steps = take(&mut self.waiting);
        // The steps of a batch are performed right after its look, before others are looked at.
        let size = match steps.iter().any(|step| step.look().is_some()) {
            true => LOOK_WINDOW,
            false => WINDOW,
        };
        for batch in steps.chunks(size) {
            self.outcomes.extend(perform_batch(self.engine, batch)?);
        }
        Ok(())
    }
}

/// A step that is made of requests to XFRM.
trait XfrmStep: ObjectStep {
    /// The request for the object that has to be looked at before the step.
    fn look(&self) -> Option<Request>;
    /// The requests; none where it is done already. `found` is the object that the look found.
    fn requests(&self, found: Option<Object>) -> Result<Vec<Request>, KernelError>;
    /// The error number by which the answer to the request of this index says that the object is
    /// gone already, where that counts as done.
    fn gone(&self, index: usize) -> Option<Errno>;
    /// The meaning of an error number here, or the remedy.
    fn hint(&self, errno: Errno) -> Option<String>;
    /// The step itself, where it is about an SA.
    fn as_sa(&self) -> Option<&SaStep>;

    /// The error of a step that was refused.
    fn refused(&self, refusal: &Refusal) -> KernelError {
        explain::of_step(self.attempt(), refusal, self.hint(refusal.errno))
    }

    /// The error of an answer without the object that was asked for.
    fn missing(&self) -> KernelError {
        garbled(format!("success without an object; {}", self.attempt()))
    }
}

/// An object in the kernel's message; may hold a key.
type Object = Zeroizing<Vec<u8>>;

fn perform_batch(
    engine: &mut Engine,
    steps: &[&dyn XfrmStep],
) -> Result<Vec<Outcome>, KernelError> {
    let found = look_at_all(engine, steps)?;
    let mut requests = Vec::new();
    let mut lengths = Vec::with_capacity(steps.len());
    let mut settled = Vec::with_capacity(steps.len());
    for (step, found) in steps.iter().zip(found) {
        let (asked, error) = match found.and_then(|found| step.requests(found)) {
            Ok(asked) => (asked, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        lengths.push(asked.len());
        settled.push(error);
        requests.extend(asked);
    }
    let mut answers = engine.transact(&requests, WINDOW)?.into_iter();
    let mut outcomes = Vec::with_capacity(steps.len());
    for ((step, length), error) in steps.iter().zip(lengths).zip(settled) {
        let answers: Vec<Answer> = answers.by_ref().take(length).collect();
        outcomes.push(match error {
            Some(error) => Err(error),
            None => outcome(*step, &answers),
        });
    }
    sa::take_over_all(engine, steps, &mut outcomes)?;
    Ok(outcomes)
}

/// Looks at the objects of steps; `None` where a step needs no look or there is no object.
fn look_at_all(
    engine: &mut Engine,
    steps: &[&dyn XfrmStep],
) -> Result<Vec<Result<Option<Object>, KernelError>>, KernelError> {
    let mut requests = Vec::new();
    let looks: Vec<bool> = steps
        .iter()
        .map(|step| step.look().map(|request| requests.push(request)).is_some())
        .collect();
    let mut answers = engine.transact(&requests, LOOK_WINDOW)?.into_iter();
    let mut found = Vec::with_capacity(steps.len());
    for (step, looks) in steps.iter().zip(looks) {
        let answer = if looks { answers.next() } else { None };
        found.push(answer.map_or(Ok(None), |answer| found_by(*step, answer)));
    }
    Ok(found)
}

fn found_by(step: &dyn XfrmStep, answer: Answer) -> Result<Option<Object>, KernelError> {
    match answer.outcome {
        Err(refusal) if [Errno::ENOENT, Errno::ESRCH].contains(&refusal.errno) => Ok(None),
        Err(refusal) => Err(step.refused(&refusal)),
        Ok(()) => answer.object.map(Some).ok_or_else(|| step.missing()),
    }
}

/// The outcome of the answers to a step's requests.
fn outcome(step: &dyn XfrmStep, answers: &[Answer]) -> Outcome {
    for (index, answer) in answers.iter().enumerate() {
        match &answer.outcome {
            Err(refusal) if Some(refusal.errno) == step.gone(index) => {}
            Err(refusal) => return Err(step.refused(refusal)),
            Ok(()) => {}
        }
    }
    Ok(())
}
