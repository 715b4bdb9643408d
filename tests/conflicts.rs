//! What conflicts hold back, and what goes on: a pair that stands keeps rotating.

mod common;

use common::{REQID, applied, applied_host, host, mesh, observe, plan, wanted_at};
use meshsec::{
    apply::{Goal, Report, apply},
    config::{Config, Guard, Rotation, Secrets, Select, Traffic},
    desired::{Desired, Keyring, desired},
    kernel::memory::Memory,
    model::{
        Action, Bypass, Direction, Family, Generation, IPPROTO_UDP, Key, Mark, PeerName, Period,
        Policy, PolicyId, Prefix, Replay, Reqid, Sa, SaId, Selector, Spi, Template, Time, Unseen,
    },
    plan::{ConflictCode, Plan, StepKind},
};
use proptest::prelude::*;

const HOSTS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const HOSTS6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// A file's view of one host, which is the first of its peers.
fn seen_by(config: &Config, place: usize) -> Config {
    let mut config = config.clone();
    config.peers.swap(0, place);
    config
}

fn of_generation(config: &Config, generation: u64) -> Config {
    let rotation = Rotation::Generation(Generation::new(generation).unwrap());
    Config { rotation, ..config.clone() }
}

fn foreign(direction: Direction, selector: Selector, action: Action, priority: u32) -> Policy {
    Policy {
        id: PolicyId::new(direction, selector),
        priority,
        action,
        index: None,
        templates: Vec::new(),
        extras: Default::default(),
    }
}

fn foreign_sa(id: SaId, src: &str) -> Sa {
    let sample = wanted_at(&mesh(1, &HOSTS), Time::default()).0;
    let sample = sample.sas.values().next().unwrap().sa.clone();
    Sa { id, src: src.parse().unwrap(), reqid: Reqid(7), ..sample }
}

/// Things in the way that take no identity of an SA or a policy of a peer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum InTheWay {
    Sysctl,
    OutranksPeer,
    OutranksGuard,
    GuardTaken,
    IndexTaken,
    DiscoveryTaken,
    FirewallUnseen,
    NoIptables,
}

const ALL: [InTheWay; 8] = [
    InTheWay::Sysctl,
    InTheWay::OutranksPeer,
    InTheWay::OutranksGuard,
    InTheWay::GuardTaken,
    InTheWay::IndexTaken,
    InTheWay::DiscoveryTaken,
    InTheWay::FirewallUnseen,
    InTheWay::NoIptables,
];

impl InTheWay {
    /// A mesh for which it is a conflict.
    fn mesh(self) -> Config {
        let by_mark = Config {
            select: Select::Mark(Mark { value: 0x20000, mask: 0x20000 }),
            ..mesh(5, &HOSTS)
        };
        match self {
            Self::Sysctl | Self::OutranksGuard | Self::GuardTaken => mesh(5, &HOSTS),
            Self::OutranksPeer => Config { guard: Guard::Off, ..mesh(5, &HOSTS) },
            Self::IndexTaken | Self::DiscoveryTaken => {
                Config { guard: Guard::Off, traffic: Traffic::All, ..mesh(5, &HOSTS6) }
            }
            Self::FirewallUnseen | Self::NoIptables => by_mark,
        }
    }

    fn code(self) -> ConflictCode {
        match self {
            Self::Sysctl => ConflictCode::Bypass,
            Self::OutranksPeer => ConflictCode::OutranksPeer,
            Self::OutranksGuard => ConflictCode::OutranksGuard,
            Self::GuardTaken | Self::DiscoveryTaken => ConflictCode::SelectorTaken,
            Self::IndexTaken => ConflictCode::IndexTaken,
            Self::FirewallUnseen | Self::NoIptables => ConflictCode::FirewallUnusable,
        }
    }

