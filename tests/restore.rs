//! Taking an apply back: what a host held before comes back, whatever that was.

mod common;

use common::{REQID, VXLAN, applied, applied_host, host, mesh, observe, wanted, wanted_at};
use meshsec::{
    apply::{Goal, Report, apply},
    config::{Config, Esp, LinkWish, Rotation, Select, Traffic},
    desired::{Desired, Keyring},
    kernel::{Errno, Kernel, memory::Memory},
    model::{
        Cipher, Direction, KeyView, Live, Mark, Mtu, Period, Replay, Rule, SaId, Selector, Spi,
        Start, State, Time,
    },
    plan::{ConflictCode, Flow, Plan, flow_out},
    restore::{forget_ended, restore},
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
    let no_guard = Config { guard: false, ..lab(1) };
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
        ("all traffic", Config { traffic: Traffic::All, ..no_guard }),
        ("a link", Config { link: link(Mtu::Auto), ..lab(1) }),
        ("another link", Config { link: link(Mtu::Exactly(1300)), ..lab(1) }),
    ]
}

/// What a host holds but for how far its SAs have come.
fn held(kernel: &mut Memory) -> State {
    State { usage: Vec::new(), ..observe(kernel).0 }
}

/// What takes a plan back.
fn way_back(live: &Live, keys: Keyring, plan: &Plan, to: &Desired) -> (Desired, Keyring) {
    restore(live, keys, plan, to, REQID).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn perform(kernel: &mut Memory, desired: &Desired, keyring: &Keyring) -> Report {
    let plan = Plan::new(desired, &observe(kernel), REQID);
    apply(kernel, &Goal { desired, keyring, reqid: REQID }, &plan, &mut |_| {})
}

fn destroying() -> (Desired, Keyring) {
    (Desired { destroying: true, ..Desired::default() }, Keyring::default())
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
    assert_eq!(report.is_complete(), refused.is_none(), "{name}, {refused:?}");
    let report = perform(&mut kernel, &back, &keyring);
    assert!(report.is_restored(), "{name}, {refused:?}: {} failed", report.failed.len());
    assert_eq!(held(&mut kernel), before, "{name}, {refused:?}");
}

#[test]
fn every_change_of_the_file_can_be_taken_back() {
    for (to, after) in files() {
        let after = wanted(&after);
        there_and_back(&format!("from nothing to {to}"), None, &after, None);
        for (from, before) in files().iter().filter(|(from, _)| *from != to) {
            there_and_back(&format!("from {from} to {to}"), Some(before), &after, None);
        }
    }
}

#[test]
fn a_destroy_can_be_taken_back() {
    for (name, config) in files() {
        there_and_back(name, Some(&config), &destroying(), None);
    }
}

#[test]
fn an_apply_that_failed_anywhere_can_be_taken_back() {
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
    for (from, before) in files().iter().filter(|(_, config)| config.guard) {
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
    let out = SaId::esp(PEERS[1].parse().unwrap(), Spi::from_raw(0x8100_1002));
    for usage in &mut kernel.state_mut().usage {
        (usage.sent, usage.received) = if usage.id == out { (5000, 0) } else { (0, 7000) };
    }
    let live = observe(&mut kernel);
    let to = destroying();
    let plan = Plan::new(&to.0, &live, REQID);
    let (back, keyring) = way_back(&live, wanted(&before).1, &plan, &to.0);
    perform(&mut kernel, &to.0, &to.1);
    assert!(perform(&mut kernel, &back, &keyring).is_restored());
    for usage in observe(&mut kernel).0.usage {
        if usage.id == out {
            assert!(usage.sent > 5000 && usage.sent < 1 << 25, "{}", usage.sent);
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
            kernel.state_mut().sas[0].extras.insert("if_id 0x1".into());
        },
        "it has if_id 0x1",
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
