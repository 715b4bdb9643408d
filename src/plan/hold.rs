//! Which changes go on while something is in the way.
//!
//! A conflict says that a protection to come could not be had, or could not be relied on. So it
//! holds back new objects, but no change that keeps up existing ones: SAs run out of numbers and of
//! time, and a mesh that can't rotate would be cut two generations later, for a sysctl that
//! somebody set.
//!
//! A pair *stands* if policies that the file wants of it are there, ours, out and in, and an SA to
//! receive by. At stage receive none is wanted out. These changes go on:
//!
//! | | nothing in the way | something stops its peer, or all |
//! |---|---|---|
//! | an SA made, replaced or deleted | yes | if its pair stands |
//! | a policy updated, unless it would rank later or let clear text pass | yes | if its pair stands, and for guards |
//! | a policy fwd or for ICMP errors made | yes | if its pair stands |
//! | a policy out deleted at stage receive | yes | if its pair stands |
//! | the interface set, an address added to it | yes | yes |
//! | a route or a blackhole made | yes | if its pair stands |
//! | any other policy, a guard made, the interface made | yes | no |
//! | a policy, a route, an address, the interface deleted; chains, the MTU | yes | no |
//!
//! Besides, for all peers, stopped or not:
//!
//! * An object with a taken identity is not made. A pair that would send under an SA which can't be
//!   made goes on sending under the one that it has.
//! * No SA goes while a policy that stays asks for it. None is replaced, with a gap, while a policy
//!   that stays would let clear text pass in the gap.
//! * A guard, a chain or a policy for neighbour discovery goes only if nothing at all is in the
//!   way: it may be the only protection of a stopped peer. A policy of no peer that covers ICMP
//!   errors stays too, and lets no clear text pass from then on.
//! * Where the objects may be another mesh's, nothing is done.
//!
//! Objects that were there before an apply, and are to be restored, are held back by taken
//! identities alone.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    address::AddressChange,
    chain::ChainChange,
    change::{self, Change, Operation},
    conflict::{Blocked, Found, TakenIdentities},
    fib::FibChange,
    interface::InterfaceChange,
    policy::{LETS_CLEAR_TEXT_PASS, PolicyChange, hardened, is_of_a_later_stage},
    sa::SaChange,
};
use crate::{
    desired::Desired,
    model::{
        ConflictCode, Direction, IPPROTO_ESP, Live, Mark, Passage, PeerName, Policy, PolicyId,
        Prefix, Reqid, Sa, SaId, Spi,
    },
};

/// Splits changes into those that go on and the number of those held back.
pub(super) fn split(
    changes: Vec<Change>,
    desired: &Desired,
    live: &Live,
    reqid: Reqid,
    found: &Found,
) -> (Vec<Change>, usize) {
    if found.conflicts.is_empty() && found.taken.sas.is_empty() && found.taken.policies.is_empty() {
        return (changes, 0);
    }
    let all = changes.len();
    let hold = Hold::new(desired, live, reqid, found);
    let (mut on, rest): (Vec<Change>, Vec<Change>) =
        changes.into_iter().partition(|change| hold.lets(change));
    let closed: Vec<Change> = rest.into_iter().filter_map(|change| hold.closes(change)).collect();
    let closes = closed.len();
    on.extend(closed);
    let mut on = hold.without_needed_sas(hold.without_lost_switches(on));
    // A policy that is closed is held back from its deletion.
    let held = all + closes - on.len();
    change::sort(&mut on);
    (on, held)
}

/// The conflicts, and the pairs that they stop.
struct Hold<'a> {
    desired: &'a Desired,
    /// The mesh's policies out, as they are.
    out: BTreeMap<PolicyId, &'a Policy>,
    stands: BTreeSet<&'a PeerName>,
    blocked: Blocked,
    taken: &'a TakenIdentities,
    is_others: bool,
}

impl<'a> Hold<'a> {
    fn new(desired: &'a Desired, live: &'a Live, reqid: Reqid, found: &'a Found) -> Self {
        let out = live.0.policies_of(reqid).filter(|policy| policy.id.direction == Direction::Out);
        let mut conflicts = found.conflicts.iter();
        Self {
            desired,
            out: out.map(|policy| (policy.id, policy)).collect(),
            stands: standing(desired, live, reqid),
            blocked: Blocked::by(&found.conflicts),
            taken: &found.taken,
            is_others: conflicts.any(|conflict| conflict.code == ConflictCode::SameReqid),
        }
    }

    /// Whether a change goes on, apart from the effects of other changes.
    fn lets(&self, change: &Change) -> bool {
        if self.is_others || self.is_taken(change) {
            return false;
        }
        if self.desired.goal.is_before() || self.blocked.is_nobody() {
            return true;
        }
        match self.blocked.covers(change.peer.as_ref()) {
            true => self.keeps_up(change),
            false => !self.may_be_needed(change),
        }
    }

