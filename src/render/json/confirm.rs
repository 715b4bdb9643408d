//! `confirm --format json`.

use serde::Serialize;

use super::parts::FORMAT_VERSION;

#[derive(Serialize)]
struct JsonConfirm<'a> {
    format_version: &'static str,
    mesh: &'a str,
    confirmed: bool,
}

/// The confirmation of an apply, in the shape of its JSON. One that failed is an error.
pub fn confirm_json(mesh: &str) -> impl Serialize {
    JsonConfirm { format_version: FORMAT_VERSION, mesh, confirmed: true }
}
