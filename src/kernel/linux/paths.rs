//! The path MTUs that the kernel has learned from routers, by `RTM_GETROUTE`. Needs no privilege.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, net::IpAddr};

use zeroize::Zeroizing;

use super::{
    netlink::{Answer, Engine, LOOK_WINDOW, Protocol},
    routes::{HEADER, RTA_DST, RTA_SRC, RTM_GETROUTE, attribute, octets},
    wire::{Request, attributes, u32_at},
};
use crate::kernel::KernelError;

/// linux/rtnetlink.h: the metrics of a route, and among them its MTU.
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;

/// The MTUs of routes from an address that have one of their own: learned, or set by hand.
///
/// # Errors
///
/// Any doubt that all answers were understood. No route is an answer.
pub(super) fn mtus(from: IpAddr, peers: &[IpAddr]) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
    let requests: Vec<Request> = peers.iter().map(|to| request(from, *to)).collect();
    let answers = Engine::open(Protocol::Route)?.transact(&requests, LOOK_WINDOW)?;
    let mut found = BTreeMap::new();
    for (to, answer) in peers.iter().zip(&answers) {
        if let Some(mtu) = mtu(answer)? {
            found.insert(*to, mtu);
        }
    }
    Ok(found)
}

fn request(from: IpAddr, to: IpAddr) -> Request {
    let (family, bits) = if to.is_ipv4() { (2u8, 32u8) } else { (10, 128) };
    let mut body = vec![family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    attribute(&mut body, RTA_DST, &octets(to));
    attribute(&mut body, RTA_SRC, &octets(from));
    let body = Zeroizing::new(body);
    Request { kind: RTM_GETROUTE, body, joined: false, acknowledged: false }
}

fn mtu(answer: &Answer) -> Result<Option<u32>, KernelError> {
    let message = answer.outcome.as_ref().ok().and(answer.object.as_deref());
    let Some((_, rest)) = message.and_then(|message| message.split_at_checked(HEADER)) else {
        return Ok(None);
    };
    let metrics = attributes(rest)?.into_iter().find(|(kind, _)| *kind == RTA_METRICS);
    let Some((_, range)) = metrics else { return Ok(None) };
    let metrics = &rest[range];
    let mtu = attributes(metrics)?.into_iter().find(|(kind, _)| *kind == RTAX_MTU);
    Ok(mtu.and_then(|(_, range)| u32_at(&metrics[range], 0)).filter(|mtu| *mtu > 0))
}