    /// Whether it makes an object in the place of a foreign one.
    fn is_taken(&self, change: &Change) -> bool {
        match &change.operation {
            Operation::Sa(SaChange::Create(wanted) | SaChange::Replace { wanted, .. }) => {
                self.taken.sas.contains(&wanted.sa.id)
            }
            Operation::Policy(PolicyChange::Create(policy)) => {
                self.taken.policies.contains(&policy.id)
            }
            Operation::Sa(SaChange::Delete { .. })
            | Operation::Policy(PolicyChange::Update { .. } | PolicyChange::Delete(_))
            | Operation::Mtu(_)
            | Operation::Chain(_)
            | Operation::Interface(_)
            | Operation::Address(_)
            | Operation::Fib(_) => false,
        }
    }

    /// Whether it keeps up an existing object, of a peer that is stopped or of none.
    fn keeps_up(&self, change: &Change) -> bool {
        let stands = change.peer.as_ref().is_some_and(|peer| self.stands.contains(peer));
        match &change.operation {
            Operation::Sa(_) => stands,
            // A policy that somebody edited to rank first may be the only one that keeps packets
            // ahead of the foreign object.
            Operation::Policy(PolicyChange::Update { live, wanted }) => {
                let refuses_nothing = live.lets_clear_text_pass() && !live.refuses();
                let still_ranks = wanted.priority <= live.priority || refuses_nothing;
                let opens = wanted.lets_clear_text_pass() && !live.lets_clear_text_pass();
                still_ranks && !opens && (stands || self.desired.guards.contains_key(&wanted.id))
            }
            // Nobody else may see the packets that the pair receives, and they may be let through
            // to nobody.
            Operation::Policy(PolicyChange::Create(policy)) => {
                stands && (policy.is_for_icmp_errors() || policy.id.direction == Direction::Fwd)
            }
            // Its pair is to send in the clear. Kept, it would ask for an SA that ends.
            // Without it less passes in the clear.
            Operation::Policy(PolicyChange::Delete(policy))
                if policy.passage() == Some(Passage::Exception) =>
            {
                true
            }
            Operation::Policy(PolicyChange::Delete(policy)) => {
                stands && is_of_a_later_stage(self.desired, change.peer.as_ref(), &policy.id)
            }
            // They lead packets to policies, and to blackholes without them.
            Operation::Interface(InterfaceChange::Update { .. }) => true,
            Operation::Address(AddressChange::Create(_)) => true,
            Operation::Fib(FibChange::Create(_) | FibChange::Replace { .. }) => stands,
            Operation::Interface(
                InterfaceChange::Create(_)
                | InterfaceChange::Replace { .. }
                | InterfaceChange::Delete(_),
            )
            | Operation::Address(AddressChange::Delete(_))
            | Operation::Fib(FibChange::Delete(_))
            | Operation::Mtu(_)
            | Operation::Chain(_) => false,
        }
    }

    /// Whether it takes away a protection that may be a stopped peer's only one.
    fn may_be_needed(&self, change: &Change) -> bool {
        change.peer.is_none()
            && match &change.operation {
                // A policy that refuses nothing may still protect, where an SA is at hand.
                Operation::Policy(PolicyChange::Delete(policy)) => {
                    matches!(change.passage(), Some(Passage::Discovery | Passage::Encap))
                        || policy.refuses()
                        || without_clear_text(policy).is_some()
                        || self.desired.guards.is_empty()
                }
                Operation::Chain(ChainChange::Delete(_))
                | Operation::Interface(InterfaceChange::Delete(_))
                | Operation::Address(AddressChange::Delete(_))
                | Operation::Fib(FibChange::Delete(_)) => true,
                Operation::Sa(_)
                | Operation::Policy(PolicyChange::Create(_) | PolicyChange::Update { .. })
                | Operation::Mtu(_)
                | Operation::Chain(ChainChange::Set { .. })
                | Operation::Interface(
                    InterfaceChange::Create(_)
                    | InterfaceChange::Update { .. }
                    | InterfaceChange::Replace { .. },
                )
                | Operation::Address(AddressChange::Create(_))
                | Operation::Fib(FibChange::Create(_) | FibChange::Replace { .. }) => false,
            }
    }

    /// A policy that covers ICMP errors, stays, and lets them pass in the clear is closed: of two
    /// policies the kernel asks the older one, and switches make the others younger.
    fn closes(&self, mut change: Change) -> Option<Change> {
        let Operation::Policy(PolicyChange::Delete(live)) = &change.operation else { return None };
        if self.is_others || change.peer.is_some() {
            return None;
        }
        let (live, wanted) = (live.clone(), without_clear_text(live)?);
        change.operation = Operation::Policy(PolicyChange::Update { live, wanted });
        change.reason = LETS_CLEAR_TEXT_PASS;
        Some(change)
    }

