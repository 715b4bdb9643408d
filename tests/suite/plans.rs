//! Golden plans: a host on which a mesh of three was applied, one thing that
//! is not as it was, and the plan that follows.
//!
//! `UPDATE_GOLDEN=1 cargo test --test plans` writes the files anew; read the
//! difference before you commit it.

mod bypasses;
mod encap;
mod exceptions;
mod extents;
mod in_the_way;
mod layout;
mod lifetimes;
mod marks;
mod pairs;
mod policies;
mod ports;
mod stages;
mod tunnels;
mod undo;
mod ways;

use std::collections::BTreeSet;

use crate::common::{address, applied, applied_host, host, mesh};
use crate::golden_plans::golden;
use meshsec::{
    config::{Config, Esp, Guard, Ports, Protocol, Rotation, Traffic},
    kernel::memory::Memory,
    model::{
        Action, Algorithm, Bypass, Cipher, Direction, Fingerprint, KeyView, Level, Mark, Mode,
        Period, Policy, PolicyId, Prefix, Replay, Reqid, Sa, SaId, Selector, Spi, State, Template,
        Time,
    },
};

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

fn lab() -> Config {
    mesh(1, &LAB)
}

/// A golden plan for the lab after an edit of the kernel's state.
fn edited(name: &str, edit: impl FnOnce(&mut State)) {
    let mut kernel = applied_host(&lab());
    edit(kernel.state_mut());
    golden(name, &lab(), &mut kernel);
}

fn sa(state: &mut State, spi: u32) -> &mut Sa {
    state.sas.iter_mut().find(|sa| sa.id.spi == Spi::from_raw(spi)).unwrap()
}

fn policy<'a>(state: &'a mut State, direction: Direction, peer: &str) -> &'a mut Policy {
    let host = Prefix::host(peer.parse().unwrap());
    state
        .policies
        .iter_mut()
        .find(|policy| {
            let selector = policy.id.selector;
            policy.id.direction == direction && (selector.src == host || selector.dst == host)
        })
        .unwrap()
}

fn guard(state: &mut State, direction: Direction) -> &mut Policy {
    state
        .policies
        .iter_mut()
        .find(|policy| {
            policy.templates.is_empty()
                && policy.id.direction == direction
                && policy.id.selector.is_ipv4()
        })
        .unwrap()
}

fn foreign_allow(direction: Direction, selector: Selector, priority: u32) -> Policy {
    Policy {
        id: PolicyId::new(direction, selector),
        priority,
        action: Action::Allow,
        index: None,
        templates: Vec::new(),
        extras: BTreeSet::new(),
    }
}

fn foreign_sa(dst: &str, spi: u32, reqid: u32) -> Sa {
    let src = "203.0.113.9".parse().unwrap();
    Sa {
        id: SaId::esp(dst.parse().unwrap(), Spi::from_raw(spi)),
        src,
        reqid: Reqid(reqid),
        mode: Mode::Tunnel,
        selector: None,
        algorithm: Cipher::Aes256Gcm.algorithm(),
        key: KeyView::Unknown,
        replay: Replay { window: 32, esn: false },
        ends: None,
        offload: None,
        encap: None,
        keepalive: None,
        if_id: 0,
        extras: BTreeSet::new(),
    }
}

#[test]
fn an_empty_host() {
    golden("an-empty-host", &lab(), &mut host(&lab()));
}

#[test]
fn generation_0_has_none_before_it() {
    let config = mesh(0, &LAB[..2]);
    golden("generation-0-has-none-before-it", &config, &mut host(&config));
}

/// Two peers with generations by the clock, an hour each.
fn by_the_clock() -> Config {
    let replay = Replay { window: 1024, esn: true };
    let esp = Esp { replay, ..mesh(1, &LAB[..2]).esp };
    let rotation = Rotation::Period(Period::new(3600).unwrap());
    Config { rotation, esp, ..mesh(1, &LAB[..2]) }
}

/// A host of that mesh at 2026-01-16 13:30 UTC, in generation 491,269.
fn host_at_half_past(applied: bool) -> Memory {
    let mut kernel = host(&by_the_clock());
    kernel.set_now(Time::from_seconds(1_768_570_200));
    if applied {
        assert!(crate::common::applied(&by_the_clock(), &mut kernel).is_complete());
    }
    kernel
}

#[test]
fn the_clock_says_which_generation_it_is() {
    let mut kernel = host_at_half_past(false);
    golden("the-clock-says-which-generation-it-is", &by_the_clock(), &mut kernel);
}

