//! Secrets: where mesh.toml says that they are, and their 32 bytes.
//!
//! Errors tell only a secret's length or form. The forms are in `malformed`; files are opened in
//! `files`.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    ops::Range,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use crate::{
    keys::ratchet::{Damage, Ratchet},
    model::{Key, MeshName, PrivateKey, Warning, WarningCode},
};

use super::{
    files::{self, FileError},
    malformed::{EXPECTED, Malformed},
    mask,
    reader::{Findings, Section, Value},
    schema::{Field, SECRET_CREDENTIAL, SECRET_ENV, SECRET_FILE, Table},
    types::{KeySource, SecretSource, Secrets},
};

/// The places where the file names secrets, by the key's name.
pub(super) type Spans = BTreeMap<&'static str, Range<usize>>;

/// Looks up an environment variable.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<OsString>;

const GENPSK: &str = "for a new mesh, meshsec genpsk prints one";
const GENKEY: &str = "for a new host, meshsec genkey prints one";
const RATCHET_INIT: &str = "the first one of a mesh is made by meshsec ratchet init";

/// Reads `{ file = … }`, `{ credential = … }` or `{ env = … }`.
pub(super) fn source(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    field: Field,
    dir: &Path,
) -> Option<SecretSource> {
    let Some(table) = value.get_ref().as_table() else {
        refuse_inline(findings, value, field);
        return None;
    };
    let section = Section::titled(findings, field.name, Table::Secret, value.span(), table);
    let mut given = [SECRET_FILE, SECRET_CREDENTIAL, SECRET_ENV]
        .into_iter()
        .filter_map(|field| section.get(field.name).map(|value| (field, value)));
    let Some((place, value)) = given.next() else {
        if !Table::Secret.keys().iter().any(|place| section.is_guessed(place)) {
            let message = format!("{} does not say where the secret is", field.name);
            findings.missing(section.header(), message, field.write);
        }
        return None;
    };
    if let Some((second, value)) = given.next() {
        let message = format!("{} has both {} and {}", field.name, place.name, second.name);
        findings.wrong(value.span(), message, "leave one of them");
        return None;
    }
    let text = findings.text(value, place)?;
    let source = named(place, text, dir);
    if source.is_none() {
        let message = format!("{} {} is not usable", place.name, mask::quote(text));
        findings.wrong(value.span(), message, place.write);
    }
    source
}

fn refuse_inline(findings: &mut Findings<'_>, value: &Value<'_>, field: Field) {
    if let Some(text) = value.get_ref().as_str() {
        let is_path = text.contains(['/', '.']) && !text.contains(char::is_whitespace);
        let (message, hint) = if is_path && parse(text.as_bytes()).is_err() {
            let message = format!(
                "{} must be a table that says where the secret is, not a string",
                field.name
            );
            (message, format!("{}, with the path", field.write))
        } else {
            let hint = format!("put it into a file of its own and {}", field.write);
            ("secrets don't belong in mesh.toml".into(), hint)
        };
        findings.wrong(value.span(), message, hint);
    } else {
        findings.wrong_type(value, field, "a table that says where the secret is");
    }
}

fn named(place: Field, text: &str, dir: &Path) -> Option<SecretSource> {
    let usable = !text.is_empty() && !text.contains('\0');
    match place.name {
        _ if !usable => None,
        "file" => Some(SecretSource::File(dir.join(text))),
        "credential" if text.contains('/') || text == "." || text == ".." => None,
        "credential" => Some(SecretSource::Credential(text.into())),
        _ if text.contains('=') => None,
        _ => Some(SecretSource::Env(text.into())),
    }
}

/// The reason why a secret is missing or wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("cannot read secret {path}: {error}")]
    File { path: String, error: FileError },
    #[error("cannot read credential {}: CREDENTIALS_DIRECTORY is not set", mask::quote(name))]
    NoDirectory {
        name: String,
        /// The directory of mesh.toml, where a file of that name may be.
        dir: String,
    },
    #[error("environment variable {} is not set", mask::quote(.0))]
    NoVariable(String),
    #[error("the secret in {0} is {1}")]
    Malformed(String, Malformed),
    #[error("the file {0} {1}")]
    Ratchet(String, Damage),
}

