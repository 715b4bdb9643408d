//! Steps to requests, and answers to results: the rules that need more than one request.
//!
//! * A larval SA of the mesh in the way of a new SA is taken over.
//! * A policy is looked at right before it is replaced or deleted, so that foreign policies stay.
//! * A delete of an object that is gone already counts as done.

use std::thread;

use crate::{
    kernel::{Errno, KernelError, rules},
    model::{Added, Policy, Reqid, Sa, Step, StepKind, Usage},
};

use super::{
    clock,
    decode::{self, Names},
    encode, explain,
    iptables::Iptables,
    link,
    netlink::{Answer, Engine, LOOK_WINDOW, WINDOW},
    wire::Request,
};

type Outcome = Result<(), KernelError>;

/// Performs steps in order; see [`crate::kernel::Kernel::perform`].
pub(super) fn perform(
    engine: &mut Engine,
    iptables: &Iptables,
    steps: &[Step],
) -> Result<Vec<Outcome>, KernelError> {
    let mut outcomes = Vec::with_capacity(steps.len());
    for run in steps.chunk_by(|before, after| !is_alone(before) && !is_alone(after)) {
        if let [step] = run
            && is_alone(step)
        {
            outcomes.push(perform_alone(iptables, &step.kind));
            continue;
        }
        // The steps of a batch are performed right after its look, before others are looked at.
        let size = if run.iter().any(|step| look(step).is_some()) { LOOK_WINDOW } else { WINDOW };
        for batch in run.chunks(size) {
            outcomes.extend(perform_batch(engine, batch)?);
        }
    }
    Ok(outcomes)
}

/// Whether a step is done without requests to XFRM.
fn is_alone(step: &Step) -> bool {
    use StepKind::{DeleteChain, SetChain, SetMtu, Wait};
    matches!(step.kind, Wait(_) | SetMtu { .. } | SetChain { .. } | DeleteChain(_))
}

fn perform_alone(iptables: &Iptables, step: &StepKind) -> Outcome {
    match step {
        StepKind::Wait(duration) => {
            thread::sleep(*duration);
            Ok(())
        }
        StepKind::SetMtu { device, mtu } => link::set_mtu(device, *mtu, step),
        StepKind::SetChain { .. } | StepKind::DeleteChain(_) => iptables.perform(step),
        StepKind::AddSa { .. }
        | StepKind::ReplaceSa { .. }
        | StepKind::DeleteSa(_)
        | StepKind::AddPolicy(_)
        | StepKind::UpdatePolicy(_)
        | StepKind::DeletePolicy(_) => Err(KernelError::System {
            doing: rules::doing(step),
            reason: "it is a request to XFRM, and is sent with others".into(),
        }),
    }
}

