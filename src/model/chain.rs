//! Firewall chains: the meshes' chains in iptables, and the foreign rules that matter to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{Direction, Mark, Prefix, Reqid, Selector};

/// IPv4 or IPv6: iptables or ip6tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// iptables.
    Ipv4,
    /// ip6tables.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of the packets that a selector covers.
    pub fn of(selector: &Selector) -> Self {
        if selector.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The program for this family.
    pub fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "iptables",
            Self::Ipv6 => "ip6tables",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// The part of the kernel that holds the rules. Both may hold rules at once, and then packets pass
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// ip_tables and ip6_tables.
    Legacy,
    /// nf_tables, by way of iptables-nft.
    NfTables,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Legacy, Self::NfTables];

    /// The suffix in the names of programs.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::NfTables => "nft",
        }
    }
}

impl fmt::Display for Backend {
    /// As `iptables --version` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::NfTables => "nf_tables",
        })
    }
}

/// The purpose of a mesh's chain, and its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainRole {
    /// Marks the traffic, so that the out policies select it.
    Mark,
    /// Drops traffic that would leave unprotected, in the filter table: where a mark selects the
    /// traffic, the mark is not set before.
    Out,
    /// Drops traffic that came in unprotected, in the filter table.
    In,
    /// Drops traffic that would leave unprotected, in the mangle table: where ports select the
    /// traffic. No ACCEPT of the filter table comes before it.
    MangleOut,
    /// Drops traffic that came in unprotected, in the mangle table.
    MangleIn,
    /// Drops traffic to networks of peers that would leave unprotected, of this host's own programs
    /// and of others, in the mangle table, once its device is known.
    Post,
    /// The same, for packets of others, where they are forwarded: ahead of a flowtable, which would take
    /// the packets that follow past the other chain.
    Forward,
}

impl ChainRole {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Mark,
        Self::Out,
        Self::In,
        Self::MangleOut,
        Self::MangleIn,
        Self::Post,
        Self::Forward,
    ];

    /// The table that its chain is in.
    pub fn table(self) -> &'static str {
        match self {
            Self::Mark | Self::MangleOut | Self::MangleIn | Self::Post | Self::Forward => "mangle",
            Self::Out | Self::In => "filter",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Mark => "MARK",
            Self::Out | Self::MangleOut => "OUT",
            Self::In | Self::MangleIn => "IN",
            Self::Post => "POST",
            Self::Forward => "FORWARD",
        }
    }

    /// The direction of the packets that it drops where they are not protected.
    pub fn guards(self) -> Option<Direction> {
        match self {
            Self::Mark => None,
            Self::Out | Self::MangleOut | Self::Post | Self::Forward => Some(Direction::Out),
            Self::In | Self::MangleIn => Some(Direction::In),
        }
    }

    /// Whether it belongs to the second guard of traffic that ports select, or of networks. The
    /// policies guard without it, alone where the second guard isn't available.
    pub fn is_optional(self) -> bool {
        match self {
            Self::MangleOut | Self::MangleIn | Self::Post | Self::Forward => true,
            Self::Mark | Self::Out | Self::In => false,
        }
    }

    /// The name of a mesh's chain.
    pub fn name(self, reqid: Reqid) -> String {
        format!("{}{}", chain_prefix(reqid), self.suffix())
    }
}

/// The prefix of the names of all meshes' chains.
pub const CHAIN_PREFIX: &str = "MESHSEC-";

/// The prefix of the names of one mesh's chains.
fn chain_prefix(reqid: Reqid) -> String {
    format!("{CHAIN_PREFIX}{:08x}-", reqid.0)
}

/// The identity of a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainId {
    /// The backend that holds it.
    pub backend: Backend,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The table's name.
    pub table: String,
    /// The chain's name, which begins with [`CHAIN_PREFIX`].
    pub name: String,
}

