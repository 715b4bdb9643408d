//! What differs, and the steps that make it go away; pure.
//!
//! [`diff`](mod@diff) compares, [`sequence`](mod@sequence) orders, and nothing here has an effect.
#![forbid(unsafe_code)]

mod step;

pub use step::{Step, StepKind};
