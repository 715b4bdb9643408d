//! The kernel in memory, where one thing happens between two requests, and somebody looks on.

use std::fmt;

use meshsec::{
    kernel::{Errno, Kernel, KernelError, memory::Memory},
    model::{Action, Direction, Live, Policy, Reqid, Sa, State},
    plan::{SaStep, Step, StepKind},
};

use crate::starts::{Foreign, ahead_of, in_place_of};

/// Something that happens before a request, or to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The program ends, or the machine takes its rights away.
    Crash,
    /// The request is performed, and the program does not know.
    LostAnswer,
    /// The request is not performed, and the program does not know.
    LostRequest,
    /// The kernel refuses the request. Of a replacement it has performed the half that deletes.
    Refused,
    /// Somebody deletes all SAs.
    FlushSas,
    /// Somebody deletes all policies, guards too.
    FlushPolicies,
    /// Somebody deletes all chains.
    FlushChains,
    /// Somebody's policy out comes first, and lets the packets pass.
    OpensOut,
    /// Somebody's policy in comes first, and lets the packets pass.
    OpensIn,
    /// Somebody's policy takes the identity of a wanted one.
    TakesPolicy,
    /// Somebody's SA takes the identity of a wanted one.
    TakesSa,
}

impl Event {
    pub const ALL: [Self; 11] = [
        Self::Crash,
        Self::LostAnswer,
        Self::LostRequest,
        Self::Refused,
        Self::FlushSas,
        Self::FlushPolicies,
        Self::FlushChains,
        Self::OpensOut,
        Self::OpensIn,
        Self::TakesPolicy,
        Self::TakesSa,
    ];

    /// Deletes all objects of a kind, if this is a flush.
    pub fn flush(self, state: &mut State) {
        match self {
            Self::FlushSas => {
                state.sas.clear();
                state.usage.clear();
            }
            Self::FlushPolicies => state.policies.clear(),
            Self::FlushChains => state.firewall.chains.clear(),
            Self::Crash | Self::LostAnswer | Self::LostRequest | Self::Refused => {}
            Self::OpensOut | Self::OpensIn | Self::TakesPolicy | Self::TakesSa => {}
        }
    }
}

/// An event before a request, by the number of requests before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disturbance {
    pub event: Event,
    pub before: usize,
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at request {}", self.event, self.before + 1)
    }
}

/// The objects that foreign ones may take the place of, or come ahead of.
#[derive(Default)]
pub struct Targets {
    pub policies: Vec<Policy>,
    pub sas: Vec<Sa>,
}

/// A look at the state.
pub enum Moment<'a> {
    /// A request was performed, or refused.
    After(&'a Step),
    /// Somebody else has changed the state.
    Disturbed,
}

/// The kernel in memory with one event.
pub struct Watched<'w> {
    pub memory: Memory,
    pub requests: usize,
    /// The foreign objects that the event has brought.
    pub brought: Foreign,
    disturbance: Option<Disturbance>,
    targets: &'w Targets,
    is_dead: bool,
    look: &'w mut dyn FnMut(&State, &Moment<'_>, usize),
}

impl<'w> Watched<'w> {
    pub fn new(
        memory: Memory,
        disturbance: Option<Disturbance>,
        targets: &'w Targets,
        look: &'w mut dyn FnMut(&State, &Moment<'_>, usize),
    ) -> Self {
        let brought = Foreign::default();
        Self { memory, requests: 0, brought, disturbance, targets, is_dead: false, look }
    }

    /// The event of this request, once.
    fn event(&mut self) -> Option<Event> {
        let Disturbance { event, before } = self.disturbance?;
        (before == self.requests).then(|| self.disturbance = None)?;
        Some(event)
    }

    fn one(&mut self, step: &Step) -> Result<Result<(), KernelError>, KernelError> {
        let event = self.event();
        self.requests += 1;
        match event {
            Some(Event::Crash) => self.is_dead = true,
            Some(Event::LostAnswer) => drop(self.perform_and_look(step)),
            Some(Event::Refused) => return Ok(Err(self.refuse(step))),
            Some(Event::LostRequest) => {}
            Some(foreign) => {
                self.disturb(foreign);
                return Ok(self.perform_and_look(step));
            }
            None => return Ok(self.perform_and_look(step)),
        }
        Err(lost())
    }

    fn perform_and_look(&mut self, step: &Step) -> Result<(), KernelError> {
        let answer = self.memory.perform(std::slice::from_ref(step)).expect("no fault").remove(0);
        (self.look)(self.memory.state(), &Moment::After(step), self.requests);
        answer
    }

    fn refuse(&mut self, step: &Step) -> KernelError {
        if let StepKind::Sa(SaStep::Replace { sa, .. }) = &step.kind {
            self.memory.state_mut().sas.retain(|other| other.id != sa.id);
        }
        (self.look)(self.memory.state(), &Moment::After(step), self.requests);
        KernelError::Refused { doing: "as planted".into(), errno: Errno(12), detail: None }
    }

    fn disturb(&mut self, event: Event) {
        match event {
            Event::FlushSas | Event::FlushPolicies | Event::FlushChains => {
                event.flush(self.memory.state_mut());
            }
            Event::OpensOut => self.bring_policy(ahead_of, Direction::Out),
            Event::OpensIn => self.bring_policy(ahead_of, Direction::In),
            Event::TakesPolicy => self.bring_policy(blocking, Direction::Out),
            Event::TakesSa => self.bring_sa(),
            Event::Crash | Event::LostAnswer | Event::LostRequest | Event::Refused => {}
        }
        (self.look)(self.memory.state(), &Moment::Disturbed, self.requests - 1);
    }

    /// Brings a foreign policy made of one of the targets, unless its identity is taken.
    fn bring_policy(&mut self, made_of: impl Fn(&Policy) -> Policy, direction: Direction) {
        let state = self.memory.state_mut();
        let mut targets = self.targets.policies.iter();
        let Some(target) = targets.find(|policy| policy.id.direction == direction) else { return };
        let policy = made_of(target);
        if state.policies.iter().all(|other| other.id != policy.id) {
            state.policies.push(policy.clone());
            self.brought.policies.push(policy);
        }
    }

    fn bring_sa(&mut self) {
        let state = self.memory.state_mut();
        let is_free = |sa: &&Sa| state.sas.iter().all(|other| other.id != sa.id);
        if let Some(target) = self.targets.sas.iter().find(is_free) {
            let sa = in_place_of(target);
            state.sas.push(sa.clone());
            self.brought.sas.push(sa);
        }
    }
}

/// Somebody's policy that blocks the same packets as the mesh's, with the same identity.
fn blocking(policy: &Policy) -> Policy {
    Policy { action: Action::Block, templates: Vec::new(), priority: 600, ..policy.clone() }
}

fn lost() -> KernelError {
    KernelError::Lost { doing: "as planted".into() }
}

impl Kernel for Watched<'_> {
    fn observe(&mut self, reqid: Reqid) -> Result<Live, KernelError> {
        if self.is_dead { Err(lost()) } else { self.memory.observe(reqid) }
    }

    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        if self.is_dead {
            return Err(lost());
        }
        steps.iter().map(|step| self.one(step)).collect()
    }
}