#[test]
fn the_clock_says_that_the_next_has_begun() {
    let mut kernel = host_at_half_past(true);
    kernel.set_now(Time::from_seconds(1_768_572_000));
    golden("the-clock-says-that-the-next-has-begun", &by_the_clock(), &mut kernel);
}

#[test]
fn the_clock_jumps_by_some_periods() {
    let mut kernel = host_at_half_past(true);
    kernel.set_now(Time::from_seconds(1_768_570_200 - 5 * 3600));
    golden("the-clock-jumps-by-some-periods", &by_the_clock(), &mut kernel);
}

/// While its clock is a period ahead a host sends under the generation to come, and its peers keep
/// that window. When that comes, numbers must not begin anew.
#[test]
fn a_clock_that_was_ahead_for_a_while_leaves_no_number_to_be_refused() {
    let config = by_the_clock();
    let mut kernel = host_at_half_past(true);
    let half_past = kernel.now().seconds();
    let outbound = |kernel: &Memory| {
        let spi = Spi::from_raw(0x8000_1002 | (491_270 % 32) << 26);
        kernel.state().usage.iter().find(|usage| usage.id.spi == spi).map(|usage| usage.sent)
    };
    kernel.set_now(Time::from_seconds(half_past + 3600));
    assert!(crate::common::applied(&config, &mut kernel).is_complete());
    let ahead = outbound(&kernel).unwrap();
    assert!(ahead > 1 << 29, "half of the generation has passed, by that clock");
    for seconds in [half_past + 60, half_past + 120, half_past + 1801] {
        kernel.set_now(Time::from_seconds(seconds));
        assert!(crate::common::applied(&config, &mut kernel).is_complete());
        assert!(crate::common::plan(&config, &mut kernel).is_empty());
        assert_eq!(outbound(&kernel), Some(ahead), "at {seconds}");
    }
    kernel.set_now(Time::from_seconds(half_past + 1801 + 3600));
    assert!(crate::common::applied(&config, &mut kernel).is_complete());
    assert_eq!(outbound(&kernel), None, "it goes with its generation");
}

#[test]
fn a_short_id_changes() {
    let mut config = mesh(1, &LAB[..2]);
    let mut kernel = applied_host(&config);
    config.peers[0].short_id = meshsec::model::ShortId::new(9).unwrap();
    golden("a-short-id-changes", &config, &mut kernel);
}

#[test]
fn the_generation_goes_back_behind_a_window() {
    let mut config = mesh(2, &LAB[..2]);
    config.esp.replay = Replay { window: 64, esn: true };
    let mut kernel = applied_host(&config);
    config.rotation = Rotation::Generation(meshsec::model::Generation::new(1).unwrap());
    golden("the-generation-goes-back-behind-a-window", &config, &mut kernel);
}

#[test]
fn a_lifetime_was_changed() {
    let mut kernel = host_at_half_past(true);
    let spi = Spi::from_raw(0x8000_1002 | (491_269 % 32) << 26);
    let changed = sa(kernel.state_mut(), spi.raw());
    changed.ends = changed.ends.map(|end| Time::from_seconds(end.seconds() - 60));
    golden("a-lifetime-was-changed", &by_the_clock(), &mut kernel);
}

#[test]
fn a_lifetime_that_rounding_moved_is_no_difference() {
    let mut kernel = host_at_half_past(true);
    for sa in &mut kernel.state_mut().sas {
        sa.ends = sa.ends.map(|end| Time::from_seconds(end.seconds() + 2));
    }
    assert!(crate::common::plan(&by_the_clock(), &mut kernel).is_empty());
}

#[test]
fn more_is_sent_than_the_period_allows() {
    let mut kernel = host_at_half_past(true);
    for usage in &mut kernel.state_mut().usage {
        usage.sent += (1 << 20) + 1;
    }
    golden("more-is-sent-than-the-period-allows", &by_the_clock(), &mut kernel);
}

#[test]
fn nothing_differs() {
    edited("nothing-differs", |_| {});
}

#[test]
fn peers_of_both_families() {
    let config = mesh(1, &["192.0.2.1", "192.0.2.2", "2001:db8::3", "2001:db8::4"]);
    golden("peers-of-both-families", &config, &mut host(&config));
}

#[test]
fn an_ipv6_mesh() {
    let config = mesh(1, &["2001:db8::1", "2001:db8::2"]);
    golden("an-ipv6-mesh", &config, &mut host(&config));
}

#[test]
fn the_generation_is_raised() {
    golden("the-generation-is-raised", &mesh(2, &LAB), &mut applied_host(&lab()));
}

