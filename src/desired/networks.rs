//! The objects of a mesh of kind "networks": policies that tie networks to keys, guards, the interface,
//! and the routes to it.
//!
//! Most follow from the file. The interface's MTU, its addresses and the routes' sources also depend on
//! the host, so they are filled in once its state is known ([`Desired::resolved`]).
#![forbid(unsafe_code)]

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Desired, FibKey, Mesh, WantedEntry, WantedPolicy};
use crate::{
    config::{InterfaceWish, Peer},
    model::{
        ChainRole, Direction, Family, FibEntry, Interface, LocalAddress, Mode, Mtu, PeerName,
        Policy, PolicyId, Prefix, Reqid, Rule, Selector, Spi, State, Template,
    },
    mtu::{self, Headers},
};

/// The part of a mesh's interface and routes that the file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTunnel {
    /// The interface's name.
    pub device: String,
    /// Its MTU; the value of `auto` depends on the underlay's devices.
    pub mtu: Mtu,
    /// The source address of ESP packets.
    pub address: IpAddr,
    /// Whether ESP is in UDP, in this generation or in a later one.
    pub encap: bool,
    /// The networks behind this host.
    pub own: BTreeSet<Prefix>,
    /// The addresses that the file gives this host within them.
    pub given: BTreeSet<IpAddr>,
    /// The networks that packets are routed to.
    pub routes: BTreeMap<Prefix, PeerName>,
}

/// Policies for each network of a peer. Those in and fwd name both outer addresses: so a packet from
/// the network is taken only under an SA of that very peer.
///
/// They have the interface's number, and meet no packet that has not come through it, or is routed to
/// it. So they take no clear text at any stage.
pub(super) fn add_policies(wanted: &mut Desired, mesh: &Mesh<'_>, peer: &Peer) {
    let Mesh { config, moment, local, .. } = *mesh;
    let (near, far) = (local.address, peer.reached_at());
    let out_spi = Spi::new(moment.generation, local.short_id, peer.short_id);
    let sends = config.stage_between(local, peer).sends();
    for network in &peer.networks {
        let out = sends.then_some((Direction::Out, [near, far], out_spi));
        let any_spi = Spi::from_raw(0);
        let ends =
            [Direction::In, Direction::Fwd].map(|direction| (direction, [far, near], any_spi));
        for (direction, [src, dst], spi) in out.into_iter().chain(ends) {
            let selector = of_network(direction, *network);
            let template = Template::transport(src, dst, spi, config.reqid);
            let id = PolicyId { if_id: config.reqid.0, ..PolicyId::new(direction, selector) };
            let policy = Policy::of_peer(id, Template { mode: Mode::Tunnel, ..template });
            wanted.policies.insert(id, WantedPolicy { policy, peer: peer.name.clone() });
        }
    }
}

/// The packets from or to a network behind a peer.
fn of_network(direction: Direction, network: Prefix) -> Selector {
    match direction {
        Direction::Out => Selector::to_network(network),
        Direction::In | Direction::Fwd => Selector::between(network, Prefix::any(network.address)),
    }
}

/// The objects that belong to no pair: the interface where the host has pairs, and the guards of all
/// other peers' networks. Those of a host without a pair are guarded too, as no packet to them can be
/// protected.
pub(super) fn add_own(
    wanted: &mut Desired,
    mesh: &Mesh<'_>,
    wish: &InterfaceWish,
    has_pairs: bool,
) {
    let Mesh { config, local, .. } = *mesh;
    let others = config.peers.iter().filter(|peer| peer.name != local.name);
    let mut guarded: BTreeMap<Family, BTreeSet<Prefix>> = BTreeMap::new();
    for peer in others.clone() {
        let names = peer.networks.iter().map(|network| (*network, peer.name.clone()));
        wanted.networks.extend(names);
        if config.stage_between(local, peer).enforces() {
            for network in &peer.networks {
                add_guards(wanted, config.reqid, *network);
                let family = Family::of(&Selector::to_network(*network));
                guarded.entry(family).or_default().insert(*network);
                let entry = FibEntry::blackhole(*network, config.reqid);
                let entry = WantedEntry { entry, peer: peer.name.clone() };
                wanted.fib.insert(FibKey::of(&entry.entry), entry);
            }
        }
    }
    for (family, networks) in guarded {
        let rules = Rule::guards_of_networks(&networks, &wish.device, config.reqid);
        for role in [ChainRole::Post, ChainRole::Forward] {
            wanted.chains.insert((family, role), rules.clone());
        }
    }
    let is_sent_to = |peer: &&Peer| {
        wanted.peers.contains_key(&peer.reached_at()) && wanted.stage(&peer.name).sends()
    };
    let sent_to = others.filter(is_sent_to);
    let routes =
        sent_to.flat_map(|peer| peer.networks.iter().map(|network| (*network, peer.name.clone())));
    wanted.tunnel = has_pairs.then(|| WantedTunnel {
        device: wish.device.clone(),
        mtu: wish.mtu,
        address: local.address,
        encap: config.esp.encap.is_some(),
        own: local.networks.clone(),
        given: local.inside.clone(),
        routes: routes.collect(),
    });
}

