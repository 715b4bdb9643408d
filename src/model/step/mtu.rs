//! The step about a device's MTU.

use super::ObjectStep;

/// Sets a device's MTU. A device that is gone is an error (`ENODEV`).
#[derive(Clone)]
pub struct MtuStep {
    /// The device's name.
    pub device: String,
    /// The MTU, in bytes.
    pub mtu: u32,
}

impl ObjectStep for MtuStep {
    fn name(&self) -> &'static str {
        "set_mtu"
    }

    fn id(&self) -> String {
        format!("dev {} mtu {}", self.device, self.mtu)
    }

    fn attempt(&self) -> String {
        format!("cannot set the MTU of {} to {}", self.device, self.mtu)
    }

    /// No protection depends on it.
    fn is_optional(&self) -> bool {
        true
    }
}