#[test]
fn the_generation_is_raised_by_two() {
    golden("the-generation-is-raised-by-two", &mesh(3, &LAB), &mut applied_host(&lab()));
}

#[test]
fn a_peer_is_added() {
    let mut kernel = applied_host(&mesh(1, &LAB[..2]));
    kernel.state_mut().routes = host(&lab()).state().routes.clone();
    golden("a-peer-is-added", &lab(), &mut kernel);
}

#[test]
fn a_peer_is_removed() {
    golden("a-peer-is-removed", &mesh(1, &LAB[..2]), &mut applied_host(&lab()));
}

#[test]
fn a_peer_is_removed_and_there_is_no_guard() {
    let unguarded = |peers| Config { guard: Guard::Off, ..mesh(1, peers) };
    let mut kernel = applied_host(&unguarded(&LAB));
    golden("a-peer-is-removed-and-there-is-no-guard", &unguarded(&LAB[..2]), &mut kernel);
}

#[test]
fn the_guard_is_turned_off() {
    let config = Config { guard: Guard::Off, ..lab() };
    golden("the-guard-is-turned-off", &config, &mut applied_host(&lab()));
}

#[test]
fn the_port_changes() {
    let config = Config { traffic: Traffic::Vxlan { port: 8472 }, ..lab() };
    golden("the-port-changes", &config, &mut applied_host(&lab()));
}

#[test]
fn the_cipher_changes() {
    let mut config = lab();
    config.esp.cipher = Cipher::Aes128Gcm;
    golden("the-cipher-changes", &config, &mut applied_host(&lab()));
}

#[test]
fn a_key_was_changed() {
    edited("a-key-was-changed", |state| {
        sa(state, 0x8400_1002).key = KeyView::Known(Fingerprint::of(b"another"));
    });
}

/// Beside what differs.
#[test]
fn a_key_that_the_kernel_hides_is_not_told_as_another() {
    let mut kernel = applied_host(&lab());
    let sa = sa(kernel.state_mut(), 0x8400_1002);
    (sa.key, sa.replay.window) = (KeyView::Unknown, 99);
    let changes = crate::common::plan(&lab(), &mut kernel).changes;
    let names: Vec<&str> = changes[0].fields().iter().map(|field| field.name).collect();
    assert_eq!(names, ["replay_window"]);
}

#[test]
fn a_key_that_the_kernel_hides_is_no_difference() {
    edited("a-key-that-the-kernel-hides-is-no-difference", |state| {
        state.sas.iter_mut().for_each(|sa| sa.key = KeyView::Unknown);
    });
}

#[test]
fn a_window_was_changed() {
    edited("a-window-was-changed", |state| {
        sa(state, 0x8400_2001).replay = Replay { window: 32, esn: false };
    });
}

#[test]
fn a_selector_was_dropped() {
    edited("a-selector-was-dropped", |state| sa(state, 0x8400_2001).selector = None);
}

#[test]
fn an_sa_is_missing() {
    edited("an-sa-is-missing", |state| {
        state.sas.retain(|sa| sa.id.spi != Spi::from_raw(0x8400_1002));
    });
}

#[test]
fn an_sa_is_larval() {
    edited("an-sa-is-larval", |state| {
        let larval = sa(state, 0x8400_1002);
        larval.algorithm = Algorithm::Larval;
        larval.key = KeyView::Unknown;
        larval.selector = None;
    });
}

#[test]
fn an_sa_has_an_if_id() {
    edited("an-sa-has-an-if-id", |state| {
        sa(state, 0x8400_1002).if_id = 7;
    });
}

#[test]
fn an_sa_has_a_marked_twin() {
    edited("an-sa-has-a-marked-twin", |state| {
        let mut twin = sa(state, 0x8400_1002).clone();
        twin.id.mark = Mark { value: 1, mask: 1 };
        state.sas.push(twin);
    });
}

#[test]
fn an_sa_of_an_old_generation_is_left() {
    edited("an-sa-of-an-old-generation-is-left", |state| {
        let mut old = sa(state, 0x8000_2001).clone();
        old.id.spi = Spi::from_raw(0xfc00_2001);
        state.sas.push(old);
    });
}

#[test]
fn a_policy_has_another_priority() {
    edited("a-policy-has-another-priority", |state| {
        policy(state, Direction::Out, "192.0.2.2").priority = 5000;
    });
}

#[test]
fn a_policy_sends_under_another_spi() {
    edited("a-policy-sends-under-another-spi", |state| {
        policy(state, Direction::Out, "192.0.2.2").templates[0].spi = Spi::from_raw(0x8000_1002);
    });
}

