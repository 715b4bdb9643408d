//! Steps about an XFRM interface.

use super::{Memory, refused};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{FibAction, FibEntry, Interface, InterfaceStep, Link, LocalAddress, ObjectStep, State},
};

impl Memory {
    pub(super) fn perform_interface(&mut self, step: &InterfaceStep) -> Result<(), KernelError> {
        let errno = match step {
            InterfaceStep::Add(interface) if interface.if_id == 0 => Errno::EINVAL,
            InterfaceStep::Add(interface) => {
                let State { interfaces, links, .. } = &mut self.state;
                let is_taken = links.iter().any(|link| link.name == interface.name)
                    || interfaces.iter().any(|other| other.if_id == interface.if_id);
                if !is_taken {
                    interfaces.push(interface.clone());
                    links.push(link(interface));
                    return Ok(());
                }
                Errno::EEXIST
            }
            InterfaceStep::Set(interface) => match self.set_interface(interface) {
                true => return Ok(()),
                false => Errno::ENODEV,
            },
            InterfaceStep::Delete { name, if_id } => {
                let is_it = |it: &Interface| it.name == *name && it.if_id == *if_id;
                if self.state.interfaces.iter().any(is_it) {
                    self.state.interfaces.retain(|interface| !is_it(interface));
                    self.state.links.retain(|link| link.name != *name);
                    self.state.addresses.retain(|local| local.device != *name);
                    self.flush_routes_by(name);
                }
                return Ok(());
            }
        };
        Err(refused(step.attempt(), errno, rules::interface_refused(errno)))
    }

    fn set_interface(&mut self, wanted: &Interface) -> bool {
        let is_it = |it: &&mut Interface| it.name == wanted.name && it.if_id == wanted.if_id;
        let Some(found) = self.state.interfaces.iter_mut().find(is_it) else { return false };
        let goes_down = found.up && !wanted.up;
        *found = wanted.clone();
        self.state.links.retain(|link| link.name != wanted.name);
        self.state.links.push(link(wanted));
        if goes_down {
            let is_lost =
                |local: &LocalAddress| local.device == wanted.name && local.address.is_ipv6();
            self.state.addresses.retain(|local| !is_lost(local));
            self.flush_routes_by(&wanted.name);
        }
        true
    }

    /// Deletes the routes of a device that goes, or goes down.
    fn flush_routes_by(&mut self, device: &str) {
        let leads_there = |entry: &FibEntry| entry.action == FibAction::device(device);
        self.state.fib.retain(|entry| !leads_there(entry));
    }
}

/// The device that an interface is.
fn link(interface: &Interface) -> Link {
    let Interface { name, mtu, .. } = interface;
    Link { name: name.clone(), mtu: *mtu, kind: Some("xfrm".into()), queue: None }
}
