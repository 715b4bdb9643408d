//! JSON documents that meshsec has written and reads again: snapshots and saved plans. Any other
//! content of such a file is an error with a text that can be shown: none of the content reaches a
//! terminal as it is.

use std::{fs::File, io::Read, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{config, error::Error};

/// More than any: a plan for 4,095 peers takes 30 MiB, a snapshot of them 12.
const LARGEST: u64 = 256 << 20;

/// A kind of document.
pub(super) struct DocumentKind {
    /// One word for it.
    pub(super) noun: &'static str,
    /// The same with the program that writes it, for errors.
    pub(super) whose: &'static str,
    /// The versions of its format that are read, the last of which is written.
    pub(super) versions: &'static [&'static str],
}

#[derive(Deserialize)]
struct Version {
    format_version: String,
}

impl DocumentKind {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// It can't be read, is another kind of file, or has an unknown version.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<T, Error> {
        self.read_with_text(path).map(|(document, _)| document)
    }

    /// The same, with all of its bytes.
    pub(super) fn read_with_text<T: DeserializeOwned>(
        &self,
        path: &Path,
    ) -> Result<(T, Vec<u8>), Error> {
        let text = contents(path).map_err(|error| unread(path, error.to_string()))?;
        if text.len() as u64 > LARGEST {
            return Err(unread(path, format!("larger than 256 MiB, which no {} is", self.noun)));
        }
        Ok((self.of(path, &text)?, text))
    }

    /// Parses a document; the path is for errors.
    pub(super) fn of<T: DeserializeOwned>(&self, path: &Path, text: &[u8]) -> Result<T, Error> {
        let Version { format_version } = self.parse(path, text)?;
        if !self.versions.contains(&format_version.as_str()) {
            let (found, known) = (config::quoted(&format_version), self.versions.join(" and "));
            let reason = format!("format {found} is not known; this meshsec reads {known}");
            return Err(unread(path, reason));
        }
        self.parse(path, text)
    }

    fn parse<T: DeserializeOwned>(&self, path: &Path, text: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(text).map_err(|error| {
            let error = config::readable(&error.to_string());
            unread(path, format!("not {}: {error}", self.whose))
        })
    }
}

/// A file's contents, and one byte more than is allowed if there are more.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Why a document can't be used.
pub(super) fn unread(path: &Path, reason: String) -> Error {
    Error::Snapshot { path: path.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: DocumentKind = DocumentKind { noun: "note", whose: "a note", versions: &["1.0"] };

    fn error(text: &str) -> String {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Note {
            #[serde(rename = "format_version")]
            _format_version: String,
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        std::fs::write(&path, text).unwrap();
        KIND.read::<Note>(&path).unwrap_err().to_string()
    }

    #[test]
    fn nothing_of_a_foreign_document_moves_the_cursor() {
        for text in [
            r#"{"format_version":"\u001b[2J\u202e"}"#,
            r#"{"format_version":"1.0","\u001b[2J\u202e":1}"#,
        ] {
            let error = error(text);
            assert!(!error.contains(|c: char| c.is_control() || c == '\u{202e}'), "{error:?}");
            assert!(error.contains("[2J"), "{error:?}");
        }
    }

    #[test]
    fn a_long_version_is_cut() {
        let error = error(&format!(r#"{{"format_version":"{}"}}"#, "9 ".repeat(1 << 20)));
        assert!(error.len() < 1000 && error.ends_with("this meshsec reads 1.0"), "{error}");
    }
}
