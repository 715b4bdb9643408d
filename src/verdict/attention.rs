//! Why somebody should look at a host.

use std::fmt;

use super::{Case, PeerState, Verdict};
use crate::{
    config::{Protocol, Traffic},
    model::{Answers, Stage},
};

/// A reason for exit status 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// So many peers have this verdict.
    Peers(Verdict, usize),
    /// So many peers were not heard in the given time.
    NotHeard(usize),
    /// So many changes are due.
    Changes(usize),
    /// So many foreign objects are in the way.
    Conflicts(usize),
    /// No socket takes ESP out of UDP at this port.
    EncapSocket(u16),
}

impl Reason {
    /// Its code in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::Peers(verdict, _) => verdict.word(),
            Self::NotHeard(_) => "not_heard_in_time",
            Self::Changes(_) => "changes_due",
            Self::Conflicts(_) => "conflicts",
            Self::EncapSocket(_) => "encap_socket",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Peers(verdict, count) => {
                write!(f, "{count} {} {}", plural(count, "peer is", "peers are"), verdict.text())
            }
            Self::NotHeard(count) => {
                write!(f, "{count} {} not heard in time", plural(count, "peer was", "peers were"))
            }
            Self::Changes(count) => {
                write!(f, "{count} {} due", plural(count, "change is", "changes are"))
            }
            Self::Conflicts(count) => {
                write!(f, "{count} {}", plural(count, "conflict", "conflicts"))
            }
            Self::EncapSocket(port) => write!(f, "ESP in UDP port {port} is not taken in"),
        }
    }
}

fn plural(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

/// Whether traffic of a kind is answered, so that a peer's silence is an alarm.
/// Datagrams need no answer, and tunnels flood to peers that have none to give.
pub fn answers(traffic: Traffic) -> bool {
    match traffic {
        Traffic::All | Traffic::Networks => true,
        Traffic::Vxlan { .. } | Traffic::Geneve { .. } => false,
        Traffic::Port { protocol, .. } => match protocol {
            Protocol::Tcp => true,
            Protocol::Udp => false,
        },
    }
}

fn is_alarm(case: &Case<'_>, verdict: Verdict, stage: Stage) -> bool {
    match verdict {
        Verdict::Clear => stage.sends(),
        Verdict::Blocked | Verdict::NeverHeard => true,
        Verdict::Silent => case.strict || answers(case.config.traffic),
        Verdict::Idle | Verdict::Protected => false,
    }
}

pub(super) fn reasons(case: &Case<'_>, peers: &[PeerState]) -> Vec<Reason> {
    let alarms = |verdict| {
        let of_it = |peer: &&PeerState| peer.verdict == verdict;
        peers.iter().filter(of_it).filter(|peer| is_alarm(case, verdict, peer.stage)).count()
    };
    let verdicts = Verdict::ALL.map(|verdict| Reason::Peers(verdict, alarms(verdict))).into_iter();
    let due =
        [Reason::Changes(case.plan.changes.len()), Reason::Conflicts(case.plan.conflicts.len())];
    let is_lost = case.encap().filter(|encap| {
        let is_needed = encap.is_used && !case.desired.peers.is_empty();
        is_needed && encap.socket.answers == Answers::No
    });
    let lost = is_lost.map(|encap| Reason::EncapSocket(encap.port));
    verdicts.chain(due).filter(|reason| reason.count() > 0).chain(lost).collect()
}

impl Reason {
    fn count(self) -> usize {
        match self {
            Self::Peers(_, count)
            | Self::NotHeard(count)
            | Self::Changes(count)
            | Self::Conflicts(count) => count,
            Self::EncapSocket(_) => 1,
        }
    }
}
