//! Chains of the firewall: identity, differences, steps, and the way back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    change::{Change, ChangeAction, Context, Difference, ObjectKind, Operation},
    fields::{self, Field, Fields},
    sequence::Phase,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Goal, Keyring},
    model::{
        Backend, Chain, ChainId, ChainRole, ChainStep, Direction, Family, Firewall, IPPROTO_UDP,
        Jump, Prefix, Reason, ReasonCode, Reqid, Rule, Selector, State, StepKind,
    },
};

/// A chain that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainChange {
    /// It is missing, or differs in its rules or in the rule that leads to it.
    Set {
        /// The chain in the kernel.
        live: Option<Chain>,
        /// Its identity.
        id: ChainId,
        /// The rules that it should have.
        rules: Vec<Rule>,
    },
    /// It is of the mesh, and unwanted.
    Delete(Chain),
}

impl Difference for ChainChange {
    fn action(&self) -> ChangeAction {
        match self {
            Self::Set { live: None, .. } => ChangeAction::Create,
            Self::Set { live: Some(_), .. } => ChangeAction::Update,
            Self::Delete(_) => ChangeAction::Delete,
        }
    }

    fn kind(&self) -> ObjectKind {
        ObjectKind::Chain
    }

    fn id(&self) -> String {
        match self {
            Self::Set { id, .. } => id.to_string(),
            Self::Delete(chain) => chain.id.to_string(),
        }
    }

    fn direction(&self) -> Option<Direction> {
        None
    }

    fn is_optional(&self) -> bool {
        match self {
            Self::Set { id, .. } => id.role().is_some_and(ChainRole::is_optional),
            Self::Delete(_) => false,
        }
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Self::Set { live: None, id, rules } => fields::created(of_wanted_chain(id, rules)),
            Self::Set { live: Some(live), id, rules } => {
                fields::differing(of_chain(live), of_wanted_chain(id, rules))
            }
            Self::Delete(chain) => fields::deleted(of_chain(chain)),
        }
    }

    fn line(&self, _: bool) -> String {
        self.id()
    }

    fn steps(&self, context: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        match self {
            Self::Set { live, id, rules } => {
                steps_of_chain(live.as_ref(), id, rules, context.changes)
            }
            Self::Delete(chain) => {
                let phase = match chain.id.role() {
                    Some(ChainRole::Mark) => Phase::Unmark,
                    Some(ChainRole::MangleOut)
                        if drops_traffic_to_be_marked(chain, context.desired) =>
                    {
                        Phase::EarlyGuards
                    }
                    Some(
                        ChainRole::Out
                        | ChainRole::In
                        | ChainRole::MangleOut
                        | ChainRole::MangleIn
                        | ChainRole::Post
                        | ChainRole::Forward,
                    )
                    | None => Phase::DeleteGuards,
                };
                vec![(phase, StepKind::Chain(ChainStep::Delete(chain.id.clone())))]
            }
        }
    }

    /// Chains are of no peer.
    fn way_back(&self, _: &RollBack<'_>) -> Option<WayBack> {
        None
    }

    fn uncovered(&self) -> Vec<Selector> {
        match self {
            Self::Set { live: Some(chain), .. } | Self::Delete(chain) => {
                guarded_by(&chain.id, &chain.rules)
            }
            Self::Set { live: None, .. } => Vec::new(),
        }
    }

    fn irreversible(&self, state: &State, _: &Keyring) -> Vec<String> {
        match self {
            Self::Set { live: None, .. } => Vec::new(),
            Self::Set { live: Some(chain), .. } | Self::Delete(chain) => {
                problem_of_chain(chain, &state.firewall).into_iter().collect()
            }
        }
    }
}

