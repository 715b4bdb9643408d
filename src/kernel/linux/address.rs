//! Addresses of devices, by rtnetlink.

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use super::link;
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{AddressStep, LocalAddress, ObjectStep, Prefix},
};

/// Performs a step.
pub(super) fn perform(step: &AddressStep) -> Result<(), KernelError> {
    let (AddressStep::Add(LocalAddress { address, device })
    | AddressStep::Delete(LocalAddress { address, device })) = step;
    let is_deleted = matches!(step, AddressStep::Delete(_));
    let length = Prefix::host(*address).length;
    let index = match link::index(device) {
        Ok(index) => index,
        Err(_) if is_deleted => return Ok(()),
        Err(errno) => {
            let detail = rules::address_refused(errno);
            return Err(KernelError::Refused { doing: step.attempt(), errno, detail });
        }
    };
    let answer = link::change(step.attempt(), rules::address_refused, async |handle| {
        let addresses = handle.address();
        let mut request = addresses.add(index, *address, length);
        match is_deleted {
            false => request.execute().await,
            true => {
                let message: AddressMessage = request.message_mut().clone();
                addresses.del(without_broadcast(message)).execute().await
            }
        }
    });
    match answer {
        Err(KernelError::Refused { errno: Errno::EADDRNOTAVAIL | Errno::ENODEV, .. })
            if is_deleted =>
        {
            Ok(())
        }
        answer => answer,
    }
}

/// The kernel compares no broadcast address with that of an address to delete.
fn without_broadcast(mut message: AddressMessage) -> AddressMessage {
    message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    message
}
