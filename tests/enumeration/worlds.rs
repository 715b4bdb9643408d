//! A world: a host in some state, the file that it applies, and one event on the way.

use std::{collections::BTreeSet, fmt};

use meshsec::{
    apply::{Report, Target, apply},
    config::Guard,
    desired::{Desired, Keyring},
    kernel::memory::Memory,
    model::{Action, Direction, Policy, PolicyId, Prefix, Sa, SaId, Selector, Stage, State},
    plan::Plan,
};

use crate::{
    common::{self, REQID, observe},
    files::{At, Kind},
    judge::{Finding, Judge, Property, Seen, holds_nothing, told},
    packets::delivery::{Delivery, deliveries, gets_through},
    report::{Failure, Tally},
    starts::{Foreign, GENERATION, Host, Inward, Out, Receiving, Start, THEIRS},
    watched::{Disturbance, Event, Moment, Targets, Watched},
};

/// The beginning of a world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Beginning {
    /// The parts of a host, each by itself.
    Parts(Start),
    /// What an apply of a file has left.
    Applied(At),
}

/// A world, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct World {
    pub beginning: Beginning,
    pub goal: At,
    pub disturbance: Option<Disturbance>,
}

/// The objects that all worlds of a kind are made of.
pub struct Cast {
    pub kind: Kind,
    pub now: Desired,
    pub before: Desired,
    pub guards: Vec<Policy>,
    /// A host without any object of the mesh.
    pub empty: Memory,
    pub bystanders: Foreign,
    pub targets: Targets,
}

impl Cast {
    pub fn new(kind: Kind) -> Self {
        let at = At::new(Some(Stage::Enforce), GENERATION);
        // Guards may be left of a file that had them.
        let guarded = Kind { guard: Guard::Both, ..kind };
        let guarded = if kind.guard.is_on() { kind } else { guarded };
        let guards = guarded.goal(false, at).0.guards.into_values().collect();
        let now = kind.goal(false, at).0;
        let policies = now.policies.values().map(|wanted| wanted.policy.clone());
        let targets = Targets {
            policies: policies.filter(|policy| !policy.is_for_icmp_errors()).collect(),
            sas: sas(&now, Direction::Out),
        };
        Self {
            kind,
            before: kind.goal(false, At { generation: GENERATION - 1, ..at }).0,
            guards,
            empty: common::host(&kind.file(false, at)),
            bystanders: bystanders(kind),
            now,
            targets,
        }
    }
}

/// Objects of others that are in nobody's way: a policy that blocks mail, and an SA with a stranger.
pub fn bystanders(kind: Kind) -> Foreign {
    let [a, _, stranger] = kind.addresses();
    let (from, to) = (Prefix::host(a), Prefix::any(a));
    let id = PolicyId::new(Direction::Out, Selector::between(from, to).to_port(6, 25));
    let policy = Policy {
        id,
        priority: 3_000,
        action: Action::Block,
        index: None,
        templates: Vec::new(),
        extras: BTreeSet::new(),
    };
    let sa = sas(&kind.goal(false, At::new(Some(Stage::Send), GENERATION)).0, Direction::Out);
    let id = SaId { dst: stranger, ..sa[0].id };
    let sa = Sa { id, reqid: THEIRS, selector: None, ..sa[0].clone() };
    Foreign { sas: vec![sa], policies: vec![policy] }
}

/// The wanted SAs of a direction.
pub fn sas(desired: &Desired, direction: Direction) -> Vec<Sa> {
    let all = desired.sas.values().filter(|wanted| wanted.direction == direction);
    all.map(|wanted| wanted.sa.clone()).collect()
}

/// What an apply of a file leaves of an empty host.
pub fn applied(kind: Kind, second: bool, at: At) -> Memory {
    let file = kind.file(second, at);
    if at.stage.is_some() { common::applied_host(&file) } else { common::host(&file) }
}

/// The objects of a host, without how far its SAs have come.
pub fn objects(state: &State) -> State {
    State { usage: Vec::new(), ..state.clone() }.sorted()
}

/// A goal, and the other host as it is when it has the same file, or is a generation apart.
pub struct Scene<'c> {
    pub cast: &'c Cast,
    pub goal: At,
    desired: Desired,
    keyring: Keyring,
    peers: Vec<State>,
}

impl<'c> Scene<'c> {
    pub fn new(cast: &'c Cast, goal: At) -> Self {
        let (desired, keyring) = cast.kind.goal(false, goal);
        let apart = [goal.generation - 1, goal.generation, goal.generation + 1];
        let peer = |generation| applied(cast.kind, true, At { generation, ..goal }).state().clone();
        Self { cast, goal, desired, keyring, peers: apart.map(peer).into() }
    }

