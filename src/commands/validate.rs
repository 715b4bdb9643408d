//! `validate`: checks the file and its secrets. Needs no privilege.

use serde::Serialize;

use super::{Status, moment, print, print_json};
use crate::{
    cli::{Format, Global},
    config::{self, SecretsMode},
    error::Error,
    render::{JsonClock, generation},
};

#[derive(Serialize)]
struct Valid<'a> {
    valid: bool,
    mesh: &'a str,
    peers: usize,
    generation: u64,
    clock: Option<JsonClock>,
    warnings: &'a [String],
}

/// An invalid file is an error before anything is printed here.
pub fn run(global: &Global) -> Result<Status, Error> {
    let loaded = config::load(&global.config, SecretsMode::Required)?;
    let config = &loaded.config;
    let moment = moment::now(config)?;
    match global.format {
        Format::Text => {
            let mut text = format!(
                "{} is valid: mesh {}, {} peers, {}.\n",
                global.config.display(),
                config.mesh,
                config.peers.len(),
                generation(moment)
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
            generation: moment.generation.get(),
            clock: JsonClock::of(moment),
            warnings: &loaded.warnings,
        })?,
    }
    Ok(Status::Done)
}
