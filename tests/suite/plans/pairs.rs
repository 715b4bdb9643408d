//! Golden plans of meshes in which not every host talks to every other.

use super::*;
use meshsec::{
    config::{Members, Pairs},
    desired::desired,
    model::{GroupName, PeerName, ReasonCode, WarningCode},
};

fn peer(name: &str) -> Members {
    Members::Peer(PeerName::new(name).unwrap())
}

/// The lab, in which a talks to b only.
fn without_c(config: Config) -> Config {
    Config { pairs: Pairs::Listed(vec![[peer("a"), peer("b")]]), ..config }
}

#[test]
fn a_host_without_a_pair_is_a_stranger() {
    golden("pairs-leave-c-out", &without_c(lab()), &mut host(&lab()));
    golden("pairs-leave-c-out-of-a-running-mesh", &without_c(lab()), &mut applied_host(&lab()));
}

#[test]
fn every_plan_says_what_becomes_of_traffic_without_a_pair() {
    let told = |config: &Config| {
        let plan = crate::common::plan(config, &mut applied_host(config));
        assert!(plan.is_empty());
        let line = plan.warnings.iter().find(|line| line.code == WarningCode::NotPaired);
        line.expect("a warning").text.to_string()
    };
    let open = Config { guard: Guard::Off, ..lab() };
    assert!(told(&without_c(lab())).ends_with("is blocked by the guard"));
    assert!(told(&without_c(open)).ends_with("is not protected"));
    let plan = crate::common::plan(&without_c(lab()), &mut applied_host(&lab()));
    assert!(plan.changes.iter().all(|change| change.reason.code == ReasonCode::PairGone));
    // The other end may not have followed.
    assert!(plan.warnings.iter().any(|line| line.code == WarningCode::StageSkipped));
}

/// Each of 16 hosts, in groups by the bits of its number, has the pairs that the others have with it.
#[test]
fn both_ends_of_a_pair_agree() {
    let addresses: Vec<String> = (0..16).map(|host| format!("192.0.2.{}", host + 1)).collect();
    let mut config = lab();
    let group = |bit: u16| GroupName::new(&format!("bit-{bit}")).unwrap();
    config.peers = (0..16_u16)
        .map(|host| meshsec::config::Peer {
            name: PeerName::new(&format!("p{host}")).unwrap(),
            short_id: meshsec::model::ShortId::new(host).unwrap(),
            address: addresses[usize::from(host)].parse().unwrap(),
            groups: (0..4).filter(|bit| host >> bit & 1 == 1).map(group).collect(),
            ..lab().peers[0].clone()
        })
        .collect();
    config.pairs = Pairs::Listed(vec![
        [Members::Group(group(0)), Members::Group(group(1))],
        [peer("p4"), Members::Everybody],
        [Members::Group(group(3)), Members::Group(group(3))],
    ]);
    let bit = |host: u16, bit: u16| host >> bit & 1 == 1;
    let is_pair = |one: u16, other: u16| {
        bit(one, 0) && bit(other, 1)
            || bit(one, 1) && bit(other, 0)
            || one == 4
            || other == 4
            || bit(one, 3) && bit(other, 3)
    };
    for (one, local) in (0..).zip(&config.peers) {
        let moment = config.rotation.at(Time::default());
        let (wanted, _) = desired(&config, moment, local, Some(&crate::common::secrets()));
        for (other, peer) in (0..).zip(&config.peers).filter(|(other, _)| *other != one) {
            let has = wanted.peers.contains_key(&peer.address);
            assert_eq!(has, is_pair(one, other), "{} and {}", local.name, peer.name);
            assert_eq!(wanted.not_paired.contains_key(&peer.address), !has);
        }
    }
}
