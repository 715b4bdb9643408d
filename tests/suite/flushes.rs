//! Warnings of a plan after somebody has flushed a kernel's tables, and their absence elsewhere.
//!
//! `UPDATE_GOLDEN=1 cargo test --test flushes` writes the golden plans anew.

use crate::common::{applied_host, host, mesh, observe, plan, wanted};
use crate::golden_plans::golden;
use meshsec::{
    config::{Config, Guard, Rotation, Select, Traffic},
    desired::{Desired, Keyring},
    kernel::{Kernel, memory::Memory},
    model::{ChainRole, Family, Generation, Mark, Spi, State},
    plan::{Plan, WarningCode},
};

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

fn lab() -> Config {
    mesh(1, &LAB[..2])
}

fn unguarded() -> Config {
    Config { guard: Guard::Off, ..lab() }
}

fn by_mark() -> Config {
    Config { select: Select::Mark(Mark { value: 0x20000, mask: 0x20000 }), ..lab() }
}

/// A golden plan for a host on which the mesh was applied and `flush` has happened.
fn flushed(name: &str, config: &Config, flush: impl FnOnce(&mut State)) {
    let mut kernel = applied_host(config);
    flush(kernel.state_mut());
    golden(name, config, &mut kernel);
}

fn sas(state: &mut State) {
    state.sas.clear();
    state.usage.clear();
}

/// The effect of `iptables -F` on the filter table: chains stay, and are empty.
fn filter(state: &mut State) {
    for chain in &mut state.firewall.chains {
        if chain.id.role() != Some(ChainRole::Mark) {
            chain.rules.clear();
            chain.jumps.clear();
        }
    }
}

#[test]
fn all_sas_were_flushed() {
    flushed("all-sas-were-flushed", &lab(), sas);
}

#[test]
fn all_policies_were_flushed() {
    flushed("all-policies-were-flushed", &lab(), |state| state.policies.clear());
}

#[test]
fn all_policies_were_flushed_where_no_guard_is_wanted() {
    flushed("all-policies-were-flushed-where-no-guard-is", &unguarded(), |state| {
        state.policies.clear();
        state.usage.iter_mut().for_each(|usage| usage.packets = 3);
    });
}

#[test]
fn policies_were_flushed_and_the_chains_still_drop() {
    flushed("policies-were-flushed-and-the-chains-still-drop", &by_mark(), |state| {
        state.policies.clear();
    });
}

#[test]
fn all_but_the_chains_was_flushed() {
    flushed("all-but-the-chains-was-flushed", &by_mark(), |state| {
        sas(state);
        state.policies.clear();
    });
}

#[test]
fn the_filter_table_was_flushed() {
    flushed("the-filter-table-was-flushed", &by_mark(), filter);
}

/// The effect of `iptables -t mangle -F`.
fn mangle(state: &mut State) {
    for chain in &mut state.firewall.chains {
        if chain.id.table == "mangle" {
            chain.rules.clear();
            chain.jumps.clear();
        }
    }
}

#[test]
fn the_mangle_table_was_flushed() {
    flushed("the-mangle-table-was-flushed", &lab(), mangle);
    flushed("the-mangle-table-was-flushed-by-mark", &by_mark(), mangle);
}

#[test]
fn all_of_iptables_was_flushed() {
    flushed("all-of-iptables-was-flushed", &by_mark(), |state| state.firewall.chains.clear());
}

/// That a flush is told of in `config`'s plan for this host.
fn tells(config: &Config, kernel: &mut Memory) -> Vec<String> {
    let warnings = plan(config, kernel).warnings.into_iter().map(|warning| warning.text);
    warnings.filter(|line| line.contains("something has")).collect()
}

/// Both databases flushed leave nothing that a bare host has not, where no chain is.
#[test]
fn a_bare_host_and_one_where_both_were_flushed_are_told_nothing() {
    for config in [Config { guard: Guard::Policies, ..lab() }, unguarded()] {
        assert!(tells(&config, &mut host(&config)).is_empty());
        let mut kernel = applied_host(&config);
        sas(kernel.state_mut());
        kernel.state_mut().policies.clear();
        assert!(tells(&config, &mut kernel).is_empty());
    }
}

