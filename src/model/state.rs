//! The state of one host that meshsec reads.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    EncapSocket, FibEntry, Firewall, Interface, KeyView, Policy, Prefix, Reqid, Route, Sa,
    Translation, Tunnel, Usage,
};

/// An address of this host and the device that carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The device's name.
    pub device: String,
}

impl LocalAddress {
    /// Its identity in the words of `ip`.
    pub fn id(&self) -> String {
        format!("{} dev {}", Prefix::host(self.address), self.device)
    }

    /// Whether it is an IPv6 address of one link alone.
    pub fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }
}

/// A network device and its MTU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The device's name.
    pub name: String,
    /// The largest packet that it takes, in bytes, without its own header.
    pub mtu: u32,
    /// Its kind in `ip -d link`, such as `vxlan`; `loopback` for lo, nothing for hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where the packets of a VRF wait, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

impl Link {
    /// Whether no packet leaves the host through it, so that its MTU says
    /// nothing of the path.
    pub fn ends_here(&self) -> bool {
        matches!(self.kind.as_deref(), Some("loopback" | "dummy"))
    }
}

/// The queue of a VRF. The kernel looks packets up again as they leave it, without their ports and
/// the types of ICMP, and over IPv4 without their mark (`vrf_ip_out_redirect`,
/// `vrf_process_v4_outbound`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Queue {
    /// A queueing discipline of this name.
    Discipline(String),
    /// This many transmit queues.
    Transmit(u32),
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discipline(name) => write!(f, "qdisc {name}"),
            Self::Transmit(number) => write!(f, "{number} transmit queues"),
        }
    }
}

impl From<Queue> for String {
    fn from(queue: Queue) -> Self {
        queue.to_string()
    }
}

impl TryFrom<String> for Queue {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = || text.strip_suffix(" transmit queues")?.parse().ok();
        match text.strip_prefix("qdisc ") {
            Some(name) => Ok(Self::Discipline(name.into())),
            None => number().map(Self::Transmit).ok_or("expected a qdisc or transmit queues"),
        }
    }
}

/// A wanted MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// The largest that fits the underlay.
    Auto,
    /// This one, in bytes.
    Exactly(u32),
}

/// A sysctl that is set and lets packets bypass policies untransformed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bypass {
    /// A device's name, or `all`.
    pub device: String,
    /// The family of the packets: `net.ipv4.conf` or `net.ipv6.conf`.
    pub ipv6: bool,
    /// `disable_xfrm` or `disable_policy`.
    pub name: String,
}

/// A part that could not be looked at, and is not taken for absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hidden {
    /// The sysctls of `/proc/sys/net`.
    Sysctls,
    /// The rules of iptables' nat tables.
    Translations,
}

/// The objects of one network namespace, sorted by identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Security associations, the mesh's and foreign ones.
    pub sas: Vec<Sa>,
    /// Policies, the mesh's and foreign ones, without those of single sockets.
    pub policies: Vec<Policy>,
    /// Policies of single sockets (`IP_XFRM_POLICY`), which the kernel asks before all others. They
    /// are foreign and only shown: several sockets may have the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub socket_policies: Vec<Policy>,
    /// Addresses of all devices.
    pub addresses: Vec<LocalAddress>,
    /// All devices.
    #[serde(default)]
    pub links: Vec<Link>,
    /// All XFRM interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The entries of routing tables that are meshes', and those that overlap with the mesh's
    /// networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fib: Vec<FibEntry>,
    /// Sysctls in the way.
    pub bypasses: Vec<Bypass>,
    /// The ways to peers. For a peer that is not here the way is unknown.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Devices that make VXLAN or Geneve; `None` where they are not known.
    #[serde(default)]
    pub tunnels: Option<Vec<Tunnel>>,
    /// Rules that can change the addresses of packets to peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub translations: Vec<Translation>,
    /// The parts that could not be looked at.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hidden: BTreeSet<Hidden>,
    /// The usage of the mesh's SAs.
    #[serde(default)]
    pub usage: Vec<Usage>,
    /// Whether ESP in UDP is taken in, where the mesh has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<EncapSocket>,
    /// Whether the kernel sends NAT keepalives, where the mesh has ESP in UDP; `None` where that is
    /// not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalives: Option<bool>,
    /// Whether IPv6 is off on the mesh's interface, or would be on a new one (`disable_ipv6`); asked
    /// where the mesh has networks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6_off: bool,
    /// The meshes' chains in iptables, and the foreign rules that matter to them.
    #[serde(default)]
    pub firewall: Firewall,
}

