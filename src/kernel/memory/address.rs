//! Steps about an address of a device.

use super::{Memory, refused};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{AddressStep, ObjectStep},
};

impl Memory {
    pub(super) fn perform_address(&mut self, step: &AddressStep) -> Result<(), KernelError> {
        let errno = match step {
            AddressStep::Add(local) if self.state.link(&local.device).is_none() => Errno::ENODEV,
            AddressStep::Add(local) if self.state.addresses.contains(local) => Errno::EEXIST,
            AddressStep::Add(local) => {
                self.state.addresses.push(local.clone());
                return Ok(());
            }
            AddressStep::Delete(local) => {
                self.state.addresses.retain(|other| other != local);
                return Ok(());
            }
        };
        Err(refused(step.attempt(), errno, rules::address_refused(errno)))
    }
}