impl SecretError {
    /// Whether the secret is absent, not wrong. A secret that this user may not read counts as
    /// absent: it can be missing where no secret is needed.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::NoDirectory { .. } | Self::NoVariable(_) => true,
            Self::File { error, .. } => {
                matches!(error, FileError::Absent | FileError::Denied)
            }
            Self::Malformed(..) | Self::Ratchet(..) => false,
        }
    }

    /// Whether it is there, for others to read.
    fn is_hidden(&self) -> bool {
        matches!(self, Self::File { error: FileError::Denied, .. })
    }

    /// The remedy; `name` is the key in the file.
    pub(super) fn hint(&self, name: &str) -> String {
        let (whose, prints) = match name {
            "private_key" => ("this host's private key", GENKEY),
            "ratchet" => ("a copy of another host's", RATCHET_INIT),
            _ => ("the secret that the mesh's other hosts have", GENPSK),
        };
        match self {
            Self::File { path, error } => of_file(error, name, path, whose, prints),
            Self::NoDirectory { dir, .. } => format!(
                "type: CREDENTIALS_DIRECTORY={} meshsec plan; in a unit, LoadCredential= sets it",
                shell_word(dir)
            ),
            Self::NoVariable(_) => "set it, or name another place".into(),
            Self::Malformed(_, malformed) => {
                malformed.hint(&format!("put {whose} there; {prints}"))
            }
            Self::Ratchet(_, Damage::Title) => {
                "name a file that meshsec ratchet init has made, or a copy of one".into()
            }
            Self::Ratchet(..) => {
                "put a copy of another host's there; what it held before can't be had back".into()
            }
        }
    }
}

/// The remedy for a file that isn't read.
fn of_file(error: &FileError, name: &str, path: &str, whose: &str, prints: &str) -> String {
    match error {
        FileError::Loose(_) => format!("type: chmod 600 {}", shell_word(path)),
        FileError::Owner(_) => format!("type: chown root {}", shell_word(path)),
        FileError::Writable(_) => format!("type: chmod go-w {}", shell_word(path)),
        FileError::LooseVolume(_) if name == "ratchet" => {
            "keep it where only root reads and writes it: apply writes it".into()
        }
        FileError::LooseVolume(_) => {
            let file = Path::new(path);
            let dir = file.parent().map_or("".into(), |dir| dir.to_string_lossy());
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "write {name} = {{ credential = \"{file}\" }} and set CREDENTIALS_DIRECTORY={}: \
                 modes are then the volume's affair",
                shell_word(if dir.is_empty() { "." } else { &dir })
            )
        }
        FileError::Absent => format!("put {whose} there; {prints}"),
        FileError::Denied => "run as root (sudo)".into(),
        FileError::Special => format!(
            "write the path of a regular file, or {name} = {{ env = \"NAME\" }}: \
             pipes and sockets are not read"
        ),
        FileError::Io(_) | FileError::Growing => "see to it that the file can be read".into(),
        FileError::Directory
        | FileError::Large(_)
        | FileError::LargeTogether
        | FileError::Many
        | FileError::OpenDirectory(..) => {
            format!("write the path of a file that holds {EXPECTED}")
        }
    }
}

/// The secrets that are wanted, and the places where they are looked for.
#[derive(Clone, Copy)]
pub(super) struct Reader<'r> {
    /// An absent secret is a warning, not an error.
    pub optional: bool,
    /// The directory of mesh.toml.
    pub dir: &'r Path,
    pub env: Env<'r>,
}

impl Reader<'_> {
    /// All that a file names, if all of it is there and right.
    pub(super) fn fetch_all(
        self,
        source: &KeySource,
        spans: &Spans,
        findings: &mut Findings<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Option<Secrets> {
        let mut judge = SecretFindings { optional: self.optional, spans, findings, warnings };
        let fetch = |source| fetch(source, self.dir, self.env);
        let key = |bytes: Bytes| Key::new(Box::from(&bytes[..]));
        match source {
            KeySource::MeshKey(mesh_key) => {
                judge.accept("mesh_key", fetch(mesh_key)).map(key).map(Secrets::MeshKey)
            }
            KeySource::PrivateKey { private_key, psk } => {
                // Both are read before a missing secret ends this.
                let private_key = judge.accept("private_key", fetch(private_key));
                let psk = psk.as_ref().map(|psk| judge.accept("psk", fetch(psk)).map(key));
                let psk = psk.map_or(Some(None), |psk| psk.map(Some))?;
                Some(Secrets::PrivateKey { private_key: PrivateKey::new(&**private_key?), psk })
            }
            KeySource::Ratchet(path) => {
                judge.accept("ratchet", ratchet(path, self.dir)).map(Secrets::Ratchet)
            }
        }
    }
}

