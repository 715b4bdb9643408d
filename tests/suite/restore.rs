//! Reverting an apply: the objects that a host held before come back, of any kind.

mod clock;

use crate::common::{REQID, VXLAN, applied, applied_host, host, mesh, observe, wanted, wanted_at};
use meshsec::{
    apply::{Report, Target, apply},
    config::{Config, Esp, Guard, LinkWish, Rotation, Select, Traffic},
    desired::{Desired, Keyring},
    kernel::{Errno, Kernel, memory::Memory},
    model::{
        Action, Bypass, Cipher, Direction, Family, KeyView, Live, Mark, Mtu, Period, Policy,
        PolicyId, PortMatch, Prefix, Replay, Rule, SaId, Selector, Spi, Stage, Start, State, Time,
        Unseen,
    },
    plan::{ConflictCode, Flow, Plan, StepKind, flow_out},
    render::{Verb, report_text},
    restore::{follow_the_clock, forget_ended, restore},
    revert::revert,
};

const PEERS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

fn lab(generation: u64) -> Config {
    mesh(generation, &PEERS)
}

fn by_mark() -> Config {
    Config { select: Select::Mark(Mark { value: 0x20000, mask: 0x20000 }), ..lab(1) }
}

/// Files that one may change to another.
fn files() -> Vec<(&'static str, Config)> {
    let link = |mtu| Some(LinkWish { device: VXLAN.into(), mtu });
    let esp = lab(1).esp;
    let no_guard = Config { guard: Guard::Off, ..lab(1) };
    vec![
        ("generation 1", lab(1)),
        ("generation 2", lab(2)),
        ("generation 7", lab(7)),
        ("two peers", mesh(1, &PEERS[..2])),
        (
            "another cipher",
            Config { esp: Esp { cipher: Cipher::Aes128Gcm, ..esp.clone() }, ..lab(1) },
        ),
        ("ESN", Config { esp: Esp { replay: Replay { window: 64, esn: true }, ..esp }, ..lab(1) }),
        ("a mark", by_mark()),
        ("another port", Config { traffic: Traffic::Vxlan { port: 8472 }, ..lab(1) }),
        ("no guard", no_guard.clone()),
        ("stage receive", Config { stage: Stage::Receive, ..lab(1) }),
        ("stage send", Config { stage: Stage::Send, ..lab(1) }),
        ("a mark at stage send", Config { stage: Stage::Send, ..by_mark() }),
        ("all traffic", Config { traffic: Traffic::All, ..no_guard }),
        ("a link", Config { link: link(Mtu::Auto), ..lab(1) }),
        ("another link", Config { link: link(Mtu::Exactly(1300)), ..lab(1) }),
    ]
}

/// The objects of a host but for how far its SAs have come.
fn held(kernel: &mut Memory) -> State {
    State { usage: Vec::new(), ..observe(kernel).0 }
}

