//! What a plan decides by the host's state: addresses, MTU, foreign routes and devices, stages.

use std::collections::BTreeSet;

use meshsec::{
    agreement::Row,
    config::{Config, Moment},
    desired::Inside,
    kernel::Memory,
    model::{
        Bypass, ChainRole, ConflictCode, Direction, Family, FibAction, FibEntry, Generation, Link,
        Mode, Mtu, Policy, PolicyId, Reqid, Selector, Spi, Stage, State, Template, Translation,
        WarningCode,
    },
    plan::{ChainStep, FarEnd, Flow, Phase, StepKind, flows_out},
};

use super::{lab, local, prefix};
use crate::common::{
    REQID, applied_host, host, link, mesh, observe, outcomes, plan, route, wanted,
};

fn codes(config: &Config, kernel: &mut Memory) -> Vec<(ConflictCode, Vec<String>)> {
    let plan = plan(config, kernel);
    let stops = |conflict: &meshsec::plan::Conflict| {
        let peers = conflict.stops.peers();
        peers.map(|peers| peers.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    plan.conflicts.iter().map(|conflict| (conflict.code, stops(conflict))).collect()
}

fn warns(config: &Config, kernel: &mut Memory, code: WarningCode) -> Option<String> {
    let plan = plan(config, kernel);
    plan.warnings.iter().find(|warning| warning.code == code).map(|warning| warning.text.clone())
}

fn foreign(to: &str, metric: u32) -> FibEntry {
    FibEntry { metric, protocol: 4, ..FibEntry::through(prefix(to), "eth0", None) }
}

#[test]
fn a_foreign_route_that_is_preferred_stops_its_peer_and_no_other() {
    let of_b = [(ConflictCode::OtherRoute, vec!["b".to_owned()])];
    for (entry, is_in_the_way) in [
        (foreign("10.2.3.0/24", 100), true),
        (foreign("10.2.0.0/16", 0), true),
        (foreign("fd00:2::7/128", 1024), true),
        (foreign("10.2.0.0/16", 1), true),
        (foreign("10.2.0.0/16", 2), false),
        (FibEntry { selective: true, ..foreign("10.2.0.0/16", 2) }, true),
        (FibEntry { selective: true, ..foreign("0.0.0.0/0", 2) }, false),
        (foreign("10.2.0.0/16", REQID.0), true),
        (FibEntry { action: FibAction::Blackhole, ..foreign("10.2.0.0/16", 1) }, true),
        (foreign("10.0.0.0/8", 0), false),
        (foreign("0.0.0.0/0", 0), false),
        (foreign("10.9.3.0/24", 0), false),
        (FibEntry { table: 100, ..foreign("10.0.0.0/8", 0) }, true),
        (FibEntry { action: FibAction::Blackhole, ..foreign("10.2.3.0/24", 0) }, false),
        (FibEntry { action: FibAction::device("mesh0"), ..foreign("10.2.3.0/24", 0) }, false),
    ] {
        let mut kernel = host(&mesh(1, &super::LAB));
        kernel.state_mut().fib.push(entry.clone());
        let mut found = codes(&lab(1), &mut kernel);
        found.dedup();
        // One that covers several peers' networks stops all of those.
        let first: Vec<_> = found.into_iter().filter(|(_, peers)| *peers == ["b"]).collect();
        assert_eq!(first == of_b, is_in_the_way, "{entry} {first:?}");
    }
}

#[test]
fn a_device_with_the_interfaces_name_stops_all() {
    let mut kernel = host(&mesh(1, &super::LAB));
    kernel.state_mut().links.push(Link { kind: Some("dummy".into()), ..link("mesh0", 1500) });
    assert_eq!(codes(&lab(1), &mut kernel), [(ConflictCode::DeviceTaken, vec![])]);
    assert_eq!(codes(&lab(1), &mut applied_host(&lab(1))), []);
}

#[test]
fn disable_policy_stops_all_where_decrypted_packets_come_in() {
    for (device, name, ipv6, stops) in [
        ("mesh0", "disable_policy", false, true),
        ("mesh0", "disable_policy", true, true),
        ("all", "disable_policy", false, true),
        ("eth0", "disable_policy", false, true),
        ("eth9", "disable_policy", false, false),
        ("mesh0", "disable_xfrm", false, false),
        ("eth0", "disable_xfrm", false, false),
        ("all", "disable_xfrm", false, false),
    ] {
        let mut kernel = applied_host(&lab(1));
        let bypass = Bypass { device: device.into(), ipv6, name: name.into() };
        kernel.state_mut().bypasses.push(bypass);
        let found = codes(&lab(1), &mut kernel);
        assert_eq!(
            found == [(ConflictCode::Bypass, vec![])],
            stops,
            "{name} of {device} {found:?}"
        );
        let told = warns(&lab(1), &mut kernel, WarningCode::PastTheGuard);
        // A chain drops what leaves past the policies.
        assert_eq!(told.is_some(), device == "eth9", "{name} of {device}");
    }
}

#[test]
fn the_address_inside_is_the_files_or_the_only_one_that_the_host_has() {
    let at = |text: &str| Inside::At(text.parse().unwrap());
    let several = |texts: &[&str]| {
        Inside::Several(texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<_>>())
    };
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], Inside);
    let cases: [Case<'_>; 7] = [
        (&["10.9.0.0/16"], &["10.9.0.1"], &["10.9.0.7"], at("10.9.0.1")),
        (&["10.9.0.0/16"], &[], &["10.9.0.7", "10.8.0.1"], at("10.9.0.7")),
        (&["10.9.0.0/16"], &[], &["10.9.0.7", "10.9.0.8"], several(&["10.9.0.7", "10.9.0.8"])),
        (&["10.9.0.0/16"], &[], &["10.8.0.1"], Inside::None),
        (&["10.9.0.0/16", "10.7.0.1/32"], &[], &[], at("10.7.0.1")),
        (&["fd00:9::/48"], &[], &["10.9.0.7"], Inside::None),
        // That of the interface is there because of an apply.
        (&["10.9.0.0/16"], &[], &["mesh0:10.9.0.7"], Inside::None),
    ];
    for (networks, given, addresses, expected) in cases {
        let mut config = lab(1);
        config.peers[0].networks = networks.iter().map(|text| prefix(text)).collect();
        config.peers[0].inside = given.iter().map(|text| text.parse().unwrap()).collect();
        let mut kernel = applied_host(&lab(1));
        let state = kernel.state_mut();
        state.addresses.retain(|local| local.device != "mesh0");
        for text in addresses {
            let (device, address) = text
                .split_once(':')
                .filter(|(device, _)| *device == "mesh0")
                .unwrap_or(("lan0", text));
            state.addresses.push(local(address, device));
        }
        let tunnel = wanted(&config).0.tunnel.unwrap();
        let found = tunnel.inside(&observe(&mut kernel).0, REQID, true);
        assert_eq!(found, expected, "{networks:?} {given:?} {addresses:?}");
        let told = warns(&config, &mut kernel, WarningCode::NoInside);
        assert_eq!(told.is_some_and(|told| told.contains("IPv4")), !matches!(found, Inside::At(_)));
    }
}

