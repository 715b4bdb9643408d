//! Live objects in the file's words.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

use anstyle::Style;

use super::{Plain, Subject, text};
use crate::{
    config::{Peer, networks_of_others},
    model::{
        Chain, FibAction, FibEntry, Interface, Link, Live, LocalAddress, OldPairs, Passage,
        PeerName, Policy, Prefix, Reqid, Sa,
    },
    plan::ObjectKind,
};

const BOLD: Style = Style::new().bold();

/// One live object.
pub(super) struct Object {
    pub(super) kind: &'static str,
    /// The packets that it lets pass untransformed.
    pub(super) passage: Option<Passage>,
    pub(super) id: String,
    pub(super) peer: Option<PeerName>,
    pub(super) direction: Option<String>,
    pub(super) generation: Option<u64>,
    pub(super) key: Option<String>,
    pub(super) description: String,
}

/// Live objects with their context.
pub struct ShowView<'a> {
    /// The mesh.
    pub subject: Subject<'a>,
    /// The local peer, if it is known.
    pub local: Option<&'a Peer>,
    /// The state of the kernel.
    pub live: &'a Live,
    /// Whether foreign objects are shown too, policies of single sockets among them.
    pub all: bool,
}

/// The mesh's objects by peer and, with `all`, foreign ones.
pub fn show_text(shown: &ShowView<'_>) -> String {
    let (ours, foreign) = objects(shown);
    let ShowView { subject, local, all, .. } = *shown;
    let mut text = text::title(subject, local);
    if ours.iter().all(|object| object.kind == "link") {
        text.push_str("\nThe kernel holds nothing of this mesh.\n");
    }
    let mut groups: BTreeMap<(u8, Option<&PeerName>), Vec<&Object>> = BTreeMap::new();
    for object in &ours {
        let rank = match (&object.peer, object.kind) {
            (None, "guard") => 0,
            (None, "chain") => 1,
            (None, "link") => 2,
            (None, "policy") if object.passage == Some(Passage::Discovery) => 3,
            (None, "policy") if object.passage == Some(Passage::Encap) => 4,
            (_, "policy") if object.passage == Some(Passage::Exception) => 5,
            (Some(_), _) => 6,
            (None, "interface") => 7,
            (None, "address") => 8,
            (None, _) => 9,
        };
        groups.entry((rank, object.peer.as_ref())).or_default().push(object);
    }
    for ((rank, peer), objects) in groups {
        let title = match (peer, rank) {
            (Some(peer), _) => format!("Peer {peer}"),
            (None, 0) => "Guards".into(),
            (None, 1) => "Chains".into(),
            (None, 2) => "Link".into(),
            (None, 3) => text::passage_title(Passage::Discovery).into(),
            (None, 4) => text::passage_title(Passage::Encap).into(),
            (None, 5) => text::passage_title(Passage::Exception).into(),
            (None, 7) => ObjectKind::Interface.title().into(),
            (None, 8) => ObjectKind::Address.title().into(),
            (None, _) => match subject {
                Subject::File { .. } => "Of no peer of the file".into(),
                Subject::Named(_) => "SAs and policies".into(),
            },
        };
        write_group(&mut text, &title, &objects);
    }
    if all {
        write_group(&mut text, "Foreign", &foreign.iter().collect::<Vec<_>>());
    }
    text
}

fn write_group(text: &mut String, title: &str, objects: &[&Object]) {
    let _ = writeln!(text, "\n{BOLD}{title}{BOLD:#}");
    if objects.is_empty() {
        text.push_str("  none\n");
    }
    for object in objects {
        let _ = writeln!(
            text,
            "  {:<6} {}",
            object.kind,
            Plain(format!("{}  {}", object.id, object.description).trim_end())
        );
    }
}