/// Block policies for packets of a network that do not go by the interface. Over IPv4 the interface
/// passes those out by its sysctl `disable_xfrm`; over IPv6 there is none. The blackhole and the chain
/// of the mangle table stand there without one.
fn add_guards(wanted: &mut Desired, reqid: Reqid, network: Prefix) {
    let out = network.address.is_ipv4().then_some(Direction::Out);
    for direction in [Direction::In, Direction::Fwd].into_iter().chain(out) {
        let id = PolicyId::new(direction, of_network(direction, network));
        wanted.guards.insert(id, Policy::guard(reqid, id));
    }
}

/// The address that packets of this host's own programs come from, by family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// This one.
    At(IpAddr),
    /// The host has none within its networks of the family.
    None,
    /// It has several, and the file names none of them.
    Several(BTreeSet<IpAddr>),
}

impl WantedTunnel {
    /// The MTU of the interface: that of the file, or the largest that fits the smallest underlay's.
    /// Where no underlay is known, the smallest that IPv6 bears.
    pub fn mtu(&self, underlay: Option<u32>) -> u32 {
        match self.mtu {
            Mtu::Exactly(mtu) => mtu,
            Mtu::Auto => self.fitting(underlay).unwrap_or(mtu::IPV6_SMALLEST),
        }
    }

    /// The largest MTU that fits an underlay.
    pub fn fitting(&self, underlay: Option<u32>) -> Option<u32> {
        let headers = Headers { address: self.address, encap: self.encap, tunnel: &[] };
        let inner = mtu::fit(underlay?, &headers).inner?;
        (inner >= mtu::SMALLEST).then_some(inner)
    }

    /// The address of this host's own packets to networks of a family: the one that the file gives, or
    /// the only one that the host has within its networks, or a network that is a single address.
    pub fn inside(&self, state: &State, reqid: Reqid, is_ipv4: bool) -> Inside {
        let of_family = |address: &IpAddr| address.is_ipv4() == is_ipv4;
        if let Some(given) = self.given.iter().copied().find(of_family) {
            return Inside::At(given);
        }
        let is_own = |address: &IpAddr| {
            let here = Prefix::host(*address);
            of_family(address) && self.own.iter().any(|network| network.covers(&here))
        };
        let found: BTreeSet<IpAddr> = self.elsewhere(state, reqid).filter(is_own).collect();
        let mut single =
            self.own.iter().filter(|network| **network == Prefix::host(network.address));
        match (found.len(), found.first()) {
            (1, Some(only)) => Inside::At(*only),
            (0, _) => {
                let address = single.find(|network| of_family(&network.address));
                address.map_or(Inside::None, |network| Inside::At(network.address))
            }
            _ => Inside::Several(found),
        }
    }

    /// The addresses of this host on other devices than the mesh's interface.
    fn elsewhere<'s>(&self, state: &'s State, reqid: Reqid) -> impl Iterator<Item = IpAddr> + 's {
        let device = state.interface_of(reqid).map(|interface| interface.name.clone());
        let others = move |local: &&LocalAddress| Some(&local.device) != device.as_ref();
        state.addresses.iter().filter(others).map(|local| local.address)
    }
}

impl Desired {
    /// Whether packets of a selector can be sent by a host: without IPv6 on the interface, none to
    /// networks of IPv6 are.
    pub fn is_sent(&self, state: &State, packets: &Selector) -> bool {
        packets.is_ipv4() || !state.ipv6_off || !self.networks.contains_key(&packets.dst)
    }

    /// The same with all that depends on the host's state: the interface's MTU, its addresses, and the
    /// routes to it; none of IPv6 where the interface has no IPv6. `underlay` is the smallest MTU of the
    /// devices by which packets to peers leave, if one is known.
    pub fn resolved(&self, state: &State, reqid: Reqid, underlay: Option<u32>) -> Cow<'_, Self> {
        let Some(tunnel) = &self.tunnel else { return Cow::Borrowed(self) };
        let mut resolved = self.clone();
        let mtu = tunnel.mtu(underlay);
        resolved.interface = Some(Interface::of_mesh(&tunnel.device, reqid, mtu));
        let has_family = |is_ipv4: bool| is_ipv4 || !state.ipv6_off && mtu >= mtu::IPV6_SMALLEST;
        let address = |is_ipv4: bool| match tunnel.inside(state, reqid, is_ipv4) {
            Inside::At(address) if has_family(is_ipv4) => Some(address),
            Inside::At(_) | Inside::None | Inside::Several(_) => None,
        };
        let sources = [address(true), address(false)];
        let here: BTreeSet<IpAddr> = tunnel.elsewhere(state, reqid).collect();
        for address in sources.into_iter().flatten().filter(|address| !here.contains(address)) {
            resolved.inside.insert(LocalAddress { address, device: tunnel.device.clone() });
        }
        let routes = tunnel.routes.iter();
        for (network, peer) in routes.filter(|(to, _)| has_family(to.address.is_ipv4())) {
            let source = sources[usize::from(!network.address.is_ipv4())];
            let entry = FibEntry::through(*network, &tunnel.device, source);
            let wanted = WantedEntry { entry, peer: peer.clone() };
            resolved.fib.insert(FibKey::of(&wanted.entry), wanted);
        }
        // A kernel without IPv6 takes no such route, and sends nothing that a blackhole would drop.
        if state.firewall.absent.contains(&Family::Ipv6) {
            resolved.fib.retain(|_, wanted| wanted.entry.to.address.is_ipv4());
        }
        Cow::Owned(resolved)
    }
}
