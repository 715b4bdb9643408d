//! A state by far ends, so that packets to and from thousands of hosts are looked up without a look
//! at the objects of all the others.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    arrival::{Arrival, arrivals},
    flow::{Flow, flow_out},
};
use crate::{
    desired::Desired,
    model::{
        Chain, Direction, EncapSocket, FibEntry, IPPROTO_ESP, Interface, Mode, PeerName, Policy,
        Prefix, PrefixMap, Route, Sa, Selector, Spi, State,
    },
};

/// A state whose policies, SAs and routes are found by the far end of packets.
pub struct LookUps<'s> {
    /// All but policies, SAs and routes; those of one question are put in.
    state: State,
    /// Routes by destination.
    routes: BTreeMap<IpAddr, Vec<&'s Route>>,
    /// All routes, if sysctls make packets that arrive depend on them.
    inbound_routes: Vec<Route>,
    /// Policies by the far end of their packets.
    policies: BTreeMap<Direction, PrefixMap<&'s Policy>>,
    /// Entries of routing tables.
    fib: PrefixMap<&'s FibEntry>,
    sas: BTreeMap<(IpAddr, Spi), Vec<&'s Sa>>,
}

impl<'s> LookUps<'s> {
    /// Those of a state as it is.
    pub fn of(state: &'s State) -> Self {
        Self::new(state, state.sas.iter(), state.policies.iter())
    }

    /// Those of a state with other SAs and policies.
    pub(super) fn new(
        state: &'s State,
        sas: impl Iterator<Item = &'s Sa>,
        policies: impl Iterator<Item = &'s Policy>,
    ) -> Self {
        let depends = state.bypasses.iter().any(|bypass| bypass.name == "disable_policy");
        let mut all = Self {
            state: state.without_objects(),
            routes: BTreeMap::new(),
            inbound_routes: if depends { state.routes.clone() } else { Vec::new() },
            policies: BTreeMap::new(),
            fib: state.fib.iter().map(|entry| (entry.to, entry)).collect(),
            sas: BTreeMap::new(),
        };
        for route in &state.routes {
            all.routes.entry(route.to).or_default().push(route);
        }
        for policy in policies {
            all.policies.entry(policy.id.direction).or_default().add(policy.id.far_end(), policy);
        }
        for sa in sas {
            all.sas.entry((sa.id.dst, sa.id.spi)).or_default().push(sa);
        }
        all
    }

    /// The same with other chains.
    pub(super) fn with_chains(mut self, chains: Vec<Chain>) -> Self {
        self.state.firewall.chains = chains;
        self
    }

    /// The same with other XFRM interfaces, and other entries of routing tables.
    pub(super) fn with_routes(
        mut self,
        interfaces: Vec<Interface>,
        fib: impl Iterator<Item = &'s FibEntry>,
    ) -> Self {
        self.state.interfaces = interfaces;
        self.fib = fib.map(|entry| (entry.to, entry)).collect();
        self
    }

    /// The fate of packets that leave, as of [`flow_out`].
    pub fn flow(&mut self, packet: &Selector) -> Flow {
        let to = packet.dst.address;
        self.state.policies = self.policies(Direction::Out, packet.dst).cloned().collect();
        let entries = self.fib.covering(packet.dst).chain(self.fib.within(packet.dst));
        self.state.fib = entries.copied().cloned().collect();
        let to_end =
            |end: IpAddr| self.sas.range((end, Spi::from_raw(0))..=(end, Spi::from_raw(u32::MAX)));
        let sas = self.ends(packet).into_iter().flat_map(to_end).flat_map(|(_, sas)| sas);
        self.state.sas = sas.copied().cloned().collect();
        let routes = self.routes.get(&to).into_iter().flatten();
        self.state.routes = routes.copied().cloned().collect();
        flow_out(&self.state, packet)
    }

    /// The hosts whose SAs can protect packets: their destination, and the far ends of tunnels.
    pub(super) fn ends(&self, packet: &Selector) -> BTreeSet<IpAddr> {
        let to = packet.dst.address;
        let policies = self.policies(Direction::Out, packet.dst);
        let templates = policies.flat_map(|policy| &policy.templates);
        let tunnels = templates.filter(|template| template.mode != Mode::Transport);
        tunnels.map(|template| template.dst).chain([to]).collect()
    }

