//! `[[peer]]`: checks each peer alone, and that no two are the same.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use toml::de::DeValue;

use crate::model::{PeerName, PublicKey, ShortId};

use super::{
    address,
    diagnostic::{Source, Syntax},
    include::NO_PEER,
    malformed::Malformed,
    mask,
    networks::{self, Overlap, Placed},
    pairs,
    reader::{Findings, Section, Value, lowered},
    schema::{ADDRESS, OUTSIDE, PEER_NAME, PEER_STAGE, PUBLIC_KEY, SHORT_ID, Table},
    secrets,
    tables::{KeyMethod, read_stage},
    types::{Peer, Traffic},
};

/// The place of each peer's public key: the file's number, and the place in it.
pub(super) type PublicKeySpans = BTreeMap<PeerName, (usize, Range<usize>)>;

const WRITE: &str = "write [[peer]], with two brackets, once for each peer";
const WRITE_JSON: &str = "write \"peer\": [ { … } ], with an object for each peer";

/// The parts of other tables that decide which keys a peer may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct OtherTables {
    /// The method of `[keys]`. If it is unknown, only the public keys that are there are checked.
    pub keys: Option<KeyMethod>,
    /// Whether `[esp]` has `encap`, if that is known.
    pub has_encap: Option<bool>,
    /// The protected traffic, if that could be read.
    pub traffic: Option<Traffic>,
}

/// The peers of the files that were read.
#[derive(Default)]
pub(super) struct Peers<'s> {
    /// Those without errors.
    pub list: Vec<Peer>,
    /// The number of all.
    pub tables: usize,
    pub public_keys: PublicKeySpans,
    seen: Seen<'s>,
}

impl Peers<'_> {
    /// Networks of all files that overlap, or hold the address of a host.
    pub(super) fn overlaps(&self) -> Vec<Overlap> {
        let addresses = self.seen.addresses.0.iter();
        let placed = addresses.map(|(address, (source, start))| (*address, *source, *start));
        networks::overlaps(&self.seen.networks, placed)
    }
}

/// Adds the peers of one file.
pub(super) fn read<'s>(
    findings: &mut Findings<'s>,
    value: &Value<'_>,
    others: OtherTables,
    peers: &mut Peers<'s>,
) {
    let file = findings.source.file;
    let Some(array) = value.get_ref().as_array() else {
        findings.not_a(value, "peer", "an array of tables", write(findings));
        peers.tables += 1;
        return;
    };
    if array.is_empty() {
        let message = if file == 0 { "a mesh needs peers" } else { NO_PEER };
        findings.missing(value.span(), message.into(), write(findings));
    }
    for value in array.iter() {
        peers.tables += 1;
        let value = (value, peers.tables);
        let Some((peer, span)) = peer(findings, &mut peers.seen, value, others) else { continue };
        peers.public_keys.extend(span.map(|span| (peer.name.clone(), (file, span))));
        peers.list.push(peer);
    }
}

fn write(findings: &Findings<'_>) -> &'static str {
    match findings.source.syntax {
        Syntax::Toml => WRITE,
        Syntax::Json => WRITE_JSON,
    }
}

/// A peer, and the place of its public key.
fn peer<'s>(
    findings: &mut Findings<'s>,
    seen: &mut Seen<'s>,
    (value, number): (&Value<'_>, usize),
    others: OtherTables,
) -> Option<(Peer, Option<Range<usize>>)> {
    let DeValue::Table(table) = value.get_ref() else {
        findings.not_a(value, "peer", "an array of tables", write(findings));
        return None;
    };
    let section = Section::open(findings, Table::Peer, value.span(), table);
    let name = section.require(findings, PEER_NAME).and_then(|value| {
        let name = self::name(findings, value, seen)?;
        let what = format!("peer name {}", mask::plain(name.as_str()));
        seen.names.unique(findings, value.span(), what, name)
    });
    let short_id = section.require(findings, SHORT_ID).and_then(|value| {
        let number = findings.number(value, SHORT_ID)?;
        let short_id = u16::try_from(number).ok().and_then(ShortId::new)?;
        seen.short_ids.unique(findings, value.span(), format!("short_id {short_id}"), short_id)
    });
    let address = section.require(findings, ADDRESS).and_then(|value| {
        let address = address::read(findings, value)?;
        seen.addresses.unique(findings, value.span(), format!("address {address}"), address)
    });
    let outside = section.get(OUTSIDE.name).map_or(Some(None), |value| {
        read_outside(findings, seen, value, (address, others)).map(Some)
    });
    let inner = networks::read(findings, &section, (others.traffic, number), &mut seen.networks);
    let keys = others.keys;
    let stage = read_stage(findings, &section, PEER_STAGE);
    let groups = pairs::read_groups(findings, &section);
    let given = section.get(PUBLIC_KEY.name);
    let public_key = public_key(findings, &section, keys).map(|public_key| {
        let span = given.map_or(section.header(), |value| value.span());
        seen.public_keys.unique(findings, span, "public_key".into(), public_key)
    });
    if keys == Some(KeyMethod::PrivateKey) && public_key.flatten().is_none() {
        return None;
    }
    let (networks, inside) = inner?;
    let peer = Peer {
        name: name?,
        short_id: short_id?,
        address: address?,
        public_key: public_key.flatten(),
        groups: groups?,
        stage: stage?,
        outside: outside?,
        networks,
        inside,
    };
    Some((peer, given.map(|value| value.span())))
}

/// The outer side of a static port forward, next to the peer's own address.
fn read_outside<'s>(
    findings: &mut Findings<'s>,
    seen: &mut Seen<'s>,
    value: &Value<'_>,
    (address, others): (Option<IpAddr>, OtherTables),
) -> Option<SocketAddr> {
    if others.has_encap == Some(false) {
        let message = "outside needs encap in [esp]: no port forward passes on plain ESP".into();
        findings.wrong(value.span(), message, "write encap = 4500 in [esp], or leave outside out");
        return None;
    }
    let outside = address::read_with_port(findings, value)?;
    let (ip, port) = (outside.ip(), outside.port());
    if address.is_some_and(|address| address.is_ipv4() != ip.is_ipv4()) {
        let message = format!("outside {ip} and address are of different families, IPv4 and IPv6");
        findings.wrong(value.span(), message, "write an outside address of address's family");
        return None;
    }
    if others.traffic.is_some_and(|traffic| traffic.has_udp_port(port)) {
        let message = format!("UDP port {port} is the port of the protected traffic");
        let hint = "forward another port to the host, and write that one";
        findings.wrong(value.span(), message, hint);
        return None;
    }
    let hint = "write another: two hosts behind one address can't be told apart in transport mode; \
                ESP IN UDP in meshsec-traffic(7) tells what to do instead";
    let what = format!("outside address {ip}");
    seen.addresses.unique_or(findings, value.span(), what, ip, hint).map(|_| outside)
}

