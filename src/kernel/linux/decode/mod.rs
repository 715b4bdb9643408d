//! The kernel's messages to the model's types.
//!
//! Every length is checked before the parser of the crate sees a byte: that parser panics on short
//! messages. Key bytes are taken out of the message before it too, so that only meshsec's own types
//! ever hold a key. For [`super`] only.

mod policy;
mod sa;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_core::{DecodeError, Nla, NlaBuffer, Parseable};
use netlink_packet_xfrm::{Address, LifetimeConfig, XFRM_INF, XfrmAttrs, constants as xfrm};

use crate::{
    kernel::KernelError,
    model::{Mode, PortMatch, Prefix, Selector},
};

use super::wire::{self, garbled};

pub(super) use policy::{Owner, policy};
pub(super) use sa::{sa, sa_and_key};

/// The names of devices, by index.
pub(super) type Names = BTreeMap<u32, String>;

/// Settings that the model can't express, in words.
type Extras = BTreeSet<String>;

/// The family of the addresses in a message's 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(number: u16) -> Result<Self, KernelError> {
        match number {
            xfrm::AF_INET => Ok(Self::V4),
            xfrm::AF_INET6 => Ok(Self::V6),
            _ => Err(garbled(format!("address family {number}"))),
        }
    }

    /// The address. The 12 bytes after an IPv4 address can hold anything.
    fn address(self, raw: &Address) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(raw.to_ipv4()),
            Self::V6 => IpAddr::V6(raw.to_ipv6()),
        }
    }
}

/// A selector; without a family it selects nothing in particular.
fn selector(raw: &netlink_packet_xfrm::Selector) -> Result<Option<Selector>, KernelError> {
    if raw.family == xfrm::AF_UNSPEC {
        return Ok(None);
    }
    let family = Family::of(raw.family)?;
    let prefix = |address, length| Prefix { address: family.address(address), length };
    Ok(Some(Selector {
        src: prefix(&raw.saddr, raw.prefixlen_s),
        dst: prefix(&raw.daddr, raw.prefixlen_d),
        proto: raw.proto,
        sport: PortMatch { port: raw.sport, mask: raw.sport_mask },
        dport: PortMatch { port: raw.dport, mask: raw.dport_mask },
        ifindex: raw.ifindex,
        user: raw.user,
    }))
}

fn mode(number: u8) -> Mode {
    match number {
        xfrm::XFRM_MODE_TRANSPORT => Mode::Transport,
        xfrm::XFRM_MODE_TUNNEL => Mode::Tunnel,
        other => Mode::Other(other),
    }
}

/// Limits that are set. Their use so far is not configuration.
fn lifetimes(limits: &LifetimeConfig, extras: &mut Extras) {
    for (name, limit) in [
        ("soft-byte", limits.soft_byte_limit),
        ("hard-byte", limits.hard_byte_limit),
        ("soft-packet", limits.soft_packet_limit),
        ("hard-packet", limits.hard_packet_limit),
    ] {
        if limit != XFRM_INF {
            extras.insert(format!("{name} limit {limit}"));
        }
    }
    for (name, seconds) in [
        ("soft-add", limits.soft_add_expires_seconds),
        ("hard-add", limits.hard_add_expires_seconds),
        ("soft-use", limits.soft_use_expires_seconds),
        ("hard-use", limits.hard_use_expires_seconds),
    ] {
        if seconds != 0 {
            extras.insert(format!("{name} lifetime {seconds}s"));
        }
    }
}

/// Flags by name. Flags without a name become one number under `rest`.
fn flags(set: u32, names: &[(u32, &str)], rest: &str, extras: &mut Extras) {
    let mut unnamed = set;
    for (flag, name) in names {
        if set & flag != 0 {
            extras.insert(format!("flag {name}"));
        }
        unnamed &= !flag;
    }
    if unnamed != 0 {
        extras.insert(format!("{rest} {unnamed:#x}"));
    }
}

/// All attributes behind a fixed header, parsed; an unknown one is kept as such.
fn attributes(bytes: &[u8]) -> Result<Vec<XfrmAttrs>, KernelError> {
    wire::attributes(bytes)?
        .into_iter()
        .map(|(kind, value)| {
            let whole = value.start - netlink_packet_core::NLA_HEADER_SIZE..value.end;
            if kind == xfrm::XFRMA_TMPL
                && !value.len().is_multiple_of(netlink_packet_xfrm::XFRM_USER_TEMPLATE_LEN)
            {
                return Err(garbled(format!("templates of {} bytes", value.len())));
            }
            XfrmAttrs::parse(&NlaBuffer::new(&bytes[whole])).map_err(undecodable)
        })
        .collect()
}

/// An attribute that neither the model nor this program knows.
fn unknown(attribute: &XfrmAttrs) -> String {
    format!("xfrma {} (unknown attribute)", attribute.kind())
}

/// Its text names lengths and fields, and no byte of the message.
fn undecodable(error: DecodeError) -> KernelError {
    garbled(error.to_string())
}
