//! Foreign objects in the way: those that meshsec must not touch and can't live with.

use std::collections::BTreeSet;

use super::{
    bypass, firewall, nat, networks,
    reach::Reach,
    same_reqid,
    stops::{Peers, Stops},
    tunnel,
};
use crate::{
    desired::Desired,
    model::{
        ConflictCode, Direction, Live, Mark, PEER_PRIORITY, Passage, PeerName, Policy, PolicyId,
        Reqid, Sa, SaId, Selector,
    },
};

/// A foreign object, or a lack, in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its kind.
    pub code: ConflictCode,
    /// The peers that it stops.
    pub stops: Stops,
    /// The foreign object in the words of `ip xfrm` or `sysctl`, or the lack of iptables.
    pub object: String,
    /// Why it is in the way, and what to do about it.
    pub text: String,
}

impl Conflict {
    /// Its place in a list: those that stop all come first, then by peer and object.
    fn place(&self) -> (Option<&PeerName>, &str) {
        (self.stops.peers().and_then(|peers| peers.iter().next()), &self.object)
    }
}

/// The peers with new objects that conflicts hold back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// All peers.
    All,
    /// These peers.
    Peers(BTreeSet<PeerName>),
}

impl Blocked {
    pub(super) fn by(conflicts: &[Conflict]) -> Self {
        let peers: Option<Vec<&Peers>> =
            conflicts.iter().map(|conflict| conflict.stops.peers()).collect();
        let names = |peers: Vec<&Peers>| {
            let lists = Peers::union(peers.into_iter());
            lists.iter().flat_map(Peers::iter).cloned().collect()
        };
        peers.map_or(Self::All, |peers| Self::Peers(names(peers)))
    }

    /// Whether they stop nothing.
    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Self::Peers(peers) if peers.is_empty())
    }

    /// Whether they stop a peer, or objects of no peer.
    pub fn covers(&self, peer: Option<&PeerName>) -> bool {
        match self {
            Self::All => true,
            Self::Peers(peers) => peer.is_some_and(|peer| peers.contains(peer)),
        }
    }
}

/// The conflicts, and the wanted objects that they concern.
#[derive(Default)]
pub(super) struct Found {
    pub(super) conflicts: Vec<Conflict>,
    pub(super) taken: TakenIdentities,
}

/// Identities of wanted objects that foreign ones have, so that the wanted ones can't be made.
#[derive(Default)]
pub(super) struct TakenIdentities {
    pub(super) sas: BTreeSet<SaId>,
    pub(super) policies: BTreeSet<PolicyId>,
}

impl Found {
    fn of_sas(&mut self, desired: &Desired, live: &Live, reqid: Reqid) {
        for sa in &live.0.sas {
            if let Some((id, conflict)) = taken_spi(desired, sa, reqid) {
                self.taken.sas.insert(id);
                self.conflicts.push(conflict);
            }
        }
    }

    /// Adds the identity or index that a foreign policy has taken, if it has.
    fn takes(&mut self, desired: &Desired, policy: &Policy, reqid: Reqid) -> bool {
        if let Some(conflict) = taken_selector(desired, policy, reqid) {
            self.taken.policies.insert(policy.id);
            self.conflicts.push(conflict);
            return true;
        }
        let Some(conflict) = taken_index(desired, policy) else { return false };
        let wanted = desired.passages.values().filter(|wanted| has_index_of(policy, wanted));
        self.taken.policies.extend(wanted.map(|wanted| wanted.id));
        self.conflicts.push(conflict);
        true
    }
}

