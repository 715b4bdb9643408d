//! Every prefix of every plan is safe: nothing leaks, and peers that stay keep their traffic.
//!
//! A plan is performed one step at a time, and after each step every packet is
//! asked for that the two meshes are about.

use std::collections::BTreeSet;

use meshsec::{
    config::{Config, Guard, Pairs, Peer, Traffic},
    desired::{Desired, Keyring},
    kernel::{Kernel, memory::Memory},
    model::{Bypass, ChainRole, Direction, Family, PeerName, Policy, Stage, State},
    plan::{Phase, Plan, PlannedStep, PolicyStep, StepKind, Stops, WarningCode},
};
use proptest::prelude::*;

use crate::{
    cases,
    common::{REQID, nothing, observe, wanted_at},
    foreign,
    hosts::{Case, THEIRS, another, any_case, is_excepted, stranger},
    packets::{
        Packet, arrives_by_another_interface, arrives_in_clear, arrives_under,
        bypasses::{bypasses_in, bypasses_out},
        errors_about, is_asked, is_forwarded_in_clear, is_protected, leaks,
        leaves_if_no_policy_is_asked, marks, shown_by_an_error,
    },
};

/// The change of a host, and the subject of the plan for it.
struct Run<'a> {
    /// Nothing, if all of the mesh is to go.
    after: Option<&'a Config>,
    desired: Desired,
    plan: Plan,
    packets: Vec<Packet>,
}

/// Whether a file says that a packet out is protected or guarded, by the stage of its pair.
fn covers(config: &Config, packet: &Packet, from: Stage) -> bool {
    let local = &config.peers[0];
    let peer = config.peers[1..].iter().find(|peer| peer.address == packet.dst);
    let is_pair = |peer: &Peer| match &config.pairs {
        Pairs::All => true,
        Pairs::Listed(_) => config.peers.last().is_some_and(|last| last.name == peer.name),
    };
    let peer = peer.filter(|peer| packet.src == local.address && is_pair(peer));
    // The lowest of three; a guard, which only the last stage has, goes before that.
    let own = config.stage.min(local.stage);
    // Nobody sends clear text to a host with a guard.
    let is_at = |peer: &Peer| {
        let theirs = config.stage.min(peer.stage);
        own.min(theirs) >= from
            || config.guard.is_on() && theirs == Stage::Enforce && from == Stage::Send
    };
    is_of_the_kind(config, packet)
        && (is_guarded(config) || peer.is_some_and(is_at) && !is_excepted(config, packet))
}

/// Whether a file brings a host its guards.
fn is_guarded(config: &Config) -> bool {
    config.guard.is_on() && config.stage.min(config.peers[0].stage) == Stage::Enforce
}

fn is_of_the_kind(config: &Config, packet: &Packet) -> bool {
    match config.traffic {
        Traffic::Vxlan { port } | Traffic::Geneve { port } => {
            (packet.proto, packet.dport) == (17, port)
        }
        Traffic::All => true,
        Traffic::Networks => false,
        Traffic::Port { protocol, ports } => {
            packet.proto == protocol.number()
                && ports.iter().any(|port| packet.sport == port || packet.dport == port)
        }
    }
}

/// Packets out of the kinds of two meshes, to their peers and to a stranger, some of them marked,
/// and some from another address that the host has.
pub fn packets(before: &Config, after: &Config) -> Vec<Packet> {
    let local = after.peers[0].address;
    let peers = [before, after].into_iter().flat_map(|config| &config.peers[1..]);
    let peers = peers.map(|peer| peer.address).filter(|peer| peer.is_ipv4() == local.is_ipv4());
    let all: BTreeSet<_> = peers.chain([stranger(local)]).collect();
    let kinds: BTreeSet<_> =
        [before, after].map(|config| samples(config.traffic)).into_iter().flatten().collect();
    let packet =
        |dst, (proto, sport, dport), mark| Packet { src: local, dst, proto, sport, dport, mark };
    let plain = all.iter().flat_map(|dst| kinds.iter().map(|kind| packet(*dst, *kind, 0)));
    let first = all.iter().map(|dst| packet(*dst, *kinds.first().unwrap(), 0x20001));
    let other = |packet: Packet| Packet { src: another(local), ..packet };
    let others = all.iter().map(|dst| other(packet(*dst, *kinds.first().unwrap(), 0)));
    plain.chain(first).chain(others).collect()
}

