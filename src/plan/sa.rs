//! SAs: identity, differences, steps, and the way back.
//!
//! An SA has no update: the kernel answers one with success and does nothing (`xfrm_state_update`),
//! so an SA that differs is replaced.

use std::collections::BTreeMap;

use super::{
    change::{
        Change, ChangeAction, Context, Difference, NOT_PAIRED, ObjectKind, Operation,
        is_not_paired, peer_of,
    },
    fields::{self, Field, Fields},
    keepalive::Fit,
    sequence::Phase,
    stage::SENDS_CLEAR_TEXT,
    undo::{RollBack, WayBack},
};
use crate::{
    desired::{Desired, Goal, Keyring, WantedSa},
    model::{
        Algorithm, Direction, IPPROTO_ESP, KeyView, Live, Mark, OldPairs, Reason, ReasonCode,
        Reqid, Sa, SaId, SaStep, Selector, State, StepKind,
    },
};

/// An SA that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a plan has some thousand of them, once")]
pub enum SaChange {
    /// It is missing.
    Create(WantedSa),
    /// It differs. `live` is deleted, and so are the mesh's SAs on the same SPI that have a mark:
    /// the kernel would find them in its place.
    Replace {
        /// The SA in the kernel; `None` if only a marked twin is there.
        live: Option<Box<Sa>>,
        /// The SA to add.
        wanted: WantedSa,
        /// Twins with a mark.
        twins: Vec<Sa>,
    },
    /// It is of the mesh, and unwanted.
    Delete {
        /// The SA in the kernel.
        sa: Sa,
        /// Its direction, where an end is the local peer's address.
        direction: Option<Direction>,
    },
}

