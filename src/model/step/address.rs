//! Steps about an address of a device.

use super::ObjectStep;
use crate::model::LocalAddress;

/// A request about an address, which is alone in its prefix (/32 or /128).
#[derive(Clone)]
pub enum AddressStep {
    /// Gives a device an address. An address that it has already is an error (`EEXIST`), as is a
    /// device that is gone (`ENODEV`).
    Add(LocalAddress),
    /// Takes an address from a device. If either is gone already, that is not an error.
    Delete(LocalAddress),
}

impl ObjectStep for AddressStep {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add_address",
            Self::Delete(_) => "delete_address",
        }
    }

    fn id(&self) -> String {
        let (Self::Add(local) | Self::Delete(local)) = self;
        local.id()
    }

    fn attempt(&self) -> String {
        let verb = match self {
            Self::Add(_) => "add",
            Self::Delete(_) => "delete",
        };
        format!("cannot {verb} address {}", self.id())
    }

    fn is_optional(&self) -> bool {
        false
    }
}
