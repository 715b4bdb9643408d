//! `[tunnel]`.
#![forbid(unsafe_code)]

use super::link::{device_name, read_mtu};
use crate::{
    config::{
        mask,
        reader::{Findings, Section, Value},
        schema::{TUNNEL_DEVICE, TUNNEL_MTU},
        types::{InterfaceWish, Traffic},
    },
    model::Mtu,
};

/// The interface's name where the file gives none.
const DEVICE: &str = "mesh0";

/// The default where there is no such table: none, but for kind "networks". `traffic` is the traffic that
/// the file protects, if that is known.
pub(super) fn default(traffic: Option<Traffic>) -> Option<InterfaceWish> {
    let wish = InterfaceWish { device: DEVICE.into(), mtu: Mtu::Auto };
    (traffic == Some(Traffic::Networks)).then_some(wish)
}

/// The interface. None after an error.
pub(super) fn read(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    traffic: Option<Traffic>,
) -> Option<Option<InterfaceWish>> {
    let device = section
        .get(TUNNEL_DEVICE.name)
        .map_or(Some(DEVICE.to_owned()), |value| read_device(findings, value));
    let mtu = section
        .get(TUNNEL_MTU.name)
        .map_or(Some(Mtu::Auto), |value| read_mtu(findings, value, TUNNEL_MTU));
    if traffic.is_some_and(|traffic| traffic != Traffic::Networks) {
        let message =
            "[tunnel] is for kind = \"networks\", and this kind of traffic has no interface";
        let hint = "leave [tunnel] out, or write kind = \"networks\" in [traffic]";
        findings.wrong(section.header(), message.into(), hint);
        return None;
    }
    Some(Some(InterfaceWish { device: device?, mtu: mtu? }))
}

/// A name that is the interface's alone: the kernel puts a number for `%d`, and has directories of
/// sysctls for `all` and `default`. Rules of iptables hold it: `+` stands for any end there.
fn read_device(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<String> {
    let device = device_name(findings, value, TUNNEL_DEVICE)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    let is_word = device.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !is_word
        || !device.chars().all(is_plain)
        || ["all", "default", "lo"].contains(&device.as_str())
    {
        let message = format!("{} can't be the name of the mesh's interface", mask::quote(&device));
        findings.wrong(value.span(), message, TUNNEL_DEVICE.write);
        return None;
    }
    Some(device)
}
