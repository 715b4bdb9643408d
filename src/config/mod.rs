//! mesh.toml: from text to a checked [`Config`], with every error located.
//!
//! [`load`] does all of it, and [`local_peer`] finds the peer that is this host. All errors of a
//! file and its secrets are reported in one run, each with its line and a caret.
//!
//! The way of a file: `files` reads it, `toml` parses it, `syntax` words the parser's messages,
//! `include` has the files of further peers read and parsed, some by `json`, `tables` and `peers`
//! read the trees through `reader`, `secrets` fetches the secrets, `diagnostic` shows the errors, and
//! `mask` hides secrets. Nothing here looks at the kernel.
#![forbid(unsafe_code)]

mod address;
mod diagnostic;
mod files;
mod fingerprint;
mod include;
mod json;
mod loaded;
mod local;
mod malformed;
mod mask;
mod networks;
mod pairs;
mod partners;
mod peers;
mod ports;
mod raise;
mod reader;
mod scan;
mod schema;
mod secrets;
mod syntax;
mod tables;
mod types;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::de::DeTable;
use zeroize::Zeroizing;

pub use diagnostic::{ConfigError, LocatedError};
pub use files::fill;
pub use fingerprint::{FileDigest, SecretFingerprint};
pub use include::IncludedFile;
#[cfg(any(test, fuzzing))]
pub(crate) use include::{FoundFile, Pattern};
pub use loaded::{PeersOf, Raised};
pub use local::{LocalError, local_peer, peer_by_host_name};
pub use malformed::{Form, Malformed};
pub use mask::{printable, quote as quoted, readable};
pub use partners::Partners;
pub use ports::Ports;
pub use secrets::{RatchetError, read_ratchet, secret};
pub use types::{
    Clock, Config, EncapWish, Esp, Exception, Guard, InterfaceWish, KeySource, LinkWish, Members,
    Moment, Pairs, Peer, Protocol, Rotation, SecretSource, Secrets, Select, Traffic,
    networks_of_others,
};

use crate::model::{Warning, without_traces};

use diagnostic::{Source, Syntax};
use files::FileError;
use include::{Find, Included, Tree};
use peers::PublicKeySpans;
use reader::Findings;
use secrets::Spans;
use tables::{Draft, Others};

/// A command's need for the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretsMode {
    /// They must be there.
    Required,
    /// They may be absent, which gives a warning. A secret that is there must be right.
    Optional,
    /// They are not looked at.
    Ignored,
    /// The same, and nothing is done with the file: whoever else can write it does not matter, as in
    /// a repository.
    LeftOut,
}

impl SecretsMode {
    fn looks(self) -> bool {
        match self {
            Self::Required | Self::Optional => true,
            Self::Ignored | Self::LeftOut => false,
        }
    }
}

/// A mesh.toml, the files that it includes, its secrets and its warnings.
pub struct Loaded {
    /// The checked contents of the file.
    pub config: Config,
    /// The secrets that it names, if they were requested and are there.
    pub secrets: Option<Secrets>,
    /// Warnings of valid settings that may surprise, a line each.
    pub warnings: Vec<Warning>,
    /// SHA-256 of the file's bytes.
    pub digest: [u8; 32],
    /// The files with peers that it includes, in its order.
    pub included: Vec<IncludedFile>,
    /// The file, for errors that are found later.
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    public_keys: PublicKeySpans,
    secret_places: Spans,
}

/// The name of standard input in place of mesh.toml.
pub const STANDARD_INPUT: &str = "-";

/// Reads and checks a mesh.toml and the secrets that it names. The paths of secrets in standard
/// input are relative to the working directory.
///
/// # Errors
///
/// All their errors together.
pub fn load(path: &Path, secrets: SecretsMode) -> Result<Loaded, ConfigError> {
    load_with(path, secrets, &|name| std::env::var_os(name))
}

fn load_with(path: &Path, mode: SecretsMode, env: secrets::Env<'_>) -> Result<Loaded, ConfigError> {
    // Without secrets, as in CI, no kernel is changed.
    let bytes = match mode {
        _ if path == Path::new(STANDARD_INPUT) => files::standard_input(),
        SecretsMode::Optional | SecretsMode::LeftOut => files::mesh_of_anybody(path),
        SecretsMode::Required | SecretsMode::Ignored => files::mesh(path),
    };
    let read = bytes.and_then(|bytes| Ok((bytes, files::directory_of(path)?)));
    let (bytes, dir) = read.map_err(|error| unread(path, &error))?;
    match mode {
        SecretsMode::Optional | SecretsMode::LeftOut => parse(
            (path, bytes),
            mode,
            env,
            (&dir, &|pattern, room| files::included_of_anybody(&dir, pattern, room)),
        ),
        SecretsMode::Required | SecretsMode::Ignored => parse(
            (path, bytes),
            mode,
            env,
            (&dir, &|pattern, room| files::included_of_owner(&dir, pattern, room)),
        ),
    }
}