#[test]
fn a_policy_lets_clear_text_pass() {
    edited("a-policy-lets-clear-text-pass", |state| {
        policy(state, Direction::Out, "192.0.2.2").templates[0].level = Level::Use;
    });
}

#[test]
fn a_policy_has_two_templates() {
    edited("a-policy-has-two-templates", |state| {
        let policy = policy(state, Direction::In, "192.0.2.2");
        policy.templates.push(policy.templates[0]);
    });
}

#[test]
fn a_policy_of_ours_has_a_mark() {
    edited("a-policy-of-ours-has-a-mark", |state| {
        let mut marked = policy(state, Direction::Out, "192.0.2.2").clone();
        marked.id.mark = Mark { value: 5, mask: 0xff };
        state.policies.push(marked);
    });
}

#[test]
fn a_guard_lets_all_pass() {
    edited("a-guard-lets-all-pass", |state| guard(state, Direction::Out).action = Action::Allow);
}

#[test]
fn everything_was_flushed() {
    edited("everything-was-flushed", |state| {
        state.sas.clear();
        state.policies.clear();
    });
}

#[test]
fn a_foreign_sa_has_our_spi() {
    let mut kernel = host(&lab());
    kernel.state_mut().sas.push(foreign_sa("192.0.2.2", 0x8400_1002, 7));
    golden("a-foreign-sa-has-our-spi", &lab(), &mut kernel);
}

#[test]
fn another_mesh_has_our_spi() {
    let mut kernel = host(&lab());
    kernel.state_mut().sas.push(foreign_sa("192.0.2.2", 0x8400_1002, 0x4d53_beef));
    golden("another-mesh-has-our-spi", &lab(), &mut kernel);
}

#[test]
fn a_foreign_policy_has_our_selector() {
    let hosts = Selector::hosts("192.0.2.1".parse().unwrap(), "192.0.2.3".parse().unwrap());
    let mut theirs = foreign_allow(Direction::Out, hosts.to_port(17, 4789), 2000);
    let (src, dst) = (hosts.src.address, hosts.dst.address);
    theirs.templates.push(Template::transport(src, dst, Spi::from_raw(0), Reqid(9)));
    let mut kernel = host(&lab());
    kernel.state_mut().policies.push(theirs);
    golden("a-foreign-policy-has-our-selector", &lab(), &mut kernel);
}

#[test]
fn a_foreign_policy_outranks_ours_in_clear() {
    let net = |text: &str| Prefix { address: text.parse().unwrap(), length: 30 };
    let selector = Selector::between(net("192.0.2.0"), net("192.0.2.0"));
    edited("a-foreign-policy-outranks-ours-in-clear", |state| {
        state.policies.push(foreign_allow(Direction::Out, selector, 100));
    });
}