/// The plan that takes a plan back.
fn way_back(live: &Live, keys: Keyring, plan: &Plan, to: &Desired) -> (Desired, Keyring) {
    restore(live, keys, plan, to, REQID).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn perform(kernel: &mut Memory, desired: &Desired, keyring: &Keyring) -> Report {
    let plan = Plan::new(desired, &observe(kernel), REQID);
    apply(kernel, &Target { desired, keyring, reqid: REQID }, &plan, &mut |_| {})
}

fn go_back(kernel: &mut Memory, before: &Desired, keyring: &Keyring) -> Report {
    revert(kernel, &Target { desired: before, keyring, reqid: REQID }, &mut |_| {})
}

fn destroying() -> (Desired, Keyring) {
    (Desired { goal: meshsec::desired::Goal::Nothing, ..Desired::default() }, Keyring::default())
}

/// Goes from one file to another, with one request refused if asked to, and back.
fn there_and_back(
    name: &str,
    from: Option<&Config>,
    to: &(Desired, Keyring),
    refused: Option<usize>,
) {
    let mut kernel = from.map_or_else(|| host(&lab(1)), applied_host);
    let (before, live) = (held(&mut kernel), observe(&mut kernel));
    let keys = from.map(|config| wanted(config).1).unwrap_or_default();
    let plan = Plan::new(&to.0, &live, REQID);
    if let [conflict] = plan.conflicts.as_slice() {
        // Other traffic and other keys at once: that may be another mesh.
        assert_eq!(conflict.code, ConflictCode::SameReqid, "{name}: {}", conflict.text);
        assert!(name.contains("another port") || name.contains("all traffic"), "{name}");
        return;
    }
    let (back, keyring) = way_back(&live, keys, &plan, &to.0);
    if let Some(nth) = refused {
        kernel.refuse(nth, Errno(12));
    }
    let report = perform(&mut kernel, &to.0, &to.1);
    // A chain of the second guard that can't even be tried is left out.
    let complete = refused.is_none() || !report.left_out.is_empty();
    assert_eq!(report.is_complete(), complete, "{name}, {refused:?}");
    let report = go_back(&mut kernel, &back, &keyring);
    assert!(report.is_restored(), "{name}, {refused:?}: {:?}", report.unlike);
    assert_eq!(held(&mut kernel), before, "{name}, {refused:?}");
}

#[test]
fn every_change_of_the_file_can_be_reverted() {
    for (to, after) in files() {
        let after = wanted(&after);
        there_and_back(&format!("from nothing to {to}"), None, &after, None);
        for (from, before) in files().iter().filter(|(from, _)| *from != to) {
            there_and_back(&format!("from {from} to {to}"), Some(before), &after, None);
        }
    }
}

#[test]
fn a_destroy_can_be_reverted() {
    for (name, config) in files() {
        there_and_back(name, Some(&config), &destroying(), None);
    }
}

#[test]
fn an_apply_that_failed_anywhere_can_be_reverted() {
    for (to, after) in files() {
        let after = wanted(&after);
        for (from, before) in files().iter().filter(|(from, _)| *from != to) {
            let steps = Plan::new(&after.0, &observe(&mut applied_host(before)), REQID).steps.len();
            // Behind the probe's two requests, if there is one.
            for nth in (0..steps).step_by(3) {
                there_and_back(&format!("from {from} to {to}"), Some(before), &after, Some(nth));
            }
        }
    }
}

/// A packet of VXLAN to a peer.
fn packet(peer: &str) -> Selector {
    Selector::hosts(PEERS[0].parse().unwrap(), peer.parse().unwrap()).to_port(17, 4789)
}

#[test]
fn nothing_is_in_clear_on_the_way_back_to_what_was_protected() {
    for (from, before) in files().iter().filter(|(_, config)| config.guard.is_on()) {
        let mut kernel = applied_host(before);
        let live = observe(&mut kernel);
        let to = wanted(&lab(3));
        let plan = Plan::new(&to.0, &live, REQID);
        let (back, keyring) = way_back(&live, wanted(before).1, &plan, &to.0);
        perform(&mut kernel, &to.0, &to.1);
        let packets = [packet(PEERS[1]), packet(PEERS[2])];
        let closed = packets.map(|packet| flow_out(&live.0, &packet) != Flow::Clear);
        for planned in Plan::new(&back, &observe(&mut kernel), REQID).steps {
            let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).unwrap();
            assert!(kernel.perform(&[step]).unwrap()[0].is_ok());
            for (packet, _) in packets.iter().zip(closed).filter(|(_, closed)| *closed) {
                let flow = flow_out(&observe(&mut kernel).0, packet);
                assert_ne!(flow, Flow::Clear, "{from}: {packet}");
            }
        }
    }
}

