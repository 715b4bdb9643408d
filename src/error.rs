//! All errors that end a command before it has changed anything.

use std::{
    io::{self, Write},
    panic,
    path::PathBuf,
};

use serde::Serialize;

use crate::{
    config::{ConfigError, LocalError},
    kernel::KernelError,
    model::{ErrorCode, Time},
    render::{JsonError, Plain, errors_json},
};

/// Why a command ended with status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or a secret that it names.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The local peer is not known.
    #[error("error: {0}")]
    Local(#[from] LocalError),
    /// The kernel, or the way to it.
    #[error("error: {0}")]
    Kernel(#[from] KernelError),
    /// A clock that is certainly wrong, where generations follow it.
    #[error(
        "error: the clock shows {} UTC, before this program's release on {}: set it and run again; \
         nothing was changed",
        now.utc(), released.utc()
    )]
    Clock {
        /// The time that it shows.
        now: Time,
        /// The earliest time that it can be.
        released: Time,
    },
    /// A snapshot that can't be read.
    #[error("error: {}: {reason}", path.display())]
    Snapshot {
        /// The snapshot.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file that can't be replaced by its next version.
    #[error("error: cannot {doing} {}: {reason}; nothing was changed", path.display())]
    File {
        /// A verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A change that --confirm-within could not take back.
    #[error(
        "error: --confirm-within could not bring this back, so nothing was changed: {}; run \
         without --confirm-within, or delete it first",
        problems.join("; ")
    )]
    Irreversible {
        /// Objects, and their parts that can't be made again.
        problems: Vec<String>,
    },
    /// Capabilities that can't be given up.
    #[error("error: cannot give up what is not needed any more: {0}")]
    Privilege(rustix::io::Errno),
    /// Standard input or output.
    #[error("error: {0}")]
    Io(#[from] io::Error),
    /// A request that can't be performed as it was given.
    #[error("error: {1}")]
    Request(ErrorCode, String),
}

impl Error {
    /// The text to show. The file's errors have lines of their own; any other is one line, with
    /// paths, and words of the kernel and of other programs in it.
    pub fn shown(&self) -> String {
        let Self::Config(error) = self else { return Plain(self).to_string() };
        let text = error.to_string();
        let lines: Vec<String> = text.lines().map(|line| Plain(line).to_string()).collect();
        lines.join("\n")
    }

    /// The code by which programs tell it from others.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Config(_) => ErrorCode::ConfigRefused,
            Self::Local(_) => ErrorCode::LocalPeerUnknown,
            Self::Kernel(error) => error.code(),
            Self::Clock { .. } => ErrorCode::ClockWrong,
            Self::Snapshot { .. } => ErrorCode::DocumentRefused,
            Self::File { .. } => ErrorCode::FileNotReplaced,
            Self::Irreversible { .. } => ErrorCode::Irreversible,
            Self::Privilege(_) => ErrorCode::PrivilegesStay,
            Self::Io(_) => ErrorCode::InputOutput,
            Self::Request(code, _) => *code,
        }
    }

    /// A request that can't be performed as it was given.
    pub fn request(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Request(code, text.into())
    }

    /// The errors in the shape of their JSON.
    pub fn json(&self) -> impl Serialize + use<> {
        let errors = if let Self::Config(error) = self {
            error.located_errors().map(|error| JsonError::located(self.code(), &error)).collect()
        } else {
            let text = self.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).to_owned();
            vec![JsonError::new(self.code(), text)]
        };
        errors_json(errors)
    }

    /// Whether standard output was closed by its reader, which is not an error.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Makes panics show their place and nothing else: a panic's message may hold any value, and a
/// backtrace is of no use without it.
pub fn quiet_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
        let place = place.unwrap_or_default();
        let _ = writeln!(
            io::stderr(),
            "error: internal error{place}; this is a bug of meshsec: please report it"
        );
    }));
}
