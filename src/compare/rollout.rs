//! Whether the rollout of a file cuts a pair, and in which order of hosts it does not.
//!
//! Each pair is looked at as it is, with the one host changed, with the other, and with both. A pair
//! that is cut only while one of the two has changed gives an order to them. What happens while one
//! host's steps are performed is that host's plan's subject.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, Way, way};
use crate::{
    config::{Config, Peer},
    model::{PeerName, State, Time},
};

/// A host before and after.
pub struct Host<'a> {
    /// The host.
    pub peer: &'a Peer,
    /// Its state now.
    pub before: State,
    /// The state that its plan leads to.
    pub after: State,
    /// The time of the look.
    pub taken: Time,
}

/// The point of a rollout at which a pair is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutState {
    /// Neither host is changed.
    Before,
    /// The sender is changed, and the receiver is not.
    SenderFirst,
    /// The receiver is changed, and the sender is not.
    ReceiverFirst,
    /// Both are changed.
    After,
}

impl RolloutState {
    /// All names in JSON.
    pub const WORDS: [&'static str; 4] = ["before", "sender-first", "receiver-first", "after"];

    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// Packets that arrive before a rollout, and are lost at a point of it; or that are lost before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The point.
    pub at: RolloutState,
    /// The packets, and their fate there.
    pub way: Way,
}

/// The result of all pairs.
#[derive(Debug, Default)]
pub struct Rollout {
    /// The number of pairs.
    pub pairs: usize,
    /// All losses.
    pub cuts: Vec<Cut>,
    /// The order of hosts that cuts no pair, if there is one. Hosts that need none come last, by
    /// name.
    pub order: Option<Vec<PeerName>>,
    /// Whether any other order does as well.
    pub any_order: bool,
}

/// Looks at all pairs.
pub fn rollout(config: &Config, hosts: &[Host<'_>]) -> Rollout {
    let mut found = Rollout { any_order: true, ..Rollout::default() };
    // For each host, those that have to come before it.
    let mut behind: BTreeMap<&PeerName, BTreeSet<&PeerName>> =
        hosts.iter().map(|host| (&host.peer.name, BTreeSet::new())).collect();
    let mut possible = true;
    let mut asked: Vec<Both<'_>> = hosts.iter().map(Both::of).collect();
    for (place, one) in hosts.iter().enumerate() {
        let partners = config.pairs.partners(one.peer);
        let (before, after) = asked.split_at_mut(place + 1);
        for (other, there) in hosts[place + 1..].iter().zip(after) {
            if !partners.have(other.peer)
                || one.peer.address.is_ipv4() != other.peer.address.is_ipv4()
            {
                continue;
            }
            found.pairs += 1;
            let here = &mut before[place];
            let mut cuts = cuts(config, here, there);
            cuts.extend(self::cuts(config, there, here));
            let first = |first: &Host<'_>| {
                cuts.iter().any(|cut| match cut.at {
                    RolloutState::SenderFirst => cut.way.from == first.peer.name,
                    RolloutState::ReceiverFirst => cut.way.to == first.peer.name,
                    RolloutState::Before | RolloutState::After => false,
                })
            };
            let (one_first, other_first) = (first(one), first(other));
            found.any_order &= !one_first && !other_first;
            possible &= !(one_first && other_first);
            if one_first {
                behind.entry(&one.peer.name).or_default().insert(&other.peer.name);
            }
            if other_first {
                behind.entry(&other.peer.name).or_default().insert(&one.peer.name);
            }
            found.cuts.extend(cuts);
        }
    }
    found.order = if possible { order(behind) } else { None };
    found
}

/// A host before and after, to be asked about packets.
struct Both<'a> {
    before: Asked<'a>,
    after: Asked<'a>,
}

impl<'a> Both<'a> {
    fn of(host: &'a Host<'_>) -> Self {
        let asked = |state| Asked::new(host.peer, state);
        Self { before: asked(&host.before), after: asked(&host.after) }
    }
}

/// The losses of packets from one host to another. One that is there before is that alone, unless
/// packets are lost behind it too.
fn cuts(config: &Config, from: &mut Both<'_>, to: &mut Both<'_>) -> Vec<Cut> {
    let cut = |at, way: Way| (!way.fate.arrives()).then_some(Cut { at, way });
    let before = way(config, &mut from.before, &mut to.before);
    let worked = before.fate.arrives();
    let mut found: Vec<Cut> = cut(RolloutState::Before, before).into_iter().collect();
    if worked {
        let sender_first = way(config, &mut from.after, &mut to.before);
        found.extend(cut(RolloutState::SenderFirst, sender_first));
        let receiver_first = way(config, &mut from.before, &mut to.after);
        found.extend(cut(RolloutState::ReceiverFirst, receiver_first));
    }
    found.extend(cut(RolloutState::After, way(config, &mut from.after, &mut to.after)));
    found
}

/// An order in which each host comes after those that have to come before it; by name otherwise.
fn order(mut behind: BTreeMap<&PeerName, BTreeSet<&PeerName>>) -> Option<Vec<PeerName>> {
    let mut order = Vec::new();
    while !behind.is_empty() {
        let next = *behind.iter().find(|(_, before)| before.is_empty())?.0;
        behind.remove(next);
        behind.values_mut().for_each(|before| _ = before.remove(next));
        order.push(next.clone());
    }
    Some(order)
}
