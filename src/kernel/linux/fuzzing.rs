//! The kernel's messages, from any bytes.

use std::{collections::BTreeSet, ops::Range};

use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_xfrm::{
    XFRM_USER_POLICY_INFO_LEN, XFRM_USER_SA_INFO_LEN, XFRM_USER_TEMPLATE_LEN, constants as xfrm,
};

use super::{
    decode::{self, Names, Owner},
    encode,
    netlink::Dump,
    wire::{self, Message, Messages},
};
use crate::{
    fuzzing::number,
    kernel::{
        KernelError,
        rules::{self, InitialValues, MAX_LEGACY_WINDOW, MAX_TEMPLATES, MAX_WINDOW},
    },
    model::{Algorithm, Key, KeyView, Policy, PolicyStep, Reqid, Sa, SaStep, Start, Time, Usage},
};

pub use super::iptables::fuzzing::iptables_save;

/// The mesh; its SAs have fingerprints.
const OURS: Reqid = Reqid(0x4d53_0001);
/// One SA or policy in so many is written as JSON and shown.
const SAMPLE: usize = 8;
/// The sequence number of the dumps in the corpora.
const SEQUENCE: u32 = 1;

/// A dump of SAs is whole only with its end. Keys are wiped and never shown. An SA of the mesh that
/// is sent back is read as the same SA. Bytes that are not a dump are read as one SA.
pub fn xfrm_sas(input: &[u8]) {
    let names = Names::from([(7, "eth0".into())]);
    let decode = |payload: &mut [u8]| checked_sa(payload, &names).map(Some);
    if is_dump(input) {
        check_dump(input, xfrm::XFRM_MSG_NEWSA, decode);
    } else {
        let _ = checked_sa(&mut input.to_vec(), &names);
    }
}

/// The same of policies.
pub fn xfrm_policies(input: &[u8]) {
    let decode = |payload: &mut [u8]| checked_policy(payload).map(Some);
    if is_dump(input) {
        check_dump(input, xfrm::XFRM_MSG_NEWPOLICY, decode);
    } else {
        let _ = checked_policy(input);
    }
}

/// Whether the input begins with a message: its first number is a length.
fn is_dump(input: &[u8]) -> bool {
    let length = wire::u32_at(input, 0).map_or(0, |length| length as usize);
    (wire::HEADER..=input.len()).contains(&length)
}

/// Reads a dump, as a whole and cut off before its end.
fn check_dump<T>(
    input: &[u8],
    answer: u16,
    mut decode: impl FnMut(&mut [u8]) -> Result<Option<T>, KernelError>,
) {
    let mut read = |bytes: &[u8]| {
        let mut dump = Dump::new(SEQUENCE, answer, "objects");
        let ended = dump.take_datagram(&mut bytes.to_vec(), &mut decode);
        ended.map(|ended| (ended, dump.list.len()))
    };
    let (end, objects) = reference(input, answer);
    if let Ok((ended, found)) = read(input) {
        assert_eq!(ended, end.is_some(), "a dump is whole only with its end");
        assert!(found <= objects, "{found} of {objects} objects");
    }
    if let Some(end) = end {
        let cut = number(input) % end;
        assert!(!matches!(read(&input[..cut]), Ok((true, _))), "cut off at {cut} of {end}");
    }
}

/// The offset behind a dump's end, if it has one, and the number of objects before it. Uses no code
/// that is tested here.
fn reference(input: &[u8], answer: u16) -> (Option<usize>, usize) {
    let field =
        |at: usize| input.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let (mut at, mut objects) = (0, 0);
    while let (Some(length), Some(kind), Some(sequence)) = (field(at), field(at + 4), field(at + 8))
    {
        let (end, kind) = (at + length as usize, kind as u16);
        if (length as usize) < wire::HEADER || end > input.len() {
            break;
        }
        if sequence == SEQUENCE && kind == NLMSG_DONE {
            let refused =
                field(at + 16).filter(|_| end >= at + 20).is_none_or(|code| code >> 31 == 1);
            return ((!refused).then_some(end), objects);
        }
        objects += usize::from(sequence == SEQUENCE && kind == answer);
        at = end.next_multiple_of(4);
    }
    (None, objects)
}

fn checked_sa(payload: &mut [u8], names: &Names) -> Result<(Sa, Usage), KernelError> {
    let before = payload.to_vec();
    acknowledgements(payload);
    let (sa, usage) = decode::sa(payload, OURS, names)?;
    let keys = keys(&before);
    for key in &keys {
        assert!(payload[key.clone()].iter().all(|byte| *byte == 0), "a key is left in the message");
    }
    if number(&before).is_multiple_of(SAMPLE) {
        let keys = keys.into_iter().filter_map(|key| before[key].first_chunk());
        check_shown(&sa, usage, keys);
    }
    if sa.key != KeyView::Unknown {
        assert_eq!(sa.reqid, OURS, "only our keys have fingerprints");
    }
    sent_back(&sa, names);
    Ok((sa, usage))
}

/// Checks that an SA is read as it was written, and that its keys' first bytes are not shown.
fn check_shown<'k>(sa: &Sa, usage: Usage, keys: impl Iterator<Item = &'k [u8; 8]>) {
    let json = serde_json::to_string(&(sa, usage)).expect("an SA is JSON");
    assert_eq!(serde_json::from_str::<(Sa, Usage)>(&json).expect("and back"), (sa.clone(), usage));
    let shown = format!("{json} {sa:?} {sa:#?}");
    // Fewer different bytes may be part of another number or name.
    let distinct = |key: &&[u8; 8]| key.iter().collect::<BTreeSet<_>>().len() == 8;
    keys.filter(distinct).for_each(|key| unshown(key, &shown));
}

