//! The cases, each on a kernel that holds nothing.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use meshsec::{
    kernel::{Errno, KernelError},
    model::{
        Action, Algorithm, Cipher, Direction, IPPROTO_ESP, Key, KeyView, Level, Mark, Mode,
        Offload, Policy, PolicyId, PortMatch, Prefix, Replay, Reqid, Sa, SaId, Selector, Spi,
        Start, Template,
    },
    plan::{MtuStep, PolicyStep, SaStep, StepKind},
};

use crate::bench::Bench;
pub use crate::chains::{
    a_chain_is_observed_as_it_was_set, a_chain_of_another_name_or_with_other_rules_is_refused,
    deleting_a_chain_takes_what_leads_to_it_and_an_absent_one_is_done,
    setting_a_chain_replaces_it_and_what_leads_to_it,
};
pub use crate::networks::*;
pub use crate::numbers::*;

/// The reqid of the owner that looks.
pub const OURS: Reqid = Reqid(0x4d53_0001);
/// Somebody else's.
pub const FOREIGN: Reqid = Reqid(7);

/// The two ends of an SA, by family.
pub fn ends(ipv6: bool) -> (IpAddr, IpAddr) {
    let parse = |text: &str| text.parse().unwrap();
    if ipv6 {
        (parse("2001:db8::1"), parse("2001:db8::2"))
    } else {
        (parse("192.0.2.1"), parse("192.0.2.2"))
    }
}

/// A key of the right length for a cipher; `seed` tells them apart.
pub fn key(cipher: Cipher, seed: u8) -> Arc<Key> {
    let bytes: Box<[u8]> = (0..cipher.key_len() + 4).map(|i| seed ^ (i as u8 + 1)).collect();
    Arc::new(Key::new(bytes))
}

/// An SA of ours, and its key.
pub fn sa(cipher: Cipher, ipv6: bool, spi: u32) -> (Sa, Arc<Key>) {
    let (src, dst) = ends(ipv6);
    let key = key(cipher, 0x40);
    let sa = Sa {
        id: SaId::esp(dst, Spi::from_raw(spi)),
        src,
        reqid: OURS,
        mode: Mode::Transport,
        selector: Some(Selector::hosts(src, dst)),
        algorithm: cipher.algorithm(),
        key: KeyView::Known(key.fingerprint()),
        replay: Replay { window: 0, esn: false },
        ends: None,
        offload: None,
        encap: None,
        keepalive: None,
        if_id: 0,
        extras: Default::default(),
    };
    (sa, key)
}

fn simple(spi: u32) -> (Sa, Arc<Key>) {
    sa(Cipher::Aes256Gcm, false, spi)
}

/// A policy as a peer has it.
pub fn policy(port: u16, reqid: Reqid) -> Policy {
    let (src, dst) = ends(false);
    Policy {
        id: PolicyId::new(Direction::Out, Selector::hosts(src, dst).to_port(17, port)),
        priority: 1000,
        action: Action::Allow,
        index: None,
        templates: vec![Template::transport(src, dst, Spi::from_raw(0x8400_1002), reqid)],
        extras: Default::default(),
    }
}

fn add_sa((sa, key): (Sa, Arc<Key>)) -> StepKind {
    StepKind::Sa(SaStep::Add { sa, key, start: Start::Fresh })
}

#[track_caller]
fn refused(answer: Result<(), KernelError>, errno: Errno) {
    match answer {
        Err(KernelError::Refused { errno: found, .. }) => assert_eq!(found, errno),
        other => panic!("{other:?} where {errno} was due"),
    }
}

pub fn an_sa_is_observed_as_it_was_added(bench: &mut dyn Bench) {
    let mut added = Vec::new();
    let windows = [(0, false), (32, false), (64, false), (1024, false), (4096, false)];
    let esn = [(1, true), (32, true), (64, true), (1024, true), (4096, true)];
    for cipher in Cipher::ALL {
        for ipv6 in [false, true] {
            for (window, esn) in windows.into_iter().chain(esn) {
                let (mut sa, key) = sa(cipher, ipv6, 0x8000_0000 + added.len() as u32);
                sa.replay = Replay { window, esn };
                // Of one interface, for both families inside.
                if window == 64 {
                    (sa.mode, sa.selector, sa.if_id) = (Mode::Tunnel, None, OURS.0);
                }
                bench.done(add_sa((sa.clone(), key)));
                added.push(sa);
            }
        }
    }
    added.sort_by_key(|sa| sa.id);
    assert_eq!(bench.look().0.sas, added);
}

