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

/// The UDP header before ESP (RFC 3948).
const ENCAP: Part = part("UDP header around ESP", 8);

/// The packets whose size is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    /// An address of the underlay's family.
    pub address: IpAddr,
    /// Whether ESP is in UDP.
    pub encap: bool,
    /// The headers before an inner packet.
    pub tunnel: &'a [Part],
}

impl Headers<'_> {
    /// The parts before the SPI, from the outside in.
    fn outer(&self) -> Vec<Part> {
        let ip = match self.address {
            IpAddr::V4(_) => part("IPv4 header", 20),
            IpAddr::V6(_) => part("IPv6 header", 40),
        };
        [Some(ip), self.encap.then_some(ENCAP)].into_iter().flatten().collect()
    }
}

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

/// The largest inner packet that gives no packet above `mtu` on the underlay, with these headers
/// around it.
pub fn fit(mtu: u32, headers: &Headers<'_>) -> Fit {
    let outer = headers.outer();
    // The length field counts the header in IPv4 and not in IPv6, without jumbograms.
    let longest = if headers.address.is_ipv4() { 65535 } else { 65535 + 40 };
    let underlay = mtu.min(longest);
    let fixed = bytes(&outer) + bytes(&ESP_BEFORE) + bytes(&ESP_BEHIND);
    let room = underlay.saturating_sub(fixed);
    // The multiple of 4 includes the end of the payload: pad length and next header.
    let trailer = ESP_BEHIND[0].bytes + ESP_BEHIND[1].bytes;
    let rest = (room + trailer) % ALIGNMENT;
    let mut parts = outer;
    parts.extend(ESP_BEFORE);
    parts.push(part("rest of a multiple of 4", rest));
    parts.extend(ESP_BEHIND);
    parts.extend(headers.tunnel);
    let inner = underlay.checked_sub(bytes(&parts)).filter(|inner| *inner > 0);
    Fit { underlay, parts, inner }
}

/// The smallest MTU below at which an inner packet of this length fits, if there is one.
pub fn needed(inner: u32, headers: &Headers<'_>) -> Option<u32> {
    let payload = inner.checked_add(bytes(headers.tunnel))?;
    // The multiple of 4 includes pad length and next header.
    let encrypted = payload.checked_add(2)?.checked_next_multiple_of(ALIGNMENT)?;
    let around = bytes(&headers.outer()) + bytes(&ESP_BEFORE) + ESP_BEHIND[2].bytes;
    let needed = encrypted.checked_add(around)?;
    fit(needed, headers).inner.filter(|fits| *fits >= inner).map(|_| needed)
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

    fn plain(address: IpAddr, tunnel: &[Part]) -> Headers<'_> {
        Headers { address, encap: false, tunnel }
    }

    fn in_udp(address: IpAddr, tunnel: &[Part]) -> Headers<'_> {
        Headers { address, encap: true, tunnel }
    }

    #[test]
    fn vxlan_carries_1416_bytes_over_ipv4_and_1396_over_ipv6_at_1500() {
        assert_eq!(fit(1500, &plain(V4, &VXLAN)).inner, Some(1416));
        assert_eq!(fit(1500, &plain(V6, &VXLAN)).inner, Some(1396));
        assert_eq!(fit(9000, &plain(V4, &GENEVE)).inner, Some(8916));
    }

    #[test]
    fn udp_around_esp_takes_8_bytes() {
        assert_eq!(fit(1500, &in_udp(V4, &VXLAN)).inner, Some(1408));
        assert_eq!(fit(1500, &in_udp(V6, &VXLAN)).inner, Some(1388));
        assert_eq!(needed(1408, &in_udp(V4, &VXLAN)), Some(1500));
    }

    /// Field by field, as RFC 4303 draws a packet, and by trying every length.
    #[test]
    fn no_longer_packet_fits_and_this_one_does() {
        let length = |outer: u32, inner: u32| {
            let payload = 8 + 8 + 14 + inner;
            let padding =
                (0..4).find(|padding: &u32| (payload + padding + 2).is_multiple_of(4)).unwrap();
            outer + 4 + 4 + 8 + payload + padding + 1 + 1 + 16
        };
        for (headers, outer, longest) in [
            (plain(V4, &VXLAN), 20, 65535),
            (plain(V6, &VXLAN), 40, 65575),
            (in_udp(V4, &VXLAN), 28, 65535),
            (in_udp(V6, &VXLAN), 48, 65575),
        ] {
            let mut tried = (1..70_000).peekable();
            let mut best = None;
            for mtu in (0..3000).chain(65_000..66_000) {
                while let Some(inner) = tried.next_if(|i| length(outer, *i) <= mtu.min(longest)) {
                    best = Some(inner);
                }
                let fit = fit(mtu, &headers);
                assert_eq!(fit.inner, best, "{mtu} with outer headers of {outer}");
                if let Some(inner) = fit.inner {
                    let parts: u32 = fit.parts.iter().map(|part| part.bytes).sum();
                    assert_eq!(parts + inner, fit.underlay);
                }
            }
        }
    }

    #[test]
    fn what_is_needed_is_the_smallest_mtu_that_fits() {
        assert_eq!(needed(1500, &plain(V4, &VXLAN)), Some(1584));
        assert_eq!(needed(1500, &plain(V6, &VXLAN)), Some(1604));
        for headers in [
            plain(V4, &VXLAN),
            plain(V6, &VXLAN),
            plain(V4, &[]),
            plain(V6, &[]),
            in_udp(V4, &VXLAN),
            in_udp(V6, &[]),
        ] {
            for inner in (1..3000).chain(65_300..65_600) {
                let fits = |mtu| fit(mtu, &headers).inner >= Some(inner);
                match needed(inner, &headers) {
                    Some(mtu) => assert!(fits(mtu) && !fits(mtu - 1), "{inner} in {mtu}"),
                    None => assert!(!fits(u32::MAX), "{inner}"),
                }
            }
        }
        assert_eq!(needed(u32::MAX, &plain(V4, &VXLAN)), None);
    }

    #[test]
    fn absurd_numbers_have_an_answer() {
        assert_eq!(fit(0, &plain(V4, &VXLAN)).inner, None);
        assert_eq!(fit(84, &plain(V4, &VXLAN)).inner, None);
        assert_eq!(fit(88, &plain(V4, &VXLAN)).inner, Some(4));
        assert_eq!(fit(u32::MAX, &plain(V4, &VXLAN)), fit(65535, &plain(V4, &VXLAN)));
        assert_eq!(fit(u32::MAX, &plain(V6, &[])), fit(65575, &plain(V6, &[])));
    }
}
