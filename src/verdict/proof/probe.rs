//! Probes: packets of the mesh's kind with a marker that nobody else sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    config::{Config, Exception, Protocol, Traffic},
    model::Prefix,
};

/// The first half of every marker of a run, by which all bytes are searched.
pub type RunMark = [u8; 16];
/// The second half, which tells the probe.
pub type ProbeMark = [u8; 16];

/// How a probe is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// A datagram to a UDP port.
    Datagram(u16),
    /// An attempt to connect to a TCP port. Its packets have no room for a marker.
    Connect(u16),
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How it is sent.
    pub sending: Sending,
    /// The datagram's content; empty for a connection.
    pub payload: Vec<u8>,
}

impl Probe {
    /// The bytes of ESP around it, from the SPI to the end: an IV of 8 bytes and an ICV of 16, as all
    /// ciphers of the file have, and padding to a multiple of 4 (RFC 4303). `None` for a connection.
    pub fn esp_length(&self) -> Option<usize> {
        match self.sending {
            Sending::Datagram(_) => Some(esp_length(8 + self.payload.len())),
            Sending::Connect(_) => None,
        }
    }
}

fn esp_length(content: usize) -> usize {
    8 + 8 + (content + 2).next_multiple_of(4) + 16
}

/// Random numbers for a probe.
#[derive(Debug, Clone, Copy)]
pub struct Randomness {
    /// The run's.
    pub run: RunMark,
    /// The probe's.
    pub probe: ProbeMark,
    /// A VNI that no tunnel of the peer is likely to have; its lower 24 bits count.
    pub vni: u32,
}

/// The number of lengths that probes may have.
const LENGTHS: usize = 64;
/// The Ethernet type for local experiments (IEEE 802, 802.1 Local Experimental Ethertype 1).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A probe of the mesh's kind. Probes with different numbers have different lengths, if the numbers
/// are less than 64 apart, so that other traffic is not taken for them.
pub fn probe(config: &Config, number: usize, random: &Randomness) -> Probe {
    let sending = match config.traffic {
        Traffic::Vxlan { port } | Traffic::Geneve { port } => Sending::Datagram(port),
        Traffic::All | Traffic::Networks => Sending::Datagram(free_port(config)),
        Traffic::Port { protocol, ports } => {
            let ports: Vec<u16> = ports.iter().collect();
            let port = ports.get(number % ports.len().max(1)).copied().unwrap_or_default();
            match protocol {
                Protocol::Tcp => Sending::Connect(port),
                Protocol::Udp => Sending::Datagram(port),
            }
        }
    };
    let mut payload = match (sending, config.traffic) {
        (Sending::Connect(_), _) => return Probe { sending, payload: Vec::new() },
        (Sending::Datagram(_), Traffic::Vxlan { .. }) => tunnelled([8, 0, 0, 0], random),
        (Sending::Datagram(_), Traffic::Geneve { .. }) => tunnelled([0, 0, 0x65, 0x58], random),
        (Sending::Datagram(_), Traffic::All | Traffic::Port { .. } | Traffic::Networks) => {
            Vec::new()
        }
    };
    payload.extend(random.run);
    payload.extend(random.probe);
    payload.resize(payload.len() + number % LENGTHS * 4, 0);
    Probe { sending, payload }
}

/// The header of a tunnel with the VNI, and the inner Ethernet header of a frame that means nothing
/// to any host, between addresses that nobody has.
fn tunnelled(first: [u8; 4], random: &Randomness) -> Vec<u8> {
    let [_, a, b, c] = random.vni.to_be_bytes();
    let mut header = first.to_vec();
    header.extend([a, b, c, 0]);
    header.extend([2, a, b, c, 0, 1]);
    header.extend([2, a, b, c, 0, 2]);
    header.extend(EXPERIMENT);
    header
}