    /// Leaves policies out that would switch to an SA which can't be made.
    fn without_lost_switches(&self, mut changes: Vec<Change>) -> Vec<Change> {
        if self.taken.sas.is_empty() || self.desired.goal.is_before() {
            return changes;
        }
        let lost = |policy: &Policy| pinned(policy).any(|id| self.taken.sas.contains(&id));
        changes.retain(|change| match &change.operation {
            Operation::Policy(PolicyChange::Update { live, wanted }) => {
                !lost(wanted) || pinned(live).eq(pinned(wanted)) || live.lets_clear_text_pass()
            }
            Operation::Policy(PolicyChange::Create(_) | PolicyChange::Delete(_))
            | Operation::Sa(_)
            | Operation::Mtu(_)
            | Operation::Chain(_)
            | Operation::Interface(_)
            | Operation::Address(_)
            | Operation::Fib(_) => true,
        });
        changes
    }

    /// Leaves SAs there that a policy which stays as it is asks for. One that lets clear text
    /// pass for want of them keeps them from being replaced too, which leaves a gap.
    fn without_needed_sas(&self, mut changes: Vec<Change>) -> Vec<Change> {
        if self.blocked.is_nobody() || self.desired.goal.is_before() {
            return changes;
        }
        let mut stays = self.out.clone();
        for change in &changes {
            if let Operation::Policy(
                PolicyChange::Update { live: policy, .. } | PolicyChange::Delete(policy),
            ) = &change.operation
            {
                stays.remove(&policy.id);
            }
        }
        let open = stays.values().filter(|policy| policy.lets_clear_text_pass());
        let open: Vec<&Policy> = open.copied().collect();
        let needed: BTreeSet<SaId> = stays.into_values().flat_map(pinned).collect();
        changes.retain(|change| match &change.operation {
            Operation::Sa(SaChange::Delete { sa: Sa { id, .. }, .. }) => {
                !needed.contains(&SaId { mark: Mark::NONE, ..*id }) && !finds(&open, id)
            }
            Operation::Sa(SaChange::Replace { wanted, .. }) => !finds(&open, &wanted.sa.id),
            Operation::Sa(SaChange::Create(_))
            | Operation::Policy(_)
            | Operation::Mtu(_)
            | Operation::Chain(_)
            | Operation::Interface(_)
            | Operation::Address(_)
            | Operation::Fib(_) => true,
        });
        changes
    }
}

/// A policy that covers ICMP errors, and lets them pass in the clear, without that. No guard is for
/// them.
fn without_clear_text(policy: &Policy) -> Option<Policy> {
    let is_open = policy.lets_clear_text_pass() && policy.covers_icmp_errors();
    is_open.then(|| hardened(policy)).flatten()
}

/// The SAs that a policy out asks for by their SPI.
fn pinned(policy: &Policy) -> impl Iterator<Item = SaId> {
    let dst = policy.id.selector.dst.address;
    let spis = policy.templates.iter().map(|template| template.spi);
    spis.filter(|spi| *spi != Spi::from_raw(0)).map(move |spi| SaId::esp(dst, spi))
}

/// Whether one of some policies out may send under an SA.
fn finds(policies: &[&Policy], sa: &SaId) -> bool {
    let asks = |spi: Spi| spi == Spi::from_raw(0) || spi == sa.spi;
    policies.iter().any(|policy| {
        policy.id.selector.dst.covers(&Prefix::host(sa.dst))
            && policy.templates.iter().any(|template| asks(template.spi))
    })
}

/// The peers with wanted policies that are there, out and in, and with an SA to receive by. After
/// all SAs were deleted, those to come count as new.
fn standing<'a>(desired: &'a Desired, live: &Live, reqid: Reqid) -> BTreeSet<&'a PeerName> {
    let ours = live.0.policies_of(reqid);
    let wanted = ours.filter_map(|policy| desired.policies.get(&policy.id));
    let mut sides: [BTreeSet<&PeerName>; 2] = Default::default();
    for wanted in wanted.filter(|wanted| !wanted.policy.is_for_icmp_errors()) {
        match wanted.policy.id.direction {
            Direction::Out => _ = sides[0].insert(&wanted.peer),
            Direction::In => _ = sides[1].insert(&wanted.peer),
            Direction::Fwd => {}
        }
    }
    let receives = |sa: &&Sa| {
        sa.id.proto == IPPROTO_ESP
            && sa.reqid == reqid
            && Some(sa.id.dst) == desired.local
            && sa.id.mark.is_none()
            && !sa.is_larval()
    };
    let sas = live.0.sas.iter().filter(receives);
    let heard: BTreeSet<&PeerName> = sas.filter_map(|sa| desired.peers.get(&sa.src)).collect();
    let receivers = desired.stages.iter().filter(|(_, stage)| !stage.sends());
    sides[0].extend(receivers.map(|(peer, _)| peer));
    &(&sides[0] & &sides[1]) & &heard
}
