//! The document that `snapshot` prints, and `plan --live FILE` and `settled --seen FILE` read.

use serde::{Deserialize, Serialize};

use crate::model::State;

/// A snapshot. Its state is the model's type: a second set of its thirty types would be a copy,
/// kept in step by hand, and a name that is changed by mistake fails against the schema.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonSnapshot {
    /// The version of its format, which is not always the present one where it is read.
    pub format_version: String,
    /// Seconds since 1970.
    pub taken: u64,
    /// The mesh with keys that have fingerprints.
    pub mesh: String,
    /// The host, where it was known; older versions don't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The host's objects.
    pub state: State,
}