#[test]
fn an_address_that_the_host_has_already_is_not_put_on_the_interface() {
    let mut kernel = host(&mesh(1, &super::LAB));
    kernel.state_mut().addresses.push(local("10.9.0.1", "lan0"));
    let report = crate::common::applied(&lab(1), &mut kernel);
    assert!(report.is_complete());
    let state = kernel.state();
    assert!(!state.addresses.contains(&local("10.9.0.1", "mesh0")));
    assert!(state.addresses.contains(&local("fd00:9::1", "mesh0")));
    let source = |text: &str| text.parse().ok();
    let sources: BTreeSet<_> = state.fib_of(REQID).filter_map(|entry| entry.source).collect();
    assert_eq!(sources.first().copied(), source("10.9.0.1"));
    assert!(plan(&lab(1), &mut kernel).is_empty());
}

#[test]
fn the_mtu_fits_the_smallest_underlay() {
    let mut config = lab(1);
    config.tunnel.as_mut().unwrap().mtu = Mtu::Auto;
    let mut kernel = host(&mesh(1, &super::LAB));
    let state = kernel.state_mut();
    state.links.push(link("eth1", 1400));
    let address = |text: &str| text.parse().unwrap();
    state.routes[1] = route(address("192.0.2.1"), address("192.0.2.3"), &["eth1"]);
    let mtu = |kernel: &mut Memory| {
        assert!(crate::common::applied(&config, kernel).is_complete());
        assert!(plan(&config, kernel).is_empty());
        kernel.state().interface_of(REQID).unwrap().mtu
    };
    // 20 of IPv4, 8 of ESP, 8 of the IV, 2 and the padding of the trailer, 16 of the ICV.
    assert_eq!(mtu(&mut kernel), 1400 - 20 - 8 - 8 - 2 - 16);
    kernel.state_mut().links.retain(|link| link.name != "eth1");
    kernel.state_mut().links.push(link("eth1", 9000));
    assert_eq!(mtu(&mut kernel), 1446);
    kernel.state_mut().routes.clear();
    kernel.state_mut().links.retain(|link| link.name == "mesh0");
    kernel.state_mut().addresses.retain(|local| local.address.is_ipv6());
    assert!(warns(&config, &mut kernel, WarningCode::UnderlayUnknown).is_some());
    kernel.state_mut().links.clear();
    assert!(warns(&config, &mut kernel, WarningCode::MtuNotChecked).is_some());
    config.tunnel.as_mut().unwrap().mtu = Mtu::Exactly(1500);
    let mut kernel = host(&mesh(1, &super::LAB));
    assert!(warns(&config, &mut kernel, WarningCode::MtuTooLarge).is_some());
    config.tunnel.as_mut().unwrap().mtu = Mtu::Exactly(1200);
    assert!(warns(&config, &mut kernel, WarningCode::MtuTakesIpv6).is_some());
}

