//! The MTU of the tunnel's device: what it should be, and what to warn of.

use std::net::IpAddr;

use super::change::{Change, What};
use crate::{
    desired::{Desired, WantedLink},
    model::{Link, Live, Mtu, Reason, ReasonCode, State, Warning, WarningCode},
    mtu,
};

/// The change of the device's MTU, if it isn't as wanted.
pub(super) fn change(desired: &Desired, live: &Live) -> Option<Change> {
    let wanted = desired.link.as_ref()?;
    let device = tunnel_device(wanted, &live.0).ok()?;
    let (after, reason) = match wanted.mtu {
        Mtu::Exactly(mtu) => (mtu, Reason::new(ReasonCode::MtuWanted, "mesh.toml says so")),
        Mtu::Auto => {
            let (underlay, after) = fitting(wanted, &live.0).ok()?;
            let Link { name, mtu, .. } = underlay;
            let text = format!("the largest that fits the {mtu} of {name} when encrypted");
            (after, Reason::new(ReasonCode::MtuFits, text))
        }
    };
    let what = What::SetMtu { device: device.name.clone(), before: device.mtu, after };
    (device.mtu != after).then_some(Change { peer: None, what, reason })
}

/// Why the MTU can't be kept right, or what comes of it.
pub(super) fn warnings(desired: &Desired, live: &Live) -> Vec<Warning> {
    let Some(wanted) = &desired.link else { return Vec::new() };
    let device = match tunnel_device(wanted, &live.0) {
        Ok(device) => device,
        Err(warning) => return vec![warning],
    };
    let mut lines = Vec::new();
    let after = match (wanted.mtu, fitting(wanted, &live.0)) {
        (Mtu::Auto, Err(warning)) => return vec![warning],
        (Mtu::Auto, Ok((_, after))) => after,
        (Mtu::Exactly(mtu), Ok((underlay, fitting))) if mtu > fitting => {
            let text = format!(
                "mtu = {mtu} of [link] is more than {fitting}, the largest that fits the {} of {} \
                 when encrypted: larger packets are lost, or leave in fragments",
                underlay.mtu, underlay.name
            );
            lines.push(Warning::new(WarningCode::MtuTooLarge, text));
            mtu
        }
        (Mtu::Exactly(mtu), _) => mtu,
    };
    if after < mtu::IPV6_SMALLEST && device.mtu >= mtu::IPV6_SMALLEST {
        let text = format!(
            "with an MTU of {after}, below 1280, the kernel takes IPv6 off {}, addresses included",
            device.name
        );
        lines.push(Warning::new(WarningCode::MtuTakesIpv6, text));
    }
    lines
}

/// The device that `[link]` names, or why nothing is done about its MTU.
fn tunnel_device<'s>(wanted: &WantedLink, state: &'s State) -> Result<&'s Link, Warning> {
    let name = &wanted.device;
    if state.links.is_empty() {
        let text = format!("no device of this host is known, so the MTU of {name} is not checked");
        return Err(Warning::new(WarningCode::MtuNotChecked, text));
    }
    let device = state.link(name).ok_or_else(|| {
        let text = format!(
            "this host has no device {name}, which [link] names, so its MTU is not set; apply \
             again when it is there"
        );
        Warning::new(WarningCode::LinkMissing, text)
    })?;
    if state.carriers(wanted.address).any(|carrier| carrier == device) {
        let text = format!(
            "{name}, which [link] names, carries {} itself, so its MTU is left alone; name the \
             tunnel's device instead",
            wanted.address
        );
        return Err(Warning::new(WarningCode::LinkIsUnderlay, text));
    }
    Ok(device)
}

/// The underlay's device and the MTU that fits it, or why that isn't known.
fn fitting<'s>(wanted: &WantedLink, state: &'s State) -> Result<(&'s Link, u32), Warning> {
    let WantedLink { device, address, .. } = wanted;
    let underlay = underlay(state, *address).map_err(|why| {
        let text = format!(
            "{why}, so the MTU of {device} is left alone; write it as a number in [link], which \
             `meshsec mtu --underlay-mtu BYTES` computes"
        );
        Warning::new(WarningCode::UnderlayUnknown, text)
    })?;
    match mtu::fit(underlay.mtu, *address, wanted.tunnel).inner {
        Some(inner) if inner >= mtu::SMALLEST => Ok((underlay, inner)),
        _ => {
            let text = format!(
                "the {} of {name} leaves no room for encrypted packets, so the MTU of {device} is \
                 left alone; raise that of {name}",
                underlay.mtu,
                name = underlay.name
            );
            Err(Warning::new(WarningCode::UnderlayTooSmall, text))
        }
    }
}

/// The device that packets from `address` leave by, or why that isn't known.
///
/// Where several devices carry the address, packets may take any of them, and
/// the one with the smallest MTU counts.
pub fn underlay(state: &State, address: IpAddr) -> Result<&Link, String> {
    let carriers: Vec<&Link> = state.carriers(address).collect();
    let outward = carriers.iter().copied().filter(|link| !link.ends_here());
    match (outward.min_by_key(|link| link.mtu), carriers.first()) {
        (Some(link), _) => Ok(link),
        (None, Some(Link { name, .. })) => {
            Err(format!("{address} is on {name}, whose MTU says nothing of the path to the peers"))
        }
        (None, None) => Err(format!("no device of this host has {address}")),
    }
}
