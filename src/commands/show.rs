//! `show`: live objects in the file's words.

use super::{Status, moment, named, print, print_json};
use crate::{
    cli::{Format, Global, ShowArgs},
    config::SecretsMode,
    error::Error,
    kernel::Kernel,
    privilege::Files,
    render::{ShowView, Subject, show_json, show_text},
};

/// Shows the kernel's objects, also where the local peer or the file is not known.
pub(super) fn run(global: &Global, args: &ShowArgs) -> Result<Status, Error> {
    if let Some(mesh) = named::named(global, &args.named)? {
        let live = named::kernel()?.observe(mesh.reqid)?;
        if let Some(warning) = named::warning(&live, &mesh) {
            super::say(format_args!("warning: {warning}"));
        }
        let subject = Subject::Named(&mesh);
        return show(global, &ShowView { subject, local: None, live: &live, all: args.all });
    }
    let config = super::load(global, SecretsMode::Ignored, Files::Neither)?.config;
    let live = super::kernel_for(global, &config)?.observe(config.reqid)?;
    let local = super::local_if_any(global, &config, &live)?;
    let moment = moment::now(&config)?;
    let subject = Subject::File { config: &config, moment };
    show(global, &ShowView { subject, local, live: &live, all: args.all })
}

fn show(global: &Global, shown: &ShowView<'_>) -> Result<Status, Error> {
    match global.format {
        Format::Text | Format::Prometheus => print(&show_text(shown))?,
        Format::Json => print_json(&show_json(shown))?,
    }
    Ok(Status::Done)
}
