//! The state of one host that a mesh.toml asks for: its SAs, policies and guards.
//!
//! Pure. The keys stay apart, in a [`Keyring`], so that all parts of a plan can be shown.
#![forbid(unsafe_code)]

mod networks;
mod pair;
mod passages;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub use networks::{Inside, WantedTunnel};

use crate::{
    config::{Clock, Config, Guard, Moment, Peer, Secrets, Select, Traffic},
    keys::Ratchet,
    model::{
        ChainId, ChainRole, Direction, Family, FibEntry, Generation, IPPROTO_UDP, Interface, Key,
        LocalAddress, Mark, Member, Mtu, Neighbourhood, PeerName, Policy, PolicyId, Prefix, Replay,
        Rule, Sa, SaId, Selector, Stage, Start, Ways, without_traces,
    },
    mtu,
};

/// The wanted objects of one host, by identity.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// SAs with every peer.
    pub sas: BTreeMap<SaId, WantedSa>,
    /// SAs that stay if they are there, and are not made: outbound ones of the next generation,
    /// where the generation follows the clock. One is there after the clock was a generation ahead
    /// for a while. It remembers the numbers that peers have seen, and goes on from them when its
    /// time comes.
    pub kept: BTreeSet<SaId>,
    /// Policies with every peer.
    pub policies: BTreeMap<PolicyId, WantedPolicy>,
    /// Block policies for unprotected traffic; empty if the file wants none.
    pub guards: BTreeMap<PolicyId, Policy>,
    /// Policies that let packets pass untransformed, only where everything is protected: over IPv6
    /// neighbour discovery, with `encap` the datagrams that hold ESP, and exceptions.
    pub passages: BTreeMap<PolicyId, Policy>,
    /// The device with an MTU to keep right, if the file names one.
    pub link: Option<WantedLink>,
    /// Chains of the firewall, in the system's backend: those that mark, if a mark selects the
    /// traffic, and those that guard.
    pub chains: BTreeMap<(Family, ChainRole), Vec<Rule>>,
    /// The XFRM interface, if the mesh carries networks.
    pub interface: Option<Interface>,
    /// The addresses of that interface.
    pub inside: BTreeSet<LocalAddress>,
    /// The routes to that interface, and the blackholes behind them.
    pub fib: BTreeMap<FibKey, WantedEntry>,
    /// The file's part of the last three; [`Desired::resolved`] adds the host's.
    pub tunnel: Option<WantedTunnel>,
    /// The networks behind the other peers, those without a pair among them.
    pub networks: BTreeMap<Prefix, PeerName>,
    /// The mark that selects traffic, if one does, even where all of the mesh is to go.
    pub marking: Option<Marking>,
    /// The protected traffic, unless all of it is to go.
    pub traffic: Option<Traffic>,
    /// The local peer's address, unless all of it is to go.
    pub local: Option<IpAddr>,
    /// The peers that it forms a pair with, by address.
    pub peers: BTreeMap<IpAddr, PeerName>,
    /// The stages of pairs that are not at the last one.
    pub stages: BTreeMap<PeerName, Stage>,
    /// The goal that these objects are for.
    pub goal: Goal,
    /// The clock that sets the generation, if one does.
    pub clock: Option<Clock>,
    /// The packets that exceptions let pass, in words, and with whom.
    pub exceptions: BTreeMap<String, Excepted>,
    /// The UDP port at which this host takes ESP; `None` where it takes plain ESP only.
    pub encap: Option<EncapPort>,
    /// Peers of the other address family, with which it forms none.
    pub unpaired: BTreeSet<PeerName>,
    /// Peers with which `pairs` has it form none, by address.
    pub not_paired: BTreeMap<IpAddr, PeerName>,
}

/// The place of an entry in a routing table: the kernel takes one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FibKey {
    /// The table's number.
    pub table: u32,
    /// The destinations.
    pub to: Prefix,
    /// The metric.
    pub metric: u32,
}

impl FibKey {
    /// The place of an entry.
    pub fn of(entry: &FibEntry) -> Self {
        Self { table: entry.table, to: entry.to, metric: entry.metric }
    }
}

/// An entry of a routing table that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedEntry {
    /// The entry.
    pub entry: FibEntry,
    /// The peer with the network.
    pub peer: PeerName,
}

/// The hosts that an exception is about, seen from one.
#[derive(Debug, Clone, Default)]
pub struct Excepted {
    /// The other ends.
    pub peers: BTreeSet<PeerName>,
    /// Those of them that offer the service to this host.
    pub servers: BTreeSet<PeerName>,
}

/// The UDP port at which a host takes ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncapPort {
    /// The port.
    pub port: u16,
    /// The first generation that comes there.
    pub from: Generation,
    /// Whether SAs of this plan are in UDP: those of the next generation come first.
    pub is_used: bool,
    /// Where the file asks for keepalives: window and ESN of outbound SAs on a kernel that sends none.
    /// An SA with a keepalive has no window.
    pub without_keepalives: Option<Replay>,
}