#[test]
fn plans_and_reports_tell_the_fate_of_packets_to_networks() {
    let config = lab(1);
    let mut kernel = host(&mesh(1, &super::LAB));
    let first = plan(&config, &mut kernel);
    let told = outcomes(&config, &mut kernel, &first);
    assert_eq!(told.len(), 2);
    for (far, outcome) in told {
        assert!(matches!(far, FarEnd::Peer(_)), "{far:?}");
        assert_eq!(outcome.before, Flow::Clear);
        assert!(matches!(outcome.after, Flow::Protected(_)), "{far:?} {outcome:?}");
    }
    let mut kernel = applied_host(&config);
    let desired = wanted(&config).0;
    let flows = |kernel: &mut Memory| -> Vec<Flow> {
        flows_out(&observe(kernel).0, &desired, |_| true).into_values().collect()
    };
    assert!(flows(&mut kernel).iter().all(|flow| matches!(flow, Flow::Protected(_))));
    let state = kernel.state_mut();
    state.fib.retain(|entry| entry.action == FibAction::Blackhole);
    assert_eq!(flows(&mut kernel), [Flow::Blocked; 2]);
    kernel.state_mut().fib.clear();
    kernel.state_mut().policies.clear();
    assert_eq!(flows(&mut kernel), [Flow::Blocked; 2]);
    kernel.state_mut().firewall.chains.clear();
    assert_eq!(flows(&mut kernel), [Flow::Clear; 2]);
}

#[test]
fn stages_are_told_by_the_guards_of_each_network() {
    let at = |stage| Config { stage, ..lab(1) };
    let sets = |stage| {
        let desired = wanted(&at(stage)).0;
        let tunnel = desired.tunnel.as_ref().unwrap();
        (desired.guards.len(), desired.fib.len(), tunnel.routes.len(), desired.sas.len())
    };
    // Two peers with two networks each, and SAs in for three generations.
    assert_eq!(sets(Stage::Receive), (0, 0, 0, 6));
    assert_eq!(sets(Stage::Send), (0, 0, 4, 8));
    assert_eq!(sets(Stage::Enforce), (10, 4, 4, 8));
    for (from, to, is_skipped) in [
        (Stage::Receive, Stage::Send, false),
        (Stage::Send, Stage::Enforce, false),
        (Stage::Receive, Stage::Enforce, true),
        (Stage::Enforce, Stage::Send, false),
        (Stage::Enforce, Stage::Receive, true),
    ] {
        let mut kernel = applied_host(&at(from));
        let told = warns(&at(to), &mut kernel, WarningCode::StageSkipped);
        assert_eq!(told.is_some(), is_skipped, "{from:?} to {to:?}: {told:?}");
    }
}

