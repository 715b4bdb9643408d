//! A packet in words, such as `udp 192.0.2.1 > 192.0.2.2:4789`.
#![forbid(unsafe_code)]

use std::{fmt, net::IpAddr, str::FromStr};

use crate::model::{
    IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, PortMatch, Selector, Spi,
    number,
};

/// A packet of two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its addresses, protocol and ports; ICMP's type and code have their place.
    pub selector: Selector,
    /// The mark that its sender has given it, or that it arrives with.
    pub mark: u32,
    /// The SPI of the SA under which it arrives; `None` is in the clear.
    pub under: Option<Spi>,
}

/// A text that is not a packet, and the correction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; a packet is written like: {EXAMPLE}")]
pub struct PacketError(String);

const EXAMPLE: &str = "'udp 192.0.2.1 > 192.0.2.2:4789', 'tcp [2001:db8::1]:443 > 2001:db8::2', \
                       'icmp 192.0.2.1 > 192.0.2.2 type 8', with 'mark 0x20000' or 'under 0x84001002' behind it";

/// Protocols with a name here.
const NAMES: [(&str, u8); 5] = [
    ("udp", IPPROTO_UDP),
    ("tcp", IPPROTO_TCP),
    ("icmp", IPPROTO_ICMP),
    ("icmp6", IPPROTO_ICMPV6),
    ("esp", IPPROTO_ESP),
];

/// Bytes of a text: more than any packet takes.
const LONGEST: usize = 200;

/// The types of an echo request.
const ECHO: u16 = 8;
const ECHO_V6: u16 = 128;

fn refused<T>(text: impl Into<String>) -> Result<T, PacketError> {
    Err(PacketError(text.into()))
}

impl FromStr for Packet {
    type Err = PacketError;

    fn from_str(text: &str) -> Result<Self, PacketError> {
        if text.len() > LONGEST {
            return refused(format!("the packet is longer than {LONGEST} bytes"));
        }
        let spaced = text.replace('>', " > ");
        let mut words = spaced.split_whitespace();
        let Some(protocol) = words.next() else { return refused("the packet is empty") };
        let proto = protocol_of(protocol)?;
        let (Some(src), Some(">"), Some(dst)) = (words.next(), words.next(), words.next()) else {
            return refused("it has no source, > and destination behind the protocol");
        };
        let ((src, sport), (dst, dport)) = (end(src)?, end(dst)?);
        if src.is_ipv4() != dst.is_ipv4() {
            return refused("its addresses are of two families");
        }
        let mut packet = Self { selector: Selector::hosts(src, dst), mark: 0, under: None };
        let mut kind = None;
        while let Some(word) = words.next() {
            let Some(value) = words.next() else {
                return refused(format!("{word:?} has no value"));
            };
            match word {
                "mark" => packet.mark = value_of(word, value, u32::MAX)?,
                "under" => packet.under = Some(Spi::from_raw(value_of(word, value, u32::MAX)?)),
                "type" => kind = Some(value_of(word, value, 255)? as u16),
                _ => return refused(format!("{word:?} is none of type, mark and under")),
            }
        }
        packet.selector.proto = proto;
        set_ports(&mut packet.selector, sport, dport, kind)?;
        Ok(packet)
    }
}

fn protocol_of(word: &str) -> Result<u8, PacketError> {
    match NAMES.iter().find(|(name, _)| *name == word) {
        Some((_, proto)) => Ok(*proto),
        None => match word.parse() {
            Ok(proto) if proto != 0 => Ok(proto),
            _ => {
                refused(format!("{word:?} is no protocol: udp, tcp, icmp, icmp6, esp or a number"))
            }
        },
    }
}

fn value_of(word: &str, value: &str, most: u32) -> Result<u32, PacketError> {
    match number(value).filter(|number| *number <= most) {
        Some(number) => Ok(number),
        None => refused(format!("{word} {value:?} is no number up to {most}")),
    }
}

/// An address, and a port if there is one. An IPv6 address with a port has brackets.
fn end(text: &str) -> Result<(IpAddr, Option<u16>), PacketError> {
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Ok((address, None));
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(end) if end.port() != 0 => Ok((end.ip(), Some(end.port()))),
        Ok(_) => refused(format!("{text:?} has port 0")),
        Err(_) => refused(format!("{text:?} is no address, nor one with a port")),
    }
}

