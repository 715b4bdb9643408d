//! Whether a packet leaves protected, is dropped, or leaves in the clear.
//!
//! A small model of the kernel's look-ups (`xfrm_lookup_with_ifid`, `xfrm_tmpl_resolve_one`,
//! `xfrm_state_find`) for packets that nobody has marked, and of the chains of meshes. It answers
//! reports and warnings, and the tests' question about every prefix of a plan.
//!
//! A packet is looked up together with its route, without a mark. The mangle table sees the result,
//! and may drop the packet or mark it. A marked packet is looked up again (`ip_route_me_harder`),
//! and the filter table sees the result of that.
//!
//! A packet that is routed to an XFRM interface meets that interface's policies, and is dropped where
//! none is for it (`xfrmi_xmit2`).

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::routed::{RoutedTo, routed};
use crate::model::{
    Action, Chain, ChainRole, Direction, Family, IPPROTO_ESP, IPPROTO_UDP, Interface, Level, Mode,
    Policy, PolicyId, PortMatch, Reqid, Rule, Sa, Selector, Spi, State, Template,
};

/// The fate of a packet, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// It leaves as ESP under this SPI.
    Protected(Spi),
    /// It does not leave.
    Blocked,
    /// It leaves unencrypted.
    Clear,
}

impl Flow {
    /// All names in JSON and metrics, the worst last.
    pub const WORDS: [&'static str; 3] = ["encrypted", "blocked", "clear"];

    /// Its name in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Protected(_) => "encrypted",
            Self::Blocked => "blocked",
            Self::Clear => "clear",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected(spi) => write!(f, "encrypted under SPI {spi}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Clear => f.write_str("in the clear"),
        }
    }
}

/// The fate of packets that match `packet`, a selector of two hosts; the worst of those that a
/// state leaves open.
pub fn flow_out(state: &State, packet: &Selector) -> Flow {
    flows_of(state, packet, 0).last().copied().unwrap_or(Flow::Clear)
}

/// All fates that a state leaves open, of packets that their sender has marked, the worst last.
pub(super) fn flows_of(state: &State, packet: &Selector, sent: u32) -> BTreeSet<Flow> {
    let first = look_up(state, packet, sent, Look::First);
    let mangle = filtered(state, ChainRole::MangleOut, packet, first);
    let mut ways = BTreeSet::new();
    for mark in marks(state, packet, sent) {
        for way in &mangle {
            match way.flow {
                Flow::Blocked => _ = ways.insert(way.clone()),
                Flow::Protected(_) | Flow::Clear if mark == sent => _ = ways.insert(way.clone()),
                Flow::Protected(_) | Flow::Clear => {
                    ways.extend(look_up(state, packet, mark, Look::Again));
                }
            }
        }
    }
    let sent = filtered(state, ChainRole::Out, packet, ways);
    let left = filtered(state, ChainRole::Post, packet, sent);
    left.into_iter().map(|way| way.flow).collect()
}

/// Whether a look-up is the one together with the route, or the one after a new mark.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    First,
    Again,
}

/// The outcome of the policies and SAs for a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    flow: Flow,
    /// The reqids of the SAs that it goes through, which a chain may ask for.
    reqids: BTreeSet<Reqid>,
}

impl Way {
    fn new(flow: Flow) -> Self {
        Self { flow, reqids: BTreeSet::new() }
    }

    /// The same through one SA more.
    fn through(&self, sa: &Sa) -> Self {
        let mut way = self.clone();
        way.reqids.insert(sa.reqid);
        if sa.id.proto == IPPROTO_ESP {
            way.flow = Flow::Protected(sa.id.spi);
        }
        way
    }
}

/// The fates of packets behind the chains of a table.
fn filtered(
    state: &State,
    role: ChainRole,
    packet: &Selector,
    ways: BTreeSet<Way>,
) -> BTreeSet<Way> {
    let mut left = BTreeSet::new();
    for way in ways {
        let passing = Passing { packet, side: Direction::Out, reqids: &way.reqids, by: None };
        let Verdict { passes, drops } = verdict_of_all(state, role, passing);
        if drops {
            left.insert(Way::new(Flow::Blocked));
        }
        if passes {
            left.insert(way);
        }
    }
    left
}

/// The possible effects of all chains of a role: each may drop a packet, and all have to let it pass.
fn verdict_of_all(state: &State, role: ChainRole, passing: Passing<'_>) -> Verdict {
    let verdicts = chains(state, role, passing.packet).map(|chain| verdict(state, chain, passing));
    verdicts.fold(Verdict { passes: true, drops: false }, |all, one| Verdict {
        passes: all.passes && one.passes,
        drops: all.drops || one.drops,
    })
}

