//! Steps about a chain of the firewall.

use super::ObjectStep;
use crate::model::{ChainId, ChainRole, Rule};

/// A request about a chain.
#[derive(Clone)]
pub enum ChainStep {
    /// Sets a chain's rules, in one transaction with the rule of its built-in chain that leads to
    /// it.
    Set {
        /// The chain.
        id: ChainId,
        /// Its rules.
        rules: Vec<Rule>,
        /// Whether packets get to it: one jump ahead of all rules, or none.
        jump: bool,
    },
    /// Deletes a chain and the rules of its built-in chain that lead to it. If it is gone already,
    /// that is not an error.
    Delete(ChainId),
}

impl ChainStep {
    /// The chain's identity.
    pub fn chain_id(&self) -> &ChainId {
        match self {
            Self::Set { id, .. } | Self::Delete(id) => id,
        }
    }
}

impl ObjectStep for ChainStep {
    fn name(&self) -> &'static str {
        match self {
            Self::Set { .. } => "set_chain",
            Self::Delete(_) => "delete_chain",
        }
    }

    fn id(&self) -> String {
        self.chain_id().to_string()
    }

    fn attempt(&self) -> String {
        let verb = match self {
            Self::Set { .. } => "set",
            Self::Delete(_) => "delete",
        };
        format!("cannot {verb} chain {}", self.chain_id())
    }

    /// Deleting a chain is never optional: a chain that stays may drop traffic that is to be
    /// marked.
    fn is_optional(&self) -> bool {
        match self {
            Self::Set { id, .. } => id.role().is_some_and(ChainRole::is_optional),
            Self::Delete(_) => false,
        }
    }
}
