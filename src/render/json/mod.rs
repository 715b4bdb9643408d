//! The documents that programs read, as JSON: one file for each.
//!
//! The types here are published: their fields' names and their words are those of meshsec-json(7), JSON,
//! and of the JSON Schemas in `schemas/`, with which tests compare every document. All else in the
//! program may be renamed. Conversions are from the model's and the plan's types; only the state of
//! a snapshot is the model's own type.
#![forbid(unsafe_code)]

mod compare;
mod confirm;
mod doctor;
mod errors;
mod evidence;
mod explain;
mod mtu;
mod named_status;
mod parts;
mod plan;
mod plan_all;
mod ratchet;
mod report;
mod rotate;
mod saved_plan;
mod settled;
mod show;
mod snapshot;
mod spi;
mod status;
mod validate;

pub use compare::{compare_json, rollout_json};
pub use confirm::confirm_json;
pub use doctor::doctor_json;
pub use errors::{JsonError, errors_json};
pub use evidence::{JsonEvidence, comparison_json, evidence_json};
pub use explain::explain_json;
pub use mtu::mtu_json;
pub use named_status::named_status_json;
pub use parts::FORMAT_VERSION;
pub use plan::plan_json;
pub use plan_all::plan_all_json;
pub use ratchet::{ratchet_advance_json, ratchet_init_json};
pub use report::report_json;
pub use rotate::rotate_json;
pub use saved_plan::{JsonIncluded, JsonPremises, JsonSavedPlan};
pub use settled::settled_json;
pub use show::show_json;
pub use snapshot::JsonSnapshot;
pub use spi::spi_json;
pub use status::status_json;
pub use validate::validate_json;
