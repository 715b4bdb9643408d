//! `networks` and `inside` of `[[peer]]`: the networks behind the hosts, of which no two overlap.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use crate::model::{Prefix, PrefixMap};

use super::{
    address,
    diagnostic::Source,
    mask,
    reader::{Findings, Section, Value},
    schema::{Field, INSIDE, NETWORKS},
    types::Traffic,
};

/// A network, and its place in a file.
pub(super) struct Placed<'s> {
    network: Prefix,
    source: &'s Source<'s>,
    span: Range<usize>,
    /// Tells the peers apart.
    peer: usize,
}

/// The networks of a peer and its addresses in them. None after an error.
type Read = Option<(BTreeSet<Prefix>, BTreeSet<IpAddr>)>;

/// Reads both keys of a peer, the `peer`-th. `traffic` is the traffic that the file protects, if that is
/// known.
pub(super) fn read<'s>(
    findings: &mut Findings<'s>,
    section: &Section<'_, '_>,
    (traffic, peer): (Option<Traffic>, usize),
    placed: &mut Vec<Placed<'s>>,
) -> Read {
    if traffic.is_some_and(|traffic| traffic != Traffic::Networks) {
        let given = [NETWORKS, INSIDE].into_iter().filter_map(|field| {
            let span = section.key_span(field.name)?;
            Some((field, span))
        });
        let given: Vec<(Field, Range<usize>)> = given.collect();
        for (field, span) in &given {
            let message = format!("{} goes with kind = \"networks\" in [traffic]", field.name);
            let hint = "leave it out, or write kind = \"networks\" in [traffic]";
            findings.wrong(span.clone(), message, hint);
        }
        return given.is_empty().then(Default::default);
    }
    let value = match traffic {
        Some(_) => section.require(findings, NETWORKS),
        None => section.get(NETWORKS.name),
    };
    let networks = match value {
        Some(value) => read_networks(findings, value, peer, placed),
        None => traffic.is_none().then(BTreeSet::new),
    };
    let inside = section
        .get(INSIDE.name)
        .map_or(Some(BTreeSet::new()), |value| read_inside(findings, value, networks.as_ref()));
    Some((networks?, inside?))
}

fn read_networks<'s>(
    findings: &mut Findings<'s>,
    value: &Value<'_>,
    peer: usize,
    placed: &mut Vec<Placed<'s>>,
) -> Option<BTreeSet<Prefix>> {
    let Some(array) = value.get_ref().as_array() else {
        findings.wrong_type(value, NETWORKS, "an array of networks");
        return None;
    };
    if array.is_empty() {
        findings.wrong(value.span(), "networks has no network".into(), NETWORKS.write);
        return None;
    }
    let mut networks = Some(BTreeSet::new());
    for value in array.iter() {
        let Some(network) = read_network(findings, value) else {
            networks = None;
            continue;
        };
        let (source, span) = (findings.source, value.span());
        placed.push(Placed { network, source, span, peer });
        networks.as_mut().map(|networks| networks.insert(network));
    }
    networks
}

