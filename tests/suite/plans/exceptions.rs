//! Golden plans of exceptions from all traffic.

use super::*;
use meshsec::{
    config::{Exception, Members},
    model::{PeerName, WarningCode},
    plan::{Phase, PolicyStep, StepKind},
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

/// A foreign policy in the way of the peer holds other changes back, but less is to pass in the clear.
#[test]
fn no_conflict_keeps_an_exception_that_ends() {
    let mut kernel = applied_host(&all(vec![ssh_of(&["b"])]));
    let [a, b] = [LAB[0], LAB[1]].map(|address| Prefix::host(address.parse().unwrap()));
    let dns = Selector::between(a, b).to_port(17, 53);
    kernel.state_mut().policies.push(foreign_allow(Direction::Out, dns, 500));
    let plan = crate::common::plan(&all(Vec::new()), &mut kernel);
    assert!(!plan.conflicts.is_empty());
    let gone = |change: &meshsec::plan::Change| change.passage().is_some();
    assert_eq!(plan.changes.iter().filter(|change| gone(change)).count(), 3);
    applied(&all(Vec::new()), &mut kernel);
    assert!(
        kernel
            .state_mut()
            .policies
            .iter()
            .all(|policy| policy.passage_in(crate::common::REQID).is_none())
    );
}

/// The number of policies that let packets pass in the clear.
fn exceptions(kernel: &mut Memory) -> usize {
    let policies = kernel.state_mut().policies.iter();
    policies.filter(|policy| policy.passage_in(crate::common::REQID).is_some()).count()
}

/// A run that ended between the two steps leaves a policy that protects, and either file goes on.
#[test]
fn an_exception_that_has_half_ended_ends_or_comes_back() {
    let with = all(vec![ssh_of(&["b"])]);
    for goal in [&with, &all(Vec::new())] {
        let mut kernel = applied_host(&with);
        let (_, keyring) = crate::common::wanted(&with);
        let plan = crate::common::plan(&all(Vec::new()), &mut kernel);
        let step = plan.steps[0].step.keyed(|id| keyring.get(id).ok_or(*id)).unwrap();
        assert_eq!(exceptions(&mut kernel), 3);
        assert!(meshsec::kernel::Kernel::perform(&mut kernel, &[step]).unwrap()[0].is_ok());
        assert_eq!(exceptions(&mut kernel), 2);
        assert!(applied(goal, &mut kernel).is_complete());
        assert!(crate::common::plan(goal, &mut kernel).is_empty());
    }
}

#[test]
fn an_exception_does_not_open_what_a_foreign_policy_protects() {
    let [a, b] = [LAB[0], LAB[1]].map(|address| Prefix::host(address.parse().unwrap()));
    let ssh = Selector::between(a, b).to_port(6, 22);
    let protects = |priority| {
        let mut policy = foreign_allow(Direction::Out, ssh, priority);
        policy.templates = vec![Template::transport(
            LAB[0].parse().unwrap(),
            LAB[1].parse().unwrap(),
            Spi::from_raw(0),
            Reqid(7),
        )];
        policy
    };
    let config = all(vec![ssh_of(&["b"])]);
    let mut kernel = host(&config);
    kernel.state_mut().policies.push(protects(2000));
    golden("an-exception-opens-what-others-protect", &config, &mut kernel);
    // Behind a policy that is asked first it opens nothing, nor what passes anyway, nor packets of an
    // interface that the mesh's policies are not asked about.
    let mut of_interface = protects(2000);
    of_interface.id.if_id = 7;
    let opens = meshsec::model::ConflictCode::ExceptionOpens;
    for policy in [protects(10), foreign_allow(Direction::Out, ssh, 2000), of_interface] {
        let mut kernel = host(&config);
        kernel.state_mut().policies.push(policy);
        let plan = crate::common::plan(&config, &mut kernel);
        assert!(plan.conflicts.iter().all(|conflict| conflict.code != opens));
    }
}

/// Open sockets look again when the guard is added. A delete behind it would leave them in the clear.
#[test]
fn an_exception_that_a_new_guard_blocks_goes_before_the_guard_comes() {
    let member = Members::Peer(PeerName::new("b").unwrap());
    let vxlan = Exception::Port { protocol: Protocol::Udp, port: 4789, serves: vec![member] };
    let mut kernel = applied_host(&all(vec![vxlan]));
    let mut config = mesh(1, &LAB);
    config.peers.retain(|peer| peer.name.as_str() != "b");
    let plan = crate::common::plan(&config, &mut kernel);
    let is_exception = |policy: &Policy| policy.passage_in(crate::common::REQID).is_some();
    let deletes = plan.steps.iter().filter(|step| {
        matches!(&step.step.kind, StepKind::Policy(PolicyStep::Delete(policy)) if is_exception(policy))
    });
    let phases: Vec<Phase> = deletes.map(|step| step.phase).collect();
    // No guard is asked about what is forwarded.
    assert_eq!(phases, [Phase::EndExceptions, Phase::EndExceptions, Phase::DeleteExceptions]);
    assert!(plan.steps.iter().any(|step| step.phase == Phase::Guards));
    assert!(applied(&config, &mut kernel).is_complete());
    assert!(crate::common::plan(&config, &mut kernel).is_empty());
}

/// An ssh of one's own goes on where the file lets it pass, whichever end serves it.
#[test]
fn ssh_is_warned_of_unless_an_exception_is_for_it() {
    let warns = |exception| {
        let config = all(vec![exception]);
        let plan = crate::common::plan(&config, &mut host(&config));
        plan.warnings.iter().any(|line| line.text.contains("(ssh too)"))
    };
    let serves = vec![Members::Peer(PeerName::new("b").unwrap())];
    assert!(warns(Exception::Port { protocol: Protocol::Tcp, port: 80, serves }));
    let serves = vec![Members::Peer(PeerName::new("b").unwrap())];
    assert!(warns(Exception::Port { protocol: Protocol::Udp, port: 22, serves }));
    assert!(warns(Exception::Echo));
    assert!(!warns(ssh_of(&["a"])));
    assert!(!warns(ssh_of(&["b"])));
}
