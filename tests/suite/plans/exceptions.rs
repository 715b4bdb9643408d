//! Golden plans of exceptions from all traffic.

use super::*;
use meshsec::{
    config::{Exception, Members},
    model::{PeerName, WarningCode},
};

fn all(exceptions: Vec<Exception>) -> Config {
    Config { traffic: Traffic::All, guard: Guard::Off, exceptions, ..mesh(1, &LAB) }
}

fn ssh_of(hosts: &[&str]) -> Exception {
    let member = |host: &&str| Members::Peer(PeerName::new(host).unwrap());
    let serves = hosts.iter().map(member).collect();
    Exception::Port { protocol: Protocol::Tcp, port: 22, serves }
}

#[test]
fn exceptions_come_with_the_mesh_and_go_with_it() {
    let config = all(vec![ssh_of(&["a", "b"]), Exception::Echo]);
    let mut kernel = host(&config);
    golden("exceptions-on-an-empty-host", &config, &mut kernel);
    assert!(applied(&config, &mut kernel).is_complete());
    assert!(crate::common::plan(&config, &mut kernel).is_empty());
}

#[test]
fn an_exception_of_a_running_mesh_is_a_cut_for_its_packets() {
    let mut kernel = applied_host(&all(Vec::new()));
    golden("an-exception-is-added", &all(vec![ssh_of(&["b"])]), &mut kernel);
    assert!(applied(&all(vec![ssh_of(&["b"])]), &mut kernel).is_complete());
    let plan = crate::common::plan(&all(vec![ssh_of(&["b"])]), &mut kernel);
    assert!(plan.is_empty());
    assert!(plan.warnings.iter().any(|line| line.code == WarningCode::Excepted));
    golden("an-exception-is-removed", &all(Vec::new()), &mut kernel);
}

#[test]
fn over_ipv6_echo_is_another_protocol() {
    let addresses = ["2001:db8::1", "2001:db8::2"];
    let exceptions = vec![Exception::Echo];
    let config =
        Config { traffic: Traffic::All, guard: Guard::Off, exceptions, ..mesh(1, &addresses) };
    golden("exceptions-over-ipv6", &config, &mut host(&config));
}