pub fn a_policy_is_observed_as_it_was_added(bench: &mut dyn Bench) {
    let mut added = Vec::new();
    for direction in [Direction::In, Direction::Out, Direction::Fwd] {
        for ipv6 in [false, true] {
            let (src, dst) = ends(ipv6);
            let any = Selector::between(Prefix::any(src), Prefix::any(dst)).to_port(17, 4789);
            let guard = Policy {
                id: PolicyId::new(direction, any),
                priority: OURS.0,
                action: Action::Block,
                index: None,
                templates: vec![],
                extras: Default::default(),
            };
            let spi = Spi::from_raw(if direction == Direction::Out { 0x8400_1002 } else { 0 });
            let mut template = Template::transport(src, dst, spi, OURS);
            if direction == Direction::Fwd {
                (template.mode, template.level) = (Mode::Tunnel, Level::Use);
            }
            let selector = Selector {
                sport: PortMatch { port: 0x1000, mask: 0xf000 },
                ..Selector::hosts(src, dst)
            };
            let peer = Policy {
                id: PolicyId::new(direction, Selector { proto: 6, ..selector }),
                priority: 1000,
                action: Action::Allow,
                index: None,
                templates: vec![template],
                extras: Default::default(),
            };
            added.extend([guard, peer]);
        }
    }
    for policy in &added {
        bench.done(StepKind::Policy(PolicyStep::Add(policy.clone())));
    }
    added.sort_by_key(|policy| policy.id);
    assert_eq!(bench.look().0.policies, added);
}

pub fn an_sa_without_a_selector_stays_without(bench: &mut dyn Bench) {
    let (mut sa, key) = simple(0x8000_0001);
    sa.selector = None;
    bench.done(add_sa((sa.clone(), key)));
    assert_eq!(bench.look().0.sas, [sa]);
}

pub fn adding_an_sa_twice_is_eexist(bench: &mut dyn Bench) {
    bench.done(add_sa(simple(0x8000_0001)));
    let (mut other, _) = simple(0x8000_0001);
    other.reqid = FOREIGN;
    let text = bench.one(add_sa((other, key(Cipher::Aes256Gcm, 1)))).unwrap_err().to_string();
    assert_eq!(
        text,
        "cannot add SA dst 192.0.2.2 proto esp spi 0x80000001: EEXIST: \
         a foreign SA has this destination and SPI; see CONFLICTS in meshsec-troubleshooting(7)"
    );
    refused(bench.one(add_sa(simple(0x8000_0001))), Errno::EEXIST);
    assert_eq!(bench.look().0.sas, [simple(0x8000_0001).0]);
}

pub fn another_source_is_the_same_sa(bench: &mut dyn Bench) {
    bench.done(add_sa(simple(0x8000_0001)));
    let (mut other, key) = simple(0x8000_0001);
    other.src = Ipv4Addr::new(192, 0, 2, 99).into();
    refused(bench.one(add_sa((other, key))), Errno::EEXIST);
    assert_eq!(bench.look().0.sas, [simple(0x8000_0001).0]);
}

pub fn another_spi_protocol_or_destination_is_another_sa(bench: &mut dyn Bench) {
    let (mut moved, key) = simple(0x8000_0001);
    moved.id.dst = Ipv4Addr::new(192, 0, 2, 99).into();
    bench.done(add_sa(simple(0x8000_0001)));
    bench.done(add_sa(simple(0x8000_0002)));
    bench.done(add_sa((moved, key)));
    bench.done(add_sa(sa(Cipher::Aes128Gcm, true, 0x8000_0001)));
    assert_eq!(bench.look().0.sas.len(), 4);
}