impl State {
    /// A copy without SAs, policies, routes and uses, of which there are thousands.
    pub fn without_objects(&self) -> Self {
        Self {
            sas: Vec::new(),
            policies: Vec::new(),
            socket_policies: self.socket_policies.clone(),
            addresses: self.addresses.clone(),
            links: self.links.clone(),
            interfaces: self.interfaces.clone(),
            fib: Vec::new(),
            bypasses: self.bypasses.clone(),
            routes: Vec::new(),
            tunnels: self.tunnels.clone(),
            translations: self.translations.clone(),
            hidden: self.hidden.clone(),
            usage: Vec::new(),
            encap: self.encap,
            keepalives: self.keepalives,
            ipv6_off: self.ipv6_off,
            firewall: self.firewall.clone(),
        }
    }

    /// Sorts everything, so that equal states are equal values.
    pub fn sorted(mut self) -> Self {
        self.sas.sort_by_key(|sa| sa.id);
        self.policies.sort_by_key(|policy| policy.id);
        self.socket_policies.sort_by_key(|policy| (policy.id, policy.priority));
        self.addresses.sort();
        self.links.sort();
        self.interfaces.sort();
        self.fib.sort();
        self.bypasses.sort();
        self.routes.sort();
        self.tunnels.iter_mut().for_each(|tunnels| tunnels.sort());
        self.usage.sort_by_key(|usage| usage.id);
        self.firewall.sort();
        self
    }

    /// Whether both hold the same objects, with any usage.
    ///
    /// On hosts of containers, devices come and go with link-local addresses, which no peer has. So
    /// a plan is asked about again only if a device that both have differs. Forwarding entries of
    /// tunnel devices are learned and forgotten all the time.
    pub fn same_objects(&self, other: &Self) -> bool {
        let wide = |local: &&LocalAddress| !local.is_link_local();
        let addresses = |state: &Self| -> Vec<LocalAddress> {
            state.addresses.iter().filter(wide).cloned().collect()
        };
        let agrees = |link: &Link| other.link(&link.name).is_none_or(|there| there == link);
        let same = |one: &Interface| {
            let mut others = other.interfaces.iter();
            others.find(|there| there.if_id == one.if_id).is_none_or(|there| there == one)
        };
        self.objects() == other.objects()
            && addresses(self) == addresses(other)
            && self.links.iter().all(agrees)
            && self.interfaces.iter().all(same)
    }