#[test]
fn numbers_go_on_beyond_those_that_peers_have_seen() {
    let esp = Esp { replay: Replay { window: 64, esn: true }, ..lab(1).esp };
    let before = Config { esp, ..lab(1) };
    let mut kernel = applied_host(&before);
    let out = SaId::esp(PEERS[1].parse().unwrap(), Spi::from_raw(0x8400_1002));
    for usage in &mut kernel.state_mut().usage {
        (usage.sent, usage.received) = if usage.id == out { (5000, 0) } else { (0, 7000) };
    }
    let live = observe(&mut kernel);
    let to = destroying();
    let plan = Plan::new(&to.0, &live, REQID);
    let (back, keyring) = way_back(&live, wanted(&before).1, &plan, &to.0);
    perform(&mut kernel, &to.0, &to.1);
    assert!(go_back(&mut kernel, &back, &keyring).is_restored());
    for usage in observe(&mut kernel).0.usage {
        if usage.id == out {
            // More than can be sent between the look and the end of the old one.
            let sent = 5000 + (1 << 23)..1 << 25;
            assert!(sent.contains(&usage.sent), "{}", usage.sent);
        } else if usage.id.dst == out.dst {
            unreachable!("one outbound SA to b");
        } else if usage.id.dst.to_string() == PEERS[0] {
            assert_eq!(usage.received, 7000, "what was received is refused");
        }
    }
    let starts = back.sas.values().filter(|wanted| wanted.direction == Direction::Out);
    assert!(starts.clone().count() == 2);
    assert!(starts.clone().any(|wanted| wanted.start == Start::Resume { sent: 0, received: 7000 }));
}

#[test]
fn what_nobody_could_make_again_is_named_before_anything_changes() {
    let problems = |spoil: fn(&mut Memory), keys: Keyring| {
        let mut kernel = applied_host(&by_mark());
        spoil(&mut kernel);
        let live = observe(&mut kernel);
        let (to, _) = destroying();
        let plan = Plan::new(&to, &live, REQID);
        restore(&live, keys, &plan, &to, REQID).err().unwrap_or_default()
    };
    let keys = || wanted(&by_mark()).1;
    assert_eq!(problems(|_| (), keys()), Vec::<String>::new());
    let named = |spoil, what: &str| {
        let found = problems(spoil, keys());
        assert!(found.len() == 1 && found[0].contains(what), "{found:?}, wanted {what}");
    };
    named(|kernel| kernel.state_mut().sas[0].key = KeyView::Unknown, "doesn't show its key");
    named(
        |kernel| {
            kernel.state_mut().sas[0].extras.insert("tfcpad 64".into());
        },
        "it has tfcpad 64",
    );
    named(
        |kernel| {
            kernel.state_mut().policies[0].extras.insert("hard-use lifetime 3s".into());
        },
        "hard-use lifetime 3s",
    );
    named(
        |kernel| {
            let rule = Rule::Other("-j LOG".into());
            kernel.state_mut().firewall.chains[0].rules.push(rule);
        },
        "it has the rule -j LOG",
    );
    named(
        |kernel| {
            let chain = &mut kernel.state_mut().firewall.chains[0];
            chain.id.backend = meshsec::model::Backend::Legacy;
        },
        "it is in the backend that is not the system's",
    );
    let none = problems(|_| (), Keyring::default());
    assert_eq!(none.len(), 8, "every SA of a host without keys: {none:?}");
}

#[test]
fn a_larval_sa_is_not_brought_back() {
    let mut kernel = applied_host(&lab(1));
    let larval = &mut kernel.state_mut().sas[0];
    larval.algorithm = meshsec::model::Algorithm::Larval;
    larval.key = KeyView::Unknown;
    let (to, live) = (wanted(&lab(1)), observe(&mut kernel));
    let plan = Plan::new(&to.0, &live, REQID);
    let (back, _) = way_back(&live, wanted(&lab(1)).1, &plan, &to.0);
    assert_eq!(back.sas.len(), 7);
}

#[test]
fn an_sa_that_has_ended_is_not_brought_back() {
    let period = Period::new(600).unwrap();
    let clock = Config {
        rotation: Rotation::Period(period),
        esp: Esp { replay: Replay { window: 64, esn: true }, ..lab(1).esp },
        ..lab(1)
    };
    let mut kernel = host(&clock);
    let begin = Time::from_seconds(600 * 1000 + 10);
    kernel.set_now(begin);
    assert!(applied(&clock, &mut kernel).is_complete());
    let live = observe(&mut kernel);
    let plan = Plan::new(&destroying().0, &live, REQID);
    let keys = wanted_at(&clock, begin).1;
    let (mut back, _) = way_back(&live, keys, &plan, &destroying().0);
    assert_eq!(back.sas.len(), 8);
    forget_ended(&mut back, begin);
    assert_eq!(back.sas.len(), 8);
    forget_ended(&mut back, Time::from_seconds(600 * 1002));
    assert_eq!(back.sas.len(), 6, "the two outbound ones have ended");
}