/// The possible effects of a chain on a packet.
pub(super) struct Verdict {
    pub(super) passes: bool,
    pub(super) drops: bool,
}

/// Packets on their way through a chain.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    pub(super) packet: &'a Selector,
    /// In or out.
    pub(super) side: Direction,
    /// The reqids of the SAs that they go through.
    pub(super) reqids: &'a BTreeSet<Reqid>,
    /// The XFRM interface that they leave by; `None` for any other device.
    pub(super) by: Option<&'a str>,
}

/// The possible effects of a chain on packets. A foreign rule may accept them before the rules that
/// follow it.
pub(super) fn verdict(state: &State, chain: &Chain, passing: Passing<'_>) -> Verdict {
    let Passing { packet, side, reqids, by } = passing;
    let mut passes = !chain.is_reached();
    let mut drops = false;
    // What a host sends to itself goes by the loopback device, which the rules leave alone.
    let leaves = !(state.has_address(packet.dst.address)
        && (side == Direction::Out || state.has_address(packet.src.address)));
    for rule in &chain.rules {
        match rule {
            Rule::Pass { port, direction, reqid }
                if *direction == side
                    && leaves
                    && is_to(packet, *port)
                    && reqids.contains(reqid) =>
            {
                return Verdict { passes: true, drops: false };
            }
            Rule::Block { port, direction }
                if *direction == side && leaves && is_to(packet, *port) =>
            {
                return Verdict { passes, drops: true };
            }
            Rule::Drop { port, direction }
                if *direction == side && reqids.is_empty() && is_to(packet, *port) =>
            {
                return Verdict { passes, drops: true };
            }
            Rule::PassDevice { device } if by == Some(device.as_str()) => {
                return Verdict { passes: true, drops };
            }
            Rule::PassProtected { reqid } if reqids.contains(reqid) => {
                return Verdict { passes: true, drops };
            }
            Rule::PassOutside { network } if !network.overlaps(&packet.dst) => {
                return Verdict { passes: true, drops };
            }
            // Some of them go there, and may be dropped behind.
            Rule::PassOutside { network } => passes |= !network.covers(&packet.dst),
            Rule::BlockTo { network } if leaves && network.covers(&packet.dst) => {
                return Verdict { passes, drops: true };
            }
            // Some of them go to the network.
            Rule::BlockTo { network } if leaves => drops |= network.overlaps(&packet.dst),
            Rule::Other(_) => passes = true,
            Rule::Pass { .. }
            | Rule::Block { .. }
            | Rule::Drop { .. }
            | Rule::Mark { .. }
            | Rule::PassDevice { .. }
            | Rule::PassProtected { .. }
            | Rule::BlockTo { .. } => {}
        }
    }
    Verdict { passes: true, drops }
}

/// The chains of meshes for packets of this family, those without a rule that
/// leads to them left out.
pub(super) fn chains<'s>(
    state: &'s State,
    role: ChainRole,
    packet: &Selector,
) -> impl Iterator<Item = &'s Chain> + use<'s> {
    let family = Family::of(packet);
    let chains = state.firewall.chains.iter();
    chains.filter(move |chain| {
        chain.id.role() == Some(role) && chain.id.family == family && !chain.jumps.is_empty()
    })
}

fn is_to(packet: &Selector, port: u16) -> bool {
    packet.proto == IPPROTO_UDP && packet.dport == PortMatch::exactly(port)
}

/// The marks that the mangle table may give a packet. Several where other rules
/// decide whether it gets to ours.
pub(super) fn marks(state: &State, packet: &Selector, sent: u32) -> BTreeSet<u32> {
    let mut marks = BTreeSet::from([sent]);
    for chain in chains(state, ChainRole::Mark, packet) {
        let mut certain = chain.is_reached();
        for rule in &chain.rules {
            match rule {
                Rule::Mark { port, mark } if is_to(packet, *port) => {
                    let after: Vec<u32> =
                        marks.iter().map(|before| (before & !mark.mask) ^ mark.value).collect();
                    if certain {
                        marks.clear();
                    }
                    marks.extend(after);
                }
                Rule::Other(_) => certain = false,
                Rule::Mark { .. }
                | Rule::Pass { .. }
                | Rule::Block { .. }
                | Rule::Drop { .. }
                | Rule::PassDevice { .. }
                | Rule::PassProtected { .. }
                | Rule::PassOutside { .. }
                | Rule::BlockTo { .. } => {}
            }
        }
    }
    marks
}

