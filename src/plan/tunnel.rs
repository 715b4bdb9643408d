//! Devices that make VXLAN or Geneve: whether the mesh protects their packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    conflict::Conflict,
    link,
    stops::Stops,
    warn::{capped, list, names},
};
use crate::{
    desired::{Desired, Goal, WantedLink},
    model::{
        ConflictCode, Destination, Direction, IPPROTO_UDP, Link, Live, PeerName, PortMatch, State,
        Tunnel, TunnelKind, Warning, WarningCode,
    },
};

/// A mesh of tunnels, and the devices of its host.
struct Tunnels<'a> {
    desired: &'a Desired,
    state: &'a State,
    all: &'a [Tunnel],
    local: IpAddr,
    kind: TunnelKind,
    port: u16,
}

impl<'a> Tunnels<'a> {
    /// `None` where the mesh is not of tunnels, all of it is to go, or the devices are not known.
    fn of(desired: &'a Desired, live: &'a Live) -> Option<Self> {
        let (kind, port) = desired.traffic?.device()?;
        let local = desired.local.filter(|_| desired.goal != Goal::Nothing)?;
        let (state, all) = (&live.0, live.0.tunnels.as_deref()?);
        Some(Self { desired, state, all, local, kind, port })
    }

    /// Those with packets that the mesh protects.
    fn ours(&self) -> impl Iterator<Item = &'a Tunnel> {
        let (kind, port) = (self.kind, self.port);
        self.all.iter().filter(move |tunnel| (tunnel.kind, tunnel.port) == (kind, port))
    }

    /// The fate of packets of the kind that no policy of a peer covers.
    fn fate(&self) -> &'static str {
        match self.desired.is_guarded() {
            false => "leave in the clear",
            true => "are blocked by the guard",
        }
    }

    /// Whether some policy protects or blocks packets to a port; it may be another mesh's.
    fn is_covered(&self, port: u16) -> bool {
        self.state.policies.iter().any(|policy| {
            let selector = &policy.id.selector;
            policy.id.direction == Direction::Out
                && !policy.lets_clear_text_pass()
                && selector.proto == IPPROTO_UDP
                && selector.dport == PortMatch::exactly(port)
        })
    }

    /// The device that [link] names, if it is here.
    fn named(&self) -> Option<(&'a WantedLink, &'a Link, Option<&'a Tunnel>)> {
        let wanted = self.desired.link.as_ref()?;
        let device = self.state.link(&wanted.device)?;
        let tunnel = self.all.iter().find(|tunnel| tunnel.device == device.name);
        Some((wanted, device, tunnel))
    }
}

/// A device of [link] with packets that are not those of the mesh. It stops no peer: packets that
/// can be protected are.
pub(super) fn conflicts(desired: &Desired, live: &Live) -> Option<Conflict> {
    let tunnels = Tunnels::of(desired, live)?;
    let (_, device, tunnel) = tunnels.named()?;
    let (name, kind, port) = (&device.name, tunnels.kind.word(), tunnels.port);
    let (code, text) = match tunnel {
        Some(found) if (found.kind, found.port) == (tunnels.kind, port) => return None,
        Some(found) if found.kind == tunnels.kind => (
            ConflictCode::LinkPort,
            format!(
                "{name} sends to port {0}, and [traffic] protects {port}, so its packets are not \
                 protected; write port = {0} under [traffic], or make {name} anew with dstport {port}",
                found.port
            ),
        ),
        Some(found) => (
            ConflictCode::LinkKind,
            format!(
                "{name} is a {} device, and [traffic] protects {kind}, so its packets are not \
                 protected; write the kind of {name} under [traffic], or name another device",
                found.kind.word()
            ),
        ),
        // A device that carries the address has a warning of its own.
        None if live.0.carriers(tunnels.local).any(|carrier| carrier == device) => return None,
        None => (
            ConflictCode::LinkKind,
            format!(
                "{name} is not a {kind} device, so its MTU is left alone; {}",
                devices_here(tunnels.all, tunnels.kind)
            ),
        ),
    };
    Some(Conflict { code, stops: Stops::nobody(), object: format!("[link] device {name}"), text })
}

/// Advice about a device that makes no tunnels: the devices that do.
pub(super) fn devices_here(all: &[Tunnel], kind: TunnelKind) -> String {
    let names: Vec<String> = all
        .iter()
        .filter(|tunnel| tunnel.kind == kind)
        .map(|tunnel| tunnel.device.clone())
        .collect();
    match names.as_slice() {
        [] => format!("this host has no {} device", kind.word()),
        _ => format!("the {} devices of this host: {}", kind.word(), list(&names)),
    }
}

/// Whether the device that [link] names certainly makes no tunnels of the mesh.
pub(super) fn is_another(desired: &Desired, state: &State, device: &str) -> bool {
    let (Some(all), Some((kind, port))) =
        (&state.tunnels, desired.traffic.and_then(|traffic| traffic.device()))
    else {
        return false;
    };
    let is_ours =
        |tunnel: &&Tunnel| tunnel.device == device && (tunnel.kind, tunnel.port) == (kind, port);
    !all.iter().any(|tunnel| is_ours(&tunnel))
}

