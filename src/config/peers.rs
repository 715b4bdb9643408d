//! `[[peer]]`: each one for itself, and that no two are the same.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use toml::de::DeValue;

use crate::model::{PeerName, PublicKey, ShortId};

use super::{
    mask,
    reader::{Bounds, Field, Findings, Section, Value},
    secrets::{self, Malformed},
    tables::Kind,
    types::Peer,
};

/// Where each peer's public key is written.
pub(super) type PublicKeySpans = BTreeMap<PeerName, Range<usize>>;

const KNOWN: &[&str] = &["name", "short_id", "address", "public_key"];
const NAME: Field = Field { name: "name", write: "write 1 to 63 of a-z 0-9 . - in quotes" };
const SHORT_ID: Field =
    Field { name: "short_id", write: "write a number from 0 to 4095, unique in the mesh" };
const SHORT_IDS: Bounds = Bounds { min: 0, max: ShortId::MAX as u64, hex: false };
const ADDRESS: Field = Field {
    name: "address",
    write: "write an IPv4 or IPv6 address in quotes, such as \"192.0.2.1\"",
};
const PUBLIC_KEY: Field =
    Field { name: "public_key", write: "write what meshsec pubkey prints on that host, in quotes" };
const PEER: Field =
    Field { name: "peer", write: "write [[peer]], with two brackets, once for each peer" };

