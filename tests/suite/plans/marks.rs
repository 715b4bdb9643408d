//! Golden plans of traffic that is selected by a mark.

use super::*;
use meshsec::{
    config::{Guard, Select},
    model::{Backend, Chain, ChainId, ChainRole, Family, Firewall, Jump, MarkUser, Rule, Unseen},
    plan::{Phase, PolicyStep, StepKind},
};

fn by_mark(value: u32) -> Config {
    let select = Select::Mark(Mark { value, mask: value });
    Config { select, ..mesh(1, &LAB[..2]) }
}

/// A golden plan for marked traffic after an edit of the chains.
fn chains_edited(name: &str, edit: impl FnOnce(&mut Firewall)) {
    let mut kernel = applied_host(&by_mark(0x20000));
    edit(&mut kernel.state_mut().firewall);
    golden(name, &by_mark(0x20000), &mut kernel);
}

fn chain(firewall: &mut Firewall, role: ChainRole) -> &mut Chain {
    let found = firewall.chains.iter_mut().find(|chain| chain.id.role() == Some(role));
    found.expect("a mesh's chains")
}

#[test]
fn an_empty_host_by_mark() {
    golden("an-empty-host-by-mark", &by_mark(0x20000), &mut host(&by_mark(0x20000)));
}

#[test]
fn from_port_to_mark() {
    golden("from-port-to-mark", &by_mark(0x20000), &mut applied_host(&mesh(1, &LAB[..2])));
}

#[test]
fn from_mark_to_port() {
    golden("from-mark-to-port", &mesh(1, &LAB[..2]), &mut applied_host(&by_mark(0x20000)));
}

/// A guard comes late where a chain of its family stands in for it until then, and there alone.
#[test]
fn a_guard_of_a_family_without_a_chain_comes_first() {
    let mut kernel = applied_host(&by_mark(0x20000));
    let chains = &mut kernel.state_mut().firewall.chains;
    chains.retain(|chain| chain.id.family == Family::Ipv4);
    let plan = crate::common::plan(&mesh(1, &LAB[..2]), &mut kernel);
    let guards: BTreeSet<_> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.step.kind {
            StepKind::Policy(PolicyStep::Add(policy))
                if policy.is_guard() && policy.id.direction == Direction::Out =>
            {
                Some((policy.id.selector.is_ipv4(), step.phase))
            }
            _ => None,
        })
        .collect();
    assert_eq!(guards, [(true, Phase::LateGuards), (false, Phase::Guards)].into());
}

#[test]
fn from_mark_to_port_without_a_guard() {
    let config = Config { guard: Guard::Off, ..mesh(1, &LAB[..2]) };
    golden("from-mark-to-port-without-a-guard", &config, &mut applied_host(&by_mark(0x20000)));
}

#[test]
fn the_mark_changes() {
    golden("the-mark-changes", &by_mark(0x40000), &mut applied_host(&by_mark(0x20000)));
}

#[test]
fn the_port_of_marked_traffic_changes() {
    let config = Config { traffic: Traffic::Vxlan { port: 8472 }, ..by_mark(0x20000) };
    let mut kernel = applied_host(&by_mark(0x20000));
    golden("the-port-of-marked-traffic-changes", &config, &mut kernel);
}

#[test]
fn chains_are_missing_or_differ() {
    chains_edited("chains-are-missing-or-differ", |firewall| {
        firewall.chains.retain(|chain| {
            chain.id.family == Family::Ipv4 || chain.id.role() != Some(ChainRole::Mark)
        });
        chain(firewall, ChainRole::Mark).jumps.clear();
        chain(firewall, ChainRole::Out).jumps[0].behind = Some("-p udp -j ACCEPT".into());
        chain(firewall, ChainRole::In).rules.insert(0, Rule::Other("-i lo -j ACCEPT".into()));
        let mut ipv6 = firewall.chains.iter_mut().filter(|chain| chain.id.family == Family::Ipv6);
        let out = ipv6.find(|chain| chain.id.role() == Some(ChainRole::Out)).expect("it is there");
        out.jumps.push(Jump { conditions: Some("-o eth0 -j X".into()), ..Jump::FIRST });
    });
}

#[test]
fn a_chain_is_in_a_wrong_table_and_all_are_in_the_other_backend() {
    chains_edited("chains-are-where-none-belong", |firewall| {
        let mut others = firewall.chains.clone();
        others.iter_mut().for_each(|chain| chain.id.backend = Backend::Legacy);
        let mut nat = chain(firewall, ChainRole::Out).clone();
        nat.id.table = "nat".into();
        firewall.chains.extend(others);
        firewall.chains.push(nat);
    });
}

