//! Policies, guards among them: identity, differences, steps, and the way back.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    chain::{self, ChainChange},
    change::{
        Change, ChangeAction, Context, Difference, NOT_PAIRED, ObjectKind, Operation,
        is_not_paired, peer_of,
    },
    fields::{self, Field, Fields},
    sequence::Phase,
    stage::SENDS_CLEAR_TEXT,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Goal, Keyring, WantedPolicy},
    model::{
        Action, ChainId, ChainRole, Direction, Family, IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6,
        Level, Live, Mode, Passage, PeerName, Policy, PolicyId, PolicyRole, PolicyStep, PortMatch,
        Reason, ReasonCode, Reqid, Rule, Selector, State, StepKind, Template,
    },
};

/// A policy that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyChange {
    /// It is missing.
    Create(Policy),
    /// It is of the mesh, and differs.
    Update {
        /// The policy in the kernel.
        live: Policy,
        /// The policy that takes its place.
        wanted: Policy,
    },
    /// It is of the mesh, and unwanted.
    Delete(Policy),
}

/// The reason of a policy that is closed.
pub(super) const LETS_CLEAR_TEXT_PASS: Reason = Reason {
    code: ReasonCode::LetsClearTextPass,
    text: Cow::Borrowed("it lets the traffic pass in the clear"),
};