/// Warns of all reasons why packets of a tunnel device are not protected.
pub(super) fn warnings(desired: &Desired, live: &Live) -> Vec<Warning> {
    let Some(tunnels) = Tunnels::of(desired, live) else { return Vec::new() };
    let mut lines = Vec::new();
    lines.extend(tunnels.on_other_ports());
    lines.extend(tunnels.groups());
    lines.extend(tunnels.sources());
    lines.extend(tunnels.picked_sources());
    lines.extend(tunnels.strangers());
    lines.extend(tunnels.unread());
    lines.extend(tunnels.mtus());
    lines.extend(tunnels.bridges());
    lines
}

/// Devices by the warning about them.
type Grouped<T> = BTreeMap<T, Vec<String>>;

fn grouped<'t, T: Ord>(
    tunnels: impl Iterator<Item = &'t Tunnel>,
    what: impl Fn(&Tunnel) -> Vec<T>,
) -> Grouped<T> {
    let mut groups = Grouped::new();
    for tunnel in tunnels {
        for what in what(tunnel) {
            groups.entry(what).or_default().push(tunnel.device.clone());
        }
    }
    groups
}

/// All destinations that are known.
fn destinations(tunnel: &Tunnel) -> BTreeSet<Destination> {
    let mut all = tunnel.entries.clone().unwrap_or_default();
    all.extend(tunnel.remote.map(|address| Destination { address, port: None }));
    all
}

