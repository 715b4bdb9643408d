//! `XFRM_MSG_NEWSA` to [`Sa`].

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_xfrm::{
    EncapTmpl, LifetimeConfig, UserSaInfo, XFRM_ALG_AEAD_HEADER_LEN, XFRM_ALG_HEADER_LEN,
    XFRM_USER_SA_INFO_LEN, XfrmAttrs, constants as xfrm,
};
use zeroize::Zeroize;

use crate::{
    kernel::KernelError,
    model::{
        Algorithm, DIRECTION_OUT, Encap, IPPROTO_ESP, Key, KeyView, Mark, Offload, Replay, Reqid,
        Sa, SaId, Spi, Time, Usage,
    },
};

use super::{
    super::wire::{self, DIRECTION, NAT_KEEPALIVE, OFFLOAD_INBOUND, OFFLOAD_IPV6, garbled},
    Extras, Family, Names, attributes, flags, lifetimes, mode, selector, undecodable, unknown,
};

const IPPROTO_AH: u8 = 51;
const IPPROTO_COMP: u8 = 108;

/// `XFRMA_SA_PCPU`: newer than the crate.
const PCPU: u16 = 35;

const FLAGS: &[(u32, &str)] = &[
    (1, "noecn"),
    (2, "decap-dscp"),
    (4, "nopmtudisc"),
    (8, "wildrecv"),
    (16, "icmp"),
    (32, "af-unspec"),
    (64, "align4"),
];
const EXTRA_FLAGS: &[(u32, &str)] = &[(1, "dont-encap-dscp"), (2, "oseq-may-wrap")];

/// Decodes an SA and its usage so far. Its key becomes a fingerprint if its reqid is `ours`. The
/// key is wiped from `payload` in any case.
///
/// # Errors
///
/// [`KernelError::Garbled`] for a message that is too short, or an attribute
/// that is not as long as its type says.
pub(crate) fn sa(
    payload: &mut [u8],
    ours: Reqid,
    names: &Names,
) -> Result<(Sa, Usage), KernelError> {
    let (sa, usage, _) = sa_and_key(payload, ours, names)?;
    Ok((sa, usage))
}

/// As [`sa`], with the key, if the SA is the mesh's and the kernel shows the key.
///
/// # Errors
///
/// As of [`sa`].
pub(crate) fn sa_and_key(
    payload: &mut [u8],
    ours: Reqid,
    names: &Names,
) -> Result<(Sa, Usage, Option<Key>), KernelError> {
    let info = UserSaInfo::parse(payload).map_err(undecodable)?;
    let (_, behind) = payload.split_at_mut(XFRM_USER_SA_INFO_LEN);
    let key = take_key(behind, Reqid(info.reqid) == ours)?;
    let family = Family::of(info.family)?;
    let mut found = Found::default();
    for attribute in attributes(behind)? {
        found.take(attribute, family)?;
    }
    let offload = found.offload.take().map(|(index, inbound)| Offload {
        device: names.get(&index).cloned().unwrap_or_else(|| format!("index {index}")),
        inbound,
    });
    let selector = selector(&info.selector)?;
    let (replay, extras) = found.replay_and_extras(&info, selector.is_some());
    let id = SaId {
        dst: family.address(&info.id.daddr),
        proto: info.id.proto,
        spi: Spi::from_raw(info.id.spi),
        mark: found.mark,
    };
    let usage = found.usage(id, &info);
    let sa = Sa {
        id,
        src: family.address(&info.saddr),
        reqid: Reqid(info.reqid),
        mode: mode(info.mode),
        selector,
        algorithm: found.algorithms.into_algorithm(info.id.proto),
        key: key.as_ref().map_or(KeyView::Unknown, |key| KeyView::Known(key.fingerprint())),
        replay,
        ends: ends(&info),
        offload,
        encap: found.encap,
        keepalive: found.keepalive,
        if_id: found.if_id,
        extras,
    };
    Ok((sa, usage, key))
}

