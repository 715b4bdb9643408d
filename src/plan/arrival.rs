//! Whether a packet that arrives is taken, or sent on.
//!
//! The other half of the model of the kernel's look-ups (`__xfrm_policy_check`, `xfrm_policy_ok`,
//! `xfrm_selector_match`), and of the chains for packets that arrive.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::flow::{Passing, Table, best, chains, verdict};
use crate::model::{
    Action, ChainRole, Direction, Interface, Level, Mode, Policy, Reqid, Sa, Selector, State,
    Template,
};

/// The fate of a packet that arrives, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrival {
    /// It is taken, or sent on.
    Accepted,
    /// It is dropped.
    Refused,
}

/// All fates that a state leaves open of a packet that arrives in the clear, or under an SA of this
/// host. Chains see only what is for the host itself.
pub fn arrivals(
    state: &State,
    packet: &Selector,
    mark: u32,
    direction: Direction,
    under: Option<&Sa>,
) -> BTreeSet<Arrival> {
    let mut fates = BTreeSet::new();
    let reqids: BTreeSet<Reqid> = under.map(|sa| sa.reqid).into_iter().collect();
    let mut passes = true;
    if direction == Direction::In {
        for role in [ChainRole::MangleIn, ChainRole::In] {
            for chain in chains(state, role, packet) {
                let side = Direction::In;
                let passing = Passing { packet, side, reqids: &reqids, by: None };
                let verdict = verdict(state, chain, passing);
                passes &= verdict.passes;
                fates.extend(verdict.drops.then_some(Arrival::Refused));
            }
        }
    }
    if passes {
        fates.extend(by_policies(state, packet, mark, direction, under));
    }
    fates
}

/// The same of policies alone.
fn by_policies(
    state: &State,
    packet: &Selector,
    mark: u32,
    direction: Direction,
    under: Option<&Sa>,
) -> BTreeSet<Arrival> {
    // What an SA with a number has decrypted comes out of the interface of that number
    // (`xfrmi_rcv_cb`).
    let interface = under.and_then(|sa| comes_by(state, sa));
    if is_past_policies(state, packet, interface) {
        return BTreeSet::from([Arrival::Accepted]);
    }
    if under.is_some_and(|sa| !is_for(sa, packet)) {
        return BTreeSet::from([Arrival::Refused]);
    }
    let if_id = interface.map_or(0, |interface| interface.if_id);
    let table = |sub| Table { direction, sub, if_id };
    let [subs, mains] = [true, false].map(|sub| best(state, packet, mark, table(sub)));
    let pairs = subs.iter().flat_map(|sub| mains.iter().map(move |main| [*sub, *main]));
    let fate = |policies: [Option<&Policy>; 2]| match takes(policies, under) {
        true => Arrival::Accepted,
        false => Arrival::Refused,
    };
    pairs.map(fate).collect()
}

/// The XFRM interface by which an SA's packets come in, if there is one.
pub(super) fn comes_by<'s>(state: &'s State, sa: &Sa) -> Option<&'s Interface> {
    let is_of_number = |one: &&Interface| sa.if_id != 0 && one.if_id == sa.if_id && one.up;
    state.interfaces.iter().find(is_of_number)
}

/// Whether an SA's own selector lets a packet through.
pub(super) fn is_for(sa: &Sa, packet: &Selector) -> bool {
    sa.selector.is_none_or(|selector| selector.covers(packet))
}

/// Whether policies let a packet through that came in the clear, or under an SA.
pub(super) fn takes(policies: [Option<&Policy>; 2], under: Option<&Sa>) -> bool {
    let policies = || policies.into_iter().flatten();
    let blocks = policies().any(|policy| policy.action == Action::Block);
    let templates: Vec<&Template> = policies().flat_map(|policy| &policy.templates).collect();
    !blocks
        && match under {
            None => templates.iter().all(|template| template.level == Level::Use),
            Some(sa) => satisfies(sa, &templates),
        }
}

/// Whether one SA is enough for templates, the innermost first (`xfrm_policy_ok`).
fn satisfies(sa: &Sa, templates: &[&Template]) -> bool {
    let mut used = false;
    for template in templates.iter().rev() {
        let fits = !used && fits(sa, template);
        match template.level {
            Level::Use if template.mode == Mode::Transport => {}
            Level::Required if !fits => return false,
            Level::Use | Level::Required => used |= fits,
        }
    }
    // A packet that a tunnel has wrapped must have been asked for.
    used || sa.mode == Mode::Transport
}

/// Unlike a packet that leaves, one that arrives needs no very reqid where the template has none.
pub(super) fn fits(sa: &Sa, template: &Template) -> bool {
    let any = |wanted: std::net::IpAddr, found| wanted.is_unspecified() || wanted == found;
    sa.id.proto == template.proto
        && (template.spi.raw() == 0 || template.spi == sa.id.spi)
        && (template.reqid.0 == 0 || template.reqid == sa.reqid)
        && sa.mode == template.mode
        && (sa.mode == Mode::Transport || any(template.src, sa.src) && any(template.dst, sa.id.dst))
}

/// Whether a sysctl may let a packet in past all policies (`IN_DEV_NOPOLICY`): that of `all`, of a
/// device that has the address, and over IPv4 of one by which packets leave from there. Nothing
/// comes in by lo and, over IPv4, by a dummy.
pub(super) fn is_past_policies(
    state: &State,
    packet: &Selector,
    interface: Option<&Interface>,
) -> bool {
    let (local, ipv6) = (packet.dst.address, !packet.is_ipv4());
    let carries = |device: &str| {
        let inner = state.link(device).is_some_and(|link| link.kind.as_deref() == Some("dummy"));
        let mut here = state.addresses.iter().filter(|at| at.address == local);
        (ipv6 || device != "lo" && !inner) && here.any(|at| at.device == device)
    };
    let comes_by = |device: &str| {
        let mut routes = state.routes.iter().filter(|route| route.from == local);
        !ipv6 && routes.any(|route| route.devices.contains(device))
    };
    state.bypasses.iter().any(|bypass| {
        (bypass.name.as_str(), bypass.ipv6) == ("disable_policy", ipv6)
            && (bypass.device == "all"
                || match interface {
                    Some(interface) => interface.name == bypass.device,
                    None => carries(&bypass.device) || comes_by(&bypass.device),
                })
    })
}
