//! The errors of a command that ends without its own document.

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::{config::LocatedError, model::ErrorCode};

#[derive(Serialize)]
struct JsonErrors {
    format_version: &'static str,
    errors: Vec<JsonError>,
}

/// One error.
#[derive(Serialize)]
pub struct JsonError {
    code: &'static str,
    text: String,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    hint: Option<String>,
}

impl JsonError {
    /// An error that has no place in a file.
    pub fn new(code: ErrorCode, text: String) -> Self {
        Self { code: code.word(), text, file: None, line: None, column: None, hint: None }
    }

    /// An error of mesh.toml, or of a secret that it names.
    pub fn located(code: ErrorCode, error: &LocatedError<'_>) -> Self {
        Self {
            code: code.word(),
            text: error.text.to_owned(),
            file: Some(error.file.to_owned()),
            line: error.line,
            column: error.column,
            hint: Some(error.hint.to_owned()),
        }
    }
}

/// The errors of one run, in the shape of their JSON.
pub fn errors_json(errors: Vec<JsonError>) -> impl Serialize {
    JsonErrors { format_version: FORMAT_VERSION, errors }
}