#[test]
fn others_use_the_mark() {
    chains_edited("others-use-the-mark", |firewall| {
        let user = |user: &str, bits| MarkUser { user: user.into(), bits };
        firewall.marks =
            (0..9).map(|n| user(&format!("chain C{n} of iptables-nft"), 0x2_0000)).collect();
        firewall.marks.insert(0, user("Calico", 0xffff_0000));
        firewall.marks.insert(1, user("Kubernetes", 0xc000));
        for backend in Backend::ALL {
            firewall.foreign.insert((Family::Ipv4, backend));
        }
    });
}

/// A chain as version 0.1 has printed it, in a firewall that does not tell whether it is whole.
fn chain_of_version_0_1(family: &str, table: &str, suffix: &str, rule: &str) -> String {
    format!(
        r#"{{"id":{{"backend":"nf_tables","family":"{family}","table":"{table}",
            "name":"MESHSEC-4d530001-{suffix}"}},"rules":[{rule}],"jumps":[{{}}]}}"#
    )
}

#[test]
fn a_snapshot_of_version_0_1_has_chains() {
    let mark = r#"{"mark":{"port":4789,"mark":{"value":131072,"mask":131072}}}"#;
    let drop = |direction: &str| format!(r#"{{"drop":{{"port":4789,"direction":"{direction}"}}}}"#);
    let chains: Vec<String> = ["ipv4", "ipv6"]
        .iter()
        .flat_map(|family| {
            [
                chain_of_version_0_1(family, "mangle", "MARK", mark),
                chain_of_version_0_1(family, "filter", "OUT", &drop("out")),
                chain_of_version_0_1(family, "filter", "IN", &drop("in")),
            ]
        })
        .collect();
    let text = format!(
        r#"{{"backends":{{"ipv4":"nf_tables","ipv6":"nf_tables"}},"absent":[],"foreign":[],
            "chains":[{}],"marks":[],"unseen":[]}}"#,
        chains.join(",")
    );
    let old: Firewall = serde_json::from_str(&text).unwrap();
    chains_edited("a-snapshot-of-version-0-1-has-chains", |firewall| *firewall = old.clone());
    // Selected by port, they are in nobody's way any more.
    let mut kernel = applied_host(&by_mark(0x20000));
    kernel.state_mut().firewall = old;
    let plan = crate::common::plan(&mesh(1, &LAB[..2]), &mut kernel);
    assert!(plan.lacks.is_empty() && plan.conflicts.is_empty());
}

/// Version 0.1 did not look at iptables for a mesh that is selected by port.
#[test]
fn a_snapshot_of_version_0_1_has_no_rules() {
    let text = r#"{"backends":{},"absent":[],"foreign":[],"chains":[],"marks":[],"unseen":[]}"#;
    edited("a-snapshot-of-version-0-1-has-no-rules", |state| {
        state.firewall = serde_json::from_str(text).unwrap();
    });
}

#[test]
fn there_is_no_ip6tables() {
    let mut kernel = host(&by_mark(0x20000));
    kernel.state_mut().firewall.backends.remove(&Family::Ipv6);
    golden("there-is-no-ip6tables", &by_mark(0x20000), &mut kernel);
}

#[test]
fn a_kernel_without_ipv6_needs_no_ip6tables() {
    let mut kernel = host(&by_mark(0x20000));
    kernel.state_mut().firewall.backends.remove(&Family::Ipv6);
    kernel.state_mut().firewall.absent.insert(Family::Ipv6);
    golden("a-kernel-without-ipv6-needs-no-ip6tables", &by_mark(0x20000), &mut kernel);
}

#[test]
fn without_iptables_the_policies_guard_alone_and_the_plan_says_so() {
    edited("there-is-no-iptables-by-port", |state| {
        state.firewall.backends.clear();
        state.firewall.chains.clear();
    });
}

/// The program that sets chains has gone, and the one that lists them has not.
#[test]
fn a_second_guard_that_stands_is_not_missing() {
    let mut kernel = applied_host(&lab());
    kernel.state_mut().firewall.backends.clear();
    let plan = crate::common::plan(&lab(), &mut kernel);
    assert!(plan.is_empty() && plan.lacks.is_empty() && plan.warnings.is_empty());
    for spoil in [
        (|chain: &mut Chain| chain.jumps.clear()) as fn(&mut Chain),
        |chain| drop(chain.rules.pop()),
        |chain| chain.id.table = "nat".into(),
    ] {
        let mut kernel = applied_host(&lab());
        kernel.state_mut().firewall.backends.clear();
        spoil(&mut kernel.state_mut().firewall.chains[0]);
        let plan = crate::common::plan(&lab(), &mut kernel);
        let families: Vec<Family> = plan.lacks.iter().map(|lack| lack.family).collect();
        assert_eq!(families, [Family::Ipv4]);
    }
}