/// Protocol and ports of packets of a kind.
fn samples(traffic: Traffic) -> Vec<(u8, u16, u16)> {
    match traffic {
        Traffic::Vxlan { port } | Traffic::Geneve { port } => vec![(17, 49_152, port)],
        Traffic::All => vec![(6, 50_000, 22), (6, 22, 50_000), (17, 50_000, 53)],
        Traffic::Port { protocol, ports } => {
            let both =
                |port| [(protocol.number(), 50_000, port), (protocol.number(), port, 50_000)];
            ports.iter().flat_map(both).collect()
        }
        Traffic::Networks => Vec::new(),
    }
}

/// Properties that have to stay, judged before the first step.
struct Start {
    closed: Vec<Packet>,
    refused: Vec<Packet>,
    /// Of those that leave, not even past all policies.
    dropped: Vec<Packet>,
    /// Of those that arrive, not even decrypted by somebody else's interface.
    not_injected: Vec<Packet>,
    /// Of those that arrive and are sent on by destination NAT.
    not_forwarded: Vec<Packet>,
    /// Of those that arrive encrypted, if they do: no ICMP error shows their content.
    hidden: Vec<Packet>,
    /// Whether somebody had made a guard come before policies that it should follow.
    edited_guard: bool,
    sas: BTreeSet<meshsec::model::SaId>,
    steady: Vec<Packet>,
}

impl<'a> Run<'a> {
    fn new(
        before: &'a Config,
        after: &'a Config,
        destroy: bool,
        kernel: &mut Memory,
    ) -> (Self, Keyring) {
        let (desired, keyring) = match destroy {
            false => wanted_at(after, kernel.now()),
            true => (nothing(after), Keyring::default()),
        };
        let plan = Plan::new(&desired, &observe(kernel), REQID);
        let packets = packets(before, after);
        (Self { after: (!destroy).then_some(after), desired, plan, packets }, keyring)
    }

    /// Whether the file asks that a packet out is not in the clear.
    fn wants(&self, packet: &Packet) -> bool {
        self.after.is_some_and(|after| covers(after, packet, Stage::Send))
    }

    /// Whether the file asks that the answer to a packet out is refused in the clear.
    fn refuses_answer(&self, packet: &Packet) -> bool {
        self.after.is_some_and(|after| covers(after, packet, Stage::Enforce))
    }

    fn start(&self, state: &State) -> Start {
        let closed = self.packets.iter().filter(|packet| !leaks(state, packet));
        let back: Vec<Packet> = self.packets.iter().map(|packet| packet.answer()).collect();
        let back = || back.iter().copied();
        let steady = self.packets.iter().filter(|packet| self.is_steady(packet));
        Start {
            closed: closed.copied().collect(),
            dropped: self
                .packets
                .iter()
                .filter(|p| !leaves_if_no_policy_is_asked(state, p))
                .copied()
                .collect(),
            not_injected: back()
                .filter(|packet| !arrives_by_another_interface(state, packet, THEIRS))
                .collect(),
            refused: back().filter(|packet| !arrives_in_clear(state, packet)).collect(),
            not_forwarded: back().filter(|packet| !is_forwarded_in_clear(state, packet)).collect(),
            hidden: back()
                .filter(|packet| shown_by_an_error(state, packet, REQID).is_none())
                .filter(|packet| !is_blocked_by_chance(state, packet))
                .collect(),
            edited_guard: state.policies.iter().any(|policy| {
                self.desired.guards.contains_key(&policy.id) && policy.priority != REQID.0
            }),
            sas: state.sas.iter().map(|sa| sa.id).collect(),
            steady: steady
                .filter(|packet| flows(state, packet) && !is_others(&self.desired, state, packet))
                .filter(|packet| !self.is_closed_on_the_way(state, packet))
                .copied()
                .collect(),
        }
    }

    /// Whether a packet goes from the local peer to another.
    fn is_pair(&self, packet: &Packet) -> bool {
        self.desired.local == Some(packet.src) && self.desired.peers.contains_key(&packet.dst)
    }

    /// Whether a packet goes to a peer with a stage at which packets leave in the clear.
    fn is_before_send(&self, packet: &Packet) -> bool {
        self.after.is_some() && self.is_pair(packet) && !self.wants(packet)
    }