    /// The fates of packets that arrive unmarked, as of [`arrivals`].
    pub fn arrivals(&mut self, packet: &Selector, under: Option<&Sa>) -> BTreeSet<Arrival> {
        self.state.policies = self.policies(Direction::In, packet.src).cloned().collect();
        self.state.sas.clear();
        std::mem::swap(&mut self.state.routes, &mut self.inbound_routes);
        let fates = arrivals(&self.state, packet, 0, Direction::In, under);
        std::mem::swap(&mut self.state.routes, &mut self.inbound_routes);
        fates
    }

    /// The ESP SA to an address under an SPI.
    pub fn sa(&self, to: IpAddr, spi: Spi) -> Option<&'s Sa> {
        let sas = self.sas.get(&(to, spi)).into_iter().flatten();
        sas.copied().find(|sa| !sa.is_larval() && sa.id.proto == IPPROTO_ESP)
    }

    /// Whether ESP in UDP is taken in, where the mesh has it.
    pub fn encap(&self) -> Option<EncapSocket> {
        self.state.encap
    }

    /// The policies that may be for packets with this far end. A policy is for none of which it does
    /// not cover all.
    fn policies(&self, direction: Direction, far: Prefix) -> impl Iterator<Item = &'s Policy> {
        let policies = self.policies.get(&direction);
        policies.map(|policies| policies.covering(far)).into_iter().flatten().copied()
    }
}

/// The fate of packets to each peer of the query; of several kinds of packets, the worst. Of peers at
/// stage receive nothing is said: their packets leave in the clear, as the file asks. ICMP
/// errors are not traffic that a file wants protected: without SAs nothing is decrypted that they
/// could quote.
pub fn flows_out(
    state: &State,
    desired: &Desired,
    asked: impl Fn(&PeerName) -> bool,
) -> BTreeMap<PeerName, Flow> {
    let worst = |packets: Vec<(Selector, Flow)>| packets.into_iter().map(|(_, flow)| flow).max();
    let peers = packets_out(state, desired, |peer| desired.stage(peer).sends() && asked(peer));
    let peers = peers.into_iter();
    peers.filter_map(|(peer, packets)| Some((peer, worst(packets)?))).collect()
}

/// The fate of each kind of packets to each peer of the query. Before stage send no policy is wanted
/// for them.
pub fn packets_out(
    state: &State,
    desired: &Desired,
    asked: impl Fn(&PeerName) -> bool,
) -> BTreeMap<PeerName, Vec<(Selector, Flow)>> {
    let mut look_ups = LookUps::of(state);
    let mut peers = BTreeMap::<PeerName, Vec<_>>::new();
    for wanted in desired.policies.values().filter(|wanted| asked(&wanted.peer)) {
        let policy = &wanted.policy;
        if policy.id.direction == Direction::Out && !policy.is_for_icmp_errors() {
            let packet = desired.packets(wanted);
            let flows = peers.entry(wanted.peer.clone()).or_default();
            if desired.is_sent(state, &packet) {
                flows.push((packet, look_ups.flow(&packet)));
            }
        }
    }
    let clear = |peer: &PeerName| !desired.stage(peer).sends() && asked(peer);
    let paired: BTreeSet<&PeerName> = desired.peers.values().collect();
    for (network, peer) in desired.networks.iter().filter(|(_, peer)| clear(peer)) {
        let packet = Selector::to_network(*network);
        let is_paired = paired.contains(peer) && desired.is_sent(state, &packet);
        let fate = is_paired.then(|| (packet, look_ups.flow(&packet)));
        peers.entry(peer.clone()).or_default().extend(fate);
    }
    for (address, peer) in desired.peers.iter().filter(|(_, peer)| clear(peer)) {
        let ends = desired.traffic.zip(desired.local);
        let ends = ends.map(|(traffic, local)| (traffic, Prefix::host(local)));
        let packets = ends.map(|(traffic, local)| traffic.selectors(local, Prefix::host(*address)));
        let fates = packets.into_iter().flatten().map(|packet| (packet, look_ups.flow(&packet)));
        peers.entry(peer.clone()).or_default().extend(fates);
    }
    peers
}

/// The one host at the far end of a policy's packets; `None` where they are several.
pub(super) fn far_host(policy: &Policy) -> Option<IpAddr> {
    let far = policy.id.far_end();
    (far == Prefix::host(far.address)).then_some(far.address)
}