/// The changes of policies: of the peers, guards and neighbour discovery.
pub(super) fn diff(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Change> {
    let policies: BTreeMap<PolicyId, &Policy> =
        live.0.policies_of(reqid).map(|policy| (policy.id, policy)).collect();
    let mut changes: Vec<Change> = Vec::new();
    for wanted in desired.policies.values() {
        let live = policies.get(&wanted.policy.id).copied();
        changes.extend(wanted_policy(Some(&wanted.peer), &wanted.policy, live));
    }
    for guard in desired.guards.values() {
        changes.extend(wanted_policy(None, guard, policies.get(&guard.id).copied()));
    }
    for policy in desired.passages.values() {
        let ours = policies.get(&policy.id).copied();
        // A policy that another mesh has made on this host need not be made twice.
        let served = || live.0.policies.iter().any(|foreign| foreign.serves_as(policy));
        if ours.is_some() || !served() {
            changes.extend(wanted_policy(None, policy, ours));
        }
    }
    changes.extend(policies.values().filter_map(|policy| unwanted_policy(desired, policy)));
    changes
}

impl PolicyChange {
    /// The policy that comes, or goes.
    pub(super) fn policy(&self) -> &Policy {
        match self {
            Self::Create(policy) | Self::Update { wanted: policy, .. } | Self::Delete(policy) => {
                policy
            }
        }
    }
}

impl Difference for PolicyChange {
    fn action(&self) -> ChangeAction {
        match self {
            Self::Create(_) => ChangeAction::Create,
            Self::Update { .. } => ChangeAction::Update,
            Self::Delete(_) => ChangeAction::Delete,
        }
    }

    fn kind(&self) -> ObjectKind {
        match self.policy().role() {
            PolicyRole::Guard => ObjectKind::Guard,
            PolicyRole::Passage(_) | PolicyRole::Peer => ObjectKind::Policy,
        }
    }

    fn id(&self) -> String {
        self.policy().id.to_string()
    }

    fn direction(&self) -> Option<Direction> {
        Some(self.policy().id.direction)
    }

    fn is_optional(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Self::Create(policy) => fields::created(of_policy(policy)),
            Self::Update { live, wanted } => fields::differing(of_policy(live), of_policy(wanted)),
            Self::Delete(policy) => fields::deleted(of_policy(policy)),
        }
    }

    fn line(&self, hosts_are_known: bool) -> String {
        // The title above has the address of the peer, and not its networks.
        let PolicyId { if_id, .. } = self.policy().id;
        let id = self.policy().id.undirected(hosts_are_known && if_id == 0);
        let note = match self {
            Self::Create(policy) => match policy.templates.first() {
                Some(template) if template.spi.raw() != 0 => format!("  spi {}", template.spi),
                Some(_) if policy.lets_clear_text_pass() => {
                    "  any spi of the mesh, or in the clear".into()
                }
                Some(_) => "  any spi of the mesh".into(),
                None => format!("  {}", policy.action),
            },
            Self::Update { .. } | Self::Delete(_) => String::new(),
        };
        format!("{id}{note}")
    }

    fn steps(&self, context: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        let [put, take] = phases(self, context);
        match self {
            Self::Create(policy) => vec![(put, StepKind::Policy(PolicyStep::Add(policy.clone())))],
            Self::Update { live, wanted } => {
                let first = closed(live, wanted).map(|policy| (Phase::Guards, policy));
                let then = first.as_ref().is_none_or(|(_, first)| first != wanted);
                first
                    .into_iter()
                    .chain(then.then(|| (put, wanted.clone())))
                    .map(|(phase, policy)| (phase, StepKind::Policy(PolicyStep::Update(policy))))
                    .collect()
            }
            Self::Delete(policy) => {
                if let Some(ended) = ended(policy, context.desired) {
                    return vec![
                        (Phase::Policies, StepKind::Policy(PolicyStep::Update(ended.clone()))),
                        (Phase::DeletePolicies, StepKind::Policy(PolicyStep::Delete(ended))),
                    ];
                }
                let closed =
                    hardened(policy).filter(|_| take == Phase::Guards && !refuses_all(policy));
                let Some(closed) = closed else {
                    return vec![(take, StepKind::Policy(PolicyStep::Delete(policy.clone())))];
                };
                // It goes when others do: it may be the only policy that covers ICMP errors.
                let late = match policy.covers_icmp_errors() && policy.id.if_id == 0 {
                    true => Phase::DeleteIcmpErrors,
                    false => Phase::DeletePolicies,
                };
                vec![
                    (take, StepKind::Policy(PolicyStep::Update(closed.clone()))),
                    (late, StepKind::Policy(PolicyStep::Delete(closed))),
                ]
            }
        }
    }

    fn way_back(&self, now: &RollBack<'_>) -> Option<WayBack> {
        match self {
            Self::Create(wanted) => match now.policy(wanted) {
                None => Some(WayBack::Untouched),
                Some(found) if !found.belongs_to(now.reqid) => Some(WayBack::Untouched),
                Some(found) if *found != *wanted => None,
                // Its place may be all that keeps clear text out, unless it lets that pass itself.
                Some(found) if !found.lets_clear_text_pass() && !now.is_guarded(found) => None,
                Some(found) => Some(WayBack::NoPolicy(found.clone())),
            },
            Self::Update { live: old, wanted } => match now.policy(wanted)? {
                found if found == old || !found.belongs_to(now.reqid) => Some(WayBack::Untouched),
                found if found != wanted || old.lets_clear_text_pass() => None,
                _ => old.extras.is_empty().then(|| WayBack::Policy(old.clone())),
            },
            Self::Delete(old) => now.state.policies.contains(old).then_some(WayBack::Untouched),
        }
    }

    /// ICMP errors are not: once the SAs are gone they quote no packet that was encrypted.
    fn uncovered(&self) -> Vec<Selector> {
        match self {
            Self::Delete(policy) if may_protect(policy) && !policy.is_for_icmp_errors() => {
                vec![policy.id.selector]
            }
            Self::Create(_) | Self::Update { .. } | Self::Delete(_) => Vec::new(),
        }
    }

    fn irreversible(&self, _: &State, _: &Keyring) -> Vec<String> {
        match self {
            Self::Create(_) => Vec::new(),
            Self::Update { live: policy, .. } | Self::Delete(policy) => {
                let problem =
                    || format!("policy {}: {}", policy.id, fields::listed(&policy.extras));
                (!policy.extras.is_empty()).then(problem).into_iter().collect()
            }
        }
    }
}

fn wanted_policy(
    peer: Option<&PeerName>,
    wanted: &Policy,
    live: Option<&Policy>,
) -> Option<Change> {
    let (change, reason) = match live {
        None => (PolicyChange::Create(wanted.clone()), Reason::MISSING),
        Some(live) if live.same_as(wanted) => return None,
        Some(live) => {
            let change = PolicyChange::Update { live: live.clone(), wanted: wanted.clone() };
            (change, policy_difference(live, wanted))
        }
    };
    Some(Change { peer: peer.cloned(), operation: Operation::Policy(change), reason })
}

