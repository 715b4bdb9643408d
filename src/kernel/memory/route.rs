//! Steps about an entry of a routing table.

use super::{Memory, refused};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{FibAction, FibEntry, ObjectStep, RouteStep},
};

impl Memory {
    pub(super) fn perform_route(&mut self, step: &RouteStep) -> Result<(), KernelError> {
        let (RouteStep::Add(entry) | RouteStep::Delete(entry)) = step;
        rules::check_route(entry, step)?;
        let answer = match step {
            RouteStep::Add(entry) => self.add_route(entry),
            RouteStep::Delete(entry) => {
                self.state.fib.retain(|other| other != entry);
                Ok(())
            }
        };
        answer.map_err(|errno| refused(step.attempt(), errno, rules::route_refused(errno)))
    }

    fn add_route(&mut self, entry: &FibEntry) -> Result<(), Errno> {
        if let FibAction::Devices(devices) = &entry.action {
            for device in devices {
                self.state.link(device).ok_or(Errno::ENODEV)?;
                let mut interfaces = self.state.interfaces.iter();
                if interfaces.any(|interface| interface.name == *device && !interface.up) {
                    return Err(Errno::ENETDOWN);
                }
            }
        }
        let has_source = |source| self.state.has_address(source);
        if !entry.source.is_none_or(has_source) {
            return Err(Errno::EINVAL);
        }
        let place = |it: &FibEntry| (it.to, it.table, it.metric);
        if self.state.fib.iter().any(|other| place(other) == place(entry)) {
            return Err(Errno::EEXIST);
        }
        self.state.fib.push(entry.clone());
        Ok(())
    }
}
