//! Networks behind peers: what stands in the way of the interface and of the routes to it, and facts
//! that the operator should know.

use std::{borrow::Cow, collections::BTreeSet};

use super::{conflict::Conflict, link, stops::Stops, warn::list};
use crate::{
    desired::{Desired, FibKey, Goal, Inside, WantedEntry, WantedTunnel},
    model::{
        ConflictCode, Family, FibAction, FibEntry, Live, MAIN_TABLE, Mtu, PeerName, Prefix,
        PrefixMap, Reqid, State, Warning, WarningCode,
    },
    mtu,
};

/// The wanted objects with all that depends on the host's state.
pub(super) fn resolved<'d>(desired: &'d Desired, state: &State, reqid: Reqid) -> Cow<'d, Desired> {
    let tunnel = desired.tunnel.as_ref();
    let underlay = tunnel.and_then(|tunnel| link::underlay(state, tunnel.address).ok());
    desired.resolved(state, reqid, underlay.map(|link| link.mtu))
}

/// Foreign objects in the way of the interface, and of the routes to it.
pub(super) fn conflicts(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Conflict> {
    let Some(tunnel) = &desired.tunnel else { return Vec::new() };
    let mut found = Vec::from_iter(taken_name(tunnel, &live.0, reqid));
    found.extend(other_routes(desired, tunnel, &live.0, reqid));
    found
}

/// A device with the interface's name that is not the mesh's.
fn taken_name(tunnel: &WantedTunnel, state: &State, reqid: Reqid) -> Option<Conflict> {
    let device = &tunnel.device;
    let link = state.link(device)?;
    let is_ours = state.interface_of(reqid).is_some_and(|interface| interface.name == *device);
    (!is_ours).then(|| {
        let kind = link.kind.as_deref().unwrap_or("device");
        let text = "a foreign device has the name of the mesh's interface; give the interface another \
                    name, with device in [tunnel]";
        Conflict {
            code: ConflictCode::DeviceTaken,
            stops: Stops::All,
            object: format!("{kind} {device}"),
            text: text.into(),
        }
    })
}

/// Routes of others by which packets for a peer's network leave without the mesh: those that are more
/// specific, or as specific and preferred, and those of tables that are asked before the main one. The
/// kernel refuses a second entry for one prefix with one metric (`EEXIST`), whatever the first does.
fn other_routes(
    desired: &Desired,
    tunnel: &WantedTunnel,
    state: &State,
    reqid: Reqid,
) -> Vec<Conflict> {
    let ours: BTreeSet<&FibEntry> = state.fib_of(reqid).collect();
    let networks: PrefixMap<(&Prefix, &PeerName)> =
        desired.networks.iter().map(|(network, peer)| (*network, (network, peer))).collect();
    let mut found = Vec::new();
    for entry in state.fib.iter().filter(|entry| !ours.contains(entry)) {
        // Nothing leaves by these.
        let drops = match &entry.action {
            FibAction::Blackhole => true,
            FibAction::Other(word) => matches!(word.as_str(), "unreachable" | "prohibit"),
            FibAction::Devices(_) => false,
        };
        let has_place = desired.fib.get(&FibKey::of(entry)).filter(|_| !entry.selective);
        if let Some(WantedEntry { peer, .. }) = has_place {
            found.push(Conflict {
                code: ConflictCode::OtherRoute,
                stops: Stops::peer(peer),
                object: format!("route {entry}"),
                text: "this foreign route has the prefix and the metric of one of the mesh; delete it, or \
                       give it another metric"
                    .into(),
            });
            continue;
        }
        if drops || entry.action == FibAction::device(&tunnel.device) {
            continue;
        }
        let is_own = entry.action == FibAction::Other("local".into());
        for (network, peer) in met_by(&networks, entry) {
            // At stage receive, packets leave by other routes as the file asks.
            let blackhole = FibKey::of(&FibEntry::blackhole(**network, reqid));
            if !desired.fib.contains_key(&blackhole) && !tunnel.routes.contains_key(network) {
                continue;
            }
            if is_own {
                found.push(Conflict {
                    code: ConflictCode::OtherRoute,
                    stops: Stops::peer(peer),
                    object: format!("address {}", entry.to.address),
                    text: format!(
                        "this host has the address, and it is in {network}, a network of the peer: \
                         packets for it stay here; take it from its device, or leave the network out of \
                         the file"
                    ),
                });
                continue;
            }
            let why = match (entry.table == MAIN_TABLE, entry.to.length > network.length) {
                (true, true) => "it is more specific than the mesh's route",
                (true, false) if entry.selective => {
                    "packets of some sources, or of a type of service, follow it first"
                }
                (true, false) => "its metric is smaller than that of the mesh's route",
                (false, _) => "a rule may ask its table before the mesh's",
            };
            found.push(Conflict {
                code: ConflictCode::OtherRoute,
                stops: Stops::peer(peer),
                object: format!("route {entry}"),
                text: format!(
                    "by this foreign route packets for {network} leave without the mesh: {why}; delete \
                     it, or leave the network out of the file"
                ),
            });
        }
    }
    found
}

/// The networks with packets that follow an entry before the mesh's route.
fn met_by<'n, 'd>(
    networks: &'n PrefixMap<(&'d Prefix, &'d PeerName)>,
    entry: &FibEntry,
) -> impl Iterator<Item = &'n (&'d Prefix, &'d PeerName)> {
    let FibEntry { to, table, metric, selective, .. } = *entry;
    let met = networks.covering(to).chain(networks.within(to));
    met.filter(move |(network, _)| {
        let is_preferred = to.length > network.length
            || to.length == network.length && (selective || metric < FibEntry::METRIC);
        table != MAIN_TABLE || is_preferred
    })
}

