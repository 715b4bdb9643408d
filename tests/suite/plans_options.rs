//! Golden plans of options of a file: a tunnel's device, and all traffic.
//!
//! As in `plans.rs`, which has the rules.

use std::collections::BTreeSet;

use crate::common::{REQID, applied_host, host, mesh, wanted};
use crate::golden_plans::golden;
use meshsec::{
    config::{Config, Guard, LinkWish, Traffic},
    model::{
        Action, Bypass, MeshName, Mtu, Policy, PolicyId, Replay, Reqid, SaId, Spi, State, Usage,
    },
    plan::{ConflictCode, Plan, SaStep, StepKind, Warning, WarningCode},
};

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

fn lab() -> Config {
    mesh(1, &LAB)
}

/// A golden plan for a mesh with a tunnel's device, after an edit of the kernel's state.
fn linked(name: &str, mtu: Mtu, edit: impl FnOnce(&mut State)) {
    let mut kernel = applied_host(&lab());
    edit(kernel.state_mut());
    let link = Some(LinkWish { device: crate::common::VXLAN.into(), mtu });
    golden(name, &Config { link, ..lab() }, &mut kernel);
}

fn mtu_of<'a>(state: &'a mut State, device: &str) -> &'a mut u32 {
    &mut state.links.iter_mut().find(|link| link.name == device).unwrap().mtu
}

#[test]
fn the_mtu_is_too_large() {
    linked("the-mtu-is-too-large", Mtu::Auto, |_| {});
}

#[test]
fn the_mtu_is_not_the_number_in_the_file() {
    linked("the-mtu-is-not-the-number-in-the-file", Mtu::Exactly(1500), |_| {});
}

#[test]
fn the_mtu_is_below_what_ipv6_needs() {
    linked("the-mtu-is-below-what-ipv6-needs", Mtu::Auto, |state| *mtu_of(state, "eth0") = 1300);
}

#[test]
fn the_underlay_leaves_no_room() {
    linked("the-underlay-leaves-no-room", Mtu::Auto, |state| *mtu_of(state, "eth0") = 68);
}

#[test]
fn the_device_of_the_link_is_missing() {
    linked("the-device-of-the-link-is-missing", Mtu::Auto, |state| {
        state.links.retain(|link| link.name != crate::common::VXLAN);
    });
}

#[test]
fn the_device_of_the_link_carries_the_address() {
    linked("the-device-of-the-link-carries-the-address", Mtu::Auto, |state| {
        state.addresses[0].device = crate::common::VXLAN.into();
    });
}

#[test]
fn the_address_is_on_a_dummy() {
    linked("the-address-is-on-a-dummy", Mtu::Auto, |state| {
        state.links[0].kind = Some("dummy".into());
        state.routes.clear();
    });
}

#[test]
fn an_old_snapshot_knows_no_devices() {
    linked("an-old-snapshot-knows-no-devices", Mtu::Auto, |state| state.links.clear());
}

const LAB6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// A mesh that protects everything.
fn all(addresses: &[&str]) -> Config {
    Config { traffic: Traffic::All, guard: Guard::Off, ..mesh(1, addresses) }
}

/// A golden plan for two hosts of IPv6 and all their traffic, after an edit.
fn all_edited(name: &str, edit: impl FnOnce(&mut State)) {
    let config = all(&LAB6[..2]);
    let mut kernel = applied_host(&config);
    edit(kernel.state_mut());
    golden(name, &config, &mut kernel);
}

fn is_discovery(policy: &Policy) -> bool {
    policy.passage_in(crate::common::REQID).is_some()
}

#[test]
fn all_traffic_over_ipv4() {
    golden("all-traffic-over-ipv4", &all(&LAB[..2]), &mut host(&all(&LAB[..2])));
}

#[test]
fn all_traffic_over_ipv6() {
    golden("all-traffic-over-ipv6", &all(&LAB6[..2]), &mut host(&all(&LAB6[..2])));
}

