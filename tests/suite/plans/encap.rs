//! Golden plans of a mesh with ESP in UDP.

use super::*;
use meshsec::{
    config::{EncapWish, LinkWish},
    model::{Answers, EncapSocket, Generation, Mtu, Passage, WarningCode},
};

const LAB6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

fn encap(port: u16, from: u64) -> Option<EncapWish> {
    Some(EncapWish { port, from: Generation::new(from).unwrap(), keepalive: None })
}

/// The lab with ESP in UDP from a generation on.
fn lab_from(from: u64, generation: u64) -> Config {
    let mut config = mesh(generation, &LAB);
    config.esp.encap = encap(4500, from);
    config.link = Some(LinkWish { device: "vxlan42".into(), mtu: Mtu::Auto });
    config
}

fn all() -> Config {
    let mut config = Config { traffic: Traffic::All, guard: Guard::Off, ..mesh(1, &LAB[..2]) };
    config.esp.encap = encap(4500, 0);
    config
}

const ANSWERS: EncapSocket = EncapSocket { port: 4500, answers: Answers::Yes, is_bound: true };

#[test]
fn all_traffic_goes_into_udp_on_an_empty_host() {
    let mut kernel = host(&all());
    kernel.state_mut().encap = Some(ANSWERS);
    golden("all-traffic-goes-into-udp", &all(), &mut kernel);
    assert!(applied(&all(), &mut kernel).is_complete());
    assert!(crate::common::plan(&all(), &mut kernel).is_empty());
    // Another port: the policy of the old one goes.
    let mut other = all();
    other.esp.encap = encap(4501, 0);
    golden("all-traffic-goes-into-another-port", &other, &mut kernel);
    let mut plain = all();
    plain.esp.encap = None;
    golden("all-traffic-leaves-udp", &plain, &mut kernel);
}

#[test]
fn a_mesh_goes_into_udp_step_by_step() {
    let mut plain = lab_from(0, 10);
    plain.esp.encap = None;
    let mut kernel = applied_host(&plain);
    kernel.state_mut().encap = Some(ANSWERS);
    for (name, generation) in [
        ("into-udp-1-the-file", 10),
        ("into-udp-2-the-generation-before", 11),
        ("into-udp-3-the-generation", 12),
    ] {
        let config = lab_from(12, generation);
        golden(name, &config, &mut kernel);
        assert!(applied(&config, &mut kernel).is_complete());
        assert!(crate::common::plan(&config, &mut kernel).is_empty(), "{name}");
    }
    plain.rotation = Rotation::Generation(Generation::new(12).unwrap());
    golden("out-of-udp-at-once", &plain, &mut kernel);
}

#[test]
fn a_generation_by_the_clock_has_its_time() {
    let mut config = lab_from(505_490, 1);
    config.rotation = Rotation::Period(Period::new(3600).unwrap());
    config.esp.replay = Replay { window: 1024, esn: true };
    let mut kernel = host(&config);
    kernel.set_now(Time(1_819_760_400_000_000_000));
    kernel.state_mut().encap = Some(ANSWERS);
    golden("into-udp-by-the-clock", &config, &mut kernel);
}

#[test]
fn a_socket_is_there_or_not_or_not_known() {
    use Answers::{No, Unknown, Yes};
    let socket = |port, answers, is_bound| Some(EncapSocket { port, answers, is_bound });
    let (missing, unknown) = (WarningCode::EncapSocketMissing, WarningCode::EncapSocketUnknown);
    for (socket, code, text) in [
        (socket(4500, Yes, true), None, ""),
        (socket(4500, No, false), Some(missing), "as no socket of this host takes it"),
        (socket(4500, No, true), Some(missing), "a socket has that port, but"),
        (socket(4500, Unknown, false), Some(unknown), "is not known"),
        (socket(4500, Unknown, true), Some(unknown), "plan again after apply"),
        (socket(4501, Yes, true), Some(unknown), "is not known"),
        (None, Some(unknown), "is not known"),
    ] {
        for (from, begins) in [(0, false), (2, false), (3, true)] {
            let config = lab_from(from, 1);
            let mut kernel = host(&config);
            kernel.state_mut().encap = socket;
            let plan = crate::common::plan(&config, &mut kernel);
            let of_sockets = [missing, unknown];
            let found: Vec<_> =
                plan.warnings.iter().filter(|line| of_sockets.contains(&line.code)).collect();
            assert_eq!(found.first().map(|line| line.code), code, "{socket:?} {found:?}");
            let said = found.first().map(|line| line.text.to_string()).unwrap_or_default();
            assert!(said.contains(text) && found.len() <= 1, "{said}");
            assert_eq!(said.contains("from generation 3 on"), begins && code.is_some(), "{said}");
        }
    }
    // Each family has a unit of its own.
    for (peers, unit) in
        [(&LAB[..], "meshsec-encap@4500.socket"), (&LAB6, "meshsec-encap6@4500.socket")]
    {
        let config = Config { peers: mesh(1, peers).peers, ..lab_from(0, 1) };
        let mut kernel = host(&config);
        kernel.state_mut().encap = socket(4500, No, false);
        let plan = crate::common::plan(&config, &mut kernel);
        assert!(plan.warnings.iter().any(|line| line.text.to_string().contains(unit)), "{unit}");
    }
    // Without a peer nothing comes in, and nothing is said.
    let mut alone = lab_from(0, 1);
    alone.peers.truncate(1);
    let plan = crate::common::plan(&alone, &mut host(&alone));
    assert!(plan.warnings.iter().all(|line| line.code != unknown), "{:?}", plan.warnings);
}

