//! Where the live side of a plan comes from: the kernel, nowhere, or a snapshot.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    error::Error,
    kernel::{Kernel, linux},
    model::{Live, State, Time},
};

/// The version of a snapshot's format.
const FORMAT_VERSION: &str = "1.0";

/// More than any host's: 8,192 SAs and as many policies take 12 MiB.
const LARGEST_SNAPSHOT: u64 = 256 << 20;

/// `--live`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This host's kernel.
    Kernel,
    /// A host that holds nothing.
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

/// What `snapshot` prints.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    format_version: String,
    /// Seconds since 1970.
    taken: u64,
    /// The mesh whose keys have fingerprints.
    mesh: String,
    state: State,
}

impl Snapshot {
    /// A snapshot of now.
    pub fn now(config: &Config, live: Live) -> Self {
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
        let error = |reason: String| Error::Snapshot { path: path.into(), reason };
        let file = File::open(path).map_err(|e| error(e.to_string()))?;
        let mut text = Vec::new();
        file.take(LARGEST_SNAPSHOT + 1).read_to_end(&mut text).map_err(|e| error(e.to_string()))?;
        if text.len() as u64 > LARGEST_SNAPSHOT {
            return Err(error("larger than 256 MiB, which no snapshot is".into()));
        }
        #[derive(Deserialize)]
        struct Version {
            format_version: String,
        }
        let version: Version = serde_json::from_slice(&text)
            .map_err(|e| error(format!("not a snapshot of meshsec: {e}")))?;
        if version.format_version != FORMAT_VERSION {
            return Err(error(format!(
                "format {} is not known; this meshsec reads {FORMAT_VERSION}",
                version.format_version
            )));
        }
        let snapshot: Self = serde_json::from_slice(&text)
            .map_err(|e| error(format!("not a snapshot of meshsec: {e}")))?;
        if snapshot.mesh != config.mesh.as_str() {
            return Err(error(format!(
                "taken for mesh {}, not for {}: take one with this file",
                snapshot.mesh, config.mesh
            )));
        }
        Ok(snapshot)
    }
}

/// The live state, from wherever it is to come, and when it was taken.
pub fn observe(source: &Source, config: &Config) -> Result<(Live, Time), Error> {
    match source {
        Source::Kernel => {
            let live = super::kernel_for(config)?.observe(config.reqid)?;
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