/// The chains of a mesh that differ. No chain is wanted in a backend other than the system's, or
/// where a family is absent.
pub(super) fn diff(desired: &Desired, firewall: &Firewall, reqid: Reqid) -> Vec<Change> {
    let live: BTreeMap<&ChainId, &Chain> =
        firewall.chains_of(reqid).map(|chain| (&chain.id, chain)).collect();
    let mut wanted = BTreeMap::new();
    for ((family, role), rules) in &desired.chains {
        if let Some(backend) = backend_for(firewall, *family, *role) {
            wanted.insert(ChainId::new(backend, *family, *role, reqid), rules);
        }
    }
    let mut changes: Vec<Change> = wanted
        .iter()
        .filter_map(|(id, rules)| {
            let live = live.get(id).copied();
            let reason = match live {
                None => Reason::MISSING,
                Some(chain) => difference(chain, rules)?,
            };
            let (live, id) = (live.cloned(), id.clone());
            let change = ChainChange::Set { live, id, rules: (*rules).clone() };
            let operation = Operation::Chain(change);
            Some(Change { peer: None, operation, reason })
        })
        .collect();
    for (id, chain) in live {
        let stands_in = stands_in(desired, firewall, chain, reqid);
        if !wanted.contains_key(id) && !stands_in && !desired.goal.keeps(id) {
            let reason = unwanted(desired, firewall, id);
            let operation = Operation::Chain(ChainChange::Delete(chain.clone()));
            changes.push(Change { peer: None, operation, reason });
        }
    }
    changes
}

/// Whether a chain, of the backend that is not the system's, has to do what the chain of its role in
/// the system's backend can't do: that one can't be set, or a foreign rule accepts packets ahead
/// of it.
pub(super) fn stands_in(
    desired: &Desired,
    firewall: &Firewall,
    chain: &Chain,
    reqid: Reqid,
) -> bool {
    let ChainId { family, .. } = chain.id;
    let Some(role) = chain.id.role() else { return false };
    let Some(rules) = desired.chains.get(&(family, role)) else { return false };
    let Some(backend) = backend_for(firewall, family, role) else { return true };
    let id = ChainId::new(backend, family, role, reqid);
    let is_bypassed = |twin: &Chain| {
        difference(twin, rules).is_none() && twin.jumps.iter().any(|jump| jump.behind.is_some())
    };
    difference(chain, rules).is_none()
        && firewall.chains_of(reqid).any(|twin| twin.id == id && is_bypassed(twin))
}

/// The backend in which a chain can be set. Without the system's rules at hand an optional chain is
/// left as it is; any other is a conflict.
pub(super) fn backend_for(firewall: &Firewall, family: Family, role: ChainRole) -> Option<Backend> {
    match role.is_optional() {
        true => firewall.settable(family),
        false => firewall.backends.get(&family).copied(),
    }
}

/// Why a chain isn't as it should be. The rule that leads to an optional chain need not come first:
/// two programs that both want that would move theirs ahead for ever.
pub(super) fn difference(chain: &Chain, rules: &[Rule]) -> Option<Reason> {
    let (code, text) = match chain.jumps.as_slice() {
        _ if chain.rules != rules => (ReasonCode::Rules, "its rules are not those of the mesh"),
        [] => (ReasonCode::NoJump, "no rule leads to it"),
        [jump] if jump.behind.is_some() && !is_optional(chain) => {
            (ReasonCode::JumpBehind, "a rule ahead of it accepts")
        }
        [jump] if jump.conditions.is_some() => {
            (ReasonCode::JumpConditions, "the rule that leads to it has conditions")
        }
        [_] => return None,
        _ => (ReasonCode::SeveralJumps, "several rules lead to it"),
    };
    Some(Reason::new(code, text))
}

pub(super) fn is_optional(chain: &Chain) -> bool {
    chain.id.role().is_some_and(ChainRole::is_optional)
}

fn unwanted(desired: &Desired, firewall: &Firewall, id: &ChainId) -> Reason {
    let role = id.role().map(|role| (id.family, role));
    let (code, text) = if desired.goal == Goal::Nothing {
        (ReasonCode::Destroying, "all of the mesh goes")
    } else if role.is_some_and(|role| desired.chains.contains_key(&role))
        && firewall.backends.get(&id.family) != Some(&id.backend)
    {
        (ReasonCode::OtherBackend, "left in the backend that is not the system's")
    } else {
        (ReasonCode::Unwanted, "nothing in mesh.toml asks for this chain")
    };
    Reason::new(code, text)
}

