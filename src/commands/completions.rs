//! `completions`: prints the script by which a shell completes command lines.

use super::{Status, print_at_once};
use crate::{cli::CompletionsArgs, completion, error::Error};

/// Looks at nothing: the shell asks when a word is to be completed.
pub(super) fn run(args: &CompletionsArgs) -> Result<Status, Error> {
    print_at_once(&completion::script(args.shell)?)?;
    Ok(Status::Done)
}
