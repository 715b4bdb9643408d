//! Tests that need no kernel and no process of their own, in one program: each program links the
//! whole library.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/plans.rs"]
mod golden_plans;
#[path = "../common/schema.rs"]
mod schema;

mod ci;
mod colours;
mod completions;
mod config;
mod configuration_management;
mod confirm;
mod conflicts;
mod doctor;
mod examples;
mod explained;
mod export;
mod failures;
mod flushes;
mod foreign_text;
mod include;
mod inventories;
mod key_schedule;
mod keys;
mod lockdown;
mod mesh_wide;
mod monitoring;
mod named;
mod networks;
mod not_known;
mod ordinary_user;
#[path = "../packets/networks.rs"]
mod packets_to_networks;
mod plans;
mod plans_options;
mod prove;
mod ratchet;
mod restore;
mod rotate;
mod saved_plans;
mod schemas;
mod settled;
mod socket_policies;
mod status;
mod systemd;
mod testkit;
mod texts;
mod ways;
mod wycheproof;