/// The goal of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Goal {
    /// The mesh of the file.
    #[default]
    Mesh,
    /// Nothing: all of the mesh goes.
    Nothing,
    /// The state before an apply that is to be reverted: all objects of the mesh that have come
    /// since go, for any traffic, and no foreign one stops that.
    Before {
        /// Chains that stay as they are, because the apply left them alone.
        kept_chains: BTreeSet<ChainId>,
        /// Whether chains have to be looked at.
        needs_chains: bool,
    },
}

impl Goal {
    /// Whether it is the state before an apply.
    pub fn is_before(&self) -> bool {
        match self {
            Self::Before { .. } => true,
            Self::Mesh | Self::Nothing => false,
        }
    }

    /// Whether a chain stays that nothing asks for.
    pub fn keeps(&self, chain: &ChainId) -> bool {
        match self {
            Self::Before { kept_chains, .. } => kept_chains.contains(chain),
            Self::Mesh | Self::Nothing => false,
        }
    }
}

/// An SA that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSa {
    /// The SA.
    pub sa: Sa,
    /// The other end.
    pub peer: PeerName,
    /// In or out, seen from here.
    pub direction: Direction,
    /// The generation of its keys.
    pub generation: Generation,
    /// Its first sequence number.
    pub start: Start,
}

/// Traffic that is selected by a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marking {
    /// The mark that its packets get.
    pub mark: Mark,
    /// The destination port by which iptables knows them.
    pub port: u16,
}

impl Marking {
    /// The marking that a file asks for.
    pub fn of(config: &Config) -> Option<Self> {
        match (config.select, config.traffic) {
            (Select::Mark(mark), Traffic::Vxlan { port } | Traffic::Geneve { port }) => {
                Some(Self { mark, port })
            }
            _ => None,
        }
    }
}

/// The chains of one family, with their rules. Packets are marked if some leave encrypted.
fn chains(config: &Config, sends: bool, is_guarded: bool) -> Vec<(ChainRole, Vec<Rule>)> {
    let (Traffic::Vxlan { port } | Traffic::Geneve { port }) = config.traffic else {
        return Vec::new();
    };
    let guard = |role: ChainRole, direction| (role, Rule::guards(port, direction, config.reqid));
    let marks = match config.select {
        Select::Mark(mark) if sends => Some((ChainRole::Mark, vec![Rule::Mark { port, mark }])),
        Select::Mark(_) | Select::Port => None,
    };
    let guards = match (config.select, config.guard) {
        _ if !is_guarded => Vec::new(),
        // The filter table sees a packet after the mark has had its effect.
        (Select::Mark(_), _) => {
            vec![guard(ChainRole::Out, Direction::Out), guard(ChainRole::In, Direction::In)]
        }
        (Select::Port, Guard::Both) => vec![
            guard(ChainRole::MangleOut, Direction::Out),
            guard(ChainRole::MangleIn, Direction::In),
        ],
        (Select::Port, Guard::Policies | Guard::Off) => Vec::new(),
    };
    marks.into_iter().chain(guards).collect()
}

/// The routes that a plan for this file needs, seen from the named peer, or else from the one with
/// an address that the host has.
pub fn ways(config: &Config, local: Option<&str>) -> Ways {
    let named = |peer: &&Peer| Some(peer.name.as_str()) == local;
    let (protocol, ports) = match config.traffic {
        Traffic::Vxlan { port } | Traffic::Geneve { port } => (Some(IPPROTO_UDP), vec![port]),
        // The kernel takes no other protocol in the question.
        Traffic::Port { protocol, ports } => (Some(protocol.number()), ports.iter().collect()),
        Traffic::All | Traffic::Networks => (None, Vec::new()),
    };
    Ways {
        local: config.peers.iter().find(named).map(|peer| peer.address),
        members: config
            .peers
            .iter()
            .map(|peer| Member {
                address: peer.address,
                reached_at: peer.reached_at(),
                port: peer.outside.map(|outside| outside.port()),
            })
            .collect(),
        tunnel: config.traffic.device().map(|(kind, _)| kind),
        protocol,
        ports,
        encap: config.esp.encap.map(|encap| encap.port),
        networks: config.peers.iter().flat_map(|peer| &peer.networks).copied().collect(),
        behind: config
            .peers
            .iter()
            .map(|peer| (peer.address, peer.networks.iter().copied().collect()))
            .collect(),
        interface: config.tunnel.as_ref().map(|wish| wish.device.clone()),
    }
}

