//! The source of the live side of a plan: the kernel, nothing, or a snapshot.

use std::path::{Path, PathBuf};

use super::document::{DocumentKind, unread};
use crate::{
    cli::Global,
    config::{self, Config, LocalError, Peer},
    error::Error,
    kernel::{Kernel, linux},
    model::{Live, State, Time},
    render::{FORMAT_VERSION, JsonSnapshot},
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

/// A snapshot of now.
pub(super) fn snapshot(config: &Config, local: Option<&Peer>, live: Live) -> JsonSnapshot {
    JsonSnapshot {
        format_version: FORMAT_VERSION.into(),
        taken: linux::clock::now().seconds(),
        mesh: config.mesh.to_string(),
        local: local.map(|peer| peer.name.to_string()),
        state: live.0,
    }
}

/// Fails unless a snapshot is of the mesh.
fn is_of(snapshot: &JsonSnapshot, path: &Path, config: &Config) -> Result<(), Error> {
    if snapshot.mesh != config.mesh.as_str() {
        let (theirs, ours) = (config::quoted(&snapshot.mesh), &config.mesh);
        let reason = format!("taken for mesh {theirs}, not for {ours}: take one with this file");
        return Err(unread(path, reason));
    }
    Ok(())
}

/// The contents of a snapshot, and when it was taken; one of another mesh is an error.
fn contents(snapshot: JsonSnapshot, path: &Path, config: &Config) -> Result<(State, Time), Error> {
    is_of(&snapshot, path, config)?;
    Ok((snapshot.state.sorted(), Time::from_seconds(snapshot.taken)))
}

/// A snapshot, and the host that it is of: the peer that it names, or else the one with an address
/// of that host.
pub(super) fn seen<'a>(path: &Path, config: &'a Config) -> Result<(&'a Peer, State, Time), Error> {
    let snapshot: JsonSnapshot = SNAPSHOT.read(path)?;
    is_of(&snapshot, path, config)?;
    let local = snapshot.local.as_deref();
    let host = config::local_peer(config, local, &snapshot.state.addresses).map_err(|error| {
        let reason = match error {
            LocalError::Unknown { name, .. } => format!("taken on {name}, which the file lacks"),
            LocalError::NoAddress { .. } => {
                "it has the address of no peer, and does not tell which host it is of".into()
            }
            LocalError::Several { candidates } | LocalError::SameName { candidates, .. } => format!(
                "it has the addresses of several peers ({candidates}): take one with --local NAME"
            ),
        };
        unread(path, reason)
    })?;
    Ok((host, snapshot.state.sorted(), Time::from_seconds(snapshot.taken)))
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
            let (state, taken) = contents(SNAPSHOT.read(path)?, path, config)?;
            Ok((Live(state), taken))
        }
    }
}

/// The kernel's state as far as a plan depends on it, and when it was taken.
pub(super) fn to_plan(global: &Global, config: &Config) -> Result<(Live, Time), Error> {
    let live = super::kernel_to_plan(global, config)?.observe(config.reqid)?;
    Ok((live, linux::clock::now()))
}

/// The contents of a snapshot's text, and when it was taken.
#[cfg(any(test, fuzzing))]
pub(super) fn parse(text: &[u8], config: &Config) -> Result<(State, Time), Error> {
    let path = Path::new("live.json");
    contents(SNAPSHOT.of(path, text)?, path, config)
}
