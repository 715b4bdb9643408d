//! Whether a packet leaves protected, is dropped, or leaves in clear.
//!
//! A small model of the kernel's look-ups (`xfrm_lookup_with_ifid`,
//! `xfrm_tmpl_resolve_one`, `xfrm_state_find`) for packets without a mark. It
//! answers reports and warnings, and the tests' question about every prefix of
//! a plan.

use std::{fmt, net::IpAddr};

use crate::model::{
    Action, Direction, Level, Mark, Mode, Policy, Sa, Selector, Spi, State, Template,
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

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected(spi) => write!(f, "protected under spi {spi}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Clear => f.write_str("in clear"),
        }
    }
}

/// What becomes of packets that match `packet`, a selector of two hosts.
pub fn flow_out(state: &State, packet: &Selector) -> Flow {
    let candidates = state.policies.iter().filter(|policy| applies(policy, packet));
    // Where two have the same priority the older one wins, which a state does
    // not tell: the one that is worse counts.
    let best = candidates.min_by_key(|policy| (policy.priority, !policy.lets_clear_text_pass()));
    match best {
        None => Flow::Clear,
        Some(policy) if policy.action == Action::Block => Flow::Blocked,
        Some(policy) => resolve(state, policy, packet),
    }
}

fn applies(policy: &Policy, packet: &Selector) -> bool {
    policy.id.direction == Direction::Out
        && policy.id.if_id == 0
        && !policy.id.sub
        && policy.id.mark.value == 0
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
