//! Selectors: the packets that a policy or an SA is for.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{IPPROTO_ICMP, IPPROTO_ICMPV6, Reqid};

/// ICMP types of errors that quote a packet: destination unreachable, time exceeded, parameter
/// problem (RFC 792). The kernel makes no source quench, and a redirect answers a forwarded packet,
/// which a packet between two hosts isn't.
const ICMP_ERRORS: [u16; 3] = [3, 11, 12];
/// ICMPv6 types of errors: destination unreachable, packet too big, time
/// exceeded, parameter problem (RFC 4443).
const ICMPV6_ERRORS: [u16; 4] = [1, 2, 3, 4];

/// Protocol and types of echo requests and replies of a family. In a flow the type has the place of the
/// source port.
pub fn icmp_echo(like: IpAddr) -> [(u8, u16); 2] {
    match like {
        IpAddr::V4(_) => [8, 0].map(|kind| (IPPROTO_ICMP, kind)),
        IpAddr::V6(_) => [128, 129].map(|kind| (IPPROTO_ICMPV6, kind)),
    }
}

/// An address and the number of its leading bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// The address; bits behind the prefix are as given, and don't count.
    pub address: IpAddr,
    /// 0 to 32 or 0 to 128.
    pub length: u8,
}

impl Prefix {
    /// A single address: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }

    /// Every address of the family of `like`.
    pub fn any(like: IpAddr) -> Self {
        let address = match like {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Self { address, length: 0 }
    }

    /// Whether some address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let length = u32::from(self.length.min(other.length));
        match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).leading_zeros() >= length.min(32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).leading_zeros() >= length.min(128)
            }
            _ => false,
        }
    }

    /// Whether every address of `other` is in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.overlaps(other)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A port and the mask under which it is compared; mask 0 is any port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, Hash,
)]
#[serde(deny_unknown_fields)]
pub struct PortMatch {
    /// The port, host byte order.
    pub port: u16,
    /// The bits of the port that count.
    pub mask: u16,
}

impl PortMatch {
    /// Any port.
    pub const ANY: Self = Self { port: 0, mask: 0 };

    /// Just this port.
    pub fn exactly(port: u16) -> Self {
        Self { port, mask: 0xffff }
    }

    /// Whether some port matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        (self.port ^ other.port) & self.mask & other.mask == 0
    }

    /// Whether this matches `port`.
    pub fn matches(&self, port: u16) -> bool {
        (self.port ^ port) & self.mask == 0
    }
}

/// The packets that a policy or an SA is for, as the kernel's `xfrm_selector`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Source addresses.
    pub src: Prefix,
    /// Destination addresses, of the same family.
    pub dst: Prefix,
    /// IP protocol; 0 is any.
    #[serde(default)]
    pub proto: u8,
    /// Source ports.
    #[serde(default)]
    pub sport: PortMatch,
    /// Destination ports.
    #[serde(default)]
    pub dport: PortMatch,
    /// Interface index; 0 is any.
    #[serde(default)]
    pub ifindex: i32,
    /// User id, which the kernel keeps but never looks at.
    #[serde(default)]
    pub user: u32,
}

impl Selector {
    /// Everything from one prefix to another.
    pub fn between(src: Prefix, dst: Prefix) -> Self {
        let any = PortMatch::ANY;
        Self { src, dst, proto: 0, sport: any, dport: any, ifindex: 0, user: 0 }
    }

    /// Everything to a network, from any address.
    pub fn to_network(network: Prefix) -> Self {
        Self::between(Prefix::any(network.address), network)
    }

    /// Whether it is for everything to its destinations, from any address of any user.
    pub fn is_for_all_to(&self) -> bool {
        *self == Self::to_network(self.dst)
    }

    /// Everything from one address to another, the selector of every SA of a mesh.
    pub fn hosts(src: IpAddr, dst: IpAddr) -> Self {
        Self::between(Prefix::host(src), Prefix::host(dst))
    }

    /// The same, narrowed to a protocol and a destination port.
    pub fn to_port(self, proto: u8, port: u16) -> Self {
        Self { proto, dport: PortMatch::exactly(port), ..self }
    }

    /// The same, narrowed to a protocol and a source port.
    pub fn from_port(self, proto: u8, port: u16) -> Self {
        Self { proto, sport: PortMatch::exactly(port), ..self }
    }

    /// The ICMP errors from one address to another, with a selector for each type. The type has the
    /// place of the source port in a flow.
    ///
    /// The reqid stands in a field that is part of a policy's identity, but that the kernel
    /// compares with no packet. So two meshes that share two hosts have separate policies for
    /// errors, and either mesh may go without the other's.
    pub fn icmp_errors(src: IpAddr, dst: IpAddr, reqid: Reqid) -> impl Iterator<Item = Self> {
        let (proto, types) = match src {
            IpAddr::V4(_) => (IPPROTO_ICMP, &ICMP_ERRORS[..]),
            IpAddr::V6(_) => (IPPROTO_ICMPV6, &ICMPV6_ERRORS[..]),
        };
        let hosts = Self { user: reqid.0, ..Self::hosts(src, dst) };
        types.iter().map(move |kind| hosts.from_port(proto, *kind))
    }

    /// Whether it selects one type of ICMP errors.
    pub fn is_icmp_error(&self) -> bool {
        let types = match self.proto {
            IPPROTO_ICMP => &ICMP_ERRORS[..],
            IPPROTO_ICMPV6 => &ICMPV6_ERRORS[..],
            _ => return false,
        };
        self.sport.mask == u16::MAX && types.contains(&self.sport.port)
    }

