//! The contents of a mesh.toml, once all of it is known to be right.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::ports::Ports;
use crate::keys::Ratchet;
use crate::model::{
    Cipher, Generation, GroupName, IPPROTO_UDP, Key, Mark, MeshName, Mtu, PeerName, Period, Prefix,
    PrivateKey, PublicKey, Replay, Reqid, Selector, ShortId, Stage, Time, TunnelKind,
};
use crate::mtu;

/// A whole mesh.toml, checked. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[mesh] name`.
    pub mesh: MeshName,
    /// `[mesh] reqid`, or the reqid that follows from the name.
    pub reqid: Reqid,
    /// `[mesh] stage`: the highest stage of every host.
    pub stage: Stage,
    /// `[mesh] pairs`: the hosts that protect traffic with each other.
    pub pairs: Pairs,
    /// `[traffic]`: the traffic that is protected.
    pub traffic: Traffic,
    /// `[traffic] select` and `mark`: the way in which the kernel tells this traffic from the rest.
    pub select: Select,
    /// `[traffic] guard`: the guard that blocks unprotected traffic of the kind.
    pub guard: Guard,
    /// `[esp]`.
    pub esp: Esp,
    /// `[keys]`.
    pub keys: KeySource,
    /// `[rotation]`.
    pub rotation: Rotation,
    /// `[link]`, if it is there.
    pub link: Option<LinkWish>,
    /// `[tunnel]`, with kind "networks" and only then.
    pub tunnel: Option<InterfaceWish>,
    /// `[[peer]]`, sorted by name.
    pub peers: Vec<Peer>,
    /// `[[except]]`, with kind "all" and only then.
    pub exceptions: Vec<Exception>,
}

/// Traffic between two hosts that passes unprotected where all else is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exception {
    /// Conversations with a port of hosts that offer a service.
    Port {
        /// `protocol`.
        protocol: Protocol,
        /// `port`: 1 to 65535.
        port: u16,
        /// `serves`: the hosts that offer the service.
        serves: Vec<Members>,
    },
    /// `icmp`: echo requests and replies, never errors.
    Echo,
}

/// The hosts that protect traffic with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pairs {
    /// Every host with every other.
    All,
    /// Each of one side with each of the other.
    Listed(Vec<[Members; 2]>),
}

/// One side of an entry in `pairs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// `"*"`: all hosts.
    Everybody,
    /// One host.
    Peer(PeerName),
    /// The hosts that have this group in `groups`.
    Group(GroupName),
}

impl Members {
    /// Whether a host is meant.
    pub fn has(&self, peer: &Peer) -> bool {
        match self {
            Self::Everybody => true,
            Self::Peer(name) => *name == peer.name,
            Self::Group(group) => peer.groups.contains(group),
        }
    }
}

impl Config {
    /// The same with every host at the last stage.
    #[must_use]
    pub fn enforced(&self) -> Self {
        let mut config = self.clone();
        config.stage = Stage::Enforce;
        config.peers.iter_mut().for_each(|peer| peer.stage = Stage::Enforce);
        config
    }

    /// The stage of a host.
    pub fn stage_of(&self, peer: &Peer) -> Stage {
        self.stage.min(peer.stage)
    }

    /// The stage of the traffic between the local host and another: the lower of theirs. A guard
    /// refuses all clear text: a host that has one enforces, and others send encrypted to it.
    pub fn stage_between(&self, local: &Peer, other: &Peer) -> Stage {
        let lower = self.stage_of(local).min(self.stage_of(other));
        match (self.is_guarded(local), self.is_guarded(other)) {
            (true, _) => Stage::Enforce,
            (false, true) => lower.max(Stage::Send),
            (false, false) => lower,
        }
    }

    /// Whether a host has the guard: its last stage brings it.
    pub fn is_guarded(&self, local: &Peer) -> bool {
        self.guard.is_on() && self.stage_of(local).enforces()
    }
}

/// The guard that blocks unprotected traffic of the kind, to and from every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// `true`: policies that block, and rules of iptables that drop.
    Both,
    /// `"xfrm"`: the policies alone.
    Policies,
    /// `false`: nothing.
    Off,
}

impl Guard {
    /// Whether there is a guard.
    pub fn is_on(self) -> bool {
        match self {
            Self::Both | Self::Policies => true,
            Self::Off => false,
        }
    }
}

/// The source of the current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// `generation`: the file.
    Generation(Generation),
    /// `period`: the clock.
    Period(Period),
}

