//! `apply`: shows the plan, asks, performs it, proves it.

use super::{
    Status,
    change::{Request, change},
};
use crate::{
    cli::{ApplyArgs, Global, RunArgs},
    error::Error,
    model::ErrorCode,
};

/// Performs a plan of now, or the one in a saved file if it still holds.
pub(super) fn run(global: &Global, args: &ApplyArgs) -> Result<Status, Error> {
    let Some(path) = &args.plan else { return change(global, &args.run, Request::Apply) };
    if path.extension().is_some_and(|end| end == "toml") {
        let message = "apply takes a plan that plan --out has saved; for a mesh.toml write -c FILE";
        return Err(Error::request(ErrorCode::OptionsDisagree, message));
    }
    // The plan was approved when it was saved.
    let args = RunArgs { auto_approve: true, ..args.run };
    change(global, &args, Request::Saved(path))
}