pub fn deleting_what_is_absent_is_done(bench: &mut dyn Bench) {
    let (sa, _) = simple(0x8000_0001);
    bench.done(StepKind::Sa(SaStep::Delete(sa.id)));
    bench.done(StepKind::Sa(SaStep::Delete(SaId { mark: Mark { value: 1, mask: 1 }, ..sa.id })));
    bench.done(StepKind::Policy(PolicyStep::Delete(policy(4789, OURS))));
    bench.done(add_sa(simple(0x8000_0001)));
    bench.done(StepKind::Sa(SaStep::Delete(sa.id)));
    bench.done(StepKind::Sa(SaStep::Delete(sa.id)));
    assert_eq!(bench.look().0.sas, []);
}

pub fn replacing_an_sa_changes_its_key_source_and_window(bench: &mut dyn Bench) {
    bench.done(add_sa(simple(0x8000_0001)));
    let (mut sa, _) = simple(0x8000_0001);
    let key = key(Cipher::Aes128Gcm, 9);
    sa.algorithm = Cipher::Aes128Gcm.algorithm();
    sa.key = KeyView::Known(key.fingerprint());
    sa.src = Ipv4Addr::new(192, 0, 2, 99).into();
    sa.selector = Some(Selector::hosts(sa.src, sa.id.dst));
    sa.replay = Replay { window: 64, esn: true };
    bench.done(StepKind::Sa(SaStep::Replace { sa: sa.clone(), key, start: Start::Fresh }));
    assert_eq!(bench.look().0.sas, [sa]);
}

pub fn replacing_an_absent_sa_adds_it(bench: &mut dyn Bench) {
    let (sa, key) = simple(0x8000_0001);
    bench.done(StepKind::Sa(SaStep::Replace { sa: sa.clone(), key, start: Start::Fresh }));
    assert_eq!(bench.look().0.sas, [sa]);
}

pub fn a_replacement_that_is_refused_leaves_no_sa(bench: &mut dyn Bench) {
    bench.done(add_sa(simple(0x8000_0001)));
    let (mut sa, key) = simple(0x8000_0001);
    sa.replay = Replay { window: 0, esn: true };
    refused(
        bench.one(StepKind::Sa(SaStep::Replace { sa, key, start: Start::Fresh })),
        Errno::EINVAL,
    );
    assert_eq!(bench.look().0.sas, []);
    bench.done(add_sa(simple(0x8000_0001)));
    let (mut sa, key) = simple(0x8000_0001);
    sa.algorithm = Algorithm::Other("crypt cbc(aes)".into());
    refused(
        bench.one(StepKind::Sa(SaStep::Replace { sa, key, start: Start::Fresh })),
        Errno::EINVAL,
    );
    assert_eq!(bench.look().0.sas.len(), 1, "refused before the kernel was asked");
}

pub fn updating_a_policy_replaces_it_whatever_its_priority(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4789, OURS))));
    let mut wanted = policy(4789, OURS);
    wanted.priority = 2000;
    wanted.templates[0].spi = Spi::from_raw(0x8800_1002);
    bench.done(StepKind::Policy(PolicyStep::Update(wanted.clone())));
    assert_eq!(bench.look().0.policies, [wanted]);
}

pub fn updating_an_absent_policy_adds_it(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Update(policy(4789, OURS))));
    assert_eq!(bench.look().0.policies, [policy(4789, OURS)]);
}

pub fn updating_never_takes_over_a_foreign_policy(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4789, FOREIGN))));
    let answer = bench.one(StepKind::Policy(PolicyStep::Update(policy(4789, OURS))));
    assert_eq!(answer, Err(KernelError::Changed(policy(4789, OURS).id.to_string())));
    assert_eq!(bench.look().0.policies, [policy(4789, FOREIGN)]);

    let mut guard = policy(4790, OURS);
    (guard.action, guard.templates, guard.priority) = (Action::Block, vec![], FOREIGN.0);
    bench.done(StepKind::Policy(PolicyStep::Add(guard.clone())));
    let wanted = Policy { priority: OURS.0, ..guard.clone() };
    assert!(matches!(
        bench.one(StepKind::Policy(PolicyStep::Update(wanted))),
        Err(KernelError::Changed(_))
    ));
    let wanted = Policy { action: Action::Allow, ..guard };
    bench.done(StepKind::Policy(PolicyStep::Update(wanted.clone())));
    assert!(bench.look().0.policies.contains(&wanted));
}