pub(super) fn objects(shown: &ShowView<'_>) -> (Vec<Object>, Vec<Object>) {
    let ShowView { subject, local, live, .. } = *shown;
    let reqid = subject.reqid();
    let names: BTreeMap<IpAddr, &PeerName> = subject
        .peers()
        .iter()
        .filter(|peer| local.is_none_or(|local| local.name != peer.name))
        .map(|peer| (peer.reached_at(), &peer.name))
        .collect();
    let (mut ours, mut foreign) = (Vec::new(), Vec::new());
    let old = OldPairs::of(&live.0, reqid);
    for sa in &live.0.sas {
        let mine = sa.reqid == reqid;
        let object = sa_object(shown, &names, sa, mine.then_some(&old));
        if mine { ours.push(object) } else { foreign.push(object) }
    }
    for policy in &live.0.policies {
        let mine = policy.belongs_to(reqid);
        let object = policy_object(reqid, &names, policy, mine);
        if mine { ours.push(object) } else { foreign.push(object) }
    }
    foreign.extend(live.0.socket_policies.iter().map(|policy| {
        let of_host = policy_object(reqid, &names, policy, false);
        let description = format!("of a single socket, {}", of_host.description);
        Object { description, ..of_host }
    }));
    for chain in &live.0.firewall.chains {
        let mine = chain.id.belongs_to(reqid);
        if mine { ours.push(chain_object(chain)) } else { foreign.push(chain_object(chain)) }
    }
    let networks = networks_of_others(subject.peers(), local);
    for interface in &live.0.interfaces {
        let object = interface_object(interface);
        if interface.belongs_to(reqid) { ours.push(object) } else { foreign.push(object) }
    }
    ours.extend(live.0.addresses_of(reqid).map(address_object));
    let entries: BTreeSet<&FibEntry> = live.0.fib_of(reqid).collect();
    for entry in &live.0.fib {
        let mine = entries.contains(entry);
        let object = route_object(&networks, entry, mine);
        if mine { ours.push(object) } else { foreign.push(object) }
    }
    if let Subject::File { config, .. } = subject {
        let named = config.link.as_ref().and_then(|link| live.0.link(&link.device));
        ours.extend(named.map(link_object));
    }
    (ours, foreign)
}

/// An object without a key, of no direction and no generation.
fn plain(kind: ObjectKind, id: String, description: String) -> Object {
    Object {
        kind: kind.word(),
        passage: None,
        id,
        peer: None,
        direction: None,
        generation: None,
        key: None,
        description,
    }
}

fn interface_object(interface: &Interface) -> Object {
    let Interface { name: _, if_id: _, mtu, up, makes_addresses, skips_policies } = interface;
    let mut words = vec![format!("mtu {mtu}"), if *up { "up" } else { "down" }.to_owned()];
    words.extend(makes_addresses.then(|| "makes link-local addresses".to_owned()));
    words.extend(skips_policies.then(|| "disable_xfrm".to_owned()));
    plain(ObjectKind::Interface, interface.id(), words.join(", "))
}

fn address_object(local: &LocalAddress) -> Object {
    plain(ObjectKind::Address, local.id(), String::new())
}

fn route_object(networks: &BTreeMap<Prefix, &PeerName>, entry: &FibEntry, mine: bool) -> Object {
    let kind = match entry.action {
        FibAction::Blackhole => ObjectKind::Blackhole,
        FibAction::Devices(_) | FibAction::Other(_) => ObjectKind::Route,
    };
    let source = entry.source.map(|source| format!("src {source}")).unwrap_or_default();
    let peer = networks.get(&entry.to).filter(|_| mine).map(|name| (*name).clone());
    Object { peer, ..plain(kind, entry.id(), source) }
}

/// The device that `[link]` names.
fn link_object(link: &Link) -> Object {
    Object {
        kind: "link",
        passage: None,
        id: format!("dev {}", link.name),
        peer: None,
        direction: None,
        generation: None,
        key: None,
        description: format!("mtu {}", link.mtu),
    }
}

fn chain_object(chain: &Chain) -> Object {
    let mut words: Vec<String> = chain.rules.iter().map(ToString::to_string).collect();
    let hook = chain.id.hook();
    words.push(match chain.is_reached() {
        true => format!("from {hook}"),
        false if chain.jumps.is_empty() => format!("no rule of {hook} leads to it"),
        false => format!("not every packet of {hook} gets to it"),
    });
    Object {
        kind: "chain",
        id: chain.id.to_string(),
        peer: None,
        direction: None,
        generation: None,
        key: None,
        passage: None,
        description: words.join(", "),
    }
}

