//! `[mesh] include`: files that hold peers and nothing else, in TOML or JSON.
//!
//! [`read`] has the files read that mesh.toml names, [`Tree`] parses one, and [`Tree::peers`] gives
//! the value of `peer` in it, for the reader of peers. Nothing here opens a file.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, ops::Range, path::Path};

use sha2::{Digest, Sha256};
use toml::de::DeTable;
use zeroize::Zeroizing;

use super::{
    diagnostic::{Finding, FindingKind, Source, Syntax},
    files::{FileError, MESH_LIMIT},
    json, mask,
    reader::{Findings, Value, nearest},
    schema::{INCLUDE, Table},
    secrets::shell_word,
    syntax,
};

/// As many files as there can be peers.
pub(super) const MOST_FILES: usize = 4096;

/// A file as it was found.
pub(crate) struct FoundFile {
    /// Its path from the directory of mesh.toml.
    pub(crate) name: String,
    pub(crate) bytes: Result<Zeroizing<Vec<u8>>, FileError>,
}

/// Reads the files that a pattern means, of so many bytes together at most.
pub(crate) type Find<'f> = &'f dyn Fn(&Pattern<'_>, usize) -> Result<Vec<FoundFile>, FileError>;

/// A path, or one with asterisks in its last part, which stand for any characters.
pub(crate) struct Pattern<'t> {
    pub(crate) text: &'t str,
}

impl<'t> Pattern<'t> {
    /// The pattern that a text is, or why it is none and the correction.
    fn of(text: &'t str) -> Result<Self, (String, String)> {
        let pattern = Self { text };
        let quoted = mask::quote(text);
        let special = |c: &char| "?[]{}".contains(*c);
        if text.is_empty() || text.contains('\0') {
            return Err((format!("{quoted} is no path"), INCLUDE.write.into()));
        }
        if let Some(special) = text.chars().find(special) {
            let message = format!("{quoted} has a {special}, which no pattern can have");
            return Err((
                message,
                "write * for any characters, or name the files one by one".into(),
            ));
        }
        if pattern.directory().contains('*') {
            let message = format!("{quoted} has a * in the name of a directory");
            return Err((
                message,
                "write an entry for each directory: * is for names of files".into(),
            ));
        }
        if pattern.syntax().is_none() {
            let message = format!("{quoted} does not end with .toml or .json");
            return Err((message, "give the files such names: they tell how to read them".into()));
        }
        Ok(pattern)
    }

    /// The part before the last, with its slash.
    pub(super) fn directory(&self) -> &'t str {
        &self.text[..self.text.rfind('/').map_or(0, |slash| slash + 1)]
    }

    /// The last part.
    fn file(&self) -> &'t str {
        &self.text[self.directory().len()..]
    }

    pub(super) fn has_asterisk(&self) -> bool {
        self.text.contains('*')
    }

    /// Whether the last part means the file of this name. As in a shell, an asterisk at the
    /// beginning means no hidden file, such as those that editors leave.
    pub(super) fn matches(&self, name: &str) -> bool {
        let pieces: Vec<&str> = self.file().split('*').collect();
        let [first, middle @ .., last] = &pieces[..] else { return name == self.file() };
        if first.is_empty() && name.starts_with('.') {
            return false;
        }
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        for piece in middle {
            let Some((_, behind)) = rest.split_once(piece) else { return false };
            rest = behind;
        }
        rest.ends_with(last)
    }

    fn syntax(&self) -> Option<Syntax> {
        match self.file().rsplit_once('.')?.1 {
            "toml" => Some(Syntax::Toml),
            "json" => Some(Syntax::Json),
            _ => None,
        }
    }
}

/// A file that mesh.toml includes.
pub struct IncludedFile {
    /// Its path from the directory of mesh.toml.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// The number of its peers.
    pub peers: usize,
    /// Its path as errors show it.
    shown: String,
    text: Zeroizing<String>,
    syntax: Syntax,
    /// The first byte that is not UTF-8; the text is lossy then.
    not_utf8: Option<usize>,
}

