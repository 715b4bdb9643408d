//! `destroy`: removes all objects of this mesh. Needs no secret.

use super::{
    Status,
    change::{Request, change},
};
use crate::{
    cli::{Global, RunArgs},
    error::Error,
};

/// Works without a local peer too: the mesh's objects are known by its reqid.
pub(super) fn run(global: &Global, args: &RunArgs) -> Result<Status, Error> {
    change(global, args, Request::Destroy)
}