    /// Whether a packet goes to a peer for which the plan has nothing to do.
    fn is_steady(&self, packet: &Packet) -> bool {
        let Some(peer) = self.desired.peers.get(&packet.dst) else { return false };
        self.wants(packet)
            && self.plan.changes.iter().all(|change| change.peer.as_ref() != Some(peer))
            && !self.is_stopped(packet)
    }

    /// Whether somebody has made a policy of ours that lets a packet pass where
    /// it finds no SA. Without a guard it stays until the others are switched,
    /// since it may be all that protects, and may be older than they.
    fn is_held_open(&self, state: &State, packet: &Packet, direction: Direction) -> bool {
        // A packet that a chain left behind marks is looked up twice, and may
        // pass a policy of ours only once that one's SA is there.
        let is_marked = marks(state, packet).iter().any(|mark| *mark != packet.mark);
        self.desired.guards.is_empty()
            && (is_marked
                || state.policies.iter().any(|policy| {
                    policy.lets_clear_text_pass()
                        && policy.belongs_to(REQID)
                        && !self.desired.policies.contains_key(&policy.id)
                        && is_asked(policy, packet, direction)
                }))
    }

    /// Whether a policy of ours that was edited to let ICMP errors pass takes packets too, before
    /// they are marked. It is closed, as the errors show what was encrypted.
    fn is_closed_on_the_way(&self, state: &State, packet: &Packet) -> bool {
        let is_marked = marks(state, packet).iter().any(|mark| *mark != packet.mark);
        let mut policies = state.policies.iter().filter(|policy| policy.belongs_to(REQID));
        is_marked
            && policies.any(|policy| {
                policy.lets_clear_text_pass()
                    && policy.covers_icmp_errors()
                    && is_asked(policy, packet, Direction::Out)
            })
    }

    /// Whether a conflict stops the peer that a packet goes to.
    fn is_stopped(&self, packet: &Packet) -> bool {
        let peer: Option<&PeerName> = self.desired.peers.get(&packet.dst);
        let stopped = self.plan.stopped();
        stopped.covers(None) || stopped.covers(peer)
    }

    /// Whether a packet leaves past all policies, and the plan says by which sysctl: in a conflict
    /// that stops its peer, or in a warning. Or that it does not know where packets to it leave.
    fn tells_of_the_way_out(&self, state: &State, packet: &Packet) -> bool {
        let peer = self.desired.peers.get(&packet.dst);
        let is_unknown = state.routes.iter().all(|route| route.to != packet.dst)
            && peer.is_some()
            && self.plan.warnings.iter().any(|line| line.code == WarningCode::RouteUnknown);
        bypasses_out(state, packet).iter().any(|bypass| is_unknown || self.tells_of(bypass, peer))
            || self.tells_of_a_queue(state, packet)
    }

    /// Whether a packet to a stranger leaves by a VRF with a queue, and the plan says so.
    fn tells_of_a_queue(&self, state: &State, packet: &Packet) -> bool {
        let mut routes = state.routes.iter().filter(|route| route.to == packet.dst);
        let mut told =
            self.plan.warnings.iter().filter(|line| line.code == WarningCode::PastTheGuard);
        !self.desired.peers.contains_key(&packet.dst)
            && routes.any(|route| {
                told.any(|line| {
                    route.vrfs.iter().any(|vrf| line.text.contains(&format!("wait in VRF {vrf},")))
                })
            })
    }

    /// The same of a packet that arrives past them.
    fn tells_of_the_way_in(&self, state: &State, packet: &Packet) -> bool {
        let peer = self.desired.peers.get(&packet.src);
        bypasses_in(state, packet).iter().any(|bypass| self.tells_of(bypass, peer))
    }

    fn tells_of(&self, Bypass { device, ipv6, name }: &Bypass, peer: Option<&PeerName>) -> bool {
        let key = format!("net/ipv{}/conf/{device}/{name}", if *ipv6 { 6 } else { 4 });
        let stops_it = |stops: &Stops| match peer {
            Some(peer) => stops.covers(peer),
            None => *stops == Stops::All,
        };
        let (object, told) = (format!("sysctl {key} = 1"), format!("({key} = 1)"));
        let mut conflicts = self.plan.conflicts.iter();
        conflicts.any(|conflict| conflict.object == object && stops_it(&conflict.stops))
            || self.plan.warnings.iter().any(|line| line.text.contains(&told))
    }

    fn warns_of_clear_text(&self) -> bool {
        self.plan.warnings.iter().any(|line| line.code == WarningCode::LeftInTheClear)
    }
}

