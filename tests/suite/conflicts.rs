//! Changes that conflicts hold back, and changes that go on: a pair that stands keeps rotating.

mod standing;

use crate::common::{REQID, applied, applied_host, host, mesh, observe, plan, wanted_at};
use meshsec::{
    apply::{Report, Target, apply},
    config::{Config, Guard, Peer, Rotation, Secrets, Select, Traffic},
    desired::{Desired, Keyring, desired},
    kernel::memory::Memory,
    model::{
        Action, Bypass, Direction, Family, Generation, IPPROTO_UDP, Key, Level, Mark, PeerName,
        Period, Policy, PolicyId, Prefix, Replay, Reqid, Sa, SaId, Selector, ShortId, Spi, Stage,
        Template, Time, Unseen,
    },
    plan::{ChainStep, ConflictCode, Plan, PolicyStep, SaStep, StepKind, WarningCode},
    render::{Extent, NO_OUTCOMES, Subject, View, plan_json, plan_text},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::Ipv4Addr};

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

/// A policy without templates that no mesh has.
pub fn foreign(direction: Direction, selector: Selector, action: Action, priority: u32) -> Policy {
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

/// One host, and the mesh that it has applied.
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

    /// Fails unless another host takes the packets that this one sends to it.
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

/// By the clock, sending must also not end while something is in the way.
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
            assert!(found.expires_like(&sa.sa), "{id} ends too early after {quarter}");
        }
    }
}

