//! Messages of a real kernel (Linux 6.12, objects made by `ip xfrm`), the same ones damaged, and
//! the requests of [`super::super::encode`].

use std::{net::IpAddr, panic::catch_unwind};

use super::*;
use crate::{
    kernel::{
        linux::{encode, wire::Messages},
        rules::InitialValues,
    },
    model::{
        Action, Algorithm, Cipher, Direction, Encap, Fingerprint, Key, KeyView, Level, Mark,
        Policy, PolicyId, Replay, Reqid, Sa, SaId, Spi, Template, Time,
    },
};

const OURS: Reqid = Reqid(0x4d53_0001);

macro_rules! fixture {
    ($name:literal) => {
        bytes(include_str!(concat!("fixtures/", $name, ".hex")))
    };
}

fn bytes(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(digits).unwrap()
}

fn sas() -> [Vec<u8>; 5] {
    [
        fixture!("sa_ours"),
        fixture!("sa_ipv6"),
        fixture!("sa_extras"),
        fixture!("sa_older"),
        fixture!("sa_larval"),
    ]
}

fn policies() -> [Vec<u8>; 3] {
    [fixture!("policy_out"), fixture!("policy_guard"), fixture!("policy_extras")]
}

fn spi() -> Spi {
    Spi::from_raw(0x8100_1002)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The key of every SA of the fixtures: bytes 1 to 36.
fn key() -> Key {
    Key::new((1..=36).collect())
}

fn words(extras: &Extras) -> Vec<&str> {
    extras.iter().map(String::as_str).collect()
}

fn ours(src: &str, dst: &str, replay: Replay) -> Sa {
    Sa {
        id: SaId::esp(address(dst), spi()),
        src: address(src),
        reqid: OURS,
        mode: Mode::Transport,
        selector: Some(Selector::hosts(address(src), address(dst))),
        algorithm: Cipher::Aes256Gcm.algorithm(),
        key: KeyView::Known(key().fingerprint()),
        replay,
        ends: None,
        offload: None,
        encap: None,
        keepalive: None,
        if_id: 0,
        extras: Extras::new(),
    }
}

/// The SA of a message, without its usage.
fn sa(message: &mut [u8], ours: Reqid) -> Result<Sa, KernelError> {
    super::sa(message, ours, &Names::new()).map(|(sa, _)| sa)
}

#[test]
fn an_sa_of_ours_is_read_with_its_fingerprint() {
    let replay = Replay { window: 64, esn: true };
    let wanted = ours("192.0.2.1", "192.0.2.2", replay);
    assert_eq!(sa(&mut fixture!("sa_ours"), OURS), Ok(wanted));
    let replay = Replay { window: 32, esn: false };
    let wanted = ours("2001:db8::1", "2001:db8::2", replay);
    assert_eq!(sa(&mut fixture!("sa_ipv6"), OURS), Ok(wanted));
}

#[test]
fn the_key_is_wiped_from_the_message_whoever_asks() {
    for reqid in [OURS, Reqid(1)] {
        let mut message = fixture!("sa_ours");
        assert!(message.windows(36).any(|window| window == key().expose()));
        let view = sa(&mut message, reqid).unwrap().key;
        assert!(!message.windows(8).any(|window| window == &key().expose()[..8]));
        assert_eq!(view == KeyView::Unknown, reqid != OURS);
    }
}

#[test]
fn a_key_of_zeros_is_unknown_and_no_difference() {
    let mut message = fixture!("sa_ours");
    let at = message.windows(36).position(|window| window == key().expose()).unwrap();
    message[at..at + 36].fill(0);
    let found = sa(&mut message, OURS).unwrap();
    assert_eq!(found.key, KeyView::Unknown);
    assert_eq!(found.algorithm, Cipher::Aes256Gcm.algorithm());
}

#[test]
fn a_fingerprint_is_of_the_bits_that_the_transform_has() {
    let mut message = fixture!("sa_ours");
    let at = message.windows(36).position(|window| window == key().expose()).unwrap();
    message[at - 8..at - 4].copy_from_slice(&160u32.to_ne_bytes());
    let found = sa(&mut message, OURS).unwrap();
    assert_eq!(found.key, KeyView::Known(Fingerprint::of(&key().expose()[..20])));
    assert!(
        !message.windows(4).any(|window| window == &key().expose()[32..]),
        "wiped all the same"
    );
}

#[test]
fn what_the_model_has_no_field_for_is_named() {
    let found = sa(&mut fixture!("sa_extras"), OURS).unwrap();
    assert_eq!((found.id.mark, found.if_id), (Mark { value: 1, mask: 0xff }, 2));
    assert_eq!((found.mode, found.key), (Mode::Tunnel, KeyView::Unknown));
    assert_eq!(found.encap, Some(Encap { sport: 4500, dport: 4501 }));
    assert_eq!(
        words(&found.extras),
        [
            "flag decap-dscp",
            "flag dont-encap-dscp",
            "flag noecn",
            "output-mark 0x10/0xf0",
            "soft-byte limit 1000",
            "tfcpad 12",
        ]
    );
}

#[test]
fn older_transforms_are_named_once() {
    let found = sa(&mut fixture!("sa_older"), OURS).unwrap();
    let name = "auth hmac(sha256) 256 bits icv 128 crypt cbc(aes) 128 bits";
    assert_eq!(found.algorithm, Algorithm::Other(name.into()));
    assert_eq!(found.replay, Replay { window: 16, esn: false });
    assert_eq!(found.key, KeyView::Unknown);
}

#[test]
fn an_sa_without_a_transform_is_larval() {
    let found = sa(&mut fixture!("sa_larval"), OURS).unwrap();
    assert!(found.is_larval() && found.reqid == OURS && found.id.spi == spi());
}

#[test]
fn newer_attributes_are_named_and_defaults_are_not() {
    let with = |kind: u16, value: &[u8]| {
        let mut message = fixture!("sa_ours");
        message.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(value);
        message.resize(wire::aligned(message.len()), 0);
        sa(&mut message, OURS)
    };
    let sa = with;
    let with = |kind, value: &[u8]| {
        sa(kind, value).map(|sa| sa.extras.into_iter().collect::<Vec<_>>().join(", "))
    };
    let number = 3u32.to_ne_bytes();
    assert_eq!(with(33, &[2]).unwrap(), "dir out");
    assert_eq!(with(12, &number).unwrap(), "event-threshold 3");
    assert_eq!(sa(34, &number).unwrap().keepalive, Some(3));
    assert_eq!(sa(34, &[0; 4]).unwrap().keepalive, None);
    assert_eq!(with(35, &number).unwrap(), "pcpu 3");
    assert_eq!(with(36, &number).unwrap(), "xfrma 36 (unknown attribute)");
    assert_eq!(with(28, &[3, 0, 0, 0, 5, 0, 0, 0]).unwrap(), "offload flags 0x4");
    assert_eq!(with(8, &[8, 0, 8, 0, 1, 1, 0, 0]).unwrap(), "security context");
    for (kind, value) in [(27, &[][..]), (31, &[0; 4]), (33, &[0]), (34, &[0; 4]), (15, &[1; 8])] {
        assert_eq!(with(kind, value).unwrap(), "", "xfrma {kind}");
    }
    assert!(with(34, &[1]).is_err());
}

#[test]
fn numbers_and_a_lifetime_are_encoded_and_read_back() {
    let begin =
        InitialValues { sent: 5 << 32 | 7, received: 3 << 32 | 9, lifetime: 3600, device: 0 };
    let wanted = ours("192.0.2.1", "192.0.2.2", Replay { window: 1024, esn: true });
    let mut message = encode::new_sa(&wanted, &key(), begin).body;
    let (found, usage) = super::sa(&mut message.clone(), OURS, &Names::new()).unwrap();
    assert_eq!((usage.sent, usage.received), (begin.sent, begin.received));
    // The kernel adds the time of addition, which a request doesn't have.
    assert_eq!(found, Sa { ends: Some(Time::from_seconds(3600)), ..wanted.clone() });
    let all_received = [0xff; 1024 / 8];
    assert!(message.windows(128).any(|window| window == all_received), "none is taken again");

    let fresh = InitialValues { received: 0, ..begin };
    message = encode::new_sa(&wanted, &key(), fresh).body;
    assert!(!message.windows(128).any(|window| window == all_received));

    let begin = InitialValues { sent: 7, received: 9, lifetime: 0, device: 0 };
    let wanted = ours("192.0.2.1", "192.0.2.2", Replay { window: 32, esn: false });
    let (found, usage) =
        super::sa(&mut encode::new_sa(&wanted, &key(), begin).body, OURS, &Names::new()).unwrap();
    assert_eq!((usage.sent, usage.received, found), (7, 9, wanted));
}

/// An SA that replaces this one has to go on from the larger numbers.
#[test]
fn numbers_of_32_bits_beside_those_of_64_change_nothing() {
    let begin = InitialValues { sent: 5 << 32 | 7, received: 3 << 32 | 9, lifetime: 0, device: 0 };
    let wanted = ours("192.0.2.1", "192.0.2.2", Replay { window: 64, esn: true });
    let mut message = encode::new_sa(&wanted, &key(), begin).body;
    // XFRMA_REPLAY_VAL with `struct xfrm_replay_state`.
    message.extend([16u16, 10, 1, 0, 2, 0, 0, 0].iter().flat_map(|half| half.to_ne_bytes()));
    let (_, usage) = super::sa(&mut message, OURS, &Names::new()).unwrap();
    assert_eq!((usage.sent, usage.received), (begin.sent, begin.received));
}

#[test]
fn an_end_is_counted_from_the_addition() {
    let (found, usage) = super::sa(&mut fixture!("sa_extras"), OURS, &Names::new()).unwrap();
    assert_eq!(found.ends, Some(Time::from_seconds(usage.added.seconds() + 3600)));
    assert!(usage.added.seconds() > 1_600_000_000 && usage.used.is_none());
}

#[test]
fn policies_are_read_as_they_were_made() {
    let (src, dst) = (address("192.0.2.1"), address("192.0.2.2"));
    let out = Policy {
        id: PolicyId::new(Direction::Out, Selector::hosts(src, dst).to_port(17, 4789)),
        priority: 1000,
        action: Action::Allow,
        index: None,
        templates: vec![Template::transport(src, dst, spi(), OURS)],
        extras: Extras::new(),
    };
    assert_eq!(policy(&fixture!("policy_out")), Ok((out, Owner::Host)));
    let any = Prefix::any(address("::"));
    let guard = Policy {
        id: PolicyId::new(Direction::In, Selector::between(any, any).to_port(17, 4789)),
        priority: OURS.0,
        action: Action::Block,
        index: None,
        templates: vec![],
        extras: Extras::new(),
    };
    assert_eq!(policy(&fixture!("policy_guard")), Ok((guard, Owner::Host)));
}

#[test]
fn unusual_policies_are_read_whole() {
    let found = policy(&fixture!("policy_extras")).unwrap().0;
    assert_eq!((found.id.mark, found.id.if_id), (Mark { value: 1, mask: 3 }, 9));
    assert_eq!(words(&found.extras), ["flag localok", "hard-use lifetime 60s"]);
    let [first, second] = &found.templates[..] else { panic!("{found:?}") };
    assert!(first.src.is_ipv4() && second.src.is_ipv4(), "not the policy's family");
    assert_eq!((first.level, second.level), (Level::Use, Level::Required));
}

#[test]
fn a_sub_policy_and_a_policy_of_a_socket_are_told_apart() {
    let mut message = fixture!("policy_out");
    let kind = message.windows(4).position(|window| window == [10, 0, 16, 0]);
    let mut sub = message.clone();
    match kind {
        Some(at) => sub[at + 4] = 1,
        None => sub.extend_from_slice(&[10, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
    }
    assert!(policy(&sub).unwrap().0.id.sub);
    assert!(!policy(&message).unwrap().0.id.sub);
    let (of_host, _) = policy(&message).unwrap();
    for (number, direction) in [(3, Direction::In), (4, Direction::Out)] {
        message[160] = number;
        let id = PolicyId { direction, ..of_host.id };
        assert_eq!(policy(&message), Ok((Policy { id, ..of_host.clone() }, Owner::Socket)));
    }
    message[160] = 5;
    assert!(policy(&message).is_err(), "no kernel has such a direction");
}

#[test]
fn the_garbage_behind_an_ipv4_address_is_no_part_of_it() {
    let clean = policy(&fixture!("policy_out"));
    let mut message = fixture!("policy_out");
    message[4..16].fill(0xaa);
    message[20..32].fill(0xbb);
    assert_eq!(policy(&message), clean);
}

#[test]
fn an_offload_is_encoded_by_index_and_read_back_by_name() {
    let names = Names::from([(7, "eth0".into())]);
    for (src, dst, ipv6) in
        [("192.0.2.1", "192.0.2.2", 0), ("2001:db8::1", "2001:db8::2", wire::OFFLOAD_IPV6)]
    {
        for (inbound, flag) in [(false, 0), (true, wire::OFFLOAD_INBOUND)] {
            let offload = Some(crate::model::Offload { device: "eth0".into(), inbound });
            let wanted = Sa { offload, ..ours(src, dst, Replay { window: 32, esn: false }) };
            let begin = InitialValues { device: 7, ..InitialValues::default() };
            let mut message = encode::new_sa(&wanted, &key(), begin).body;
            let attribute = [12, 0, 28, 0, 7, 0, 0, 0, ipv6 | flag, 0, 0, 0];
            assert!(message.windows(12).any(|bytes| bytes == attribute));
            let found = super::sa(&mut message.clone(), OURS, &names).unwrap().0;
            assert_eq!(found, wanted);
            let unnamed = super::sa(&mut message, OURS, &Names::new()).unwrap().0;
            assert_eq!(unnamed.offload.unwrap().device, "index 7");
        }
    }
}

#[test]
fn udp_around_esp_is_encoded_as_the_kernel_reads_it() {
    for (src, dst) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let encap = Some(Encap { sport: 4500, dport: 4501 });
        let wanted = Sa { encap, ..ours(src, dst, Replay { window: 0, esn: false }) };
        let mut message = encode::new_sa(&wanted, &key(), InitialValues::default()).body;
        // struct xfrm_encap_tmpl: the type in the host's order, two ports, two bytes of padding, and
        // no original address.
        let ports = [2, 0, 0x11, 0x94, 0x11, 0x95, 0, 0];
        let at = message.windows(8).position(|bytes| bytes == ports).unwrap();
        assert_eq!(message[at - 4..at], [28, 0, 4, 0], "XFRMA_ENCAP of 24 bytes");
        assert_eq!(message[at + 8..at + 24], [0; 16]);
        assert_eq!(sa(&mut message, OURS).unwrap(), wanted);
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for (window, esn) in [(0, false), (32, false), (33, false), (1, true), (1024, true)] {
        for (src, dst) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let mut wanted = ours(src, dst, Replay { window, esn });
            assert_eq!(
                sa(&mut encode::new_sa(&wanted, &key(), InitialValues::default()).body, OURS),
                Ok(wanted.clone())
            );
            wanted.selector = None;
            assert_eq!(
                sa(&mut encode::new_sa(&wanted, &key(), InitialValues::default()).body, OURS),
                Ok(wanted)
            );
        }
    }
    for message in [fixture!("policy_out"), fixture!("policy_guard"), fixture!("policy_extras")] {
        let (mut wanted, _) = policy(&message).unwrap();
        wanted.extras.clear();
        for sub in [false, true] {
            wanted.id.sub = sub;
            assert_eq!(
                policy(&encode::new_policy(&wanted).body),
                Ok((wanted.clone(), Owner::Host))
            );
        }
    }
}

/// Any bytes give an answer and no panic.
fn survives(message: &[u8], case: &str) {
    let outcome = catch_unwind(|| {
        let _ = sa(&mut message.to_vec(), OURS);
        let _ = policy(message);
        for message in Messages::of(&mut message.to_vec()) {
            let Ok(message) = message else { break };
            let _ = wire::acknowledgement(&message);
            let _ = wire::done(&message);
        }
    });
    assert!(outcome.is_ok(), "{case}: {}", hex::encode(message));
}

#[test]
fn a_message_cut_off_anywhere_is_no_panic() {
    for message in sas().into_iter().chain(policies()) {
        for length in 0..message.len() {
            survives(&message[..length], "cut off");
        }
    }
}

#[test]
fn a_message_cut_off_within_its_fixed_part_is_an_error() {
    for length in 0..224 {
        assert!(sa(&mut fixture!("sa_ours")[..length], OURS).is_err());
    }
    for length in 0..168 {
        assert!(policy(&fixture!("policy_out")[..length]).is_err());
    }
}

#[test]
fn tens_of_thousands_of_damaged_messages_are_no_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let originals: Vec<_> = sas().into_iter().chain(policies()).collect();
    for _ in 0..40_000 {
        let mut message = originals[random(originals.len())].clone();
        for _ in 0..=random(4) {
            let at = random(message.len());
            message[at] = [0, 1, 3, 4, 0x7f, 0x80, 0xff, random(256) as u8][random(8)];
        }
        if random(4) == 0 {
            message.truncate(random(message.len()) + 1);
        }
        survives(&message, "damaged");
    }
}
