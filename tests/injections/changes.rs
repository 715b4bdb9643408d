//! Changes by another program after the plan was made, where guards are to go.

use meshsec::{
    apply::{Report, Target, apply},
    model::{Action, Policy, PolicyRole, State},
    plan::Plan,
};

use crate::{
    common::{REQID, observe},
    faulty::{Faults, Faulty},
    packets::leaks,
    scenarios::{Scenario, scenarios},
};

fn scenario(name: &str) -> Scenario {
    scenarios().into_iter().find(|scenario| scenario.name == name).expect("it is in the list")
}

/// Makes a plan, has another program change the kernel, and performs the plan.
fn applied_after(
    scenario: &Scenario,
    change: impl FnOnce(&mut State),
    faults: Faults,
) -> (Report, Faulty) {
    let Scenario { desired, keyring, .. } = scenario;
    let mut memory = scenario.kernel.clone();
    let plan = Plan::new(desired, &observe(&mut memory), REQID);
    change(memory.state_mut());
    let mut kernel = Faulty::new(memory, faults, &scenario.packets);
    let report = apply(&mut kernel, &Target { desired, keyring, reqid: REQID }, &plan, &mut |_| {});
    (report, kernel)
}

fn without_policies_of_peers(state: &mut State) {
    state.policies.retain(|policy| policy.role_in(REQID) != Some(PolicyRole::Peer));
}

/// The mesh's policies that block.
fn guards(kernel: &Faulty) -> usize {
    kernel.memory.state().policies.iter().filter(|policy| policy.is_guard_of(REQID)).count()
}

const GUARDS_GO: [&str; 2] = ["no guard any more", "from mark to port without a guard"];

#[test]
fn policies_that_somebody_deleted_are_back_before_the_guards_go() {
    for name in GUARDS_GO {
        let scenario = scenario(name);
        let (report, kernel) =
            applied_after(&scenario, without_policies_of_peers, Faults::default());
        assert_eq!(kernel.leaked, None, "{name}");
        assert!(report.is_complete(), "{name}: {:?}", report.left.len());
        let state = kernel.memory.state();
        let open: Vec<_> = scenario.of_peers.iter().filter(|packet| leaks(state, packet)).collect();
        assert!(open.is_empty(), "{name}: {open:?}");
    }
}

#[test]
fn guards_stay_where_nobody_can_look_before_they_go() {
    let (report, kernel) = applied_after(
        &scenario("no guard any more"),
        without_policies_of_peers,
        Faults::default().and_blind(0, true),
    );
    assert_eq!(kernel.leaked, None);
    assert!(report.stopped.is_some() && !report.left.is_empty() && report.done.is_empty());
    assert!(guards(&kernel) > 0);
}

#[test]
fn guards_stay_where_a_foreign_policy_has_come_ahead() {
    let scenario = scenario("no guard any more");
    let ahead = |state: &mut State| {
        let peers = |policy: &&Policy| policy.role_in(REQID) == Some(PolicyRole::Peer);
        let mut foreign = state.policies.iter().find(peers).expect("a peer's policy").clone();
        without_policies_of_peers(state);
        foreign.templates.clear();
        foreign.action = Action::Allow;
        foreign.priority = 1;
        state.policies.push(foreign);
    };
    let (report, kernel) = applied_after(&scenario, ahead, Faults::default());
    assert!(!report.is_complete() && guards(&kernel) > 0);
}
