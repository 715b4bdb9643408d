//! `validate`: checks the file and its secrets. Needs no privilege.

use serde::Serialize;

use super::{Status, print, print_json};
use crate::{
    cli::{Format, Global},
    config::{self, SecretsMode},
    error::Error,
};

#[derive(Serialize)]
struct Valid<'a> {
    valid: bool,
    mesh: &'a str,
    peers: usize,
    generation: u64,
    warnings: &'a [String],
}

/// An invalid file is an error before anything is printed here.
pub fn run(global: &Global) -> Result<Status, Error> {
    let loaded = config::load(&global.config, SecretsMode::Required)?;
    let config = &loaded.config;
    match global.format {
        Format::Text => {
            let mut text = format!(
                "{} is valid: mesh {}, {} peers, generation {}.\n",
                global.config.display(),
                config.mesh,
                config.peers.len(),
                config.generation
            );
            for warning in &loaded.warnings {
                text.push_str(&format!("Warning: {warning}\n"));
            }
            print(&text)?;
        }
        Format::Json => print_json(&Valid {
            valid: true,
            mesh: config.mesh.as_str(),
            peers: config.peers.len(),
            generation: config.generation.get(),
            warnings: &loaded.warnings,
        })?,
    }
    Ok(Status::Done)
}
