//! Flushes by other programs, recognised by the objects that are left.
//!
//! Daemons and scripts clear the whole SAD or SPD (`ip xfrm state flush`), or all of iptables, and
//! never only their own objects. There is no record of the objects that were here, so a missing one
//! is recognised by those that can't be without it: a policy of the mesh is made after its SAs and
//! goes before them, and the guards and chains that drop stand around both ([`super::sequence`]). A
//! run that was cut short leaves none of these signs. A flush that leaves no object, such as one of
//! both databases where no chain is, looks like a host that never held any.

use std::collections::BTreeSet;

use super::{flow::Flow, look_ups::flows_out, warn::names};
use crate::{
    desired::Desired,
    model::{
        Chain, ChainRole, Direction, Family, Live, Mark, PeerName, Policy, PolicyRole, Reqid, Sa,
        Warning, WarningCode,
    },
};

/// A line for each flush, and the fate of packets now.
pub(super) fn warnings(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let left = Remaining { desired, live, reqid };
    let firewall = left.filter_table().into_iter().chain(left.mangle_table());
    let told: Vec<Warning> = left.databases().into_iter().chain(firewall).collect();
    if told.is_empty() {
        return told;
    }
    told.into_iter().chain(fates(desired, live)).collect()
}

/// The objects that are left of a mesh.
struct Remaining<'a> {
    desired: &'a Desired,
    live: &'a Live,
    reqid: Reqid,
}