/// Reads the bytes as acknowledgements, with error numbers and texts of any length.
fn acknowledgements(payload: &mut [u8]) {
    for flags in [0, 0x100, 0x200, 0x300] {
        let message = Message { kind: NLMSG_ERROR, flags, sequence: SEQUENCE, payload };
        let _ = wire::acknowledgement(&message);
        let _ = wire::done(&message);
    }
    let _ = Messages::of(payload).count();
}

/// The ranges of the keys in an SA's attributes.
fn keys(payload: &[u8]) -> Vec<Range<usize>> {
    let key = |(kind, value): (usize, Range<usize>)| {
        // A name, the bits of the key, and in some the bits of the ICV or of the truncated hash.
        let header = match kind {
            1..=3 => 68,
            18 | 20 => 72,
            _ => return None,
        };
        Some(value.start + header..value.end)
    };
    let keys = attributes(payload, XFRM_USER_SA_INFO_LEN).into_iter().filter_map(key);
    keys.filter(|key| !key.is_empty()).collect()
}

/// The attributes behind a fixed part. Uses no code that is tested here.
fn attributes(payload: &[u8], mut at: usize) -> Vec<(usize, Range<usize>)> {
    let field =
        |at: usize| payload.get(at..at + 2).map(|b| usize::from(u16::from_ne_bytes([b[0], b[1]])));
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (field(at), field(at + 2)) {
        if length < 4 || at + length > payload.len() {
            break;
        }
        found.push((kind & 0x3fff, at + 4..at + length));
        at += length.next_multiple_of(4);
    }
    found
}

/// Checks that a text shows a key neither in hex nor as a list of numbers.
fn unshown(bytes: &[u8; 8], text: &str) {
    let list = bytes.map(|byte| byte.to_string());
    for form in [hex::encode(bytes), list.join(","), list.join(", "), list.join(",\n        ")] {
        assert!(!text.contains(&form), "a key is shown: {text}");
    }
}

/// Checks that the request for a valid step asks for just that SA.
fn sent_back(sa: &Sa, names: &Names) {
    let Algorithm::Aead { key_bits, .. } = sa.algorithm else { return };
    // A key is some bytes, and a legacy window has an octet.
    if !key_bits.is_multiple_of(8)
        || key_bits == 0
        || key_bits > 4096
        || sa.replay.window > MAX_WINDOW
    {
        return;
    }
    let key = Key::new((1..=key_bits / 8).map(|byte| byte as u8 | 1).collect());
    let step = SaStep::Add { sa: sa.clone(), key: key_of(&key), start: Start::Fresh };
    if rules::check_sa(sa, &key, &step).is_err() || (sa.replay.window == 0 && sa.replay.esn) {
        return;
    }
    let device =
        sa.offload.as_ref().map(|offload| index(&offload.device, names)).unwrap_or_default();
    let lifetime = sa.ends.map_or(0, Time::seconds);
    let begin = InitialValues { sent: 7, received: 9, lifetime, device };
    let mut request = encode::new_sa(sa, &key, begin).body;
    let (found, usage) = decode::sa(&mut request, OURS, names).expect("what is sent can be read");
    let view = if sa.reqid == OURS { KeyView::Known(key.fingerprint()) } else { KeyView::Unknown };
    let ends = (lifetime != 0).then(|| Time::from_seconds(lifetime));
    assert_eq!(found, Sa { key: view, ends, ..sa.clone() });
    assert_eq!(
        (usage.sent, usage.received),
        (7, 9),
        "window {} {}",
        sa.replay.window,
        MAX_LEGACY_WINDOW
    );
}

fn key_of(key: &Key) -> std::sync::Arc<Key> {
    std::sync::Arc::new(Key::new(key.expose().into()))
}

/// The index of a device that is given by its name or by its index.
fn index(device: &str, names: &Names) -> u32 {
    let named = names.iter().find(|(_, name)| *name == device).map(|(index, _)| *index);
    named.or_else(|| device.strip_prefix("index ")?.parse().ok()).expect("a device has an index")
}

fn checked_policy(payload: &[u8]) -> Result<Policy, KernelError> {
    let (policy, _) = decode::policy(payload)?;
    let templates = attributes(payload, XFRM_USER_POLICY_INFO_LEN).into_iter();
    let templates = templates.filter(|(kind, _)| *kind == usize::from(xfrm::XFRMA_TMPL));
    let bytes: usize = templates.map(|(_, value)| value.len()).sum();
    assert_eq!(bytes, policy.templates.len() * XFRM_USER_TEMPLATE_LEN, "a template is lost");
    if number(payload).is_multiple_of(SAMPLE) {
        let json = serde_json::to_string(&policy).expect("a policy is JSON");
        assert_eq!(serde_json::from_str::<Policy>(&json).expect("and back"), policy);
        let _ = format!("{policy:?} {}", policy.id);
    }
    let step = PolicyStep::Add(policy.clone());
    if rules::check_policy(&policy, &step).is_ok() && policy.templates.len() <= MAX_TEMPLATES {
        let request = encode::new_policy(&policy).body;
        assert_eq!(decode::policy(&request), Ok((policy.clone(), Owner::Host)));
    }
    Ok(policy)
}