/// All foreign objects in the way of the wanted ones.
///
/// Nothing is in the way of a host that is to hold nothing, unless its chains can't be read. Only
/// objects in the very place of a wanted one are in the way of a host that is to hold again the
/// objects that it held: other foreign objects decide about packets as others want it, and are
/// not a reason to keep a host cut off.
pub(super) fn find(desired: &Desired, live: &Live, reqid: Reqid) -> Found {
    let mut found = Found::default();
    found.of_sas(desired, live, reqid);
    let reach = Reach::of_closed(desired);
    let foreign = live.0.foreign_policies(reqid);
    for policy in foreign {
        if !found.takes(desired, policy, reqid) && !desired.goal.is_before() {
            found.conflicts.extend(outranking(desired, &reach, policy, reqid));
            found.conflicts.extend(opened(desired, policy));
        }
    }
    found.conflicts.extend(firewall::conflicts(desired, live));
    if !desired.goal.is_before() {
        found.conflicts.extend(tunnel::conflicts(desired, live));
        found.conflicts.extend(nat::conflicts(desired, live));
        found.conflicts.extend(networks::conflicts(desired, live, reqid));
        found.conflicts.extend(bypass::conflicts(desired, live));
        found.conflicts.extend(same_reqid::conflict(desired, live, reqid));
    }
    found.conflicts.sort_by(|a, b| a.place().cmp(&b.place()));
    found
}

/// A foreign SA in the place of one of ours. A mark doesn't help: the kernel's look-up
/// (`__xfrm_state_lookup`) finds a marked SA for packets of that mark.
fn taken_spi(desired: &Desired, sa: &Sa, reqid: Reqid) -> Option<(SaId, Conflict)> {
    if sa.reqid == reqid {
        return None;
    }
    let unmarked = SaId { mark: Mark::NONE, ..sa.id };
    let wanted = desired.sas.get(&unmarked)?;
    let conflict = Conflict {
        code: ConflictCode::SpiTaken,
        stops: Stops::peer(&wanted.peer),
        object: format!("sa {} reqid {}", sa.id, sa.reqid),
        text: format!(
            "a foreign SA has the destination and SPI of an SA of the mesh{}",
            other_mesh(sa.reqid).unwrap_or("; delete it, or give the peer another short_id")
        ),
    };
    Some((unmarked, conflict))
}

/// Whether a foreign policy has the index that its maker wants for another.
fn has_index_of(policy: &Policy, wanted: &Policy) -> bool {
    wanted.index.is_some() && wanted.index == policy.index
}

/// A foreign policy with the index by which one of ours is to be recognised. The kernel would
/// silently give ours another index, and nobody would recognise it.
fn taken_index(desired: &Desired, policy: &Policy) -> Option<Conflict> {
    let taken = desired.passages.values().find(|wanted| has_index_of(policy, wanted))?;
    let packets = taken.passage().map_or("packets", Passage::packets);
    Some(Conflict {
        code: ConflictCode::IndexTaken,
        stops: Stops::All,
        object: describe(policy),
        text: format!(
            "a foreign policy has the index of the one that lets {packets} pass; delete it, or give \
             the mesh another reqid"
        ),
    })
}

/// A foreign policy with the very identity of one of ours.
fn taken_selector(desired: &Desired, policy: &Policy, reqid: Reqid) -> Option<Conflict> {
    let passage = desired.passages.get(&policy.id);
    if passage.is_some_and(|wanted| policy.serves_as(wanted)) {
        return None;
    }
    let (stops, what) = match desired.policies.get(&policy.id) {
        Some(wanted) => (Stops::peer(&wanted.peer), "policy"),
        None if passage.is_some() => match passage.and_then(Policy::passage) {
            Some(Passage::Encap) => (Stops::All, "policy for ESP in UDP"),
            Some(Passage::Exception) => (Stops::All, "policy for an exception"),
            Some(Passage::Discovery) | None => (Stops::All, "policy for neighbour discovery"),
        },
        None => desired.guards.get(&policy.id).map(|_| (Stops::All, "guard"))?,
    };
    // A guard has its mesh's reqid as its priority.
    let reqids = policy.templates.iter().map(|template| template.reqid);
    let edited = (what == "guard" && policy.priority == reqid.0).then_some(
        "; it may be the mesh's own, and edited by somebody: delete it, and the next apply puts up the guard",
    );
    let other = || reqids.chain([Reqid(policy.priority)]).find_map(other_mesh);
    let hint = edited.or_else(other);
    Some(Conflict {
        code: ConflictCode::SelectorTaken,
        stops,
        object: describe(policy),
        text: format!(
            "a foreign policy has the selector of the mesh's {what}{}",
            hint.unwrap_or("; delete it if nothing needs it")
        ),
    })
}