#[test]
fn all_traffic_becomes_vxlan() {
    let mut kernel = applied_host(&all(&LAB6[..2]));
    golden("all-traffic-becomes-vxlan", &mesh(1, &LAB6[..2]), &mut kernel);
}

#[test]
fn neighbour_discovery_was_edited() {
    all_edited("neighbour-discovery-was-edited", |state| {
        let mut ours = state.policies.iter_mut().filter(|policy| is_discovery(policy));
        ours.next().unwrap().priority = 2000;
        let missing = ours.next().unwrap().id;
        state.policies.retain(|policy| policy.id != missing);
    });
}

#[test]
fn neighbour_discovery_of_another_mesh_will_do() {
    all_edited("neighbour-discovery-of-another-mesh-will-do", |state| {
        state.policies.retain(|policy| !is_discovery(policy));
        state.policies.extend(Policy::discovery(Reqid(0x4d53_0002)));
    });
}

#[test]
fn a_foreign_policy_blocks_neighbour_discovery() {
    all_edited("a-foreign-policy-blocks-neighbour-discovery", |state| {
        let taken = state.policies.iter_mut().find(|policy| is_discovery(policy)).unwrap();
        (taken.action, taken.index, taken.priority) = (Action::Block, None, 7);
    });
}

#[test]
fn a_foreign_policy_has_our_index() {
    all_edited("a-foreign-policy-has-our-index", |state| {
        let taken = state.policies.iter_mut().find(|policy| is_discovery(policy)).unwrap();
        taken.id.selector.src.length = 64;
    });
}

#[test]
fn neighbour_discovery_stays_where_a_peer_is_stopped() {
    let mut kernel = applied_host(&all(&LAB6));
    let state = kernel.state_mut();
    let between = state.policies.iter().find(|policy| !policy.templates.is_empty()).unwrap();
    let selector = between.id.selector.to_port(17, 4789);
    let foreign = Policy {
        id: PolicyId::new(between.id.direction, selector),
        priority: 500,
        action: Action::Allow,
        index: None,
        templates: Vec::new(),
        extras: BTreeSet::new(),
    };
    state.policies.push(foreign);
    let guarded = Config { guard: Guard::Off, ..mesh(1, &LAB6) };
    golden("neighbour-discovery-stays-where-a-peer-is-stopped", &guarded, &mut kernel);
}

/// The lab's file with the cryptography on a device.
fn offloaded() -> Config {
    let mut config = mesh(1, &LAB[..2]);
    config.esp.offload = Some("eth0".into());
    config
}

#[test]
fn an_offload_is_wanted() {
    golden("an-offload-is-wanted", &offloaded(), &mut applied_host(&mesh(1, &LAB[..2])));
}

#[test]
fn an_offload_is_not_wanted_any_more() {
    let config = mesh(1, &LAB[..2]);
    golden("an-offload-is-not-wanted-any-more", &config, &mut applied_host(&offloaded()));
}

#[test]
fn an_offload_to_a_device_that_is_gone_changes_nothing() {
    let mut kernel = applied_host(&mesh(1, &LAB[..2]));
    kernel.state_mut().links.retain(|link| link.name != "eth0");
    let before = kernel.state().clone();
    let plan = crate::common::plan(&offloaded(), &mut kernel);
    let warned = |warning: &Warning| {
        warning.code == WarningCode::OffloadDeviceMissing && warning.text.contains("eth0")
    };
    assert!(plan.warnings.iter().any(warned), "{:?}", plan.warnings);
    let report = crate::common::applied(&offloaded(), &mut kernel);
    assert!(!report.changed_anything());
    let error = report.stopped.unwrap().to_string();
    assert!(error.ends_with("ENODEV: [esp] offload names a device that is not there"), "{error}");
    assert_eq!(*kernel.state(), before);
}