#[test]
fn both_ends_of_all_pairs_agree() {
    let config = lab(1);
    let moment = Moment { generation: Generation::new(1).unwrap(), clock: None };
    for place in 0..config.peers.len() {
        let row = Row::of(&config, moment, place);
        assert_eq!((row.pairs, row.unfit), (2 - place, vec![]));
    }
}

#[test]
fn a_host_without_iptables_is_told_what_gets_past_blackholes() {
    let without = |families: &[Family]| {
        let mut kernel = host(&mesh(1, &super::LAB));
        let firewall = &mut kernel.state_mut().firewall;
        families.iter().for_each(|family| _ = firewall.backends.remove(family));
        warns(&lab(1), &mut kernel, WarningCode::SecondGuardMissing)
    };
    assert_eq!(without(&[]), None);
    let told = without(&[Family::Ipv6]).unwrap();
    assert!(told.contains("there is no ip6tables") && told.contains("ping -I eth0"), "{told}");
    assert!(without(&[Family::Ipv4]).unwrap().contains("after a flush of all policies"));
    let at_send = Config { stage: Stage::Send, ..lab(1) };
    let mut kernel = host(&mesh(1, &super::LAB));
    kernel.state_mut().firewall.backends.clear();
    assert_eq!(warns(&at_send, &mut kernel, WarningCode::SecondGuardMissing), None);
}

#[test]
fn a_host_without_a_route_to_its_own_network_is_told() {
    let told = |edit: &dyn Fn(&mut Config, &mut State)| {
        let (mut config, mut kernel) = (lab(1), host(&mesh(1, &super::LAB)));
        edit(&mut config, kernel.state_mut());
        warns(&config, &mut kernel, WarningCode::NoOwnRoute)
    };
    let by = |to: &str, device: &str| FibEntry {
        protocol: 2,
        metric: 0,
        ..FibEntry::through(prefix(to), device, None)
    };
    let local = |to: &str| FibEntry {
        table: 255,
        action: FibAction::Other("local".into()),
        ..by(to, "lo")
    };
    let both = told(&|_, state| {
        state.fib.extend([by("0.0.0.0/0", "eth0"), by("::/0", "eth0"), local("10.9.0.1/32")]);
    });
    let both = both.unwrap();
    assert!(both.contains("10.9.0.0/16, fd00:9::/48"), "{both}");
    let one = told(&|_, state| state.fib.extend([by("10.9.0.0/16", "lan0")])).unwrap();
    assert!(one.contains("fd00:9::/48") && !one.contains("10.9"), "{one}");
    let parts = [by("10.9.3.0/24", "lan0"), by("fd00:9:0:1::/64", "lan0")];
    assert_eq!(told(&|_, state| state.fib.extend(parts.clone())), None);
    let wider = [by("10.0.0.0/8", "lan0"), by("fd00::/16", "lan0")];
    assert_eq!(told(&|_, state| state.fib.extend(wider.clone())), None);
    // Addresses of the host itself, and a plan that knows no host.
    let single = told(&|config, state| {
        config.peers[0].networks = [prefix("10.9.0.1/32"), prefix("fd00:9::7/128")].into();
        state.fib.clear();
    });
    assert_eq!(single, None);
    assert_eq!(told(&|_, state| state.links.clear()), None);
}