    fn come(self, kernel: &mut Memory) {
        let any = Prefix::any("192.0.2.1".parse().unwrap());
        let all = Selector::between(any, any);
        let peer = Prefix::host(HOSTS[1].parse().unwrap());
        let state = kernel.state_mut();
        match self {
            Self::Sysctl => state.bypasses.push(Bypass {
                device: "eth0".into(),
                ipv6: false,
                name: "disable_policy".into(),
            }),
            Self::OutranksPeer => state.policies.push(foreign(
                Direction::Out,
                Selector::between(any, peer),
                Action::Allow,
                5,
            )),
            Self::OutranksGuard => {
                state.policies.push(foreign(Direction::Out, all, Action::Allow, 5));
            }
            Self::GuardTaken => {
                let guard = all.to_port(IPPROTO_UDP, 4789);
                let taken = |policy: &Policy| {
                    policy.id.selector == guard && policy.id.direction == Direction::In
                };
                state.policies.retain(|policy| !taken(policy));
                state.policies.push(foreign(Direction::In, guard, Action::Block, 5000));
            }
            Self::IndexTaken => {
                let index = Policy::discovery(REQID).next().unwrap().index;
                state.policies.retain(|policy| policy.index != index);
                let other = Selector { proto: 200, ..Selector::hosts(peer.address, peer.address) };
                let other = foreign(Direction::Out, other, Action::Block, 5000);
                state.policies.push(Policy { index, ..other });
            }
            Self::DiscoveryTaken => {
                let ours = Policy::discovery(REQID).next().unwrap();
                state.policies.retain(|policy| policy.id != ours.id);
                state.policies.push(Policy { index: None, action: Action::Block, ..ours });
            }
            Self::FirewallUnseen => state.firewall.unseen.push(Unseen {
                family: Family::Ipv4,
                system: true,
                what: "iptables-save failed".into(),
                reason: "the lock".into(),
            }),
            Self::NoIptables => _ = state.firewall.backends.remove(&Family::Ipv6),
        }
    }
}

/// One host, and what it has applied.
struct Host {
    kernel: Memory,
    config: Config,
}

impl Host {
    fn new(config: &Config, place: usize) -> Self {
        let config = seen_by(config, place);
        let mut kernel = host(&config);
        assert!(applied(&config, &mut kernel).is_complete());
        Self { kernel, config }
    }

    fn rotate(&mut self, generation: u64) -> Report {
        self.config = of_generation(&self.config, generation);
        applied(&self.config, &mut self.kernel)
    }

    /// The SA under which it sends to a peer: that of its policy.
    fn sends_under(&self, to: &Config) -> Option<&Sa> {
        let to = to.peers[0].address;
        let state = self.kernel.state();
        let ours = |policy: &&Policy| {
            policy.id.direction == Direction::Out
                && policy.belongs_to(REQID)
                && !policy.templates.is_empty()
                && policy.id.selector.dst == Prefix::host(to)
        };
        let policy = state.policies.iter().find(ours)?;
        let id = SaId::esp(to, policy.templates[0].spi);
        state.sas.iter().find(|sa| sa.id == id && sa.reqid == REQID)
    }

    /// Fails unless another host takes what this one sends to it.
    fn reaches(&self, other: &Self) -> Result<(), TestCaseError> {
        let Some(sent) = self.sends_under(&other.config) else {
            return Err(TestCaseError::fail("nothing is sent: there is no SA"));
        };
        let found = other.kernel.state().sas.iter().find(|sa| sa.id == sent.id);
        prop_assert!(found.is_some(), "{} is not there to receive", sent.id);
        prop_assert_eq!(found.unwrap().key, sent.key);
        Ok(())
    }
}

