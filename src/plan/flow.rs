//! Whether a packet leaves protected, is dropped, or leaves in clear.
//!
//! A small model of the kernel's look-ups (`xfrm_lookup_with_ifid`,
//! `xfrm_tmpl_resolve_one`, `xfrm_state_find`) for packets that nobody has
//! marked, and of the chains of meshes. It answers reports and warnings, and
//! the tests' question about every prefix of a plan.
//!
//! A packet is looked up as its route is, without a mark. Then the mangle
//! table may mark it, for which it is looked up again (`ip_route_me_harder`),
//! and the filter table sees what has come of that.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{
    desired::Desired,
    model::{
        Action, Chain, ChainRole, Direction, Family, IPPROTO_UDP, Level, Mark, Mode, PeerName,
        Policy, PortMatch, Rule, Sa, Selector, Spi, State, Template,
    },
};

/// What becomes of a packet, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// It leaves as ESP under this SPI.
    Protected(Spi),
    /// It does not leave.
    Blocked,
    /// It leaves as it is.
    Clear,
}

impl Flow {
    /// Its name in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Protected(_) => "protected",
            Self::Blocked => "blocked",
            Self::Clear => "clear",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected(spi) => write!(f, "protected under spi {spi}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Clear => f.write_str("in clear"),
        }
    }
}

/// What becomes of the packets to each peer of which it is asked; of several
/// kinds the worst.
pub fn flows_out(
    state: &State,
    desired: &Desired,
    asked: impl Fn(&PeerName) -> bool,
) -> BTreeMap<PeerName, Flow> {
    let mut flows = BTreeMap::new();
    for wanted in desired.policies.values().filter(|wanted| asked(&wanted.peer)) {
        if wanted.policy.id.direction == Direction::Out {
            let flow = flow_out(state, &desired.packets(wanted));
            let worst = flows.entry(wanted.peer.clone()).or_insert(flow);
            *worst = flow.max(*worst);
        }
    }
    flows
}

/// What becomes of packets that match `packet`, a selector of two hosts.
pub fn flow_out(state: &State, packet: &Selector) -> Flow {
    let unmarked = look_up(state, packet, 0);
    let flow = match marked(state, packet) {
        mark if mark != 0 && unmarked != Flow::Blocked => look_up(state, packet, mark),
        _ => unmarked,
    };
    if flow == Flow::Clear && is_dropped(state, packet) { Flow::Blocked } else { flow }
}

/// The chains of meshes that packets of this family certainly get to.
fn chains<'s>(
    state: &'s State,
    role: ChainRole,
    packet: &Selector,
) -> impl Iterator<Item = &'s Chain> + use<'s> {
    let family = Family::of(packet);
    let chains = state.firewall.chains.iter();
    chains.filter(move |chain| {
        chain.id.role() == Some(role) && chain.id.family == family && chain.is_reached()
    })
}

/// The rules of a chain up to one of somebody else, behind which nothing is certain.
fn rules(chain: &Chain) -> impl Iterator<Item = &Rule> {
    chain.rules.iter().take_while(|rule| !matches!(rule, Rule::Other(_)))
}

fn is_to(packet: &Selector, port: u16) -> bool {
    packet.proto == IPPROTO_UDP && packet.dport == PortMatch::exactly(port)
}

/// The mark that the mangle table gives a packet.
fn marked(state: &State, packet: &Selector) -> u32 {
    let rules = chains(state, ChainRole::Mark, packet).flat_map(rules);
    rules.fold(0, |before, rule| match rule {
        Rule::Mark { port, mark } if is_to(packet, *port) => (before & !mark.mask) ^ mark.value,
        _ => before,
    })
}

/// Whether the filter table drops a packet if it is not protected.
fn is_dropped(state: &State, packet: &Selector) -> bool {
    chains(state, ChainRole::Out, packet).flat_map(rules).any(|rule| {
        matches!(rule, Rule::Drop { port, direction: Direction::Out } if is_to(packet, *port))
    })
}

fn look_up(state: &State, packet: &Selector, mark: u32) -> Flow {
    let candidates = state.policies.iter().filter(|policy| applies(policy, packet, mark));
    // Where two have the same priority the older one wins, which a state does
    // not tell: the one that is worse counts.
    let best = candidates.min_by_key(|policy| (policy.priority, !policy.lets_clear_text_pass()));
    match best {
        None => Flow::Clear,
        Some(policy) if policy.action == Action::Block => Flow::Blocked,
        Some(policy) => resolve(state, policy, packet),
    }
}

fn applies(policy: &Policy, packet: &Selector, mark: u32) -> bool {
    policy.id.direction == Direction::Out
        && policy.id.if_id == 0
        && !policy.id.sub
        && mark & policy.id.mark.mask == policy.id.mark.value
        && policy.id.selector.covers(packet)
}

fn resolve(state: &State, policy: &Policy, packet: &Selector) -> Flow {
    let mut flow = Flow::Clear;
    for template in &policy.templates {
        match state.sas.iter().find(|sa| serves(sa, template, packet)) {
            Some(sa) => flow = Flow::Protected(sa.id.spi),
            None if template.level == Level::Required => return Flow::Blocked,
            None => {}
        }
    }
    flow
}

fn serves(sa: &Sa, template: &Template, packet: &Selector) -> bool {
    let remote: IpAddr = match template.mode {
        Mode::Transport => packet.dst.address,
        _ => template.dst,
    };
    sa.id.dst == remote
        && sa.id.proto == template.proto
        && (template.spi.raw() == 0 || sa.id.spi == template.spi)
        && (template.reqid.0 == 0 || sa.reqid == template.reqid)
        && sa.mode == template.mode
        && sa.id.mark == Mark::NONE
        && !sa.is_larval()
        && sa.selector.is_none_or(|selector| selector.covers(packet))
}
