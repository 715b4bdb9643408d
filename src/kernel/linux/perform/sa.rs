//! Requests about an SA.

use std::sync::Arc;

use super::{Object, Outcome, XfrmStep};
use crate::{
    kernel::{
        Errno, KernelError, SystemCause,
        linux::{
            clock,
            decode::{self, Names},
            encode, explain, link,
            netlink::{Answer, Engine, LOOK_WINDOW, WINDOW},
            wire::Request,
        },
        rules::{self, InitialValues},
    },
    model::{Added, Key, ObjectStep, Reqid, Sa, SaId, SaStep, Start, Usage},
};

impl XfrmStep for SaStep {
    fn look(&self) -> Option<Request> {
        match self {
            Self::Add { .. } => None,
            // An SA with the same key goes on from the old one's numbers.
            Self::Replace { sa, .. } => Some(encode::get_sa(&sa.id)),
            // A look-up under a mark also finds an SA without one.
            Self::Delete(id) => (!id.mark.is_none()).then(|| encode::get_sa(id)),
        }
    }

    fn requests(&self, found: Option<Object>) -> Result<Vec<Request>, KernelError> {
        // Only the keys of an SA to replace are compared.
        let reqid = self.added().map_or(Reqid(0), |added| added.sa.reqid);
        let found = found.map(|mut object| decode::sa(&mut object, reqid, &Names::new()));
        let found = found.transpose()?;
        match self {
            Self::Add { sa, key, start } => {
                rules::check_sa(sa, key, self)?;
                Ok(vec![encode::new_sa(sa, key, begin(self, sa, *start, None)?)])
            }
            Self::Replace { sa, key, start } => {
                rules::check_sa(sa, key, self)?;
                let old = found.as_ref().filter(|(old, _)| rules::same_key(old.key, key));
                let begin = begin(self, sa, *start, old.map(|(_, usage)| usage))?;
                let add = Request { joined: true, ..encode::new_sa(sa, key, begin) };
                Ok(vec![encode::delete_sa(&sa.id), add])
            }
            Self::Delete(id) => delete(self, id, found.map(|(sa, _)| sa.id)),
        }
    }

    fn gone(&self, index: usize) -> Option<Errno> {
        match self {
            Self::Delete(_) => Some(Errno::ESRCH),
            Self::Replace { .. } => (index == 0).then_some(Errno::ESRCH),
            Self::Add { .. } => None,
        }
    }

    fn hint(&self, errno: Errno) -> Option<String> {
        explain::of_sa(self.added()?.sa, errno)
    }

    fn as_sa(&self) -> Option<&SaStep> {
        Some(self)
    }
}

/// The initial values of an SA whose request is sent now.
fn begin(
    step: &SaStep,
    sa: &Sa,
    start: Start,
    old: Option<&Usage>,
) -> Result<InitialValues, KernelError> {
    let begin = rules::begin(step, sa, start, old, clock::now())?;
    Ok(InitialValues { device: link::offload_index(sa, step)?, ..begin })
}

/// The request to delete an SA. One with a mark was looked at; `found` is the SA that it would hit.
fn delete(step: &SaStep, id: &SaId, found: Option<SaId>) -> Result<Vec<Request>, KernelError> {
    match found {
        Some(found) if found != *id => Err(KernelError::System {
            cause: SystemCause::Other,
            doing: step.attempt(),
            reason: format!("it is hidden by SA {found}, which would be deleted instead"),
        }),
        None if !id.mark.is_none() => Ok(Vec::new()),
        Some(_) | None => Ok(vec![encode::delete_sa(id)]),
    }
}

/// Looks at the SAs in the way of new ones, and takes over the larval SAs of the mesh.
pub(super) fn take_over_all(
    engine: &mut Engine,
    steps: &[&dyn XfrmStep],
    outcomes: &mut [Outcome],
) -> Result<(), KernelError> {
    let mut refused = Vec::new();
    for (index, step) in steps.iter().enumerate().filter(|(index, _)| is_eexist(&outcomes[*index]))
    {
        let Some(step) = step.as_sa() else { continue };
        refused.extend(step.added().map(|added| (index, step, added)));
    }
    let looks: Vec<Request> =
        refused.iter().map(|(_, _, added)| encode::get_sa(&added.sa.id)).collect();
    let mut retried = Vec::new();
    let mut requests = Vec::new();
    for ((index, step, added), answer) in
        refused.into_iter().zip(engine.transact(&looks, LOOK_WINDOW)?)
    {
        match take_over(step, &added, answer) {
            Ok(request) => {
                retried.push((index, step, added));
                requests.push(request);
            }
            Err(error) => outcomes[index] = Err(error),
        }
    }
    for ((index, step, added), answer) in
        retried.into_iter().zip(engine.transact(&requests, WINDOW)?)
    {
        outcomes[index] = outcome_of_retry(step, &added, answer);
    }
    Ok(())
}

/// An SA that a step adds to the kernel.
type AddedSa<'a> = Added<'a, Arc<Key>>;

/// The request that puts an SA where another is, if it may.
fn take_over(step: &SaStep, added: &AddedSa<'_>, answer: Answer) -> Result<Request, KernelError> {
    let Added { sa, key, start } = *added;
    let begin = begin(step, sa, start, None)?;
    match answer.outcome {
        // It is gone by now, as a larval SA is after 30 s.
        Err(refusal) if refusal.errno == Errno::ESRCH => Ok(encode::new_sa(sa, key, begin)),
        Err(refusal) => Err(step.refused(&refusal)),
        Ok(()) => {
            let mut object = answer.object.ok_or_else(|| step.missing())?;
            let (found, _) = decode::sa(&mut object, sa.reqid, &Names::new())?;
            if rules::may_take_over(&found, sa) {
                Ok(encode::update_sa(sa, key, begin))
            } else {
                Err(exists(step, Some(&found), sa.reqid))
            }
        }
    }
}

fn outcome_of_retry(step: &SaStep, added: &AddedSa<'_>, answer: Answer) -> Outcome {
    match answer.outcome {
        Err(refusal) if refusal.errno == Errno::EEXIST => Err(exists(step, None, added.sa.reqid)),
        Err(refusal) => Err(step.refused(&refusal)),
        Ok(()) => Ok(()),
    }
}

fn exists(step: &SaStep, found: Option<&Sa>, reqid: Reqid) -> KernelError {
    KernelError::Refused {
        doing: step.attempt(),
        errno: Errno::EEXIST,
        detail: Some(rules::sa_exists(found, reqid)),
    }
}

fn is_eexist(outcome: &Outcome) -> bool {
    matches!(outcome, Err(KernelError::Refused { errno: Errno::EEXIST, .. }))
}
