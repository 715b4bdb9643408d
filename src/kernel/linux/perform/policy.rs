//! Requests about a policy.

use super::{Object, XfrmStep};
use crate::{
    kernel::{
        Errno, KernelError,
        linux::{decode, encode, wire::Request},
        rules,
    },
    model::{Policy, PolicyStep, SaStep},
};

impl XfrmStep for PolicyStep {
    fn look(&self) -> Option<Request> {
        match self {
            Self::Add(_) => None,
            Self::Update(policy) | Self::Delete(policy) => Some(encode::get_policy(&policy.id)),
        }
    }

    fn requests(&self, found: Option<Object>) -> Result<Vec<Request>, KernelError> {
        let found = found.map(|object| decode::policy(&object)).transpose()?;
        requests(self, found.as_ref().map(|(policy, _)| policy))
    }

    fn gone(&self, _: usize) -> Option<Errno> {
        match self {
            Self::Delete(_) => Some(Errno::ENOENT),
            Self::Add(_) | Self::Update(_) => None,
        }
    }

    fn hint(&self, errno: Errno) -> Option<String> {
        match self {
            Self::Add(_) | Self::Update(_) if errno == Errno::EEXIST => {
                Some(rules::policy_exists())
            }
            Self::Add(_) | Self::Update(_) | Self::Delete(_) => None,
        }
    }

    fn as_sa(&self) -> Option<&SaStep> {
        None
    }
}

fn requests(step: &PolicyStep, found: Option<&Policy>) -> Result<Vec<Request>, KernelError> {
    let changed = |policy: &Policy| Err(KernelError::Changed(policy.id.to_string()));
    match (step, found) {
        (PolicyStep::Add(policy), _) => {
            rules::check_policy(policy, step)?;
            Ok(vec![encode::new_policy(policy)])
        }
        (PolicyStep::Update(policy), found) => {
            rules::check_policy(policy, step)?;
            match found {
                Some(found) if rules::may_update(found, policy) => {
                    Ok(vec![encode::update_policy(policy)])
                }
                Some(_) => changed(policy),
                // Not an update: a foreign policy may appear before the request arrives.
                None => Ok(vec![encode::new_policy(policy)]),
            }
        }
        (PolicyStep::Delete(policy), Some(found)) if found != policy => changed(policy),
        (PolicyStep::Delete(policy), Some(_)) => Ok(vec![encode::delete_policy(&policy.id)]),
        (PolicyStep::Delete(_), None) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_xfrm::constants as xfrm;

    use super::*;
    use crate::model::{
        Action, Direction, IPPROTO_UDP, PEER_PRIORITY, PolicyId, Reqid, Selector, Spi, Template,
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
    fn asked(step: PolicyStep, found: Option<&Policy>) -> Result<Vec<u16>, KernelError> {
        assert!(step.look().is_some(), "what is there is looked at first");
        let requests = requests(&step, found)?;
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
                let delete = PolicyStep::Delete(ours.clone());
                assert_eq!(asked(delete, Some(other)), changed, "{other:?}");
            }
            let update = PolicyStep::Update(ours.clone());
            assert_eq!(asked(update, Some(&others[0])), changed, "{:?}", others[0]);
        }
    }

    #[test]
    fn a_policy_that_is_as_expected_is_updated_and_deleted() {
        let (old, new) = (of_peer(0x8000_1002, OURS), of_peer(0x8400_1002, OURS));
        let update = asked(PolicyStep::Update(new.clone()), Some(&old));
        assert_eq!(update, Ok(vec![xfrm::XFRM_MSG_UPDPOLICY]));
        let delete = asked(PolicyStep::Delete(old.clone()), Some(&old));
        assert_eq!(delete, Ok(vec![xfrm::XFRM_MSG_DELPOLICY]));
    }

    /// A missing policy is created by the request that fails if another program creates one
    /// meanwhile.
    #[test]
    fn a_policy_that_is_gone_is_made_anew_and_takes_over_nothing() {
        let ours = of_peer(0x8400_1002, OURS);
        let update = asked(PolicyStep::Update(ours.clone()), None);
        assert_eq!(update, Ok(vec![xfrm::XFRM_MSG_NEWPOLICY]));
        assert_eq!(asked(PolicyStep::Delete(ours), None), Ok(vec![]));
    }
}
