//! `rotate`: raises `generation` in the file.

use super::{Status, prepared::file_name, print, print_json, replace::Replacement, settled};
use crate::{
    cli::{EvidenceArgs, Format, Global},
    config::{self, SecretsMode},
    error::Error,
    model::ErrorCode,
    privilege::{self, Files},
    render::{Plain, rotate_json},
};

/// Needs no secret, and looks at no kernel unless it is asked to.
pub(super) fn run(global: &Global, args: &EvidenceArgs) -> Result<Status, Error> {
    settled::check(args)?;
    if !args.is_given() && (args.quiet.is_some() || args.wait.is_some()) {
        let text = "--for and --wait are about evidence: add --here or --seen";
        return Err(Error::request(ErrorCode::OptionsDisagree, text));
    }
    // Locked before it is read: of two runs at once each raises the other's result.
    let replacement = Replacement::begin(global.file())?;
    let loaded = config::load(global.file(), SecretsMode::Ignored)?;
    let raised = loaded.raised()?;
    if args.is_given() {
        privilege::file_read(&loaded.config, Files::Replaces).map_err(Error::Privilege)?;
        if !settled::is_settled(global, args, &loaded.config)? {
            return Ok(Status::Attention);
        }
    }
    replacement.commit(raised.read, raised.contents.as_bytes())?;
    let (before, after) = (raised.before, raised.after);
    match global.format {
        Format::Text | Format::Prometheus => print(&format!(
            "{}: generation {before} is now {after}.\n\
             Next, bring the file to every host and run there, host by host, in any order:\n    \
             meshsec apply\n\
             Rotate again only when all hosts have applied this one: meshsec settled tells, and\n\
             meshsec rotate --here, or --seen FILE, refuses until then.\n",
            Plain(file_name(global))
        ))?,
        Format::Json => print_json(&rotate_json(&loaded.config.mesh, before, after))?,
    }
    Ok(Status::Done)
}