fn created(plan: &Plan) -> usize {
    let adds = |kind: &StepKind<()>| {
        matches!(
            kind,
            StepKind::Policy(PolicyStep::Add(_))
                | StepKind::Sa(SaStep::Add { .. })
                | StepKind::Chain(ChainStep::Set { .. })
        )
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

/// One with all its SAs deleted neither; nothing of it can be received, nor shown by errors.
#[test]
fn a_pair_that_lost_all_its_sas_does_not_stand() {
    let config = mesh(5, &HOSTS[..2]);
    let mut kernel = applied_host(&config);
    kernel.state_mut().sas.clear();
    InTheWay::Sysctl.come(&mut kernel);
    let plan = plan(&config, &mut kernel);
    assert_eq!((plan.changes.len(), plan.held), (0, 4));
}

/// Objects that it lacks to be closed are made.
#[test]
fn a_pair_that_stands_gets_its_policies_for_errors_and_for_what_is_forwarded() {
    let config = mesh(5, &HOSTS[..2]);
    let mut kernel = applied_host(&config);
    let all = kernel.state().policies.clone();
    let closes =
        |policy: &Policy| policy.is_for_icmp_errors() || policy.id.direction == Direction::Fwd;
    kernel.state_mut().policies.retain(|policy| !closes(policy));
    InTheWay::Sysctl.come(&mut kernel);
    assert!(!applied(&config, &mut kernel).is_complete());
    let count = |policies: &[Policy]| policies.iter().filter(|policy| closes(policy)).count();
    assert_eq!(count(&kernel.state().policies), count(&all));
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
    // Packets of a mark are sent under a twin that has it.
    let twin = SaId { mark: Mark { value: 1, mask: 1 }, ..before };
    let marked = Sa { id: twin, ..a.sends_under(&b.config).unwrap().clone() };
    a.kernel.state_mut().sas.extend([foreign_sa(next, HOSTS[0]), marked]);
    let report = a.rotate(6);
    assert!(report.changed_anything() && !report.is_complete());
    assert_eq!(a.sends_under(&b.config).unwrap().id, before);
    assert!(a.kernel.state().sas.iter().any(|sa| sa.id == twin));
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

/// Objects that may be another mesh's are not touched at all.
#[test]
fn objects_that_may_be_another_meshs_stay() {
    let other = Config { traffic: Traffic::Geneve { port: 6081 }, ..mesh(1, &HOSTS[..2]) };
    let mut kernel = host(&other);
    let secrets = Secrets::MeshKey(Key::new((1..33).collect()));
    let (desired, keyring): (Desired, Keyring) =
        desired(&other, other.rotation.at(Time::default()), &other.peers[0], Some(&secrets));
    let goal = Target { desired: &desired, keyring: &keyring, reqid: REQID };
    let plan_of_other = Plan::new(&desired, &observe(&mut kernel), REQID);
    assert!(apply(&mut kernel, &goal, &plan_of_other, &mut |_| {}).is_complete());
    // One for ICMP errors of no peer, which would be closed if it were ours.
    let mut open =
        kernel.state().policies.iter().find(|it| it.is_for_icmp_errors()).unwrap().clone();
    (open.id.selector.dst.length, open.templates[0].level) = (24, Level::Use);
    kernel.state_mut().policies.push(open);
    let plan = plan(&mesh(1, &HOSTS[..2]), &mut kernel);
    assert_eq!(plan.conflicts[0].code, ConflictCode::SameReqid);
    assert_eq!((plan.changes.len(), plan.steps.len()), (0, 0));
}

/// A way back ignores conflicts, apart from identities that are taken.
#[test]
fn what_was_there_before_an_apply_comes_back_whatever_is_in_the_way() {
    let config = mesh(5, &HOSTS);
    let (wanted, _) = wanted_at(&config, Time::default());
    let restoring = Desired {
        goal: meshsec::desired::Goal::Before { kept_chains: BTreeSet::new(), needs_chains: false },
        ..wanted.clone()
    };
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

const MANY: u16 = 2000;

/// Everything between so many peers.
fn large_mesh() -> Config {
    let peers = (0..MANY).map(|n| Peer {
        name: PeerName::new(&format!("p{n}")).unwrap(),
        short_id: ShortId::new(n).unwrap(),
        address: Ipv4Addr::from_bits(0x0a00_0000 + u32::from(n)).into(),
        public_key: None,
        groups: BTreeSet::new(),
        stage: Stage::Enforce,
        outside: None,
        networks: Default::default(),
        inside: Default::default(),
    });
    let traffic = Traffic::All;
    Config { guard: Guard::Off, traffic, peers: peers.collect(), ..mesh(5, &HOSTS) }
}

fn prefix(bits: u32, length: u8) -> Prefix {
    Prefix { address: Ipv4Addr::from_bits(bits).into(), length }
}

fn plan_without_keys(config: &Config, kernel: &mut Memory) -> Plan {
    let moment = config.rotation.at(Time::default());
    let (wanted, _) = desired(config, moment, &config.peers[0], None);
    Plan::new(&wanted, &observe(kernel), REQID)
}

/// A conflict for each object, with any number of peers that it stops, and output that is capped:
/// for each pair of the two this would be gigabytes.
#[test]
fn thousands_of_wide_policies_and_thousands_of_peers_are_a_list_of_what_is_in_the_way() {
    let config = large_mesh();
    let mut kernel = host(&config);
    let wide = (0..u32::from(MANY)).map(|n| {
        let source = prefix(0x0a00_0000, 8 + (n % 9) as u8);
        let selector = Selector { proto: (n / 9 + 1) as u8, ..Selector::between(source, source) };
        foreign(Direction::Out, Selector { user: n, ..selector }, Action::Allow, n % 1000)
    });
    kernel.state_mut().policies.extend(wide);
    let plan = plan_without_keys(&config, &mut kernel);
    assert_eq!(plan.conflicts.len(), usize::from(MANY));
    let stopped = plan.conflicts[0].stops.peers().unwrap();
    assert_eq!(stopped.len(), usize::from(MANY) - 1);
    assert_eq!(plan.changes.iter().filter(|change| change.peer.is_some()).count(), 0);

    let view = View {
        subject: Subject::File { config: &config, moment: config.rotation.at(Time::default()) },
        local: Some(&config.peers[0]),
        plan: &plan,
        warnings: &[],
        outcomes: &NO_OUTCOMES,
        file: "mesh.toml",
    };
    let text = plan_text(&view, &Extent::Whole);
    assert!(text.len() < 20_000, "{} bytes", text.len());
    assert!(text.contains("stops peers p1, p2, p3, p4, p5, p6, p7, p8 and 1991 more"), "{text}");
    assert!(text.contains("and 1980 more conflicts"), "{text}");
    let json = serde_json::to_value(plan_json(&view)).unwrap();
    assert_eq!(json["conflicts"].as_array().unwrap().len(), 100);
    assert_eq!(json["more_conflicts"], 1900);
    assert_eq!(json["conflicts"][0]["peers"].as_array().unwrap().len(), 8);
    assert_eq!(json["conflicts"][0]["more_peers"], 1991);
}

#[test]
fn who_is_stopped_is_exact_whatever_the_prefix() {
    let config = large_mesh();
    let names = |low: u32, high: u32| (low..high).map(|n| format!("p{n}")).collect::<Vec<_>>();
    for (bits, length, stopped) in [
        (0x0a00_0100, 24, names(256, 512)),
        (0x0a00_0107, 30, names(260, 264)),
        (0x0a00_0005, 32, names(5, 6)),
        (0x0a00_0000, 31, names(1, 2)),
        (0x0b00_0000, 8, names(0, 0)),
        (0, 0, names(1, MANY.into())),
    ] {
        let mut kernel = host(&config);
        let any = prefix(0, 0);
        let out = Selector::between(any, prefix(bits, length));
        let policy = foreign(Direction::Out, out, Action::Allow, 10);
        kernel.state_mut().policies.push(policy);
        let plan = plan_without_keys(&config, &mut kernel);
        let found: Vec<String> = plan
            .conflicts
            .iter()
            .flat_map(|conflict| conflict.stops.peers().unwrap().iter().map(ToString::to_string))
            .collect();
        assert_eq!(found, stopped, "{bits:#x}/{length}");
        let name = |n: u32| PeerName::new(&format!("p{n}")).unwrap();
        for n in 1..u32::from(MANY) {
            let is_stopped = stopped.contains(&format!("p{n}"));
            assert_eq!(plan.stopped().covers(Some(&name(n))), is_stopped, "p{n}");
        }
    }
}

#[test]
fn policies_elsewhere_are_in_nobodys_way() {
    let config = large_mesh();
    let mut kernel = host(&config);
    let elsewhere = (0..50_000).map(|n| {
        let selector = Selector::between(prefix(0x0b00_0000 + (n << 8), 24), prefix(n, 32));
        foreign(Direction::Out, selector, Action::Allow, 10)
    });
    kernel.state_mut().policies.extend(elsewhere);
    let plan = plan_without_keys(&config, &mut kernel);
    assert!(plan.conflicts.is_empty());
    assert!(plan.warnings.len() < 10, "{:?}", plan.warnings);
}

/// Many that block or transform are warned of by the first few.
#[test]
fn policies_that_only_outrank_ours_are_counted_too() {
    let config = large_mesh();
    let mut kernel = host(&config);
    let wide = (0..u32::from(MANY)).map(|n| {
        let any = Selector { user: n, ..Selector::between(prefix(0, 0), prefix(0, 0)) };
        foreign(Direction::Out, any, Action::Block, 10)
    });
    kernel.state_mut().policies.extend(wide);
    let plan = plan_without_keys(&config, &mut kernel);
    let lines = plan.warnings.iter().filter(|line| line.code == WarningCode::Outranked);
    let lines: Vec<&str> = lines.map(|line| line.text.as_str()).collect();
    assert_eq!(lines.len(), 9);
    let names = "p1, p2, p3, p4, p5, p6, p7, p8 and 1991 more; unless that is meant, delete it";
    assert!(lines[0].contains(names), "{}", lines[0]);
    assert!(lines[8].starts_with("1992 more foreign policies"), "{}", lines[8]);
}