/// The lab with keepalives, on a kernel that sends them, or does not, or does not tell.
fn with_keepalives(known: Option<bool>) -> (Config, Memory) {
    let mut config = lab_from(0, 1);
    let keepalive = Some(20);
    config.esp.encap = config.esp.encap.map(|encap| EncapWish { keepalive, ..encap });
    config.esp.replay = Replay { window: 1024, esn: true };
    let mut kernel = host(&config);
    kernel.state_mut().encap = Some(ANSWERS);
    kernel.state_mut().keepalives = known;
    (config, kernel)
}

#[test]
fn keepalives_are_made_where_the_kernel_sends_them() {
    let (missing, unknown) = (WarningCode::KeepalivesMissing, WarningCode::KeepalivesUnknown);
    for (known, name, code) in [
        (Some(true), "keepalives", None),
        (Some(false), "keepalives-on-an-old-kernel", Some(missing)),
        (None, "keepalives-not-known", Some(unknown)),
    ] {
        let (config, mut kernel) = with_keepalives(known);
        golden(name, &config, &mut kernel);
        assert!(applied(&config, &mut kernel).is_complete(), "{name}");
        let plan = crate::common::plan(&config, &mut kernel);
        assert!(plan.is_empty(), "{name}");
        let codes = [missing, unknown];
        let found = plan.warnings.iter().map(|line| line.code).find(|code| codes.contains(code));
        assert_eq!(found, code, "{name}");
        let outbound = |sa: &&Sa| sa.src.to_string() == LAB[0];
        let state = kernel.state();
        let (out, inbound): (Vec<&Sa>, Vec<&Sa>) = state.sas.iter().partition(outbound);
        let expected = if known == Some(true) { (Some(20), 0) } else { (None, 1024) };
        assert!(out.iter().all(|sa| (sa.keepalive, sa.replay.window) == expected), "{name}");
        assert!(!out.is_empty() && inbound.iter().all(|sa| sa.replay.window == 1024), "{name}");
    }
}

#[test]
fn keepalives_come_and_go_with_the_file() {
    let (config, mut kernel) = with_keepalives(Some(true));
    let mut without = config.clone();
    without.esp.encap = encap(4500, 0);
    assert!(applied(&without, &mut kernel).is_complete());
    golden("keepalives-come", &config, &mut kernel);
    assert!(applied(&config, &mut kernel).is_complete());
    golden("keepalives-go", &without, &mut kernel);
}

#[test]
fn an_sa_tells_of_the_kernel_where_nothing_else_does() {
    // A kernel with directions and without keepalives: Linux 6.10.
    let (config, mut kernel) = with_keepalives(Some(true));
    assert!(applied(&config, &mut kernel).is_complete());
    let mut of_6_10 = kernel.clone();
    for sa in &mut of_6_10.state_mut().sas {
        if sa.keepalive.take().is_some() {
            sa.extras.insert(meshsec::model::DIRECTION_OUT.into());
        }
    }
    let plan = crate::common::plan(&config, &mut of_6_10);
    assert!(plan.is_empty());
    assert!(plan.warnings.iter().any(|line| line.code == WarningCode::KeepalivesMissing));
    // One SA that somebody has made anew says nothing against all the others.
    let mut edited = kernel.clone();
    let is_outbound = |sa: &&mut Sa| sa.keepalive.is_some();
    let sa = edited.state_mut().sas.iter_mut().find(is_outbound).unwrap();
    sa.keepalive = None;
    sa.extras.insert(meshsec::model::DIRECTION_OUT.into());
    let plan = crate::common::plan(&config, &mut edited);
    assert_eq!(plan.changes.len(), 1, "it is made right");
    assert!(plan.warnings.iter().all(|line| line.code != WarningCode::KeepalivesMissing));
    // A process that may not read the counters changes nothing.
    kernel.state_mut().keepalives = None;
    let plan = crate::common::plan(&config, &mut kernel);
    assert!(
        plan.is_empty()
            && plan.warnings.iter().all(|line| !line.text.to_string().contains("keepalive"))
    );
}

