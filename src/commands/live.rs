//! The source of the live side of a plan: the kernel, nothing, or a snapshot.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::document::{DocumentKind, unread};
use crate::{
    cli::Global,
    config::{self, Config},
    error::Error,
    kernel::{Kernel, linux},
    model::{Live, State, Time},
    render::FORMAT_VERSION,
};

/// The versions of a snapshot's format. Facts that 1.0 lacks are unknown of that host.
const VERSIONS: &[&str] = &["1.0", FORMAT_VERSION];

const SNAPSHOT: DocumentKind =
    DocumentKind { noun: "snapshot", whose: "a snapshot of meshsec", versions: VERSIONS };

/// `--live`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// This host's kernel.
    Kernel,
    /// A host without objects.
    Empty,
    /// A snapshot.
    File(PathBuf),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        match text {
            "kernel" => Self::Kernel,
            "empty" => Self::Empty,
            path => Self::File(path.into()),
        }
    }
}

/// The document that `snapshot` prints.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapshot {
    format_version: String,
    /// Seconds since 1970.
    taken: u64,
    /// The mesh with keys that have fingerprints.
    mesh: String,
    state: State,
}

impl Snapshot {
    /// A snapshot of now.
    pub(super) fn now(config: &Config, live: Live) -> Self {
        let taken = linux::clock::now().seconds();
        Self {
            format_version: FORMAT_VERSION.into(),
            taken,
            mesh: config.mesh.to_string(),
            state: live.0,
        }
    }

    /// Reads a snapshot; one of another mesh or format is an error.
    fn read(path: &Path, config: &Config) -> Result<Self, Error> {
        Self::of_mesh(SNAPSHOT.read(path)?, path, config)
    }

    fn of_mesh(snapshot: Self, path: &Path, config: &Config) -> Result<Self, Error> {
        if snapshot.mesh != config.mesh.as_str() {
            let (theirs, ours) = (config::quoted(&snapshot.mesh), &config.mesh);
            let reason =
                format!("taken for mesh {theirs}, not for {ours}: take one with this file");
            return Err(unread(path, reason));
        }
        Ok(snapshot)
    }
}

/// The live state, from its source, and when it was taken.
pub(super) fn observe(
    source: &Source,
    global: &Global,
    config: &Config,
) -> Result<(Live, Time), Error> {
    match source {
        Source::Kernel => {
            let live = super::kernel_for(global, config)?.observe(config.reqid)?;
            Ok((live, linux::clock::now()))
        }
        Source::Empty => {
            // They only tell which peer this host is, and --local may do that too.
            let addresses = linux::local_addresses().unwrap_or_default();
            Ok((Live(State { addresses, ..State::default() }), linux::clock::now()))
        }
        Source::File(path) => {
            let Snapshot { taken, state, .. } = Snapshot::read(path, config)?;
            Ok((Live(state.sorted()), Time::from_seconds(taken)))
        }
    }
}

/// The contents of a snapshot's text, and when it was taken.
#[cfg(any(test, fuzzing))]
pub(super) fn parse(text: &[u8], config: &Config) -> Result<(State, Time), Error> {
    let path = Path::new("live.json");
    let Snapshot { taken, state, .. } = Snapshot::of_mesh(SNAPSHOT.of(path, text)?, path, config)?;
    Ok((state.sorted(), Time::from_seconds(taken)))
}