    /// Whether some packet matches both. Interfaces are not compared: they count as the same.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.src.overlaps(&other.src)
            && self.dst.overlaps(&other.dst)
            && (self.proto == other.proto || self.proto == 0 || other.proto == 0)
            && self.sport.overlaps(&other.sport)
            && self.dport.overlaps(&other.dport)
    }

    /// Whether every packet that matches `other` matches this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let ports = |all: PortMatch, some: PortMatch| {
            all.mask & some.mask == all.mask && all.overlaps(&some)
        };
        self.src.covers(&other.src)
            && self.dst.covers(&other.dst)
            && (self.proto == 0 || self.proto == other.proto)
            && ports(self.sport, other.sport)
            && ports(self.dport, other.dport)
            && (self.ifindex == 0 || self.ifindex == other.ifindex)
    }

    /// Whether both are of IPv4; the two ends of a selector share their family.
    pub fn is_ipv4(&self) -> bool {
        self.src.address.is_ipv4()
    }
}

impl Selector {
    /// Its packets without the hosts, such as `proto udp dport 4789`.
    pub fn packets(&self) -> String {
        match Rest(self).to_string() {
            rest if rest.is_empty() => "any packet".into(),
            rest => rest.trim_start().into(),
        }
    }
}

impl fmt::Display for Selector {
    /// In the words of `ip xfrm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src {} dst {}{}", self.src, self.dst, Rest(self))
    }
}

/// A selector without its hosts; each word has a space before it.
struct Rest<'a>(&'a Selector);

impl fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selector = self.0;
        match selector.proto {
            0 => {}
            6 => f.write_str(" proto tcp")?,
            17 => f.write_str(" proto udp")?,
            IPPROTO_ICMP => f.write_str(" proto icmp")?,
            IPPROTO_ICMPV6 => f.write_str(" proto ipv6-icmp")?,
            proto => write!(f, " proto {proto}")?,
        }
        // ICMP has its type and code in their place.
        let words = match selector.proto {
            IPPROTO_ICMP | IPPROTO_ICMPV6 => ["type", "code"],
            _ => ["sport", "dport"],
        };
        for (word, ports) in words.into_iter().zip([selector.sport, selector.dport]) {
            match ports.mask {
                0 => {}
                0xffff => write!(f, " {word} {}", ports.port)?,
                mask => write!(f, " {word} {}/{mask:#x}", ports.port)?,
            }
        }
        if selector.ifindex != 0 {
            write!(f, " dev index {}", selector.ifindex)?;
        }
        Ok(())
    }
}

/// A mark and its mask, as `XFRMA_MARK`; 0/0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The value.
    pub value: u32,
    /// The bits of the value that count.
    pub mask: u32,
}

impl Mark {
    /// No mark: any packet.
    pub const NONE: Self = Self { value: 0, mask: 0 };

    /// Whether looking an SA up under this mark may find one that has `other`
    /// (`__xfrm_state_lookup`, `xfrm_state_find`): an SA without a mark is found under every mark.
    pub fn finds(&self, other: Self) -> bool {
        self.value & self.mask & other.mask == other.value
    }

    /// Whether there is no mark.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, length: u8) -> Prefix {
        Prefix { address: text.parse().unwrap(), length }
    }

    #[test]
    fn prefixes_overlap_where_the_shorter_one_covers_the_longer() {
        assert!(prefix("192.0.2.0", 24).overlaps(&prefix("192.0.2.7", 32)));
        assert!(prefix("192.0.2.7", 32).overlaps(&prefix("0.0.0.0", 0)));
        assert!(!prefix("192.0.2.0", 24).overlaps(&prefix("192.0.3.0", 24)));
        assert!(!prefix("0.0.0.0", 0).overlaps(&prefix("::", 0)));
        assert!(prefix("2001:db8::", 32).overlaps(&prefix("2001:db8::1", 128)));
        assert!(!prefix("2001:db8::2", 128).overlaps(&prefix("2001:db8::1", 128)));
    }

    #[test]
    fn covering_has_a_direction() {
        assert!(prefix("192.0.2.0", 24).covers(&prefix("192.0.2.7", 32)));
        assert!(!prefix("192.0.2.7", 32).covers(&prefix("192.0.2.0", 24)));
    }

    #[test]
    fn selectors_overlap_by_protocol_and_port() {
        let hosts = Selector::hosts("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let vxlan = hosts.to_port(17, 4789);
        assert!(vxlan.overlaps(&hosts));
        assert!(!vxlan.overlaps(&hosts.to_port(17, 4790)));
        assert!(!vxlan.overlaps(&hosts.to_port(6, 4789)));
        assert!(PortMatch { port: 4784, mask: 0xfff0 }.overlaps(&PortMatch::exactly(4789)));
    }

    #[test]
    fn any_host_to_a_port_covers_two_hosts_to_that_port() {
        let hosts = Selector::hosts("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let any = Prefix::any("0.0.0.0".parse().unwrap());
        let all = Selector::between(any, any).to_port(17, 4789);
        assert!(all.covers(&hosts.to_port(17, 4789)));
        assert!(!all.covers(&hosts));
        assert!(!hosts.to_port(17, 4789).covers(&all));
    }

    #[test]
    fn a_selector_reads_as_in_ip_xfrm() {
        let hosts = Selector::hosts("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!(
            hosts.to_port(17, 4789).to_string(),
            "src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 4789"
        );
    }
}