/// All peers, sorted by name; without those that something is wrong with.
///
/// Whether they need public keys depends on `[keys]`; where nobody knows, only
/// those that are there are checked.
pub(super) fn read(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    keys: Option<Kind>,
    public_keys: &mut PublicKeySpans,
) -> Vec<Peer> {
    let Some(array) = value.get_ref().as_array() else {
        findings.wrong_type(value, PEER, "an array of tables");
        return Vec::new();
    };
    if array.is_empty() {
        findings.missing(value.span(), "a mesh needs peers".into(), PEER.write);
    }
    let mut seen = Seen::default();
    let mut peers = Vec::new();
    for value in array.iter() {
        let Some((peer, span)) = peer(findings, &mut seen, value, keys) else { continue };
        public_keys.extend(span.map(|span| (peer.name.clone(), span)));
        peers.push(peer);
    }
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

/// A peer, and where its public key is.
fn peer(
    findings: &mut Findings<'_>,
    seen: &mut Seen,
    value: &Value<'_>,
    keys: Option<Kind>,
) -> Option<(Peer, Option<Range<usize>>)> {
    let DeValue::Table(table) = value.get_ref() else {
        findings.wrong_type(value, PEER, "an array of tables");
        return None;
    };
    let section = Section::open(findings, "[[peer]]", value.span(), table, KNOWN);
    let name = section.require(findings, NAME).and_then(|value| {
        let name = self::name(findings, value)?;
        let what = format!("peer name {}", mask::plain(name.as_str()));
        seen.names.unique(findings, value.span(), what, name)
    });
    let short_id = section.require(findings, SHORT_ID).and_then(|value| {
        let number = findings.number(value, SHORT_ID, SHORT_IDS)?;
        let short_id = u16::try_from(number).ok().and_then(ShortId::new)?;
        seen.short_ids.unique(findings, value.span(), format!("short_id {short_id}"), short_id)
    });
    let address = section.require(findings, ADDRESS).and_then(|value| {
        let address = self::address(findings, value)?;
        seen.addresses.unique(findings, value.span(), format!("address {address}"), address)
    });
    let given = section.get(PUBLIC_KEY.name);
    let public_key = public_key(findings, &section, keys).map(|public_key| {
        let span = given.map_or(section.header(), |value| value.span());
        seen.public_keys.unique(findings, span, "public_key".into(), public_key)
    });
    if keys == Some(Kind::PrivateKey) && public_key.flatten().is_none() {
        return None;
    }
    let peer = Peer {
        name: name?,
        short_id: short_id?,
        address: address?,
        public_key: public_key.flatten(),
    };
    Some((peer, given.map(|value| value.span())))
}

/// The public key that is given, if it is right and of use.
fn public_key(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    keys: Option<Kind>,
) -> Option<PublicKey> {
    let value = match keys {
        Some(Kind::PrivateKey) => section.require(findings, PUBLIC_KEY)?,
        _ => section.get(PUBLIC_KEY.name)?,
    };
    if let Some(kind) = keys.filter(|kind| *kind != Kind::PrivateKey) {
        let span = section.key_span(PUBLIC_KEY.name).unwrap_or(value.span());
        let message = format!("public_key goes with private_key, and [keys] has {}", kind.name());
        findings.wrong(span, message, "leave it out, or use private_key in [keys]");
        return None;
    }
    let text = findings.text(value, PUBLIC_KEY)?;
    let problem = match secrets::parse(text.as_bytes()) {
        Ok(bytes) if **bytes == [0; 32] => format!("is {}", Malformed::Zeros),
        Ok(bytes) => match PublicKey::new(**bytes) {
            Ok(public_key) => return Some(public_key),
            Err(problem) => problem.to_string(),
        },
        Err(problem) => format!("is {problem}"),
    };
    findings.wrong(value.span(), format!("public_key {problem}"), PUBLIC_KEY.write);
    None
}

/// What the peers before this one have taken.
#[derive(Default)]
struct Seen {
    names: Taken<PeerName>,
    short_ids: Taken<ShortId>,
    addresses: Taken<IpAddr>,
    public_keys: Taken<PublicKey>,
}

/// Values, each with the place where it was first seen.
struct Taken<T>(BTreeMap<T, usize>);

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Taken<T> {
    /// Passes a new value on; points at one that is there already, and calls it `what`.
    fn unique(
        &mut self,
        findings: &mut Findings<'_>,
        span: Range<usize>,
        what: String,
        value: T,
    ) -> Option<T> {
        let first = *self.0.entry(value.clone()).or_insert(span.start);
        if first == span.start {
            return Some(value);
        }
        let line = findings.source.line(first);
        let message = format!("{what} is already taken by the peer on line {line}");
        findings.wrong(span, message, "write another; it is unique in the mesh");
        None
    }
}

fn name(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<PeerName> {
    let text = findings.text(value, NAME)?;
    let name = PeerName::new(text);
    if name.is_none() {
        let message = format!("{} can't be a peer's name", mask::quote(text));
        findings.wrong(value.span(), message, NAME.write);
    }
    name
}

fn address(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<IpAddr> {
    let text = findings.text(value, ADDRESS)?;
    let problem = match text.parse() {
        Ok(address) => match unsuitable(address) {
            None => return Some(address),
            Some(problem) => (problem, ADDRESS.write.to_owned()),
        },
        Err(_) => unparsed(text),
    };
    let message = format!("{} is {}", mask::quote(text), problem.0);
    findings.wrong(value.span(), message, problem.1);
    None
}

/// Why a packet can't come from this address by way of the underlay.
fn unsuitable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address, not a host's"),
        _ if address.is_multicast() => Some("a multicast address, not a host's"),
        _ if address.is_loopback() => Some("a loopback address, which no other host reaches"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address, not a host's"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address in an IPv6 one; the kernel sends from the IPv4 address")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("a link-local address, which says nothing without its link")
        }
        _ => None,
    }
}

/// What text that is no address is instead, and what to write.
fn unparsed(text: &str) -> (&'static str, String) {
    let alone = |address: IpAddr| format!("write \"{address}\"");
    let part = |separator| text.split_once(separator).and_then(|(part, _)| part.parse().ok());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    if let Some(address) = part('/') {
        return ("an address with a prefix length", alone(address));
    }
    if let Some(address) = part('%') {
        return ("an address with a zone", alone(address));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        let hint = alone(socket.ip()) + "; the port is in [traffic]";
        return ("an address with a port", hint);
    }
    if let Some(address) = bracketed() {
        return ("an address in brackets", alone(address));
    }
    ("no IP address", ADDRESS.write.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_packets_cannot_come_from_is_refused() {
        let refused = ["0.0.0.0", "::", "224.0.0.5", "ff02::1", "127.0.0.1", "127.9.9.9", "::1"];
        let more = ["255.255.255.255", "::ffff:192.0.2.1", "fe80::1"];
        for address in refused.iter().chain(&more) {
            assert!(unsuitable(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in ["192.0.2.1", "10.0.0.0", "169.254.1.1", "2001:db8::1", "fd00::1"] {
            assert!(unsuitable(address.parse().unwrap()).is_none(), "{address}");
        }
    }

    #[test]
    fn what_is_too_much_on_an_address_is_named() {
        assert_eq!(unparsed("192.0.2.1/24").1, "write \"192.0.2.1\"");
        assert_eq!(unparsed("fe80::1%eth0").0, "an address with a zone");
        assert_eq!(unparsed("[2001:db8::1]:4789").0, "an address with a port");
        assert_eq!(unparsed("[2001:db8::1]").1, "write \"2001:db8::1\"");
        assert_eq!(unparsed("192.0.2.01").0, "no IP address");
    }
}
