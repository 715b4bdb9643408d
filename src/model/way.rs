//! The way that packets take: routes to peers, and devices that make tunnels.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{LocalAddress, Prefix};

/// The addresses that the kernel is asked for routes of.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// The local peer's address, if the peer was named.
    pub local: Option<IpAddr>,
    /// All peers.
    pub members: Vec<Member>,
    /// The kind of tunnels that the mesh protects, if it protects tunnels.
    pub tunnel: Option<TunnelKind>,
    /// The protocol of the packets, where it is known.
    pub protocol: Option<u8>,
    /// The destination ports of the packets; none where there may be any.
    pub ports: Vec<u16>,
    /// The UDP port at which the mesh's hosts take ESP, if they do.
    pub encap: Option<u16>,
    /// The networks behind peers. Entries of routing tables that overlap with them are read.
    pub networks: Vec<Prefix>,
    /// The same by the address of their host.
    pub behind: BTreeMap<IpAddr, Vec<Prefix>>,
    /// The name of the XFRM interface of a mesh of networks.
    pub interface: Option<String>,
}

impl Ways {
    /// The local peer's address: the named peer's, or the only peer's address that this host has.
    pub fn local_among(&self, addresses: &[LocalAddress]) -> Option<IpAddr> {
        if self.local.is_some() {
            return self.local;
        }
        let here = |member: &IpAddr| addresses.iter().any(|local| local.address == *member);
        let mut found = self.members.iter().map(|member| member.address).filter(here);
        found.next().filter(|_| found.next().is_none())
    }

    /// The addresses at which the host with an address reaches the members that it forms pairs
    /// with.
    pub fn peers_of(&self, local: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.others(local).map(|member| member.reached_at)
    }

    /// The same addresses by the UDP port that ESP is sent to there, if the mesh sends it in UDP.
    pub fn encap_of(&self, local: IpAddr) -> BTreeMap<u16, Vec<IpAddr>> {
        let mut found = BTreeMap::<u16, Vec<IpAddr>>::new();
        for member in self.others(local) {
            if let Some(port) = member.port.or(self.encap) {
                found.entry(port).or_default().push(member.reached_at);
            }
        }
        found
    }

    fn others(&self, local: IpAddr) -> impl Iterator<Item = &Member> {
        let others = self.members.iter().filter(move |member| member.address != local);
        others.filter(move |member| member.address.is_ipv4() == local.is_ipv4())
    }

    /// Whether a device makes tunnels that the mesh protects.
    pub fn is_of_mesh(&self, tunnel: &Tunnel) -> bool {
        self.tunnel == Some(tunnel.kind) && self.ports.contains(&tunnel.port)
    }
}

/// A peer of the mesh, as routes know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its own address.
    pub address: IpAddr,
    /// The address that others send to.
    pub reached_at: IpAddr,
    /// The UDP port that others send ESP to, where it is not the mesh's.
    pub port: Option<u16>,
}

/// The way of packets from one address to another, as the kernel routes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A peer's address.
    pub to: IpAddr,
    /// The local peer's address, which was a part of the question to the kernel.
    pub from: IpAddr,
    /// Every device that the packets can leave by; none if they have no route.
    pub devices: BTreeSet<String>,
    /// Those of the devices that have no carrier.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub no_carrier: BTreeSet<String>,
    /// The VRFs that the devices are in, by which the packets leave.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vrfs: BTreeSet<String>,
    /// The source address that the kernel picks where a program chooses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The kernel's error, if packets have no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A device that puts frames into UDP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The device's name.
    pub device: String,
    /// `vxlan` or `geneve`.
    pub kind: TunnelKind,
    /// The destination port of its packets.
    pub port: u16,
    /// The address that its packets come from, if it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The default destination of its packets: a host or a multicast group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// The device that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<String>,
    /// The bridge or other device that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Whether each packet carries its destination (`external`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Other names of the device.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub other_names: BTreeSet<String>,
    /// The destinations of its forwarding entries; `None` where they can't be read.
    pub entries: Option<BTreeSet<Destination>>,
}

/// The kind of a tunnel device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// VXLAN.
    Vxlan,
    /// Geneve.
    Geneve,
}

impl TunnelKind {
    /// Its name in `ip -d link`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

/// The destination of a tunnel device's forwarding entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// A host or a multicast group.
    pub address: IpAddr,
    /// A port other than the device's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A rule that can change the addresses of packets to peers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translation {
    /// The rule, in the words of iptables.
    pub rule: String,
    /// The built-in chain through which packets get to it.
    pub chain: String,
    /// Whether it is certain to change them.
    pub certain: bool,
    /// Whether it changes only the ESP packets, and not the packets in them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub esp: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}
