//! `[link]`.
#![forbid(unsafe_code)]

use crate::{
    config::{
        mask,
        reader::{Findings, Section, Value},
        schema::{DEVICE, Field, MTU},
        types::{LinkWish, Traffic},
    },
    model::Mtu,
};

/// Bytes of a device's name, without the zero at its end (`IFNAMSIZ`).
const LONGEST: usize = 15;

/// Only tunnels have a device; `traffic` is the traffic that the file protects, if that is known.
pub(super) fn read(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    traffic: Option<Traffic>,
) -> Option<LinkWish> {
    let device =
        section.require(findings, DEVICE).and_then(|value| device_name(findings, value, DEVICE));
    let mtu = section.get("mtu").map_or(Some(Mtu::Auto), |value| read_mtu(findings, value, MTU));
    if traffic.is_some_and(|traffic| traffic.tunnel().is_none()) {
        let message = "[link] is for the device of a tunnel, and this kind of traffic has none";
        let hint = match traffic {
            Some(Traffic::Networks) => "write device and mtu in [tunnel]",
            _ => "leave [link] out: the kernel tells connections of the smaller MTU by itself",
        };
        findings.wrong(section.header(), message.into(), hint);
        return None;
    }
    Some(LinkWish { device: device?, mtu: mtu? })
}

/// Reads a name that the kernel accepts (`dev_valid_name`).
pub(super) fn device_name(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    field: Field,
) -> Option<String> {
    let text = findings.text(value, field)?;
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    let is_name = (1..=LONGEST).contains(&text.len())
        && text.chars().all(allowed)
        && !matches!(text, "." | "..");
    if !is_name {
        let message = format!("{} can't be a device's name", mask::quote(text));
        findings.wrong(value.span(), message, field.write);
    }
    is_name.then(|| text.to_owned())
}

/// `"auto"`, or a number.
pub(super) fn read_mtu(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    field: Field,
) -> Option<Mtu> {
    match value.get_ref().as_str() {
        Some("auto") => Some(Mtu::Auto),
        Some(text) => {
            let message = format!("unknown mtu {}", mask::quote(text));
            findings.wrong(value.span(), message, field.write);
            None
        }
        None => {
            let number = findings.number(value, field)?;
            u32::try_from(number).ok().map(Mtu::Exactly)
        }
    }
}
