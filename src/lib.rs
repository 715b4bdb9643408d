//! meshsec: terraform for IPsec.
//!
//! Data flows one way: [`config`] reads mesh.toml, [`mod@desired`] works out the state that it asks
//! for, [`kernel`] observes the live state, [`plan`] compares the two and orders the steps,
//! [`mod@apply`] performs them and looks again.

// A wildcard would decide for a variant that is added later.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]
// `pub` is what tests and benchmarks may use; all else says how far it reaches.
#![cfg_attr(not(any(test, fuzzing)), warn(unreachable_pub))]

pub mod agreement;
pub mod apply;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod completion;
pub mod config;
pub mod desired;
pub mod diagnosis;
pub mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod kernel;
pub mod keys;
pub mod model;
pub mod mtu;
pub mod plan;
pub mod privilege;
pub mod render;
pub mod restore;
pub mod revert;
pub mod verdict;
