//! Verdicts on captured packets, each made by hand.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::Generation;

const RUN: RunMark = *b"0123456789abcdef";
const PROBE: ProbeMark = *b"the first probe.";
const CONTROL: ProbeMark = *b"the control one.";
const STRANGER: ProbeMark = *b"the blocked one.";
const WHOLE: Account = Account { packets: 9, lost: 0, stray: 0 };

fn id(number: u16) -> ShortId {
    ShortId::new(number).unwrap()
}

fn spi(generation: u64, from: u16, to: u16) -> Spi {
    Spi::new(Generation::new(generation).unwrap(), id(from), id(to))
}

/// A pair of VXLAN from 192.0.2.1 to 192.0.2.2 by eth0.
fn pair() -> Pair {
    let [local, address] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
    Pair {
        name: PeerName::new("b").unwrap(),
        short_id: id(2),
        address,
        local,
        stage: Stage::Enforce,
        out: Some(Outbound { spi: spi(1, 1, 2), encap: None, offloaded: false, key: None }),
        inbound: BTreeMap::from([(spi(1, 2, 1), None)]),
        protected: vec![Selector::hosts(local, address).to_port(17, 4789)],
        devices: BTreeSet::from(["eth0".into()]),
        vrfs: BTreeSet::from(["red".into()]),
        no_route: None,
    }
}

