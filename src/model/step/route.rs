//! Steps about an entry of a routing table.

use super::ObjectStep;
use crate::model::FibEntry;

/// A request about an entry of a routing table.
#[derive(Clone)]
pub enum RouteStep {
    /// Adds an entry. One for the same prefix with the same metric in the same table is an error
    /// (`EEXIST`), as is a device that is gone (`ENODEV`).
    Add(FibEntry),
    /// Deletes an entry of a mesh that is as given here. If it is gone already, that is not an
    /// error.
    Delete(FibEntry),
}

impl ObjectStep for RouteStep {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add_route",
            Self::Delete(_) => "delete_route",
        }
    }

    fn id(&self) -> String {
        let (Self::Add(entry) | Self::Delete(entry)) = self;
        entry.to_string()
    }

    fn attempt(&self) -> String {
        let verb = match self {
            Self::Add(_) => "add",
            Self::Delete(_) => "delete",
        };
        format!("cannot {verb} route {}", self.id())
    }

    fn is_optional(&self) -> bool {
        false
    }
}
