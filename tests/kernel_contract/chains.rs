//! The cases about chains of iptables.

use std::net::IpAddr;

use meshsec::{
    kernel::KernelError,
    model::{
        Backend, Chain, ChainId, ChainRole, Direction, Family, Jump, Mark, MarkUser, Prefix, Reqid,
        Rule,
    },
    plan::{ChainStep, StepKind},
};

use crate::{
    bench::Bench,
    suite::{FOREIGN, OURS},
};

const MARK: Mark = Mark { value: 0x20000, mask: 0x30000 };

fn rule(role: ChainRole, port: u16) -> Rule {
    match role {
        ChainRole::Mark => Rule::Mark { port, mark: MARK },
        ChainRole::Out => Rule::Drop { port, direction: Direction::Out },
        ChainRole::In => Rule::Pass { port, direction: Direction::In, reqid: FOREIGN },
        ChainRole::MangleOut => Rule::Pass { port, direction: Direction::Out, reqid: OURS },
        ChainRole::MangleIn => Rule::Block { port, direction: Direction::In },
        ChainRole::Post | ChainRole::Forward => Rule::PassDevice { device: format!("mesh.{port}") },
    }
}

/// All rules about networks.
fn guards_of_networks(family: Family) -> Vec<Rule> {
    let networks = match family {
        Family::Ipv4 => [("10.2.0.0", 15), ("192.0.2.7", 32)],
        Family::Ipv6 => [("fd00:2::", 47), ("2001:db8::7", 128)],
    };
    let prefix = |(address, length): (&str, u8)| {
        let address: IpAddr = address.parse().unwrap();
        Prefix { address, length }
    };
    let mut rules = Rule::guards_of_networks(&networks.map(prefix).into(), "mesh0", OURS);
    rules.push(Rule::PassOutside { network: prefix(networks[0]) });
    rules
}

fn id(bench: &mut dyn Bench, family: Family, role: ChainRole, reqid: Reqid) -> ChainId {
    let backend: Backend = bench.look().0.firewall.backends[&family];
    ChainId::new(backend, family, role, reqid)
}

fn set(id: &ChainId, rules: &[Rule], jump: bool) -> StepKind {
    StepKind::Chain(ChainStep::Set { id: id.clone(), rules: rules.into(), jump })
}

fn chain(id: &ChainId, rules: &[Rule], jump: bool) -> Chain {
    let jumps = if jump { vec![Jump::FIRST] } else { Vec::new() };
    Chain { id: id.clone(), rules: rules.into(), jumps, references: Vec::new() }
}

pub fn a_chain_is_observed_as_it_was_set(bench: &mut dyn Bench) {
    let mut added = Vec::new();
    for family in Family::ALL {
        for role in ChainRole::ALL {
            let id = id(bench, family, role, OURS);
            let mut rules = vec![rule(role, 4789), rule(role, 1)];
            if matches!(role, ChainRole::Post | ChainRole::Forward) {
                rules.extend(guards_of_networks(family));
            }
            bench.done(set(&id, &rules, true));
            added.push(chain(&id, &rules, true));
        }
    }
    added.sort_by(|a, b| a.id.cmp(&b.id));
    let firewall = bench.look().0.firewall;
    assert_eq!(firewall.chains, added);
    assert!(firewall.foreign.is_empty() && firewall.unseen.is_empty(), "{firewall:?}");
    assert_eq!(firewall.marks, []);
}

pub fn setting_a_chain_replaces_it_and_what_leads_to_it(bench: &mut dyn Bench) {
    let id = id(bench, Family::Ipv4, ChainRole::Out, OURS);
    for (rules, jump) in [
        (vec![rule(ChainRole::Out, 1)], true),
        (vec![rule(ChainRole::Out, 2), rule(ChainRole::Out, 3)], true),
        (vec![], false),
        (vec![rule(ChainRole::Out, 2)], false),
        (vec![rule(ChainRole::Out, 2)], true),
    ] {
        bench.done(set(&id, &rules, jump));
        bench.done(set(&id, &rules, jump));
        assert_eq!(bench.look().0.firewall.chains, [chain(&id, &rules, jump)]);
    }
}

pub fn deleting_a_chain_takes_what_leads_to_it_and_an_absent_one_is_done(bench: &mut dyn Bench) {
    let ours = id(bench, Family::Ipv6, ChainRole::Mark, OURS);
    let theirs = id(bench, Family::Ipv6, ChainRole::Mark, FOREIGN);
    bench.done(StepKind::Chain(ChainStep::Delete(ours.clone())));
    for id in [&ours, &theirs] {
        bench.done(set(id, &[rule(ChainRole::Mark, 4789)], true));
    }
    bench.done(StepKind::Chain(ChainStep::Delete(ours.clone())));
    bench.done(StepKind::Chain(ChainStep::Delete(ours)));
    let firewall = bench.look().0.firewall;
    assert_eq!(firewall.chains, [chain(&theirs, &[rule(ChainRole::Mark, 4789)], true)]);
}

pub fn a_chain_of_another_name_or_with_other_rules_is_refused(bench: &mut dyn Bench) {
    let mut id = id(bench, Family::Ipv4, ChainRole::Out, OURS);
    let other = set(&id, &[Rule::Other("-j ACCEPT".into())], true);
    id.name = "OUTPUT".into();
    for step in [other, set(&id, &[], true), StepKind::Chain(ChainStep::Delete(id))] {
        let answer = bench.one(step);
        assert!(matches!(answer, Err(KernelError::Refused { .. })), "{answer:?}");
    }
    assert_eq!(bench.look().0.firewall.chains, []);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn users_of_marks_are_found() {
    crate::bench::on_linux(|bench| {
        let id = id(bench, Family::Ipv4, ChainRole::Mark, FOREIGN);
        bench.done(set(&id, &[rule(ChainRole::Mark, 7)], true));
        crate::bench::ip("rule add fwmark 0x400/0xf00 lookup main priority 77");
        crate::bench::ip("-6 rule add fwmark 0x1 lookup main priority 78");
        crate::bench::ip("link add cilium_host type dummy");
        let user = |user: &str, bits| MarkUser { user: user.into(), bits };
        assert_eq!(
            bench.look().0.firewall.marks,
            [
                user("Cilium", 0xf00),
                user("another mesh, in chain MESHSEC-00000007-MARK", 0x30000),
                user("routing rule 77 of IPv4 (fwmark)", 0xf00),
                user("routing rule 78 of IPv6 (fwmark)", u32::MAX),
            ]
        );
    });
}
