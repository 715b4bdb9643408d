//! The files of a pair of hosts, the packets between them, and what a file says about a packet.

use std::{fmt, net::IpAddr};

use meshsec::{
    config::{Config, Guard, Ports, Protocol, Rotation, Select, Traffic},
    desired::{Desired, Keyring},
    model::{Generation, Mark, Stage},
};

use crate::{
    common::{mesh, nothing, wanted},
    packets::{Packet, delivery::packets},
};

/// The mark of meshes that select by mark.
const MARK: u32 = 0x20000;

/// The kind of a mesh, and the family of its hosts.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub traffic: Traffic,
    pub select: Select,
    pub guard: Guard,
    pub ipv6: bool,
}

/// All kinds, over IPv4. The port of Geneve is to the program a number like any other, and so is a
/// second port of a list: these are two kinds of the eight, and not more.
pub fn kinds() -> Vec<Kind> {
    let mark = Select::Mark(Mark { value: MARK, mask: MARK });
    let (vxlan, geneve) = (Traffic::Vxlan { port: 4789 }, Traffic::Geneve { port: 6081 });
    let port = |ports: &[u16]| Traffic::Port {
        protocol: Protocol::Tcp,
        ports: Ports::new(ports).expect("ports"),
    };
    let kind = |name, traffic, select, guard| Kind { name, traffic, select, guard, ipv6: false };
    vec![
        kind("vxlan", vxlan, Select::Port, Guard::Both),
        kind("vxlan by mark", vxlan, mark, Guard::Both),
        kind("vxlan, guard xfrm", vxlan, Select::Port, Guard::Policies),
        kind("vxlan, no guard", vxlan, Select::Port, Guard::Off),
        kind("geneve", geneve, Select::Port, Guard::Both),
        kind("all", Traffic::All, Select::Port, Guard::Off),
        kind("tcp 443", port(&[443]), Select::Port, Guard::Off),
        kind("tcp 443, 8443", port(&[443, 8443]), Select::Port, Guard::Off),
    ]
}

/// The same over both families.
pub fn kinds_of_both_families() -> Vec<Kind> {
    let both = |kind| [kind, Kind { ipv6: true, ..kind }];
    kinds().into_iter().flat_map(both).collect()
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.name, if self.ipv6 { "IPv6" } else { "IPv4" })
    }
}

/// A host's file: its stage and generation. Without a stage, nothing of the mesh is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub stage: Option<Stage>,
    pub generation: u64,
}

impl At {
    pub const fn new(stage: Option<Stage>, generation: u64) -> Self {
        Self { stage, generation }
    }

    /// Whether two hosts, one here and one there, are to lose no packet.
    pub fn is_next_to(self, other: Self) -> bool {
        let rank = |at: Self| at.stage.map_or(0, |stage| stage as u64 + 1);
        rank(self).abs_diff(rank(other)) <= 1 && self.generation.abs_diff(other.generation) <= 1
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Some(stage) => write!(f, "stage {}, generation {}", stage.name(), self.generation),
            None => f.write_str("nothing"),
        }
    }
}

impl Kind {
    /// The addresses of the two hosts, and of one that is in no mesh.
    pub fn addresses(self) -> [IpAddr; 3] {
        let of = |last: u16| match self.ipv6 {
            true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]),
            false => IpAddr::from([192, 0, 2, last as u8]),
        };
        [of(1), of(2), of(99)]
    }

    /// The file of the first or of the second host; its own peer comes first.
    pub fn file(self, second: bool, at: At) -> Config {
        let [a, b, _] = self.addresses().map(|address| address.to_string());
        let mut config = mesh(at.generation, &[&a, &b]);
        (config.traffic, config.select, config.guard) = (self.traffic, self.select, self.guard);
        config.stage = at.stage.unwrap_or_default();
        config.rotation = Rotation::Generation(Generation::new(at.generation).expect("small"));
        if second {
            config.peers.reverse();
        }
        config
    }

    /// The objects that a host is to hold.
    pub fn goal(self, second: bool, at: At) -> (Desired, Keyring) {
        let file = self.file(second, at);
        if at.stage.is_some() {
            return wanted(&file);
        }
        (nothing(&file), Keyring::default())
    }

    /// The mesh's packets from one host to the other.
    pub fn packets(self, second: bool) -> Vec<Packet> {
        let [a, b, _] = self.addresses();
        let (src, dst) = if second { (b, a) } else { (a, b) };
        packets(self.traffic, src, dst)
    }

    /// The mesh's packets of the first host: to the peer, marked too, and to a stranger.
    pub fn packets_out(self) -> Vec<Packet> {
        let [a, _, stranger] = self.addresses();
        let mut all = self.packets(false);
        let first = all[0];
        all.push(first.marked(MARK | 1));
        if self.guard.is_on() {
            all.extend(packets(self.traffic, a, stranger));
        }
        all
    }

    /// Packets between the two hosts that are not the mesh's. With kind "all" there are none.
    ///
    /// Kind "networks" is not enumerated: tests/suite/networks.rs has its partial states.
    pub fn others(self) -> Vec<Packet> {
        let [a, b, _] = self.addresses();
        match self.traffic {
            Traffic::All => Vec::new(),
            Traffic::Vxlan { .. }
            | Traffic::Geneve { .. }
            | Traffic::Port { .. }
            | Traffic::Networks => {
                vec![Packet::udp(a, b, 9_999), Packet { proto: 6, ..Packet::udp(a, b, 22) }]
            }
        }
    }

    /// Whether a file has guards on its hosts.
    pub fn is_guarded(self, at: At) -> bool {
        self.guard.is_on() && at.stage == Some(Stage::Enforce)
    }

    /// Whether a file says that a packet of the mesh leaves encrypted or not at all.
    pub fn closes(self, at: At, packet: &Packet) -> bool {
        let is_to_the_peer = packet.dst == self.addresses()[1];
        self.is_guarded(at) || is_to_the_peer && at.stage >= Some(Stage::Send)
    }

    /// Whether a file says that the answer to a packet is refused in the clear.
    pub fn refuses(self, at: At, packet: &Packet) -> bool {
        let is_to_the_peer = packet.dst == self.addresses()[1];
        self.is_guarded(at) || is_to_the_peer && at.stage == Some(Stage::Enforce)
    }
}