    /// All that two states of the same objects have in common, apart from addresses and devices.
    fn objects(&self) -> impl PartialEq + '_ {
        let Self {
            sas,
            policies,
            socket_policies: _,
            addresses: _,
            links: _,
            interfaces: _,
            fib,
            bypasses,
            routes,
            tunnels,
            translations,
            hidden,
            usage: _,
            encap: _,
            keepalives: _,
            ipv6_off,
            firewall,
        } = self;
        let rules = (translations, hidden, firewall);
        (sas, policies, fib, bypasses, routes, tunnels, ipv6_off, rules)
    }

    /// The SAs of the mesh with this reqid, placeholders of the kernel among them.
    pub fn sas_of(&self, reqid: Reqid) -> impl Iterator<Item = &Sa> {
        self.sas.iter().filter(move |sa| sa.reqid == reqid)
    }

    /// Whether the mesh with this reqid has an object here.
    pub fn has_objects_of(&self, reqid: Reqid) -> bool {
        self.sas_of(reqid).next().is_some()
            || self.interface_of(reqid).is_some()
            || self.fib_of(reqid).next().is_some()
            || self.policies_of(reqid).next().is_some()
            || self.firewall.chains_of(reqid).next().is_some()
    }

    /// The XFRM interface of the mesh with this reqid.
    pub fn interface_of(&self, reqid: Reqid) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.belongs_to(reqid))
    }

    /// The addresses of the XFRM interface of the mesh with this reqid, but for link-local ones, which
    /// routing daemons need there.
    pub fn addresses_of(&self, reqid: Reqid) -> impl Iterator<Item = &LocalAddress> {
        let device = self.interface_of(reqid).map(|interface| &interface.name);
        let on_it =
            move |local: &&LocalAddress| Some(&local.device) == device && !local.is_link_local();
        self.addresses.iter().filter(on_it)
    }

    /// The entries of routing tables of the mesh with this reqid.
    pub fn fib_of(&self, reqid: Reqid) -> impl Iterator<Item = &FibEntry> {
        let device = self.interface_of(reqid).map(|interface| interface.name.as_str());
        self.fib.iter().filter(move |entry| entry.belongs_to(reqid, device))
    }

    /// The SAs of others.
    pub fn foreign_sas(&self, reqid: Reqid) -> impl Iterator<Item = &Sa> {
        self.sas.iter().filter(move |sa| sa.reqid != reqid)
    }

    /// The policies of the mesh with this reqid.
    pub fn policies_of(&self, reqid: Reqid) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(move |policy| policy.belongs_to(reqid))
    }

    /// The policies of others.
    pub fn foreign_policies(&self, reqid: Reqid) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(move |policy| !policy.belongs_to(reqid))
    }

    /// The number of a mesh's SAs with keys that the kernel hides (lockdown).
    pub fn hidden_keys(&self, reqid: Reqid) -> usize {
        let hidden = |sa: &&Sa| sa.key == KeyView::Unknown && !sa.is_larval();
        self.sas_of(reqid).filter(hidden).count()
    }

    /// Whether this host has the address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|local| local.address == address)
    }

    /// Whether a sysctl may let packets between two addresses bypass all out policies
    /// (`IN_DEV_NOXFRM`): that of `all`, or of the device that they leave by.
    pub fn bypasses_policies(&self, from: IpAddr, to: IpAddr) -> bool {
        let mut bypasses = self
            .bypasses
            .iter()
            .filter(|bypass| bypass.name == "disable_xfrm" && bypass.ipv6 == from.is_ipv6());
        bypasses.any(|bypass| bypass.device == "all" || self.may_leave_by(&bypass.device, from, to))
    }

    /// Whether packets may leave by a device. Without a known route they may leave by devices that
    /// carry their source address, and by any device if no packet leaves by those. Loopback has
    /// disable_xfrm set, and no packet leaves by it.
    fn may_leave_by(&self, device: &str, from: IpAddr, to: IpAddr) -> bool {
        if let Some(route) = self.route(from, to) {
            return route.devices.contains(device);
        }
        let outward = |link: &Link| !link.ends_here() && link.kind.as_deref() != Some("vrf");
        let mut local = self.addresses.iter().filter(|local| local.address == from);
        // The way to an XFRM interface is known by entries of routing tables.
        let is_interface = self.interfaces.iter().any(|interface| interface.name == device);
        device != "lo"
            && !is_interface
            && (local.any(|local| local.device == device) || !self.carriers(from).any(outward))
    }

    /// The VRFs with a queue by which packets leave: policies that ask for ports
    /// are not found there.
    pub fn queued_vrfs(&self, route: &Route) -> impl Iterator<Item = &Link> {
        let vrfs = route.vrfs.iter().filter_map(|vrf| self.link(vrf));
        vrfs.filter(|vrf| vrf.queue.is_some())
    }

    /// The way from one address to another, if it is known. Packets from another
    /// address of this host go the same way.
    pub fn route(&self, from: IpAddr, to: IpAddr) -> Option<&Route> {
        let to_there = || self.routes.iter().filter(|route| route.to == to);
        to_there().find(|route| route.from == from).or_else(|| to_there().next())
    }

    /// The device of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The devices that carry an address.
    pub fn carriers(&self, address: IpAddr) -> impl Iterator<Item = &Link> {
        let local = self.addresses.iter().filter(move |local| local.address == address);
        local.filter_map(|local| self.link(&local.device))
    }
}

/// A state that was observed, not wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Live(pub State);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_written_as_snapshots_have_it() {
        for (text, queue) in [
            ("qdisc pfifo", Queue::Discipline("pfifo".into())),
            ("2 transmit queues", Queue::Transmit(2)),
        ] {
            assert_eq!(String::from(queue.clone()), text);
            assert_eq!(Queue::try_from(text.to_owned()), Ok(queue));
        }
        for text in ["", "pfifo", "two transmit queues", "2"] {
            assert!(Queue::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_that_comes_is_no_other_host_and_another_mtu_is() {
        let link = |name: &str, mtu| Link { name: name.into(), mtu, kind: None, queue: None };
        let local = |address: &str, device: &str| LocalAddress {
            address: address.parse().unwrap(),
            device: device.into(),
        };
        let before = State {
            addresses: vec![local("192.0.2.1", "eth0")],
            links: vec![link("eth0", 1500)],
            ..State::default()
        };
        let mut after = before.clone();
        after.links.push(link("veth7", 1500));
        after.addresses.push(local("fe80::7", "veth7"));
        assert!(before.same_objects(&after) && after.same_objects(&before));
        after.addresses.push(local("192.0.2.7", "veth7"));
        assert!(!before.same_objects(&after));
        after = before.clone();
        after.links[0].mtu = 1400;
        assert!(!before.same_objects(&after));
    }
}