fn policy_difference(live: &Policy, wanted: &Policy) -> Reason {
    let spis = |policy: &Policy| match policy.templates.as_slice() {
        [one] => Some(one.spi),
        _ => None,
    };
    let (code, text) = if live.lets_clear_text_pass() && !wanted.lets_clear_text_pass() {
        return LETS_CLEAR_TEXT_PASS;
    } else if !live.lets_clear_text_pass() && wanted.lets_clear_text_pass() {
        (ReasonCode::Stage, "its stage takes clear text too".into())
    } else if live.action != wanted.action {
        (ReasonCode::Action, "its action differs".into())
    } else if !live.extras.is_empty() {
        (ReasonCode::Attributes, "it has attributes that a mesh's policy never has".into())
    } else if live.templates.len() != wanted.templates.len() {
        let several: Cow<'static, str> =
            format!("it has {} templates", live.templates.len()).into();
        (ReasonCode::Templates, several)
    } else if spis(live) != spis(wanted) && wanted.id.direction == Direction::Out {
        (ReasonCode::Spi, "it sends under another SPI".into())
    } else if live.templates != wanted.templates {
        (ReasonCode::Template, "its template differs".into())
    } else {
        (ReasonCode::Priority, "its priority differs".into())
    };
    Reason::new(code, text)
}

fn unwanted_policy(desired: &Desired, policy: &Policy) -> Option<Change> {
    if desired.policies.contains_key(&policy.id)
        || desired.guards.contains_key(&policy.id)
        || desired.passages.contains_key(&policy.id)
    {
        return None;
    }
    let PolicyId { selector, mark, if_id, sub, .. } = policy.id;
    let role = policy.role();
    let guard = role == PolicyRole::Guard;
    // A selector of many hosts is of no peer, unless it is for the network of one.
    let hosts = Selector::hosts(selector.src.address, selector.dst.address);
    let of_two = (selector.src, selector.dst) == (hosts.src, hosts.dst);
    let of_network = desired.networks.get(&policy.id.far_end());
    let peer = match of_two {
        _ if guard => None,
        true => peer_of(desired, selector.src.address, selector.dst.address).or(of_network),
        false => of_network,
    };
    let is_of_interface = desired.interface.as_ref().is_some_and(|wanted| wanted.if_id == if_id);
    let (code, text) = if desired.goal == Goal::Nothing {
        (ReasonCode::Destroying, "all of the mesh goes")
    } else if is_of_a_later_stage(desired, peer, &policy.id) {
        (ReasonCode::Stage, SENDS_CLEAR_TEXT)
    } else if !mark.is_none() || if_id != 0 && !is_of_interface || sub {
        (
            ReasonCode::ForeignIdentity,
            "it has the mesh's reqid, and a mark, an interface or a table that mesh.toml doesn't ask for",
        )
    } else if guard {
        (ReasonCode::Unwanted, "nothing in mesh.toml asks for this guard")
    } else if role == PolicyRole::Passage(Passage::Discovery) {
        (ReasonCode::Unwanted, "no policy of the mesh covers neighbour discovery any more")
    } else if role == PolicyRole::Passage(Passage::Encap) {
        (ReasonCode::Unwanted, "no policy of the mesh covers this ESP in UDP any more")
    } else if role == PolicyRole::Passage(Passage::Exception) {
        (ReasonCode::Unwanted, "mesh.toml has no such exception")
    } else if peer.is_some() {
        (ReasonCode::Unwanted, "nothing in mesh.toml asks for this selector")
    } else if of_two && is_not_paired(desired, selector.src.address, selector.dst.address) {
        (ReasonCode::PairGone, NOT_PAIRED)
    } else {
        (ReasonCode::NoPeer, "no peer of mesh.toml has it")
    };
    Some(Change {
        peer: peer.cloned(),
        operation: Operation::Policy(PolicyChange::Delete(policy.clone())),
        reason: Reason::new(code, text),
    })
}

/// Whether a policy is one that later stages of a pair ask for.
pub(super) fn is_of_a_later_stage(
    desired: &Desired,
    peer: Option<&PeerName>,
    id: &PolicyId,
) -> bool {
    let marking = desired.marking.map(|marking| marking.mark);
    id.direction == Direction::Out
        && peer.is_some_and(|peer| !desired.stage(peer).sends())
        && (id.mark.is_none() || Some(id.mark) == marking)
        && (id.if_id == 0 || desired.tunnel.is_some())
        && !id.sub
}