impl ChainId {
    /// The place of a mesh's chain.
    pub fn new(backend: Backend, family: Family, role: ChainRole, reqid: Reqid) -> Self {
        Self { backend, family, table: role.table().into(), name: role.name(reqid) }
    }

    /// Whether the mesh with this reqid owns it.
    pub fn belongs_to(&self, reqid: Reqid) -> bool {
        self.name.starts_with(&chain_prefix(reqid))
    }

    /// Its purpose, by its name. A mesh's chain in a wrong table or of another name has none.
    pub fn role(&self) -> Option<ChainRole> {
        ChainRole::ALL.into_iter().find(|role| {
            role.table() == self.table
                && self.name.len() == CHAIN_PREFIX.len() + 9 + role.suffix().len()
                && self.name.ends_with(&format!("-{}", role.suffix()))
        })
    }

    /// The built-in chain that its packets come from.
    pub fn hook(&self) -> &'static str {
        let suffix = self.name.rsplit('-').next();
        match suffix {
            Some("IN") => "INPUT",
            Some("POST") => "POSTROUTING",
            Some("FORWARD") => "FORWARD",
            Some(_) | None => "OUTPUT",
        }
    }
}

impl fmt::Display for ChainId {
    /// The chain in the words of iptables: `iptables-nft -t filter MESHSEC-4d530001-OUT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, family, table, name } = self;
        write!(f, "{}-{} -t {table} {name}", family.program(), backend.suffix())
    }
}

/// A rule in a mesh's chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// Sets bits of the mark of UDP packets to a port.
    Mark {
        /// The destination port.
        port: u16,
        /// The bits and their mask.
        mark: Mark,
    },
    /// Returns from the chain with UDP packets to a port that came, or go,
    /// through an SA of the mesh.
    Pass {
        /// The destination port.
        port: u16,
        /// In or out.
        direction: Direction,
        /// The mesh's reqid.
        reqid: Reqid,
    },
    /// Drops UDP packets to a port, except those of the loopback device.
    Block {
        /// The destination port.
        port: u16,
        /// In or out.
        direction: Direction,
    },
    /// Drops UDP packets to a port that no SA at all protects. Version 0.1 had
    /// such rules; a mesh has none now, and replaces them.
    Drop {
        /// The destination port.
        port: u16,
        /// In or out.
        direction: Direction,
    },
    /// Returns from the chain with packets that leave by a device.
    PassDevice {
        /// The device's name.
        device: String,
    },
    /// Returns from the chain with packets that leave through an SA of the mesh.
    PassProtected {
        /// The mesh's reqid.
        reqid: Reqid,
    },
    /// Returns from the chain with packets that leave to addresses outside of a network.
    PassOutside {
        /// The network.
        network: Prefix,
    },
    /// Drops packets to a network, except those of the loopback device.
    BlockTo {
        /// The network.
        network: Prefix,
    },
    /// Any other rule, as iptables-save prints it. A mesh's chain as it should be has none.
    Other(String),
}

impl Rule {
    /// The two rules by which a chain drops all UDP to a port that no SA of
    /// the mesh protects.
    pub fn guards(port: u16, direction: Direction, reqid: Reqid) -> Vec<Self> {
        vec![Self::Pass { port, direction, reqid }, Self::Block { port, direction }]
    }

    /// The rules by which a chain drops all packets to networks that do not leave by the mesh's
    /// interface, nor through an SA of the mesh. That interface hands each packet that it sends to
    /// the policies and to the chain again, with the device below.
    pub fn guards_of_networks(
        networks: &BTreeSet<Prefix>,
        device: &str,
        reqid: Reqid,
    ) -> Vec<Self> {
        let joined = Prefix::joined(networks);
        let around = Prefix::around(&joined).filter(|_| joined.len() > Self::FEW);
        let mut rules =
            vec![Self::PassDevice { device: device.into() }, Self::PassProtected { reqid }];
        rules.extend(around.map(|network| Self::PassOutside { network }));
        rules.extend(joined.into_iter().map(|network| Self::BlockTo { network }));
        rules
    }