impl Rotation {
    /// The generation at a moment, and the clock if generations follow it.
    pub fn at(self, now: Time) -> Moment {
        match self {
            Self::Generation(generation) => Moment { generation, clock: None },
            Self::Period(period) => {
                Moment { generation: period.generation(now), clock: Some(Clock { period, now }) }
            }
        }
    }
}

/// The moment of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The current generation.
    pub generation: Generation,
    /// The clock, if the generation follows it.
    pub clock: Option<Clock>,
}

/// A clock that generations follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The length of a generation.
    pub period: Period,
    /// The time of the clock.
    pub now: Time,
}

impl Clock {
    /// The time when the next apply is due: four in a period keep a mesh rotating.
    pub fn next_apply(&self) -> Time {
        self.now.after(std::time::Duration::from_secs(self.period.seconds() / 4))
    }
}

/// The traffic between peers that is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// VXLAN (RFC 7348): UDP to this destination port.
    Vxlan {
        /// 1 to 65535.
        port: u16,
    },
    /// Geneve (RFC 8926): UDP to this destination port.
    Geneve {
        /// 1 to 65535.
        port: u16,
    },
    /// All traffic from one peer to the other.
    All,
    /// Both directions of conversations with ports of a protocol.
    Port {
        /// The protocol.
        protocol: Protocol,
        /// The ports.
        ports: Ports,
    },
    /// All traffic to and from the networks behind the other peers, through a tunnel.
    Networks,
}

impl Traffic {
    /// The packets from one range of addresses to another that are protected.
    ///
    /// Packets of tunnels go to the tunnel's port in both directions. Replies of other protocols
    /// come from the port: selecting by destination port alone would leave them unencrypted.
    ///
    /// Kind "networks" protects none between the hosts themselves.
    pub fn selectors(self, src: Prefix, dst: Prefix) -> Vec<Selector> {
        let all = Selector::between(src, dst);
        match self {
            Self::All => vec![all],
            Self::Vxlan { port } | Self::Geneve { port } => vec![all.to_port(IPPROTO_UDP, port)],
            Self::Port { protocol, ports } => {
                let proto = protocol.number();
                ports
                    .iter()
                    .flat_map(|port| [all.to_port(proto, port), all.from_port(proto, port)])
                    .collect()
            }
            Self::Networks => Vec::new(),
        }
    }

    /// The headers that a tunnel puts before each inner packet; `None` for other traffic.
    pub fn tunnel(self) -> Option<&'static [mtu::Part]> {
        match self {
            Self::Vxlan { .. } => Some(&mtu::VXLAN),
            Self::Geneve { .. } => Some(&mtu::GENEVE),
            Self::All | Self::Port { .. } | Self::Networks => None,
        }
    }

    /// The kind of device that makes such packets, and their port; `None` for traffic other than
    /// tunnels.
    pub fn device(self) -> Option<(TunnelKind, u16)> {
        match self {
            Self::Vxlan { port } => Some((TunnelKind::Vxlan, port)),
            Self::Geneve { port } => Some((TunnelKind::Geneve, port)),
            Self::All | Self::Port { .. } | Self::Networks => None,
        }
    }

    /// The protocol of conversations with ports; `None` for other traffic.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Port { protocol, .. } => Some(protocol),
            Self::All | Self::Vxlan { .. } | Self::Geneve { .. } | Self::Networks => None,
        }
    }

    /// Whether policies of this kind are for a UDP port, as source or destination.
    pub fn has_udp_port(self, number: u16) -> bool {
        match self {
            Self::Vxlan { port } | Self::Geneve { port } => port == number,
            Self::Port { protocol: Protocol::Udp, ports } => {
                ports.iter().any(|port| port == number)
            }
            Self::All | Self::Port { protocol: Protocol::Tcp, .. } | Self::Networks => false,
        }
    }

    /// Whether `guard` may be on. Such a guard blocks the kind of traffic from and to every host, which
    /// only tunnels can bear. Kind "networks" has guards of its own at stage enforce.
    pub fn can_be_guarded(self) -> bool {
        matches!(self, Self::Vxlan { .. } | Self::Geneve { .. })
    }
}

/// The way in which the kernel tells outgoing traffic of the kind from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// By the policies' own selectors.
    Port,
    /// By a mark that a rule of iptables sets; value within mask, mask not 0.
    Mark(Mark),
}

