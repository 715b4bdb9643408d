//! The document that `plan --out FILE` writes, and `apply FILE` reads.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A saved plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonSavedPlan {
    /// The version of its format, which is not always the present one where it is read.
    pub format_version: String,
    /// The state of everything that the plan follows from.
    pub premises: JsonPremises,
    /// As `plan --format json` prints it. It is compared and never performed.
    pub plan: Value,
}

/// A file that mesh.toml includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonIncluded {
    /// Its path from the directory of mesh.toml.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// The premises of a plan.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonPremises {
    /// The mesh.
    pub mesh: String,
    /// The local peer; empty where it is not known.
    pub local: String,
    /// The generation.
    pub generation: u64,
    /// When it was made, in seconds since 1970: the clock that is shown.
    pub made: u64,
    /// SHA-256 of mesh.toml.
    pub file: String,
    /// The files that it includes. Plans that were saved without this list are of a file that
    /// includes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub included: Vec<JsonIncluded>,
    /// SHA-256 of the SAs that should be there and their keys' fingerprints.
    pub keys: String,
    /// SHA-256 of the objects of the live state, without counters.
    pub live: String,
    /// SHA-256 of the changes. That covers the devices and addresses that matter, which come and go
    /// on hosts of containers.
    pub plan: String,
}
