//! `[esp]`.
#![forbid(unsafe_code)]

use super::{link::device_name, whole_seconds, word};
use crate::{
    config::{
        mask,
        reader::{Findings, Section, Value},
        schema::{
            CIPHER, ENCAP, ENCAP_FROM, ENCAP_KEEPALIVE, ENCAP_PORT, ESN, Field, OFFLOAD,
            OFFLOAD_DEVICE, OFFLOAD_MODE, REPLAY_WINDOW, Table,
        },
        types::{EncapWish, Esp, Traffic},
    },
    model::{Cipher, Generation, Replay},
};

/// The default where there is no such table.
///
/// With a period, a restarted host goes on with sequence numbers that it can't have used yet.
/// Without a period the numbers begin again, and a window would lock the host out.
pub(super) fn default(by_clock: bool) -> Esp {
    let replay = default_replay(by_clock);
    Esp { cipher: Cipher::Aes256Gcm, replay, offload: None, encap: None }
}

fn default_replay(by_clock: bool) -> Replay {
    if by_clock { Replay { window: 1024, esn: true } } else { Replay { window: 0, esn: false } }
}

/// Reads the table; `by_clock` tells whether there is a `[rotation] period`, and `traffic` is what
/// the mesh protects, if that could be read.
pub(super) fn read(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    by_clock: bool,
    traffic: Option<Traffic>,
) -> Option<Esp> {
    let cipher = section.get("cipher").map_or(Some(Cipher::Aes256Gcm), |value| {
        let name = word(findings, value, CIPHER)?;
        Cipher::ALL.into_iter().find(|cipher| cipher.name() == name)
    });
    let default = default_replay(by_clock);
    let esn = section.get("esn").map_or(Some(default.esn), |value| findings.boolean(value, ESN));
    let window = section
        .get("replay_window")
        .map_or(Some(default.window), |value| read_window(findings, value));
    let offload =
        section.get("offload").map_or(Some(None), |value| read_offload(findings, value).map(Some));
    let encap = section
        .get(ENCAP.name)
        .map_or(Some(None), |value| read_encap(findings, value, traffic).map(Some));
    let replay = Replay { window: window?, esn: esn? };
    check_replay(findings, section, replay, by_clock)?;
    check_offload(findings, section, by_clock)?;
    check_both(findings, section)?;
    Some(Esp { cipher: cipher?, replay, offload: offload?, encap: encap? })
}

/// A port, or a table with a port and the first generation that is in UDP.
fn read_encap(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    traffic: Option<Traffic>,
) -> Option<EncapWish> {
    let Some(table) = value.get_ref().as_table() else {
        let port = read_encap_port(findings, value, ENCAP, traffic)?;
        return Some(EncapWish { port, from: Generation::default(), keepalive: None });
    };
    let section = Section::open(findings, Table::Encap, value.span(), table);
    let from = section.get(ENCAP_FROM.name).map_or(Some(Generation::default()), |value| {
        findings.number(value, ENCAP_FROM).and_then(Generation::new)
    });
    let port = section
        .require(findings, ENCAP_PORT)
        .and_then(|value| read_encap_port(findings, value, ENCAP_PORT, traffic));
    let keepalive = section
        .get(ENCAP_KEEPALIVE.name)
        .map_or(Some(None), |value| read_keepalive(findings, value).map(Some));
    Some(EncapWish { port: port?, from: from?, keepalive: keepalive? })
}

