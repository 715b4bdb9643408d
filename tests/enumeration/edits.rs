//! Rules that are broken on purpose: edits of the source, in `tests/enumeration/breaks`.
//!
//! `cargo xtask enumerate --broken` shares this file, so it has the standard library alone.
//!
//! A file has lines `property: NAME` and `why: SENTENCE`, and then one or more edits: a line
//! `@@ PATH`, the text to be found, a line `@@ becomes`, and the text in its place.

use std::{fs, path::Path};

/// A rule that is broken.
pub struct Break {
    /// The file's name.
    pub name: String,
    /// The property that is to fail.
    pub property: String,
    /// The rule, and the way in which it is broken.
    pub why: String,
    pub edits: Vec<Edit>,
}

/// A text in a file that is to be another.
pub struct Edit {
    pub path: String,
    find: String,
    becomes: String,
}

impl Edit {
    /// The file's text after the edit.
    ///
    /// # Errors
    ///
    /// If the text to be found is not there once.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.becomes, 1)),
            0 => Err(format!("{} no longer has the text:\n{}", self.path, self.find)),
            times => Err(format!("{} has this text {times} times:\n{}", self.path, self.find)),
        }
    }
}

/// All of them, by name.
///
/// # Errors
///
/// A file that can't be read, or does not have this form.
pub fn all(root: &Path) -> Result<Vec<Break>, String> {
    let directory = root.join("tests/enumeration/breaks");
    let entries = fs::read_dir(&directory);
    let entries = entries.map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut all = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        all.push(read(&name, &text).ok_or_else(|| format!("{name} is not a list of edits"))?);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn read(name: &str, text: &str) -> Option<Break> {
    let mut parts = text.split("@@ ");
    let head = parts.next()?;
    let of = |key: &str| head.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    let mut edits = Vec::new();
    while let Some(part) = parts.next() {
        let (path, find) = part.split_once('\n')?;
        let becomes = parts.next()?.strip_prefix("becomes\n")?;
        let [path, find, becomes] = [path, find, becomes].map(str::to_owned);
        edits.push(Edit { path, find, becomes });
    }
    let (property, why) = (of("property: ")?, of("why: ")?);
    (!edits.is_empty()).then(|| Break { name: name.to_owned(), property, why, edits })
}
