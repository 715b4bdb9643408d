//! Packets as a device carries them, behind the header of the link: IP, and its content.
//!
//! They come from anybody, and may be cut or garbled anywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Encap, IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, PortMatch,
    Selector, Spi,
};

/// Extension headers of IPv6 (RFC 8200) that may stand before the content.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Protocols with a source and a destination port in their first four bytes, beside TCP and UDP:
/// DCCP, SCTP and UDP-Lite.
const WITH_PORTS: [u8; 3] = [33, 132, 136];

/// A packet of IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its source.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// The protocol of its content.
    pub protocol: u8,
    /// The bytes behind all headers of IP, as far as they are there.
    pub content: &'a [u8],
    /// Whether this is a fragment that does not begin with the content's header.
    pub is_later_fragment: bool,
}

/// The beginning of a packet of ESP (RFC 4303).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspHeader {
    /// The SPI.
    pub spi: Spi,
    /// The lower half of the sequence number.
    pub sequence: u32,
    /// The bytes from the SPI to the end of the packet.
    pub length: usize,
}

impl<'a> Packet<'a> {
    /// Parses one; `None` for what is not IP, or is shorter than its header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::v4(bytes),
            6 => Self::v6(bytes),
            _ => None,
        }
    }

    fn v4(bytes: &'a [u8]) -> Option<Self> {
        let header = usize::from(bytes[0] & 0xf) * 4;
        let (fixed, _) = bytes.split_first_chunk::<20>()?;
        // A packet that the device is to cut up may have no length yet.
        let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        let end = if length == 0 { bytes.len() } else { length.min(bytes.len()) };
        let content = bytes.get(header.max(20)..end)?;
        let offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
        Some(Self {
            src: Ipv4Addr::from(*fixed[12..].first_chunk::<4>()?).into(),
            dst: Ipv4Addr::from(*fixed[16..].first_chunk::<4>()?).into(),
            protocol: fixed[9],
            content,
            is_later_fragment: offset != 0,
        })
    }

    fn v6(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<40>()?;
        let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let rest = if length == 0 { rest } else { &rest[..length.min(rest.len())] };
        let mut packet = Self {
            src: Ipv6Addr::from(*fixed[8..].first_chunk::<16>()?).into(),
            dst: Ipv6Addr::from(*fixed[24..].first_chunk::<16>()?).into(),
            protocol: fixed[6],
            content: rest,
            is_later_fragment: false,
        };
        while let Some((next, length)) = packet.extension() {
            let Some(behind) = packet.content.get(length..) else { break };
            (packet.protocol, packet.content) = (next, behind);
            if packet.is_later_fragment {
                break;
            }
        }
        Some(packet)
    }

    /// The protocol behind an extension header of IPv6, and the header's length.
    fn extension(&mut self) -> Option<(u8, usize)> {
        let next = *self.content.first()?;
        match self.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                Some((next, (usize::from(*self.content.get(1)?) + 1) * 8))
            }
            FRAGMENT => {
                let offset = self.content.get(2..4)?;
                self.is_later_fragment = u16::from_be_bytes([offset[0], offset[1]]) >> 3 != 0;
                Some((next, 8))
            }
            _ => None,
        }
    }

    /// ESP by its own protocol.
    pub fn esp(&self) -> Option<EspHeader> {
        if self.protocol != IPPROTO_ESP || self.is_later_fragment {
            return None;
        }
        EspHeader::parse(self.content)
    }

    /// ESP in UDP, if its ports are those of ESP in UDP: the packet does not tell. Four bytes of
    /// zeros in place of the SPI are IKE.
    pub fn esp_in_udp(&self) -> Option<(Encap, EspHeader)> {
        if self.protocol != IPPROTO_UDP || self.is_later_fragment {
            return None;
        }
        let (sport, dport) = self.ports()?;
        let esp = EspHeader::parse(self.content.get(8..)?)?;
        (esp.spi.raw() != 0).then_some((Encap { sport, dport }, esp))
    }

    /// The packet as policies see it. Of ICMP, type and code have the places of the ports.
    pub fn flow(&self) -> Selector {
        let hosts = Selector { proto: self.protocol, ..Selector::hosts(self.src, self.dst) };
        match self.ports() {
            Some((sport, dport)) => Selector {
                sport: PortMatch::exactly(sport),
                dport: PortMatch::exactly(dport),
                ..hosts
            },
            None => hosts,
        }
    }

    fn ports(&self) -> Option<(u16, u16)> {
        if self.is_later_fragment {
            return None;
        }
        match self.protocol {
            IPPROTO_ICMP | IPPROTO_ICMPV6 => {
                let [kind, code] = *self.content.first_chunk::<2>()?;
                Some((kind.into(), code.into()))
            }
            protocol if is_with_ports(protocol) => {
                let [a, b, c, d] = *self.content.first_chunk::<4>()?;
                Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            _ => None,
        }
    }
}