fn perform_batch(engine: &mut Engine, steps: &[Step]) -> Result<Vec<Outcome>, KernelError> {
    let found = look_at_all(engine, steps)?;
    let plans: Vec<_> =
        steps.iter().zip(found).map(|(step, found)| plan(step, found?.as_ref())).collect();
    let mut requests = Vec::new();
    let mut lengths = Vec::with_capacity(plans.len());
    let mut settled = Vec::with_capacity(plans.len());
    for plan in plans {
        let (asked, error) = match plan {
            Ok(asked) => (asked, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        lengths.push(asked.len());
        settled.push(error);
        requests.extend(asked);
    }
    let mut answers = engine.transact(&requests, WINDOW)?.into_iter();
    let mut outcomes = Vec::with_capacity(steps.len());
    for ((step, length), error) in steps.iter().zip(lengths).zip(settled) {
        let answers: Vec<Answer> = answers.by_ref().take(length).collect();
        outcomes.push(match error {
            Some(error) => Err(error),
            None => outcome(step, &answers),
        });
    }
    take_over_all(engine, steps, &mut outcomes)?;
    Ok(outcomes)
}

/// The request for the object that has to be looked at before a step.
fn look(step: &Step) -> Option<Request> {
    match &step.kind {
        StepKind::UpdatePolicy(policy) | StepKind::DeletePolicy(policy) => {
            Some(encode::get_policy(&policy.id))
        }
        // An SA with the same key goes on from the old one's numbers.
        StepKind::ReplaceSa { sa, .. } => Some(encode::get_sa(&sa.id)),
        // A look-up under a mark also finds an SA without one.
        StepKind::DeleteSa(id) => (!id.mark.is_none()).then(|| encode::get_sa(id)),
        StepKind::AddSa { .. }
        | StepKind::AddPolicy(_)
        | StepKind::SetMtu { .. }
        | StepKind::SetChain { .. }
        | StepKind::DeleteChain(_)
        | StepKind::Wait(_) => None,
    }
}

/// The object that a look found.
enum Found {
    Policy(Policy),
    Sa(Box<Sa>, Usage),
}

/// Looks at the objects of steps; `None` where a step needs no look or there is no object.
fn look_at_all(
    engine: &mut Engine,
    steps: &[Step],
) -> Result<Vec<Result<Option<Found>, KernelError>>, KernelError> {
    let mut requests = Vec::new();
    let looks: Vec<bool> = steps
        .iter()
        .map(|step| look(step).map(|request| requests.push(request)).is_some())
        .collect();
    let mut answers = engine.transact(&requests, LOOK_WINDOW)?.into_iter();
    let mut found = Vec::with_capacity(steps.len());
    for (step, looks) in steps.iter().zip(looks) {
        let answer = if looks { answers.next() } else { None };
        found.push(answer.map_or(Ok(None), |answer| found_by(step, answer)));
    }
    Ok(found)
}

fn found_by(step: &Step, answer: Answer) -> Result<Option<Found>, KernelError> {
    match answer.outcome {
        Err(refusal) if [Errno::ENOENT, Errno::ESRCH].contains(&refusal.errno) => Ok(None),
        Err(refusal) => Err(explain::of_step(step, &refusal)),
        Ok(()) => {
            let mut object = answer.object.ok_or_else(|| missing(step))?;
            match &step.kind {
                StepKind::DeleteSa(_) | StepKind::ReplaceSa { .. } => {
                    let ours = step.kind.added().map_or(Reqid(0), |added| added.sa.reqid);
                    let (sa, usage) = decode::sa(&mut object, ours, &Names::new())?;
                    Ok(Some(Found::Sa(Box::new(sa), usage)))
                }
                StepKind::UpdatePolicy(_) | StepKind::DeletePolicy(_) => {
                    Ok(Some(Found::Policy(decode::policy(&object)?.0)))
                }
                StepKind::AddSa { .. }
                | StepKind::AddPolicy(_)
                | StepKind::SetMtu { .. }
                | StepKind::SetChain { .. }
                | StepKind::DeleteChain(_)
                | StepKind::Wait(_) => Err(missing(step)),
            }
        }
    }
}

fn missing(step: &Step) -> KernelError {
    super::wire::garbled(format!("success without an object; {}", rules::doing(&step.kind)))
}

/// The requests of a step; none where it is done already.
fn plan(step: &Step, found: Option<&Found>) -> Result<Vec<Request>, KernelError> {
    let changed = |policy: &Policy| KernelError::Changed(policy.id.to_string());
    match (&step.kind, found) {
        (StepKind::AddSa { sa, key, start }, _) => {
            rules::check_sa(sa, key, &step.kind)?;
            let begin = rules::begin(&step.kind, sa, *start, None, clock::now())?;
            let begin =
                rules::InitialValues { device: link::offload_index(sa, &step.kind)?, ..begin };
            Ok(vec![encode::new_sa(sa, key, begin)])
        }
        (StepKind::ReplaceSa { sa, key, start }, found) => {
            rules::check_sa(sa, key, &step.kind)?;
            let old = match found {
                Some(Found::Sa(old, usage)) if rules::same_key(old.key, key) => Some(usage),
                _ => None,
            };
            let begin = rules::begin(&step.kind, sa, *start, old, clock::now())?;
            let begin =
                rules::InitialValues { device: link::offload_index(sa, &step.kind)?, ..begin };
            let add = Request { joined: true, ..encode::new_sa(sa, key, begin) };
            Ok(vec![encode::delete_sa(&sa.id), add])
        }
        (StepKind::DeleteSa(id), Some(Found::Sa(found, _))) if found.id != *id => {
            Err(KernelError::System {
                doing: rules::doing(&step.kind),
                reason: format!("it is hidden by SA {}, which would be deleted instead", found.id),
            })
        }
        (StepKind::DeleteSa(id), Some(_)) => Ok(vec![encode::delete_sa(id)]),
        (StepKind::DeleteSa(id), None) if id.mark.is_none() => Ok(vec![encode::delete_sa(id)]),
        (StepKind::AddPolicy(policy), _) => {
            rules::check_policy(policy, &step.kind)?;
            Ok(vec![encode::new_policy(policy)])
        }
        (StepKind::UpdatePolicy(policy), found) => {
            rules::check_policy(policy, &step.kind)?;
            match found {
                Some(Found::Policy(found)) if rules::may_update(found, policy) => {
                    Ok(vec![encode::update_policy(policy)])
                }
                Some(_) => Err(changed(policy)),
                // Not an update: a foreign policy may appear before the request arrives.
                None => Ok(vec![encode::new_policy(policy)]),
            }
        }
        (StepKind::DeletePolicy(policy), Some(Found::Policy(found))) => {
            if found != policy {
                return Err(changed(policy));
            }
            Ok(vec![encode::delete_policy(&policy.id)])
        }
        (StepKind::DeletePolicy(_) | StepKind::DeleteSa(_), _) => Ok(Vec::new()),
        (
            StepKind::SetMtu { .. }
            | StepKind::SetChain { .. }
            | StepKind::DeleteChain(_)
            | StepKind::Wait(_),
            _,
        ) => Err(KernelError::System {
            doing: rules::doing(&step.kind),
            reason: "it is no request to XFRM".into(),
        }),
    }
}

/// The outcome of the answers to a step's requests.
fn outcome(step: &Step, answers: &[Answer]) -> Outcome {
    let absent = match step.kind {
        StepKind::ReplaceSa { .. } | StepKind::DeleteSa(_) => Some(Errno::ESRCH),
        StepKind::DeletePolicy(_) => Some(Errno::ENOENT),
        StepKind::AddSa { .. }
        | StepKind::AddPolicy(_)
        | StepKind::UpdatePolicy(_)
        | StepKind::SetMtu { .. }
        | StepKind::SetChain { .. }
        | StepKind::DeleteChain(_)
        | StepKind::Wait(_) => None,
    };
    let is_replace = matches!(step.kind, StepKind::ReplaceSa { .. });
    for (index, answer) in answers.iter().enumerate() {
        let deletes = !is_replace || index == 0;
        match &answer.outcome {
            Err(refusal) if deletes && Some(refusal.errno) == absent => {}
            Err(refusal) => return Err(explain::of_step(step, refusal)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Looks at the SAs in the way of new ones, and takes over the larval SAs of the mesh.
fn take_over_all(
    engine: &mut Engine,
    steps: &[Step],
    outcomes: &mut [Outcome],
) -> Result<(), KernelError> {
    let refused: Vec<usize> = (0..steps.len())
        .filter(|&index| is_eexist(&outcomes[index]) && steps[index].kind.added().is_some())
        .collect();
    let looks: Vec<Request> = refused
        .iter()
        .filter_map(|&index| Some(encode::get_sa(&steps[index].kind.added()?.sa.id)))
        .collect();
    let mut retried = Vec::new();
    let mut requests = Vec::new();
    for (&index, answer) in refused.iter().zip(engine.transact(&looks, LOOK_WINDOW)?) {
        match take_over(&steps[index], answer) {
            Ok(request) => {
                retried.push(index);
                requests.push(request);
            }
            Err(error) => outcomes[index] = Err(error),
        }
    }
    for (index, answer) in retried.into_iter().zip(engine.transact(&requests, WINDOW)?) {
        outcomes[index] = outcome_of_retry(&steps[index], answer);
    }
    Ok(())
}

/// The request that puts an SA where another is, if it may.
fn take_over(step: &Step, answer: Answer) -> Result<Request, KernelError> {
    let Some(Added { sa, key, start }) = step.kind.added() else { return Err(missing(step)) };
    let begin = rules::begin(&step.kind, sa, start, None, clock::now())?;
    let begin = rules::InitialValues { device: link::offload_index(sa, &step.kind)?, ..begin };
    match answer.outcome {
        // It is gone by now, as a larval SA is after 30 s.
        Err(refusal) if refusal.errno == Errno::ESRCH => Ok(encode::new_sa(sa, key, begin)),
        Err(refusal) => Err(explain::of_step(step, &refusal)),
        Ok(()) => {
            let mut object = answer.object.ok_or_else(|| missing(step))?;
            let (found, _) = decode::sa(&mut object, sa.reqid, &Names::new())?;
            if rules::may_take_over(&found, sa) {
                Ok(encode::update_sa(sa, key, begin))
            } else {
                Err(exists(step, Some(&found), sa.reqid))
            }
        }
    }
}

fn outcome_of_retry(step: &Step, answer: Answer) -> Outcome {
    match (answer.outcome, step.kind.added()) {
        (Err(refusal), Some(Added { sa, .. })) if refusal.errno == Errno::EEXIST => {
            Err(exists(step, None, sa.reqid))
        }
        (Err(refusal), _) => Err(explain::of_step(step, &refusal)),
        (Ok(()), _) => Ok(()),
    }
}

fn exists(step: &Step, found: Option<&Sa>, reqid: Reqid) -> KernelError {
    KernelError::Refused {
        doing: rules::doing(&step.kind),
        errno: Errno::EEXIST,
        detail: Some(rules::sa_exists(found, reqid)),
    }
}

fn is_eexist(outcome: &Outcome) -> bool {
    matches!(outcome, Err(KernelError::Refused { errno: Errno::EEXIST, .. }))
}

#[cfg(test)]
mod tests {
    use netlink_packet_xfrm::constants as xfrm;

    use super::*;
    use crate::model::{
        Action, Direction, IPPROTO_UDP, PEER_PRIORITY, PolicyId, Selector, Spi, Template,
    };

    const OURS: Reqid = Reqid(0x4d53_0001);

    fn policy(priority: u32, action: Action, templates: Vec<Template>) -> Policy {
        let [here, there] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let selector = Selector::hosts(here, there).to_port(IPPROTO_UDP, 4789);
        let id = PolicyId::new(Direction::Out, selector);
        Policy { id, priority, action, index: None, templates, extras: Default::default() }
    }

    /// The policy of a peer, under some SPI, of the mesh with a reqid.
    fn of_peer(spi: u32, reqid: Reqid) -> Policy {
        let [here, there] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let template = Template::transport(here, there, Spi::from_raw(spi), reqid);
        policy(PEER_PRIORITY, Action::Allow, vec![template])
    }

    fn guard(reqid: Reqid) -> Policy {
        policy(reqid.0, Action::Block, Vec::new())
    }

    /// The types of a step's requests after a look that found this.
    fn asked(kind: StepKind, found: Option<&Policy>) -> Result<Vec<u16>, KernelError> {
        let step = Step { peer: None, kind };
        assert!(look(&step).is_some(), "what is there is looked at first");
        let found = found.cloned().map(Found::Policy);
        let requests = plan(&step, found.as_ref())?;
        Ok(requests.iter().map(|request| request.kind).collect())
    }

    /// Between a plan and its steps another program may have put its own policy there.
    #[test]
    fn a_policy_that_is_another_by_now_is_neither_updated_nor_deleted() {
        let foreign = Reqid(7);
        for (ours, others) in [
            (of_peer(0x8400_1002, OURS), vec![of_peer(0x8400_1002, foreign), guard(OURS)]),
            (guard(OURS), vec![guard(foreign), of_peer(0, OURS)]),
        ] {
            let changed = Err(KernelError::Changed(ours.id.to_string()));
            for other in &others {
                let delete = StepKind::DeletePolicy(ours.clone());
                assert_eq!(asked(delete, Some(other)), changed, "{other:?}");
            }
            let update = StepKind::UpdatePolicy(ours.clone());
            assert_eq!(asked(update, Some(&others[0])), changed, "{:?}", others[0]);
        }
    }

    #[test]
    fn a_policy_that_is_as_expected_is_updated_and_deleted() {
        let (old, new) = (of_peer(0x8000_1002, OURS), of_peer(0x8400_1002, OURS));
        let update = asked(StepKind::UpdatePolicy(new.clone()), Some(&old));
        assert_eq!(update, Ok(vec![xfrm::XFRM_MSG_UPDPOLICY]));
        let delete = asked(StepKind::DeletePolicy(old.clone()), Some(&old));
        assert_eq!(delete, Ok(vec![xfrm::XFRM_MSG_DELPOLICY]));
    }

    /// A missing policy is created by the request that fails if another program creates one
    /// meanwhile.
    #[test]
    fn a_policy_that_is_gone_is_made_anew_and_takes_over_nothing() {
        let ours = of_peer(0x8400_1002, OURS);
        let update = asked(StepKind::UpdatePolicy(ours.clone()), None);
        assert_eq!(update, Ok(vec![xfrm::XFRM_MSG_NEWPOLICY]));
        assert_eq!(asked(StepKind::DeletePolicy(ours), None), Ok(vec![]));
    }
}