/// The public key that is given, if it is right and needed.
fn public_key(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    keys: Option<KeyMethod>,
) -> Option<PublicKey> {
    let value = match keys {
        Some(KeyMethod::PrivateKey) => section.require(findings, PUBLIC_KEY)?,
        _ => section.get(PUBLIC_KEY.name)?,
    };
    if let Some(kind) = keys.filter(|kind| *kind != KeyMethod::PrivateKey) {
        let span = section.key_span(PUBLIC_KEY.name).unwrap_or(value.span());
        let message = format!("public_key goes with private_key, and [keys] has {}", kind.name());
        findings.wrong(span, message, "leave it out, or use private_key in [keys]");
        return None;
    }
    let text = findings.text(value, PUBLIC_KEY)?;
    let (problem, hint) = match secrets::parse(text.as_bytes()) {
        Ok(bytes) if **bytes == [0; 32] => (format!("is {}", Malformed::Zeros), None),
        Ok(bytes) => match PublicKey::new(**bytes) {
            Ok(public_key) => return Some(public_key),
            Err(problem) => (problem.to_string(), None),
        },
        Err(malformed) => {
            let malformed = malformed.of(text.as_bytes());
            (format!("is {malformed}"), Some(malformed.hint(PUBLIC_KEY.write)))
        }
    };
    let hint = hint.unwrap_or(PUBLIC_KEY.write.into());
    findings.wrong(value.span(), format!("public_key {problem}"), hint);
    None
}

/// The values that the peers before this one have taken.
#[derive(Default)]
struct Seen<'s> {
    names: FirstUses<'s, PeerName>,
    /// Names that hints have suggested.
    offered: BTreeSet<PeerName>,
    short_ids: FirstUses<'s, ShortId>,
    addresses: FirstUses<'s, IpAddr>,
    public_keys: FirstUses<'s, PublicKey>,
    networks: Vec<Placed<'s>>,
}

/// Values, each with the file and the place where it was first seen.
struct FirstUses<'s, T>(BTreeMap<T, (&'s Source<'s>, usize)>);

impl<T> Default for FirstUses<'_, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'s, T: Ord + Clone> FirstUses<'s, T> {
    fn has(&self, value: &T) -> bool {
        self.0.contains_key(value)
    }

    /// Returns a new value. Reports a value that another peer has already, and calls it `what`.
    fn unique(
        &mut self,
        findings: &mut Findings<'s>,
        span: Range<usize>,
        what: String,
        value: T,
    ) -> Option<T> {
        let hint = "write another; it is unique in the mesh";
        self.unique_or(findings, span, what, value, hint)
    }

    /// The same with another hint.
    fn unique_or(
        &mut self,
        findings: &mut Findings<'s>,
        span: Range<usize>,
        what: String,
        value: T,
        hint: &str,
    ) -> Option<T> {
        let here = findings.source;
        let (file, first) = *self.0.entry(value.clone()).or_insert((here, span.start));
        if (file.file, first) == (here.file, span.start) {
            return Some(value);
        }
        let line = file.line(first);
        let of = if file.file == here.file { String::new() } else { format!(" of {}", file.name) };
        let message = format!("{what} is already taken by the peer on line {line}{of}");
        findings.wrong(span, message, hint);
        None
    }
}

fn name(findings: &mut Findings<'_>, value: &Value<'_>, seen: &mut Seen<'_>) -> Option<PeerName> {
    let text = findings.text(value, PEER_NAME)?;
    let name = PeerName::new(text);
    if name.is_none() {
        let near = lowered(text, true).and_then(|lowered| PeerName::new(&lowered));
        // A name that another peer has, or that another hint suggested, would be refused in turn.
        let free = near.filter(|near| !seen.names.has(near) && seen.offered.insert(near.clone()));
        let free = free.map(|free| free.to_string());
        findings.not_a_name((value, text), "a peer's", free, PEER_NAME);
    }
    name
}
