//! The effects of routes on the traffic with peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::warn::names;
use crate::{
    desired::{Desired, Goal},
    model::{Live, PeerName, Route, Warning, WarningCode},
};

/// Warns of no route, no carrier, another source address, or an unknown way.
pub(super) fn warnings(desired: &Desired, live: &Live) -> Vec<Warning> {
    let Some(local) = desired.local.filter(|_| desired.goal != Goal::Nothing) else {
        return Vec::new();
    };
    // A host without the address is asked about, and told, before any of this.
    if !live.0.has_address(local) {
        return Vec::new();
    }
    let from_here = live.0.routes.iter().filter(|route| route.from == local);
    let known: BTreeMap<IpAddr, &Route> = from_here.map(|route| (route.to, route)).collect();
    let peers = desired.peers.iter();
    let routes: Vec<_> = peers.filter_map(|(to, name)| Some((*known.get(to)?, name))).collect();
    let mut lines = Vec::new();
    lines.extend(unknown(desired, live, &known));
    lines.extend(refused(&routes));
    lines.extend(no_carrier(&routes));
    lines.extend(other_source(desired, local, &routes));
    lines
}

/// Where no device of a host is known, nobody expects it.
fn unknown(desired: &Desired, live: &Live, known: &BTreeMap<IpAddr, &Route>) -> Option<Warning> {
    let peers = desired.peers.iter().filter(|(to, _)| !known.contains_key(to));
    let peers: BTreeSet<&PeerName> = peers.map(|(_, name)| name).collect();
    (!peers.is_empty() && !live.0.links.is_empty()).then(|| {
        let text = format!(
            "by which devices packets to {} leave is not known, and the devices with this host's \
             address are taken for them; snapshots of older versions don't tell: take a new one",
            names(&peers)
        );
        Warning::new(WarningCode::RouteUnknown, text)
    })
}

/// The peers by the kernel's answer about them.
type Grouped<'a> = BTreeMap<String, BTreeSet<&'a PeerName>>;

fn grouped<'a>(
    routes: &[(&'a Route, &'a PeerName)],
    what: impl Fn(&Route) -> Option<String>,
) -> Grouped<'a> {
    let mut groups = Grouped::new();
    for (route, name) in routes {
        if let Some(what) = what(route) {
            groups.entry(what).or_default().insert(name);
        }
    }
    groups
}

fn refused(routes: &[(&Route, &PeerName)]) -> Vec<Warning> {
    let line = |(why, peers): (&String, &BTreeSet<&PeerName>)| {
        let text = format!(
            "this host has no route to {} ({why}): nothing gets there; is its device down?",
            names(peers)
        );
        Warning::new(WarningCode::NoRoute, text)
    };
    grouped(routes, |route| route.refused.clone()).iter().map(line).collect()
}

fn no_carrier(routes: &[(&Route, &PeerName)]) -> Vec<Warning> {
    let devices = |route: &Route| {
        let all = !route.devices.is_empty() && route.no_carrier.is_superset(&route.devices);
        all.then(|| route.devices.iter().cloned().collect::<Vec<_>>().join(" or "))
    };
    let line = |(devices, peers): (&String, &BTreeSet<&PeerName>)| {
        let text = format!(
            "packets to {} leave by {devices}, which has no carrier: nothing is at its other end",
            names(peers)
        );
        Warning::new(WarningCode::NoCarrier, text)
    };
    grouped(routes, devices).iter().map(line).collect()
}

/// Policies are for packets from the local peer's address. A device that sends tunnels has an
/// address of its own, which `plan::tunnel` looks at, and packets to networks may have any.
fn other_source(desired: &Desired, local: IpAddr, routes: &[(&Route, &PeerName)]) -> Vec<Warning> {
    let is_any = desired.protects_any_source();
    if is_any || desired.traffic.is_none_or(|traffic| traffic.tunnel().is_some()) {
        return Vec::new();
    }
    let source = |route: &Route| route.source.filter(|source| *source != local);
    let line = |(source, peers): (&String, &BTreeSet<&PeerName>)| {
        let text = format!(
            "packets to {} come from {source} wherever a program chooses no address itself, and \
             leave in the clear: the policies are for {local}; give the route to them src {local}",
            names(peers)
        );
        Warning::new(WarningCode::OtherSource, text)
    };
    let groups = grouped(routes, |route| source(route).map(|source| source.to_string()));
    groups.iter().map(line).collect()
}
