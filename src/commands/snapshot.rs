//! `snapshot`: the live state as JSON, keys replaced by fingerprints.

use super::{Status, live::Snapshot, print_json};
use crate::{
    cli::Global,
    config::SecretsMode,
    error::Error,
    kernel::{Kernel, linux::Linux},
    privilege::Files,
};

/// Prints JSON whatever `--format` says: there is no other form.
pub fn run(global: &Global) -> Result<Status, Error> {
    let config = super::load(global, SecretsMode::Ignored, Files::Leaves)?.config;
    let live = Linux::open()?.observe(config.reqid)?;
    print_json(&Snapshot::now(&config, live))?;
    Ok(Status::Done)
}