/// Tells errors from warnings.
struct SecretFindings<'j, 's> {
    optional: bool,
    spans: &'j Spans,
    findings: &'j mut Findings<'s>,
    warnings: &'j mut Vec<Warning>,
}

impl SecretFindings<'_, '_> {
    fn accept<T>(&mut self, name: &str, fetched: Result<T, SecretError>) -> Option<T> {
        match fetched {
            Ok(secret) => return Some(secret),
            Err(error) if self.optional && error.is_absence() => {
                let what = if error.is_hidden() { "can't be read" } else { "is absent" };
                let text = format!("{name} {what}, keys are not checked: {error}");
                self.warnings.push(Warning::new(WarningCode::KeysNotChecked, text));
            }
            Err(error) => {
                let span = self.spans.get(name).cloned().unwrap_or_default();
                self.findings.wrong(span, error.to_string(), error.hint(name));
            }
        }
        None
    }
}

/// Reads a ratchet's file; `dir` is the directory of mesh.toml.
fn ratchet(path: &Path, dir: &Path) -> Result<Ratchet, SecretError> {
    let shown = mask::path_in(dir, path);
    match files::secret(path) {
        Ok(text) => Ratchet::parse(&text).map_err(|damage| SecretError::Ratchet(shown, damage)),
        Err(error) => Err(SecretError::File { path: shown, error }),
    }
}

/// The reason why a ratchet could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RatchetError(SecretError);

/// Reads a ratchet's file anew.
///
/// # Errors
///
/// There is no file, it is torn, or others may read it.
pub fn read_ratchet(path: &Path) -> Result<Ratchet, RatchetError> {
    ratchet(path, Path::new("")).map_err(RatchetError)
}

/// Checks that a ratchet is of this mesh.
pub(super) fn same_mesh(
    findings: &mut Findings<'_>,
    mesh: &MeshName,
    ratchet: &Ratchet,
    spans: &Spans,
) {
    if ratchet.mesh() != mesh {
        let span = spans.get("ratchet").cloned().unwrap_or_default();
        let message = format!("the ratchet is that of mesh {}, not of {mesh}", ratchet.mesh());
        findings.wrong(span, message, "name the file of this mesh");
    }
}

/// A key's bytes. In a box, because a value that is moved leaves a copy behind.
type Bytes = Box<Zeroizing<[u8; 32]>>;