/// When an SA expires: its hard lifetime runs from its addition, by the clock of that moment
/// (`xfrm_timer_handler`).
fn ends(info: &UserSaInfo) -> Option<Time> {
    let lifetime = info.lifetime_cfg.hard_add_expires_seconds;
    let end = info.lifetime_cur.add_time.saturating_add(lifetime);
    (lifetime != 0).then(|| Time::from_seconds(end))
}

/// Overwrites every key in the attributes with zeros and returns the AEAD key, if it is wanted and
/// known.
///
/// A locked-down kernel shows every key as zeros (`xfrm_redact`).
fn take_key(attributes: &mut [u8], wanted: bool) -> Result<Option<Key>, KernelError> {
    let mut taken = None;
    for (kind, range) in wire::attributes(attributes)? {
        let header = match kind {
            xfrm::XFRMA_ALG_AUTH | xfrm::XFRMA_ALG_CRYPT | xfrm::XFRMA_ALG_COMP => {
                XFRM_ALG_HEADER_LEN
            }
            xfrm::XFRMA_ALG_AEAD | xfrm::XFRMA_ALG_AUTH_TRUNC => XFRM_ALG_AEAD_HEADER_LEN,
            _ => continue,
        };
        let value = &mut attributes[range];
        // In all of these structures the bits of the key follow the 64 bytes of the name.
        let bits = wire::u32_at(value, 64).unwrap_or_default();
        let length = bits.div_ceil(8) as usize;
        let Some(behind) = value.get_mut(header..).filter(|behind| behind.len() >= length) else {
            return Err(garbled(format!("a key of {bits} bits in {} bytes", value.len())));
        };
        let key = &behind[..length];
        if kind == xfrm::XFRMA_ALG_AEAD && wanted && key.iter().any(|byte| *byte != 0) {
            taken = Some(Key::new(key.into()));
        }
        behind.zeroize();
    }
    Ok(taken)
}

/// The values of the attributes, before they are put together.
#[derive(Default)]
struct Found {
    mark: Mark,
    window: Option<u32>,
    sent: u64,
    received: u64,
    last: Option<Time>,
    output_mark: Option<u32>,
    output_mask: Option<u32>,
    algorithms: Algorithms,
    offload: Option<(u32, bool)>,
    encap: Option<Encap>,
    keepalive: Option<u32>,
    if_id: u32,
    extras: Extras,
}

