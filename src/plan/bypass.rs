//! Sysctls that take packets past all policies (`IN_DEV_NOXFRM`, `IN_DEV_NOPOLICY`).
//!
//! `disable_xfrm` counts on the device that a packet leaves by. The route picks that device, even
//! where another one carries the source address. `disable_policy` counts on the device that a
//! packet comes in by, over IPv6 on the one that carries its destination. A sysctl that certainly
//! concerns the mesh is a conflict, all others are warnings.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    conflict::Conflict,
    firewall,
    stops::{Peers, Stops},
    warn::names,
};
use crate::{
    desired::{Desired, Goal, WantedTunnel},
    model::{
        Bypass, ConflictCode, Direction, Family, Hidden, Link, Live, PeerName, Policy, PolicyId,
        Queue, Route, State, Warning, WarningCode,
    },
};

/// A sysctl, with the facts about its device that plans need.
struct Place<'a> {
    desired: &'a Desired,
    state: &'a State,
    local: IpAddr,
    routes: BTreeMap<IpAddr, &'a Route>,
}

impl<'a> Place<'a> {
    /// None where all of the mesh is to go, and nothing can be in the way.
    fn of(desired: &'a Desired, live: &'a Live) -> Option<Self> {
        let (local, state) = (desired.local.filter(|_| desired.goal != Goal::Nothing)?, &live.0);
        let from_here = state.routes.iter().filter(|route| route.from == local);
        let routes = from_here.map(|route| (route.to, route)).collect();
        Some(Self { desired, state, local, routes })
    }

    /// Whether a sysctl is of the family of the mesh.
    fn is_of_mesh(&self, bypass: &Bypass) -> bool {
        bypass.ipv6 == self.local.is_ipv6()
    }

    /// Whether a device has the local address and, over IPv4, may be the one by which packets to
    /// it come in: none do by lo or a dummy. Over IPv6 the address is enough.
    fn carries(&self, bypass: &Bypass) -> bool {
        let mut addresses = self.state.addresses.iter();
        let inner = || self.state.link(&bypass.device).is_some_and(Link::ends_here);
        (bypass.ipv6 || bypass.device != "lo" && !inner())
            && addresses.any(|at| at.address == self.local && at.device == bypass.device)
    }

    /// The peers that a sysctl certainly concerns, if any.
    fn stops(&self, bypass: &Bypass) -> Option<Stops> {
        if let Some(tunnel) = &self.desired.tunnel {
            return self.opens_networks(tunnel, bypass).then_some(Stops::All);
        }
        // At stage receive packets leave in the clear in any case.
        if bypass.name == "disable_xfrm" && !self.desired.sends() && self.desired.guards.is_empty()
        {
            return None;
        }
        let everybody = bypass.device == "all"
            || match (self.is_of_mesh(bypass), bypass.name.as_str()) {
                (true, "disable_xfrm") => false,
                (true, _) => self.carries(bypass) || self.comes_in_by(bypass),
                (false, _) => bypass.device != "lo" && self.carries(bypass),
            };
        if everybody {
            return (self.is_of_mesh(bypass) || !self.desired.guards.is_empty())
                .then_some(Stops::All);
        }
        if !self.is_of_mesh(bypass) || bypass.name != "disable_xfrm" {
            return None;
        }
        self.leave_by(&bypass.device)
    }

    /// Whether a sysctl has packets taken in as if from any network: those that an SA has decrypted, or
    /// clear text from the underlay. Packets that leave meet the interface's policies and the blackholes
    /// whatever sysctls say.
    fn opens_networks(&self, tunnel: &WantedTunnel, bypass: &Bypass) -> bool {
        let is_of_networks =
            self.desired.networks.keys().any(|network| network.address.is_ipv6() == bypass.ipv6);
        let carries = self.state.carriers(self.local).any(|link| link.name == bypass.device);
        let comes_in = self.routes.values().any(|route| route.devices.contains(&bypass.device));
        let is_on_the_way = bypass.device == "all"
            || bypass.device == tunnel.device
            || (carries || comes_in) && bypass.device != "lo";
        bypass.name == "disable_policy" && is_on_the_way && is_of_networks
    }

    /// Whether packets of peers are known to come in by a device. Over IPv4 that is the device by
    /// which packets to them leave. The sysctls of a VRF do not count for packets that come in by a
    /// device in it.
    fn comes_in_by(&self, bypass: &Bypass) -> bool {
        let by = |route: &&Route| route.devices.contains(&bypass.device);
        !bypass.ipv6 && self.routes.values().any(by)
    }

