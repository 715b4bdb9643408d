//! Entries of routing tables: dumps of them, and changes.
//!
//! Tables may hold a million entries. Only those are kept that are meshes', and those that overlap
//! with the mesh's networks in the main table, or in one that a rule may ask before it. Where no
//! networks are asked for, the kernel is asked for entries of meshes alone (`NETLINK_GET_STRICT_CHK`).
//! Still it goes through all of them, under the lock of all network devices. So nobody asks where a mesh
//! without networks is looked at, and no XFRM interface is there.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType},
};

use super::{
    link::{self, Devices},
    netlink::{Engine, Protocol},
    routes::{
        HEADER, RTA_DST, RTA_MULTIPATH, RTA_OIF, RTA_PREFSRC, RTM_GETROUTE, address, several,
    },
    wire::{attributes, garbled, u32_at},
};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{FibAction, FibEntry, MAIN_TABLE, ObjectStep, Prefix, PrefixMap, RouteStep, Ways},
};

/// linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
/// The entry is a copy that the kernel made of another.
const RTM_F_CLONED: u32 = 0x200;

/// linux/fib_rules.h.
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// Bytes of `fib_rule_hdr`: family, lengths of the addresses, and others.
const RULE_HEADER: usize = 12;
/// The rule has packets looked up in a table (`FR_ACT_TO_TBL`).
const TO_TABLE: u8 = 1;
const FRA_TABLE: u16 = 15;
/// The rule has the look-up go on at another rule (`FR_ACT_GOTO`).
const GO_TO: u8 = 2;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
/// Attributes that do not say which packets a rule is for: priority, table, prefixes that are
/// suppressed, the maker, padding, realms.
const FRA_FOR_ALL: [u16; 6] = [6, FRA_TABLE, FRA_SUPPRESS_PREFIXLEN, 21, 18, 11];

