//! Steps about an XFRM interface.

use super::ObjectStep;
use crate::model::Interface;

/// A request about an XFRM interface.
#[derive(Clone)]
pub enum InterfaceStep {
    /// Makes an interface. A device of its name, or an interface of its number, is an error
    /// (`EEXIST`).
    Add(Interface),
    /// Gives an interface all attributes as given here. One of this name with another number is an
    /// error (`ENODEV`), as is a device that is gone.
    Set(Interface),
    /// Deletes an interface. If it is gone already, or another device has its name, that is not an
    /// error, and nothing is deleted.
    Delete {
        /// Its name.
        name: String,
        /// Its number.
        if_id: u32,
    },
}

impl ObjectStep for InterfaceStep {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add_interface",
            Self::Set(_) => "set_interface",
            Self::Delete { .. } => "delete_interface",
        }
    }

    fn id(&self) -> String {
        let (name, if_id) = match self {
            Self::Add(Interface { name, if_id, .. })
            | Self::Set(Interface { name, if_id, .. })
            | Self::Delete { name, if_id } => (name, if_id),
        };
        format!("dev {name} if_id {if_id:#x}")
    }

    fn attempt(&self) -> String {
        let verb = match self {
            Self::Add(_) => "add",
            Self::Set(_) => "set",
            Self::Delete { .. } => "delete",
        };
        format!("cannot {verb} the XFRM interface {}", self.id())
    }

    fn is_optional(&self) -> bool {
        false
    }
}