    /// The peers to which packets leave by a device.
    fn leave_by(&self, device: &str) -> Option<Stops> {
        let mut carriers = self.state.addresses.iter();
        let carries = carriers.any(|at| at.address == self.local && at.device == device);
        self.reached(|to| match self.routes.get(to) {
            Some(route) => route.devices.contains(device),
            None => carries && device != "lo",
        })
    }

    /// The peers that are reached in some way.
    fn reached(&self, by: impl Fn(&IpAddr) -> bool) -> Option<Stops> {
        let list: Arc<[PeerName]> = self.desired.peers.values().cloned().collect();
        let places = self.desired.peers.keys().enumerate().filter(|(_, to)| by(to));
        let peers = Peers::new(&list, places.map(|(at, _)| at..at + 1).collect());
        (!peers.is_empty()).then(|| match peers.len() == list.len() {
            true => Stops::All,
            false => Stops::Peers(peers),
        })
    }
}

/// Sysctls that certainly take packets of the mesh past its policies.
pub(super) fn conflicts(desired: &Desired, live: &Live) -> Vec<Conflict> {
    let Some(place) = Place::of(desired, live) else { return Vec::new() };
    let conflict = |bypass: &Bypass| {
        let stops = place.stops(bypass)?;
        let whose = match (&stops, bypass.device.as_str()) {
            (Stops::Peers(peers), device) => format!("packets to {peers} leave by {device} and"),
            (Stops::All, "all") => "packets of every device".into(),
            (Stops::All, device) => format!("packets of {device}"),
        };
        let key = key(bypass);
        Some(Conflict {
            code: ConflictCode::Bypass,
            stops,
            text: format!("{whose} pass all policies; run: sysctl -w {key}=0"),
            object: format!("sysctl {key} = 1"),
        })
    };
    let mut found: Vec<Conflict> = live.0.bypasses.iter().filter_map(conflict).collect();
    found.extend(live.0.links.iter().filter_map(|link| queue(&place, link)));
    found
}

/// A VRF that queues packets to peers: they are looked up again without their ports, and find no
/// policy that asks for ports.
fn queue(place: &Place<'_>, vrf: &Link) -> Option<Conflict> {
    let queue = vrf.queue.as_ref()?;
    let lost = lost_in_a_queue(place)?;
    let stops = place
        .reached(|to| place.routes.get(to).is_some_and(|route| route.vrfs.contains(&vrf.name)))?;
    let remedy = remedy_of_queue(vrf, queue);
    Some(Conflict {
        code: ConflictCode::Bypass,
        stops,
        text: format!("the kernel looks packets that wait in a VRF up again {lost}; {remedy}"),
        object: format!("VRF {} with {queue}", vrf.name),
    })
}

fn remedy_of_queue(vrf: &Link, queue: &Queue) -> String {
    match queue {
        Queue::Discipline(_) => format!("run: tc qdisc del dev {} root", vrf.name),
        Queue::Transmit(_) => "make it anew with numtxqueues 1".into(),
    }
}

/// The same of a VRF that no peer is known to be reached by: packets to strangers pass policies that
/// guard, and chains that guard look at no policy.
fn queue_elsewhere(place: &Place<'_>, vrf: &Link) -> Option<Warning> {
    let queue = vrf.queue.as_ref().filter(|_| self::queue(place, vrf).is_none())?;
    let Place { desired, state, .. } = place;
    let lacks_rules =
        |family: &Family| !firewall::are_wanted(desired, &state.firewall, *family, Direction::Out);
    let is_guarded = desired.guards.keys().any(|guard| guard.direction == Direction::Out);
    (is_guarded && Family::ALL.iter().any(lacks_rules)).then(|| {
        let text = format!(
            "the kernel looks packets that wait in VRF {}, with {queue}, up again without their \
             ports: those to hosts that are not peers pass the guard; {}",
            vrf.name,
            remedy_of_queue(vrf, queue)
        );
        Warning::new(WarningCode::PastTheGuard, text)
    })
}

