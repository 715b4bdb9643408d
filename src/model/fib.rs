//! Entries of the kernel's routing tables.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Prefix, Reqid};

/// The table that hosts look routes up in by default (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// The fate of packets that follow a routing table's entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FibAction {
    /// They leave by one of these devices.
    Devices(BTreeSet<String>),
    /// They are dropped without a word.
    Blackhole,
    /// Any other, in the word of `ip route`: `unreachable`, `prohibit`, `throw`, `local`, ….
    Other(String),
}

impl FibAction {
    /// They leave by this device.
    pub fn device(name: &str) -> Self {
        Self::Devices([name.to_owned()].into())
    }
}

/// An entry of a routing table (`ip route`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FibEntry {
    /// The destinations that it is for.
    pub to: Prefix,
    /// The table's number.
    pub table: u32,
    /// The smaller number wins among entries for the same prefix.
    pub metric: u32,
    /// The fate of packets.
    pub action: FibAction,
    /// The program that made it, by a number (`rtm_protocol`).
    pub protocol: u8,
    /// Whether it is for packets of some sources, or of a type of service, alone. Those follow it before
    /// other entries for the same prefix, whatever their metrics.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub selective: bool,
    /// The source address that the kernel picks where a program chooses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

impl FibEntry {
    /// The protocol of all entries of meshes. iproute2 gives the number no name.
    pub const PROTOCOL: u8 = 77;
    /// The metric of a mesh's entries that lead to its interface. 0 would be another number over
    /// IPv6 (`IP6_RT_PRIO_USER`).
    pub const METRIC: u32 = 1;

    /// The entry by which packets for a peer's network get to the mesh's interface.
    pub fn through(to: Prefix, device: &str, source: Option<IpAddr>) -> Self {
        let (table, metric, protocol) = (MAIN_TABLE, Self::METRIC, Self::PROTOCOL);
        Self {
            to,
            table,
            metric,
            action: FibAction::device(device),
            protocol,
            selective: false,
            source,
        }
    }

    /// The entry that drops packets for a peer's network where none leads to the interface: while
    /// it is down, or gone.
    pub fn blackhole(to: Prefix, reqid: Reqid) -> Self {
        let (table, action, protocol) = (MAIN_TABLE, FibAction::Blackhole, Self::PROTOCOL);
        Self { to, table, metric: reqid.0, action, protocol, selective: false, source: None }
    }

    /// Its identity behind the word of its kind, route or blackhole.
    pub fn id(&self) -> String {
        match self.action {
            FibAction::Blackhole => format!("{} metric {}", self.to, self.metric),
            FibAction::Devices(_) | FibAction::Other(_) => self.to_string(),
        }
    }

    /// Whether it is of the mesh with this reqid, whose interface has this name. Its protocol, and
    /// its metric or its device decide that.
    pub fn belongs_to(&self, reqid: Reqid, device: Option<&str>) -> bool {
        let leads_there = device.is_some_and(|device| self.action == FibAction::device(device));
        self.protocol == Self::PROTOCOL
            && !self.selective
            && (self.metric == reqid.0 || leads_there)
    }
}

impl fmt::Display for FibEntry {
    /// In the words of `ip route`, without protocol and source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            FibAction::Devices(devices) => {
                write!(f, "{}", self.to)?;
                devices.iter().try_for_each(|device| write!(f, " dev {device}"))?;
            }
            FibAction::Blackhole => write!(f, "blackhole {}", self.to)?,
            FibAction::Other(word) => write!(f, "{word} {}", self.to)?,
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        write!(f, " metric {}", self.metric)
    }
}
