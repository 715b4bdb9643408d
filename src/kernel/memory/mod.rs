//! A kernel in memory, with the real one's rules and errors, for tests.
//!
//! The contract suite runs on this and on [`super::linux`], so results here hold there. It has a
//! clock that only [`StepKind::Wait`] moves. Tests can plant faults: a request that is refused, an
//! answer that is lost. Steps are performed in a file for each kind of object.

mod address;
mod chain;
mod interface;
mod mtu;
mod policy;
mod route;
mod sa;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Errno, Kernel, KernelError};
use crate::model::{KeyView, Live, Reqid, State, Step, StepKind, Time};

/// A network namespace in memory.
///
/// Its state holds every key as a fingerprint, foreign keys too. Observation shows only the keys
/// that the real kernel's side would show.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: State,
    clock: Duration,
    booted: Time,
    requests: usize,
    calls: usize,
    refused: BTreeMap<usize, Errno>,
    lost: BTreeMap<usize, usize>,
    failing_looks: usize,
    lacking: BTreeSet<String>,
    offloading: BTreeSet<String>,
}

impl Memory {
    /// A namespace that holds `state`.
    pub fn holding(state: State) -> Self {
        Self { state, ..Self::default() }
    }

    /// Its state, in no particular order.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Its state, to be changed as another program would.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// The time that steps have waited.
    pub fn clock(&self) -> Duration {
        self.clock
    }

    /// Sets its clock.
    pub fn set_now(&mut self, now: Time) {
        self.booted = now;
        self.clock = Duration::ZERO;
    }

    /// The time of its clock, which only [`StepKind::Wait`] moves.
    pub fn now(&self) -> Time {
        self.booted.after(self.clock)
    }

    /// The number of steps requested so far, refused steps included.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// The number of calls of [`Kernel::perform`].
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Refuses one future step: the `nth` from now, beginning with 0.
    pub fn refuse(&mut self, nth: usize, errno: Errno) {
        self.refused.insert(self.requests + nth, errno);
    }

    /// Loses the answer of a future [`Kernel::perform`]: the `nth` from now, beginning with 0. Its
    /// steps are still performed, but at most `performed` of them.
    pub fn lose(&mut self, nth: usize, performed: usize) {
        self.lost.insert(self.calls + nth, performed);
    }

    /// Fails the next `count` looks.
    pub fn fail_looks(&mut self, count: usize) {
        self.failing_looks = count;
    }

    /// Gives a device ESP offload.
    pub fn offload_to(&mut self, device: &str) {
        self.offloading.insert(device.into());
    }

    /// Removes a transform or a table, as on a kernel without its module.
    pub fn lack(&mut self, name: &str) {
        self.lacking.insert(name.into());
    }

    fn step(&mut self, step: &StepKind) -> Result<(), KernelError> {
        let request = self.requests;
        self.requests += 1;
        if let Some(errno) = self.refused.remove(&request) {
            return Err(refused(step.attempt(), errno, None));
        }
        match step {
            StepKind::Sa(step) => self.perform_sa(step),
            StepKind::Policy(step) => self.perform_policy(step),
            StepKind::Mtu(step) => self.set_mtu(step),
            StepKind::Chain(step) => self.perform_chain(step),
            StepKind::Interface(step) => self.perform_interface(step),
            StepKind::Address(step) => self.perform_address(step),
            StepKind::Route(step) => self.perform_route(step),
            StepKind::Wait(duration) => {
                self.clock += *duration;
                Ok(())
            }
        }
    }
}

impl Kernel for Memory {
    fn observe(&mut self, reqid: Reqid) -> Result<Live, KernelError> {
        if let Some(left) = self.failing_looks.checked_sub(1) {
            self.failing_looks = left;
            return Err(KernelError::Lost { doing: "looking".into() });
        }
        let mut state = self.state.clone().sorted();
        for sa in &mut state.sas {
            if sa.reqid != reqid {
                sa.key = KeyView::Unknown;
            }
        }
        let State { sas, usage, .. } = &mut state;
        usage.retain(|usage| sas.iter().any(|sa| sa.id == usage.id && sa.reqid == reqid));
        Ok(Live(state))
    }

    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let lost = self.lost.remove(&self.calls);
        self.calls += 1;
        let performed = &steps[..lost.unwrap_or(steps.len()).min(steps.len())];
        let answers = performed.iter().map(|step| self.step(&step.kind)).collect();
        match lost {
            Some(_) => Err(KernelError::Lost { doing: "performing steps".into() }),
            None => Ok(answers),
        }
    }
}

fn refused(doing: String, errno: Errno, detail: Option<String>) -> KernelError {
    KernelError::Refused { doing, errno, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Direction, Policy, PolicyId, PolicyStep, Selector};

    fn add(port: u16) -> Step {
        let hosts = Selector::hosts([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let policy = Policy {
            id: PolicyId::new(Direction::Out, hosts.to_port(17, port)),
            priority: 1,
            action: Action::Block,
            index: None,
            templates: vec![],
            extras: Default::default(),
        };
        Step { peer: None, kind: StepKind::Policy(PolicyStep::Add(policy)) }
    }

    #[test]
    fn the_nth_request_from_now_is_refused_and_the_others_are_performed() {
        let mut kernel = Memory::default();
        kernel.perform(&[add(1)]).unwrap();
        kernel.refuse(1, Errno::EPERM);
        let answers = kernel.perform(&[add(2), add(3), add(4)]).unwrap();
        let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, true, false]);
        assert_eq!((kernel.state().policies.len(), kernel.requests()), (3, 4));
    }

    #[test]
    fn a_lost_answer_leaves_as_many_steps_performed_as_asked_for() {
        let mut kernel = Memory::default();
        kernel.lose(1, 1);
        kernel.perform(&[add(1)]).unwrap();
        let lost = kernel.perform(&[add(2), add(3)]);
        assert!(matches!(lost, Err(KernelError::Lost { .. })));
        assert_eq!(kernel.state().policies.len(), 2);
        assert!(kernel.perform(&[add(3)]).unwrap()[0].is_ok());
        assert_eq!(kernel.calls(), 3);
    }

    #[test]
    fn waiting_moves_the_clock_and_takes_no_time() {
        let mut kernel = Memory::default();
        let wait = StepKind::Wait(Duration::from_secs(3600));
        kernel.perform(&[Step { peer: None, kind: wait }]).unwrap();
        assert_eq!(kernel.clock(), Duration::from_secs(3600));
    }
}