/// The packets that pass all policies when they have waited in a VRF. A mark is given behind the
/// look-up that has no ports, and leads to another that has all, but ICMP errors have no mark.
fn lost_in_a_queue(place: &Place<'_>) -> Option<&'static str> {
    let Place { desired, state, local, .. } = place;
    let by_port = |policy: &Policy| {
        let PolicyId { direction, selector, .. } = policy.id;
        direction == Direction::Out && selector.dport.mask | selector.sport.mask != 0
    };
    let policies = || desired.policies.values().map(|wanted| &wanted.policy).filter(|p| by_port(p));
    let family = if local.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let errors = policies().any(Policy::is_for_icmp_errors);
    match policies().any(|policy| !policy.is_for_icmp_errors()) {
        true if firewall::are_wanted(desired, &state.firewall, family, Direction::Out) => Some(
            "without their ports, and they pass all policies: the second guard drops them, but not \
             ICMP errors, which quote decrypted packets",
        ),
        true => Some("without their ports, and they pass all policies"),
        false if errors => Some(
            "without the type of ICMP errors, and these, which quote decrypted packets, pass all \
             policies",
        ),
        // An echo reply has type 0.
        false if desired.passages.values().any(Policy::passes_echo_replies) => Some(
            "without the type of ICMP, so that errors, which quote decrypted packets, pass in the \
             clear like the echo replies of [[except]]",
        ),
        false => None,
    }
}

/// The other sysctls, such as those that strongSwan's manual sets for the devices of its tunnels,
/// and those that can't be read.
pub(super) fn warnings(desired: &Desired, live: &Live) -> Vec<Warning> {
    let Some(place) = Place::of(desired, live) else { return Vec::new() };
    let mut lines = Vec::new();
    if live.0.hidden.contains(&Hidden::Sysctls) {
        let text = "sysctls can't be seen, as /proc/sys/net is not there (ProcSubset=pid, or a \
                    container): whether disable_xfrm or disable_policy take packets past all \
                    policies is not known; run meshsec where /proc/sys can be read";
        lines.push(Warning::new(WarningCode::SysctlsHidden, text));
    }
    let by_vrf = |route: &&&Route| !route.vrfs.is_empty();
    let peers: BTreeSet<&PeerName> = place
        .routes
        .values()
        .filter(by_vrf)
        .filter_map(|route| desired.peers.get(&route.to))
        .collect();
    if desired.marking.is_some() && !peers.is_empty() {
        let text = format!(
            "packets to {} leave by a VRF, and there some kernels lose the look-up by the mark, as \
             6.12 does over IPv6: the guard drops these packets, none leaves in the clear; select \
             by port there",
            names(&peers)
        );
        lines.push(Warning::new(WarningCode::MarkInAVrf, text));
    }
    // Where only some peers are stopped, strangers are reached by the device too.
    let stops_all = |bypass: &Bypass| matches!(place.stops(bypass), Some(Stops::All));
    let others = live.0.bypasses.iter().filter(|bypass| !stops_all(bypass));
    lines.extend(others.filter_map(|bypass| elsewhere(&place, bypass)));
    lines.extend(live.0.links.iter().filter_map(|link| queue_elsewhere(&place, link)));
    lines
}

/// A sysctl of a device by which no peer is known to be reached. Packets that others send by it are
/// not the mesh's, and a guard is to stop them; a chain that guards looks at no sysctl. Packets
/// that come in by it may be forged.
fn elsewhere(place: &Place<'_>, bypass: &Bypass) -> Option<Warning> {
    let Place { desired, .. } = place;
    let Bypass { device, ipv6: _, name } = bypass;
    // The policies of XFRM interfaces are asked all the same.
    let is_interface = place.state.interfaces.iter().any(|interface| interface.name == *device);
    let own = desired.interface.as_ref().is_some_and(|interface| interface.name == *device);
    if name == "disable_xfrm" && (own || desired.tunnel.is_some() && is_interface) {
        return None;
    }
    let family = if bypass.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let (moves, direction) = match name.as_str() {
        "disable_xfrm" => ("leave", Direction::Out),
        _ => ("come in", Direction::In),
    };
    let guarded = !desired.guards.is_empty()
        && !firewall::are_wanted(desired, &place.state.firewall, family, direction);
    let key = key(bypass);
    let text = if guarded && device != "lo" {
        format!(
            "packets that {moves} by {device} pass all policies, the guard too ({key} = 1); unless \
             somebody needs that, run: sysctl -w {key}=0"
        )
    } else if desired.guards.is_empty() && name == "disable_policy" && place.is_of_mesh(bypass) {
        format!(
            "packets that come in by {device} pass all policies, also in the name of a peer ({key} \
             = 1); unless somebody needs that, run: sysctl -w {key}=0"
        )
    } else {
        return None;
    };
    Some(Warning::new(WarningCode::PastTheGuard, text))
}

fn key(Bypass { device, ipv6, name }: &Bypass) -> String {
    let family = if *ipv6 { "ipv6" } else { "ipv4" };
    format!("net/{family}/conf/{device}/{name}")
}
