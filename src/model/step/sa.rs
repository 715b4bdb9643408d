//! Steps about an SA.

use std::sync::Arc;

use super::ObjectStep;
use crate::model::{Key, Sa, SaId, Start};

/// A request about an SA. `K` is the key of an SA to add.
#[derive(Clone)]
pub enum SaStep<K = Arc<Key>> {
    /// Adds an SA. An existing SA is an error (`EEXIST`), unless it is larval and has the mesh's
    /// reqid: then it is taken over.
    Add {
        /// The SA.
        sa: Sa,
        /// Its key and salt.
        key: K,
        /// Its first sequence number.
        start: Start,
    },
    /// Deletes an SA and adds another in its place at once. An old SA that is gone already is not
    /// an error.
    Replace {
        /// The new SA; the old one has the same identity.
        sa: Sa,
        /// Its key and salt.
        key: K,
        /// Its first sequence number, unless the old SA has the same key: then it goes on from the
        /// old one's.
        start: Start,
    },
    /// Deletes an SA. If it is gone already, that is not an error.
    Delete(SaId),
}

/// An SA that a step adds.
pub struct Added<'a, K> {
    /// The SA.
    pub sa: &'a Sa,
    /// Its key and salt.
    pub key: &'a K,
    /// Its first sequence number.
    pub start: Start,
}

impl SaStep<()> {
    /// The same with a key, if it adds an SA.
    pub(super) fn keyed<K, E>(&self, key: impl Fn(&SaId) -> Result<K, E>) -> Result<SaStep<K>, E> {
        Ok(match self {
            Self::Add { sa, start, .. } => {
                SaStep::Add { sa: sa.clone(), key: key(&sa.id)?, start: *start }
            }
            Self::Replace { sa, start, .. } => {
                SaStep::Replace { sa: sa.clone(), key: key(&sa.id)?, start: *start }
            }
            Self::Delete(id) => SaStep::Delete(*id),
        })
    }
}

impl<K> SaStep<K> {
    /// The SA's identity.
    pub fn sa_id(&self) -> &SaId {
        match self {
            Self::Add { sa, .. } | Self::Replace { sa, .. } => &sa.id,
            Self::Delete(id) => id,
        }
    }

    /// The SA that the step adds, its key and its first sequence number.
    pub fn added(&self) -> Option<Added<'_, K>> {
        match self {
            Self::Add { sa, key, start } | Self::Replace { sa, key, start } => {
                Some(Added { sa, key, start: *start })
            }
            Self::Delete(_) => None,
        }
    }
}

impl<K> ObjectStep for SaStep<K> {
    fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add_sa",
            Self::Replace { .. } => "replace_sa",
            Self::Delete(_) => "delete_sa",
        }
    }

    fn id(&self) -> String {
        self.sa_id().to_string()
    }

    fn attempt(&self) -> String {
        let verb = match self {
            Self::Add { .. } => "add",
            Self::Replace { .. } => "replace",
            Self::Delete(_) => "delete",
        };
        format!("cannot {verb} SA {}", self.sa_id())
    }

    fn is_optional(&self) -> bool {
        false
    }
}