/// Facts about the interface that the operator should know.
pub(super) fn warnings(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let Some(tunnel) = desired.tunnel.as_ref().filter(|_| desired.goal == Goal::Mesh) else {
        return Vec::new();
    };
    let mut lines = mtu_warnings(desired, tunnel, &live.0);
    lines.extend(without_ipv6(desired, tunnel, &live.0));
    lines.extend(no_own_route(tunnel, &live.0, reqid));
    let families = [true, false].into_iter().filter(|is_ipv4| *is_ipv4 || !live.0.ipv6_off);
    lines.extend(families.filter_map(|is_ipv4| {
        let has_networks = desired.networks.keys().any(|net| net.address.is_ipv4() == is_ipv4);
        has_networks.then(|| no_inside(tunnel, &live.0, reqid, is_ipv4)).flatten()
    }));
    lines
}

fn mtu_warnings(desired: &Desired, tunnel: &WantedTunnel, state: &State) -> Vec<Warning> {
    let underlay = link::underlay(state, tunnel.address);
    let below = underlay.as_ref().ok().map(|link| link.mtu);
    let (fitting, wanted) = (tunnel.fitting(below), tunnel.mtu(below));
    let device = &tunnel.device;
    let mut lines = Vec::new();
    match (tunnel.mtu, &underlay, fitting) {
        (Mtu::Auto, Err(_), _) if state.links.is_empty() => {
            let text = format!(
                "the devices of this host are not known, so {device} is shown with an MTU of {}",
                mtu::IPV6_SMALLEST
            );
            lines.push(Warning::new(WarningCode::MtuNotChecked, text));
        }
        (Mtu::Auto, Err(why), _) => {
            let text = format!(
                "{why}, so {device} gets an MTU of {}; write mtu as a number in [tunnel]",
                mtu::IPV6_SMALLEST
            );
            lines.push(Warning::new(WarningCode::UnderlayUnknown, text));
        }
        (Mtu::Auto, Ok(link), None) => {
            let text = format!(
                "the {} of {name} leaves no room for encrypted packets, so {device} gets an MTU of {}; \
                 raise that of {name}",
                link.mtu,
                mtu::IPV6_SMALLEST,
                name = link.name
            );
            lines.push(Warning::new(WarningCode::UnderlayTooSmall, text));
        }
        (Mtu::Exactly(mtu), Ok(link), Some(fitting)) if mtu > fitting => {
            let text = format!(
                "mtu = {mtu} of [tunnel] is more than {fitting}, the largest that fits the {} of {} when \
                 encrypted: larger packets are lost, or leave in fragments",
                link.mtu, link.name
            );
            lines.push(Warning::new(WarningCode::MtuTooLarge, text));
        }
        (Mtu::Auto | Mtu::Exactly(_), _, _) => {}
    }
    let has_ipv6 = desired.networks.keys().any(|network| network.address.is_ipv6());
    if wanted < mtu::IPV6_SMALLEST && has_ipv6 {
        let text = format!(
            "with an MTU of {wanted}, below 1280, the kernel takes IPv6 off {device}, so that packets to \
             networks of IPv6 are dropped"
        );
        lines.push(Warning::new(WarningCode::MtuTakesIpv6, text));
    }
    lines
}