/// A chain that guards drops the traffic to an old port, or to an old network, until the end, when the
/// guards of these go too. It spares packets of an old interface as long.
fn steps_of_chain(
    live: Option<&Chain>,
    id: &ChainId,
    rules: &[Rule],
    changes: &[Change],
) -> Vec<(Phase, StepKind<()>)> {
    let set = |rules| StepKind::Chain(ChainStep::Set { id: id.clone(), rules, jump: true });
    if id.role() == Some(ChainRole::Mark) {
        return vec![(Phase::Mark, set(rules.to_vec()))];
    }
    let live = live.map_or(&[][..], |chain| &chain.rules);
    let stays = |rule: &&Rule| match rule {
        // The new rules drop all packets that those of version 0.1 drop for their port.
        Rule::Pass { .. } | Rule::Block { .. } | Rule::Drop { .. } => {
            !rules.iter().any(|new| new.guarded() == rule.guarded())
        }
        Rule::PassDevice { .. } | Rule::PassProtected { .. } => !rules.contains(rule),
        // It would let packets pass that the others are to drop.
        Rule::PassOutside { .. } => false,
        Rule::BlockTo { network } => !rules
            .iter()
            .any(|new| matches!(new, Rule::BlockTo { network: wider } if wider.covers(network))),
        Rule::Mark { .. } | Rule::Other(_) => false,
    };
    let old: Vec<Rule> = live.iter().filter(stays).cloned().collect();
    let put = match id.role() {
        // It would drop packets that still need their mark, as a block policy would.
        Some(ChainRole::MangleOut) if replaces_leaving_chain(id, rules, changes) => {
            Phase::LateGuards
        }
        _ => Phase::Guards,
    };
    if old.is_empty() {
        return vec![(put, set(rules.to_vec()))];
    }
    let is_narrow = |rule: &&Rule| matches!(rule, Rule::PassOutside { .. });
    let all = || rules.iter().filter(|rule| !is_narrow(rule)).chain(&old);
    let spares = all().filter(|rule| rule.spares());
    let both = spares.chain(all().filter(|rule| !rule.spares())).cloned().collect();
    vec![(put, set(both)), (Phase::DeleteGuards, set(rules.to_vec()))]
}

/// Whether a chain of the mangle table comes in place of one of the filter table that goes at the
/// end, and that packets get to.
fn replaces_leaving_chain(id: &ChainId, rules: &[Rule], changes: &[Change]) -> bool {
    let ports: BTreeSet<u16> = guarded_ports(rules).collect();
    changes.iter().any(|change| {
        matches!(&change.operation, Operation::Chain(ChainChange::Delete(chain))
            if chain.is_reached()
                && chain.id.role() == Some(ChainRole::Out)
                && chain.id.family == id.family
                && guarded_ports(&chain.rules).any(|port| ports.contains(&port)))
    })
}

/// Whether a chain of the mangle table would drop packets before they get the mark by which a
/// policy is to select them.
fn drops_traffic_to_be_marked(chain: &Chain, desired: &Desired) -> bool {
    let marks = desired.chains.get(&(chain.id.family, ChainRole::Mark));
    let marked: BTreeSet<u16> = marks.into_iter().flat_map(|rules| marked_ports(rules)).collect();
    let blocks = |rule: &Rule| rule.guarded().is_some_and(|(port, _)| marked.contains(&port));
    chain.rules.iter().any(blocks)
}

/// The ports to which a chain certainly drops unprotected packets: a foreign rule may accept
/// packets before the rules that follow it.
pub(super) fn guarded_ports(rules: &[Rule]) -> impl Iterator<Item = u16> {
    let certain = rules.iter().take_while(|rule| !matches!(rule, Rule::Other(_)));
    certain.filter_map(|rule| match rule {
        Rule::Block { port, direction: Direction::Out }
        | Rule::Drop { port, direction: Direction::Out } => Some(*port),
        Rule::Block { direction: Direction::In | Direction::Fwd, .. }
        | Rule::Drop { direction: Direction::In | Direction::Fwd, .. }
        | Rule::Pass { .. }
        | Rule::PassDevice { .. }
        | Rule::PassProtected { .. }
        | Rule::PassOutside { .. }
        | Rule::BlockTo { .. }
        | Rule::Mark { .. }
        | Rule::Other(_) => None,
    })
}

