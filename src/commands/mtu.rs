//! `mtu`: how large a packet may be, part by part. Needs no privilege.

use super::{Status, print, print_json};
use crate::{
    cli::{Format, Global, MtuArgs},
    config::{Config, LocalError, SecretsMode},
    desired::ways,
    error::Error,
    kernel::linux::surroundings,
    model::{ErrorCode, Link, Mtu, Warning, WarningCode},
    mtu::{Headers, fit, needed},
    plan::underlay,
    privilege::Files,
    render::{Underlay, mtu_json, mtu_text},
};

/// Of the devices that packets to peers leave by, or of the MTU that is given.
pub(super) fn run(global: &Global, args: &MtuArgs) -> Result<Status, Error> {
    let config = super::load(global, SecretsMode::Ignored, Files::Neither)?.config;
    let state = surroundings(&ways(&config, global.local.as_deref()))?;
    let local = match super::local_peer(global, &config, &state.addresses) {
        Ok(peer) => Some(peer),
        Err(LocalError::NoAddress { .. }) if is_given(args) && one_family(&config) => None,
        Err(error) => return Err(error.into()),
    };
    let peer = local.or(config.peers.first());
    let address = peer
        .map(|peer| peer.address)
        .ok_or_else(|| Error::request(ErrorCode::MtuUnknown, "no peer"))?;
    let tunnel = config.traffic.tunnel().unwrap_or_default();
    let headers = Headers { address, encap: config.esp.encap.is_some(), tunnel };
    let given = match args.inner_mtu {
        Some(inner) => Some(needed(inner, &headers).ok_or_else(|| {
            Error::request(
                ErrorCode::MtuUnknown,
                format!("no IP packet carries {inner} bytes inside"),
            )
        })?),
        None => args.underlay_mtu,
    };
    let device = match (given, local) {
        (None, Some(local)) => {
            let give = |why| {
                Error::request(ErrorCode::MtuUnknown, format!("{why}; give --underlay-mtu BYTES"))
            };
            Some(underlay(&state, local.address).map_err(give)?)
        }
        _ => None,
    };
    let mtu = given.or(device.map(|link| link.mtu)).unwrap_or_default();
    let fit = fit(mtu, &headers);
    // Another host's device of that name tells nothing about this one.
    let here = local.is_some_and(|local| state.has_address(local.address));
    let named = config.link.as_ref().map(|link| &link.device);
    let named = named.or(config.tunnel.as_ref().map(|tunnel| &tunnel.device));
    let link = named.filter(|_| here).and_then(|device| state.link(device));
    let warnings = warnings(&config, fit.inner, link);
    let device = device.map(|link| link.name.as_str());
    let underlay = Underlay {
        config: &config,
        local,
        address,
        device,
        mtu,
        inner: args.inner_mtu,
        fit: &fit,
        link,
        warnings: &warnings,
    };
    match global.format {
        Format::Text | Format::Prometheus => print(&mtu_text(&underlay))?,
        Format::Json => print_json(&mtu_json(&underlay))?,
    }
    Ok(Status::Done)
}

fn is_given(args: &MtuArgs) -> bool {
    args.underlay_mtu.is_some() || args.inner_mtu.is_some()
}

/// Whether any peer tells the underlay's family.
fn one_family(config: &Config) -> bool {
    config.peers.iter().all(|peer| peer.address.is_ipv4() == config.peers[0].address.is_ipv4())
}

fn warnings(config: &Config, fitting: Option<u32>, link: Option<&Link>) -> Vec<Warning> {
    let mut lines = Vec::new();
    if let (Some(link), Some(fitting)) = (link, fitting)
        && link.mtu > fitting
    {
        let text = format!(
            "{} takes packets of {} bytes, and those above {fitting} are lost or leave in \
             fragments; `meshsec apply` sets the MTU",
            link.name, link.mtu
        );
        lines.push(Warning::new(WarningCode::MtuTooLarge, text));
    }
    let wanted = [
        config.link.as_ref().map(|link| (link.mtu, "[link]")),
        config.tunnel.as_ref().map(|tunnel| (tunnel.mtu, "[tunnel]")),
    ];
    if let (Some((Mtu::Exactly(mtu), table)), Some(fitting)) =
        (wanted.into_iter().flatten().next(), fitting)
        && mtu > fitting
    {
        let text = format!("mtu = {mtu} of {table} is more than {fitting}");
        lines.push(Warning::new(WarningCode::MtuTooLarge, text));
    }
    lines
}
