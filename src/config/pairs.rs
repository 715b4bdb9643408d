//! `[mesh] pairs` and `groups` of `[[peer]]`: the hosts that protect traffic with each other.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::model::{GroupName, PeerName};

use super::{
    mask,
    reader::{Findings, Section, Value, lowered},
    schema::{Field, GROUPS, PAIRS},
    types::{Members, Pairs, Peer},
};

/// The groups of a peer. None after an error.
pub(super) fn read_groups(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
) -> Option<BTreeSet<GroupName>> {
    let Some(value) = section.get(GROUPS.name) else { return Some(BTreeSet::new()) };
    let Some(array) = value.get_ref().as_array() else {
        findings.wrong_type(value, GROUPS, "an array of names");
        return None;
    };
    let groups: Vec<Option<GroupName>> =
        array.iter().map(|value| read_group(findings, value)).collect();
    groups.into_iter().collect()
}

fn read_group(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<GroupName> {
    let Some(text) = value.get_ref().as_str() else {
        findings.not_a(value, "a group", "a string", GROUPS.write);
        return None;
    };
    let name = GroupName::new(text);
    if name.is_none() {
        let near = lowered(text, true).filter(|lowered| GroupName::new(lowered).is_some());
        findings.not_a_name((value, text), "a group's", near, GROUPS);
    }
    name
}

/// A name in `pairs` means one thing, so no group has the name of a peer. `list` is the value of
/// `[[peer]]` in one file, and `names` are those of the peers of all files.
pub(super) fn check_groups(findings: &mut Findings<'_>, list: &Value<'_>, names: &BTreeSet<&str>) {
    let tables = list.get_ref().as_array().into_iter().flat_map(|array| array.iter());
    let groups = tables.filter_map(|peer| peer.get_ref().as_table()?.get(GROUPS.name));
    let groups = groups.filter_map(|groups| groups.get_ref().as_array());
    for group in groups.flat_map(|array| array.iter()) {
        if let Some(name) = group.get_ref().as_str().filter(|name| names.contains(name)) {
            let message = format!("group {} has the name of a peer", mask::plain(name));
            findings.wrong(group.span(), message, "give the group another name");
        }
    }
}

/// The names that a file may mean hosts by.
pub(super) struct Names<'a> {
    peers: BTreeSet<&'a PeerName>,
    groups: BTreeSet<&'a GroupName>,
}

impl<'a> Names<'a> {
    /// Those of all peers of a file.
    pub(super) fn of(peers: &'a [Peer]) -> Self {
        Self {
            peers: peers.iter().map(|peer| &peer.name).collect(),
            groups: peers.iter().flat_map(|peer| &peer.groups).collect(),
        }
    }
}

/// The pairs that `[mesh]` names; all, if it names none. `names` are those of all peers, or `None`
/// where some could not be read, so that names can't be checked. None after an error.
pub(super) fn read_pairs(
    findings: &mut Findings<'_>,
    value: Option<&Value<'_>>,
    names: Option<&Names<'_>>,
) -> Option<Pairs> {
    let Some(value) = value else { return Some(Pairs::All) };
    let Some(array) = value.get_ref().as_array() else {
        findings.wrong_type(value, PAIRS, "an array of pairs");
        return None;
    };
    if array.is_empty() {
        findings.wrong(value.span(), "pairs has no pair".into(), PAIRS.write);
        return None;
    }
    let pairs: Vec<Option<[Members; 2]>> =
        array.iter().map(|pair| read_pair(findings, pair, names)).collect();
    Some(Pairs::Listed(pairs.into_iter().collect::<Option<_>>()?))
}

fn read_pair(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    names: Option<&Names<'_>>,
) -> Option<[Members; 2]> {
    let two = value.get_ref().as_array().filter(|array| array.len() == 2);
    let Some(two) = two else {
        let message = "an entry of pairs must be an array of two names".into();
        findings.wrong(value.span(), message, PAIRS.write);
        return None;
    };
    let [one, other] = [0, 1].map(|at| {
        two.get(at).and_then(|name| member(findings, name, names, (PAIRS, "a name in pairs")))
    });
    let (one, other) = (one?, other?);
    if let (Members::Peer(name), true) = (&one, one == other) {
        let message = format!("pairs has {} with itself", mask::plain(name.as_str()));
        findings.wrong(value.span(), message, "write two hosts, or leave the entry out");
        return None;
    }
    Some([one, other])
}

/// The hosts that a name means; the key, and the name's place in it, are for errors.
pub(super) fn member(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    names: Option<&Names<'_>>,
    (field, place): (Field, &str),
) -> Option<Members> {
    let Some(text) = value.get_ref().as_str() else {
        findings.not_a(value, place, "a string", field.write);
        return None;
    };
    if text == "*" {
        return Some(Members::Everybody);
    }
    let is_peer = |name: &PeerName| names.is_none_or(|names| names.peers.contains(name));
    if let Some(name) = PeerName::new(text).filter(is_peer) {
        return Some(Members::Peer(name));
    }
    let has = |group: &GroupName| names.is_some_and(|names| names.groups.contains(group));
    if let Some(group) = GroupName::new(text).filter(has) {
        return Some(Members::Group(group));
    }
    let message = format!("no peer and no group is named {}", mask::quote(text));
    let hint = "write the name of a peer, a group that a peer has in groups, or \"*\" for all";
    findings.wrong(value.span(), message, hint);
    None
}
