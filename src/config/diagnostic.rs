//! Errors as the operator sees them: line, caret, correction.
//!
//! Nothing here keeps the text of mesh.toml: a [`ConfigError`] holds the lines
//! as they are shown, masked, so that its `Debug` is as harmless as its
//! `Display`.
#![forbid(unsafe_code)]

use std::{fmt, ops::Range, path::Path};

use unicode_width::UnicodeWidthChar;

use super::mask::{self, Mask};

/// Columns of a line that are shown at most.
const WIDTH: usize = 100;
/// Columns that are kept free behind the caret's column in a longer line.
const BEHIND: usize = 40;
/// Errors that are shown at most; nobody reads more of them in one go.
const SHOWN: usize = 100;
/// Columns of a tab. Tabs are expanded, so that the caret is right in any terminal.
const TAB: usize = 4;

/// The reason of a finding. It decides whether damage nearby makes the finding doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FindingKind {
    /// The text is not TOML.
    Syntax,
    /// A part of the text is wrong.
    Wrong,
    /// A part is missing.
    Missing,
}

/// An error at a place of the text.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub weight: FindingKind,
    pub span: Range<usize>,
    pub message: String,
    /// The correction.
    pub hint: String,
}

/// The language of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Toml,
    Json,
}

/// A text and the offsets of its lines.
pub(super) struct Source<'s> {
    pub text: &'s str,
    pub syntax: Syntax,
    /// 0 for mesh.toml, and from 1 for the files that it includes.
    pub file: usize,
    /// The file's name as errors show it.
    pub name: &'s str,
    starts: Vec<usize>,
}

impl<'s> Source<'s> {
    /// That of mesh.toml.
    pub(super) fn new(text: &'s str) -> Self {
        Self::included(text, Syntax::Toml, 0, "mesh.toml")
    }

    /// That of a file that mesh.toml includes.
    pub(super) fn included(text: &'s str, syntax: Syntax, file: usize, name: &'s str) -> Self {
        let after = |(at, _)| at + 1;
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(after)).collect();
        Self { text, syntax, file, name, starts }
    }

    fn mask(&self) -> Mask {
        match self.syntax {
            Syntax::Toml => Mask::of(self.text),
            Syntax::Json => Mask::of_json(self.text),
        }
    }

    /// The line of a byte, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    /// The bytes of a line without its end.
    fn range(&self, line: usize) -> Range<usize> {
        let start = self.starts[line - 1];
        let end = self.starts.get(line).map_or(self.text.len(), |next| next - 1);
        let kept = self.text[start..end].trim_end_matches('\r').len();
        start..start + kept
    }
}

/// All errors of a mesh.toml and of the files that it includes, in their order.
#[derive(Debug)]
pub struct ConfigError {
    path: String,
    shown: Vec<Diagnostic>,
    total: usize,
}

impl ConfigError {
    /// An error of the file as a whole.
    pub(super) fn file(path: &Path, message: String, hint: String) -> Self {
        let path = mask::path(path);
        let shown = vec![Diagnostic { file: path.clone(), message, hint, place: None }];
        Self { path, shown, total: 1 }
    }

    /// Errors at places of one file.
    pub(super) fn located(path: &Path, source: &Source<'_>, findings: Vec<Finding>) -> Self {
        Self::of_files(path, vec![(source, findings)])
    }

    /// Errors at places of several files. `path` is that of mesh.toml.
    pub(super) fn of_files(path: &Path, files: Vec<(&Source<'_>, Vec<Finding>)>) -> Self {
        let path = mask::path(path);
        let total = files.iter().map(|(_, findings)| findings.len()).sum();
        let mut shown = Vec::new();
        for (source, findings) in files {
            let file = if source.file == 0 { &path } else { source.name };
            let room = SHOWN - shown.len();
            shown.extend(diagnostics(file, source, findings, room));
        }
        Self { path, shown, total }
    }

    /// The files that have errors.
    fn subject(&self) -> String {
        let first = self.shown.first().map_or(&self.path, |diagnostic| &diagnostic.file);
        match self.shown.iter().all(|diagnostic| diagnostic.file == *first) {
            true => first.clone(),
            false => format!("{} and the files that it includes", self.path),
        }
    }
}

/// The first findings of a file, in its order.
fn diagnostics(
    file: &str,
    source: &Source<'_>,
    mut findings: Vec<Finding>,
    most: usize,
) -> Vec<Diagnostic> {
    findings.sort_by_key(|finding| finding.span.start);
    findings.truncate(most);
    if findings.is_empty() {
        return Vec::new();
    }
    let mask = source.mask();
    let mut columns = Columns::default();
    let diagnostic = |finding: Finding| {
        let place = Some(Place::new(source, &mask, &mut columns, &finding.span));
        Diagnostic { file: file.into(), message: finding.message, hint: finding.hint, place }
    };
    findings.into_iter().map(diagnostic).collect()
}

impl ConfigError {
    /// Its parts, for programs: the first hundred errors.
    pub fn located_errors(&self) -> impl Iterator<Item = LocatedError<'_>> {
        self.shown.iter().map(|diagnostic| LocatedError {
            file: &diagnostic.file,
            line: diagnostic.place.as_ref().map(|place| place.line),
            column: diagnostic.place.as_ref().map(|place| place.column),
            text: &diagnostic.message,
            hint: &diagnostic.hint,
        })
    }
}