fn sa_object(
    shown: &ShowView<'_>,
    names: &BTreeMap<IpAddr, &PeerName>,
    sa: &Sa,
    pairs: Option<&OldPairs>,
) -> Object {
    let mine = pairs.is_some();
    let peer = names.get(&sa.src).or_else(|| names.get(&sa.id.dst)).map(|name| (*name).clone());
    let direction = direction(shown, sa, mine);
    let moment = shown.subject.moment();
    let generation =
        pairs.zip(moment).map(|(pairs, moment)| pairs.generation(sa, moment.generation).get());
    let mut words: Vec<String> = Vec::new();
    words.extend(direction.map(String::from));
    words.extend(generation.map(|generation| format!("generation {generation}")));
    if let (Some(pairs), None) = (pairs, moment) {
        let (low, cycle) = pairs.generation_low(sa);
        words.push(format!("generation {low} (modulo {cycle})"));
        words.push(format!("short_id {} to {}", sa.id.spi.from(), sa.id.spi.to()));
    }
    words.push(sa.algorithm.to_string());
    if mine && !sa.is_larval() {
        words.push(format!("key {}", sa.key));
    }
    words.push(match (sa.replay.window, sa.replay.esn) {
        (0, _) => "no replay window".into(),
        (window, true) => format!("replay window {window} with esn"),
        (window, false) => format!("replay window {window}"),
    });
    words.extend(sa.ends.map(|end| format!("ends {} UTC", end.utc())));
    words.extend(sa.offload.as_ref().map(|offload| format!("offload {offload}")));
    words.extend(sa.encap.map(|encap| format!("encap {encap}")));
    words.extend(sa.keepalive.map(|seconds| format!("keepalive {seconds}s")));
    if !mine {
        words.push(format!("reqid {} mode {}", sa.reqid, sa.mode));
    }
    words.extend((sa.if_id != 0).then(|| format!("if_id {:#x}", sa.if_id)));
    words.extend(sa.extras.iter().cloned());
    Object {
        kind: "sa",
        passage: None,
        id: sa.id.to_string(),
        peer: if mine { peer } else { None },
        direction: direction.map(String::from),
        generation,
        key: mine.then(|| sa.key.to_string()),
        description: words.join(", "),
    }
}

/// In or out, seen from the local peer; without a file, seen from the addresses of this host.
fn direction(shown: &ShowView<'_>, sa: &Sa, mine: bool) -> Option<&'static str> {
    let is_here = |address: IpAddr| match (shown.subject, shown.local) {
        (_, Some(local)) => local.address == address,
        (Subject::Named(_), None) => mine && shown.live.0.has_address(address),
        (Subject::File { .. }, None) => false,
    };
    match (is_here(sa.id.dst), is_here(sa.src)) {
        (true, _) => Some("in"),
        (false, true) => Some("out"),
        (false, false) => None,
    }
}

fn policy_object(
    reqid: Reqid,
    names: &BTreeMap<IpAddr, &PeerName>,
    policy: &Policy,
    mine: bool,
) -> Object {
    let guard = mine && policy.is_guard_of(reqid);
    let peer = policy.hosts().iter().find_map(|host| names.get(host));
    let mut words = vec![policy.action.to_string()];
    if !guard {
        words.push(format!("priority {}", policy.priority));
    }
    words.extend(policy.templates.iter().map(|template| format!("tmpl {template}")));
    words.extend(policy.extras.iter().cloned());
    Object {
        kind: if guard { "guard" } else { "policy" },
        passage: policy.passage_in(reqid).filter(|_| mine),
        id: policy.id.to_string(),
        peer: if mine && !guard && policy.passage().is_none() {
            peer.map(|name| (*name).clone())
        } else {
            None
        },
        direction: Some(policy.id.direction.to_string()),
        generation: None,
        key: None,
        description: words.join(", "),
    }
}
