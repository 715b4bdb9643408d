//! `destroy`: removes all objects of this mesh. Needs no secret.

use super::{
    Status,
    change::{Request, change},
};
use crate::{
    cli::{DestroyArgs, Global},
    error::Error,
};

/// Works without a local peer too, and without a file where the mesh is named: its objects are
/// known by its reqid.
pub(super) fn run(global: &Global, args: &DestroyArgs) -> Result<Status, Error> {
    change(global, &args.run, Request::Destroy(&args.named))
}