pub fn an_index_of_its_own_is_kept(bench: &mut dyn Bench) {
    let ours: Vec<Policy> = Policy::discovery(OURS).collect();
    for policy in &ours {
        bench.done(StepKind::Policy(PolicyStep::Add(policy.clone())));
    }
    let mut sorted = ours.clone();
    sorted.sort_by_key(|policy| policy.id);
    assert_eq!(bench.look().0.policies, sorted);
    let updated = Policy { priority: 5, ..ours[0].clone() };
    bench.done(StepKind::Policy(PolicyStep::Update(updated.clone())));
    assert!(bench.look().0.policies.contains(&updated));
    bench.done(StepKind::Policy(PolicyStep::Delete(updated)));
    assert_eq!(bench.look().0.policies.len(), 3);
}

pub fn an_index_that_is_taken_is_not_kept(bench: &mut dyn Bench) {
    let mut ours = Policy::discovery(OURS);
    let (first, second) = (ours.next().unwrap(), ours.nth(1).unwrap());
    assert_eq!(first.id.direction, second.id.direction);
    bench.done(StepKind::Policy(PolicyStep::Add(first.clone())));
    bench.done(StepKind::Policy(PolicyStep::Add(Policy { index: first.index, ..second.clone() })));
    let live = bench.look().0.policies;
    let indexes: Vec<_> = live.iter().map(|policy| policy.index).collect();
    assert!(indexes.contains(&first.index) && indexes.contains(&None), "{live:?}");
    // The policy there under the selector is not ours, and is left alone.
    assert!(bench.one(StepKind::Policy(PolicyStep::Update(second))).is_err());
    assert_eq!(bench.look().0.policies, live);
}

pub fn adding_a_policy_twice_is_eexist_and_leaves_the_first(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4789, FOREIGN))));
    let text =
        bench.one(StepKind::Policy(PolicyStep::Add(policy(4789, OURS)))).unwrap_err().to_string();
    assert_eq!(
        text,
        "cannot add policy src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 4789 dir out: \
         EEXIST: a policy with this selector and direction exists; see CONFLICTS in meshsec-troubleshooting(7)"
    );
    assert_eq!(bench.look().0.policies, [policy(4789, FOREIGN)]);
}

pub fn the_priority_is_no_part_of_a_policys_identity(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4789, OURS))));
    let other = Policy { priority: 1, ..policy(4789, OURS) };
    refused(bench.one(StepKind::Policy(PolicyStep::Add(other))), Errno::EEXIST);
}

pub fn mark_interface_and_direction_are_part_of_it(bench: &mut dyn Bench) {
    let plain = policy(4789, OURS);
    let with = |change: fn(&mut PolicyId)| {
        let mut policy = plain.clone();
        change(&mut policy.id);
        policy
    };
    let mut all = vec![
        plain.clone(),
        with(|id| id.mark = Mark { value: 1, mask: 0xff }),
        with(|id| id.if_id = 5),
        with(|id| id.direction = Direction::In),
        with(|id| id.direction = Direction::Fwd),
    ];
    for policy in &all {
        bench.done(StepKind::Policy(PolicyStep::Add(policy.clone())));
    }
    all.sort_by_key(|policy| policy.id);
    assert_eq!(bench.look().0.policies, all);
    for index in (0..all.len()).rev() {
        bench.done(StepKind::Policy(PolicyStep::Delete(all.remove(index))));
        assert_eq!(bench.look().0.policies, all);
    }
}

pub fn a_changed_policy_is_not_deleted(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4789, FOREIGN))));
    let answer = bench.one(StepKind::Policy(PolicyStep::Delete(policy(4789, OURS))));
    assert_eq!(answer, Err(KernelError::Changed(policy(4789, OURS).id.to_string())));
    assert_eq!(bench.look().0.policies, [policy(4789, FOREIGN)]);
}