/// An exception that ends, while its pair stays protected: the same policy with the templates of the
/// pair's. Sockets keep the route that they have found, unencrypted, until a policy is put in, and the
/// kernel does not count a delete for that (`xfrm_policy_insert`, `rt_genid_bump_all`).
fn ended(policy: &Policy, desired: &Desired) -> Option<Policy> {
    if policy.passage() != Some(Passage::Exception) {
        return None;
    }
    let PolicyId { direction, selector, .. } = policy.id;
    let covers = |wanted: &&WantedPolicy| {
        let id = &wanted.policy.id;
        id.direction == direction && id.selector.covers(&selector)
    };
    let templates = desired.policies.values().find(covers)?.policy.templates.clone();
    Some(Policy { templates, ..policy.clone() })
}

/// Whether a guard that is added blocks packets of an exception. The exception goes before it then:
/// the guard makes open sockets look again, and a later delete would not (`ended`).
fn is_blocked_from_now_on(exception: &Policy, changes: &[Change]) -> bool {
    let PolicyId { direction, selector, .. } = exception.id;
    changes.iter().any(|change| {
        matches!(&change.operation, Operation::Policy(PolicyChange::Create(guard))
            if guard.is_guard()
                && guard.id.direction == direction
                && guard.id.selector.overlaps(&selector))
    })
}

/// The phases in which a policy comes and goes.
fn phases(change: &PolicyChange, context: &Context<'_>) -> [Phase; 2] {
    let Context { changes, desired } = *context;
    match (change, change.policy().role()) {
        (PolicyChange::Create(guard), PolicyRole::Guard)
            if is_guarded_by_leaving_chain(guard, changes) =>
        {
            [Phase::LateGuards, Phase::DeleteGuards]
        }
        (PolicyChange::Delete(guard), PolicyRole::Guard)
            if is_guarded_by_new_chain(guard, desired) =>
        {
            [Phase::Guards, Phase::EarlyGuards]
        }
        // It lets packets pass in the clear that the guards are to block. No guard is for forwarded
        // packets: there it goes once its successor is there. One of the table of sub policies lets
        // no packet pass that the main table refuses, and one SA is not enough for two policies that
        // ask for it.
        (PolicyChange::Delete(policy), PolicyRole::Peer)
            if policy.lets_clear_text_pass()
                && policy.id.direction != Direction::Fwd
                && !policy.id.sub
                && !desired.guards.is_empty()
                && (has_guard(desired, policy.id.direction) || policy.covers_icmp_errors())
                && (hardened(policy).is_some() || may_be_guarded(policy)) =>
        {
            [Phase::Guards, Phase::Guards]
        }
        (_, PolicyRole::Guard) => [Phase::Guards, Phase::DeleteGuards],
        (_, PolicyRole::Passage(Passage::Discovery)) => [Phase::Discovery, Phase::DeleteDiscovery],
        (_, PolicyRole::Passage(Passage::Encap)) => [Phase::Encap, Phase::DeleteEncap],
        (PolicyChange::Delete(exception), PolicyRole::Passage(Passage::Exception))
            if is_blocked_from_now_on(exception, changes) =>
        {
            [Phase::Exceptions, Phase::EndExceptions]
        }
        (_, PolicyRole::Passage(Passage::Exception)) => {
            [Phase::Exceptions, Phase::DeleteExceptions]
        }
        // Those of networks cover errors like everything else.
        (_, PolicyRole::Peer)
            if change.policy().covers_icmp_errors() && change.policy().id.if_id == 0 =>
        {
            [Phase::IcmpErrors, Phase::DeleteIcmpErrors]
        }
        (_, PolicyRole::Peer) => [Phase::Policies, Phase::DeletePolicies],
    }
}

/// The first replacement of a policy that lets the traffic pass in the clear, and that would do so
/// before any guard: the same policy without that. Not the wanted one, as its SAs may be still to
/// come.
fn closed(live: &Policy, wanted: &Policy) -> Option<Policy> {
    let opens = live.lets_clear_text_pass() && !wanted.lets_clear_text_pass();
    opens.then(|| hardened(live).unwrap_or_else(|| wanted.clone()))
}

