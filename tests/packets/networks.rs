//! The way of a packet to a network of a peer: routes, the XFRM interface, and the policies with its
//! number. Written from the kernel's source, apart from the program's own decisions: `fib_table_lookup`
//! and `fib6_table_lookup`, `xfrm_lookup` as the route is found, and `xfrmi_xmit2`.
//!
//! Of routing tables there is the main one, and behind it a route of the underlay for everything.

use std::{cmp::Reverse, net::IpAddr};

use meshsec::model::{
    Action, Direction, FibAction, FibEntry, Interface, Level, MAIN_TABLE, Policy, Prefix, Sa, Spi,
    State, Template,
};

/// The fate of a packet, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It leaves inside ESP, under this SPI.
    Protected(Spi),
    /// It does not leave.
    Dropped,
    /// Its content can be read on the underlay.
    Leaks,
}

/// The fate of a packet that this host sends or forwards.
pub fn leaves(state: &State, src: IpAddr, dst: IpAddr) -> Fate {
    match found(state, dst).map(|entry| &entry.action) {
        Some(FibAction::Blackhole | FibAction::Other(_)) => Fate::Dropped,
        Some(FibAction::Devices(devices)) => {
            let by = |device: &String| state.interfaces.iter().find(|one| one.name == *device);
            let fates = devices.iter().map(|device| match by(device) {
                Some(interface) => by_interface(state, interface, src, dst),
                None => by_underlay(state, src, dst),
            });
            fates.max().unwrap_or(Fate::Dropped)
        }
        None => by_underlay(state, src, dst),
    }
}

/// The entry that a packet follows: the longest prefix, and of those the smallest metric. The kernel
/// has deleted the routes of devices that are down or gone.
fn found(state: &State, dst: IpAddr) -> Option<&FibEntry> {
    let mut entries: Vec<&FibEntry> = state
        .fib
        .iter()
        .filter(|entry| entry.table == MAIN_TABLE && holds(entry.to, dst))
        .collect();
    entries.sort_by_key(|entry| (Reverse(entry.to.length), entry.metric));
    entries.first().copied()
}

fn by_underlay(state: &State, src: IpAddr, dst: IpAddr) -> Fate {
    match policy(state, 0, src, dst) {
        None => Fate::Leaks,
        Some(policy) => transformed(state, policy, 0).unwrap_or(Fate::Leaks),
    }
}

/// A policy without a number is asked as the route is found, unless the device says no. What it
/// transforms never gets to the interface.
fn by_interface(state: &State, interface: &Interface, src: IpAddr, dst: IpAddr) -> Fate {
    let is_asked = !(src.is_ipv4() && interface.skips_policies);
    if let Some(before) = policy(state, 0, src, dst).filter(|_| is_asked)
        && let Some(fate) = transformed(state, before, 0)
    {
        return fate;
    }
    // Without a policy, or without an SA, the interface counts an error and drops.
    let policy = policy(state, interface.if_id, src, dst);
    policy.and_then(|policy| transformed(state, policy, interface.if_id)).unwrap_or(Fate::Dropped)
}

/// The policy out of the smallest priority number.
fn policy(state: &State, if_id: u32, src: IpAddr, dst: IpAddr) -> Option<&Policy> {
    let is_for = |policy: &&Policy| {
        let (id, selector) = (policy.id, policy.id.selector);
        id.direction == Direction::Out
            && (id.if_id, id.sub, id.mark.is_none()) == (if_id, false, true)
            && holds(selector.src, src)
            && holds(selector.dst, dst)
            && selector.proto == 0
    };
    state.policies.iter().filter(is_for).min_by_key(|policy| policy.priority)
}

/// The fate that a policy gives a packet; `None` if it passes as it is.
fn transformed(state: &State, policy: &Policy, if_id: u32) -> Option<Fate> {
    if policy.action == Action::Block {
        return Some(Fate::Dropped);
    }
    let mut fate = None;
    for template in &policy.templates {
        let sa = state.sas.iter().find(|sa| finds(sa, template, if_id));
        match (sa, template.level) {
            (Some(sa), _) => fate = Some(Fate::Protected(sa.id.spi)),
            (None, Level::Required) => return Some(Fate::Dropped),
            (None, Level::Use) => {}
        }
    }
    fate
}

/// `xfrm_state_find`, for a tunnel.
fn finds(sa: &Sa, template: &Template, if_id: u32) -> bool {
    (sa.src, sa.id.dst) == (template.src, template.dst)
        && (sa.id.proto, sa.mode, sa.reqid) == (template.proto, template.mode, template.reqid)
        && (template.spi.raw() == 0 || template.spi == sa.id.spi)
        && sa.if_id == if_id
}

fn holds(prefix: Prefix, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let free = 128 - u32::from(prefix.length);
    prefix.address.is_ipv4() == address.is_ipv4()
        && (bits(prefix.address) ^ bits(address)).checked_shr(free).unwrap_or(0) == 0
}