/// Families by the kernel's number, with an address of each.
const FAMILIES: [(u8, IpAddr); 2] = [
    (2, IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
    (10, IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
];

/// The entries of meshes, and those that overlap with the mesh's networks; none where there can't be
/// any. A mesh that is looked at without its file may have had networks.
///
/// # Errors
///
/// Any doubt that all entries were read.
pub(super) fn observe(ways: &Ways, devices: &Devices) -> Result<Vec<FibEntry>, KernelError> {
    let networks = &ways.networks;
    if networks.is_empty() && devices.interfaces.is_empty() && !ways.members.is_empty() {
        return Ok(Vec::new());
    }
    let mut engine = Engine::open(Protocol::Route)?;
    let protocol = match networks.is_empty() {
        // A kernel that does not filter shows all of them.
        true if engine.check_strictly() => FibEntry::PROTOCOL,
        _ => 0,
    };
    let by_prefix: PrefixMap<()> = networks.iter().map(|network| (*network, ())).collect();
    let overlaps = |to: Prefix| by_prefix.covering(to).chain(by_prefix.within(to)).next().is_some();
    let mut found = Vec::new();
    for (family, _) in FAMILIES {
        let asked_first = match networks.is_empty() {
            true => Some(BTreeSet::new()),
            false => before_main(&mut engine, family, networks)?,
        };
        let counts = |table: u32| {
            table == MAIN_TABLE || asked_first.as_ref().is_none_or(|first| first.contains(&table))
        };
        let mut body = [0; HEADER];
        (body[0], body[5]) = (family, protocol);
        found.extend(engine.dump((RTM_GETROUTE, RTM_NEWROUTE), &body, "routes", |message| {
            let entry = decoded(message, devices)?;
            Ok(entry.filter(|entry| {
                entry.protocol == FibEntry::PROTOCOL || counts(entry.table) && overlaps(entry.to)
            }))
        })?);
    }
    // A kernel without IPv6 answers a question about it with all that it has.
    found.sort();
    found.dedup();
    Ok(found)
}

/// The tables that rules ask before one has all packets looked up in the main table. Those of VRFs are
/// not among them: their rule names no table, and is for packets of a VRF alone. `None` where any table
/// may be asked.
fn before_main(
    engine: &mut Engine,
    family: u8,
    networks: &[Prefix],
) -> Result<Option<BTreeSet<u32>>, KernelError> {
    let shortest = networks.iter().map(|network| u32::from(network.length)).min();
    let mut body = [0; RULE_HEADER];
    body[0] = family;
    let mut tables = BTreeSet::new();
    let (mut is_done, mut goes_on) = (false, false);
    engine.dump((RTM_GETRULE, RTM_NEWRULE), &body, "routing rules", |message| {
        let (header, rest) = message
            .split_at_checked(RULE_HEADER)
            .ok_or_else(|| garbled(format!("a routing rule of {} bytes", message.len())))?;
        let (mut table, mut is_for_all) = (u32::from(header[4]), header[1..=3] == [0; 3]);
        for (kind, range) in attributes(rest)? {
            let number = || {
                let short = || garbled("a routing rule's short number");
                u32_at(&rest[range.clone()], 0).ok_or_else(short)
            };
            match kind {
                FRA_TABLE => table = number()?,
                // Without such a limit the number is -1.
                FRA_SUPPRESS_PREFIXLEN if number()? != u32::MAX => {
                    is_for_all &= shortest.is_some_and(|shortest| shortest > number().unwrap_or(0));
                }
                _ => is_for_all &= FRA_FOR_ALL.contains(&kind),
            }
        }
        goes_on |= header[0] == family && header[7] == GO_TO && !is_done;
        if header[0] == family && header[7] == TO_TABLE && !is_done {
            is_done = table == MAIN_TABLE && is_for_all;
            tables.insert(table);
        }
        Ok(Some(()))
    })?;
    Ok((!goes_on).then_some(tables))
}

/// A message of a dump; none for an entry that no packet from here follows.
fn decoded(message: &[u8], devices: &Devices) -> Result<Option<FibEntry>, KernelError> {
    let (header, rest) = message
        .split_at_checked(HEADER)
        .ok_or_else(|| garbled(format!("a route of {} bytes", message.len())))?;
    let family = FAMILIES.into_iter().find(|(family, _)| *family == header[0]);
    let flags = u32_at(header, 8).unwrap_or_default();
    // Routes of multicast have families of their own.
    let Some((_, unspecified)) = family.filter(|_| flags & RTM_F_CLONED == 0) else {
        return Ok(None);
    };
    let mut to = Prefix { address: unspecified, length: header[1] };
    let (mut table, mut metric, mut source) = (u32::from(header[4]), 0, None);
    let mut by = BTreeSet::new();
    let number = |value: &[u8]| u32_at(value, 0).ok_or_else(|| garbled("a route's short number"));
    for (kind, range) in attributes(rest)? {
        let value = &rest[range];
        match kind {
            RTA_DST => to.address = address(value)?,
            RTA_TABLE => table = number(value)?,
            RTA_PRIORITY => metric = number(value)?,
            RTA_PREFSRC => source = Some(address(value)?),
            RTA_OIF => _ = by.insert(devices.name(number(value)?)),
            RTA_MULTIPATH => {
                by.extend(several(value)?.into_iter().map(|hop| devices.name(hop.index)));
            }
            _ => {}
        }
    }
    let action = action(header[7], by);
    // The length of a source's prefix, and the type of service.
    let selective = (header[2], header[3]) != (0, 0);
    Ok(Some(FibEntry { to, table, metric, action, protocol: header[5], selective, source }))
}

/// The action of a route's type (`RTN_UNICAST` and others).
fn action(kind: u8, devices: BTreeSet<String>) -> FibAction {
    let other = |word: &str| FibAction::Other(word.into());
    match kind {
        1 => FibAction::Devices(devices),
        2 => other("local"),
        3 => other("broadcast"),
        4 => other("anycast"),
        5 => other("multicast"),
        6 => FibAction::Blackhole,
        7 => other("unreachable"),
        8 => other("prohibit"),
        9 => other("throw"),
        number => FibAction::Other(format!("type {number}")),
    }
}

/// Performs a step.
pub(super) fn perform(step: &RouteStep) -> Result<(), KernelError> {
    let (RouteStep::Add(entry) | RouteStep::Delete(entry)) = step;
    rules::check_route(entry, step)?;
    let is_deleted = matches!(step, RouteStep::Delete(_));
    let message = match encoded(entry) {
        Ok(message) => message,
        // The kernel deletes the routes of a device that goes.
        Err(_) if is_deleted => return Ok(()),
        Err(errno) => {
            let detail = rules::route_refused(errno);
            return Err(KernelError::Refused { doing: step.attempt(), errno, detail });
        }
    };
    let answer =
        link::change(step.attempt(), rules::route_refused, async |handle| match is_deleted {
            false => handle.route().add(message).execute().await,
            true => handle.route().del(message).execute().await,
        });
    match answer {
        Err(KernelError::Refused { errno: Errno::ESRCH | Errno::ENODEV, .. }) if is_deleted => {
            Ok(())
        }
        answer => answer,
    }
}

/// The message about an entry, or the error number of a device that is not there.
fn encoded(entry: &FibEntry) -> Result<RouteMessage, Errno> {
    // That of a mesh is for all packets.
    let FibEntry { to, table, metric, action, protocol, selective: _, source } = entry;
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .table_id(*table)
        .protocol(RouteProtocol::from(*protocol))
        .priority(*metric);
    // A builder refuses addresses and lengths that don't go together, which prefixes never have.
    message = message.destination_prefix(to.address, to.length).map_err(|_| Errno::EINVAL)?;
    if let Some(source) = source {
        message = message.pref_source(*source).map_err(|_| Errno::EINVAL)?;
    }
    let FibAction::Devices(devices) = action else {
        return Ok(message.kind(RouteType::BlackHole).build());
    };
    for device in devices {
        message.get_mut().attributes.push(RouteAttribute::Oif(link::index(device)?));
    }
    Ok(message.build())
}