impl Found {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "a crate adds attributes; others are kept as text"
    )]
    fn take(&mut self, attribute: XfrmAttrs, family: Family) -> Result<(), KernelError> {
        match &attribute {
            XfrmAttrs::Mark(mark) => self.mark = Mark { value: mark.value, mask: mark.mask },
            XfrmAttrs::IfId(id) => self.if_id = *id,
            XfrmAttrs::ReplayStateEsn(replay) => {
                self.window = Some(replay.replay_window);
                self.sent = u64::from(replay.oseq_hi) << 32 | u64::from(replay.oseq);
                self.received = u64::from(replay.seq_hi) << 32 | u64::from(replay.seq);
            }
            // Beside the other attribute only if a program asked for both.
            XfrmAttrs::ReplayState(replay) if self.window.is_none() => {
                (self.sent, self.received) = (replay.oseq.into(), replay.seq.into());
            }
            XfrmAttrs::LastUsed(seconds) => self.last = Some(Time::from_seconds(*seconds)),
            XfrmAttrs::MarkVal(value) => self.output_mark = Some(*value),
            XfrmAttrs::MarkMask(mask) => self.output_mask = Some(*mask),
            XfrmAttrs::OffloadDevice(offload) => {
                let flags = offload.flags;
                self.offload = Some((offload.ifindex as u32, flags & OFFLOAD_INBOUND != 0));
                let named = OFFLOAD_INBOUND | OFFLOAD_IPV6;
                if flags & !named != 0 {
                    self.extras.insert(format!("offload flags {:#x}", flags & !named));
                }
            }
            XfrmAttrs::EncapsulationTemplate(encap) => {
                let original = family.address(&encap.encap_oa);
                let is_plain = encap.encap_type == xfrm::UDP_ENCAP_ESPINUDP;
                if is_plain && original.is_unspecified() {
                    let (sport, dport) = (encap.encap_sport, encap.encap_dport);
                    self.encap = Some(Encap { sport, dport });
                } else {
                    self.extras.insert(encapsulation(encap, original));
                }
            }
            XfrmAttrs::EncryptionAlgAead(aead) => {
                let (key_bits, icv_bits) = (aead.alg_key_len, aead.alg_icv_len);
                self.algorithms.aead = Some((name(&aead.alg_name), key_bits, icv_bits));
            }
            XfrmAttrs::AuthenticationAlg(auth) => {
                let text = format!("auth {} {} bits", name(&auth.alg_name), auth.alg_key_len);
                // The kernel gives both forms. Only the other form tells the truncation.
                self.algorithms.auth.get_or_insert(text);
            }
            XfrmAttrs::AuthenticationAlgTrunc(auth) => {
                let (name, bits) = (name(&auth.alg_name), auth.alg_key_len);
                let text = format!("auth {name} {bits} bits icv {}", auth.alg_trunc_len);
                self.algorithms.auth = Some(text);
            }
            XfrmAttrs::EncryptionAlg(crypt) => {
                let text = format!("crypt {} {} bits", name(&crypt.alg_name), crypt.alg_key_len);
                self.algorithms.crypt = Some(text);
            }
            XfrmAttrs::CompressionAlg(comp) => {
                self.algorithms.comp = Some(format!("comp {}", name(&comp.alg_name)));
            }
            XfrmAttrs::Other(raw) if raw.kind() == NAT_KEEPALIVE => {
                self.keepalive = Some(number(raw)?).filter(|seconds| *seconds != 0);
            }
            other => self.extras.extend(extra(other, family)?),
        }
        Ok(())
    }

    fn usage(&self, id: SaId, info: &UserSaInfo) -> Usage {
        let current = &info.lifetime_cur;
        Usage {
            id,
            sent: self.sent,
            received: self.received,
            bytes: current.bytes,
            packets: current.packets,
            added: Time::from_seconds(current.add_time),
            used: (current.use_time != 0).then(|| Time::from_seconds(current.use_time)),
            last: self.last,
            too_old: info.stats.replay_window,
            replayed: info.stats.replay,
            forged: info.stats.integrity_failed,
        }
    }

    fn replay_and_extras(&mut self, info: &UserSaInfo, has_selector: bool) -> (Replay, Extras) {
        let mut extras = std::mem::take(&mut self.extras);
        if self.keepalive.is_some() {
            // No SA has keepalives without it (verify_newsa_info).
            extras.remove(DIRECTION_OUT);
        }
        let hard_add_expires_seconds = 0; // `ends` holds the end
        lifetimes(&LifetimeConfig { hard_add_expires_seconds, ..info.lifetime_cfg }, &mut extras);
        let esn = info.flags & xfrm::XFRM_STATE_ESN != 0;
        let mut rest = info.flags & !xfrm::XFRM_STATE_ESN;
        if !has_selector {
            // With this flag an SA has no selector. Without the flag the kernel fills in the SA's
            // family (copy_from_user_state).
            rest &= !xfrm::XFRM_STATE_AF_UNSPEC;
        }
        flags(rest.into(), FLAGS, "flags", &mut extras);
        if self.output_mark.is_some() || self.output_mask.is_some() {
            let mark = Mark {
                value: self.output_mark.unwrap_or_default(),
                mask: self.output_mask.unwrap_or(u32::MAX),
            };
            extras.insert(format!("output-mark {mark}"));
        }
        let window = self.window.unwrap_or(info.replay_window.into());
        (Replay { window, esn }, extras)
    }
}

/// The transforms that were found.
#[derive(Default)]
struct Algorithms {
    aead: Option<(String, u32, u32)>,
    auth: Option<String>,
    crypt: Option<String>,
    comp: Option<String>,
}