    /// The number of rules that each packet may meet, with those of ESP among them, which come by here
    /// once more. Behind more, packets to other destinations are let pass ahead.
    const FEW: usize = 8;

    /// Whether it is a guard's rule that spares packets.
    pub fn spares(&self) -> bool {
        match self {
            Self::Pass { .. }
            | Self::PassDevice { .. }
            | Self::PassProtected { .. }
            | Self::PassOutside { .. } => true,
            Self::Mark { .. }
            | Self::Block { .. }
            | Self::Drop { .. }
            | Self::BlockTo { .. }
            | Self::Other(_) => false,
        }
    }

    /// The port and direction of packets that it drops or spares as a guard.
    pub fn guarded(&self) -> Option<(u16, Direction)> {
        match self {
            Self::Pass { port, direction, .. }
            | Self::Block { port, direction }
            | Self::Drop { port, direction } => Some((*port, *direction)),
            Self::Mark { .. }
            | Self::PassDevice { .. }
            | Self::PassProtected { .. }
            | Self::PassOutside { .. }
            | Self::BlockTo { .. }
            | Self::Other(_) => None,
        }
    }
}

/// The match by which a rule leaves the loopback device alone: packets that are sent there do not
/// leave the host.
fn not_lo(direction: Direction) -> &'static str {
    match direction {
        Direction::In | Direction::Fwd => "! -i lo",
        Direction::Out => "! -o lo",
    }
}

impl fmt::Display for Rule {
    /// In the words of iptables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark { port, mark } => {
                write!(f, "-p udp --dport {port} -j MARK --set-xmark {mark}")
            }
            Self::Pass { port, direction, reqid } => write!(
                f,
                "{} -p udp --dport {port} -m policy --dir {direction} --pol ipsec --reqid {} -j \
                 RETURN",
                not_lo(*direction),
                reqid.0
            ),
            Self::Block { port, direction } => {
                write!(f, "{} -p udp --dport {port} -j DROP", not_lo(*direction))
            }
            Self::Drop { port, direction } => {
                write!(f, "-p udp --dport {port} -m policy --dir {direction} --pol none -j DROP")
            }
            Self::PassDevice { device } => write!(f, "-o {device} -j RETURN"),
            Self::PassProtected { reqid } => {
                write!(f, "-m policy --dir out --pol ipsec --reqid {} -j RETURN", reqid.0)
            }
            Self::PassOutside { network } => write!(f, "! -d {network} -j RETURN"),
            Self::BlockTo { network } => {
                write!(f, "-d {network} {} -j DROP", not_lo(Direction::Out))
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A rule of the built-in chain that leads to a mesh's chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jump {
    /// The rule as iptables-save prints it, if it has conditions. meshsec's own jump has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<String>,
    /// The first rule ahead of it that may accept a packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
}

impl Jump {
    /// The jump as it should be: no conditions, and no rule that accepts ahead of it.
    pub const FIRST: Self = Self { conditions: None, behind: None };
}

/// A chain of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Its identity.
    pub id: ChainId,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// The rules of its built-in chain that lead to it, in order.
    pub jumps: Vec<Jump>,
    /// Rules of other chains that lead to it: foreign ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
}

impl Chain {
    /// Whether every packet of its built-in chain gets to it.
    pub fn is_reached(&self) -> bool {
        self.jumps.contains(&Jump::FIRST)
    }
}

/// Another user of bits of marks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkUser {
    /// The user in words.
    pub user: String,
    /// The bits of all its uses together.
    pub bits: u32,
}

/// A part of iptables that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unseen {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Whether the system's own iptables works on it, or would.
    pub system: bool,
    /// The attempt that failed.
    pub what: String,
    /// The reason and the remedy.
    pub reason: String,
}