/// One error of a file, without the line that it is in.
#[derive(Debug, Clone, Copy)]
pub struct LocatedError<'a> {
    /// The file.
    pub file: &'a str,
    /// The line, counted from 1; `None` for an error of the file as a whole.
    pub line: Option<usize>,
    /// The column, counted from 1 in characters.
    pub column: Option<usize>,
    /// The error, in a sentence.
    pub text: &'a str,
    /// The correction.
    pub hint: &'a str,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.shown {
            write!(f, "{diagnostic}\n\n")?;
        }
        let plural = if self.total == 1 { "" } else { "s" };
        write!(f, "{}: {} error{plural}", self.subject(), self.total)?;
        if self.total > self.shown.len() {
            write!(f, ", of which the first {} are shown", self.shown.len())?;
        }
        f.write_str("; nothing was changed")
    }
}

/// One error.
#[derive(Debug)]
struct Diagnostic {
    /// The file's name as it is shown.
    file: String,
    message: String,
    hint: String,
    place: Option<Place>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, message, hint, place } = self;
        writeln!(f, "error: {message}")?;
        let Some(Place { line, column, text, before, carets }) = place else {
            writeln!(f, "  --> {file}")?;
            return write!(f, "   = {hint}");
        };
        let gutter = line.to_string().len().max(2);
        writeln!(f, "{:gutter$}--> {file}:{line}:{column}", "")?;
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{}", format!("{line:<gutter$} | {text}").trim_end())?;
        write!(f, "{:gutter$} | {:before$}{} {hint}", "", "", "^".repeat(*carets))
    }
}

/// A place, and its line as it is shown.
#[derive(Debug)]
struct Place {
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// Masked, cut, without tabs and control characters.
    text: String,
    /// Columns of `text` before the carets.
    before: usize,
    carets: usize,
}

impl Place {
    fn new(source: &Source<'_>, mask: &Mask, columns: &mut Columns, span: &Range<usize>) -> Self {
        let text = source.text;
        let line = source.line(span.start);
        let range = source.range(line);
        let start = boundary(text, span.start.min(range.end));
        let end = boundary(text, span.end.clamp(start, range.end));
        let window = Window::around(text, mask, &range, start);
        let carets = window.columns_between(start, end).max(1);
        Self {
            line,
            column: columns.column_at(text, range.start, start),
            before: window.columns_between(0, start) + window.cut_before(),
            text: window.text(),
            carets,
        }
    }
}

/// The first byte of the character that contains the byte `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Counts characters from the beginning of a line, and continues from the last place: a file may be
/// one long line with thousands of errors.
#[derive(Default)]
struct Columns {
    start: usize,
    at: usize,
    count: usize,
}

impl Columns {
    fn column_at(&mut self, text: &str, start: usize, at: usize) -> usize {
        if self.start != start || self.at > at {
            *self = Self { start, at: start, count: 0 };
        }
        let counted = text[self.at..at].chars().filter(|&c| c != '\u{feff}').count();
        self.count += counted;
        self.at = at;
        self.count + 1
    }
}

/// The part of a line that is shown: each character as shown, and its byte in the line.
struct Window {
    cells: Vec<(usize, Cell)>,
    cut: [bool; 2],
}

/// A character as it is shown, and its columns.
type Cell = (char, usize);

impl Window {
    fn around(text: &str, mask: &Mask, line: &Range<usize>, caret: usize) -> Self {
        let cell =
            |base: usize| move |(at, c): (usize, char)| (base + at, cell(c, mask.hides(base + at)));
        let before = text[line.start..caret].char_indices().rev().map(cell(line.start));
        let after = text[caret..line.end].char_indices().map(cell(caret));
        let (before, after) = (fitting(before), fitting(after));
        let keep_after = width(&after).min(BEHIND.max(WIDTH.saturating_sub(width(&before))));
        let keep_before = width(&before).min(WIDTH - keep_after);
        let mut cells: Vec<_> = kept(&before, keep_before).to_vec();
        cells.reverse();
        cells.extend_from_slice(kept(&after, keep_after));
        let first = cells.first().map_or(caret, |cell| cell.0);
        let end = first + cells.iter().map(|cell| length(text, cell.0)).sum::<usize>();
        Self { cells, cut: [first > line.start, end < line.end] }
    }

