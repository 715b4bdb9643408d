//! Conflicts and warnings about the firewall's chains and marks.

use std::collections::BTreeSet;

use super::{
    chain::{ChainChange, backend_for, difference, is_optional, marked_ports, stands_in},
    change::{Change, Operation},
    conflict::Conflict,
    stops::Stops,
    warn::capped,
};
use crate::{
    desired::{Desired, Marking},
    model::{
        Backend, ChainId, ChainRole, ConflictCode, Direction, Family, Firewall, Live, Reqid, Rule,
        SaId, Unseen, Warning, WarningCode,
    },
};

/// Conflicts for chains to come that can't be set, because there is no iptables or it can't be
/// read.
pub(super) fn conflicts(desired: &Desired, live: &Live) -> Vec<Conflict> {
    if !desired.needs_chains() {
        return Vec::new();
    }
    let firewall = &live.0.firewall;
    if !firewall.is_whole() {
        return vec![Conflict {
            code: ConflictCode::FirewallUnusable,
            stops: Stops::All,
            object: "the rules of iptables are not in this snapshot".into(),
            text: "it was taken of a mesh without chains: take one with this file".into(),
        }];
    }
    let conflict = |object: String, text: String| Conflict {
        code: ConflictCode::FirewallUnusable,
        stops: Stops::All,
        object,
        text,
    };
    Family::ALL
        .into_iter()
        .filter(|family| !firewall.absent.contains(family))
        .filter_map(|family| match firewall.unseen_of(family) {
            Some(Unseen { what, reason, .. }) => Some(conflict(what.clone(), reason.clone())),
            None if firewall.backends.contains_key(&family) => None,
            None => Some(conflict(
                format!("there is no {}", family.program()),
                "select = \"mark\" needs it for both families: install iptables, 1.6.2 or \
                     newer"
                    .into(),
            )),
        })
        .collect()
}

/// A part of the second guard that is wanted, and that no plan can put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The family with packets that only the policies guard.
    pub family: Family,
    /// The chain that could not be set; `None` if this is true of all of them.
    pub chain: Option<ChainId>,
    /// Whether rules may be there that can't be seen.
    pub unseen: bool,
    /// Why, in words.
    pub why: String,
}