/// Until the guards of an old network go, the chain drops packets to it, and spares those of the old
/// interface.
#[test]
fn a_chain_changes_in_two_steps_where_networks_or_the_interface_go() {
    let mut config = lab(1);
    config.peers[1].networks = ["fd00:2::/48"].map(prefix).into();
    config.tunnel.as_mut().unwrap().device = "vpn".into();
    let plan = plan(&config, &mut applied_host(&lab(1)));
    let sets: Vec<(Phase, String)> = plan
        .steps
        .iter()
        .filter_map(|planned| match &planned.step.kind {
            StepKind::Chain(ChainStep::Set { id, rules, .. })
                if id.family == Family::Ipv4 && id.role() == Some(ChainRole::Post) =>
            {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                Some((planned.phase, rules.join("; ")))
            }
            _ => None,
        })
        .collect();
    let [vpn, mesh0] = ["vpn", "mesh0"].map(|device| format!("-o {device} -j RETURN"));
    let protected = "-m policy --dir out --pol ipsec --reqid 1297285121 -j RETURN";
    let drop = |network: &str| format!("-d {network} ! -o lo -j DROP");
    let both =
        format!("{vpn}; {protected}; {mesh0}; {}; {}", drop("10.3.0.0/16"), drop("10.2.0.0/15"));
    let last = format!("{vpn}; {protected}; {}", drop("10.3.0.0/16"));
    assert_eq!(sets, [(Phase::Guards, both), (Phase::DeleteGuards, last)]);
}

/// ESP packets and those to the internet meet few rules. While networks change, none lets packets pass
/// to all but some.
#[test]
fn many_networks_have_a_rule_ahead_that_is_not_there_while_they_change() {
    let with = |numbers: &[u8]| {
        let mut config = lab(1);
        let network = |number: &u8| prefix(&format!("10.2.{number}.0/24"));
        config.peers[1].networks = numbers.iter().map(network).collect();
        config.peers[2].networks = [prefix("10.2.64.0/24")].into();
        config
    };
    let before = with(&[0, 2, 4, 6, 8, 10, 12, 14, 16]);
    let mut kernel = applied_host(&before);
    let chain = kernel.state().firewall.chains.iter().find(|chain| chain.rules.len() > 3);
    let rules: Vec<String> = chain.unwrap().rules.iter().map(ToString::to_string).collect();
    assert_eq!((&*rules[2], rules.len()), ("! -d 10.2.0.0/17 -j RETURN", 3 + 10), "{rules:?}");
    let after = with(&[0, 2, 4, 6, 8, 10, 12, 14, 128]);
    let plan = plan(&after, &mut kernel);
    let ahead: Vec<(Phase, Vec<String>)> = plan
        .steps
        .iter()
        .filter_map(|planned| match &planned.step.kind {
            StepKind::Chain(ChainStep::Set { id, rules, .. })
                if id.role() == Some(ChainRole::Post) =>
            {
                let rules = rules.iter().map(ToString::to_string);
                Some((planned.phase, rules.filter(|rule| rule.starts_with('!')).collect()))
            }
            _ => None,
        })
        .collect();
    let last = vec!["! -d 10.2.0.0/16 -j RETURN".to_owned()];
    assert_eq!(ahead, [(Phase::Guards, vec![]), (Phase::DeleteGuards, last)]);
}

#[test]
fn a_foreign_policy_whose_packets_the_chain_drops_is_named() {
    let mut kernel = applied_host(&lab(1));
    let id = PolicyId::new(Direction::Out, Selector::to_network(prefix("fd00:2:0:7::/64")));
    let [src, dst] = ["2001:db8::1", "2001:db8::9"].map(|at| at.parse().unwrap());
    let template = Template::transport(src, dst, Spi::from_raw(0), Reqid(77));
    let template = Template { mode: Mode::Tunnel, ..template };
    kernel.state_mut().policies.push(Policy::of_peer(id, template));
    let told = warns(&lab(1), &mut kernel, WarningCode::SecondGuardDrops).unwrap();
    assert!(told.contains("fd00:2:0:7::/64") && told.contains("out of one of the two"), "{told}");
}