impl IncludedFile {
    fn new(dir: &Path, name: String, syntax: Syntax, mut bytes: Zeroizing<Vec<u8>>) -> Self {
        let digest = Sha256::digest(&bytes[..]).into();
        let shown = mask::path_in(dir, &dir.join(&name));
        let (text, not_utf8) = match String::from_utf8(std::mem::take(&mut *bytes)) {
            Ok(text) => (text, None),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                // All up to this byte is the same in the lossy text, so that places stay.
                (String::from_utf8_lossy(&Zeroizing::new(error.into_bytes())).into(), Some(at))
            }
        };
        Self { name, digest, peers: 0, shown, text: Zeroizing::new(text), syntax, not_utf8 }
    }

    /// Its text; `number` is from 1, in the order of the files.
    pub(super) fn source(&self, number: usize) -> Source<'_> {
        Source::included(&self.text, self.syntax, number, &self.shown)
    }
}

/// The files that mesh.toml includes.
#[derive(Default)]
pub(super) struct Files {
    pub list: Vec<IncludedFile>,
    /// Whether mesh.toml names any.
    pub are_named: bool,
    /// Whether one that is named is not in the list.
    pub lacks: bool,
}

/// Has the files read that `[mesh] include` names; `dir` is where their names begin, and `size` the
/// size of mesh.toml.
pub(super) fn read(
    findings: &mut Findings<'_>,
    root: &DeTable<'_>,
    (dir, size): (&Path, usize),
    find: Find<'_>,
) -> Files {
    let mesh = root.get(Table::Mesh.name()).and_then(|mesh| mesh.get_ref().as_table());
    let Some(value) = mesh.and_then(|mesh| mesh.get(INCLUDE.name)) else { return Files::default() };
    let before = findings.list.len();
    let mut files = Files { are_named: true, ..Files::default() };
    match value.get_ref().as_array() {
        None => findings.wrong_type(value, INCLUDE, "an array of paths"),
        Some(array) if array.is_empty() => {
            findings.wrong(value.span(), "include names no file".into(), INCLUDE.write);
        }
        Some(array) => {
            let mut reading = Reading {
                dir,
                find,
                room: MESH_LIMIT.saturating_sub(size),
                names: BTreeSet::new(),
            };
            let found = array.iter().flat_map(|entry| reading.entry(findings, entry));
            files.list = found.collect();
        }
    }
    files.lacks = findings.list.len() > before;
    files
}

/// The state of reading one entry after the other.
struct Reading<'r> {
    dir: &'r Path,
    find: Find<'r>,
    /// The bytes that are left for files to come.
    room: usize,
    /// The files so far.
    names: BTreeSet<String>,
}

