//! Steps about an SA.

use super::{Memory, refused};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{Algorithm, Key, KeyView, ObjectStep, Sa, SaId, SaStep, Start, Usage},
};

impl Memory {
    pub(super) fn perform_sa(&mut self, step: &SaStep) -> Result<(), KernelError> {
        match step {
            SaStep::Add { sa, key, start } => self.add_sa(sa, key, *start, None, step),
            SaStep::Replace { sa, key, start } => {
                rules::check_sa(sa, key, step)?;
                let old = self.same_key(&sa.id, key);
                rules::begin(step, sa, *start, old.as_ref(), self.now())?;
                self.delete_sa(&sa.id);
                self.add_sa(sa, key, *start, old.as_ref(), step)
            }
            SaStep::Delete(id) => {
                self.delete_sa(id);
                Ok(())
            }
        }
    }

    /// The usage of the SA in this place, if it has this key.
    fn same_key(&self, id: &SaId, key: &Key) -> Option<Usage> {
        let found = self.state.sas.iter().find(|sa| sa.id == *id)?;
        let usage = self.state.usage.iter().find(|usage| usage.id == *id).copied();
        usage.filter(|_| rules::same_key(found.key, key))
    }

    fn add_sa(
        &mut self,
        sa: &Sa,
        key: &Key,
        start: Start,
        old: Option<&Usage>,
        step: &SaStep,
    ) -> Result<(), KernelError> {
        rules::check_sa(sa, key, step)?;
        let now = self.now();
        let begin = rules::begin(step, sa, start, old, now)?;
        check_replay(sa, self.state.keepalives == Some(true), step)?;
        if matches!(&sa.algorithm, Algorithm::Aead { name, .. } if self.lacking.contains(name)) {
            let text = "Requested AEAD algorithm not found".into();
            return Err(refused(step.attempt(), Errno::ENOSYS, Some(text)));
        }
        if sa.offload.as_ref().is_some_and(|offload| self.state.link(&offload.device).is_none()) {
            return Err(refused(step.attempt(), Errno::ENODEV, Some(rules::no_offload_device())));
        }
        // A device without offload is not an error (xfrm_dev_state_add).
        let offload = sa.offload.clone().filter(|to| self.offloading.contains(&to.device));
        let key = KeyView::Known(key.fingerprint());
        // Attributes that a kernel does not know are not an error.
        let keepalive = sa.keepalive.filter(|_| self.state.keepalives == Some(true));
        let added = Sa { key, offload, keepalive, ..sa.clone() };
        let same = |found: &&mut Sa| {
            let (a, b) = (found.id, sa.id);
            (a.dst, a.proto, a.spi) == (b.dst, b.proto, b.spi) && b.mark.finds(a.mark)
        };
        match self.state.sas.iter_mut().find(same) {
            Some(found) if rules::may_take_over(found, sa) => *found = added,
            Some(found) => {
                let text = rules::sa_exists(Some(found), sa.reqid);
                return Err(refused(step.attempt(), Errno::EEXIST, Some(text)));
            }
            None => self.state.sas.push(added),
        }
        self.state.usage.retain(|usage| usage.id != sa.id);
        self.state.usage.push(Usage {
            id: sa.id,
            sent: begin.sent,
            received: begin.received,
            bytes: 0,
            packets: 0,
            added: now,
            used: None,
            last: None,
            too_old: 0,
            replayed: 0,
            forged: 0,
        });
        Ok(())
    }

    fn delete_sa(&mut self, id: &SaId) {
        self.state.sas.retain(|sa| sa.id != *id);
        self.state.usage.retain(|usage| usage.id != *id);
    }
}

/// Refuses the same settings as `verify_replay` and `xfrm_init_replay`. With the direction out, ESN
/// goes without a window.
fn check_replay(sa: &Sa, knows_directions: bool, step: &SaStep) -> Result<(), KernelError> {
    let is_outbound = knows_directions && sa.keepalive.is_some();
    let text = if sa.replay.esn && sa.replay.window == 0 && !is_outbound {
        "ESN replay window must be > 0"
    } else if sa.replay.window > rules::MAX_WINDOW {
        "ESN bitmap length must be <= 128"
    } else {
        return Ok(());
    };
    Err(refused(step.attempt(), Errno::EINVAL, Some(text.into())))
}