/// Rotates hosts one generation at a time, in an order, with something in the way of the first.
fn rotates(what: InTheWay, firsts: &[bool]) -> Result<(), TestCaseError> {
    let config = what.mesh();
    let (mut a, mut b) = (Host::new(&config, 0), Host::new(&config, 1));
    what.come(&mut a.kernel);
    let codes = plan(&a.config, &mut a.kernel).conflicts.into_iter().map(|found| found.code);
    let codes: Vec<_> = codes.collect();
    prop_assert!(codes.contains(&what.code()), "{what:?}: {codes:?}");
    for (generation, first) in (6..).zip(firsts) {
        let hosts = if *first { [true, false] } else { [false, true] };
        for is_a in hosts {
            let report = if is_a { a.rotate(generation) } else { b.rotate(generation) };
            prop_assert!(report.failed.is_empty() && report.left.is_empty(), "{what:?}");
            prop_assert_eq!(report.is_complete(), !is_a, "{:?}", what);
            a.reaches(&b)?;
            b.reaches(&a)?;
        }
        // Nothing of old generations is left: the databases do not grow.
        prop_assert_eq!(a.kernel.state().sas.len(), b.kernel.state().sas.len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn with_anything_in_the_way_pairs_that_stand_keep_rotating(
        what in prop::sample::select(&ALL[..]),
        firsts in prop::collection::vec(any::<bool>(), 1..150),
    ) {
        rotates(what, &firsts)?;
    }
}

/// By the clock, what is sent must also not end while something is in the way.
#[test]
fn by_the_clock_too() {
    let period = Period::new(600).unwrap();
    let mut config = InTheWay::Sysctl.mesh();
    config.rotation = Rotation::Period(period);
    config.esp.replay = Replay { window: 1024, esn: true };
    let mut kernel = host(&config);
    let begin = 3_000_000 * 600;
    kernel.set_now(Time::from_seconds(begin));
    assert!(applied(&config, &mut kernel).is_complete());
    InTheWay::Sysctl.come(&mut kernel);
    for quarter in 1..=40 {
        kernel.set_now(Time::from_seconds(begin + quarter * 150));
        applied(&config, &mut kernel);
        let wanted = wanted_at(&config, kernel.now()).0;
        for (id, sa) in &wanted.sas {
            let found = kernel.state().sas.iter().find(|sa| sa.id == *id);
            let found = found.unwrap_or_else(|| panic!("{id} is missing after {quarter}"));
            assert!(found.ends_with(&sa.sa), "{id} ends too early after {quarter}");
        }
    }
}

fn created(plan: &Plan) -> usize {
    let adds = |kind: &StepKind<()>| {
        matches!(kind, StepKind::AddPolicy(_) | StepKind::AddSa { .. } | StepKind::SetChain { .. })
    };
    plan.steps.iter().filter(|step| adds(&step.step.kind)).count()
}

#[test]
fn what_would_be_new_is_held_back() {
    for what in ALL {
        let config = what.mesh();
        let mut kernel = host(&seen_by(&config, 0));
        what.come(&mut kernel);
        let plan = plan(&config, &mut kernel);
        let stopped = PeerName::new("b").unwrap();
        assert!(plan.stopped().covers(Some(&stopped)), "{what:?}");
        let of_stopped = plan.changes.iter().filter(|change| change.peer == Some(stopped.clone()));
        assert_eq!(of_stopped.count(), 0, "{what:?}");
        assert!(plan.held > 0, "{what:?}");
        if plan.stopped().covers(None) {
            assert_eq!(created(&plan), 0, "{what:?}");
        }
    }
}

/// A pair that lost a policy stands no more: it is not made up for while something is in the way.
#[test]
fn a_pair_that_lost_a_policy_does_not_stand() {
    let config = mesh(5, &HOSTS[..2]);
    for direction in [Direction::In, Direction::Out] {
        let mut kernel = applied_host(&config);
        let state = kernel.state_mut();
        state.policies.retain(|policy| policy.is_guard() || policy.id.direction != direction);
        InTheWay::Sysctl.come(&mut kernel);
        let plan = plan(&of_generation(&config, 6), &mut kernel);
        assert_eq!(plan.changes, [], "{direction}");
    }
}

/// The SA to send under is somebody else's: the pair goes on under the one that it has.
#[test]
fn a_taken_spi_leaves_a_pair_where_it_is_and_the_others_rotate() {
    let config = mesh(5, &HOSTS);
    let mut a = Host::new(&config, 0);
    let b = Host::new(&config, 1);
    let before = a.sends_under(&b.config).unwrap().id;
    let (own, other) = (config.peers[0].short_id, config.peers[1].short_id);
    let next =
        SaId::esp(config.peers[1].address, Spi::new(Generation::new(6).unwrap(), own, other));
    a.kernel.state_mut().sas.push(foreign_sa(next, HOSTS[0]));
    let report = a.rotate(6);
    assert!(report.changed_anything() && !report.is_complete());
    assert_eq!(a.sends_under(&b.config).unwrap().id, before);
    a.reaches(&b).unwrap();
    let rotated = a.sends_under(&seen_by(&config, 2)).unwrap().id.spi.generation_low();
    assert_eq!(rotated, 6, "c rotates");
    let inbound = |generation| {
        let spi = Spi::new(Generation::new(generation).unwrap(), other, own);
        let id = SaId::esp(config.peers[0].address, spi);
        a.kernel.state().sas.iter().any(|sa| sa.id == id)
    };
    assert!(inbound(7) && inbound(6) && inbound(5), "b may go on to the next");
    // Once it is free the pair follows.
    a.kernel.state_mut().sas.retain(|sa| sa.reqid == REQID);
    assert!(a.rotate(6).is_complete());
    assert_eq!(a.sends_under(&b.config).unwrap().id, next);
}

/// What may be another mesh's is not touched at all.
#[test]
fn objects_that_may_be_another_meshs_stay() {
    let other = Config { traffic: Traffic::Geneve { port: 6081 }, ..mesh(1, &HOSTS[..2]) };
    let mut kernel = host(&other);
    let secrets = Secrets::MeshKey(Key::new((1..33).collect()));
    let (desired, keyring): (Desired, Keyring) =
        desired(&other, other.rotation.at(Time::default()), &other.peers[0], Some(&secrets));
    let goal = Goal { desired: &desired, keyring: &keyring, reqid: REQID };
    let plan_of_other = Plan::new(&desired, &observe(&mut kernel), REQID);
    assert!(apply(&mut kernel, &goal, &plan_of_other, &mut |_| {}).is_complete());
    let plan = plan(&mesh(1, &HOSTS[..2]), &mut kernel);
    assert_eq!(plan.conflicts[0].code, ConflictCode::SameReqid);
    assert_eq!((plan.changes.len(), plan.steps.len()), (0, 0));
}

/// A way back ignores what is in the way, apart from identities that are taken.
#[test]
fn what_was_there_before_an_apply_comes_back_whatever_is_in_the_way() {
    let config = mesh(5, &HOSTS);
    let (wanted, _) = wanted_at(&config, Time::default());
    let restoring = Desired { restoring: true, ..wanted.clone() };
    let mut kernel = host(&config);
    InTheWay::Sysctl.come(&mut kernel);
    InTheWay::OutranksGuard.come(&mut kernel);
    let all = Plan::new(&wanted, &observe(&mut host(&config)), REQID);
    let plan = Plan::new(&restoring, &observe(&mut kernel), REQID);
    assert_eq!(plan.changes, all.changes);
    assert!(plan.conflicts.is_empty());

    let taken = wanted.policies.values().find(|wanted| wanted.peer.as_str() == "b").unwrap();
    let templates = vec![Template { reqid: Reqid(7), ..taken.policy.templates[0] }];
    kernel.state_mut().policies.push(Policy { templates, ..taken.policy.clone() });
    let plan = Plan::new(&restoring, &observe(&mut kernel), REQID);
    assert_eq!((plan.changes.len(), plan.held), (all.changes.len() - 1, 1));
    assert_eq!(plan.conflicts[0].code, ConflictCode::SelectorTaken);
}