type Spoil = fn(&mut State);

/// Changes that somebody else may make to a host, by name.
fn troubles() -> [(&'static str, Spoil); 4] {
    [
        ("a policy that outranks the guard", |state| {
            state.policies.push(outranking("0.0.0.0/0", "10.9.0.0/16"));
        }),
        ("a policy that outranks one peer", |state| {
            state.policies.push(outranking("192.0.2.1/32", "192.0.2.2/31"));
        }),
        ("a sysctl of all", |state| {
            let (device, name) = ("all".into(), "disable_policy".into());
            state.bypasses.push(Bypass { device, ipv6: false, name });
        }),
        ("a sysctl of the device", |state| {
            let (device, name) = ("eth0".into(), "disable_xfrm".into());
            state.bypasses.push(Bypass { device, ipv6: false, name });
        }),
    ]
}

/// A foreign policy out that lets packets pass before any of ours.
fn outranking(src: &str, dst: &str) -> Policy {
    let prefix = |text: &str| {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    };
    Policy {
        id: PolicyId::new(Direction::Out, Selector::between(prefix(src), prefix(dst))),
        priority: 5,
        action: Action::Allow,
        index: None,
        templates: Vec::new(),
        extras: Default::default(),
    }
}

/// Where a host comes from and goes to, and the files of both.
fn ways() -> Vec<(&'static str, Option<Config>, (Desired, Keyring))> {
    let all = Config { traffic: Traffic::All, guard: Guard::Off, ..lab(1) };
    vec![
        ("a first apply", None, wanted(&lab(1))),
        ("another generation", Some(lab(1)), wanted(&lab(2))),
        ("a destroy", Some(lab(1)), destroying()),
        ("a first apply of all traffic", None, wanted(&all)),
        ("from all traffic", Some(all), destroying()),
        ("a first apply by mark", None, wanted(&by_mark())),
        ("from a mark", Some(by_mark()), destroying()),
        ("from a mark to a port", Some(by_mark()), wanted(&lab(2))),
    ]
}

/// A host on its way, with the plan that takes it back.
fn on_the_way(
    from: Option<&Config>,
    to: &(Desired, Keyring),
    before: impl FnOnce(&mut State),
) -> (Memory, Live, (Desired, Keyring)) {
    let mut kernel = from.map_or_else(|| host(&lab(1)), applied_host);
    before(kernel.state_mut());
    let live = observe(&mut kernel);
    let keys = from.map(|config| wanted(config).1).unwrap_or_default();
    let plan = Plan::new(&to.0, &live, REQID);
    let back = way_back(&live, keys, &plan, &to.0);
    perform(&mut kernel, &to.0, &to.1);
    (kernel, live, back)
}

#[test]
fn what_others_do_before_or_meanwhile_keeps_nothing_from_coming_back() {
    for (trouble, spoil) in troubles() {
        for (name, from, to) in ways() {
            for early in [true, false] {
                let before = |state: &mut State| {
                    if early {
                        spoil(state)
                    }
                };
                let (mut kernel, live, (back, keyring)) = on_the_way(from.as_ref(), &to, before);
                let mut expected = live.0;
                if !early {
                    spoil(kernel.state_mut());
                    spoil(&mut expected);
                }
                let report = go_back(&mut kernel, &back, &keyring);
                assert!(report.is_restored(), "{trouble}, {name}: {:?}", report.unlike);
                let expected = State { usage: Vec::new(), ..expected.sorted() };
                assert!(held(&mut kernel) == expected, "{trouble}, {name}");
            }
        }
    }
}

/// Somebody else's in the place of one of the mesh's.
fn foreign(policy: &Policy) -> Policy {
    Policy { priority: 7, action: Action::Allow, templates: Vec::new(), ..policy.clone() }
}

#[test]
fn only_what_something_foreign_has_taken_meanwhile_stays_away_and_is_named() {
    let (mut kernel, live, (back, keyring)) = on_the_way(Some(&lab(1)), &destroying(), |_| ());
    let find = |guard| {
        let found =
            |policy: &&Policy| policy.is_guard() == guard && policy.id.direction == Direction::Out;
        live.0.policies.iter().find(found).unwrap()
    };
    let (guard, out) = (find(true), find(false));
    let sa = &live.0.sas[0];
    let state = kernel.state_mut();
    state.policies.extend([foreign(guard), foreign(out)]);
    state.sas.push(meshsec::model::Sa { reqid: meshsec::model::Reqid(5), ..sa.clone() });
    let report = go_back(&mut kernel, &back, &keyring);
    let unlike = report.unlike.clone().unwrap();
    assert_eq!(
        unlike,
        [
            format!("SA {} is missing", sa.id),
            format!("policy {} is missing", guard.id),
            format!("policy {} is missing", out.id),
        ]
    );
    let after = report.after.as_ref().unwrap();
    assert_eq!((after.conflicts.len(), after.changes.len()), (3, 0));
    assert!(report.failed.is_empty() && report.left.is_empty() && !report.is_restored());
    let text = report_text(&report, "", Verb::Revert);
    let chains = live.0.firewall.chains.len();
    let done = live.0.sas.len() + live.0.policies.len() + chains - 3;
    assert!(text.starts_with(&format!("Not reverted as a whole: {done} steps done")), "{text}");
    for what in unlike {
        assert!(text.contains(&what), "{text}");
    }
    let now = held(&mut kernel);
    assert_eq!((now.sas.len(), now.policies.len()), (live.0.sas.len(), live.0.policies.len()));
}

#[test]
fn an_object_that_did_not_come_back_is_seen_whatever_the_kernel_has_answered() {
    let (mut kernel, live, (back, keyring)) = on_the_way(Some(&by_mark()), &destroying(), |_| ());
    assert!(go_back(&mut kernel, &back, &keyring).is_restored());
    let unlike = |spoil: fn(&mut State)| {
        let mut state = live.0.clone();
        spoil(&mut state);
        meshsec::restore::unlike(&back, &Live(state), REQID)
    };
    assert_eq!(unlike(|_| ()), Vec::<String>::new());
    let one = |spoil: fn(&mut State), what: &str| {
        let found = unlike(spoil);
        assert!(found.len() == 1 && found[0].contains(what), "{found:?}, wanted {what}");
    };
    one(|state| _ = state.sas.remove(0), "is missing");
    one(|state| state.sas[0].key = KeyView::Unknown, "differs");
    one(|state| state.sas[0].selector = None, "differs");
    one(|state| _ = state.policies.remove(0), "is missing");
    one(|state| state.policies[0].priority += 1, "missing"); // and so it is nobody's
    one(|state| state.policies[1].priority += 1, "differs");
    one(|state| _ = state.firewall.chains.remove(0), "is missing");
    one(|state| state.firewall.chains[0].jumps.clear(), "differs");
    one(|state| state.firewall.chains[0].rules.clear(), "differs");
    one(
        |state| {
            let mut new = state.sas[0].clone();
            new.id.spi = Spi::from_raw(0x9400_1002);
            state.sas.push(new);
        },
        "was not there",
    );
    one(
        |state| {
            let mut new = state.policies[1].clone();
            new.id.selector.dport = PortMatch::exactly(1);
            state.policies.push(new);
        },
        "was not there",
    );
}

#[test]
fn iptables_that_fails_for_a_while_is_waited_for() {
    for (name, from, to) in ways() {
        let (mut kernel, live, (back, keyring)) = on_the_way(from.as_ref(), &to, |_| ());
        let steps = Plan::new(&back, &observe(&mut kernel), REQID).steps;
        let chains = steps.iter().map(|step| matches!(step.step.kind, StepKind::Chain(_)));
        for (nth, _) in chains.enumerate().filter(|(_, chain)| *chain) {
            kernel.refuse(nth, Errno(11));
        }
        let report = go_back(&mut kernel, &back, &keyring);
        assert!(report.is_restored(), "{name}: {:?}", report.unlike);
        assert!(held(&mut kernel) == State { usage: Vec::new(), ..live.0 }, "{name}");
    }
}

#[test]
fn iptables_that_fails_for_good_keeps_nothing_else_from_coming_back() {
    for (name, from, to) in ways() {
        let (mut kernel, live, (back, keyring)) = on_the_way(from.as_ref(), &to, |_| ());
        // It can be neither read nor written any more.
        let firewall = &mut kernel.state_mut().firewall;
        let (chains, backends) = (firewall.chains.clone(), firewall.backends.clone());
        firewall.chains.clear();
        firewall.backends.clear();
        firewall.unseen = Family::ALL
            .map(|family| Unseen {
                family,
                system: true,
                what: "iptables-save".into(),
                reason: "it is locked".into(),
            })
            .to_vec();
        let report = go_back(&mut kernel, &back, &keyring);
        let guarded = from.as_ref().is_some_and(|from| from.guard == Guard::Both);
        let concerned = guarded || !to.0.chains.is_empty();
        assert_eq!(report.is_restored(), !concerned, "{name}: {:?}", report.unlike);
        if concerned {
            let text = report_text(&report, "", Verb::Revert);
            assert!(text.contains("chains can't be looked at: iptables-save"), "{text}");
        }
        let now = held(&mut kernel);
        assert!((now.sas, now.policies) == (live.0.sas, live.0.policies), "{name}");
        let firewall = &mut kernel.state_mut().firewall;
        (firewall.chains, firewall.backends, firewall.unseen) = (chains, backends, Vec::new());
        assert!(go_back(&mut kernel, &back, &keyring).is_restored(), "{name}");
        assert!(held(&mut kernel).firewall == live.0.firewall, "{name}");
    }
}

#[test]
fn a_look_that_fails_is_tried_again() {
    let (mut kernel, live, (back, keyring)) = on_the_way(Some(&lab(1)), &destroying(), |_| ());
    kernel.fail_looks(2);
    assert!(go_back(&mut kernel, &back, &keyring).is_restored());
    assert!(held(&mut kernel) == State { usage: Vec::new(), ..live.0 });
    kernel.fail_looks(100);
    let report = go_back(&mut kernel, &back, &keyring);
    assert!(report.stopped.is_some() && !report.is_restored());
}

#[test]
fn a_kernel_that_has_lost_a_cipher_takes_back_all_that_needs_none() {
    let all = Config { traffic: Traffic::All, guard: Guard::Off, ..lab(1) };
    let (mut kernel, live, (back, keyring)) = on_the_way(Some(&lab(1)), &wanted(&all), |_| ());
    let (mut other, _, (back_of_destroy, keys)) = on_the_way(Some(&lab(1)), &destroying(), |_| ());
    kernel.lack("rfc4106(gcm(aes))");
    other.lack("rfc4106(gcm(aes))");
    let _ = go_back(&mut kernel, &back, &keyring);
    assert!(held(&mut kernel).policies == live.0.policies, "the policies that cut the host off");
    let report = go_back(&mut other, &back_of_destroy, &keys);
    assert!(!report.is_restored() && !report.failed.is_empty());
    assert!(held(&mut other).policies == live.0.policies, "blocked, and not in the clear");
}

#[test]
fn what_is_protected_stays_so_where_the_guard_that_was_there_can_not_come_back() {
    // The third peer is new, and the guard that blocked packets to it has gone.
    let two = mesh(1, &PEERS[..2]);
    let to = wanted(&Config { guard: Guard::Off, ..lab(1) });
    let (mut kernel, live, (back, keyring)) = on_the_way(Some(&two), &to, |_| ());
    let guards = live.0.policies.iter().filter(|policy| policy.is_guard());
    let last = |guard| Policy { priority: u32::MAX, ..foreign(guard) };
    kernel.state_mut().policies.extend(guards.map(last));
    let report = go_back(&mut kernel, &back, &keyring);
    assert!(!report.is_restored());
    let flow = flow_out(&observe(&mut kernel).0, &packet(PEERS[2]));
    assert_ne!(flow, Flow::Clear);
    let left: Vec<String> = report.left.iter().map(|step| step.id()).collect();
    assert_eq!(left.len(), 2, "the policies in and out of that peer: {left:?}");
}