#[test]
fn a_foreign_policy_refuses_the_datagrams() {
    let refused = |config: &Config, policy: Policy| {
        let mut kernel = applied_host(config);
        kernel.state_mut().encap = Some(ANSWERS);
        kernel.state_mut().policies.push(policy);
        let plan = crate::common::plan(config, &mut kernel);
        let of_it = |code| code == WarningCode::EncapRefused;
        plan.warnings.iter().find(|line| of_it(line.code)).map(|line| line.text.to_string())
    };
    let host = |address: &str| Prefix::host(address.parse().unwrap());
    let any = Prefix::any(LAB[0].parse().unwrap());
    let to_here = Selector::between(any, host(LAB[0])).to_port(17, 4500);
    let from_b = Selector::between(host(LAB[1]), host(LAB[0]));
    let blocks = |selector, priority| Policy {
        action: Action::Block,
        ..foreign_allow(Direction::In, selector, priority)
    };
    for config in [&lab_from(0, 1), &all()] {
        let said = refused(config, blocks(to_here, 10)).unwrap();
        assert!(said.contains("ESP from b"), "{said}");
        let said = refused(config, blocks(from_b, 10)).unwrap();
        assert!(said.contains("ESP from b:"), "{said}");
        let out = Policy { action: Action::Block, ..foreign_allow(Direction::Out, from_b, 10) };
        assert_eq!(refused(config, out), None);
        assert_eq!(
            refused(config, foreign_allow(Direction::In, to_here.to_port(17, 4501), 10)),
            None
        );
    }
    // Behind the mesh's own policy for the datagrams.
    assert_eq!(refused(&all(), blocks(to_here, 2000)), None);
    assert!(refused(&lab_from(0, 1), blocks(to_here, 2000)).is_some());
}

/// Both ends of a port forward have SAs that fit each other.
#[test]
fn the_two_ends_of_a_port_forward_agree() {
    let mut config = lab_from(0, 1);
    config.peers[1].address = "10.0.0.2".parse().unwrap();
    config.peers[1].outside = Some("203.0.113.5:4777".parse().unwrap());
    let (of_a, _) = crate::common::wanted(&config);
    config.peers.swap(0, 1);
    let (of_b, _) = crate::common::wanted(&config);
    let spi = Spi::from_raw(0x8400_1002);
    let by_spi = |wanted: &meshsec::desired::Desired, spi| {
        wanted.sas.values().find(|sa| sa.sa.id.spi == spi).unwrap().sa.clone()
    };
    let text = |sa: &Sa| {
        let encap = sa.encap.map(|encap| encap.to_string()).unwrap_or_default();
        format!("{} -> {} {encap}, {}", sa.src, sa.id.dst, sa.selector.unwrap())
    };
    // From a to b.
    assert_eq!(
        text(&by_spi(&of_a, spi)),
        "192.0.2.1 -> 203.0.113.5 espinudp sport 4500 dport 4777, src 192.0.2.1/32 dst 203.0.113.5/32"
    );
    assert_eq!(
        text(&by_spi(&of_b, spi)),
        "192.0.2.1 -> 10.0.0.2 espinudp sport 4500 dport 4500, src 192.0.2.1/32 dst 10.0.0.2/32"
    );
    // From b to a.
    let spi = Spi::from_raw(0x8400_2001);
    assert_eq!(
        text(&by_spi(&of_b, spi)),
        "10.0.0.2 -> 192.0.2.1 espinudp sport 4500 dport 4500, src 10.0.0.2/32 dst 192.0.2.1/32"
    );
    assert_eq!(
        text(&by_spi(&of_a, spi)),
        "203.0.113.5 -> 192.0.2.1 espinudp sport 4777 dport 4500, src 203.0.113.5/32 dst 192.0.2.1/32"
    );
    assert!(of_a.peers.contains_key(&"203.0.113.5".parse().unwrap()));
    assert!(of_b.peers.contains_key(&LAB[0].parse().unwrap()));
}

/// It has the selector of the policy that lets ESP in UDP in.
#[test]
fn a_foreign_policy_takes_the_place_of_the_one_for_datagrams() {
    let mut kernel = host(&all());
    kernel.state_mut().encap = Some(ANSWERS);
    let (wanted, _) = crate::common::wanted(&all());
    let ours = wanted.passages.values().next().unwrap();
    assert_eq!(ours.passage(), Some(Passage::Encap));
    let blocks = foreign_allow(Direction::In, ours.id.selector, 5);
    kernel.state_mut().policies.push(Policy { action: Action::Block, ..blocks });
    golden("a-foreign-policy-is-in-the-place-of-esp-in-udp", &all(), &mut kernel);
}

/// Over IPv6 the policies for neighbour discovery let no datagrams in.
#[test]
fn a_policy_that_lets_other_packets_pass_is_none_for_datagrams() {
    let addresses = ["2001:db8::1", "2001:db8::2"];
    let mut config = Config { traffic: Traffic::All, guard: Guard::Off, ..mesh(1, &addresses) };
    config.esp.encap = encap(4500, 9);
    let mut kernel = applied_host(&config);
    kernel.state_mut().encap = Some(ANSWERS);
    let [a, b] = addresses.map(|address| Prefix::host(address.parse().unwrap()));
    let allows = foreign_allow(Direction::In, Selector::between(b, a), 2000);
    kernel.state_mut().policies.push(Policy { action: Action::Block, ..allows });
    let plan = crate::common::plan(&config, &mut kernel);
    assert!(plan.warnings.iter().any(|line| line.code == WarningCode::EncapRefused));
}
