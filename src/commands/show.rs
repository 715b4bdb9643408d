//! `show`: live objects in the file's words.

use super::{Status, moment, print, print_json};
use crate::{
    cli::{Format, Global, ShowArgs},
    config::SecretsMode,
    error::Error,
    kernel::Kernel,
    privilege::Files,
    render::{ShowView, show_json, show_text},
};

/// Shows the kernel's objects, also where the local peer is not known.
pub(super) fn run(global: &Global, args: &ShowArgs) -> Result<Status, Error> {
    let config = super::load(global, SecretsMode::Ignored, Files::Neither)?.config;
    let live = super::kernel_for(global, &config)?.observe(config.reqid)?;
    let local = super::local_if_any(global, &config, &live)?;
    let moment = moment::now(&config)?;
    let shown = ShowView { config: &config, moment, local, live: &live, all: args.all };
    match global.format {
        Format::Text | Format::Prometheus => print(&show_text(&shown))?,
        Format::Json => print_json(&show_json(&shown))?,
    }
    Ok(Status::Done)
}
