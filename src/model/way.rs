//! The way that packets take: routes to peers, and devices that make tunnels.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{IPPROTO_UDP, LocalAddress};

/// Whose routes the kernel is asked for.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// The local peer's address, if the peer was named.
    pub local: Option<IpAddr>,
    /// The addresses of all peers.
    pub members: Vec<IpAddr>,
    /// The tunnels that the mesh protects, if it protects tunnels.
    pub tunnel: Option<TunnelKind>,
    /// Protocol and destination port of what is sent, where they are known.
    pub port: Option<(u8, u16)>,
}

impl Ways {
    /// The local peer's address: the one that was named, or the only one that
    /// this host has.
    pub fn local_among(&self, addresses: &[LocalAddress]) -> Option<IpAddr> {
        if self.local.is_some() {
            return self.local;
        }
        let here = |member: &&IpAddr| addresses.iter().any(|local| local.address == **member);
        let mut found = self.members.iter().filter(here);
        found.next().copied().filter(|_| found.next().is_none())
    }

    /// The members with which an address forms a pair.
    pub fn peers_of(&self, local: IpAddr) -> impl Iterator<Item = IpAddr> {
        let others = self.members.iter().copied().filter(move |member| *member != local);
        others.filter(move |member| member.is_ipv4() == local.is_ipv4())
    }

    /// Whether a device makes tunnels that the mesh protects.
    pub fn is_of_mesh(&self, tunnel: &Tunnel) -> bool {
        self.tunnel == Some(tunnel.kind) && self.port == Some((IPPROTO_UDP, tunnel.port))
    }
}

/// Where packets from one address to another leave, as the kernel routes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A peer's address.
    pub to: IpAddr,
    /// The local peer's address, which the kernel was asked with.
    pub from: IpAddr,
    /// Every device that the packets can leave by; none if they go nowhere.
    pub devices: BTreeSet<String>,
    /// Those of the devices that have no carrier.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub no_carrier: BTreeSet<String>,
    /// The VRFs whose tables the route is from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vrfs: BTreeSet<String>,
    /// The source address that the kernel picks where a program chooses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Why packets go nowhere, if they do: the kernel's error.
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
    /// The address that its packets come from, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// Where it sends what it has no other destination for: a host or a multicast group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// The device that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<String>,
    /// The bridge, or whatever else it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Whether each packet says where it goes (`external`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Other names of the device.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub other_names: BTreeSet<String>,
    /// The destinations of its forwarding entries; `None` where they can't be read.
    pub entries: Option<BTreeSet<Destination>>,
}

/// What a tunnel device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// VXLAN.
    Vxlan,
    /// Geneve.
    Geneve,
}

impl TunnelKind {
    /// What `ip -d link` calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

/// Where a forwarding entry of a tunnel device leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// A host or a multicast group.
    pub address: IpAddr,
    /// A port that is not the device's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A rule that can change the addresses of packets to peers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translation {
    /// The rule, as iptables would be given it.
    pub rule: String,
    /// The built-in chain by which packets get there.
    pub chain: String,
    /// Whether it is certain to.
    pub certain: bool,
    /// Whether it changes the ESP packets alone, and not what is in them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub esp: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}