#[test]
fn an_offload_that_the_device_does_not_take_changes_nothing() {
    let host = applied_host(&mesh(1, &LAB[..2]));
    // A host with devices that have no offload.
    let mut kernel = meshsec::kernel::memory::Memory::holding(host.state().clone());
    let report = crate::common::applied(&offloaded(), &mut kernel);
    assert!(!report.changed_anything() && report.done.is_empty());
    let error = report.stopped.unwrap().to_string();
    assert!(error.starts_with("cannot offload ESP to eth0: "), "{error}");
    assert_eq!(kernel.state().sas, host.state().sas);
}

/// The MTU alone may be missing.
#[test]
fn a_host_that_lacks_an_sa_or_a_policy_is_not_protected() {
    let link = Some(LinkWish { device: crate::common::VXLAN.into(), mtu: Mtu::Auto });
    let config = Config { link, ..lab() };
    let protects = |edit: fn(&mut State)| {
        let mut kernel = applied_host(&config);
        edit(kernel.state_mut());
        let plan = crate::common::plan(&config, &mut kernel);
        (plan.is_empty(), plan.protects())
    };
    assert_eq!(protects(|_| ()), (true, true));
    assert_eq!(protects(|state| *mtu_of(state, crate::common::VXLAN) = 1280), (false, true));
    assert_eq!(protects(|state| _ = state.sas.pop()), (false, false));
    assert_eq!(protects(|state| _ = state.policies.pop()), (false, false));
}

/// A mesh of another file, with the reqid of [`lab`]: another name, so other keys.
fn same_reqid() -> Config {
    Config {
        mesh: MeshName::new("other").unwrap(),
        traffic: Traffic::Geneve { port: 6081 },
        ..lab()
    }
}

#[test]
fn another_file_has_the_same_reqid() {
    let mut kernel = applied_host(&same_reqid());
    let before = kernel.state_mut().clone();
    golden("another-file-has-the-same-reqid", &lab(), &mut kernel);
    let report = crate::common::applied(&lab(), &mut kernel);
    assert!(report.done.is_empty() && !report.is_complete());
    assert!(*kernel.state_mut() == before, "nothing of the other mesh was touched");
}

/// Nor does a foreign policy for this file's traffic make the objects this file's.
#[test]
fn another_file_has_the_same_reqid_beside_a_foreign_policy() {
    let mut kernel = applied_host(&same_reqid());
    let (all, _) = wanted(&lab());
    let mut theirs = all.guards.into_values().next().unwrap();
    theirs.priority = REQID.0 + 1;
    kernel.state_mut().policies.push(theirs);
    let conflicts = crate::common::plan(&lab(), &mut kernel).conflicts;
    assert!(conflicts.iter().any(|conflict| conflict.code == ConflictCode::SameReqid));
}

#[test]
fn what_has_an_sa_of_this_file_is_of_this_file() {
    // The port was edited, and then, before the next apply, most SAs were deleted.
    let mut kernel = applied_host(&lab());
    kernel.state_mut().sas.truncate(1);
    let config = Config { traffic: Traffic::Geneve { port: 6081 }, ..lab() };
    assert!(crate::common::applied(&config, &mut kernel).is_complete());
}

#[test]
fn a_plan_holds_while_others_add_and_delete_what_is_in_nobodys_way() {
    let mut kernel = host(&lab());
    let planned = crate::common::plan(&lab(), &mut kernel);
    let mut theirs = wanted(&same_reqid()).0.sas.into_values().next().unwrap().sa;
    theirs.reqid = Reqid(77);
    theirs.id.spi = Spi::from_raw(0x5000);
    kernel.state_mut().sas.push(theirs);
    assert!(crate::common::plan(&lab(), &mut kernel).asks_the_same_as(&planned));
    kernel.state_mut().sas[0].id = planned_sa(&planned);
    assert!(!crate::common::plan(&lab(), &mut kernel).asks_the_same_as(&planned));
}

/// The first SA that a plan adds.
fn planned_sa(plan: &Plan) -> SaId {
    let added = plan.steps.iter().find_map(|planned| match &planned.step.kind {
        StepKind::Sa(SaStep::Add { sa, .. }) => Some(sa.id),
        _ => None,
    });
    added.expect("it adds SAs")
}

