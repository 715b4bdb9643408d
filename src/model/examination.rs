//! The facts about a host that `doctor` alone asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Direction, Family};

/// The facts that are read once.
#[derive(Debug, Clone, Default)]
pub struct Examination {
    /// The kernel.
    pub kernel: KernelFacts,
    /// The rules of firewalls that drop packets of the mesh.
    pub filters: Filters,
    /// Whether something keeps the clock right; `None` where the kernel does not say.
    pub is_synchronised: Option<bool>,
    /// The timers that run this program.
    pub timer: Timer,
    /// The path MTUs that the kernel has learned, by address; `None` where they can't be read.
    pub path_mtus: Option<BTreeMap<IpAddr, u32>>,
    /// `rp_filter` by device, the larger of the device's own and that of `all`; `None` where it
    /// can't be read.
    pub reverse_path_filters: BTreeMap<String, Option<u8>>,
    /// Whether the host forwards packets, by family; nothing where it can't be read.
    pub forwards: BTreeMap<Family, bool>,
    /// The results of pings, by address; none without `--probe`.
    pub probes: BTreeMap<IpAddr, Probe>,
}

/// Counters and devices at a moment.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Those of `/proc/net/xfrm_stat` that are not 0; `None` where there is no such file.
    pub refused: Option<BTreeMap<String, u64>>,
    /// The packets that rp_filter has dropped; `None` where it can't be read.
    pub reverse_path: Option<u64>,
    /// All devices; `None` where they can't be read.
    pub devices: Option<Vec<DeviceState>>,
}

impl Counters {
    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&DeviceState> {
        self.devices.iter().flatten().find(|device| device.name == name)
    }
}

/// A device, and the packets that it has dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Its name.
    pub name: String,
    /// Whether it is set up.
    pub is_up: bool,
    /// Whether something is at its other end.
    pub has_carrier: bool,
    /// Packets that came and were dropped, or were damaged.
    pub lost_in: u64,
    /// Packets that should have left and were dropped, or could not be sent.
    pub lost_out: u64,
}

/// The kernel that the program runs on.
#[derive(Debug, Clone, Default)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// Whether FIPS mode is on; `None` where it can't be read.
    pub is_fips: Option<bool>,
    /// The mode of lockdown; `None` where it can't be read.
    pub lockdown: Option<String>,
    /// The algorithms of `/proc/crypto`; `None` where it can't be read.
    pub algorithms: Option<BTreeSet<String>>,
    /// Certain reasons why the kernel will not load ESP or the cipher.
    pub barred: Vec<String>,
}

/// Packets between this host and peers, about which rules are asked.
#[derive(Debug, Clone)]
pub struct FilteredPackets {
    /// Their kind.
    pub kind: PacketKind,
    /// In or out.
    pub direction: Direction,
    /// Their protocol.
    pub protocol: u8,
    /// Their destination port, where they have one.
    pub port: Option<u16>,
    /// The addresses of the peers.
    pub peers: Vec<IpAddr>,
}

/// A kind of packets that a mesh needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketKind {
    /// ESP, IP protocol 50.
    Esp,
    /// UDP datagrams that hold ESP.
    EspInUdp,
    /// The protected packets, before they are encrypted or after they were decrypted.
    Inside,
}

/// The rules that drop packets of the mesh, as far as they can be read.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Rules and policies of iptables.
    pub drops: Vec<DropRule>,
    /// Reasons why some rules could not be read.
    pub unread: Vec<String>,
    /// Chains of nf_tables that are not iptables', whose rules are not read.
    pub foreign: Vec<ForeignChain>,
    /// Those that may change the addresses of packets that leave, whose rules are not read either.
    pub translating: Vec<ForeignChain>,
}

/// A rule, or the policy of a chain, that drops packets of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropRule {
    /// The command that would set it, such as `iptables-nft -A INPUT -p esp -j DROP`.
    pub rule: String,
    /// The packets.
    pub kind: PacketKind,
    /// In or out.
    pub direction: Direction,
    /// Whether all of these packets get there and match.
    pub is_certain: bool,
    /// Whether answers to packets of this host pass, by connection tracking.
    pub spares_answers: bool,
    /// The addresses of the peers; empty for all that were asked about.
    pub peers: BTreeSet<IpAddr>,
}

/// A chain of nf_tables where packets of the mesh pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChain {
    /// The family and the name of its table, such as `inet filter`.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Whether it drops packets that no rule decides about.
    pub drops: bool,
}

/// The timers of systemd that run this program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Timer {
    /// The host was not booted by systemd.
    NoSystemd,
    /// Nobody can tell.
    #[default]
    Unknown,
    /// No timer with this program's name is enabled.
    None,
    /// Such timers are enabled.
    Enabled(BTreeSet<String>),
}

/// The answers of a peer's address to pings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// Whether a small one was answered; `None` where none could be sent.
    pub answers: Option<bool>,
    /// Why none could be sent.
    pub failure: Option<String>,
    /// The largest packet that was answered, in bytes.
    pub passed: Option<u32>,
    /// The smallest packet that got no answer, in bytes.
    pub lost: Option<u32>,
}
