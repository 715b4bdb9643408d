//! `rotate`: raises `generation` in the file.

use super::{Status, prepared::file_name, print, print_json, replace::Replacement};
use crate::{
    cli::{Format, Global},
    config::{self, SecretsMode},
    error::Error,
    render::{Plain, rotate_json},
};

/// Needs no secret, and looks at no kernel.
pub(super) fn run(global: &Global) -> Result<Status, Error> {
    // Locked before it is read: of two runs at once each raises the other's result.
    let replacement = Replacement::begin(global.file())?;
    let loaded = config::load(global.file(), SecretsMode::Ignored)?;
    let raised = loaded.raised()?;
    replacement.commit(raised.read, raised.contents.as_bytes())?;
    let (before, after) = (raised.before, raised.after);
    match global.format {
        Format::Text | Format::Prometheus => print(&format!(
            "{}: generation {before} is now {after}.\n\
             Next, bring the file to every host and run there, host by host, in any order:\n    \
             meshsec apply\n\
             Rotate again only when all hosts have applied this one.\n",
            Plain(file_name(global))
        ))?,
        Format::Json => print_json(&rotate_json(&loaded.config.mesh, before, after))?,
    }
    Ok(Status::Done)
}
