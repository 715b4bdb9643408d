//! The step about a device's MTU.

use super::{Memory, refused};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{MtuStep, ObjectStep},
    mtu,
};

impl Memory {
    /// Checks the limits of an Ethernet device. A lower device is not modelled.
    pub(super) fn set_mtu(&mut self, step: &MtuStep) -> Result<(), KernelError> {
        let MtuStep { device, mtu } = step;
        let found = self.state.links.iter_mut().find(|link| link.name == *device);
        let errno = match found {
            Some(link) if (mtu::SMALLEST..=mtu::LARGEST).contains(mtu) => {
                link.mtu = *mtu;
                return Ok(());
            }
            Some(_) => Errno::EINVAL,
            None => Errno::ENODEV,
        };
        Err(refused(step.attempt(), errno, rules::mtu_refused(errno)))
    }
}