fn set_ports(
    selector: &mut Selector,
    sport: Option<u16>,
    dport: Option<u16>,
    kind: Option<u16>,
) -> Result<(), PacketError> {
    let v4 = selector.is_ipv4();
    match (selector.proto, kind) {
        (IPPROTO_ICMP, _) if !v4 => refused("icmp is of IPv4; write icmp6"),
        (IPPROTO_ICMPV6, _) if v4 => refused("icmp6 is of IPv6; write icmp"),
        (IPPROTO_ICMP | IPPROTO_ICMPV6, kind) if sport.or(dport).is_none() => {
            let echo = if v4 { ECHO } else { ECHO_V6 };
            selector.sport = PortMatch::exactly(kind.unwrap_or(echo));
            selector.dport = PortMatch::exactly(0);
            Ok(())
        }
        (_, Some(_)) => refused("only icmp and icmp6 have a type"),
        (IPPROTO_UDP | IPPROTO_TCP, None) if sport.or(dport).is_none() => {
            refused("it has no port, behind the destination or behind the source")
        }
        (IPPROTO_UDP | IPPROTO_TCP, None) => {
            selector.sport = sport.map_or(PortMatch::ANY, PortMatch::exactly);
            selector.dport = dport.map_or(PortMatch::ANY, PortMatch::exactly);
            Ok(())
        }
        (_, None) if sport.or(dport).is_some() => refused("only udp and tcp have ports"),
        (_, None) => Ok(()),
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Selector { src, dst, proto, sport, dport, .. } = self.selector;
        match NAMES.iter().find(|(_, number)| *number == proto) {
            Some((name, _)) => f.write_str(name)?,
            None => write!(f, "{proto}")?,
        }
        let is_icmp = matches!(proto, IPPROTO_ICMP | IPPROTO_ICMPV6);
        let end = |address: IpAddr, port: PortMatch| match (address, port.mask) {
            (address, 0) => address.to_string(),
            (address, _) if is_icmp => address.to_string(),
            (address, _) => std::net::SocketAddr::new(address, port.port).to_string(),
        };
        write!(f, " {} > {}", end(src.address, sport), end(dst.address, dport))?;
        if is_icmp {
            write!(f, " type {}", sport.port)?;
        }
        if self.mark != 0 {
            write!(f, " mark {:#x}", self.mark)?;
        }
        self.under.map_or(Ok(()), |spi| write!(f, " under {spi}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_written_as_they_are_read() {
        for text in [
            "udp 192.0.2.1 > 192.0.2.2:4789",
            "udp 192.0.2.1:49152 > 192.0.2.2:4789",
            "tcp [2001:db8::1]:443 > 2001:db8::2",
            "icmp 192.0.2.1 > 192.0.2.2 type 8",
            "icmp6 2001:db8::1 > 2001:db8::2 type 135",
            "esp 192.0.2.1 > 192.0.2.2",
            "47 192.0.2.1 > 192.0.2.2",
            "udp 192.0.2.1 > 192.0.2.2:4789 mark 0x20000 under 0x84001002",
        ] {
            assert_eq!(text.parse::<Packet>().unwrap().to_string(), text);
        }
        let packet: Packet = "icmp 192.0.2.1>192.0.2.2".parse().unwrap();
        assert_eq!(packet.to_string(), "icmp 192.0.2.1 > 192.0.2.2 type 8");
    }

    #[test]
    fn what_is_not_a_packet_is_refused_with_an_example() {
        for (text, reason) in [
            ("", "empty"),
            (&"x".repeat(201), "longer than 200"),
            ("udp", "no source"),
            ("udp 192.0.2.1 192.0.2.2:4789", "no source, >"),
            ("ipip 192.0.2.1 > 192.0.2.2", "no protocol"),
            ("0 192.0.2.1 > 192.0.2.2", "no protocol"),
            ("udp 192.0.2.1 > 192.0.2.2", "no port"),
            ("udp 192.0.2.1 > 192.0.2.2:0", "port 0"),
            ("udp 192.0.2.1 > b:4789", "no address"),
            ("udp 192.0.2.1 > 2001:db8::1", "two families"),
            ("icmp 2001:db8::1 > 2001:db8::2", "write icmp6"),
            ("udp 192.0.2.1 > 192.0.2.2:1 type 8", "only icmp"),
            ("esp 192.0.2.1 > 192.0.2.2:1", "only udp and tcp"),
            ("icmp 192.0.2.1:1 > 192.0.2.2", "only udp and tcp"),
            ("udp 192.0.2.1 > 192.0.2.2:1 mark", "no value"),
            ("udp 192.0.2.1 > 192.0.2.2:1 mark x", "no number"),
            ("udp 192.0.2.1 > 192.0.2.2:1 colour 1", "none of type"),
            ("udp 192.0.2.1 > \u{1b}[2J:1", "no address"),
        ] {
            let error = text.parse::<Packet>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("192.0.2.2:4789"), "{text}: {error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