    /// Runs one world to its end and judges it. The number of requests that its run made.
    pub fn run(&self, host: Host, world: &World, tally: &mut Tally) -> usize {
        tally.add_world(self.cast.kind, world);
        let (findings, requests, log) = self.course(host, world, tally);
        for finding in findings {
            tally.fail(Failure::new(self.cast.kind, world, finding, &log));
        }
        requests
    }

    fn target(&self) -> Target<'_> {
        Target { desired: &self.desired, keyring: &self.keyring, reqid: REQID }
    }

    fn course(
        &self,
        host: Host,
        world: &World,
        tally: &mut Tally,
    ) -> (Vec<Finding>, usize, Vec<String>) {
        let Host { mut kernel, foreign } = host;
        let before = kernel.state().clone();
        let plan = Plan::new(&self.desired, &observe(&mut kernel), REQID);
        let in_the_way = !plan.conflicts.is_empty();
        let kind = self.cast.kind;
        let mut judge = Judge::new(kind, self.goal, foreign.clone(), &before, in_the_way);
        judge.has_bystanders_alone = foreign == self.cast.bystanders;
        // All parts are those of the last stage: the stages before the one below it are a cut. So is a
        // guard that comes back before the policies in, which let encrypted packets pass it. And packets
        // under somebody else's SAs are not the mesh's: the second guard drops them, and policies in take
        // them only as long as they take clear text too.
        if let Beginning::Parts(start) = world.beginning
            && self.goal.stage >= Some(Stage::Send)
            && start.inward != Inward::Absent
            && start.receiving != Receiving::Foreign
            && start.out != Out::Foreign
        {
            judge.follow_the_pair(&before, &self.peers[1]);
        }
        let mut look =
            |state: &State, moment: &Moment<'_>, requests| judge.look(state, moment, requests);
        let (report, watched) = {
            let mut watched =
                Watched::new(kernel, world.disturbance, &self.cast.targets, &mut look);
            let report = apply(&mut watched, &self.target(), &plan, &mut |_| {});
            (report, (watched.memory, watched.requests, watched.brought))
        };
        let (kernel, requests, brought) = watched;
        judge.has_bystanders_alone &= brought == Foreign::default();
        tally.judged(&judge, kind, self.goal);
        let mut log = std::mem::take(&mut judge.log);
        let mut findings: Vec<Finding> = judge.finding.take().into_iter().collect();
        let mut check = |judged: Result<(), (Property, String)>, after| {
            if let Err((property, what)) = judged {
                findings.push(Finding { property, what, after });
            }
        };
        let event = world.disturbance.map(|disturbance| disturbance.event);
        if !brought.is_untouched(kernel.state()) {
            let what = "an object that others have brought has changed".into();
            check(Err((Property::ForeignUntouched, what)), requests);
        }
        tally.count(Property::EndsAsWanted);
        check(self.ends(kernel.state(), &report, &judge, event.is_none(), in_the_way), requests);
        if event == Some(Event::Refused) && !in_the_way {
            tally.count(Property::RolledBack);
            check(self.rolled_back(&before, kernel.state(), world), requests);
        }
        if event.is_some() {
            tally.count(Property::Heals);
            let healed = self.heal(kernel, &foreign, &brought, tally, &mut log);
            check(healed, requests);
        }
        (findings, requests, log)
    }

    /// The end of a run. Where nothing has happened on the way, it is a success unless something was
    /// in the way, and then all is done that could be.
    fn ends(
        &self,
        state: &State,
        report: &Report,
        judge: &Judge,
        undisturbed: bool,
        in_the_way: bool,
    ) -> Result<(), (Property, String)> {
        let wrong = |what: String| Err((Property::EndsAsWanted, what));
        // A chain of the second guard that can't be had is told, and a second plan has it.
        if report.is_complete() && report.left_out.is_empty() {
            judge.look_at_keys(state, true)?;
            return self.is_as_wanted(state, judge.has_bystanders_alone).or_else(wrong);
        }
        let changes = report.after.as_ref().map(|after| after.changes.len());
        if undisturbed && in_the_way && changes != Some(0) {
            return wrong(format!("{changes:?} changes are left beside a conflict"));
        }
        if undisturbed && !in_the_way {
            return wrong("the run reports no success".into());
        }
        Ok(())
    }

    /// Whether a second plan is empty, and packets fare as the file says, whichever generation the
    /// other host is at. Where somebody else's policies are for the same packets, and not in the way of
    /// a host that sends in the clear, they fare as those say.
    fn is_as_wanted(&self, state: &State, is_alone: bool) -> Result<(), String> {
        let kind = self.cast.kind;
        let mut kernel = Memory::holding(state.clone());
        let again = Plan::new(&self.desired, &observe(&mut kernel), REQID);
        if !again.is_empty() || !again.steps.is_empty() {
            return Err("a second plan is not empty".into());
        }
        if self.goal.stage.is_none() && !holds_nothing(state, REQID) {
            return Err("an object of the mesh is left".into());
        }
        self.is_closed_as_wanted(state)?;
        let wanted = match self.goal.stage {
            Some(Stage::Send | Stage::Enforce) => Delivery::Encrypted,
            Some(Stage::Receive) | None => Delivery::InTheClear,
        };
        for peer in self.peers.iter().filter(|_| is_alone) {
            for (second, from, to) in [(false, state, peer), (true, peer, state)] {
                for packet in kind.packets(second) {
                    let seen = deliveries(from, to, &packet);
                    if seen != [wanted].into() {
                        return Err(format!("{} is {seen:?}", told(&packet)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether packets fare as before, or are closed, with the other host as it was.
    fn rolled_back(
        &self,
        before: &State,
        after: &State,
        world: &World,
    ) -> Result<(), (Property, String)> {
        let Beginning::Applied(at) = world.beginning else { return Ok(()) };
        let kind = self.cast.kind;
        if !at.is_next_to(self.goal) {
            return Ok(());
        }
        let peer = applied(kind, true, at);
        let peer = peer.state();
        for (second, [from, to], [then_from, then_to]) in
            [(false, [after, peer], [before, peer]), (true, [peer, after], [peer, before])]
        {
            for packet in kind.packets(second) {
                if gets_through(then_from, then_to, &packet) && !gets_through(from, to, &packet) {
                    let what = format!("{} got through and does not now", told(&packet));
                    return Err((Property::RolledBack, what));
                }
            }
        }
        Ok(())
    }

    /// One more run, once foreign objects are out of the way.
    fn heal(
        &self,
        mut kernel: Memory,
        foreign: &Foreign,
        brought: &Foreign,
        tally: &mut Tally,
        log: &mut Vec<String>,
    ) -> Result<(), (Property, String)> {
        brought.remove(kernel.state_mut());
        foreign.remove(kernel.state_mut());
        let plan = Plan::new(&self.desired, &observe(&mut kernel), REQID);
        if !plan.conflicts.is_empty() {
            return Err((Property::Heals, "something is in the way of the next run".into()));
        }
        let kind = self.cast.kind;
        let mut judge = Judge::new(kind, self.goal, Foreign::default(), kernel.state(), false);
        let mut look =
            |state: &State, moment: &Moment<'_>, requests| judge.look(state, moment, requests);
        let (report, kernel) = {
            let mut watched = Watched::new(kernel, None, &self.cast.targets, &mut look);
            let report = apply(&mut watched, &self.target(), &plan, &mut |_| {});
            (report, watched.memory)
        };
        tally.judged(&judge, kind, self.goal);
        log.push("-- the next run".into());
        log.append(&mut judge.log);
        if let Some(Finding { property, what, .. }) = judge.finding.take() {
            return Err((property, what));
        }
        if !report.is_complete() {
            return Err((Property::Heals, "the next run reports no success".into()));
        }
        self.is_as_wanted(kernel.state(), true).map_err(|what| (Property::Heals, what))
    }

    /// Whether packets in the clear fare as the file says, once a run has ended.
    fn is_closed_as_wanted(&self, state: &State) -> Result<(), String> {
        let (kind, goal) = (self.cast.kind, self.goal);
        let has_chains = kind.is_guarded(goal) && kind.guard == Guard::Both;
        for packet in kind.packets_out() {
            let seen = Seen::of(state, &packet);
            let is_pair = packet.dst == kind.addresses()[1];
            let refuses = kind.refuses(goal, &packet);
            let sends = is_pair && goal.stage >= Some(Stage::Send);
            for (is_wrong, what) in [
                (kind.closes(goal, &packet) && seen.leaks, "leaves in the clear"),
                (refuses && seen.taken, "has an answer that is taken in the clear"),
                (refuses && is_pair && seen.forwarded, "has an answer that is sent on"),
                (sends && seen.shown, "has an answer that an ICMP error shows"),
                (has_chains && seen.past, "leaves past all policies"),
                (has_chains && seen.injected, "has an answer that another's interface brings"),
            ] {
                if is_wrong {
                    return Err(format!("{} {what}", told(&packet)));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.beginning {
            Beginning::Parts(start) => writeln!(f, "  begins:  {start}")?,
            Beginning::Applied(at) => writeln!(f, "  begins:  as an apply has left it: {at}")?,
        }
        writeln!(f, "  applies: {}", self.goal)?;
        match self.disturbance {
            Some(disturbance) => writeln!(f, "  event:   {disturbance}"),
            None => writeln!(f, "  event:   none"),
        }
    }
}