/// A protocol whose ports the kernel puts into a flow (`__xfrm_decode_session`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// All of them, in the order in which errors list them.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Cipher and anti-replay of every SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// `[esp] cipher`.
    pub cipher: Cipher,
    /// `[esp] replay_window` and `esn`; a pair that the kernel takes.
    pub replay: Replay,
    /// `[esp] offload`: the device that encrypts and decrypts, if there is one.
    pub offload: Option<String>,
    /// `[esp] encap`: ESP in UDP, if hosts send it so.
    pub encap: Option<EncapWish>,
}

impl Esp {
    /// The UDP of a generation's SAs; `None` where they are plain ESP.
    pub fn encap_at(&self, generation: Generation) -> Option<EncapWish> {
        self.encap.filter(|encap| encap.from <= generation)
    }

    /// The UDP port of a generation's SAs; `None` where they are plain ESP.
    pub fn port_at(&self, generation: Generation) -> Option<u16> {
        self.encap_at(generation).map(|encap| encap.port)
    }
}

/// `[esp] encap`: ESP in UDP (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncapWish {
    /// `port`: the UDP port at which every host takes ESP. 1 to 65535.
    pub port: u16,
    /// `from`: the first generation in UDP.
    pub from: Generation,
    /// `keepalive`: seconds without a packet after which the kernel sends one byte (RFC 3948, section
    /// 4). 1 to 3600.
    pub keepalive: Option<u32>,
}

/// `[link]`: a device with an MTU that meshsec sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkWish {
    /// `device`: a name that the kernel would take.
    pub device: String,
    /// `mtu`.
    pub mtu: Mtu,
}

/// `[tunnel]`: the XFRM interface that leads to the networks behind the other peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceWish {
    /// `device`: a name that the kernel would take.
    pub device: String,
    /// `mtu`.
    pub mtu: Mtu,
}

/// One `[[peer]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `name`, unique.
    pub name: PeerName,
    /// `short_id`, unique.
    pub short_id: ShortId,
    /// `address`, unique.
    pub address: IpAddr,
    /// `public_key`, unique; there with `private_key` and only then.
    pub public_key: Option<PublicKey>,
    /// `groups`: names by which `pairs` means this host among others.
    pub groups: BTreeSet<GroupName>,
    /// `stage`: the highest stage of this host.
    pub stage: Stage,
    /// `outside`: the address and the UDP port under which others reach this host, where a static
    /// port forward stands before it. Of the address's family; there with `encap` and only then.
    pub outside: Option<SocketAddr>,
    /// `networks`: the networks behind this host, none of them within another; there with kind
    /// "networks" and only then.
    pub networks: BTreeSet<Prefix>,
    /// `inside`: addresses of this host within its networks, at most one of each family.
    pub inside: BTreeSet<IpAddr>,
}

impl Peer {
    /// The address that other hosts send to, and that they receive from.
    pub fn reached_at(&self) -> IpAddr {
        self.outside.map_or(self.address, |outside| outside.ip())
    }
}

/// The peers other than the local one, by the networks behind them.
pub fn networks_of_others<'a>(
    peers: &'a [Peer],
    local: Option<&Peer>,
) -> BTreeMap<Prefix, &'a PeerName> {
    let is_other = |peer: &&Peer| local.is_none_or(|local| local.name != peer.name);
    let of_peer = |peer: &'a Peer| peer.networks.iter().map(move |network| (*network, &peer.name));
    peers.iter().filter(is_other).flat_map(of_peer).collect()
}

/// The source of the SAs' keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `[keys] mesh_key`: one secret for the mesh.
    MeshKey(SecretSource),
    /// `[keys] private_key`: one for each host.
    PrivateKey {
        /// `private_key`.
        private_key: SecretSource,
        /// `psk`, mixed in on every host.
        psk: Option<SecretSource>,
    },
    /// `[keys] ratchet`: a chain key in a file that moves on. The path is already relative to the
    /// directory of mesh.toml.
    Ratchet(PathBuf),
}

/// The place that a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `{ file = "…" }`, already relative to the directory of mesh.toml.
    File(PathBuf),
    /// `{ credential = "…" }`, a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// `{ env = "…" }`, an environment variable.
    Env(String),
}

/// The secrets that a mesh.toml names, 32 bytes each.
pub enum Secrets {
    /// `[keys] mesh_key`.
    MeshKey(Key),
    /// `[keys] private_key`.
    PrivateKey {
        /// `private_key`.
        private_key: PrivateKey,
        /// `psk`, if the file names one.
        psk: Option<Key>,
    },
    /// The contents of the file of `[keys] ratchet`.
    Ratchet(Ratchet),
}
