//! What plans say of networks: attributes, reasons and warnings.

use meshsec::{
    config::Config,
    model::{
        Direction, FibAction, FibEntry, Policy, ReasonCode, Stage, State, Translation, WarningCode,
    },
    plan::{Change, ObjectKind, Plan},
};

use super::{applied, lab, prefix, with_networks};
use crate::common::{REQID, applied_host, host, mesh, observe, plan};

/// The attributes of the first change of a kind, before and after.
fn fields(plan: &Plan, kind: ObjectKind) -> Vec<String> {
    let change = plan.changes.iter().find(|change| change.kind() == kind).unwrap();
    let word = |side: Option<String>| side.unwrap_or_else(|| "-".into());
    let line = |field: meshsec::plan::Field| {
        format!("{} {} {}", field.name, word(field.before), word(field.after))
    };
    change.fields().into_iter().map(line).collect()
}

#[test]
fn a_plan_names_the_attributes_of_routes() {
    let (desired, _) = with_networks();
    let first = Plan::new(&desired, &observe(&mut host(&mesh(1, &super::LAB))), REQID);
    let route = ["action - dev mesh0", "protocol - 77", "source - 10.9.0.1"];
    assert_eq!(fields(&first, ObjectKind::Route), route);
    assert_eq!(fields(&first, ObjectKind::Blackhole), ["action - blackhole", "protocol - 77"]);
    let mut kernel = applied();
    let ours = |entry: &&mut FibEntry| {
        entry.metric == 1 && entry.action == FibAction::Devices(["mesh0".into()].into())
    };
    kernel.state_mut().fib.iter_mut().find(ours).unwrap().source = None;
    let repair = Plan::new(&desired, &observe(&mut kernel), REQID);
    assert_eq!(fields(&repair, ObjectKind::Route), ["source - 10.9.0.1"]);
}

/// A policy of the mesh's own interface may be one of an old file; one of another can't be.
#[test]
fn a_policy_of_another_interface_is_told_from_one_of_the_meshs_own() {
    let reason = |if_id| {
        let mut kernel = applied();
        let state = kernel.state_mut();
        let of_mesh = |policy: &&Policy| policy.id.if_id == REQID.0;
        let mut second = state.policies.iter().find(of_mesh).unwrap().clone();
        (second.id.if_id, second.id.selector.proto) = (if_id, 6);
        state.policies.push(second);
        let changes = Plan::new(&with_networks().0, &observe(&mut kernel), REQID).changes;
        changes.iter().map(|change: &Change| change.reason.code).collect::<Vec<_>>()
    };
    assert_eq!(reason(REQID.0), [ReasonCode::Unwanted]);
    assert_eq!(reason(REQID.0 + 1), [ReasonCode::ForeignIdentity]);
}

/// The guard of one network is gone, and those of the others refuse nothing in its place.
#[test]
fn clear_text_from_a_network_is_taken_without_its_own_guard() {
    let told = |edit: fn(&mut State)| {
        let mut kernel = applied_host(&lab(1));
        edit(kernel.state_mut());
        let warnings = plan(&lab(1), &mut kernel).warnings;
        let unheard = warnings.into_iter().find(|line| line.code == WarningCode::NotHeardYet);
        unheard.map(|line| line.text.split(" yet").next().unwrap().to_owned())
    };
    assert_eq!(told(|_| ()), None);
    let without_one = |state: &mut State| {
        let of_b = |policy: &Policy| {
            policy.is_guard()
                && policy.id.direction == Direction::In
                && policy.id.selector.src == prefix("10.2.0.0/16")
        };
        let before = state.policies.len();
        state.policies.retain(|policy| !of_b(policy));
        assert_eq!(state.policies.len(), before - 1);
    };
    assert_eq!(told(without_one).as_deref(), Some("no encrypted packet has come from b"));
}

/// Routes that come leave nothing in the clear, nor do blackholes that go while routes stay.
#[test]
fn packets_to_networks_are_left_in_the_clear_by_blackholes_that_go() {
    let told = |from: Option<Stage>, to| {
        let at = |stage| Config { stage, ..lab(1) };
        let mut kernel = from.map_or_else(|| host(&lab(1)), |from| applied_host(&at(from)));
        let warnings = plan(&at(to), &mut kernel).warnings;
        warnings.iter().any(|line| line.code == WarningCode::LeftInTheClear)
    };
    for to in Stage::ALL {
        assert!(!told(None, to), "{to}");
    }
    assert!(!told(Some(Stage::Enforce), Stage::Send));
    assert!(told(Some(Stage::Send), Stage::Receive));
    assert!(told(Some(Stage::Enforce), Stage::Receive));
}

/// Policies are for packets from any address, so that another one takes none past them.
#[test]
fn translations_are_in_nobodys_way_where_any_source_is_protected() {
    let config = Config { stage: Stage::Send, ..lab(1) };
    let mut kernel = applied_host(&config);
    let rule = "iptables-nft -t nat -A POSTROUTING -j MASQUERADE".into();
    let chain = "POSTROUTING".into();
    kernel.state_mut().translations = vec![Translation { rule, chain, certain: true, esp: false }];
    assert_eq!(plan(&config, &mut kernel).conflicts, []);
}