fn is_with_ports(protocol: u8) -> bool {
    [IPPROTO_TCP, IPPROTO_UDP].contains(&protocol) || WITH_PORTS.contains(&protocol)
}

impl EspHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [spi, sequence] = [0, 4].map(|at| bytes.get(at..)?.first_chunk::<4>().copied());
        Some(Self {
            spi: Spi::from_raw(u32::from_be_bytes(spi?)),
            sequence: u32::from_be_bytes(sequence?),
            length: bytes.len(),
        })
    }

    /// The bytes of SPI and sequence number, as they were on the wire.
    pub fn bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.spi.raw().to_be_bytes());
        bytes[4..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 packet from 192.0.2.1 to 192.0.2.2, padded as Ethernet does.
    fn v4(protocol: u8, content: &[u8]) -> Vec<u8> {
        let length = (20 + content.len()) as u16;
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        bytes.extend(content);
        bytes.resize(bytes.len().max(46), 0);
        bytes
    }

    fn v6(next: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, content.len() as u8, next, 64];
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend(content);
        bytes
    }

    const ESP: [u8; 12] = [0x84, 0, 0x10, 2, 0, 0, 0, 7, 1, 2, 3, 4];

    #[test]
    fn esp_is_read_without_the_padding_of_ethernet() {
        let bytes = v4(50, &ESP);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.dst, "192.0.2.2".parse::<IpAddr>().unwrap());
        let esp = packet.esp().unwrap();
        assert_eq!((esp.spi.raw(), esp.sequence, esp.length), (0x8400_1002, 7, 12));
        assert_eq!(esp.bytes(), ESP[..8]);
        assert_eq!(packet.esp_in_udp(), None);
    }

    #[test]
    fn esp_in_udp_is_behind_the_header_of_udp_and_ike_is_not_esp() {
        let udp = [&[0x11, 0x94, 0x11, 0x95, 0, 20, 0, 0], &ESP[..]].concat();
        let bytes = v6(17, &udp);
        let (ports, esp) = Packet::parse(&bytes).unwrap().esp_in_udp().unwrap();
        assert_eq!((ports.sport, ports.dport, esp.sequence), (4500, 4501, 7));
        let ike = [&udp[..8], &[0; 12]].concat();
        assert_eq!(Packet::parse(&v4(17, &ike)).unwrap().esp_in_udp(), None);
    }

    #[test]
    fn extension_headers_are_passed() {
        let content = [&[60, 0, 0, 0, 0, 0, 0, 0], &[50, 0, 0, 0, 0, 0, 0, 0], &ESP[..]].concat();
        assert!(Packet::parse(&v6(0, &content)).unwrap().esp().is_some());
        let first = [&[50, 0, 0, 1, 0, 0, 0, 0], &ESP[..]].concat();
        assert!(Packet::parse(&v6(44, &first)).unwrap().esp().is_some());
        let later = [&[50, 0, 1, 0, 0, 0, 0, 0], &ESP[..]].concat();
        assert!(Packet::parse(&v6(44, &later)).unwrap().esp().is_none(), "its bytes are any");
    }

    #[test]
    fn a_flow_has_the_ports_and_of_icmp_the_type() {
        let bytes = v4(6, &[0, 80, 0x10, 0, 0, 0, 0, 0]);
        let flow = Packet::parse(&bytes).unwrap().flow();
        assert_eq!((flow.sport.port, flow.dport.port), (80, 4096));
        let bytes = v4(1, &[3, 3, 0, 0]);
        assert!(Packet::parse(&bytes).unwrap().flow().is_icmp_error());
    }

    proptest! {
        #[test]
        fn no_packet_is_too_odd(mut bytes: Vec<u8>, v6: bool, cut: usize) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | *first & 0xf };
            }
            for bytes in [&bytes[..], &bytes[..cut % (bytes.len() + 1)]] {
                if let Some(packet) = Packet::parse(bytes) {
                    let _ = (packet.esp(), packet.esp_in_udp(), packet.flow());
                }
            }
        }

        #[test]
        fn a_cut_packet_is_read_or_refused(cut in 0..80_usize, which in 0..4_usize) {
            let udp = [&[0x11, 0x94, 0x11, 0x94, 0, 20, 0, 0], &ESP[..]].concat();
            let extended = [&[50, 0, 0, 0, 0, 0, 0, 0], &ESP[..]].concat();
            let whole = [v4(50, &ESP), v4(17, &udp), v6(17, &udp), v6(0, &extended)][which].clone();
            let packet = Packet::parse(&whole[..cut.min(whole.len())]);
            if let Some(packet) = packet {
                let _ = (packet.esp(), packet.esp_in_udp(), packet.flow());
            }
        }
    }
}