impl Algorithms {
    fn into_algorithm(self, proto: u8) -> Algorithm {
        let others: Vec<String> =
            [self.auth, self.crypt, self.comp].into_iter().flatten().collect();
        match self.aead {
            Some((name, key_bits, icv_bits)) if others.is_empty() => {
                Algorithm::Aead { name, key_bits, icv_bits }
            }
            Some((name, ..)) => Algorithm::Other(format!("aead {name} {}", others.join(" "))),
            None if !others.is_empty() => Algorithm::Other(others.join(" ")),
            // Other protocols, those of Mobile IPv6, never have a transform.
            None if ![IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP].contains(&proto) => {
                Algorithm::Other("none".into())
            }
            None => Algorithm::Larval,
        }
    }
}

/// The name of a transform.
fn name(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// An attribute that the model has no field for, in words. None if it is not configuration or has
/// the default value.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a crate adds attributes; others are kept as text"
)]
fn extra(attribute: &XfrmAttrs, family: Family) -> Result<Option<String>, KernelError> {
    let text = match attribute {
        XfrmAttrs::Pad()
        | XfrmAttrs::Unspec(_)
        | XfrmAttrs::LifetimeBytes(_)
        | XfrmAttrs::ReplayState(_)
        | XfrmAttrs::TfcPadding(0)
        | XfrmAttrs::MappingTimeThreshold(0)
        | XfrmAttrs::ExtraFlags(0) => return Ok(None),
        XfrmAttrs::TfcPadding(bytes) => format!("tfcpad {bytes}"),
        XfrmAttrs::MappingTimeThreshold(seconds) => format!("mapping-threshold {seconds}s"),
        XfrmAttrs::ReplayThreshold(packets) => format!("replay-threshold {packets}"),
        XfrmAttrs::EventTimeThreshold(time) => format!("event-threshold {time}"),
        XfrmAttrs::ExtraFlags(set) => {
            let mut words = Extras::new();
            flags(*set, EXTRA_FLAGS, "extra-flags", &mut words);
            words.into_iter().collect::<Vec<_>>().join(" ")
        }
        XfrmAttrs::CareOfAddr(address) => format!("care-of {}", family.address(address)),
        XfrmAttrs::SecurityContext(_) => "security context".into(),
        XfrmAttrs::Other(other) => return newer(attribute, other),
        _ => unknown(attribute),
    };
    Ok(Some(text))
}

/// An encapsulation that no SA of a mesh has.
fn encapsulation(encap: &EncapTmpl, original: IpAddr) -> String {
    let kind = match encap.encap_type {
        xfrm::UDP_ENCAP_ESPINUDP_NON_IKE => "udp-nonike".into(),
        xfrm::UDP_ENCAP_ESPINUDP => "udp".into(),
        xfrm::TCP_ENCAP_ESPINTCP => "tcp".into(),
        other => format!("type {other}"),
    };
    let mut text = format!("encap {kind} {}->{}", encap.encap_sport, encap.encap_dport);
    if !original.is_unspecified() {
        text += &format!(" oa {original}");
    }
    text
}

/// The bytes of an attribute that is newer than the crate's list of them.
fn value(raw: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; raw.value_len()];
    raw.emit_value(&mut value);
    value
}

/// Such an attribute as a number.
fn number(raw: &DefaultNla) -> Result<u32, KernelError> {
    let value = value(raw);
    wire::u32_at(&value, 0)
        .ok_or_else(|| garbled(format!("xfrma {} of {} bytes", raw.kind(), value.len())))
}

/// Such an attribute in words. None if it has the default value.
fn newer(attribute: &XfrmAttrs, raw: &DefaultNla) -> Result<Option<String>, KernelError> {
    Ok(match raw.kind() {
        DIRECTION => match value(raw).first() {
            Some(0) => None,
            Some(1) => Some("dir in".into()),
            Some(2) => Some(DIRECTION_OUT.into()),
            other => Some(format!("dir {}", other.copied().unwrap_or_default())),
        },
        PCPU => Some(format!("pcpu {}", number(raw)?)),
        _ => Some(unknown(attribute)),
    })
}