fn read_network(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<Prefix> {
    let Some(text) = value.get_ref().as_str() else {
        findings.not_a(value, "a network", "a string", NETWORKS.write);
        return None;
    };
    match parse(text) {
        Ok(network) => Some(network),
        Err((is, hint)) => {
            findings.wrong(value.span(), format!("{} {is}", mask::quote(text)), hint);
            None
        }
    }
}

/// Addresses that no network of hosts has: their range, and its kind.
const UNSUITABLE: [(Prefix, &str); 10] = [
    (v4([0, 0, 0, 0], 8), "addresses of this host alone"),
    (v4([127, 0, 0, 0], 8), "loopback addresses"),
    (v4([169, 254, 0, 0], 16), "link-local addresses"),
    (v4([224, 0, 0, 0], 4), "multicast addresses"),
    (v4([255, 255, 255, 255], 32), "the broadcast address"),
    (v6(Ipv6Addr::UNSPECIFIED, 128), "the unspecified address"),
    (v6(Ipv6Addr::LOCALHOST, 128), "the loopback address"),
    (v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), "IPv4 addresses in IPv6 ones"),
    (v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local addresses"),
    (v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "multicast addresses"),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Prefix {
    Prefix { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
}

const fn v6(address: Ipv6Addr, length: u8) -> Prefix {
    Prefix { address: IpAddr::V6(address), length }
}

/// A network, or the problem of the text and its correction.
fn parse(text: &str) -> Result<Prefix, (String, String)> {
    let wrong = || ("is not a network".to_owned(), NETWORKS.write.to_owned());
    let Some((address, length)) = text.split_once('/') else {
        let address: IpAddr = text.parse().map_err(|_| wrong())?;
        let hint = format!("write \"{}\" for that address alone", Prefix::host(address));
        return Err(("has no length".into(), hint));
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = Prefix::host(address).length;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse::<u8>().ok().filter(|length| digits && *length <= most);
    let Some(length) = length else {
        return Err(("has no such length".into(), format!("write a length from 1 to {most}")));
    };
    let network = Prefix { address, length };
    if length == 0 {
        let is =
            "holds the hosts' own addresses too, and ESP packets would go into the tunnel again";
        return Err((is.into(), "write the networks behind the host, no default route".into()));
    }
    if network != network.network() {
        let hint = format!("write \"{}\"", network.network());
        return Err(("has bits behind its length".into(), hint));
    }
    let unsuitable = UNSUITABLE.into_iter().find(|(range, _)| network.overlaps(range));
    match unsuitable {
        Some((_, kind)) => Err((format!("holds {kind}"), NETWORKS.write.into())),
        None => Ok(network),
    }
}

/// One address, or one of each family.
fn read_inside(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    networks: Option<&BTreeSet<Prefix>>,
) -> Option<BTreeSet<IpAddr>> {
    let read: Vec<Option<IpAddr>> = match value.get_ref().as_array() {
        None => vec![read_address(findings, value, networks)],
        Some(array) => array.iter().map(|each| read_address(findings, each, networks)).collect(),
    };
    let addresses: Vec<IpAddr> = read.into_iter().collect::<Option<_>>()?;
    for is_ipv4 in [true, false] {
        let count = addresses.iter().filter(|address| address.is_ipv4() == is_ipv4).count();
        if count > 1 {
            let family = if is_ipv4 { "IPv4" } else { "IPv6" };
            let message = format!("inside has {count} addresses of {family}");
            findings.wrong(value.span(), message, "write one of each family");
            return None;
        }
    }
    if addresses.is_empty() {
        findings.wrong(value.span(), "inside has no address".into(), INSIDE.write);
        return None;
    }
    Some(addresses.into_iter().collect())
}

fn read_address(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    networks: Option<&BTreeSet<Prefix>>,
) -> Option<IpAddr> {
    let Some(text) = value.get_ref().as_str() else {
        findings.not_a(value, "inside", "an address, or an array of two", INSIDE.write);
        return None;
    };
    let address = address::parse_inside(findings, value, text)?;
    let here = Prefix::host(address);
    if networks.is_some_and(|networks| !networks.iter().any(|network| network.covers(&here))) {
        let message = format!("{address} is in none of this peer's networks");
        let hint = "write an address within networks: the others take in no other";
        findings.wrong(value.span(), message, hint);
        return None;
    }
    let around = networks.and_then(|all| all.iter().find(|network| network.covers(&here)));
    if let Some(kind) = around.and_then(|network| of_the_whole(*network, address)) {
        let message = format!("{address} is the {kind} of its network, and no host's");
        findings.wrong(value.span(), message, INSIDE.write);
        return None;
    }
    Some(address)
}

/// The addresses of a network that are of all its hosts (RFC 919, RFC 4291 section 2.6.1). In one of two
/// addresses or of one there are none (RFC 3021, RFC 6164).
fn of_the_whole(network: Prefix, address: IpAddr) -> Option<&'static str> {
    let has_none = Prefix::host(address).length - network.length < 2;
    match address {
        _ if has_none => None,
        IpAddr::V4(_) if address == network.last() => Some("broadcast address"),
        IpAddr::V4(_) if address == network.address => Some("first address"),
        IpAddr::V6(_) if address == network.address => Some("anycast address of the routers"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// An error at a place of one of several files.
pub(super) struct Overlap {
    /// The file's number.
    pub(super) file: usize,
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// Networks that overlap, and those that hold a host's own address. `addresses` are those of all hosts,
/// each with its place.
pub(super) fn overlaps<'s>(
    placed: &[Placed<'s>],
    addresses: impl Iterator<Item = (IpAddr, &'s Source<'s>, usize)>,
) -> Vec<Overlap> {
    let mut found: Vec<Overlap> = Vec::new();
    let map: PrefixMap<&Placed<'_>> = placed.iter().map(|one| (one.network, one)).collect();
    for one in placed {
        // Each pair is found at the narrower of the two, or at the later of two that are the same.
        let is_other =
            |other: &&&Placed<'_>| other.network != one.network || other.place() < one.place();
        if let Some(other) = map.covering(one.network).find(is_other) {
            found.push(one.overlaps(other));
        }
    }
    let mut told = BTreeSet::new();
    for (address, source, start) in addresses {
        let holding = map.covering(Prefix::host(address));
        for one in holding.filter(|one| told.insert(one.place())) {
            found.push(Overlap {
                file: one.source.file,
                span: one.span.clone(),
                message: format!(
                    "network {} holds the address {address} of the peer on {}",
                    one.network,
                    line(source, start, one.source)
                ),
                hint: "write networks without the hosts' own addresses: ESP packets would go into the \
                       tunnel again",
            });
        }
    }
    found
}

/// A line as an error in another place, or the same file, names it.
fn line(source: &Source<'_>, start: usize, from: &Source<'_>) -> String {
    let of = if source.file == from.file { String::new() } else { format!(" of {}", source.name) };
    format!("line {}{of}", source.line(start))
}

impl Placed<'_> {
    fn place(&self) -> (usize, usize) {
        (self.source.file, self.span.start)
    }

    fn overlaps(&self, other: &Self) -> Overlap {
        let (network, at) = (self.network, line(other.source, other.span.start, self.source));
        let (message, hint) = match (self.peer == other.peer, network == other.network) {
            (true, true) => (format!("network {network} is there twice"), "leave it out here"),
            (true, false) => (
                format!("network {network} is a part of {} on {at}", other.network),
                "leave it out here",
            ),
            (false, true) => (
                format!("network {network} is another peer's too, on {at}"),
                "write it for the one host that it is behind",
            ),
            (false, false) => (
                format!("network {network} is a part of another peer's, {} on {at}", other.network),
                "write networks that do not overlap: packets for an address go to one host",
            ),
        };
        Overlap { file: self.source.file, span: self.span.clone(), message, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_network_is_refused_with_a_correction() {
        for (text, is, hint) in [
            ("10.1.0.1", "has no length", "write \"10.1.0.1/32\" for that address alone"),
            ("fd00::1", "has no length", "write \"fd00::1/128\" for that address alone"),
            ("10.1.0.1/16", "has bits behind its length", "write \"10.1.0.0/16\""),
            ("fd00:1::7/48", "has bits behind its length", "write \"fd00:1::/48\""),
            ("10.1.0.0/33", "has no such length", "write a length from 1 to 32"),
            ("10.1.0.0/", "has no such length", "write a length from 1 to 32"),
            ("10.1.0.0/+8", "has no such length", "write a length from 1 to 32"),
            ("fd00::/129", "has no such length", "write a length from 1 to 128"),
            ("10.1.0.0/255.255.0.0", "has no such length", "write a length from 1 to 32"),
            ("224.0.0.0/8", "holds multicast addresses", NETWORKS.write),
            ("192.0.0.0/2", "holds multicast addresses", NETWORKS.write),
            ("127.0.0.0/24", "holds loopback addresses", NETWORKS.write),
            ("fe80::/64", "holds link-local addresses", NETWORKS.write),
            ("::ffff:10.0.0.0/104", "holds IPv4 addresses in IPv6 ones", NETWORKS.write),
            ("lan/16", "is not a network", NETWORKS.write),
            ("", "is not a network", NETWORKS.write),
        ] {
            assert_eq!(parse(text), Err((is.to_owned(), hint.to_owned())), "{text}");
        }
        for text in ["0.0.0.0/0", "::/0"] {
            let (is, _) = parse(text).unwrap_err();
            assert!(is.contains("go into the tunnel again"), "{text} {is}");
        }
        for text in ["10.1.0.0/16", "10.1.0.1/32", "fd00:1::/48", "198.18.0.0/15", "64.0.0.0/3"] {
            assert_eq!(parse(text).map(|network| network.to_string()), Ok(text.into()));
        }
    }
}