/// Reads and decodes a secret; `dir` is the directory of mesh.toml.
fn fetch(source: &SecretSource, dir: &Path, env: Env<'_>) -> Result<Bytes, SecretError> {
    match source {
        SecretSource::File(path) => {
            let shown = mask::path_in(dir, path);
            match files::secret(path) {
                Ok(text) => decode(&text, &shown),
                Err(error) => Err(SecretError::File { path: shown, error }),
            }
        }
        SecretSource::Credential(name) => {
            let missing = || {
                let dir = if dir == Path::new("") { Path::new(".") } else { dir };
                SecretError::NoDirectory { name: name.clone(), dir: mask::path(dir) }
            };
            let set = env("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty());
            let credentials = PathBuf::from(set.ok_or_else(missing)?);
            let path = credentials.join(name);
            let shown = mask::path_in(&credentials, &path);
            match files::credential(&path) {
                Ok(text) => decode(&text, &shown),
                Err(error) => Err(SecretError::File { path: shown, error }),
            }
        }
        SecretSource::Env(name) => {
            let text = env(name).ok_or_else(|| SecretError::NoVariable(name.clone()))?;
            let text = Zeroizing::new(text.into_vec());
            decode(&text, &format!("environment variable {}", mask::quote(name)))
        }
    }
}

/// The secret that a text stands for; `place` is for errors.
fn decode(text: &[u8], place: &str) -> Result<Bytes, SecretError> {
    secret(text).map_err(|malformed| SecretError::Malformed(place.into(), malformed))
}

/// The secret that a text stands for, with space around it.
///
/// # Errors
///
/// The text is neither 64 hex digits nor 44 characters of base64, or it is all zeros.
pub fn secret(text: &[u8]) -> Result<Box<Zeroizing<[u8; 32]>>, Malformed> {
    let bytes = parse(text.trim_ascii()).map_err(|malformed| malformed.of(text))?;
    if bytes.iter().all(|&byte| byte == 0) { Err(Malformed::Zeros) } else { Ok(bytes) }
}

/// The 32 bytes that hex or base64 stand for.
pub(super) fn parse(text: &[u8]) -> Result<Bytes, Malformed> {
    let mut bytes = Bytes::default();
    let unexpected = |what| Malformed::Characters(text.len(), what);
    match text.len() {
        64 => hex::decode_to_slice(text, &mut bytes[..]).map_err(|_| unexpected("hex"))?,
        44 => {
            let decoded = Base64::decode(text, &mut bytes[..]).map_err(|_| unexpected("base64"))?;
            if decoded.len() != 32 {
                return Err(unexpected("base64"));
            }
        }
        length => return Err(Malformed::Length(length)),
    }
    Ok(bytes)
}

/// A path as a shell takes it as one word.
pub(super) fn shell_word(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if path.chars().all(plain) && !path.starts_with('-') {
        path.into()
    } else {
        let dash = if path.starts_with('-') { "./" } else { "" };
        format!("'{dash}{}'", path.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn decoded(text: &str) -> Result<Vec<u8>, String> {
        decode(text.as_bytes(), "x").map(|key| key.to_vec()).map_err(|e| e.to_string())
    }

    #[test]
    fn hex_and_base64_give_the_same_bytes() {
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(decoded(HEX).unwrap(), bytes);
        assert_eq!(decoded(&format!("\t{BASE64}\r\n")).unwrap(), bytes);
    }

    #[test]
    fn what_is_neither_is_refused_without_being_shown() {
        assert_eq!(
            decoded("hunter2").unwrap_err(),
            format!("the secret in x is 7 bytes long, not {EXPECTED}")
        );
        for (text, what) in [(HEX.replace('A', "g"), "hex"), (BASE64.replace('A', "!"), "base64")] {
            let length = text.len();
            let expected =
                format!("the secret in x is {length} bytes long but not {what} throughout");
            assert_eq!(decoded(&text).unwrap_err(), expected);
        }
        // 33 bytes are 44 characters too, and the last bits of a key's base64 are 0.
        assert!(decoded(&"A".repeat(44)).is_err());
        assert!(decoded(&BASE64.replace("8=", "9=")).is_err());
        assert!(decoded(&BASE64.replace('=', "")).is_err());
    }

    #[test]
    fn all_zeros_are_no_secret() {
        assert!(decoded(&"0".repeat(64)).unwrap_err().contains("all zeros"));
        assert!(decoded(&format!("{}=", "A".repeat(43))).unwrap_err().contains("all zeros"));
    }

    #[test]
    fn a_secret_comes_from_the_environment() {
        let env = |name: &str| (name == "SECRET").then(|| HEX.into());
        let key = fetch(&SecretSource::Env("SECRET".into()), Path::new(""), &env).ok().unwrap();
        assert_eq!(key[31], 31);
        let error = fetch(&SecretSource::Env("OTHER".into()), Path::new(""), &env).err().unwrap();
        assert_eq!(error.to_string(), "environment variable \"OTHER\" is not set");
        assert!(error.is_absence());
    }

    #[test]
    fn a_credential_comes_from_systemd_s_directory_whatever_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mesh"), BASE64).unwrap();
        let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| dir.path().into());
        assert!(fetch(&SecretSource::Credential("mesh".into()), Path::new(""), &env).is_ok());
        let error =
            fetch(&SecretSource::Credential("other".into()), Path::new(""), &env).err().unwrap();
        assert!(error.is_absence());
        let error = fetch(&SecretSource::Credential("mesh".into()), Path::new(""), &|_| None)
            .err()
            .unwrap();
        assert!(error.is_absence() && error.to_string().contains("CREDENTIALS_DIRECTORY"));
    }

    #[test]
    fn a_credential_is_a_plain_name() {
        let dir = Path::new("d");
        for name in ["", ".", "..", "a/b", "/a", "a\0"] {
            assert_eq!(named(SECRET_CREDENTIAL, name, dir), None, "{name:?}");
        }
        assert_eq!(named(SECRET_FILE, "/a", dir), Some(SecretSource::File("/a".into())));
        assert_eq!(named(SECRET_FILE, "a", dir), Some(SecretSource::File("d/a".into())));
        assert_eq!(named(SECRET_ENV, "A=B", dir), None);
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(shell_word("/etc/a.key"), "/etc/a.key");
        assert_eq!(shell_word("a b'c"), "'a b'\\''c'");
        assert_eq!(shell_word("-a"), "'./-a'");
    }
}