#[test]
fn the_rules_of_the_second_guard_tell_that_both_were_flushed_and_block() {
    flushed("all-but-the-second-guard-was-flushed", &lab(), |state| {
        sas(state);
        state.policies.clear();
    });
}

#[test]
fn sas_that_never_had_a_policy_tell_nothing() {
    let mut kernel = applied_host(&unguarded());
    kernel.state_mut().policies.clear();
    assert!(tells(&unguarded(), &mut kernel).is_empty());
}

/// The trial SA, of a peer to itself, is added before the first guard.
#[test]
fn a_trial_that_a_killed_run_left_behind_tells_nothing() {
    let mut kernel = host(&lab());
    let mut trial = applied_host(&lab()).state().sas[0].clone();
    trial.id.spi = Spi::from_raw(0x8000_1001);
    kernel.state_mut().sas.push(trial);
    assert!(tells(&lab(), &mut kernel).is_empty());
}

/// Performs a plan step by step; after none of them may the plan for `config` tell of a flush.
fn tells_nothing_on_the_way(
    config: &Config,
    kernel: &mut Memory,
    wanted: &Desired,
    keyring: &Keyring,
) {
    let steps = Plan::new(wanted, &observe(kernel), crate::common::REQID).steps;
    for (number, planned) in steps.iter().enumerate() {
        let told = tells(config, kernel);
        assert!(told.is_empty(), "after {number} steps: {told:?}");
        let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).expect("a key for each SA");
        kernel.perform(&[step]).unwrap()[0].as_ref().expect("the step succeeds");
    }
    assert!(tells(config, kernel).is_empty(), "at the end");
}

#[test]
fn a_run_that_was_cut_short_is_never_taken_for_a_flush() {
    let all = Config { traffic: Traffic::All, ..unguarded() };
    let next = Config { rotation: Rotation::Generation(Generation::new(2).unwrap()), ..lab() };
    let files = [lab(), unguarded(), by_mark(), all, next, mesh(1, &LAB)];
    for after in &files {
        let (wanted, keyring) = wanted(after);
        tells_nothing_on_the_way(after, &mut host(after), &wanted, &keyring);
        let (nothing, none) = (Desired::default(), Keyring::default());
        tells_nothing_on_the_way(after, &mut applied_host(after), &nothing, &none);
        for before in &files {
            tells_nothing_on_the_way(after, &mut applied_host(before), &wanted, &keyring);
        }
    }
}

/// An apply that was cut short has the chain that drops, and marks nothing yet; so has a destroy.
#[test]
fn a_chain_that_drops_and_nothing_else_is_no_flush() {
    let mut kernel = applied_host(&by_mark());
    let state = kernel.state_mut();
    sas(state);
    state.policies.clear();
    state.firewall.chains.retain(|chain| chain.id.role() != Some(ChainRole::Mark));
    let warnings = plan(&by_mark(), &mut kernel).warnings;
    assert!(warnings.iter().all(|line| line.code != WarningCode::AllFlushed), "{warnings:?}");
}

/// A flush of one program's table is told of that program.
#[test]
fn the_table_of_one_family_was_flushed() {
    for (family, program) in [(Family::Ipv4, "iptables"), (Family::Ipv6, "ip6tables")] {
        for (config, table) in [(by_mark(), "filter"), (lab(), "mangle")] {
            let mut kernel = applied_host(&config);
            for chain in &mut kernel.state_mut().firewall.chains {
                if (chain.id.family, chain.id.table.as_str()) == (family, table) {
                    chain.rules.clear();
                    chain.jumps.clear();
                }
            }
            let told = tells(&config, &mut kernel);
            let of_program = format!("in the {table} table of {program} are");
            assert!(told.len() == 1 && told[0].contains(&of_program), "{told:?}");
        }
    }
}