/// All possible outcomes of routes, policies and SAs for a packet with a mark, before any chain drops
/// it.
fn look_up(state: &State, packet: &Selector, mark: u32, look: Look) -> BTreeSet<Way> {
    let mut ways = BTreeSet::new();
    for to in routed(state, packet.dst) {
        match to {
            RoutedTo::Nowhere => _ = ways.insert(Way::new(Flow::Blocked)),
            RoutedTo::Interface(interface) => {
                ways.extend(by_interface(state, packet, mark, interface));
            }
            RoutedTo::Underlay => ways.extend(by_underlay(state, packet, mark, look)),
        }
    }
    ways
}

/// All possible outcomes for a packet that is routed to an XFRM interface. Over IPv4 a sysctl of the
/// interface decides whether policies without a number are asked first. What they transform never gets
/// to the interface.
fn by_interface(
    state: &State,
    packet: &Selector,
    mark: u32,
    interface: &Interface,
) -> BTreeSet<Way> {
    let mut ways = BTreeSet::new();
    let mut gets_there = packet.is_ipv4() && interface.skips_policies;
    if !gets_there {
        for way in by_policies(state, packet, mark, 0) {
            match way.flow {
                Flow::Clear => gets_there = true,
                Flow::Protected(_) | Flow::Blocked => _ = ways.insert(way),
            }
        }
    }
    if gets_there {
        let reqids = BTreeSet::new();
        let by = Some(interface.name.as_str());
        let passing = Passing { packet, side: Direction::Out, reqids: &reqids, by };
        let Verdict { passes, drops } = verdict_of_all(state, ChainRole::Post, passing);
        ways.extend(drops.then(|| Way::new(Flow::Blocked)));
        if !passes {
            return ways;
        }
        let left = by_policies(state, packet, mark, interface.if_id).into_iter();
        ways.extend(left.map(|way| match way.flow {
            // It counts an error (`xfrmi_xmit2`).
            Flow::Clear => Way::new(Flow::Blocked),
            Flow::Protected(_) | Flow::Blocked => way,
        }));
    }
    ways
}

fn by_underlay(state: &State, packet: &Selector, mark: u32, look: Look) -> BTreeSet<Way> {
    if state.bypasses_policies(packet.src.address, packet.dst.address) {
        return BTreeSet::from([Way::new(Flow::Clear)]);
    }
    let (packet, mark) = &seen(state, packet, mark, look);
    by_policies(state, packet, *mark, 0)
}

/// All possible outcomes of the policies with the number of an interface, or of those without one.
fn by_policies(state: &State, packet: &Selector, mark: u32, if_id: u32) -> BTreeSet<Way> {
    // Policies of the table of sub policies are asked first, and the main ones all the same.
    let table = |sub| Table { direction: Direction::Out, sub, if_id };
    let [subs, mains] = [true, false].map(|sub| best(state, packet, mark, table(sub)));
    let ways = subs.iter().flat_map(|sub| mains.iter().map(move |main| [*sub, *main]));
    ways.flat_map(|way| resolve(state, way, packet)).collect()
}

/// The policies that are asked about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Those for packets of a direction.
    pub(super) direction: Direction,
    /// Those of the table of sub policies.
    pub(super) sub: bool,
    /// Those with the number of an XFRM interface; 0 is none.
    pub(super) if_id: u32,
}

/// A packet as a look-up sees it. One that waits in a VRF is looked up again as it leaves that,
/// without its ports, and over IPv4 without its mark; once more, with both, if the mangle table then
/// marks it.
pub(super) fn seen(state: &State, packet: &Selector, mark: u32, look: Look) -> (Selector, u32) {
    let route = state.route(packet.src.address, packet.dst.address);
    let waits = route.is_some_and(|route| state.queued_vrfs(route).next().is_some());
    if look == Look::Again || !waits {
        return (*packet, mark);
    }
    let mark = if packet.is_ipv4() { 0 } else { mark };
    (Selector { sport: PortMatch::ANY, dport: PortMatch::ANY, ..*packet }, mark)
}

/// The policies with the smallest priority number, or none. Of several the oldest wins, but a state
/// does not hold their age.
pub(super) fn best<'s>(
    state: &'s State,
    packet: &Selector,
    mark: u32,
    table: Table,
) -> Vec<Option<&'s Policy>> {
    let applies = |policy: &&Policy| miss(policy, packet, mark, table).is_none();
    let found = || state.policies.iter().filter(applies);
    match found().map(|policy| policy.priority).min() {
        Some(smallest) => found().filter(|best| best.priority == smallest).map(Some).collect(),
        None => vec![None],
    }
}