pub fn a_policy_that_is_as_expected_is_deleted(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4789, OURS))));
    bench.done(StepKind::Policy(PolicyStep::Add(policy(4790, OURS))));
    bench.done(StepKind::Policy(PolicyStep::Delete(policy(4789, OURS))));
    assert_eq!(bench.look().0.policies, [policy(4790, OURS)]);
}

pub fn a_batch_goes_on_after_a_refusal_and_answers_in_order(bench: &mut dyn Bench) {
    bench.done(StepKind::Policy(PolicyStep::Add(policy(1, FOREIGN))));
    let answers = bench.all(vec![
        add_sa(simple(0x8000_0001)),
        StepKind::Policy(PolicyStep::Add(policy(1, OURS))),
        add_sa(simple(0x8000_0001)),
        StepKind::Policy(PolicyStep::Delete(policy(1, OURS))),
        StepKind::Sa(SaStep::Delete(simple(0x8000_0009).0.id)),
        add_sa(simple(0x8000_0002)),
        StepKind::Policy(PolicyStep::Add(policy(2, OURS))),
    ]);
    let done: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, false, false, true, true, true]);
    let live = bench.look().0;
    assert_eq!((live.sas.len(), live.policies.len()), (2, 2));
}

pub fn answers_are_in_order_over_several_windows(bench: &mut dyn Bench) {
    for port in [3, 130, 299] {
        bench.done(StepKind::Policy(PolicyStep::Add(policy(port, FOREIGN))));
    }
    let add = |port| StepKind::Policy(PolicyStep::Add(policy(port, OURS)));
    let failed = |answers: Vec<Result<(), KernelError>>| {
        let failed = answers.iter().enumerate().filter(|(_, answer)| answer.is_err());
        failed.map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert_eq!(failed(bench.all((0..300).map(add).collect())), [3, 130, 299]);
    let update =
        |port| StepKind::Policy(PolicyStep::Update(Policy { priority: 5, ..policy(port, OURS) }));
    assert_eq!(failed(bench.all((0..300).map(update).collect())), [3, 130, 299]);
    let delete =
        |port| StepKind::Policy(PolicyStep::Delete(Policy { priority: 5, ..policy(port, OURS) }));
    assert_eq!(failed(bench.all((0..300).map(delete).collect())), [3, 130, 299]);
    assert_eq!(bench.look().0.policies.len(), 3);
}

pub fn pairs_are_not_parted_by_the_end_of_a_window(bench: &mut dyn Bench) {
    let replace = |seed: u8| {
        move |spi: u32| {
            let (mut sa, _) = simple(0x8000_0000 + spi);
            let key = key(Cipher::Aes256Gcm, seed);
            sa.key = KeyView::Known(key.fingerprint());
            StepKind::Sa(SaStep::Replace { sa, key, start: Start::Fresh })
        }
    };
    let first = std::iter::once(add_sa(simple(0x9000_0000)));
    assert!(bench.all(first.chain((0..300).map(replace(1))).collect()).iter().all(Result::is_ok));
    assert!(bench.all((0..300).map(replace(2)).collect()).iter().all(Result::is_ok));
    let fingerprint = KeyView::Known(key(Cipher::Aes256Gcm, 2).fingerprint());
    let live = bench.look().0.sas;
    assert_eq!(live.iter().filter(|sa| sa.key == fingerprint).count(), 300);
}

pub fn a_wait_between_steps_is_waited(bench: &mut dyn Bench) {
    let begin = Instant::now();
    let wait = StepKind::Wait(Duration::from_millis(20));
    let steps = vec![add_sa(simple(0x8000_0001)), wait, add_sa(simple(0x8000_0002))];
    assert!(bench.all(steps).iter().all(Result::is_ok));
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(bench.look().0.sas.len(), 2);
}

fn set_mtu(mtu: u32) -> StepKind {
    StepKind::Mtu(MtuStep { device: "vxlan42".into(), mtu })
}

pub fn a_devices_mtu_is_set_and_observed(bench: &mut dyn Bench) {
    bench.plant_device("vxlan42");
    for mtu in [1416, 68, 65535] {
        let answers = bench.all(vec![add_sa(simple(0x8400_1000 + mtu)), set_mtu(mtu)]);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(bench.look().0.link("vxlan42").unwrap().mtu, mtu);
    }
}

pub fn an_mtu_that_no_device_takes_is_einval(bench: &mut dyn Bench) {
    bench.plant_device("vxlan42");
    let before = bench.look();
    for mtu in [0, 67, 65536, u32::MAX] {
        refused(bench.one(set_mtu(mtu)), Errno::EINVAL);
    }
    assert_eq!(bench.look(), before);
}

pub fn an_mtu_of_an_absent_device_is_enodev(bench: &mut dyn Bench) {
    refused(bench.one(set_mtu(1416)), Errno::ENODEV);
}

fn offloaded(spi: u32, device: &str) -> StepKind {
    let (sa, key) = simple(spi);
    add_sa((Sa { offload: Some(Offload { device: device.into(), inbound: false }), ..sa }, key))
}

pub fn an_offload_that_a_device_can_not_do_is_dropped(bench: &mut dyn Bench) {
    bench.plant_device("vxlan42");
    bench.done(offloaded(0x8400_1002, "vxlan42"));
    assert_eq!(bench.look().0.sas, [simple(0x8400_1002).0], "it is there, and not offloaded");
}

pub fn an_offload_to_an_absent_device_is_enodev(bench: &mut dyn Bench) {
    refused(bench.one(offloaded(0x8400_1002, "vxlan42")), Errno::ENODEV);
    assert!(bench.look().0.sas.is_empty());
}

pub fn esn_without_a_window_is_einval(bench: &mut dyn Bench) {
    let (mut sa, key) = simple(0x8000_0001);
    sa.replay = Replay { window: 0, esn: true };
    refused(bench.one(add_sa((sa, key))), Errno::EINVAL);
    assert_eq!(bench.look().0.sas, []);
}

pub fn a_window_above_4096_is_einval(bench: &mut dyn Bench) {
    for window in [4097, 8192, u32::MAX] {
        for esn in [false, true] {
            let (mut sa, key) = simple(0x8000_0001);
            sa.replay = Replay { window, esn };
            refused(bench.one(add_sa((sa, key))), Errno::EINVAL);
        }
    }
    assert_eq!(bench.look().0.sas, []);
}

pub fn more_than_six_templates_are_einval(bench: &mut dyn Bench) {
    let mut wanted = policy(4789, OURS);
    wanted.templates = vec![wanted.templates[0]; 6];
    bench.done(StepKind::Policy(PolicyStep::Add(wanted.clone())));
    assert_eq!(bench.look().0.policies, [wanted.clone()]);
    wanted.templates.push(wanted.templates[0]);
    refused(bench.one(StepKind::Policy(PolicyStep::Update(wanted))), Errno::EINVAL);
}

pub fn what_no_step_can_express_is_refused(bench: &mut dyn Bench) {
    let change = |change: fn(&mut Sa)| {
        let (mut sa, key) = simple(0x8000_0001);
        change(&mut sa);
        add_sa((sa, key))
    };
    for step in [
        change(|sa| sa.algorithm = Algorithm::Larval),
        change(|sa| sa.algorithm = Algorithm::Other("crypt cbc(aes)".into())),
        change(|sa| _ = sa.extras.insert("tfcpad 64".into())),
        change(|sa| sa.id.mark = Mark { value: 1, mask: 1 }),
    ] {
        refused(bench.one(step), Errno::EINVAL);
    }
    let mut wanted = policy(4789, OURS);
    wanted.extras.insert("flag localok".into());
    refused(bench.one(StepKind::Policy(PolicyStep::Add(wanted.clone()))), Errno::EINVAL);
    refused(bench.one(StepKind::Policy(PolicyStep::Update(wanted))), Errno::EINVAL);
    let live = bench.look().0;
    assert_eq!((live.sas.len(), live.policies.len()), (0, 0));
}

pub fn a_key_of_the_wrong_length_is_refused(bench: &mut dyn Bench) {
    let (sa, _) = simple(0x8000_0001);
    let answer = bench.one(add_sa((sa, key(Cipher::Aes128Gcm, 1))));
    refused(answer, Errno::EINVAL);
    assert_eq!(bench.look().0.sas, []);
}

pub fn foreign_keys_have_no_fingerprint(bench: &mut dyn Bench) {
    let (ours, key) = simple(0x8000_0001);
    let (mut foreign, _) = simple(0x8000_0002);
    foreign.reqid = FOREIGN;
    bench.done(add_sa((ours.clone(), key.clone())));
    bench.done(add_sa((foreign.clone(), key.clone())));
    let seen = bench.kernel().observe(OURS).unwrap().0.sas;
    assert_eq!(seen[0].key, KeyView::Known(key.fingerprint()));
    assert_eq!(seen[1].key, KeyView::Unknown);
    let seen = bench.kernel().observe(FOREIGN).unwrap().0.sas;
    assert_eq!(seen[0].key, KeyView::Unknown);
    assert_eq!(seen[1].key, KeyView::Known(key.fingerprint()));
}

pub fn a_larval_sa_of_ours_is_taken_over(bench: &mut dyn Bench) {
    for (index, replace) in [(1, false), (2, true)] {
        let (mut sa, key) = simple(0x8000_0000 + index);
        sa.replay = Replay { window: 64, esn: true };
        bench.plant_larval(sa.src, sa.id, OURS);
        let found = bench.look().0.sas;
        assert!(found.iter().any(|found| found.id == sa.id && found.is_larval()), "{found:?}");
        bench.done(match replace {
            false => add_sa((sa.clone(), key)),
            true => StepKind::Sa(SaStep::Replace { sa: sa.clone(), key, start: Start::Fresh }),
        });
        let found = bench.look().0.sas;
        assert_eq!(found.iter().filter(|found| found.id == sa.id).collect::<Vec<_>>(), [&sa]);
    }
}

pub fn a_foreign_larval_sa_is_left_alone(bench: &mut dyn Bench) {
    let (sa, key) = simple(0x8000_0001);
    bench.plant_larval(sa.src, sa.id, FOREIGN);
    refused(bench.one(add_sa((sa.clone(), key))), Errno::EEXIST);
    let found = bench.look().0.sas;
    assert!(found.len() == 1 && found[0].is_larval() && found[0].reqid == FOREIGN, "{found:?}");
    assert_eq!((found[0].id.proto, found[0].src), (IPPROTO_ESP, sa.src));
}

pub fn thousands_are_observed_whole_and_sorted(bench: &mut dyn Bench) {
    let mut sas = Vec::new();
    let mut policies = Vec::new();
    let mut steps = Vec::new();
    for number in 0..1000u32 {
        let (mut sa, key) = sa(Cipher::ALL[0], number % 2 == 1, 0x8000_0000 + number);
        sa.replay = Replay { window: 1024, esn: true };
        let (src, dst) = (sa.src, IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)));
        let dst = if src.is_ipv4() { dst } else { sa.id.dst };
        sa.id.dst = dst;
        let policy = policy(number as u16, OURS);
        steps
            .extend([add_sa((sa.clone(), key)), StepKind::Policy(PolicyStep::Add(policy.clone()))]);
        sas.push(sa);
        policies.push(policy);
    }
    assert!(bench.all(steps).iter().all(Result::is_ok));
    sas.sort_by_key(|sa| sa.id);
    policies.sort_by_key(|policy| policy.id);
    let live = bench.look().0;
    assert_eq!(live.sas.len(), sas.len());
    assert!(live.sas == sas && live.policies == policies);
    let deletes = sas.iter().map(|sa| StepKind::Sa(SaStep::Delete(sa.id)));
    let deletes = deletes
        .chain(policies.into_iter().map(|policy| StepKind::Policy(PolicyStep::Delete(policy))));
    assert!(bench.all(deletes.collect()).iter().all(Result::is_ok));
    let live = bench.look().0;
    assert_eq!((live.sas.len(), live.policies.len()), (0, 0));
}