/// An underlay may hold packets that are smaller than any MTU.
#[test]
fn no_mtu_is_set_below_what_ipv4_needs() {
    let set = |underlay| {
        let link = Some(LinkWish { device: crate::common::VXLAN.into(), mtu: Mtu::Auto });
        let mut kernel = applied_host(&lab());
        *mtu_of(kernel.state_mut(), "eth0") = underlay;
        let plan = crate::common::plan(&Config { link, ..lab() }, &mut kernel);
        let codes = plan.warnings.iter().map(|line| line.code);
        assert_eq!(
            codes.filter(|code| *code == WarningCode::UnderlayTooSmall).count(),
            1 - plan.steps.len()
        );
        plan.steps.iter().find_map(|step| match &step.step.kind {
            StepKind::Mtu(step) => Some(step.mtu),
            _ => None,
        })
    };
    let set: BTreeSet<u32> = (68..300).filter_map(set).collect();
    assert_eq!(set.first(), Some(&68));
}

/// An SA of others under an SPI of this file does not make the objects this file's either.
#[test]
fn another_file_has_the_same_reqid_beside_a_foreign_sa() {
    let mut kernel = applied_host(&same_reqid());
    let mut theirs = wanted(&lab()).0.sas.into_values().next().unwrap().sa;
    theirs.reqid = Reqid(7);
    kernel.state_mut().sas.retain(|sa| sa.id != theirs.id);
    kernel.state_mut().sas.push(theirs);
    let conflicts = crate::common::plan(&lab(), &mut kernel).conflicts;
    assert!(conflicts.iter().any(|conflict| conflict.code == ConflictCode::SameReqid));
}

/// The numbers of an SA with ESN do not end, nor do those that a peer has sent.
#[test]
fn numbers_are_nearly_spent_where_they_end() {
    let told = |esn, outbound| {
        let mut config = lab();
        config.esp.replay = Replay { window: 64, esn };
        let mut kernel = applied_host(&config);
        let local = config.peers[0].address;
        let of_side = |usage: &&mut Usage| (usage.id.dst != local) == outbound;
        kernel.state_mut().usage.iter_mut().find(of_side).unwrap().sent = 1 << 31;
        let plan = crate::common::plan(&config, &mut kernel);
        plan.warnings.iter().any(|line| line.code == WarningCode::NumbersNearlySpent)
    };
    assert!(told(false, true));
    assert!(!told(true, true));
    assert!(!told(false, false));
}

/// A peer has what it needs of the generation before and of the next, and its window goes on.
#[test]
fn a_generation_that_goes_back_is_told_where_a_window_stands_behind_it() {
    let told = |window, from, to| {
        let at = |generation| {
            let mut config = mesh(generation, &LAB);
            config.esp.replay = Replay { window, esn: window > 0 };
            config
        };
        let plan = crate::common::plan(&at(to), &mut applied_host(&at(from)));
        plan.warnings.iter().any(|line| line.code == WarningCode::GenerationGoesBack)
    };
    assert!(told(64, 2, 1));
    assert!(!told(64, 1, 2));
    assert!(!told(0, 2, 1));
}

/// A plan that was saved holds if both its changes and its conflicts are those of now.
#[test]
fn a_plan_with_other_changes_or_other_conflicts_asks_something_else() {
    let plan = |edit: fn(&mut State)| {
        let mut kernel = applied_host(&lab());
        edit(kernel.state_mut());
        crate::common::plan(&lab(), &mut kernel)
    };
    let bypass = |state: &mut State| {
        let name = "disable_policy".into();
        state.bypasses.push(Bypass { device: "eth0".into(), ipv6: false, name });
    };
    let (nothing, conflict) = (plan(|_| ()), plan(bypass));
    let changes = plan(|state| _ = state.policies.pop());
    assert!(nothing.asks_the_same_as(&plan(|_| ())));
    assert!(!nothing.asks_the_same_as(&conflict));
    assert!(!nothing.asks_the_same_as(&changes));
}