/// The ports to which a chain marks packets.
pub(super) fn marked_ports(rules: &[Rule]) -> impl Iterator<Item = u16> {
    rules.iter().filter_map(|rule| match rule {
        Rule::Mark { port, .. } => Some(*port),
        Rule::Pass { .. }
        | Rule::Drop { .. }
        | Rule::Block { .. }
        | Rule::PassDevice { .. }
        | Rule::PassProtected { .. }
        | Rule::PassOutside { .. }
        | Rule::BlockTo { .. }
        | Rule::Other(_) => None,
    })
}

/// The packets that a chain keeps from leaving unprotected: it drops them, or gives them the mark
/// by which a policy selects them.
fn guarded_by(id: &ChainId, rules: &[Rule]) -> Vec<Selector> {
    match id.role() {
        Some(ChainRole::Out | ChainRole::MangleOut | ChainRole::Post) => guarded(id.family, rules),
        Some(ChainRole::Mark) => to_ports(id.family, marked_ports(rules)),
        // Packets of others, which the chain behind drops too.
        Some(ChainRole::In | ChainRole::MangleIn | ChainRole::Forward) | None => Vec::new(),
    }
}

/// The networks to which a chain certainly drops unprotected packets.
pub(super) fn guarded_networks(rules: &[Rule]) -> impl Iterator<Item = Prefix> {
    let certain = rules.iter().take_while(|rule| !matches!(rule, Rule::Other(_)));
    certain.filter_map(|rule| match rule {
        Rule::BlockTo { network } => Some(*network),
        Rule::Block { .. }
        | Rule::Drop { .. }
        | Rule::Pass { .. }
        | Rule::PassDevice { .. }
        | Rule::PassProtected { .. }
        | Rule::PassOutside { .. }
        | Rule::Mark { .. }
        | Rule::Other(_) => None,
    })
}

/// The packets that rules certainly drop where they leave unprotected.
pub(super) fn guarded(family: Family, rules: &[Rule]) -> Vec<Selector> {
    let mut packets = to_ports(family, guarded_ports(rules));
    packets.extend(guarded_networks(rules).map(Selector::to_network));
    packets
}

/// All packets to UDP ports.
pub(super) fn to_ports(family: Family, ports: impl Iterator<Item = u16>) -> Vec<Selector> {
    let any = Prefix::any(match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    });
    let all = Selector::between(any, any);
    ports.map(|port| all.to_port(IPPROTO_UDP, port)).collect()
}

/// A chain's rules, and the rule that leads to it.
fn of_chain(chain: &Chain) -> Fields {
    vec![("rules", words(&chain.rules)), ("jump", jumps(&chain.id, &chain.jumps))]
}

/// The wanted rules of a chain of the mesh, and the rule that leads to it.
fn of_wanted_chain(id: &ChainId, wanted: &[Rule]) -> Fields {
    vec![("rules", words(wanted)), ("jump", jumps(id, &[Jump::FIRST]))]
}

/// Rules in one line.
fn words(rules: &[Rule]) -> String {
    match rules {
        [] => "none".into(),
        rules => rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

fn jumps(id: &ChainId, jumps: &[Jump]) -> String {
    let hook = id.hook();
    let one = |jump: &Jump| {
        let condition = jump.conditions.as_ref().map(|rule| format!(" by `{rule}`"));
        let behind = jump.behind.as_ref().map(|rule| format!(" behind `{rule}`"));
        format!("from {hook}{}{}", condition.unwrap_or_default(), behind.unwrap_or_default())
    };
    match jumps {
        [] => "none".into(),
        jumps => jumps.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

fn problem_of_chain(chain: &Chain, firewall: &Firewall) -> Option<String> {
    let id = &chain.id;
    let other = chain.rules.iter().find(|rule| matches!(rule, Rule::Other(_)));
    let problem = match (id.role(), other) {
        (None, _) => "it is no chain of a mesh".into(),
        (_, Some(rule)) => format!("it has the rule {rule}"),
        _ if firewall.backends.get(&id.family) != Some(&id.backend) => {
            "it is in the backend that is not the system's".into()
        }
        _ => return None,
    };
    Some(format!("chain {id}: {problem}"))
}