/// Whether policies guard a direction. Where a mark selects, a rule guards packets out, and sees
/// what policies have made of them: one that asks for an SA before the mark is set would drop them.
fn has_guard(desired: &Desired, direction: Direction) -> bool {
    desired.guards.keys().any(|guard| guard.direction == direction)
}

/// Whether a guard may be for packets of a policy: none is for forwarded packets, or for ICMP.
fn may_be_guarded(policy: &Policy) -> bool {
    let PolicyId { direction, selector, .. } = policy.id;
    direction != Direction::Fwd && ![IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&selector.proto)
}

/// The same policy, letting no packet pass in the clear; `None` if it encrypts nothing.
pub(super) fn hardened(policy: &Policy) -> Option<Policy> {
    let mut closed = Policy { index: None, extras: BTreeSet::new(), ..policy.clone() };
    let esp = closed.templates.iter_mut().filter(|template| template.proto == IPPROTO_ESP);
    esp.for_each(|template| template.level = Level::Required);
    (!closed.lets_clear_text_pass()).then_some(closed)
}

/// Whether a policy in would refuse the packets of the mesh's SAs, once it lets no clear text pass.
/// Those of an interface are of mode tunnel, and all others of mode transport. It goes at once then,
/// as a guard blocks the clear text.
fn refuses_all(policy: &Policy) -> bool {
    policy.id.direction == Direction::In
        && policy.id.if_id == 0
        && policy.templates.iter().any(|template| template.mode != Mode::Transport)
}

/// Whether a chain that goes at the end, and that packets get to, stands in for a guard that comes.
fn is_guarded_by_leaving_chain(guard: &Policy, changes: &[Change]) -> bool {
    // Chains guard ports. Guards of networks have none, and there may be thousands.
    let has_port = guard.id.selector.dport.mask != 0;
    has_port
        && changes.iter().any(|change| {
            matches!(&change.operation, Operation::Chain(ChainChange::Delete(chain))
            if chain.is_reached() && drops_for(&chain.id, &chain.rules, guard))
        })
}

/// Whether a chain that is set before stands in for a guard that goes.
fn is_guarded_by_new_chain(guard: &Policy, desired: &Desired) -> bool {
    let chain = desired.chains.get(&(Family::of(&guard.id.selector), ChainRole::Out));
    chain.is_some_and(|rules| drops(rules, guard))
}

fn drops_for(id: &ChainId, rules: &[Rule], guard: &Policy) -> bool {
    id.role() == Some(ChainRole::Out)
        && id.family == Family::of(&guard.id.selector)
        && drops(rules, guard)
}

/// Whether rules drop the packets that a guard out blocks.
fn drops(rules: &[Rule], guard: &Policy) -> bool {
    let port = guard.id.selector.dport;
    guard.id.direction == Direction::Out
        && chain::guarded_ports(rules).any(|other| port == PortMatch::exactly(other))
}

/// The attributes in which a kernel's policy may differ from a file's.
fn of_policy(policy: &Policy) -> Fields {
    let mut fields: Fields =
        vec![("action", policy.action.to_string()), ("priority", policy.priority.to_string())];
    match policy.templates.as_slice() {
        [] => {}
        [template] => fields.extend(of_template(template)),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            fields.push(("templates", several.join(" and ")));
        }
    }
    fields.extend(fields::extras(&policy.extras));
    fields
}

fn of_template(template: &Template) -> [(&'static str, String); 5] {
    let spi = match template.spi.raw() {
        0 => "any".into(),
        _ => template.spi.to_string(),
    };
    [
        ("spi", spi),
        ("reqid", template.reqid.to_string()),
        ("mode", template.mode.to_string()),
        ("level", template.level.to_string()),
        ("template", format!("src {} dst {} proto {}", template.src, template.dst, template.proto)),
    ]
}

/// Whether a policy protected or blocked packets out that nobody has marked, if only where an SA
/// was at hand.
pub(super) fn may_protect(policy: &Policy) -> bool {
    policy.id.direction == Direction::Out
        && policy.id.mark.value == 0
        && policy.id.if_id == 0
        && (policy.action == Action::Block || !policy.templates.is_empty())
}