impl Reading<'_> {
    fn entry(&mut self, findings: &mut Findings<'_>, entry: &Value<'_>) -> Vec<IncludedFile> {
        let Some(text) = entry.get_ref().as_str() else {
            findings.not_a(entry, "an entry of include", "a string", INCLUDE.write);
            return Vec::new();
        };
        let pattern = match Pattern::of(text) {
            Ok(pattern) => pattern,
            Err((message, hint)) => {
                findings.wrong(entry.span(), message, hint);
                return Vec::new();
            }
        };
        let Some(syntax) = pattern.syntax() else { return Vec::new() };
        match (self.find)(&pattern, self.room) {
            Err(error) => {
                self.unread(findings, entry.span(), text, &error);
                Vec::new()
            }
            Ok(found) if found.is_empty() => {
                let message = format!("{} means no file that is there", mask::quote(text));
                let hint = "put a file of peers there, or leave the entry out";
                findings.wrong(entry.span(), message, hint);
                Vec::new()
            }
            Ok(found) => found
                .into_iter()
                .filter_map(|file| self.file(findings, entry.span(), syntax, file))
                .collect(),
        }
    }

    fn file(
        &mut self,
        findings: &mut Findings<'_>,
        span: Range<usize>,
        syntax: Syntax,
        FoundFile { name, bytes }: FoundFile,
    ) -> Option<IncludedFile> {
        if self.names.contains(&name) {
            let message = format!("{} is included twice", self.shown(&name));
            findings.wrong(span, message, "leave one of the two entries");
            return None;
        }
        if self.names.len() == MOST_FILES {
            let message = format!("more than {MOST_FILES} files are included");
            findings.wrong(span, message, "write several peers into one file");
            return None;
        }
        self.names.insert(name.clone());
        match bytes {
            Ok(bytes) => {
                self.room = self.room.saturating_sub(bytes.len());
                Some(IncludedFile::new(self.dir, name, syntax, bytes))
            }
            Err(error) => {
                self.unread(findings, span, &name, &error);
                None
            }
        }
    }

    fn shown(&self, name: &str) -> String {
        mask::path_in(self.dir, &self.dir.join(name))
    }

    fn unread(
        &self,
        findings: &mut Findings<'_>,
        span: Range<usize>,
        name: &str,
        error: &FileError,
    ) {
        let shown = self.shown(name);
        let hint = match error {
            FileError::Absent => {
                "put it there: peers of a file that is absent are not taken for removed".into()
            }
            FileError::Writable(_) => format!("type: chmod go-w {}", shell_word(&shown)),
            FileError::Owner(_) => format!("type: chown root {}", shell_word(&shown)),
            FileError::OpenDirectory(dir, _) => {
                format!("type: chmod go-w {}", shell_word(&mask::path(dir)))
            }
            FileError::Denied => "run as root (sudo), or make it readable for this user".into(),
            FileError::Directory => {
                format!(
                    "write a pattern for the files in it, such as \"{}/*.toml\"",
                    mask::plain(name)
                )
            }
            FileError::Special => "write the path of a regular file: pipes are not read".into(),
            FileError::Large(_) | FileError::LargeTogether | FileError::Many => {
                "a mesh of 4096 peers needs less than 1 MiB; are these the right files?".into()
            }
            FileError::Growing => "try again when it is complete".into(),
            FileError::Loose(_) | FileError::LooseVolume(_) | FileError::Io(_) => {
                "see to it that this user can read it".into()
            }
        };
        findings.wrong(span, format!("cannot read {shown}: {error}"), hint);
    }
}

/// A parsed file.
pub(super) struct Tree<'s> {
    root: DeTable<'s>,
    findings: Vec<Finding>,
}

impl<'s> Tree<'s> {
    pub(super) fn of(source: &Source<'s>, file: &IncludedFile) -> Self {
        if let Some(at) = file.not_utf8 {
            let findings = vec![syntax::not_utf8(at)];
            return Self { root: DeTable::new(), findings };
        }
        match source.syntax {
            Syntax::Json => {
                let (root, findings) = json::parse(source.text);
                Self { root, findings }
            }
            Syntax::Toml => {
                let (root, errors) = DeTable::parse_recoverable(source.text);
                Self { root: root.into_inner(), findings: syntax::findings(source, &errors) }
            }
        }
    }

    /// The peers of the file, with all errors so far.
    pub(super) fn peers<'t>(&'t self, source: &'t Source<'s>) -> Included<'t, 's> {
        let list = self.findings.clone();
        let is_damaged = !list.is_empty();
        let mut findings = Findings::new(source, list);
        let guessed = nothing_but_peers(&mut findings, &self.root);
        let peers = self.root.get(Table::Peer.name());
        if peers.is_none() && !guessed {
            let start = if source.text.starts_with('\u{feff}') { 3 } else { 0 };
            let hint = "write its peers into it, or leave the file out of include";
            findings.missing(start..start, NO_PEER.into(), hint);
        }
        Included { findings, peers, is_damaged }
    }
}