/// The changes of SAs.
pub(super) fn diff(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Change> {
    let sas: BTreeMap<SaId, &Sa> = live.0.sas_of(reqid).map(|sa| (sa.id, sa)).collect();
    let old = OldPairs::of(&live.0, reqid);
    let fit = Fit::new(desired, live, reqid);
    let wanted = desired.sas.values().filter_map(|wanted| {
        let fitting = fit.fit(wanted, sas.get(&wanted.sa.id).copied());
        wanted_sa(&fitting, &fit, &sas, &old)
    });
    let mut changes: Vec<Change> = wanted.collect();
    changes.extend(sas.values().filter_map(|sa| unwanted_sa(desired, sa, &old)));
    changes
}

impl Difference for SaChange {
    fn action(&self) -> ChangeAction {
        match self {
            Self::Create(_) => ChangeAction::Create,
            Self::Replace { .. } => ChangeAction::Replace,
            Self::Delete { .. } => ChangeAction::Delete,
        }
    }

    fn kind(&self) -> ObjectKind {
        ObjectKind::Sa
    }

    fn id(&self) -> String {
        match self {
            Self::Create(wanted) | Self::Replace { wanted, .. } => wanted.sa.id.to_string(),
            Self::Delete { sa, .. } => sa.id.to_string(),
        }
    }

    fn direction(&self) -> Option<Direction> {
        match self {
            Self::Create(wanted) | Self::Replace { wanted, .. } => Some(wanted.direction),
            Self::Delete { direction, .. } => *direction,
        }
    }

    fn is_optional(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Self::Replace { twins, .. } if !twins.is_empty() => marks(twins),
            Self::Replace { live: Some(live), wanted, .. } => differing_sa(live, &wanted.sa),
            Self::Create(wanted) | Self::Replace { live: None, wanted, .. } => {
                fields::created(of_sa(&wanted.sa))
            }
            Self::Delete { sa, .. } => fields::deleted(of_sa(sa)),
        }
    }

    /// Of a peer's SAs the direction tells the destination.
    fn line(&self, hosts_are_known: bool) -> String {
        let is_told = hosts_are_known && self.direction().is_some();
        let id = |id: SaId| match is_told && id.proto == IPPROTO_ESP && id.mark.is_none() {
            true => format!("spi {}", id.spi),
            false => id.to_string(),
        };
        match self {
            Self::Create(wanted) => {
                let WantedSa { generation, sa, .. } = wanted;
                format!("{}  generation {generation}, key {}", id(sa.id), sa.key)
            }
            Self::Replace { wanted, .. } => {
                format!("{}  generation {}", id(wanted.sa.id), wanted.generation)
            }
            Self::Delete { sa, .. } => id(sa.id),
        }
    }

    fn steps(&self, context: &Context<'_>) -> Vec<(Phase, StepKind<()>)> {
        match self {
            Self::Create(wanted) => vec![(sa_phase(wanted.direction), add(wanted))],
            Self::Replace { live, wanted, twins } if !twins.is_empty() => {
                let first =
                    live.iter().map(|sa| (Phase::EvictSas, StepKind::Sa(SaStep::Delete(sa.id))));
                let twins = twins
                    .iter()
                    .map(|twin| (Phase::EvictTwins, StepKind::Sa(SaStep::Delete(twin.id))));
                first.chain(twins).chain([(sa_phase(wanted.direction), add(wanted))]).collect()
            }
            Self::Replace { live, wanted, .. } => {
                let larval = live.as_ref().is_some_and(|live| live.is_larval());
                let kind = if larval { add(wanted) } else { replace(wanted) };
                vec![(sa_phase(wanted.direction), kind)]
            }
            Self::Delete { sa, .. } => {
                let phase = match context.desired.local == Some(sa.src) {
                    true => Phase::DeleteOutboundSas,
                    false => Phase::DeleteSas,
                };
                vec![(phase, StepKind::Sa(SaStep::Delete(sa.id)))]
            }
        }
    }

    fn way_back(&self, now: &RollBack<'_>) -> Option<WayBack> {
        match self {
            Self::Create(wanted) => Some(without(wanted, now)),
            Self::Replace { live, wanted, twins } => match live {
                Some(old) if now.state.sas.contains(old) => Some(WayBack::Untouched),
                // A larval SA is worth nothing.
                Some(old) if old.is_larval() && twins.is_empty() => Some(without(wanted, now)),
                _ => None,
            },
            Self::Delete { sa: old, .. } => {
                now.state.sas.contains(old).then_some(WayBack::Untouched)
            }
        }
    }

    /// A policy that asks for an SA which is not there lets no packet pass.
    fn uncovered(&self) -> Vec<Selector> {
        Vec::new()
    }

    fn irreversible(&self, _: &State, keys: &Keyring) -> Vec<String> {
        match self {
            Self::Create(_) => Vec::new(),
            Self::Replace { live, twins, .. } => live
                .as_deref()
                .into_iter()
                .chain(twins)
                .filter_map(|sa| problem_of_sa(sa, keys))
                .collect(),
            Self::Delete { sa, .. } => problem_of_sa(sa, keys).into_iter().collect(),
        }
    }
}

/// Leaves no SA where there was none, or a placeholder.
fn without(wanted: &WantedSa, now: &RollBack<'_>) -> WayBack {
    match now.state.sas.iter().find(|sa| sa.id == wanted.sa.id) {
        Some(found) if found.reqid == now.reqid && !found.is_larval() => WayBack::NoSa(found.id),
        _ => WayBack::Untouched,
    }
}

fn wanted_sa(
    wanted: &WantedSa,
    fit: &Fit,
    live: &BTreeMap<SaId, &Sa>,
    old: &OldPairs,
) -> Option<Change> {
    let id = wanted.sa.id;
    let at_spi =
        live.range(id..).take_while(|(other, _)| SaId { mark: Mark::NONE, ..**other } == id);
    let (mut same, mut twins) = (None, Vec::new());
    for (other, sa) in at_spi {
        if *other == id { same = Some(*sa) } else { twins.push((*sa).clone()) }
    }
    let reason = match (same, twins.is_empty()) {
        (None, true) => {
            let operation = Operation::Sa(SaChange::Create(wanted.clone()));
            return Some(Change {
                peer: Some(wanted.peer.clone()),
                operation,
                reason: Reason::MISSING,
            });
        }
        (_, false) => Reason::new(
            ReasonCode::MarkedTwin,
            "an SA of this mesh with a mark has this SPI, and the kernel can't tell the two apart",
        ),
        (Some(sa), true) => {
            difference(sa, &wanted.sa, fit).or_else(|| by_chance(sa, wanted, old))?
        }
    };
    let operation = Operation::Sa(SaChange::Replace {
        live: same.cloned().map(Box::new),
        wanted: wanted.clone(),
        twins,
    });
    Some(Change { peer: Some(wanted.peer.clone()), operation, reason })
}

