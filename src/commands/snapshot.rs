//! `snapshot`: the live state as JSON, keys replaced by fingerprints.

use super::{Status, live::snapshot, print_json};
use crate::{
    cli::Global,
    config::SecretsMode,
    desired,
    error::Error,
    kernel::{Kernel, linux::Linux},
    privilege::Files,
};

/// Prints JSON for every `--format`: there is no other form.
pub(super) fn run(global: &Global) -> Result<Status, Error> {
    let config = super::load(global, SecretsMode::Ignored, Files::Neither)?.config;
    // Unlike a plan it has all of iptables, even if the file needs none of it today.
    let ways = desired::ways(&config, global.local.as_deref());
    let live = Linux::open()?.asking_for(ways).observe(config.reqid)?;
    let local = super::local_if_any(global, &config, &live)?;
    print_json(&snapshot(&config, local, live))?;
    Ok(Status::Done)
}