fn family(packet: &Packet) -> Family {
    if packet.src.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

/// Whether somebody has made a policy of ours ask for AH or IPComp, for the errors about a packet.
/// It stops them while no such SA is there, and goes with the first steps, as it hides nothing.
fn is_blocked_by_chance(state: &State, packet: &Packet) -> bool {
    state.policies.iter().any(|policy| {
        policy.belongs_to(REQID)
            && policy.lets_clear_text_pass()
            && policy.templates.iter().any(|template| template.proto != 50)
            && errors_about(packet).iter().any(|error| is_asked(policy, error, Direction::Out))
    })
}

/// Whether a packet and its answer pass, inside ESP.
fn flows(state: &State, packet: &Packet) -> bool {
    is_protected(state, packet) && answers(state, packet) > 0
}

/// Under how many SAs the answer to a packet is taken.
fn answers(state: &State, packet: &Packet) -> usize {
    let back = packet.answer();
    let sas = state.sas.iter().filter(|sa| sa.id.dst == back.dst && sa.src == back.src);
    sas.filter(|sa| arrives_under(state, &back, sa.id.spi)).count()
}

/// Performs a plan one step at a time and looks after each.
fn every_prefix_is_safe(case: &Case, destroy: bool) -> Result<(), TestCaseError> {
    let ((before, after), mut kernel) = (case.meshes(), case.kernel());
    let kernel = &mut kernel;
    let (run, keyring) = Run::new(&before, &after, destroy, kernel);
    let others = foreign(kernel);
    let start = run.start(kernel.state());
    look(&run, &start, kernel.state(), 0)?;
    for (number, planned) in run.plan.steps.iter().enumerate() {
        let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).expect("a key for each SA");
        let answers = kernel.perform(&[step]).expect("answers");
        prop_assert!(answers[0].is_ok(), "{} {}: {:?}", planned.name(), planned.id(), answers[0]);
        look(&run, &start, kernel.state(), number + 1)?;
    }
    prop_assert_eq!(foreign(kernel), others, "what is foreign was touched");
    ends_well(&run, kernel)
}