/// A host that sends and takes nothing of IPv6 by the interface.
fn without_ipv6(desired: &Desired, tunnel: &WantedTunnel, state: &State) -> Option<Warning> {
    let mut networks = desired.networks.keys().chain(&tunnel.own);
    let has_ipv6 = networks.any(|network| network.address.is_ipv6());
    (state.ipv6_off && has_ipv6).then(|| {
        let device = &tunnel.device;
        let remedy = match state.firewall.absent.contains(&Family::Ipv6) {
            true => "the kernel has none".into(),
            false if state.link(device).is_some() => {
                format!("run: sysctl -w net/ipv6/conf/{device}/disable_ipv6=0")
            }
            false => "run: sysctl -w net/ipv6/conf/default/disable_ipv6=0".into(),
        };
        let text = format!(
            "IPv6 is off on {device}, so that this host reaches no networks of IPv6, and has no address \
             or route for them; where its programs need them, {remedy}"
        );
        Warning::new(WarningCode::NoIpv6, text)
    })
}

/// Networks behind this host to which no route leads. A gateway sends on what it has decrypted by its
/// own routes: without one for the network that is the default route, and may be the underlay.
fn no_own_route(tunnel: &WantedTunnel, state: &State, reqid: Reqid) -> Option<Warning> {
    // A plan without the host's state knows no routes.
    if state.links.is_empty() {
        return None;
    }
    // One that is a single address is this host's own.
    let stays = |network: &Prefix| *network == Prefix::host(network.address);
    let ours: BTreeSet<&FibEntry> = state.fib_of(reqid).collect();
    // Those for this host's own addresses lead nowhere else.
    let is_local = |entry: &FibEntry| match &entry.action {
        FibAction::Devices(_) | FibAction::Blackhole => false,
        FibAction::Other(word) => !matches!(word.as_str(), "unreachable" | "prohibit"),
    };
    let leads = |network: &Prefix| {
        let is_for_it = |entry: &&FibEntry| entry.to.length > 0 && entry.to.overlaps(network);
        let mut entries = state.fib.iter().filter(is_for_it);
        entries.any(|entry| !is_local(entry) && !ours.contains(entry))
    };
    let lost = tunnel.own.iter().filter(|network| !stays(network) && !leads(network));
    let lost: Vec<String> = lost.map(ToString::to_string).collect();
    (!lost.is_empty()).then(|| {
        let text = format!(
            "no route of this host is for its own {} or a part of it: where it forwards packets, those \
             that it decrypts for hosts there follow the default route, in the clear; add a route to \
             the hosts",
            list(&lost)
        );
        Warning::new(WarningCode::NoOwnRoute, text)
    })
}

/// A host whose own programs have no address that the other ends take in.
fn no_inside(tunnel: &WantedTunnel, state: &State, reqid: Reqid, is_ipv4: bool) -> Option<Warning> {
    let family = if is_ipv4 { "IPv4" } else { "IPv6" };
    let (is, remedy) = match tunnel.inside(state, reqid, is_ipv4) {
        Inside::At(_) => return None,
        Inside::None if tunnel.own.iter().all(|net| net.address.is_ipv4() != is_ipv4) => (
            format!("this host has no network of {family}"),
            "that is right if none of its programs needs them",
        ),
        Inside::None => (
            format!("this host has no address within its networks of {family}"),
            "write one as inside of this peer, if its programs need them",
        ),
        Inside::Several(all) => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            (
                format!("this host has several addresses within its networks ({})", list(&all)),
                "write one of them as inside of this peer",
            )
        }
    };
    let text = format!(
        "{is}, so the packets of its own programs to networks of {family} come from an address that the \
         other ends refuse; {remedy}"
    );
    Some(Warning::new(WarningCode::NoInside, text))
}
