//! Plans, reports and live states as text and JSON; never computes a difference.
#![forbid(unsafe_code)]

mod json;
mod mtu;
mod plain;
mod prometheus;
mod report;
mod show;
mod status;
mod text;

use crate::{
    config::{Config, Moment, Peer},
    plan::{Plan, Warning},
};

pub use json::{
    FORMAT_VERSION, JsonError, JsonPremises, JsonSavedPlan, JsonSnapshot, confirm_json,
    errors_json, mtu_json, plan_json, ratchet_advance_json, ratchet_init_json, report_json,
    rotate_json, show_json, spi_json, status_json, validate_json,
};
pub use mtu::{Underlay, mtu_text};
pub use plain::{Layout, Plain, json_text};
pub use prometheus::status_prometheus;
pub use report::{ConfirmationOutcome, RatchetAdvance, Verb, report_text};
pub use show::{ShowView, show_text};
pub use status::{Sample, StatusView, status_text};
pub use text::{generation, plan_text};

/// A plan with its context.
pub struct View<'a> {
    /// The file.
    pub config: &'a Config,
    /// The generation, and its end.
    pub moment: Moment,
    /// The local peer; `None` where all of the mesh is to go and nobody asked which peer this host
    /// is.
    pub local: Option<&'a Peer>,
    /// The plan.
    pub plan: &'a Plan,
    /// Warnings that aren't the plan's own: those of the file and of the secrets.
    pub warnings: &'a [Warning],
    /// The file's name, for the line that says that nothing differs.
    pub file: &'a str,
}

impl View<'_> {
    /// All warnings, the plan's own last.
    fn all_warnings(&self) -> impl Iterator<Item = &Warning> {
        self.warnings.iter().chain(&self.plan.warnings)
    }
}