/// The mesh, to tell the SAs of others that can matter to a plan for this file from all others.
pub fn neighbourhood(config: &Config) -> Neighbourhood {
    let ends = |peer: &Peer| [peer.address, peer.reached_at()].map(|end| (end, peer.short_id));
    Neighbourhood {
        reqid: config.reqid,
        hosts: config.peers.iter().flat_map(ends).collect(),
        mark: Marking::of(config).map_or(0, |marking| marking.mark.mask),
    }
}

/// A policy that should be there.
#[derive(Debug, Clone)]
pub struct WantedPolicy {
    /// The policy.
    pub policy: Policy,
    /// The other end.
    pub peer: PeerName,
}

/// A device with an MTU that it should have.
#[derive(Debug, Clone)]
pub struct WantedLink {
    /// The device's name.
    pub device: String,
    /// The MTU; the value of `auto` depends on the underlay's device.
    pub mtu: Mtu,
    /// The source address of the tunnel's packets.
    pub address: IpAddr,
    /// The headers that the tunnel puts before an inner packet.
    pub tunnel: &'static [mtu::Part],
    /// Whether ESP is in UDP, in this generation or in a later one.
    pub encap: bool,
}

/// The keys of the SAs that should be there.
#[derive(Default)]
pub struct Keyring(BTreeMap<SaId, Arc<Key>>);

impl Keyring {
    /// The key of an SA, if it is wanted and the secrets were at hand.
    pub fn get(&self, id: &SaId) -> Option<Arc<Key>> {
        self.0.get(id).cloned()
    }
}

impl Keyring {
    /// Takes the key of an SA over from another one.
    pub fn adopt(&mut self, other: &Self, id: &SaId) {
        if let Some(key) = other.get(id) {
            self.0.insert(*id, key);
        }
    }
}

impl FromIterator<(SaId, Key)> for Keyring {
    fn from_iter<I: IntoIterator<Item = (SaId, Key)>>(keys: I) -> Self {
        Self(keys.into_iter().map(|(id, key)| (id, Arc::new(key))).collect())
    }
}

impl Desired {
    /// Whether the plan is worth nothing where chains can't be looked at.
    pub fn needs_chains(&self) -> bool {
        match self.goal {
            Goal::Before { needs_chains, .. } => needs_chains,
            Goal::Mesh | Goal::Nothing => self.marking.is_some(),
        }
    }

    /// Whether something of the mesh stops its unprotected packets. A chain that marks stops none.
    pub fn is_guarded(&self) -> bool {
        !self.guards.is_empty() || self.chains.keys().any(|(_, role)| role.guards().is_some())
    }

    /// Whether packets are protected whatever address of this host they come from, as those to networks
    /// are.
    pub fn protects_any_source(&self) -> bool {
        self.tunnel.is_some()
    }

    /// Whether packets of some pair are to leave encrypted.
    pub fn sends(&self) -> bool {
        self.policies.keys().any(|id| id.direction == Direction::Out)
    }

    /// The stage of the pair with a peer.
    pub fn stage(&self, peer: &PeerName) -> Stage {
        self.stages.get(peer).copied().unwrap_or_default()
    }

    /// The packets that a policy of the mesh is for.
    pub fn packets(&self, wanted: &WantedPolicy) -> Selector {
        let PolicyId { selector, mark, .. } = wanted.policy.id;
        match self.marking {
            Some(Marking { port, .. }) if !mark.is_none() => selector.to_port(IPPROTO_UDP, port),
            _ => selector,
        }
    }
}

/// Works out the state that `config` asks for at a moment, of the host that is `local`.
///
/// Without secrets the keys are not checked, and the keyring is empty.
pub fn desired(
    config: &Config,
    moment: Moment,
    local: &Peer,
    secrets: Option<&Secrets>,
) -> (Desired, Keyring) {
    without_traces(|| work_out(config, moment, local, secrets))
}

fn work_out(
    config: &Config,
    moment: Moment,
    local: &Peer,
    secrets: Option<&Secrets>,
) -> (Desired, Keyring) {
    let links = links(moment.generation, secrets);
    let mesh = Mesh { config, moment, local, secrets, links: &links };
    let mut wanted = mesh.nothing();
    let mut keyring = Keyring::default();
    let (partners, mut pairs) = (config.pairs.partners(local), Vec::new());
    for peer in config.peers.iter().filter(|peer| peer.name != local.name) {
        if !partners.have(peer) {
            wanted.not_paired.insert(peer.reached_at(), peer.name.clone());
        } else if peer.address.is_ipv4() != local.address.is_ipv4() {
            wanted.unpaired.insert(peer.name.clone());
        } else {
            pairs.push(peer);
        }
    }
    for (peer, session) in pairs.iter().zip(sessions::sessions(&mesh, &pairs)) {
        pair::add(&mut wanted, &mut keyring, &mesh, (peer, session.as_ref()));
    }
    let sends = wanted.peers.values().any(|peer| wanted.stage(peer).sends());
    let pairs = HasPairs { any: !wanted.peers.is_empty(), sends };
    add_own(&mut wanted, &mesh, pairs);
    (wanted, keyring)
}