    fn columns_between(&self, start: usize, end: usize) -> usize {
        let within = |cell: &&(usize, Cell)| (start..end).contains(&cell.0);
        self.cells.iter().filter(within).map(|cell| cell.1.1).sum()
    }

    fn cut_before(&self) -> usize {
        usize::from(self.cut[0])
    }

    fn text(&self) -> String {
        let cells = self.cells.iter().flat_map(|&(_, (c, columns))| {
            // A masked or expanded character fills its columns; any other is itself.
            let times = if matches!(c, '*' | ' ') { columns } else { 1 };
            std::iter::repeat_n(c, times)
        });
        let ellipsis = |cut: bool| cut.then_some('…');
        ellipsis(self.cut[0]).into_iter().chain(cells).chain(ellipsis(self.cut[1])).collect()
    }
}

fn length(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(0, char::len_utf8)
}

/// The cells that may be shown at most. One column more means that the line goes on.
fn fitting(cells: impl Iterator<Item = (usize, Cell)>) -> Vec<(usize, Cell)> {
    let mut total = 0;
    // Characters without a width must not make this endless.
    let fits = |cell: &(usize, Cell)| {
        total += cell.1.1;
        total <= WIDTH + TAB
    };
    cells.take(4 * WIDTH).take_while(fits).collect()
}

fn width(cells: &[(usize, Cell)]) -> usize {
    cells.iter().map(|cell| cell.1.1).sum()
}

fn kept(cells: &[(usize, Cell)], columns: usize) -> &[(usize, Cell)] {
    let mut total = 0;
    let past = |cell: &(usize, Cell)| {
        total += cell.1.1;
        total > columns
    };
    &cells[..cells.iter().position(past).unwrap_or(cells.len())]
}

fn cell(c: char, hidden: bool) -> Cell {
    match c {
        '\t' => (if hidden { '*' } else { ' ' }, TAB),
        c if hidden => ('*', columns(mask::printable(c))),
        c => (mask::printable(c), columns(mask::printable(c))),
    }
}

/// Columns of a character on a terminal.
fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line and the caret line for the place of `at` in `text`.
    fn shown(text: &str, at: &str) -> String {
        let start = text.find(at).unwrap();
        let finding = Finding {
            weight: FindingKind::Wrong,
            span: start..start + at.len(),
            message: "m".into(),
            hint: "h".into(),
        };
        let source = Source::new(text);
        let error = ConfigError::located(Path::new("f"), &source, vec![finding]).to_string();
        error.lines().skip(3).take(2).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_caret_stands_below_its_text() {
        assert_eq!(shown("a\nbc = 5000", "5000"), "2  | bc = 5000\n   |      ^^^^ h");
        assert_eq!(shown("\tb = \t5", "5"), "1  |     b =     5\n   |             ^ h");
        assert_eq!(shown("é日 = 5", "5"), "1  | é日 = 5\n   |       ^ h");
        assert_eq!(shown("psk = 'é日\u{301}' x", "x"), "1  | psk = '***' *\n   |             ^ h");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("a = '{}X{}'", "a-".repeat(400), "b-".repeat(400));
        let shown = shown(&text, "X");
        let (line, carets) = shown.split_once('\n').unwrap();
        assert_eq!(line.chars().count(), "1  | ".len() + 102);
        let column = carets.find('^').unwrap();
        assert_eq!(line.chars().nth(column), Some('X'));
    }

    #[test]
    fn a_place_behind_the_last_line_is_shown() {
        let source = Source::new("a\n");
        let finding = Finding {
            weight: FindingKind::Wrong,
            span: 2..2,
            message: "m".into(),
            hint: "h".into(),
        };
        let error = ConfigError::located(Path::new("f"), &source, vec![finding]).to_string();
        assert!(error.starts_with("error: m\n  --> f:2:1\n   |\n2  |\n   | ^ h\n"), "{error}");
    }

    #[test]
    fn columns_count_characters() {
        let mut columns = Columns::default();
        assert_eq!(columns.column_at("\u{feff}é日x", 0, "\u{feff}é日".len()), 3);
        assert_eq!(columns.column_at("abc", 0, 1), 2);
    }
}