/// The reason why a policy is not for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// It is for another direction, or in the other of the two tables.
    Table,
    /// It is for an XFRM interface, or for another one.
    Interface,
    /// It is for another mark.
    Mark,
    /// It is for other sources.
    Source,
    /// It is for other destinations.
    Destination,
    /// It is for another protocol.
    Protocol,
    /// It is for other ports, or types of ICMP.
    Ports,
    /// It is for packets of one device.
    Device,
}

/// Why a policy is not for a packet in a direction and table, if it is not (`xfrm_policy_match`).
pub(super) fn miss(
    policy: &Policy,
    packet: &Selector,
    mark: u32,
    Table { direction, sub, if_id }: Table,
) -> Option<Miss> {
    let (id, selector) = (&policy.id, &policy.id.selector);
    let ports =
        |all: PortMatch, some: PortMatch| all.mask & some.mask == all.mask && all.overlaps(&some);
    Some(if (id.direction, id.sub) != (direction, sub) {
        Miss::Table
    } else if id.if_id != if_id {
        Miss::Interface
    } else if mark & id.mark.mask != id.mark.value {
        Miss::Mark
    } else if !selector.src.covers(&packet.src) {
        Miss::Source
    } else if !selector.dst.covers(&packet.dst) {
        Miss::Destination
    } else if selector.proto != 0 && selector.proto != packet.proto {
        Miss::Protocol
    } else if !ports(selector.sport, packet.sport) || !ports(selector.dport, packet.dport) {
        Miss::Ports
    } else if selector.ifindex != 0 && selector.ifindex != packet.ifindex {
        Miss::Device
    } else {
        return None;
    })
}

/// All possible results of the templates of policies. AH and IPComp leave everything readable.
fn resolve(state: &State, policies: [Option<&Policy>; 2], packet: &Selector) -> Vec<Way> {
    let policies = || policies.into_iter().flatten();
    if policies().any(|policy| policy.action == Action::Block) {
        return vec![Way::new(Flow::Blocked)];
    }
    let mut done = Vec::new();
    let mut ways = vec![(Way::new(Flow::Clear), (packet.src.address, packet.dst.address))];
    let asked = policies().flat_map(|policy| policy.templates.iter().map(|t| (t, policy.id)));
    for (template, id) in asked {
        let mut further = Vec::new();
        for (way, ends) in ways {
            let outer =
                if template.mode == Mode::Transport { ends } else { (template.src, template.dst) };
            let serves = |sa: &&Sa| serves(sa, template, &id, outer.1);
            let fits = |sa: &&Sa| sa.selector.is_none_or(|selector| selector.covers(packet));
            let (larval, found): (Vec<&Sa>, Vec<&Sa>) =
                state.sas.iter().filter(serves).partition(|sa| sa.is_larval());
            let found: Vec<&Sa> = found.into_iter().filter(fits).collect();
            if !is_certain(&found, &larval, outer.0) {
                match template.level {
                    Level::Required => done.push(Way::new(Flow::Blocked)),
                    Level::Use => further.push((way.clone(), ends)),
                }
            }
            further.extend(found.into_iter().map(|sa| (way.through(sa), outer)));
        }
        ways = further;
    }
    done.extend(ways.into_iter().map(|(way, _)| way));
    done
}

/// Whether an SA may be found for a template (`xfrm_state_find`), apart from its own selector. Unlike
/// an arriving packet, one that leaves needs an SA of the very reqid, even if that is 0.
pub(super) fn serves(sa: &Sa, template: &Template, policy: &PolicyId, dst: IpAddr) -> bool {
    // Older snapshots have the number among the other attributes, and the SA is of no known one.
    let is_of_number = sa.if_id == policy.if_id && (sa.if_id != 0 || !sa.has_interface());

    sa.id.dst == dst
        && sa.id.proto == template.proto
        && (template.spi.raw() == 0 || sa.id.spi == template.spi)
        && sa.reqid == template.reqid
        && sa.mode == template.mode
        && policy.mark.finds(sa.id.mark)
        && is_of_number
}

/// Whether the kernel finds one of some SAs for certain.
///
/// It looks among those from the packet's address first, and then in the hash bucket of those from
/// any address. There it compares no source: an SA from a third address is found too where the
/// table's present size puts it into that bucket. A larval SA ends the search.
fn is_certain(found: &[&Sa], larval: &[&Sa], src: IpAddr) -> bool {
    let from = |sas: &[&Sa], src: IpAddr| sas.iter().any(|sa| sa.src == src);
    let any = if src.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
    from(found, src) || from(found, any) && !from(larval, src) && !from(larval, any)
}
