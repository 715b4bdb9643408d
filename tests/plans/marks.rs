//! Golden plans of traffic that is selected by a mark.

use super::*;
use meshsec::{
    config::{Guard, Select},
    model::{Backend, Chain, ChainRole, Family, Firewall, Jump, MarkUser, Rule, Unseen},
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
            (0..8).map(|n| user(&format!("chain C{n} of iptables-nft"), 0x2_0000)).collect();
        firewall.marks.insert(0, user("Calico", 0xffff_0000));
        firewall.marks.insert(1, user("Kubernetes", 0xc000));
        for backend in Backend::ALL {
            firewall.foreign.insert((Family::Ipv4, backend));
        }
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
        let report = common::applied(&by_mark(0x20000), &mut kernel);
        assert!(report.done.is_empty() && !report.changed_anything());
        assert!(report.stopped.unwrap().to_string().contains("no such table"));
        assert_eq!(*kernel.state(), before);
    }
}
