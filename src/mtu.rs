//! The largest inner packet that fits the underlay after ESP.
//!
//! ESP in transport mode, as every SA of a mesh has it: RFC 4303 with an AEAD
//! cipher of RFC 4106 or RFC 7634. For `plan` and for `meshsec mtu`.
#![forbid(unsafe_code)]

use std::net::IpAddr;

/// The smallest MTU that the kernel gives to an Ethernet device (`ETH_MIN_MTU`).
pub const SMALLEST: u32 = 68;
/// The largest MTU that it gives to a VXLAN device (`IP_MAX_MTU`).
pub const LARGEST: u32 = 65535;
/// Below this the kernel takes IPv6 off a device (`IPV6_MIN_MTU`).
pub const IPV6_SMALLEST: u32 = 1280;

/// Payload and trailer together fill a multiple of this (RFC 4303, section 2.4).
const ALIGNMENT: u32 = 4;

/// A part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u32,
}

const fn part(name: &'static str, bytes: u32) -> Part {
    Part { name, bytes }
}

/// The parts before ESP's payload.
const ESP_BEFORE: [Part; 3] = [part("SPI", 4), part("sequence number", 4), part("IV", 8)];
/// The parts behind ESP's padding. All ciphers of the file have an ICV of this length.
const ESP_BEHIND: [Part; 3] = [part("pad length", 1), part("next header", 1), part("ICV", 16)];
/// The headers of a VXLAN tunnel before an inner packet. The Ethernet header has no VLAN tag.
pub const VXLAN: [Part; 3] =
    [part("UDP header", 8), part("VXLAN header", 8), part("inner Ethernet header", 14)];
/// The same for Geneve (RFC 8926), without options.
pub const GENEVE: [Part; 3] = [
    part("UDP header", 8),
    part("Geneve header, no options", 8),
    part("inner Ethernet header", 14),
];

/// The arithmetic for one underlay, part by part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// The underlay's MTU, or the longest IP packet where that is shorter.
    pub underlay: u32,
    /// The parts other than the inner packet, from the outside in.
    pub parts: Vec<Part>,
    /// The bytes left for the inner packet; `None` where the other parts take all of them.
    pub inner: Option<u32>,
}

/// The largest inner packet that gives no packet above `mtu` on the underlay, behind an IP header
/// of the family of `address` and with `tunnel` around it.
pub fn fit(mtu: u32, address: IpAddr, tunnel: &[Part]) -> Fit {
    let ip = ip_header(address);
    // The length field counts the header in IPv4 and not in IPv6, without jumbograms.
    let longest = if address.is_ipv4() { 65535 } else { 65535 + ip.bytes };
    let underlay = mtu.min(longest);
    let fixed = bytes(&[ip]) + bytes(&ESP_BEFORE) + bytes(&ESP_BEHIND);
    let room = underlay.saturating_sub(fixed);
    // The multiple of 4 includes the end of the payload: pad length and next header.
    let trailer = ESP_BEHIND[0].bytes + ESP_BEHIND[1].bytes;
    let rest = (room + trailer) % ALIGNMENT;
    let mut parts = vec![ip];
    parts.extend(ESP_BEFORE);
    parts.push(part("rest of a multiple of 4", rest));
    parts.extend(ESP_BEHIND);
    parts.extend(tunnel);
    let inner = underlay.checked_sub(bytes(&parts)).filter(|inner| *inner > 0);
    Fit { underlay, parts, inner }
}

/// The smallest MTU below at which an inner packet of this length fits, if there is one.
pub fn needed(inner: u32, address: IpAddr, tunnel: &[Part]) -> Option<u32> {
    let payload = inner.checked_add(bytes(tunnel))?;
    // The multiple of 4 includes pad length and next header.
    let encrypted = payload.checked_add(2)?.checked_next_multiple_of(ALIGNMENT)?;
    let around = ip_header(address).bytes + bytes(&ESP_BEFORE) + ESP_BEHIND[2].bytes;
    let needed = encrypted.checked_add(around)?;
    fit(needed, address, tunnel).inner.filter(|fits| *fits >= inner).map(|_| needed)
}

fn ip_header(address: IpAddr) -> Part {
    if address.is_ipv4() { part("IPv4 header", 20) } else { part("IPv6 header", 40) }
}

fn bytes(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.bytes).sum()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

    #[test]
    fn vxlan_carries_1416_bytes_over_ipv4_and_1396_over_ipv6_at_1500() {
        assert_eq!(fit(1500, V4, &VXLAN).inner, Some(1416));
        assert_eq!(fit(1500, V6, &VXLAN).inner, Some(1396));
        assert_eq!(fit(9000, V4, &GENEVE).inner, Some(8916));
    }

    /// Field by field, as RFC 4303 draws a packet, and by trying every length.
    #[test]
    fn no_longer_packet_fits_and_this_one_does() {
        let length = |ip: u32, inner: u32| {
            let payload = 8 + 8 + 14 + inner;
            let padding =
                (0..4).find(|padding: &u32| (payload + padding + 2).is_multiple_of(4)).unwrap();
            ip + 4 + 4 + 8 + payload + padding + 1 + 1 + 16
        };
        for (address, ip, longest) in [(V4, 20, 65535), (V6, 40, 65575)] {
            let mut tried = (1..70_000).peekable();
            let mut best = None;
            for mtu in (0..3000).chain(65_000..66_000) {
                while let Some(inner) = tried.next_if(|i| length(ip, *i) <= mtu.min(longest)) {
                    best = Some(inner);
                }
                let fit = fit(mtu, address, &VXLAN);
                assert_eq!(fit.inner, best, "{mtu} with an IP header of {ip}");
                if let Some(inner) = fit.inner {
                    let parts: u32 = fit.parts.iter().map(|part| part.bytes).sum();
                    assert_eq!(parts + inner, fit.underlay);
                }
            }
        }
    }

    #[test]
    fn what_is_needed_is_the_smallest_mtu_that_fits() {
        assert_eq!(needed(1500, V4, &VXLAN), Some(1584));
        assert_eq!(needed(1500, V6, &VXLAN), Some(1604));
        for (address, tunnel) in [(V4, &VXLAN[..]), (V6, &VXLAN), (V4, &[]), (V6, &[])] {
            for inner in (1..3000).chain(65_300..65_600) {
                let fits = |mtu| fit(mtu, address, tunnel).inner >= Some(inner);
                match needed(inner, address, tunnel) {
                    Some(mtu) => assert!(fits(mtu) && !fits(mtu - 1), "{inner} in {mtu}"),
                    None => assert!(!fits(u32::MAX), "{inner}"),
                }
            }
        }
        assert_eq!(needed(u32::MAX, V4, &VXLAN), None);
    }

    #[test]
    fn absurd_numbers_have_an_answer() {
        assert_eq!(fit(0, V4, &VXLAN).inner, None);
        assert_eq!(fit(84, V4, &VXLAN).inner, None);
        assert_eq!(fit(88, V4, &VXLAN).inner, Some(4));
        assert_eq!(fit(u32::MAX, V4, &VXLAN), fit(65535, V4, &VXLAN));
        assert_eq!(fit(u32::MAX, V6, &[]), fit(65575, V6, &[]));
    }
}