impl Tunnels<'_> {
    /// Other devices of the kind, and forwarding entries with a port of their own.
    fn on_other_ports(&self) -> Vec<Warning> {
        let of_link = self.named().map(|(_, device, _)| &device.name);
        let same_kind = self.all.iter().filter(|tunnel| tunnel.kind == self.kind);
        let ports = |tunnel: &Tunnel| {
            let own = Some(tunnel.port).filter(|_| Some(&tunnel.device) != of_link);
            let of_entries = destinations(tunnel).into_iter().filter_map(|to| to.port);
            let ports: BTreeSet<u16> = own.into_iter().chain(of_entries).collect();
            ports.into_iter().filter(|port| *port != self.port && !self.is_covered(*port)).collect()
        };
        let line = |(port, devices): (u16, Vec<String>)| {
            let text = format!(
                "packets of {} to port {port} are not protected: this mesh protects {} to port {}",
                list(&devices),
                self.kind.word(),
                self.port
            );
            Warning::new(WarningCode::TunnelUnprotected, text)
        };
        grouped(same_kind, ports).into_iter().map(line).collect()
    }

    fn groups(&self) -> Vec<Warning> {
        let groups = |tunnel: &Tunnel| {
            let to = destinations(tunnel).into_iter().map(|to| to.address);
            let groups: BTreeSet<IpAddr> = to.filter(IpAddr::is_multicast).collect();
            groups.into_iter().collect()
        };
        let line = |(group, devices): (IpAddr, Vec<String>)| {
            let text = format!(
                "packets of {} to the group {group} {}: a group is not a peer; use a \
                 unicast forwarding entry for each peer (bridge fdb append)",
                list(&devices),
                self.fate()
            );
            Warning::new(WarningCode::TunnelGroup, text)
        };
        grouped(self.ours(), groups).into_iter().map(line).collect()
    }

    /// Devices with an address of their own that is not the local peer's. Those of the other family
    /// may be another mesh's.
    fn sources(&self) -> Vec<Warning> {
        let other = |tunnel: &Tunnel| {
            let local = tunnel.local.filter(|address| *address != self.local);
            local.filter(|address| address.is_ipv4() == self.local.is_ipv4()).into_iter().collect()
        };
        let line = |(address, devices): (IpAddr, Vec<String>)| {
            let text = format!(
                "packets of {} come from {address}, its local address, and {}: the policies are \
                 for {}",
                list(&devices),
                self.fate(),
                self.local
            );
            Warning::new(WarningCode::TunnelSource, text)
        };
        grouped(self.ours(), other).into_iter().map(line).collect()
    }

    /// Devices without an address of their own: the route picks one.
    fn picked_sources(&self) -> Vec<Warning> {
        let picked: BTreeMap<IpAddr, IpAddr> = self
            .state
            .routes
            .iter()
            .filter(|route| route.from == self.local)
            .filter_map(|route| Some((route.to, route.source?)))
            .filter(|(_, source)| *source != self.local)
            .collect();
        let sources = |tunnel: &Tunnel| {
            let known: BTreeSet<IpAddr> =
                destinations(tunnel).iter().map(|to| to.address).collect();
            let goes_to = |to: &IpAddr| known.is_empty() || tunnel.external || known.contains(to);
            let found = picked.iter().filter(|(to, _)| tunnel.local.is_none() && goes_to(to));
            let sources: BTreeSet<IpAddr> = found.map(|(_, source)| *source).collect();
            sources.into_iter().collect()
        };
        let line = |(source, devices): (IpAddr, Vec<String>)| {
            let to = picked.iter().filter(|(_, other)| **other == source);
            let peers: BTreeSet<&PeerName> =
                to.filter_map(|(to, _)| self.desired.peers.get(to)).collect();
            let text = format!(
                "without a local address of {}, the kernel picks {source} for packets to {}, which \
                 {}: the policies are for {local}; give the device local {local}",
                list(&devices),
                names(&peers),
                self.fate(),
                local = self.local
            );
            Warning::new(WarningCode::TunnelSource, text)
        };
        grouped(self.ours(), sources).into_iter().map(line).collect()
    }

    fn strangers(&self) -> Vec<Warning> {
        let line = |tunnel: &Tunnel| {
            let strangers: BTreeSet<IpAddr> = destinations(tunnel)
                .into_iter()
                .map(|to| to.address)
                .filter(|to| !self.desired.peers.contains_key(to) && !to.is_multicast())
                .filter(|to| *to != self.local && to.is_ipv4() == self.local.is_ipv4())
                .collect();
            let shown: Vec<String> = strangers.iter().map(ToString::to_string).collect();
            (!strangers.is_empty()).then(|| {
                let text = format!(
                    "packets of {} to {} {}: no pair has these addresses",
                    tunnel.device,
                    list(&shown),
                    self.fate()
                );
                Warning::new(WarningCode::TunnelStranger, text)
            })
        };
        let lines: Vec<Warning> = self.ours().filter_map(line).collect();
        capped(lines, WarningCode::TunnelStranger)
    }

    fn unread(&self) -> Option<Warning> {
        let hidden = self.ours().filter(|tunnel| tunnel.entries.is_none());
        let devices: Vec<String> = hidden.map(|tunnel| tunnel.device.clone()).collect();
        (!devices.is_empty()).then(|| {
            let text = format!(
                "the forwarding entries of {} can't be read, so where its packets go is not known",
                list(&devices)
            );
            Warning::new(WarningCode::EntriesUnseen, text)
        })
    }

    /// Devices with an MTU that nobody keeps right. One of Open vSwitch takes packets of any size, for
    /// networks that have an MTU of their own.
    fn mtus(&self) -> Vec<Warning> {
        let Some((underlay, fitting)) = link::fitting_any(self.desired, self.state) else {
            return Vec::new();
        };
        let of_link = self.desired.link.as_ref().map(|link| &link.device);
        let others =
            self.ours().filter(|tunnel| Some(&tunnel.device) != of_link && !tunnel.external);
        let too_large = |tunnel: &Tunnel| {
            let mtu = self.state.link(&tunnel.device).map(|link| link.mtu);
            mtu.filter(|mtu| *mtu > fitting).into_iter().collect()
        };
        let line = |(mtu, devices): (u32, Vec<String>)| {
            let remedy = match (of_link, devices.as_slice()) {
                (None, [device]) => format!("add [link] with device = \"{device}\""),
                _ => format!("ip link set DEVICE mtu {fitting}"),
            };
            let text = format!(
                "{} (port {}) has MTU {mtu}, and encrypted packets fit the {} of {} up to \
                 {fitting}: larger ones are lost, or leave in fragments; {remedy}",
                list(&devices),
                self.port,
                underlay.mtu,
                underlay.name
            );
            Warning::new(WarningCode::MtuTooLarge, text)
        };
        grouped(others, too_large).into_iter().map(line).collect()
    }

    /// A bridge takes packets that one of its ports can't send.
    fn bridges(&self) -> Vec<Warning> {
        let wanted = self.desired.link.as_ref();
        let larger = |tunnel: &Tunnel| {
            let of_link = wanted.filter(|link| link.device == tunnel.device);
            let after = of_link.and_then(|link| link::wanted_mtu(link, self.state));
            let own = self.state.link(&tunnel.device)?.mtu;
            let bridge = self.state.link(tunnel.master.as_ref()?)?;
            let is_bridge = bridge.kind.as_deref() == Some("bridge");
            let mtu = after.unwrap_or(own);
            (is_bridge && bridge.mtu > mtu).then(|| (bridge.name.clone(), bridge.mtu, mtu))
        };
        let line = |((bridge, larger, mtu), devices): ((String, u32, u32), Vec<String>)| {
            let text = format!(
                "the bridge {bridge} has MTU {larger}, and its port {} takes {mtu}: larger packets \
                 are lost between them; ip link set {bridge} mtu {mtu}",
                list(&devices)
            );
            Warning::new(WarningCode::BridgeMtu, text)
        };
        grouped(self.ours(), |tunnel| larger(tunnel).into_iter().collect())
            .into_iter()
            .map(line)
            .collect()
    }
}