/// The contents of iptables that concern meshes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// The backend of the system's own programs. A family is missing if the kernel lacks it, or if
    /// its programs are missing.
    pub backends: BTreeMap<Family, Backend>,
    /// Families that the kernel lacks, so that no packet of theirs can leave.
    #[serde(default)]
    pub absent: BTreeSet<Family>,
    /// The families and backends with foreign rules.
    #[serde(default)]
    pub foreign: BTreeSet<(Family, Backend)>,
    /// Chains of all meshes.
    #[serde(default)]
    pub chains: Vec<Chain>,
    /// Other users of marks.
    #[serde(default)]
    pub marks: Vec<MarkUser>,
    /// The parts that could not be looked at.
    #[serde(default)]
    pub unseen: Vec<Unseen>,
    /// Whether more was looked for than chains that meshes may have left: the programs, and
    /// obstacles to new chains.
    #[serde(default)]
    pub whole: bool,
}

impl Default for Firewall {
    /// A host without rules, with the programs of today.
    fn default() -> Self {
        Self {
            backends: Family::ALL.map(|family| (family, Backend::NfTables)).into(),
            absent: BTreeSet::new(),
            foreign: BTreeSet::new(),
            chains: Vec::new(),
            marks: Vec::new(),
            unseen: Vec::new(),
            whole: true,
        }
    }
}

impl Firewall {
    /// Sorts everything, so that equal firewalls are equal values.
    pub fn sort(&mut self) {
        self.chains.sort_by(|a, b| a.id.cmp(&b.id));
        self.marks.sort();
        self.unseen.sort();
    }

    /// Whether it tells the chains that can be set. Snapshots of version 0.1 don't have this field,
    /// but have backends where they tell it.
    pub fn is_whole(&self) -> bool {
        self.whole || !self.backends.is_empty()
    }

    /// The reason why the system's rules of a family are unknown, if they are.
    pub fn unseen_of(&self, family: Family) -> Option<&Unseen> {
        self.unseen.iter().find(|unseen| unseen.system && unseen.family == family)
    }

    /// The backend into which chains of a family can be set, if its rules could
    /// be looked at.
    pub fn settable(&self, family: Family) -> Option<Backend> {
        let backend = self.backends.get(&family).copied();
        backend.filter(|_| self.unseen_of(family).is_none() && !self.absent.contains(&family))
    }

    /// The chains of the mesh with this reqid.
    pub fn chains_of(&self, reqid: Reqid) -> impl Iterator<Item = &Chain> {
        self.chains.iter().filter(move |chain| chain.id.belongs_to(reqid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_told_by_its_name_and_is_for_something_in_its_own_table_only() {
        let reqid = Reqid(0x4d53_0001);
        let mut id = ChainId::new(Backend::NfTables, Family::Ipv6, ChainRole::Out, reqid);
        assert_eq!(id.to_string(), "ip6tables-nft -t filter MESHSEC-4d530001-OUT");
        assert!(id.belongs_to(reqid) && !id.belongs_to(Reqid(0x4d53_0002)));
        assert_eq!((id.role(), id.hook()), (Some(ChainRole::Out), "OUTPUT"));
        id.table = "mangle".into();
        assert_eq!((id.role(), id.hook()), (Some(ChainRole::MangleOut), "OUTPUT"));
        id.name = ChainRole::Post.name(reqid);
        assert_eq!((id.role(), id.hook()), (Some(ChainRole::Post), "POSTROUTING"));
        id.name = ChainRole::Forward.name(reqid);
        assert_eq!((id.role(), id.hook()), (Some(ChainRole::Forward), "FORWARD"));
        id.table = "nat".into();
        assert!(id.belongs_to(reqid) && id.role().is_none());
        id.name = "MESHSEC-4d530001-X-OUT".into();
        id.table = "filter".into();
        assert!(id.belongs_to(reqid) && id.role().is_none());
    }
}