/// A datagram that the kind does not cover, which shows that a capture sees packets to a peer; `None`
/// where everything is covered.
pub fn control(config: &Config, random: &Randomness) -> Option<Probe> {
    if config.traffic == Traffic::All {
        return None;
    }
    // Discard, and other ports of old at which hardly any host listens.
    let taken = |port: &u16| {
        let encap = config.esp.encap.map(|encap| encap.port);
        config.traffic.has_udp_port(*port) || encap == Some(*port)
    };
    let port = [9, 19, 13, 17].into_iter().find(|port| !taken(port))?;
    let payload = [random.run, random.probe].concat();
    Some(Probe { sending: Sending::Datagram(port), payload })
}

/// A high UDP port that no exception lets pass, and at which no host takes ESP.
fn free_port(config: &Config) -> u16 {
    let is_taken = |number: u16| {
        let excepted = config.exceptions.iter().any(|exception| match exception {
            Exception::Port { protocol: Protocol::Udp, port, .. } => *port == number,
            Exception::Port { protocol: Protocol::Tcp, .. } | Exception::Echo => false,
        });
        excepted || config.esp.encap.is_some_and(|encap| encap.port == number)
    };
    (1..=u16::MAX - 1).rev().find(|port| !is_taken(*port)).unwrap_or(u16::MAX)
}

/// Addresses for documentation (RFC 5737, RFC 3849) that no peer has, for a packet that has to be
/// blocked: no host of the Internet answers there. `random` chooses the host. A net in which peers
/// are is asked last, as hosts that are no peers may be in it.
pub fn strangers(local: IpAddr, used: &[IpAddr], random: u32) -> Vec<IpAddr> {
    let nets: Vec<(IpAddr, u8)> = match local {
        IpAddr::V4(_) => [[198, 51, 100, 0], [203, 0, 113, 0], [192, 0, 2, 0]]
            .map(|net| (IpAddr::from(Ipv4Addr::from(net)), 24))
            .to_vec(),
        IpAddr::V6(_) => [0xffff, 0]
            .map(|low| (IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, low, 0, 0, 0, 0, 0)), 64))
            .to_vec(),
    };
    let is_used = |net: &(IpAddr, u8)| {
        let net = Prefix { address: net.0, length: net.1 };
        used.iter().any(|address| net.covers(&Prefix::host(*address)))
    };
    let (last, first): (Vec<_>, Vec<_>) = nets.into_iter().partition(is_used);
    let hosts = first.into_iter().chain(last).filter_map(|(net, _)| {
        (0..254_u32).map(|step| host(net, random.wrapping_add(step))).find(|at| !used.contains(at))
    });
    hosts.collect()
}

/// A host of a net: the last byte of IPv4 from 1 to 254, the last 32 bits of IPv6.
fn host(net: IpAddr, random: u32) -> IpAddr {
    match net {
        IpAddr::V4(net) => Ipv4Addr::from(u32::from(net) + 1 + random % 254).into(),
        IpAddr::V6(net) => Ipv6Addr::from(u128::from(net) + 0x1_0000 + u128::from(random)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_esp_is_that_of_the_kernel() {
        // As on the wire, of datagrams with 32 and 36 bytes [6.12].
        assert_eq!(esp_length(8 + 32), 76);
        assert_eq!(esp_length(8 + 36), 80);
    }

    #[test]
    fn strangers_are_no_peers_and_nets_without_peers_come_first() {
        let local = "192.0.2.1".parse().unwrap();
        let used: Vec<IpAddr> = (1..=254).map(|n| Ipv4Addr::new(203, 0, 113, n).into()).collect();
        let used = [&used[..], &[local]].concat();
        for random in [0, 7, 253, u32::MAX] {
            let found = strangers(local, &used, random);
            assert_eq!(found.len(), 2, "no address of a full net: {found:?}");
            assert!(found.iter().all(|address| !used.contains(address)), "{found:?}");
            assert!(found[0].to_string().starts_with("198.51.100."), "{found:?}");
        }
        assert_eq!(strangers("2001:db8::1".parse().unwrap(), &[], u32::MAX).len(), 2);
    }
}
