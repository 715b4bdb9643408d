//! The devices that packets are routed to, as far as entries of routing tables are known: those for
//! networks of peers are.
//!
//! A longer prefix wins, and of several entries for one prefix the smallest metric
//! (`fib_table_lookup`, `fib6_table_lookup`). Entries for packets of some
//! sources alone, and those of tables that a rule may ask before the main one, may win or not.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::model::{FibAction, FibEntry, Interface, MAIN_TABLE, Prefix, State};

/// The end of the way of packets within this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoutedTo<'s> {
    /// They stay here, or are dropped.
    Nowhere,
    /// An XFRM interface, which has policies of its own.
    Interface(&'s Interface),
    /// Another device, or one that is not known.
    Underlay,
}

/// All ways that packets to addresses of a prefix may take.
pub(super) fn routed(state: &State, to: Prefix) -> Vec<RoutedTo<'_>> {
    let mut ways = Vec::new();
    let followed = followed(state, to);
    let is_known = followed.iter().any(|entry| is_for_all(entry, to));
    if !is_known {
        ways.push(RoutedTo::Underlay);
    }
    for entry in followed {
        match &entry.action {
            FibAction::Blackhole => ways.push(RoutedTo::Nowhere),
            // A look-up goes on in another table.
            FibAction::Other(word) if word == "throw" => ways.push(RoutedTo::Underlay),
            FibAction::Other(_) => ways.push(RoutedTo::Nowhere),
            FibAction::Devices(devices) => ways.extend(devices.iter().map(|device| {
                let interface = state.interfaces.iter().find(|one| one.name == *device);
                interface.map_or(RoutedTo::Underlay, RoutedTo::Interface)
            })),
        }
    }
    ways
}

/// The entries that packets to some address of a prefix follow, or may follow.
fn followed(state: &State, to: Prefix) -> Vec<&FibEntry> {
    let mut best: BTreeMap<(u32, Prefix, bool), &FibEntry> = BTreeMap::new();
    for entry in state.fib.iter().filter(|entry| entry.to.overlaps(&to)) {
        let key = (entry.table, entry.to.network(), entry.selective);
        let first = best.entry(key).or_insert(entry);
        if entry.metric < first.metric {
            *first = entry;
        }
    }
    // Of those for the whole prefix the longest wins.
    let longest = best.values().filter(|entry| is_for_all(entry, to));
    let longest = longest.map(|entry| entry.to.length).max();
    let is_followed = |entry: &&FibEntry| {
        let is_longest = Some(entry.to.length) >= longest;
        entry.table != MAIN_TABLE || !entry.to.covers(&to) || is_longest
    };
    best.into_values().filter(is_followed).collect()
}

/// Whether packets to all addresses of a prefix follow an entry, if no other wins.
fn is_for_all(entry: &FibEntry, to: Prefix) -> bool {
    entry.table == MAIN_TABLE && entry.to.covers(&to) && !entry.selective
}