/// Why an SA isn't the wanted one, the most telling reason first.
fn difference(live: &Sa, wanted: &Sa, fit: &Fit) -> Option<Reason> {
    let has_no_keepalive = wanted.keepalive.is_some() && fit.accepts(live);
    let (code, text) = if live.is_larval() {
        (ReasonCode::Larval, "the kernel holds a larval SA in its place")
    } else if live.extras != wanted.extras && !has_no_keepalive {
        (ReasonCode::Attributes, "it has attributes that a mesh's SA never has")
    } else if live.if_id != wanted.if_id {
        (ReasonCode::Interface, "it is for another XFRM interface, or for one at all")
    } else if live.selector != wanted.selector {
        (ReasonCode::Selector, "its selector doesn't tie the key to the two addresses")
    } else if (live.src, live.mode) != (wanted.src, wanted.mode) {
        (ReasonCode::Addresses, "its addresses or mode differ")
    } else if live.algorithm != wanted.algorithm {
        (ReasonCode::Cipher, "its cipher differs")
    } else if live.key.differs(wanted.key) {
        (ReasonCode::Key, "its key differs")
    } else if live.offload != wanted.offload {
        (ReasonCode::Offload, "its offload to a device differs")
    } else if live.encap != wanted.encap {
        (ReasonCode::Encap, "its UDP encapsulation differs")
    } else if live.keepalive != wanted.keepalive && !has_no_keepalive {
        (ReasonCode::Keepalive, "its NAT keepalives differ")
    } else if live.replay != wanted.replay {
        (ReasonCode::ReplayWindow, "its anti-replay window differs")
    } else if !live.expires_like(wanted) {
        (ReasonCode::Lifetime, "its lifetime differs")
    } else {
        return None;
    };
    Some(Reason::new(code, text))
}

/// An SA that has the wanted SPI by chance: version 0.1 made it for another generation. So its key is
/// not the wanted one, even where the kernel hides it.
fn by_chance(live: &Sa, wanted: &WantedSa, old: &OldPairs) -> Option<Reason> {
    let is_other = old.has(live) && old.generation(live, wanted.generation) != wanted.generation;
    let has_the_key = matches!(live.key, KeyView::Known(_)) && live.key == wanted.sa.key;
    let text = "version 0.1 made it, for another generation";
    (is_other && !has_the_key).then(|| Reason::new(ReasonCode::Key, text))
}

fn unwanted_sa(desired: &Desired, sa: &Sa, old: &OldPairs) -> Option<Change> {
    let unmarked = SaId { mark: Mark::NONE, ..sa.id };
    let is_kept = desired.kept.contains(&sa.id) && !old.has(sa);
    if desired.sas.contains_key(&unmarked) || is_kept {
        return None; // wanted, a twin that goes with the replacement, or kept for its numbers
    }
    let peer = peer_of(desired, sa.src, sa.id.dst);
    let (code, text) = match peer {
        _ if desired.goal == Goal::Nothing => (ReasonCode::Destroying, "all of the mesh goes"),
        Some(_) if old.has(sa) => (ReasonCode::OldLayout, "its SPI has the layout of version 0.1"),
        Some(peer) if desired.local == Some(sa.src) && !desired.stage(peer).sends() => {
            (ReasonCode::Stage, SENDS_CLEAR_TEXT)
        }
        Some(_) => (ReasonCode::OtherGeneration, "not one of the generations before, now and next"),
        None if is_not_paired(desired, sa.src, sa.id.dst) => (ReasonCode::PairGone, NOT_PAIRED),
        None => (ReasonCode::NoPeer, "no peer of mesh.toml has it"),
    };
    let reason = Reason::new(code, text);
    Some(Change {
        peer: peer.cloned(),
        operation: Operation::Sa(SaChange::Delete {
            sa: sa.clone(),
            direction: direction(desired, sa),
        }),
        reason,
    })
}

