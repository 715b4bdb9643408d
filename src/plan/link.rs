//! The wanted MTU of the tunnel's device, and warnings about it.

use std::net::IpAddr;

use super::{
    change::{Change, ChangeAction, Context, Difference, ObjectKind, Operation},
    fields::{self, Field},
    sequence::Phase,
    tunnel,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Keyring, WantedLink},
    model::{
        Direction, Link, Live, Mtu, MtuStep, Reason, ReasonCode, Selector, State, StepKind, Tunnel,
        Warning, WarningCode,
    },
    mtu,
};

/// A device whose MTU isn't as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtuChange {
    /// Its name.
    pub device: String,
    /// The MTU that it has.
    pub before: u32,
    /// The MTU that it should have.
    pub after: u32,
}

impl Difference for MtuChange {
    fn action(&self) -> ChangeAction {
        ChangeAction::Update
    }

    fn kind(&self) -> ObjectKind {
        ObjectKind::Link
    }

    fn id(&self) -> String {
        format!("dev {}", self.device)
    }

    fn direction(&self) -> Option<Direction> {
        None
    }

    fn is_optional(&self) -> bool {
        true
    }

    fn fields(&self) -> Vec<Field> {
        let of_mtu = |mtu: u32| vec![("mtu", mtu.to_string())];
        fields::differing(of_mtu(self.before), of_mtu(self.after))
    }

    fn line(&self, _: bool) -> String {
        self.id()
    }

    fn steps(&self, _: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        let Self { device, before, after } = self;
        let phase = if after > before { Phase::RaiseMtu } else { Phase::LowerMtu };
        vec![(phase, StepKind::Mtu(MtuStep { device: device.clone(), mtu: *after }))]
    }

    /// A device is of no peer.
    fn way_back(&self, _: &RollBack<'_>) -> Option<WayBack> {
        None
    }

    fn uncovered(&self) -> Vec<Selector> {
        Vec::new()
    }

    fn irreversible(&self, _: &State, _: &Keyring) -> Vec<String> {
        Vec::new()
    }
}

/// The change of the device's MTU, if it isn't as wanted.
pub(super) fn change(desired: &Desired, live: &Live) -> Option<Change> {
    let wanted = desired.link.as_ref()?;
    let device = tunnel_device(desired, wanted, &live.0).ok()?;
    let (after, reason) = match wanted.mtu {
        Mtu::Exactly(mtu) => (mtu, Reason::new(ReasonCode::MtuWanted, "mesh.toml says so")),
        Mtu::Auto => {
            let (underlay, after) = fitting(wanted, &live.0).ok()?;
            let Link { name, mtu, .. } = underlay;
            let text = format!("the largest that fits the {mtu} of {name} when encrypted");
            (after, Reason::new(ReasonCode::MtuFits, text))
        }
    };
    let change = MtuChange { device: device.name.clone(), before: device.mtu, after };
    let operation = Operation::Mtu(change);
    (device.mtu != after).then_some(Change { peer: None, operation, reason })
}

/// Reasons why the MTU can't be kept right, and the consequences of the wanted one.
pub(super) fn warnings(desired: &Desired, live: &Live) -> Vec<Warning> {
    let Some(wanted) = &desired.link else { return Vec::new() };
    let device = match tunnel_device(desired, wanted, &live.0) {
        Ok(device) => device,
        Err(warning) => return warning.into_iter().collect(),
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

/// The device that `[link]` names, or why its MTU is left alone, if that is not a conflict.
fn tunnel_device<'s>(
    desired: &Desired,
    wanted: &WantedLink,
    state: &'s State,
) -> Result<&'s Link, Option<Warning>> {
    let name = &wanted.device;
    if state.links.is_empty() {
        let text = format!("no device of this host is known, so the MTU of {name} is not checked");
        return Err(Some(Warning::new(WarningCode::MtuNotChecked, text)));
    }
    let Some(device) = state.link(name) else {
        return Err(Some(missing(desired, name, state)));
    };
    if state.carriers(wanted.address).any(|carrier| carrier == device) {
        let text = format!(
            "{name}, which [link] names, carries {} itself, so its MTU is left alone; name the \
             tunnel's device instead",
            wanted.address
        );
        return Err(Some(Warning::new(WarningCode::LinkIsUnderlay, text)));
    }
    if tunnel::is_another(desired, state, name) {
        return Err(None);
    }
    Ok(device)
}

