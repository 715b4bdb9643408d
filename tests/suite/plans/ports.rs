//! Golden plans of a kind with several ports, and of ports that come and go.

use super::*;
use meshsec::model::{Stage, WarningCode};

/// Conversations with some ports between three hosts, at a stage.
fn with_ports(ports: &[u16], stage: Stage) -> Config {
    let traffic = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::new(ports).unwrap() };
    Config { traffic, guard: Guard::Off, stage, ..lab() }
}

/// A host that has applied one list of ports, and is to have another.
fn from_to(before: &[u16], after: &[u16], stage: Stage) -> (Config, Memory) {
    (with_ports(after, stage), applied_host(&with_ports(before, stage)))
}

/// Policies for each port, and those for ICMP errors once.
#[test]
fn several_ports_of_tcp_both_ways() {
    let config =
        Config { peers: lab().peers[..2].to_vec(), ..with_ports(&[2181, 2888], Stage::Enforce) };
    golden("several-ports-of-tcp-both-ways", &config, &mut host(&config));
}

#[test]
fn a_port_is_added() {
    let (config, mut kernel) = from_to(&[2181, 2888], &[3888, 2888, 2181], Stage::Enforce);
    golden("a-port-is-added", &config, &mut kernel);
    assert!(applied(&config, &mut kernel).is_complete());
    assert!(crate::common::plan(&config, &mut kernel).is_empty());
}

#[test]
fn a_port_is_removed() {
    let (config, mut kernel) = from_to(&[2181, 2888, 3888], &[2181, 2888], Stage::Enforce);
    golden("a-port-is-removed", &config, &mut kernel);
    assert!(applied(&config, &mut kernel).is_complete());
    assert!(crate::common::plan(&config, &mut kernel).is_empty());
}

/// By the order in the file nothing changes.
#[test]
fn the_order_of_ports_is_no_difference() {
    let (config, mut kernel) = from_to(&[2181, 2888, 3888], &[3888, 2181, 2888], Stage::Enforce);
    assert!(crate::common::plan(&config, &mut kernel).is_empty());
}

/// The texts of warnings with a code.
fn told(config: &Config, kernel: &mut Memory, code: WarningCode) -> Vec<String> {
    let plan = crate::common::plan(config, kernel);
    plan.warnings.into_iter().filter(|line| line.code == code).map(|line| line.text).collect()
}

/// Of ssh only where its port is what stops.
#[test]
fn a_plan_names_ssh_where_its_port_is_added() {
    for (before, after, has_ssh) in [
        (&[443][..], &[22, 443][..], true),
        (&[22], &[22, 443], false),
        (&[443], &[80, 443], false),
    ] {
        let (config, mut kernel) = from_to(before, after, Stage::Enforce);
        let lines = told(&config, &mut kernel, WarningCode::ClearTextStops);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].contains("(ssh too)"), has_ssh, "{}", lines[0]);
    }
}

/// At stage send a port comes and goes without a cut, and packets of one that goes leave in the
/// clear.
#[test]
fn ports_come_and_go_without_a_cut_at_stage_send() {
    let (config, mut kernel) = from_to(&[2181], &[2181, 2888], Stage::Send);
    assert_eq!(told(&config, &mut kernel, WarningCode::ClearTextStops), [""; 0]);
    let (config, mut kernel) = from_to(&[2181, 2888], &[2181], Stage::Send);
    assert_eq!(told(&config, &mut kernel, WarningCode::StageSkipped), [""; 0]);
    assert_eq!(told(&config, &mut kernel, WarningCode::LeftInTheClear).len(), 1);
    // Others may still refuse clear text where this host did until now.
    let mut kernel = applied_host(&with_ports(&[2181, 2888], Stage::Enforce));
    assert_eq!(told(&config, &mut kernel, WarningCode::StageSkipped).len(), 1);
}

/// A peer that leaves the mesh takes its policies along, and no port is named.
#[test]
fn a_peer_that_leaves_is_no_port_that_goes() {
    let mut config = with_ports(&[2181, 2888], Stage::Enforce);
    let mut kernel = applied_host(&config);
    config.peers.pop();
    assert_eq!(told(&config, &mut kernel, WarningCode::StageSkipped), [""; 0]);
}