#[test]
fn a_host_without_ipv6_reaches_networks_of_ipv4_and_its_plan_is_empty() {
    let mut kernel = host(&mesh(1, &super::LAB));
    kernel.state_mut().ipv6_off = true;
    assert!(crate::common::applied(&lab(1), &mut kernel).is_complete());
    let told = warns(&lab(1), &mut kernel, WarningCode::NoIpv6).unwrap();
    assert!(told.contains("net/ipv6/conf/mesh0/disable_ipv6=0"), "{told}");
    assert!(plan(&lab(1), &mut kernel).is_empty());
    let through = |kernel: &Memory| {
        let entries = kernel.state().fib_of(REQID);
        let through = entries.filter(|entry| entry.action == FibAction::device("mesh0"));
        through.map(|entry| entry.to.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(through(&kernel), ["10.2.0.0/16", "10.3.0.0/16"]);
    assert!(kernel.state().addresses.iter().all(|at| !at.address.to_string().starts_with("fd00")));
    let desired = wanted(&lab(1)).0;
    let flows = flows_out(&observe(&mut kernel).0, &desired, |_| true);
    assert!(flows.values().all(|flow| matches!(flow, Flow::Protected(_))), "{flows:?}");

    // On again, or no IPv6 in the kernel.
    kernel.state_mut().ipv6_off = false;
    assert!(crate::common::applied(&lab(1), &mut kernel).is_complete());
    assert_eq!(through(&kernel).len(), 4);
    let mut kernel = host(&mesh(1, &super::LAB));
    kernel.state_mut().ipv6_off = true;
    kernel.state_mut().firewall.absent.insert(Family::Ipv6);
    assert!(crate::common::applied(&lab(1), &mut kernel).is_complete());
    assert!(kernel.state().fib.iter().all(|entry| entry.to.address.is_ipv4()));
    assert!(plan(&lab(1), &mut kernel).is_empty());
}

/// The kernel takes IPv6 off an interface with such an MTU.
#[test]
fn an_interface_too_small_for_ipv6_has_no_address_or_route_of_it() {
    let mut config = lab(1);
    config.tunnel.as_mut().unwrap().mtu = Mtu::Exactly(1279);
    let plan = plan(&config, &mut host(&mesh(1, &super::LAB)));
    let lines: Vec<String> = plan.changes.iter().map(|change| change.line()).collect();
    let by_interface =
        lines.iter().filter(|line| line.contains("dev mesh0") && line.contains("fd00"));
    assert_eq!(by_interface.count(), 0, "{lines:?}");
}

#[test]
fn a_rule_that_changes_sources_is_named_with_the_interface_to_leave_out() {
    let mut kernel = applied_host(&lab(1));
    let rule = "iptables-nft -t nat -A POSTROUTING -j MASQUERADE".to_owned();
    let translation = Translation { rule, chain: "POSTROUTING".into(), certain: true, esp: false };
    kernel.state_mut().translations.push(translation);
    assert_eq!(codes(&lab(1), &mut kernel), []);
    let told = warns(&lab(1), &mut kernel, WarningCode::Translated).unwrap();
    assert!(
        told.contains("MASQUERADE") && told.contains("-I POSTROUTING -o mesh0 -j ACCEPT"),
        "{told}"
    );
}

#[test]
fn an_address_of_the_host_in_a_peers_network_is_named_as_that() {
    let mut kernel = host(&mesh(1, &super::LAB));
    let entry = FibEntry {
        table: 255,
        protocol: 2,
        metric: 0,
        action: FibAction::Other("local".into()),
        ..FibEntry::through(prefix("10.2.0.9/32"), "lo", None)
    };
    kernel.state_mut().fib.push(entry);
    let plan = plan(&lab(1), &mut kernel);
    let [conflict] = plan.conflicts.as_slice() else { panic!("{:?}", plan.conflicts) };
    assert_eq!(conflict.object, "address 10.2.0.9");
    assert!(conflict.text.contains("10.2.0.0/16, a network of the peer"), "{}", conflict.text);
}

#[test]
fn networks_that_nothing_protects_afterwards_are_named() {
    let at = |stage| Config { stage, ..lab(1) };
    let told = |from, to| {
        warns(&at(to), &mut applied_host(&at(from)), WarningCode::LeftInTheClear)
            .unwrap_or_default()
    };
    assert_eq!(told(Stage::Enforce, Stage::Send), "");
    let networks = "10.2.0.0/16, src 0.0.0.0/0 dst 10.3.0.0/16, src ::/0 dst fd00:2::/48";
    assert!(told(Stage::Send, Stage::Receive).contains(networks));
    assert!(told(Stage::Enforce, Stage::Receive).contains(networks));
    // Routes go with pairs, and blackholes stay.
    let mut config = lab(1);
    config.peers[2].address = "2001:db8::3".parse().unwrap();
    let told = warns(&config, &mut applied_host(&lab(1)), WarningCode::LeftInTheClear);
    assert_eq!(told, None);
}