/// Warns of a device that is not there, or of a name that `ip link` shows but does not accept.
fn missing(desired: &Desired, name: &str, state: &State) -> Warning {
    let tunnels = state.tunnels.as_deref().unwrap_or_default();
    let also = |tunnel: &&Tunnel| tunnel.other_names.contains(name);
    let shown = name.split_once('@').map(|(device, _)| device);
    let known = shown.and_then(|device| state.link(device)).map(|link| &link.name);
    let known = known.or(tunnels.iter().find(also).map(|tunnel| &tunnel.device));
    let kind = desired.traffic.and_then(|traffic| traffic.device());
    let hint = match (known, kind, &state.tunnels) {
        (Some(device), ..) => format!("write device = \"{device}\""),
        (None, Some((kind, _)), Some(all)) if !all.is_empty() => {
            format!("apply again when it is there; {}", tunnel::devices_here(all, kind))
        }
        _ => "apply again when it is there".into(),
    };
    let text = format!(
        "this host has no device {name}, which [link] names, so its MTU is not set; {hint}"
    );
    Warning::new(WarningCode::LinkMissing, text)
}

/// The MTU that a device will have, where it is known.
pub(super) fn wanted_mtu(wanted: &WantedLink, state: &State) -> Option<u32> {
    match wanted.mtu {
        Mtu::Exactly(mtu) => Some(mtu),
        Mtu::Auto => fitting(wanted, state).ok().map(|(_, mtu)| mtu),
    }
}

/// The underlay's device and the MTU of a tunnel that fits it, for any device that makes the
/// tunnel.
pub(super) fn fitting_any<'s>(desired: &Desired, state: &'s State) -> Option<(&'s Link, u32)> {
    let tunnel = desired.traffic?.tunnel()?;
    let address = desired.local?;
    let underlay = underlay(state, address).ok()?;
    let headers = mtu::Headers { address, encap: desired.encap.is_some(), tunnel };
    let inner = mtu::fit(underlay.mtu, &headers).inner?;
    (inner >= mtu::SMALLEST).then_some((underlay, inner))
}

/// The underlay's device and the MTU that fits it, or why that isn't known.
fn fitting<'s>(wanted: &WantedLink, state: &'s State) -> Result<(&'s Link, u32), Warning> {
    let WantedLink { device, mtu: _, address, tunnel, encap } = wanted;
    let headers = mtu::Headers { address: *address, encap: *encap, tunnel };
    let underlay = underlay(state, *address).map_err(|why| {
        let text = format!(
            "{why}, so the MTU of {device} is left alone; write it as a number in [link], which \
             `meshsec mtu --underlay-mtu BYTES` computes"
        );
        Warning::new(WarningCode::UnderlayUnknown, text)
    })?;
    match mtu::fit(underlay.mtu, &headers).inner {
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
/// Where several devices carry the address, or routes to peers lead by several,
/// the one with the smallest MTU counts.
pub fn underlay(state: &State, address: IpAddr) -> Result<&Link, String> {
    let routes = state.routes.iter().filter(|route| route.from == address);
    let devices = routes.flat_map(|route| &route.devices).filter_map(|name| state.link(name));
    if let Some(link) = devices.filter(|link| !link.ends_here()).min_by_key(|link| link.mtu) {
        return Ok(link);
    }
    let carriers: Vec<&Link> = state.carriers(address).collect();
    let outward = carriers.iter().copied().filter(|link| !link.ends_here());
    match (outward.min_by_key(|link| link.mtu), carriers.first()) {
        (Some(link), _) => Ok(link),
        (None, Some(Link { name, .. })) => Err(format!(
            "{address} is on {name}, whose MTU says nothing of the path to the peers, and no \
             route to one is known"
        )),
        (None, None) => Err(format!("no device of this host has {address}")),
    }
}