pub(super) const NO_PEER: &str = "the file has no peer";

/// The peers of one file.
pub(super) struct Included<'s, 'i> {
    pub findings: Findings<'s>,
    /// The value of `peer`.
    pub peers: Option<&'s Value<'i>>,
    /// Whether a part of it can't be read, so that peers may be missing.
    pub is_damaged: bool,
}

impl Included<'_, '_> {
    /// The number of its peers.
    pub(super) fn count(&self) -> usize {
        self.peers.and_then(|value| value.get_ref().as_array()).map_or(0, |array| array.len())
    }

    /// All errors, without those that follow from others.
    pub(super) fn list(self) -> Vec<Finding> {
        let Findings { source, list } = self.findings;
        match source.syntax {
            Syntax::Toml => syntax::without_follow_ups(source, list),
            // Nothing is read from JSON that is damaged.
            Syntax::Json if list.iter().any(|finding| finding.weight == FindingKind::Syntax) => {
                list.into_iter().filter(|finding| finding.weight == FindingKind::Syntax).collect()
            }
            Syntax::Json => list,
        }
    }
}

/// Reports all but `peer`. Returns whether one of the others is meant to be it.
fn nothing_but_peers(findings: &mut Findings<'_>, root: &DeTable<'_>) -> bool {
    let mut guessed = false;
    for key in root.keys() {
        let written = key.get_ref().as_ref();
        let known = Table::named(written);
        if known == Some(Table::Peer) {
            continue;
        }
        let is_near = nearest(written, &[Table::Peer.name()]).is_some();
        guessed |= is_near;
        let (message, hint) = match known {
            Some(table) => (
                format!("{} in an included file", table.title()),
                "write it in mesh.toml: an included file has peers alone, and includes no others",
            ),
            None if is_near => {
                (unknown(written), "did you mean peer? an included file has nothing else")
            }
            None => (unknown(written), "leave it out: an included file has peers and nothing else"),
        };
        findings.wrong(key.span(), message, hint);
    }
    guessed
}

fn unknown(written: &str) -> String {
    format!("unknown {} in an included file", mask::quote(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asterisk_means_any_characters_and_no_hidden_file() {
        let means = |pattern, name| Pattern::of(pattern).ok().unwrap().matches(name);
        for name in ["a.toml", "b.c.toml", "-.toml"] {
            assert!(means("x/*.toml", name), "{name}");
        }
        for name in [".toml", ".a.toml", "a.toml~", "a.json", "toml", ""] {
            assert!(!means("x/*.toml", name), "{name}");
        }
        assert!(means("dc*-rack*.json", "dc1-rack2.json") && means("dc*-*.json", "dc--.json"));
        assert!(!means("dc*-rack*.json", "dc1.json") && !means("a*a.json", "a.json"));
        assert!(means(".*.toml", ".a.toml") && means("a**.toml", "a.toml"));
        assert!(!means("peers.json", "peers-json"));
    }

    #[test]
    fn a_pattern_is_a_path_with_asterisks_in_its_last_part() {
        let refused = |text| Pattern::of(text).err().unwrap().0;
        for (text, why) in [
            ("", "is no path"),
            ("a\0.toml", "is no path"),
            ("a?.toml", "has a ?"),
            ("a[12].toml", "has a ["),
            ("{a,b}.toml", "has a {"),
            ("*/a.toml", "in the name of a directory"),
            ("peers.yaml", "does not end with .toml or .json"),
            ("peers.d/", "does not end"),
            ("peers.d/*", "does not end"),
            ("a.toml/b", "does not end"),
        ] {
            assert!(refused(text).contains(why), "{text}: {}", refused(text));
        }
        let pattern = Pattern::of("/etc/peers.d/*.json").ok().unwrap();
        assert_eq!((pattern.directory(), pattern.file()), ("/etc/peers.d/", "*.json"));
    }
}