/// Seconds, from a time.
fn read_keepalive(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<u32> {
    let text = findings.text(value, ENCAP_KEEPALIVE)?;
    let seconds = whole_seconds(text).filter(|seconds| (1..=3600).contains(seconds));
    if seconds.is_none() {
        let message = format!("keepalive {} is no time from 1s to 1h", mask::quote(text));
        findings.wrong(value.span(), message, ENCAP_KEEPALIVE.write);
    }
    u32::try_from(seconds?).ok()
}

/// A policy that protects UDP of this port would refuse the datagrams that hold ESP.
fn read_encap_port(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    field: Field,
    traffic: Option<Traffic>,
) -> Option<u16> {
    let port = findings.number(value, field).and_then(|port| u16::try_from(port).ok())?;
    if traffic.is_some_and(|traffic| traffic.has_udp_port(port)) {
        let message = format!("UDP port {port} is the port of the protected traffic");
        let hint = "write another port, at which each host takes ESP and nothing else";
        findings.wrong(value.span(), message, hint);
        return None;
    }
    Some(port)
}

/// `xfrm_dev_state_add` refuses an SA with both.
fn check_both(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<()> {
    let both = section.get(ENCAP.name).zip(section.get(OFFLOAD.name));
    let Some((_, offload)) = both else { return Some(()) };
    let message = "the kernel offloads no ESP in UDP to a device".into();
    findings.wrong(offload.span(), message, "leave offload out, or leave encap out");
    None
}

/// A device's name, or a table with the name and a mode.
fn read_offload(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<String> {
    let Some(table) = value.get_ref().as_table() else {
        return device_name(findings, value, OFFLOAD);
    };
    let section = Section::open(findings, Table::Offload, value.span(), table);
    let mode = section.get("mode").map_or(Some(()), |value| read_mode(findings, value));
    let device = section
        .require(findings, OFFLOAD_DEVICE)
        .and_then(|value| device_name(findings, value, OFFLOAD_DEVICE));
    mode.and(device)
}

/// Only `crypto`.
///
/// With `packet` the kernel hands packets to the device unencrypted, and nothing in them tells that
/// they must not leave so: `xfrm_output` sets no security path in transport mode. A packet that is
/// still in the device's queue when its SA or policy is deleted then looks like any other packet
/// (run on 6.12). No order of steps can wait for a queue. A selector with the device in it would
/// stop packets that are routed elsewhere. An in policy in software would stop packets that come in
/// elsewhere (`__xfrm_policy_check` lets them pass by an offloaded one).
fn read_mode(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<()> {
    if value.get_ref().as_str() == Some("packet") {
        let message = "mode = \"packet\" is refused: packets would wait for the device in the clear, \
                       and leave so if their SA goes first";
        findings.wrong(value.span(), message.into(), OFFLOAD_MODE.write);
        return None;
    }
    word(findings, value, OFFLOAD_MODE).map(drop)
}

/// Refuses settings that the kernel, or a period, can't have.
fn check_replay(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    replay: Replay,
    by_clock: bool,
) -> Option<()> {
    let span = |key| section.get(key).map_or(section.header(), |value| value.span());
    let (key, message, hint) = match replay {
        Replay { esn: false, .. } if by_clock => (
            "esn",
            "period needs esn: its sequence numbers don't fit 32 bits",
            "write esn = true, or leave it out",
        ),
        Replay { window: 0, esn: true } if by_clock => (
            "replay_window",
            "period needs a replay window, as the kernel refuses ESN without one",
            "write replay_window = 1024, or leave it out",
        ),
        Replay { window: 0, esn: true } => (
            "esn",
            "the kernel refuses ESN without a replay window",
            "write replay_window = 1024 as well",
        ),
        _ => return Some(()),
    };
    findings.wrong(span(key), message.into(), hint);
    None
}

/// Without a period, sequence numbers begin again under an old key. Where the kernel encrypts, a
/// nonce is a number XOR a salt that it draws for each SA. A device's nonces are documented
/// nowhere, and a nonce that comes twice gives the key's authentication away.
fn check_offload(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    by_clock: bool,
) -> Option<()> {
    let offload = section.get("offload").filter(|_| !by_clock);
    let Some(value) = offload else { return Some(()) };
    let message = "offload needs period: with generation a restarted host counts from 0 again, and \
                   nothing shows that a device makes other nonces of these numbers";
    let hint = "write period = \"1h\" in [rotation] instead of generation, or leave offload out";
    findings.wrong(value.span(), message.into(), hint);
    None
}

fn read_window(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<u32> {
    let number = findings.number(value, REPLAY_WINDOW)?;
    if number == 0 || (number >= 32 && number.is_power_of_two()) {
        return u32::try_from(number).ok();
    }
    let message = format!("replay_window {number} is neither 0 nor a power of two from 32 to 4096");
    let hint = format!("write {}", (number.next_power_of_two()).max(32));
    findings.wrong(value.span(), message, hint);
    None
}