/// Properties after any number of steps.
fn look(run: &Run<'_>, start: &Start, state: &State, done: usize) -> Result<(), TestCaseError> {
    let steps = &run.plan.steps;
    let last = done.checked_sub(1).map(|last| &steps[last]);
    let told = || match last {
        Some(step) => format!("after step {done}, {} {}", step.name(), step.id()),
        None => "before the first step".into(),
    };
    let guarded = steps.get(done).is_none_or(|next| next.phase > Phase::Guards);
    let guarded = guarded && run.after.is_some_and(is_guarded);
    let takes_down = steps[..done].iter().any(takes_down);
    let ended = done == steps.len();
    // Policies don't see packets that a sysctl takes past them, and the plan says so. The rules of
    // the second guard drop them all the same, where this kernel can have them.
    let has_rules = |packet: &Packet| {
        run.after.is_some_and(|after| after.guard == Guard::Both && is_guarded(after))
            && state.firewall.settable(family(packet)).is_some()
    };
    let may_leave_past =
        |packet: &Packet| !has_rules(packet) && run.tells_of_the_way_out(state, packet);
    for packet in &start.closed {
        // Warnings are of packets that nobody marks, and of plans that nothing stops.
        let told_of = marks(state, packet).iter().any(|mark| *mark != 0)
            || run.warns_of_clear_text()
            || !run.plan.conflicts.is_empty();
        let unwanted = !run.wants(packet) && takes_down && told_of;
        let may_open = unwanted
            || may_leave_past(packet)
            || run.is_held_open(state, packet, Direction::Out)
            || start.edited_guard && !ended && is_let_pass(state, packet, Direction::Out);
        prop_assert!(may_open || !leaks(state, packet), "{:?} leaks {}", packet, told());
    }
    for packet in &start.refused {
        let unwanted = !run.refuses_answer(&packet.answer()) && takes_down;
        let may_open = unwanted
            || run.is_held_open(state, packet, Direction::In)
            || start.edited_guard && !ended && is_let_pass(state, packet, Direction::In);
        prop_assert!(
            may_open || !arrives_in_clear(state, packet),
            "{:?} in the clear is taken {}",
            packet,
            told()
        );
    }
    look_past_policies(run, start, state, done)
        .map_err(|what| TestCaseError::fail(format!("{what} {}", told())))?;
    for packet in &start.not_forwarded {
        // No guard is for forwarded packets, so a former peer is as any stranger.
        let is_pair = run.is_pair(&packet.answer());
        let unwanted = !(is_pair && run.refuses_answer(&packet.answer())) && takes_down;
        let may_open = unwanted || run.is_held_open(state, packet, Direction::Fwd);
        prop_assert!(
            may_open || !is_forwarded_in_clear(state, packet),
            "{:?} in the clear is sent on {}",
            packet,
            told()
        );
    }
    for packet in &start.hidden {
        let shown = shown_by_an_error(state, packet, REQID);
        // Past all policies everything leaves in the clear, which the plan tells. Before stage send
        // everything to the peer does.
        let may_show = |error: &Packet| {
            run.is_before_send(&packet.answer())
                || run.tells_of_the_way_out(state, error)
                || run.is_held_open(state, error, Direction::Out)
        };
        let wrong = shown.filter(|error| !may_show(error));
        prop_assert!(wrong.is_none(), "{:?} shows {:?} {}", wrong, packet, told());
    }
    let kind = |packet: &&Packet| run.wants(packet) && !run.is_stopped(packet);
    // In the end no peer's packet is sent on in the clear, nor shown by an error.
    let pairs = run.packets.iter().filter(|packet| run.is_pair(packet));
    for packet in pairs.filter(|_| ended).filter(kind) {
        let back = packet.answer();
        let may_open = |packet: &Packet, direction| {
            is_let_pass(state, packet, direction) || run.is_held_open(state, packet, direction)
        };
        let refused = !run.refuses_answer(packet)
            || may_open(&back, Direction::Fwd)
            || !is_forwarded_in_clear(state, &back);
        prop_assert!(refused, "{:?} in the clear is sent on {}", back, told());
        let shown = shown_by_an_error(state, &back, REQID);
        let may_show = |error: &Packet| {
            run.tells_of_the_way_out(state, error) || may_open(error, Direction::Out)
        };
        let wrong = shown.filter(|error| !may_show(error));
        prop_assert!(wrong.is_none(), "{:?} shows {:?} {}", wrong, back, told());
    }
    for packet in run.packets.iter().filter(|_| guarded).filter(kind) {
        // Until the peer's policy is there, which ranks before it. A policy of the guard's priority
        // is asked before the guard if it is older.
        let passed =
            |packet, direction| !ended && is_let_pass_up_to(REQID.0, state, packet, direction);
        let safe =
            passed(packet, Direction::Out) || may_leave_past(packet) || !leaks(state, packet);
        prop_assert!(safe, "{:?} leaks past the guard {}", packet, told());
        let back = packet.answer();
        prop_assert!(
            passed(&back, Direction::In) || !arrives_in_clear(state, &back),
            "{:?} is taken past the guard {}",
            back,
            told()
        );
    }
    for packet in &start.steady {
        prop_assert!(flows(state, packet), "{:?} has lost its traffic {}", packet, told());
    }
    no_new_impostor(run, start, state)
        .map_err(|who| TestCaseError::fail(format!("{who} {}", told())))
}

/// Properties of the second guard after any number of steps: it comes first and goes last, and
/// nothing that it stopped gets past it on the way.
fn look_past_policies(
    run: &Run<'_>,
    start: &Start,
    state: &State,
    done: usize,
) -> Result<(), String> {
    let steps = &run.plan.steps;
    let takes_down = steps[..done].iter().any(takes_down);
    let wants = |packet: &Packet| {
        run.after.is_some_and(|after| {
            after.guard == Guard::Both && is_guarded(after) && is_of_the_kind(after, packet)
        })
    };
    let ended = done == steps.len() && run.plan.conflicts.is_empty();
    // A rule ahead that accepts is a warning; so is a chain that can't be had.
    let is_behind = |packet: &Packet, direction: Direction| {
        let chains = state.firewall.chains.iter();
        let mut ours = chains.filter(|chain| {
            let role = chain.id.role();
            chain.id.belongs_to(REQID)
                && chain.id.family == family(packet)
                && role.and_then(ChainRole::guards) == Some(direction)
        });
        ours.any(|chain| chain.jumps.iter().any(|jump| jump.behind.is_some()))
    };
    for packet in &run.packets {
        let back = packet.answer();
        let leaves = leaves_if_no_policy_is_asked(state, packet);
        let injected = arrives_by_another_interface(state, &back, THEIRS);
        let settable = state.firewall.settable(family(packet)).is_some();
        let closed = |at: Direction| ended && wants(packet) && settable && !is_behind(packet, at);
        let kept = wants(packet) && settable || !takes_down;
        if leaves && (closed(Direction::Out) || kept && start.dropped.contains(packet)) {
            return Err(format!("{packet:?} leaves past policies"));
        }
        if injected && (closed(Direction::In) || kept && start.not_injected.contains(&back)) {
            return Err(format!("{back:?} of another's interface is taken"));
        }
    }
    Ok(())
}