/// The same for a file that was read already. It opens no file if secrets are ignored, as `find`
/// reads the files that it includes. Their names begin at the directory beside `find`.
pub(crate) fn parse(
    (path, bytes): (&Path, Zeroizing<Vec<u8>>),
    mode: SecretsMode,
    env: secrets::Env<'_>,
    (base, find): (&Path, Find<'_>),
) -> Result<Loaded, ConfigError> {
    let text = text(path, &bytes)?;
    let shown = mask::path(path);
    let source = Source::included(text, Syntax::Toml, 0, &shown);
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut findings = Findings::new(&source, syntax::findings(&source, &errors));
    if root.get_ref().is_empty() && errors.is_empty() {
        findings.missing(0..0, "the file is empty".into(), EMPTY);
        return Err(ConfigError::located(path, &source, findings.list));
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut files = include::read(&mut findings, root.get_ref(), (base, bytes.len()), find);
    let sources: Vec<Source<'_>> =
        files.list.iter().zip(1..).map(|(file, number)| file.source(number)).collect();
    let trees: Vec<Tree<'_>> =
        sources.iter().zip(&files.list).map(|(source, file)| Tree::of(source, file)).collect();
    let mut peers: Vec<_> =
        trees.iter().zip(&sources).map(|(tree, source)| tree.peers(source)).collect();
    let mut others = Others { files: &mut peers, are_named: files.are_named, lacks: files.lacks };
    let Draft { config, keys, public_keys, mut warnings } =
        tables::read(&mut findings, root.get_ref(), dir, &mut others);
    let (source_of_keys, secret_places) = keys.unzip();
    let secret_places = secret_places.unwrap_or_default();
    let secrets = source_of_keys.filter(|_| mode.looks()).and_then(|keys| {
        let reader = secrets::Reader { optional: mode == SecretsMode::Optional, dir, env };
        without_traces(|| reader.fetch_all(&keys, &secret_places, &mut findings, &mut warnings))
    });
    if let (Some(config), Some(Secrets::Ratchet(ratchet))) = (&config, &secrets) {
        secrets::same_mesh(&mut findings, &config.mesh, ratchet, &secret_places);
    }
    let counts: Vec<usize> = peers.iter().map(Included::count).collect();
    let mut lists = vec![(&source, syntax::without_follow_ups(&source, findings.list))];
    lists.extend(sources.iter().zip(peers.into_iter().map(Included::list)));
    match config {
        Some(config) if lists.iter().all(|(_, list)| list.is_empty()) => {
            let digest = Sha256::digest(&bytes[..]).into();
            files.list.iter_mut().zip(counts).for_each(|(file, count)| file.peers = count);
            let path = path.to_owned();
            Ok(Loaded {
                config,
                secrets,
                warnings,
                digest,
                included: files.list,
                path,
                bytes,
                public_keys,
                secret_places,
            })
        }
        _ => Err(ConfigError::of_files(path, lists)),
    }
}

const EMPTY: &str = "write [mesh], [keys] and [rotation], and a [[peer]] for each host";

fn unread(path: &Path, error: &FileError) -> ConfigError {
    let hint = match error {
        FileError::Absent if path == Path::new("-") => {
            "standard input is not read: write it to a file and name that with -c FILE"
        }
        FileError::Absent => "write one there, or name another file with -c FILE",
        FileError::Directory => "name the file in it with -c FILE",
        FileError::Special => {
            "name a regular file with -c FILE: pipes, as <(COMMAND) gives them, are not read"
        }
        FileError::Large(_) | FileError::LargeTogether | FileError::Many => {
            "a mesh of 4096 peers needs less than 1 MiB; is this the right file?"
        }
        FileError::Growing => "try again when it is complete",
        FileError::Writable(_) => {
            let hint = format!("type: chmod go-w {}", secrets::shell_word(&path.to_string_lossy()));
            return ConfigError::file(
                path,
                format!("cannot read {}: {error}", mask::path(path)),
                hint,
            );
        }
        FileError::Owner(_) => {
            let file = secrets::shell_word(&path.to_string_lossy());
            let hint = format!("type: chown root {file}");
            return ConfigError::file(
                path,
                format!("cannot read {}: {error}", mask::path(path)),
                hint,
            );
        }
        FileError::Denied => "run as root (sudo), or make it readable for this user",
        FileError::Loose(_)
        | FileError::LooseVolume(_)
        | FileError::OpenDirectory(..)
        | FileError::Io(_) => "see to it that this user can read it",
    };
    ConfigError::file(path, format!("cannot read {}: {error}", mask::path(path)), hint.into())
}

/// The file's text; its first byte that is not UTF-8 is an error like any other.
fn text<'b>(path: &Path, bytes: &'b [u8]) -> Result<&'b str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let finding = syntax::not_utf8(error.valid_up_to());
        // All up to this byte is the same in the lossy text, so that places stay.
        ConfigError::located(path, &Source::new(&String::from_utf8_lossy(bytes)), vec![finding])
    })
}