/// Families that only the policies guard, as far as can be seen, although rules of iptables are
/// wanted too.
pub(super) fn lacks(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Lack> {
    let firewall = &live.0.firewall;
    let is_wanted = |family: &Family| {
        desired.chains.keys().any(|(of, role)| of == family && role.is_optional())
    };
    let lacks = |family: &Family| {
        is_wanted(family)
            && !firewall.absent.contains(family)
            && firewall.settable(*family).is_none()
            && !stands(desired, firewall, *family, reqid)
    };
    let lack = |family: Family| {
        let (unseen, why) = match firewall.unseen_of(family) {
            _ if !firewall.is_whole() => (true, NOT_IN_SNAPSHOT.into()),
            Some(Unseen { what, reason, .. }) => (true, format!("{what}: {reason}")),
            None => (false, format!("there is no {}", family.program())),
        };
        Lack { family, chain: None, unseen, why }
    };
    Family::ALL.into_iter().filter(lacks).map(lack).collect()
}

/// Whether the second guard of a family is in place, in either backend: without the system's own
/// program it can't be set, but it can be seen.
fn stands(desired: &Desired, firewall: &Firewall, family: Family, reqid: Reqid) -> bool {
    let wanted =
        desired.chains.iter().filter(|((of, role), _)| *of == family && role.is_optional());
    let is_there = |role: ChainRole, rules: &[Rule]| {
        firewall.chains_of(reqid).any(|chain| {
            chain.id.family == family
                && chain.id.role() == Some(role)
                && difference(chain, rules).is_none()
        })
    };
    wanted.into_iter().all(|((_, role), rules)| is_there(*role, rules))
}

/// The missing parts of the second guard, as a part of a sentence.
pub(super) fn lack(lacks: &[Lack]) -> Option<String> {
    let families: BTreeSet<Family> = lacks.iter().map(|lack| lack.family).collect();
    let families: Vec<String> = families.iter().map(Family::to_string).collect();
    let missing = lacks.iter().any(|lack| !lack.unseen);
    let is = match (missing, lacks.iter().any(|lack| lack.unseen)) {
        (false, false) => return None,
        (true, false) => "is missing",
        (false, true) => "can't be seen",
        (true, true) => "is missing or can't be seen",
    };
    Some(format!("the second guard of {} {is}", families.join(" and ")))
}

const NOT_IN_SNAPSHOT: &str = "the rules of iptables are not in this snapshot";

/// Warnings of missing parts of the second guard.
pub(super) fn missing(lacks: &[Lack], desired: &Desired, live: &Live) -> Vec<Warning> {
    if !lacks.is_empty() && !live.0.firewall.is_whole() {
        let text = format!(
            "{NOT_IN_SNAPSHOT}, so they are not compared: take one with this file and version"
        );
        return vec![Warning::new(WarningCode::SecondGuardMissing, text)];
    }
    let warning = |Lack { family, why, unseen, .. }: &Lack| {
        let program = family.program();
        let as_far = if *unseen { ", as far as can be seen" } else { "" };
        if !desired.networks.is_empty() {
            let text =
                format!("{why}. {}{as_far}: have {program} 1.6.2 or newer work", opens(*family));
            return Warning::new(WarningCode::SecondGuardMissing, text);
        }
        let text = format!(
            "{why}. So the policies guard {family} alone{as_far}, and what SECURITY.md lists for guard = \
             \"xfrm\" gets past them, such as what a flush of all policies opens: have {program} \
             1.6.2 or newer work, or write guard = \"xfrm\" in [traffic]"
        );
        Warning::new(WarningCode::SecondGuardMissing, text)
    };
    lacks.iter().map(warning).collect()
}

/// What the chain of a family would stop, of packets to networks: a socket that asks for a device looks
/// at no route by another one, and so at no blackhole. Over IPv4 the guard blocks its packets.
fn opens(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => {
            "So policies and blackholes guard networks of IPv4 alone, and after a flush of all \
             policies, packets of devices in a VRF get past them"
        }
        Family::Ipv6 => {
            "So blackholes guard networks of IPv6 alone, and packets get past them, in the clear, of \
             devices in a VRF, and of programs that bind to a device, as ping -I eth0 does"
        }
    }
}

/// Whether rules of iptables are wanted, and possible, that drop packets of a direction which the
/// policies of a family don't see.
pub(super) fn are_wanted(
    desired: &Desired,
    firewall: &Firewall,
    family: Family,
    direction: Direction,
) -> bool {
    let mut wanted = desired.chains.keys().filter(|(of, _)| *of == family);
    wanted.any(|(_, role)| {
        role.guards() == Some(direction) && backend_for(firewall, family, *role).is_some()
    })
}

/// Rules ahead of the second guard that accept.
pub(super) fn behind(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let chains = live.0.firewall.chains_of(reqid).filter(|chain| {
        let place = chain.id.role().map(|role| (chain.id.family, role));
        is_optional(chain) && place.is_some_and(|place| desired.chains.contains_key(&place))
    });
    let ahead = chains.filter_map(|chain| {
        let [jump] = chain.jumps.as_slice() else { return None };
        Some((&chain.id, jump.behind.as_ref()?))
    });
    let other = |id: &ChainId| {
        let mut chains = live.0.firewall.chains_of(reqid);
        let twin = chains.find(|chain| {
            (chain.id.family, chain.id.role()) == (id.family, id.role())
                && chain.id.backend != id.backend
                && stands_in(desired, &live.0.firewall, chain, reqid)
        });
        twin.map(|twin| format!(". Until then chain {} stays", twin.id)).unwrap_or_default()
    };
    ahead
        .map(|(id, rule)| {
            let text = format!(
                "what the rule `{rule}` of {} accepts gets past chain {id}: have it behind the \
                 rule that leads there{}",
                id.hook(),
                other(id)
            );
            Warning::new(WarningCode::SecondGuardBehind, text)
        })
        .collect()
}