/// The direction of an SA, by its ends.
fn direction(desired: &Desired, sa: &Sa) -> Option<Direction> {
    match desired.local? {
        local if local == sa.id.dst => Some(Direction::In),
        local if local == sa.src => Some(Direction::Out),
        _ => None,
    }
}

fn add(wanted: &WantedSa) -> StepKind<()> {
    StepKind::Sa(SaStep::Add { sa: wanted.sa.clone(), key: (), start: wanted.start })
}

fn replace(wanted: &WantedSa) -> StepKind<()> {
    StepKind::Sa(SaStep::Replace { sa: wanted.sa.clone(), key: (), start: wanted.start })
}

fn sa_phase(direction: Direction) -> Phase {
    match direction {
        Direction::Out => Phase::OutboundSas,
        Direction::In | Direction::Fwd => Phase::InboundSas,
    }
}

/// The attributes in which a kernel's SA may differ from a file's.
fn of_sa(sa: &Sa) -> Fields {
    let selector = sa.selector.map_or_else(|| "none".into(), |selector| selector.to_string());
    let mut fields: Fields = vec![
        ("src", sa.src.to_string()),
        ("mode", sa.mode.to_string()),
        ("selector", selector),
        ("cipher", sa.algorithm.to_string()),
        ("key", sa.key.to_string()),
        ("replay_window", sa.replay.window.to_string()),
        ("esn", sa.replay.esn.to_string()),
    ];
    fields.extend(sa.ends.map(|time| ("ends", time.rfc3339())));
    fields.extend(sa.offload.as_ref().map(|offload| ("offload", offload.to_string())));
    fields.extend(sa.encap.map(|encap| ("encap", encap.to_string())));
    fields.extend(sa.keepalive.map(|seconds| ("keepalive", format!("{seconds}s"))));
    fields.extend((sa.if_id != 0).then(|| ("if_id", format!("{:#x}", sa.if_id))));
    fields.extend(fields::extras(&sa.extras));
    fields
}

/// The fields in which two SAs differ; an unknown key equals any. Of a placeholder that the kernel
/// made, only that it has no cipher.
fn differing_sa(live: &Sa, wanted: &Sa) -> Vec<Field> {
    let mut fields = fields::differing(of_sa(live), of_sa(wanted));
    if live.is_larval() {
        fields.retain(|field| field.name == "cipher");
    }
    fields.retain(|field| match field.name {
        "key" => live.key.differs(wanted.key),
        "ends" => !live.expires_like(wanted),
        _ => true,
    });
    fields
}

/// The marks of twins that go.
fn marks(twins: &[Sa]) -> Vec<Field> {
    fields::deleted(twins.iter().map(|twin| ("mark", twin.id.mark.to_string())).collect())
}

fn problem_of_sa(sa: &Sa, keys: &Keyring) -> Option<String> {
    if sa.is_larval() {
        return None; // a placeholder, which the kernel makes and lets go by itself
    }
    let known = keys.get(&sa.id).map(|key| KeyView::Known(key.fingerprint()));
    let problem = if !sa.id.mark.is_none() {
        "it has a mark".into()
    } else if !sa.extras.is_empty() {
        fields::listed(&sa.extras)
    } else if !matches!(sa.algorithm, Algorithm::Aead { .. }) {
        format!("its transform is {}", sa.algorithm)
    } else if known.is_none_or(|known| known != sa.key) {
        "the kernel doesn't show its key".into()
    } else {
        return None;
    };
    Some(format!("SA {}: {problem}", sa.id))
}