/// A policy that protects or blocks packets which an exception of ours would let pass before it is
/// asked.
fn opened(desired: &Desired, policy: &Policy) -> Option<Conflict> {
    if !policy.refuses() || policy.id.if_id != 0 {
        return None;
    }
    let opens = |ours: &&Policy| {
        ours.passage() == Some(Passage::Exception)
            && ours.id.direction == policy.id.direction
            && ours.priority <= policy.priority
            && ours.id.selector.overlaps(&policy.id.selector)
    };
    let exception = desired.passages.values().find(opens)?;
    Some(Conflict {
        code: ConflictCode::ExceptionOpens,
        stops: Stops::All,
        object: describe(policy),
        text: format!(
            "the exception {} would let pass in the clear what this foreign policy protects or blocks; \
             leave the exception out, or give the policy a priority number below {}",
            exception.id, exception.priority
        ),
    })
}

/// A policy that lets protected traffic pass in the clear before ours is asked. Before stage enforce
/// ours lets clear text in as well, and that is not a conflict.
///
/// On equal priority the kernel prefers the older policy, which may be the foreign one.
fn outranking(desired: &Desired, reach: &Reach, policy: &Policy, reqid: Reqid) -> Option<Conflict> {
    // An XFRM interface's policies see only that interface's packets.
    if !policy.lets_clear_text_pass() || policy.id.if_id != 0 {
        return None;
    }
    // Packets that ours let pass as well are not a conflict.
    let passes_too = |ours: &PolicyId| {
        ours.direction == policy.id.direction && ours.selector.covers(&policy.id.selector)
    };
    if desired.passages.keys().any(passes_too) {
        return None;
    }
    let same_packets = |direction: Direction, selector: &Selector| {
        direction == policy.id.direction && selector.overlaps(&policy.id.selector)
    };
    let conflict = |code, stops, what: &str| Conflict {
        code,
        stops,
        object: describe(policy),
        text: format!(
            "a foreign policy outranks {what} and lets the traffic pass in the clear; \
             delete it, narrow its selector or raise its priority number"
        ),
    };
    // Between two peers the peer's policy ranks before the guard, so a policy that outranks the
    // peer's stops that peer alone.
    let meets_guard = |guard: &Policy| same_packets(guard.id.direction, &guard.id.selector);
    if policy.priority <= reqid.0
        && desired.guards.values().any(meets_guard)
        && !reach.is_within_one(&policy.id)
    {
        return Some(conflict(ConflictCode::OutranksGuard, Stops::All, "the guard"));
    }
    if policy.priority > PEER_PRIORITY {
        return None;
    }
    let peers = reach.met_by(&policy.id);
    (!peers.is_empty())
        .then(|| conflict(ConflictCode::OutranksPeer, Stops::Peers(peers), "that of the mesh"))
}

/// Advice about an object with a reqid that looks like a mesh's.
fn other_mesh(reqid: Reqid) -> Option<&'static str> {
    (reqid.0 >> 16 == 0x4d53).then_some(
        ": it belongs to another mesh, or to this one under an old name or reqid; \
         run destroy with that mesh's file first",
    )
}

/// A policy in the words of `ip xfrm`.
pub(super) fn describe(policy: &Policy) -> String {
    let mut text = format!("policy {} {} priority {}", policy.id, policy.action, policy.priority);
    for template in &policy.templates {
        text.push_str(&format!(" tmpl {template}"));
    }
    text
}