/// The objects that a host has with one other, with which it forms a pair. Without keys.
pub fn of_pair(config: &Config, moment: Moment, local: &Peer, peer: &Peer) -> Desired {
    let links = BTreeMap::new();
    let mesh = Mesh { config, moment, local, secrets: None, links: &links };
    let mut wanted = mesh.nothing();
    pair::add(&mut wanted, &mut Keyring::default(), &mesh, (peer, None));
    wanted
}

/// The objects that a host has with no other alone, such as guards.
pub fn of_host(config: &Config, moment: Moment, local: &Peer, pairs: HasPairs) -> Desired {
    let links = BTreeMap::new();
    let mesh = Mesh { config, moment, local, secrets: None, links: &links };
    let mut wanted = mesh.nothing();
    add_own(&mut wanted, &mesh, pairs);
    wanted
}

/// The pairs of a host, as far as its objects without a peer depend on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HasPairs {
    /// Whether it has any.
    pub any: bool,
    /// Whether packets of any are to leave encrypted.
    pub sends: bool,
}

/// Adds the objects that belong to no peer.
fn add_own(wanted: &mut Desired, mesh: &Mesh<'_>, pairs: HasPairs) {
    let Mesh { config, local, .. } = *mesh;
    if config.traffic == Traffic::All && pairs.any {
        if local.address.is_ipv6() {
            let discovery = Policy::discovery(config.reqid);
            wanted.passages.extend(discovery.map(|policy| (policy.id, policy)));
        }
        if let Some(EncapPort { port, is_used: true, .. }) = wanted.encap {
            let policy = Policy::encap(config.reqid, local.address, port);
            wanted.passages.insert(policy.id, policy);
        }
    }
    let link = config.link.as_ref().zip(config.traffic.tunnel());
    wanted.link = link.map(|(link, tunnel)| WantedLink {
        device: link.device.clone(),
        mtu: link.mtu,
        address: local.address,
        tunnel,
        encap: config.esp.encap.is_some(),
    });
    if let Some(wish) = &config.tunnel {
        networks::add_own(wanted, mesh, wish, pairs.any);
    }
    if config.is_guarded(local) {
        wanted.guards = passages::guards(config.traffic, config.reqid);
    }
    let sends = config.stage_of(local).sends() || pairs.sends;
    for family in Family::ALL {
        let chains = chains(config, sends, config.is_guarded(local)).into_iter();
        wanted.chains.extend(chains.map(|(role, rules)| ((family, role), rules)));
    }
    if wanted.marking.is_some() {
        // A block policy out would meet packets in the tunnel device's first
        // look-up, before iptables could mark them: there the chain guards.
        wanted.guards.retain(|id, _| id.direction == Direction::In);
    }
}

/// The mesh, seen from one of its peers.
struct Mesh<'a> {
    config: &'a Config,
    moment: Moment,
    local: &'a Peer,
    secrets: Option<&'a Secrets>,
    links: &'a BTreeMap<Generation, Ratchet>,
}

impl Mesh<'_> {
    /// The facts of a host that wants no object yet.
    fn nothing(&self) -> Desired {
        let Self { config, moment, local, .. } = *self;
        let encap = config.esp.encap.map(|encap| {
            let is_used = encap.from <= moment.generation.next();
            let without_keepalives = encap.keepalive.map(|_| config.esp.replay);
            EncapPort { port: encap.port, from: encap.from, is_used, without_keepalives }
        });
        Desired {
            traffic: Some(config.traffic),
            local: Some(local.address),
            clock: moment.clock,
            marking: Marking::of(config),
            encap,
            ..Desired::default()
        }
    }

    /// The generations that are received: the one before, this one and the next.
    ///
    /// Generation 0 has none before it, and neither has the one at which a
    /// ratchet stands: the keys of the one before are destroyed.
    fn received(&self) -> impl Iterator<Item = Generation> + use<> {
        let now = self.moment.generation;
        let oldest = self.links.keys().next().copied();
        let previous = now.previous().filter(|previous| oldest.is_none_or(|o| o <= *previous));
        previous.into_iter().chain([now, now.next()])
    }
}

/// A ratchet at each of the generations that SAs are wanted of. Worked out once
/// for all peers, because it may be far behind.
fn links(now: Generation, secrets: Option<&Secrets>) -> BTreeMap<Generation, Ratchet> {
    let mut links = BTreeMap::new();
    if let Some(Secrets::Ratchet(ratchet)) = secrets {
        let mut last = ratchet;
        for generation in now.previous().into_iter().chain([now, now.next()]) {
            if let Some(link) = last.at(generation) {
                last = links.entry(generation).or_insert(link);
            }
        }
    }
    links
}
