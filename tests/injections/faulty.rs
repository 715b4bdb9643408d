//! A kernel that fails where it is told to, and looks at every packet after every request.

use std::collections::BTreeMap;

use meshsec::{
    kernel::{Errno, Kernel, KernelError, Memory, SystemCause},
    model::{Live, Reqid},
    plan::{SaStep, Step, StepKind},
};

use crate::{
    common::REQID,
    packets::{Packet, arrives_in_clear, leaks, shown_by_an_error},
};

/// Faults, by how many of their kind have come before.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Requests that are refused.
    pub refused: BTreeMap<usize, i32>,
    /// Calls of `perform` that lose their answer, after so many of their steps.
    pub lost: BTreeMap<usize, usize>,
    /// Looks that fail: a dump that is cut (`true`), or an answer that is lost.
    pub blind: BTreeMap<usize, bool>,
}

impl Faults {
    pub fn refuse(request: usize, errno: i32) -> Self {
        Self { refused: [(request, errno)].into(), ..Self::default() }
    }

    pub fn lose(call: usize, performed: usize) -> Self {
        Self { lost: [(call, performed)].into(), ..Self::default() }
    }

    pub fn and_blind(mut self, look: usize, cut: bool) -> Self {
        self.blind.insert(look, cut);
        self
    }
}

/// The kernel in memory, with faults.
pub struct Faulty {
    pub memory: Memory,
    faults: Faults,
    /// Packets out that must not leave in the clear, nor be taken in the clear where
    /// they come back.
    closed: Vec<Packet>,
    refused: Vec<Packet>,
    /// Those that no ICMP error must show where they come back encrypted.
    hidden: Vec<Packet>,
    /// How many steps each call had.
    pub calls: Vec<usize>,
    pub requests: usize,
    pub looks: usize,
    /// The first thing that went wrong.
    pub leaked: Option<String>,
}

impl Faulty {
    /// Watches those packets that must stay closed, and are so now.
    pub fn new(memory: Memory, faults: Faults, packets: &[Packet]) -> Self {
        let state = memory.state();
        let closed = packets.iter().copied().filter(|packet| !leaks(state, packet));
        let back = || packets.iter().map(|packet| packet.answer());
        let refused = back().filter(|packet| !arrives_in_clear(state, packet)).collect();
        let is_hidden = |packet: &Packet| shown_by_an_error(state, packet, REQID).is_none();
        let hidden = back().filter(is_hidden).collect();
        let closed = closed.collect();
        let (calls, requests, looks, leaked) = (Vec::new(), 0, 0, None);
        Self { memory, faults, closed, refused, hidden, calls, requests, looks, leaked }
    }

    fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        let request = self.requests;
        self.requests += 1;
        let answer = match self.faults.refused.get(&request) {
            Some(errno) => Err(self.refuse(step, Errno(*errno))),
            None => self.memory.perform(std::slice::from_ref(step)).unwrap().remove(0),
        };
        self.watch();
        answer
    }

    /// A replacement that is refused has deleted the old SA already.
    fn refuse(&mut self, step: &Step, errno: Errno) -> KernelError {
        if let StepKind::Sa(SaStep::Replace { sa, .. }) = &step.kind {
            self.memory.state_mut().sas.retain(|other| other.id != sa.id);
        }
        KernelError::Refused { doing: "as planted".into(), errno, detail: None }
    }

    fn watch(&mut self) {
        let state = self.memory.state();
        let out = self.closed.iter().find(|packet| leaks(state, packet));
        let back = self.refused.iter().find(|packet| arrives_in_clear(state, packet));
        let mut hidden = self.hidden.iter();
        let shown = hidden.find(|packet| shown_by_an_error(state, packet, REQID).is_some());
        if let (None, Some(packet)) = (&self.leaked, out.or(back).or(shown)) {
            self.leaked = Some(format!("{packet:?} after request {}", self.requests));
        }
    }
}

impl Kernel for Faulty {
    fn observe(&mut self, reqid: Reqid) -> Result<Live, KernelError> {
        let look = self.looks;
        self.looks += 1;
        match self.faults.blind.get(&look) {
            Some(true) => Err(KernelError::System {
                cause: SystemCause::Other,
                doing: "cannot read SAs".into(),
                reason: "the dump was cut".into(),
            }),
            Some(false) => Err(KernelError::Lost { doing: "reading SAs".into() }),
            None => self.memory.observe(reqid),
        }
    }

    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let lost = self.faults.lost.get(&self.calls.len()).copied();
        self.calls.push(steps.len());
        let performed = &steps[..lost.unwrap_or(steps.len()).min(steps.len())];
        let answers = performed.iter().map(|step| self.step(step)).collect();
        match lost {
            Some(_) => Err(KernelError::Lost { doing: "performing steps".into() }),
            None => Ok(answers),
        }
    }
}