/// Warnings of rules that can't be read, where that stops nothing.
pub(super) fn unseen(desired: &Desired, live: &Live, lacks: &[Lack]) -> Vec<Warning> {
    // Those that `conflicts` or `missing` tell of.
    let told =
        |unseen: &&Unseen| unseen.system && lacks.iter().any(|lack| lack.family == unseen.family);
    let stops = |unseen: &&Unseen| unseen.system && desired.marking.is_some();
    let unseen = live.0.firewall.unseen.iter();
    let unseen = unseen.filter(|unseen| !stops(unseen) && !told(unseen));
    let then = match desired.marking {
        Some(_) => "",
        None => ". Chains of this mesh, if any are there, stay",
    };
    let text = |Unseen { what, reason, .. }: &Unseen| format!("{what}: {reason}{then}");
    unseen.map(|unseen| Warning::new(WarningCode::FirewallUnseen, text(unseen))).collect()
}

/// Families in which both backends hold rules.
pub(super) fn both_backends(desired: &Desired, live: &Live) -> Vec<Warning> {
    let firewall = &live.0.firewall;
    let has_both = |family: &&Family| {
        Backend::ALL.iter().all(|backend| firewall.foreign.contains(&(**family, *backend)))
    };
    let used = |family: &Family| {
        let backend = firewall.backends.get(family)?;
        let text = format!(
            "{} has rules in both backends, legacy and nf_tables, and the kernel asks both; the \
             chains of this mesh go into the system's, {backend}",
            family.program()
        );
        Some(Warning::new(WarningCode::BothBackends, text))
    };
    match desired.chains.is_empty() {
        true => Vec::new(),
        false => Family::ALL.iter().filter(has_both).filter_map(used).collect(),
    }
}

/// Other users of the bits of our mark, a line each.
pub(super) fn mark_users(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let (Some(Marking { mark, .. }), false) = (desired.marking, desired.chains.is_empty()) else {
        return Vec::new();
    };
    let rules = live.0.firewall.marks.iter().map(|user| (user.user.clone(), user.bits));
    let policies = live.0.foreign_policies(reqid);
    let policies = policies.map(|policy| (format!("policy {}", policy.id), policy.id.mark.mask));
    let sas = live.0.foreign_sas(reqid);
    let sas = sas.map(|sa| {
        let SaId { mark, .. } = sa.id;
        (format!("sa {}", sa.id), mark.mask)
    });
    let users = rules.chain(policies).chain(sas).filter(|(_, bits)| bits & mark.mask != 0);
    let lines = users.map(|(user, bits)| {
        let text = format!(
            "mark {mark} shares bits {:#x} with {user}: where the two meet, traffic is blocked or \
             takes another way; choose other bits with [traffic] mark",
            bits & mark.mask
        );
        Warning::new(WarningCode::MarkShared, text)
    });
    capped(lines.collect(), WarningCode::MarkShared)
}

/// Traffic to an old port, between the step that marks the new one and the end.
pub(super) fn blocked_on_the_way(changes: &[Change]) -> Option<Warning> {
    let ports: Vec<String> = changes
        .iter()
        .filter_map(|change| {
            let Operation::Chain(ChainChange::Set { live: Some(live), id, rules }) =
                &change.operation
            else {
                return None;
            };
            let marks = id.role() == Some(ChainRole::Mark) && id.family == Family::Ipv4;
            marks.then_some((&live.rules, rules))
        })
        .flat_map(|(before, after)| {
            let after: Vec<u16> = marked_ports(after).collect();
            let gone = marked_ports(before).filter(move |port| !after.contains(port));
            gone.map(|port| port.to_string())
        })
        .collect();
    (!ports.is_empty()).then(|| {
        let text = format!(
            "packets to udp port {} are blocked from the step \"mark the traffic\" on, until its \
             guards go at the end",
            ports.join(", ")
        );
        Warning::new(WarningCode::BlockedOnTheWay, text)
    })
}