fn ip(from: u8, to: u8, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes[2..4].copy_from_slice(&(20 + content.len() as u16).to_be_bytes());
    bytes.extend([192, 0, 2, from, 192, 0, 2, to]);
    bytes.extend(content);
    bytes
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 0];
    bytes.extend(port.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

fn esp(spi: Spi, sequence: u32, length: usize) -> Vec<u8> {
    let mut bytes = [spi.raw().to_be_bytes(), sequence.to_be_bytes()].concat();
    bytes.resize(length, 0xee);
    bytes
}

fn marked(mark: ProbeMark) -> Vec<u8> {
    udp(4789, &[&[8, 0, 0, 0][..], &RUN, &mark].concat())
}

const LENGTH: usize = 100;

/// The verdict after packets that left by devices, and one probe of which the kernel took all.
fn after_on(pair: &Pair, account: Account, packets: &[(&str, Vec<u8>)]) -> (Proof, Vec<Finding>) {
    let pairs = [pair.clone()];
    let mut watch = Watch::new(&pairs, RUN, Vec::new());
    watch.expect(PROBE, Marked::Probe(0));
    watch.expect(CONTROL, Marked::Control(0));
    watch.expect(STRANGER, Marked::Guard);
    for (device, bytes) in packets {
        watch.take(&Captured { device, leaves: true, bytes });
    }
    let sent = Sent { taken: 1, lengths: vec![LENGTH], refused: BTreeMap::new() };
    let account = Account { stray: account.stray + watch.stray, ..account };
    let proof = judge_pair(pair, &sent, &watch.seen[0], account);
    (proof.proof, proof.findings)
}

fn after(packets: &[Vec<u8>]) -> (Proof, Vec<Finding>) {
    let packets: Vec<_> = packets.iter().map(|bytes| ("eth0", bytes.clone())).collect();
    after_on(&pair(), WHOLE, &packets)
}

fn protected() -> Vec<u8> {
    ip(1, 2, 50, &esp(spi(1, 1, 2), 7, LENGTH))
}

fn control_packet() -> Vec<u8> {
    ip(1, 2, 17, &udp(9, &[RUN, CONTROL].concat()))
}

#[test]
fn esp_of_the_probes_size_under_the_spi_is_proof_and_nothing_less() {
    assert_eq!(after(&[protected()]), (Proof::Encrypted, vec![]));
    let other_size = ip(1, 2, 50, &esp(spi(1, 1, 2), 7, LENGTH + 4));
    assert_eq!(after(&[other_size]), (Proof::NotSeen, vec![Finding::OtherSize]));
    let other_spi = ip(1, 2, 50, &esp(spi(2, 1, 2), 7, LENGTH));
    let spis = BTreeSet::from([spi(2, 1, 2)]);
    assert_eq!(after(&[other_spi]), (Proof::NotSeen, vec![Finding::OtherSpi(spis)]));
    let from_another = ip(3, 2, 50, &esp(spi(1, 1, 2), 7, LENGTH));
    assert_eq!(after(&[from_another]).0, Proof::NotSeen);
    let to_another = ip(1, 3, 50, &esp(spi(1, 1, 2), 7, LENGTH));
    assert_eq!(after(&[to_another]), (Proof::NotSeen, vec![Finding::Nothing]));
    let in_udp = ip(1, 2, 17, &udp(4500, &esp(spi(1, 1, 2), 7, LENGTH)));
    assert_eq!(after(&[in_udp]), (Proof::NotSeen, vec![Finding::OtherForm]));
}

#[test]
fn nothing_seen_is_no_proof_and_blocked_only_where_another_packet_left() {
    assert_eq!(after(&[]), (Proof::NotSeen, vec![Finding::Nothing]));
    assert_eq!(after(&[control_packet()]), (Proof::Blocked, vec![Finding::Dropped]));
}

#[test]
fn a_marker_that_can_be_read_anywhere_is_worse_than_any_proof() {
    let clear = ip(1, 2, 17, &marked(PROBE));
    for packets in [vec![clear.clone(), protected()], vec![protected(), clear.clone()]] {
        assert_eq!(after(&packets).0, Proof::Clear);
    }
    // By another protocol, to another address, and in no packet of IP at all.
    let inner = ip(1, 3, 47, &[&[0, 0, 8, 0], &clear[..]].concat());
    let other = [&[0xaa; 9][..], &RUN, &PROBE].concat();
    for bytes in [inner, other] {
        assert_eq!(after_on(&pair(), WHOLE, &[("eth1", bytes)]).0, Proof::Clear);
    }
}

#[test]
fn a_cut_marker_leaves_everybody_in_doubt() {
    let cut = ip(1, 2, 47, &[&RUN[..], &PROBE[..8]].concat());
    let found = after(&[cut, protected()]);
    assert_eq!(found, (Proof::NotSeen, vec![Finding::Stray(1)]));
}

#[test]
fn packets_within_the_host_are_on_no_wire() {
    let clear = ip(1, 2, 17, &marked(PROBE));
    for device in ["lo", "red"] {
        let packets = [(device, clear.clone()), ("eth0", protected())];
        assert_eq!(after_on(&pair(), WHOLE, &packets).0, Proof::Encrypted, "{device}");
    }
    // A peer on this very host.
    let by_lo = Pair { devices: BTreeSet::from(["lo".into()]), ..pair() };
    assert_eq!(after_on(&by_lo, WHOLE, &[("lo", clear)]).0, Proof::Clear);
}

#[test]
fn esp_on_a_device_below_is_not_counted() {
    let found = after_on(&pair(), WHOLE, &[("port1", protected())]);
    assert_eq!(found, (Proof::NotSeen, vec![Finding::Nothing]));
}

#[test]
fn packets_of_others_in_the_clear_count_where_the_file_wants_them_protected() {
    let of_others = ip(1, 2, 17, &udp(4789, b"of a tunnel device"));
    let (proof, findings) = after(&[protected(), of_others]);
    assert_eq!(proof, Proof::Clear);
    assert!(matches!(findings[..], [Finding::KindRead { packets: 1, .. }]), "{findings:?}");
    let of_another_kind = ip(1, 2, 17, &udp(53, b"not of the kind"));
    assert_eq!(after(&[protected(), of_another_kind]).0, Proof::Encrypted);
}

#[test]
fn later_fragments_of_esp_are_not_clear_text() {
    let mut later = ip(1, 2, 50, &[7; 64]);
    later[7] = 1;
    let everything =
        Pair { protected: vec![Selector::hosts(pair().local, pair().address)], ..pair() };
    let packets = [("eth0", protected()), ("eth0", later.clone())];
    assert_eq!(after_on(&everything, WHOLE, &packets).0, Proof::Encrypted);
    // The first one of another protocol tells.
    let first = ip(1, 2, 17, &udp(53, b"a long datagram"));
    let packets = [("eth0", protected()), ("eth0", first), ("eth0", later)];
    assert_eq!(after_on(&everything, WHOLE, &packets).0, Proof::Clear);
}

#[test]
fn a_capture_that_lost_packets_proves_nothing() {
    let lossy = Account { lost: 1, ..WHOLE };
    let found = after_on(&pair(), lossy, &[("eth0", protected())]);
    assert_eq!(found, (Proof::NotSeen, vec![Finding::Lost(1)]));
    let clear = ip(1, 2, 17, &marked(PROBE));
    assert_eq!(after_on(&pair(), lossy, &[("eth0", clear)]).0, Proof::Clear, "it was seen");
}

#[test]
fn before_stage_send_the_file_asks_for_clear_text_which_is_not_protected() {
    let receiving = Pair { out: None, protected: Vec::new(), stage: Stage::Receive, ..pair() };
    let clear = ip(1, 2, 17, &marked(PROBE));
    assert_eq!(after_on(&receiving, WHOLE, &[("eth0", clear)]).0, Proof::ClearAsAsked);
    assert_eq!(after_on(&receiving, WHOLE, &[("eth0", protected())]).0, Proof::NotSeen);
}

#[test]
fn a_device_that_encrypts_behind_the_capture_is_not_proven() {
    let mut offloaded = pair();
    offloaded.out.as_mut().unwrap().offloaded = true;
    let readable = [&esp(spi(1, 1, 2), 7, 16)[..], &RUN, &PROBE].concat();
    let readable = ip(1, 2, 50, &readable);
    let found = after_on(&offloaded, WHOLE, &[("eth0", readable.clone())]);
    assert_eq!(found, (Proof::NotSeen, vec![Finding::Offloaded]));
    assert_eq!(after(&[readable]).0, Proof::Clear, "no device is to encrypt");
}

#[test]
fn a_refused_probe_is_blocked_and_the_other_form_of_esp_is_told() {
    let sent = Sent { taken: 1, lengths: vec![], refused: [("EPERM".into(), 2)].into() };
    let seen = Seen { esp: 1, ..Seen::default() };
    let pair = pair();
    assert_eq!(judge_pair(&pair, &sent, &seen, WHOLE).proof, Proof::Blocked);
}

#[test]
fn a_stranger_s_packet_is_blocked_only_if_the_kernel_said_so() {
    let address = "198.51.100.7".parse().unwrap();
    let guard =
        |refused: Option<&str>, seen| GuardProof::new(address, refused.map(Into::into), seen).proof;
    assert_eq!(guard(Some("EPERM"), 0), Proof::Blocked);
    assert_eq!(guard(Some("ENETUNREACH"), 0), Proof::NotSeen, "without a guard too");
    assert_eq!(guard(None, 0), Proof::NotSeen);
    assert_eq!(guard(None, 1), Proof::Clear);
    assert_eq!(guard(Some("EPERM"), 1), Proof::Clear);
}

#[test]
fn inbound_esp_is_counted_under_spis_that_are_received() {
    let pairs = [pair()];
    let mut watch = Watch::new(&pairs, RUN, Vec::new());
    for spi in [spi(1, 2, 1), spi(9, 2, 1)] {
        let bytes = ip(2, 1, 50, &esp(spi, 5, LENGTH));
        watch.take(&Captured { device: "eth0", leaves: false, bytes: &bytes });
    }
    assert_eq!((watch.seen[0].came, watch.seen[0].esp), (1, 0));
}

proptest! {
    /// Whatever is captured, only ESP of the size under the SPI proves anything.
    #[test]
    fn no_other_packet_proves_anything(
        mut bytes: Vec<u8>, first: u8, device in "[a-z]{0,4}", cut: usize
    ) {
        bytes.insert(0, first);
        for bytes in [&bytes[..], &bytes[..cut % bytes.len()]] {
            let found = after_on(&pair(), WHOLE, &[(&device, bytes.to_vec())]);
            prop_assert_ne!(found.0, Proof::Encrypted);
        }
    }
}