#[test]
fn a_foreign_policy_between_two_peers_stops_one() {
    let hosts = Selector::hosts("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let mut kernel = host(&lab());
    kernel.state_mut().policies.push(foreign_allow(Direction::Out, hosts, 10));
    golden("a-foreign-policy-between-two-peers-stops-one", &lab(), &mut kernel);
}

#[test]
fn a_foreign_policy_outranks_the_guard_in_clear() {
    let any = Prefix::any("0.0.0.0".parse().unwrap());
    edited("a-foreign-policy-outranks-the-guard-in-clear", |state| {
        state.policies.push(foreign_allow(Direction::In, Selector::between(any, any), 175_423));
    });
}

#[test]
fn a_foreign_policy_behind_the_guard_is_harmless() {
    let any = Prefix::any("0.0.0.0".parse().unwrap());
    edited("a-foreign-policy-behind-the-guard-is-harmless", |state| {
        let last = foreign_allow(Direction::Out, Selector::between(any, any), u32::MAX);
        state.policies.push(last);
        state.sas.push(foreign_sa("192.0.2.1", 0xc000_0001, 3));
    });
}

#[test]
fn a_foreign_block_policy_outranks_ours() {
    let any = Prefix::any("0.0.0.0".parse().unwrap());
    edited("a-foreign-block-policy-outranks-ours", |state| {
        let mut block = foreign_allow(Direction::Out, Selector::between(any, any), 10);
        block.action = Action::Block;
        state.policies.push(block);
    });
}

#[test]
fn a_marked_foreign_policy_outranks_ours_for_its_packets() {
    let any = Prefix::any("0.0.0.0".parse().unwrap());
    edited("a-marked-foreign-policy-outranks-ours", |state| {
        let mut block = foreign_allow(Direction::Out, Selector::between(any, any), 10);
        block.action = Action::Block;
        block.id.mark = Mark { value: 0xd00, mask: 0xf00 };
        state.policies.push(block);
    });
}

/// Policies out and in by which another program protects traffic between two addresses.
fn foreign_protection(there: &str) -> [Policy; 2] {
    let [a, b] = [LAB[0], there].map(|address| address.parse().unwrap());
    [(Direction::Out, a, b), (Direction::In, b, a)].map(|(direction, src, dst)| {
        let selector = Selector::hosts(src, dst).to_port(17, 4789);
        let templates = vec![Template::transport(src, dst, Spi::from_raw(0), Reqid(13_681_891))];
        Policy { templates, ..foreign_allow(direction, selector, 7) }
    })
}

/// As of Docker Swarm, with networks on the same port, or of another mesh: with a peer, and with a
/// host that is not one.
#[test]
fn the_second_guard_drops_what_foreign_policies_protect() {
    let mut others = Vec::from(foreign_protection("192.0.2.2"));
    others.extend(foreign_protection("192.0.2.77"));
    // With a mark they have another identity than those of the mesh.
    others.iter_mut().for_each(|policy| policy.id.mark = Mark { value: 0xd0, mask: 0xff });
    edited("the-second-guard-drops-what-foreign-policies-protect", |state| {
        state.policies.extend(others.clone());
    });
    let codes = |config: &Config| {
        let mut kernel = applied_host(config);
        kernel.state_mut().policies.extend(others.clone());
        let plan = crate::common::plan(config, &mut kernel);
        let codes = plan.warnings.iter().map(|warning| warning.code.word());
        let texts = plan.warnings.iter().filter(|warning| warning.text.contains("drop what it"));
        (codes.collect::<Vec<_>>(), texts.count())
    };
    let [told, drops] = ["outranked", "second-guard-drops"];
    assert_eq!(codes(&lab()), (vec![told, told, drops, drops], 4));
    let policies_alone = Config { guard: Guard::Policies, ..lab() };
    assert_eq!(codes(&policies_alone), (vec![told, told], 0));
    let other_port = Config { traffic: Traffic::Vxlan { port: 4790 }, ..lab() };
    assert_eq!(codes(&other_port), (vec![], 0));
}

#[test]
fn the_device_bypasses_policies() {
    edited("the-device-bypasses-policies", |state| {
        let bypass = |device: &str, ipv6, name: &str| Bypass {
            device: device.into(),
            ipv6,
            name: name.into(),
        };
        state.addresses.push(address("127.0.0.1".parse().unwrap()));
        state.bypasses.push(bypass("eth0", false, "disable_policy"));
        state.bypasses.push(bypass("all", false, "disable_xfrm"));
        state.bypasses.push(bypass("lo", false, "disable_xfrm"));
        state.bypasses.push(bypass("eth7", false, "disable_xfrm"));
    });
}

#[test]
fn a_cipher_that_the_kernel_lacks_is_found_out_before_anything_changes() {
    let mut config = lab();
    config.esp.cipher = Cipher::ChaCha20Poly1305;
    let mut kernel = applied_host(&lab());
    kernel.lack("rfc7539esp(chacha20,poly1305)");
    let before = kernel.state().clone();
    let report = crate::common::applied(&config, &mut kernel);
    assert!(report.done.is_empty() && !report.changed_anything());
    assert!(report.stopped.unwrap().to_string().contains("ENOSYS"));
    assert_eq!(*kernel.state(), before);
}

#[test]
fn a_probe_that_a_killed_run_left_behind_goes() {
    edited("a-probe-that-a-killed-run-left-behind-goes", |state| {
        let mut probe = sa(state, 0x8000_2001).clone();
        probe.id.spi = Spi::from_raw(0x8000_1001);
        probe.src = "192.0.2.2".parse().unwrap();
        state.sas.push(probe);
        state.sas.retain(|sa| sa.id.spi != Spi::from_raw(0x8000_2001));
    });
}

#[test]
fn geneve() {
    let config = Config { traffic: Traffic::Geneve { port: 6081 }, ..mesh(1, &LAB[..2]) };
    golden("geneve", &config, &mut host(&config));
}

#[test]
fn a_port_of_tcp_both_ways() {
    let traffic = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::one(443) };
    let config = Config { traffic, guard: Guard::Off, ..mesh(1, &LAB[..2]) };
    golden("a-port-of-tcp-both-ways", &config, &mut host(&config));
}

#[test]
fn chacha20_poly1305() {
    let mut config = mesh(1, &LAB[..2]);
    config.esp.cipher = Cipher::ChaCha20Poly1305;
    golden("chacha20-poly1305", &config, &mut host(&config));
}