/// The chains of the system's backend can't drop packets that a foreign rule accepts before them.
#[test]
fn a_chain_of_the_other_backend_stays_while_a_rule_accepts_ahead_of_its_twin() {
    let mut kernel = applied_host(&lab());
    let firewall = &mut kernel.state_mut().firewall;
    let other = |chain: &Chain| chain.id.backend == Backend::Legacy;
    let mut twins = firewall.chains.clone();
    twins.iter_mut().for_each(|chain| chain.id.backend = Backend::Legacy);
    firewall.chains.extend(twins);
    let out = chain(firewall, ChainRole::MangleOut);
    out.jumps[0].behind = Some("-p udp -j ACCEPT".into());
    let family = out.id.family;
    let plan = crate::common::plan(&lab(), &mut kernel);
    // All but one of the other backend go.
    assert_eq!(plan.changes.len(), kernel.state().firewall.chains.len() / 2 - 1);
    let [warning] = plan.warnings.as_slice() else { panic!("{:?}", plan.warnings) };
    assert!(warning.text.contains("Until then chain iptables-legacy"), "{}", warning.text);
    applied(&lab(), &mut kernel);
    let firewall = &mut kernel.state_mut().firewall;
    let left: Vec<&ChainId> =
        firewall.chains.iter().filter(|chain| other(chain)).map(|chain| &chain.id).collect();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].family, left[0].role()), (family, Some(ChainRole::MangleOut)));
    // With the rule gone, so is the reason to keep it; and a chain that drops nothing is not kept.
    let spoil: [fn(&mut Firewall); 2] = [
        |firewall| {
            let chains = firewall.chains.iter_mut();
            chains.for_each(|chain| chain.jumps.iter_mut().for_each(|jump| jump.behind = None));
        },
        |firewall| {
            let chains = firewall.chains.iter_mut();
            let mut legacy = chains.filter(|chain| chain.id.backend == Backend::Legacy);
            legacy.next().expect("it stayed").jumps.clear();
        },
    ];
    for spoil in spoil {
        let mut kernel = kernel.clone();
        spoil(&mut kernel.state_mut().firewall);
        let plan = crate::common::plan(&lab(), &mut kernel);
        assert_eq!(plan.changes.len(), 1);
    }
    let plan = crate::common::plan(&lab(), &mut kernel);
    assert!(plan.is_empty());
}

/// A destroy, or a file that wants no chain, may leave chains that it can't see.
#[test]
fn chains_that_may_be_there_and_cannot_be_seen_match_nothing() {
    let config = Config { guard: Guard::Policies, ..lab() };
    let mut kernel = applied_host(&config);
    kernel.state_mut().firewall.unseen.push(unseen());
    golden("chains-of-before-cannot-be-seen", &config, &mut kernel);
}

fn unseen() -> Unseen {
    Unseen {
        family: Family::Ipv4,
        system: true,
        what: "/usr/sbin/iptables-nft-save failed".into(),
        reason: "exit status 4: the lock".into(),
    }
}

#[test]
fn rules_that_cannot_be_seen_stop_marks_and_nothing_else() {
    edited("rules-that-cannot-be-seen-are-a-warning-by-port", |state| {
        state.firewall.unseen.push(unseen());
        state.firewall.chains.retain(|chain| chain.id.family == Family::Ipv6);
    });
    chains_edited("rules-that-cannot-be-seen-stop-marks", |firewall| {
        firewall.unseen.push(unseen());
        firewall.chains.clear();
    });
}

#[test]
fn a_table_that_the_kernel_lacks_is_found_out_before_anything_changes() {
    for table in ["mangle", "filter"] {
        let mut kernel = host(&by_mark(0x20000));
        kernel.lack(table);
        let before = kernel.state().clone();
        let report = crate::common::applied(&by_mark(0x20000), &mut kernel);
        assert!(report.done.is_empty() && !report.changed_anything());
        assert!(report.stopped.unwrap().to_string().contains("no such table"));
        assert_eq!(*kernel.state(), before);
    }
}

/// Rules for packets that leave stand in for no guard of those that arrive.
#[test]
fn a_guard_in_comes_first_whatever_chain_leaves() {
    let mut kernel = applied_host(&by_mark(0x20000));
    let is_guard_in = |policy: &Policy| policy.is_guard() && policy.id.direction == Direction::In;
    assert!(kernel.state().policies.iter().any(is_guard_in));
    kernel.state_mut().policies.retain(|policy| !is_guard_in(policy));
    let plan = crate::common::plan(&mesh(1, &LAB[..2]), &mut kernel);
    let phases = plan.steps.iter().filter_map(|step| match &step.step.kind {
        StepKind::Policy(PolicyStep::Add(policy)) if is_guard_in(policy) => Some(step.phase),
        _ => None,
    });
    assert_eq!(phases.collect::<BTreeSet<_>>(), [Phase::Guards].into());
}
