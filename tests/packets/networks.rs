//! The way of a packet to a network of a peer: routes, the XFRM interface, and the policies with its
//! number. Written from the kernel's source, apart from the program's own decisions: `fib_table_lookup`
//! and `fib6_table_lookup`, `xfrm_lookup` as the route is found, `xfrmi_xmit2`, and the hook behind the
//! route (`ip_output`, `xfrm4_output`, and those of IPv6), which a packet passes once for each device.
//!
//! There is a route of the underlay for everything, behind all tables.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use meshsec::model::{
    Action, Chain, Direction, Family, FibAction, FibEntry, Interface, Level, MAIN_TABLE, Policy,
    Prefix, Reqid, Rule, Sa, Spi, State, Template,
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

/// The routes that a packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Those of the tables that the rules of the host name.
    Tables,
    /// One of the underlay: its socket asks for that device, or it came by a device in a VRF.
    Underlay,
}

impl Follows {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tables, Self::Underlay];
}

/// The worst fate of a packet that this host sends or forwards.
pub fn leaves(state: &State, src: IpAddr, dst: IpAddr, follows: Follows) -> Fate {
    if follows == Follows::Underlay {
        return by_underlay(state, src, dst);
    }
    let fates = found(state, dst).into_iter().map(|entry| match entry.map(|entry| &entry.action) {
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
    });
    fates.max().unwrap_or(Fate::Leaks)
}

/// The entries that a packet may follow, of each table that a rule may ask: the longest prefix, and of
/// those the smallest metric. Entries for some packets alone may be for this one or not. `None` is the
/// route of the underlay. The kernel has deleted the routes of devices that are down or gone.
fn found(state: &State, dst: IpAddr) -> Vec<Option<&FibEntry>> {
    let mut tables: BTreeMap<u32, Vec<&FibEntry>> = BTreeMap::from([(MAIN_TABLE, Vec::new())]);
    for entry in state.fib.iter().filter(|entry| holds(entry.to, dst)) {
        tables.entry(entry.table).or_default().push(entry);
    }
    let mut found = Vec::new();
    for (table, mut entries) in tables {
        entries.sort_by_key(|entry| (Reverse(entry.to.length), !entry.selective, entry.metric));
        let for_all = entries.iter().position(|entry| !entry.selective);
        found.extend(
            entries.iter().take(for_all.map_or(usize::MAX, |at| at + 1)).copied().map(Some),
        );
        if table == MAIN_TABLE && for_all.is_none() {
            found.push(None);
        }
    }
    found
}

fn by_underlay(state: &State, src: IpAddr, dst: IpAddr) -> Fate {
    let fate = policy(state, 0, src, dst).and_then(|policy| transformed(state, policy, 0));
    let fate = fate.unwrap_or(Fate::Leaks);
    behind_the_route(state, dst, None, fate)
}

/// The fate of a packet behind the chains of the hook POSTROUTING: they see the device, and the SAs
/// that the packet is to go through.
fn behind_the_route(state: &State, dst: IpAddr, device: Option<&str>, fate: Fate) -> Fate {
    let through: BTreeSet<Reqid> = match fate {
        Fate::Protected(spi) => {
            state.sas.iter().filter(|sa| sa.id.spi == spi).map(|sa| sa.reqid).collect()
        }
        Fate::Dropped | Fate::Leaks => BTreeSet::new(),
    };
    let family = if dst.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let meets = |chain: &&Chain| {
        (chain.id.family, chain.id.hook()) == (family, "POSTROUTING") && chain.is_reached()
    };
    let drops = |chain: &Chain| {
        for rule in &chain.rules {
            match rule {
                Rule::PassDevice { device: spared } if device == Some(spared) => return false,
                Rule::PassProtected { reqid } if through.contains(reqid) => return false,
                Rule::PassOutside { network } if !holds(*network, dst) => return false,
                Rule::BlockTo { network } if holds(*network, dst) => return true,
                // It may take the packet past the rest.
                Rule::Other(_) => return false,
                _ => {}
            }
        }
        false
    };
    match state.firewall.chains.iter().filter(meets).any(drops) {
        true => Fate::Dropped,
        false => fate,
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
    if behind_the_route(state, dst, Some(&interface.name), Fate::Leaks) == Fate::Dropped {
        return Fate::Dropped;
    }
    // Without a policy, or without an SA, the interface counts an error and drops.
    let policy = policy(state, interface.if_id, src, dst);
    let fate = policy.and_then(|policy| transformed(state, policy, interface.if_id));
    behind_the_route(state, dst, None, fate.unwrap_or(Fate::Dropped))
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