impl Remaining<'_> {
    /// Whether SAD, SPD or both were flushed.
    fn databases(&self) -> Option<Warning> {
        let has_policies = self.policies().any(|_| true);
        let (code, told) = match (self.has_sas(), has_policies) {
            _ if self.desired.policies.is_empty() => return None,
            (true, true) => return None,
            (false, true) if self.policies().all(|policy| policy.role() != PolicyRole::Peer) => {
                return None;
            }
            (false, true) => (
                WarningCode::SasFlushed,
                "no SA of the mesh is here, and its policies are: something has deleted all SAs, \
                 as `ip xfrm state flush` does",
            ),
            (true, false) if !self.had_policies() => return None,
            (true, false) => (
                WarningCode::PoliciesFlushed,
                "no policy of the mesh is here, and its SAs are: something has deleted all \
                 policies, as `ip xfrm policy flush` does",
            ),
            (false, false) if !self.is_marking() && !self.is_guarding() => return None,
            (false, false) => (
                WarningCode::AllFlushed,
                "neither SAs nor policies of the mesh are here, and its chains are: something has \
                 deleted both, as `ip xfrm state flush` and `ip xfrm policy flush` do, which \
                 libreswan's service runs when it stops",
            ),
        };
        Some(Warning::new(code, told))
    }

    /// Whether the chains that drop unprotected packets were flushed. They are there before the
    /// first policy that needs a mark, and after the last.
    fn filter_table(&self) -> Option<Warning> {
        let firewall = &self.live.0.firewall;
        if self.desired.chains.is_empty() || !firewall.unseen.is_empty() || !self.has_marked() {
            return None;
        }
        let flushed = |family: &&Family, role: ChainRole| {
            let mut chains = firewall
                .chains_of(self.reqid)
                .filter(|chain| chain.id.family == **family && chain.id.role() == Some(role));
            chains.all(is_empty)
        };
        let families: Vec<&str> = Family::ALL
            .iter()
            .filter(|family| firewall.backends.contains_key(family))
            .filter(|family| self.desired.chains.contains_key(&(**family, ChainRole::Out)))
            .filter(|family| flushed(family, ChainRole::Out) && flushed(family, ChainRole::In))
            .map(|family| family.program())
            .collect();
        (!families.is_empty()).then(|| {
            let text = format!(
                "policies of the mesh are here, and its chains in the filter table of {} are gone \
                 or empty: something has flushed the table, as `iptables -F` does",
                families.join(" and ")
            );
            Warning::new(WarningCode::ChainsFlushed, text)
        })
    }

    /// Whether chains that mark, or those of the second guard, were flushed. A flush of a table
    /// leaves its chains, and runs make and delete theirs with all rules at once.
    fn mangle_table(&self) -> Option<Warning> {
        let flushed = |family: &&Family| {
            let wanted = |chain: &&Chain| {
                let role = chain.id.role().filter(|_| chain.id.table == "mangle");
                chain.id.family == **family
                    && role.is_some_and(|role| self.desired.chains.contains_key(&(**family, role)))
            };
            let mut chains = self.live.0.firewall.chains_of(self.reqid).filter(wanted).peekable();
            chains.peek().is_some() && chains.all(is_empty)
        };
        let families: Vec<&str> =
            Family::ALL.iter().filter(flushed).map(|family| family.program()).collect();
        (!families.is_empty()).then(|| {
            let text = format!(
                "the chains of the mesh in the mangle table of {} are empty: something has flushed \
                 the table, as `iptables -t mangle -F` does",
                families.join(" and ")
            );
            Warning::new(WarningCode::ChainsFlushed, text)
        })
    }

    /// Whether there are SAs of the mesh. SAs of a peer to itself, the trial of a run that was
    /// killed, and placeholders that the kernel made don't count.
    fn has_sas(&self) -> bool {
        let counts = |sa: &&Sa| {
            sa.reqid == self.reqid && !sa.is_larval() && sa.id.spi.from() != sa.id.spi.to()
        };
        self.live.0.sas.iter().any(|sa| counts(&sa))
    }

    fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.live.0.policies_of(self.reqid)
    }

    /// Whether the SAs that are here once had policies: guards come before SAs and go after them,
    /// and nothing is sent without a policy that asks for it.
    fn had_policies(&self) -> bool {
        let sent = |dst| Some(dst) != self.desired.local;
        !self.desired.guards.is_empty()
            || self.live.0.usage.iter().any(|usage| usage.packets > 0 && sent(usage.id.dst))
    }

    /// Whether there is a policy that needs a mark, as the file wants it.
    fn has_marked(&self) -> bool {
        self.policies().any(|policy| {
            policy.id.direction == Direction::Out
                && policy.id.mark != Mark::NONE
                && self.desired.policies.contains_key(&policy.id)
        })
    }

    /// Whether traffic is marked: an apply marks it last, and a destroy stops that before it
    /// touches policies.
    fn is_marking(&self) -> bool {
        self.live.0.firewall.chains_of(self.reqid).any(|chain| {
            chain.id.role() == Some(ChainRole::Mark)
                && !chain.rules.is_empty()
                && !chain.jumps.is_empty()
        })
    }

    /// Whether rules of the second guard are here: they come behind the policies
    /// that guard, and go before them.
    fn is_guarding(&self) -> bool {
        self.live.0.firewall.chains_of(self.reqid).any(|chain| {
            chain.id.role().is_some_and(ChainRole::is_optional)
                && !chain.rules.is_empty()
                && !chain.jumps.is_empty()
        })
    }
}

fn is_empty(chain: &Chain) -> bool {
    chain.rules.is_empty() && chain.jumps.is_empty()
}

/// The fate of packets to the peers, the worst first.
fn fates(desired: &Desired, live: &Live) -> Vec<Warning> {
    let flows = flows_out(&live.0, desired, |_| true);
    let fate = |(flow, code, what): (Flow, WarningCode, &str)| {
        let peers: BTreeSet<&PeerName> =
            flows.iter().filter(|(_, other)| **other == flow).map(|(peer, _)| peer).collect();
        let text = || format!("packets to {} {what} until meshsec apply runs", names(&peers));
        (!peers.is_empty()).then(|| Warning::new(code, text()))
    };
    let fates = [
        (Flow::Clear, WarningCode::ClearUntilApply, "leave in the clear"),
        (Flow::Blocked, WarningCode::BlockedUntilApply, "are blocked"),
    ];
    fates.into_iter().filter_map(fate).collect()
}
