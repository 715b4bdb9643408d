//! XFRM interfaces: the devices to which packets for networks are routed.

use serde::{Deserialize, Serialize};

use super::Reqid;

/// An XFRM interface.
///
/// Packets that are routed to it meet the policies with its number. Packets that an SA with its number
/// has decrypted arrive on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// The number that policies and SAs share with it, never 0. A network namespace has at most one
    /// interface of a number.
    pub if_id: u32,
    /// The largest packet that it takes, in bytes, before encryption.
    pub mtu: u32,
    /// Whether it is up. The kernel deletes the routes and the IPv6 addresses of a device that goes
    /// down.
    pub up: bool,
    /// Whether the kernel gives it link-local IPv6 addresses (`addrgenmode`).
    pub makes_addresses: bool,
    /// Whether packets of IPv4 that are routed to it meet no policies but its own (its sysctl
    /// `disable_xfrm`).
    pub skips_policies: bool,
}

impl Interface {
    /// The interface of a mesh as it has to be.
    pub fn of_mesh(name: &str, reqid: Reqid, mtu: u32) -> Self {
        let (if_id, up, makes_addresses, skips_policies) = (reqid.0, true, false, true);
        Self { name: name.into(), if_id, mtu, up, makes_addresses, skips_policies }
    }

    /// Its identity in the words of `ip`.
    pub fn id(&self) -> String {
        format!("dev {} if_id {:#x}", self.name, self.if_id)
    }

    /// Whether it is the interface of the mesh with this reqid. Its number alone decides that.
    pub fn belongs_to(&self, reqid: Reqid) -> bool {
        self.if_id == reqid.0
    }
}