/// Whether somebody else has a policy for a packet, or for its answer; or whether
/// there are several of ours that nothing asks for, of which one may hide another.
fn is_others(desired: &Desired, state: &State, packet: &Packet) -> bool {
    let back = packet.answer();
    let asked = |policy: &&Policy| {
        is_asked(policy, packet, Direction::Out) || is_asked(policy, &back, Direction::In)
    };
    let is_wanted = |policy: &&Policy| {
        desired.policies.contains_key(&policy.id) || desired.guards.contains_key(&policy.id)
    };
    let mut foreign = state.policies.iter().filter(|policy| !policy.belongs_to(REQID));
    let odd = state.policies.iter().filter(|policy| !is_wanted(policy));
    foreign.any(|policy| asked(&policy)) || odd.filter(asked).count() > 1
}

/// Whether somebody else's policy that ranks before a guard lets a packet pass.
fn is_let_pass(state: &State, packet: &Packet, direction: Direction) -> bool {
    is_let_pass_up_to(REQID.0 - 1, state, packet, direction)
}

/// The same of policies up to a priority.
fn is_let_pass_up_to(last: u32, state: &State, packet: &Packet, direction: Direction) -> bool {
    let mut foreign = state.policies.iter().filter(|policy| !policy.belongs_to(REQID));
    foreign.any(|policy| {
        policy.priority <= last
            && policy.lets_clear_text_pass()
            && is_asked(policy, packet, direction)
    })
}

/// Whether a step may open traffic that the file no longer protects.
fn takes_down(step: &PlannedStep) -> bool {
    let opens = match &step.step.kind {
        StepKind::Policy(PolicyStep::Add(policy))
        | StepKind::Policy(PolicyStep::Update(policy)) => policy.lets_clear_text_pass(),
        _ => false,
    };
    opens
        || step.name().starts_with("delete_")
        || matches!(step.phase, Phase::Mark | Phase::DeleteGuards)
}

/// No key speaks for more than it did, or than the file says.
fn no_new_impostor(run: &Run<'_>, start: &Start, state: &State) -> Result<(), String> {
    for sa in state.sas.iter().filter(|sa| !start.sas.contains(&sa.id)) {
        if !run.desired.sas.contains_key(&sa.id) {
            return Err(format!("{} is there, and nothing asks for it", sa.id));
        }
        for packet in run.packets.iter().map(|packet| packet.answer()) {
            // Past all policies no key is asked for anything, nor is one needed.
            let needs_key = !run.tells_of_the_way_in(state, &packet);
            if sa.src != packet.src && needs_key && arrives_under(state, &packet, sa.id.spi) {
                return Err(format!("{:?} is taken under the key of {}", packet, sa.src));
            }
        }
    }
    Ok(())
}

/// Properties after the last step.
fn ends_well(run: &Run<'_>, kernel: &mut Memory) -> Result<(), TestCaseError> {
    let live = observe(kernel);
    let again = Plan::new(&run.desired, &live, REQID);
    let left: Vec<String> = again.changes.iter().map(|change| change.id()).collect();
    prop_assert!(left.is_empty(), "a second plan would change {left:?}");
    prop_assert_eq!(&again.conflicts, &run.plan.conflicts);
    Ok(())
}

proptest! {
    #![proptest_config(cases(25_000))]

    #[test]
    fn every_prefix_of_a_plan_is_safe_where_the_mesh_was_applied(case in any_case(0)) {
        every_prefix_is_safe(&case, false)?;
    }

    #[test]
    fn every_prefix_of_a_destroy_is_safe(case in any_case(4)) {
        every_prefix_is_safe(&case, true)?;
    }
}

proptest! {
    #![proptest_config(cases(50_000))]

    #[test]
    fn every_prefix_of_a_plan_is_safe_on_any_host(case in any_case(6)) {
        every_prefix_is_safe(&case, false)?;
    }
}
