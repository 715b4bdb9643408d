//! Names that others have given, as a terminal may show them.
//!
//! Foreign devices, chains and rules can have any characters in their names, and so can a snapshot
//! that somebody sent.

use std::fmt::{self, Display, Formatter, Write};

use serde::Serialize;

use crate::config::printable;

/// Displays in one line, and without characters that move the cursor, colour text or turn it
/// around.
pub struct Plain<T>(pub T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Filter(f), "{}", self.0)
    }
}

struct Filter<'f, 'b>(&'f mut Formatter<'b>);

impl Write for Filter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.0.write_char(printable(c)))
    }
}

/// The layout of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A line for each value.
    Lines,
    /// All in one line.
    OneLine,
}

/// A document as JSON, with a newline at its end.
///
/// Foreign strings are in it as they are, and still nothing moves the cursor of a terminal: JSON
/// alone escapes characters below U+0020, and here U+009B, bidirectional overrides and the like are
/// `\\u` escapes too. A program that parses the document gets the strings unchanged.
///
/// # Errors
///
/// The value can't be JSON, such as a map with keys that are not strings.
pub fn json_text(value: &impl Serialize, layout: Layout) -> serde_json::Result<String> {
    let text = match layout {
        Layout::Lines => serde_json::to_string_pretty(value)?,
        Layout::OneLine => serde_json::to_string(value)?,
    };
    let mut shown = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // Outside of strings the only control character of JSON is the newline.
        match c == '\n' || printable(c) == c {
            true => shown.push(c),
            false => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
        }
    }
    shown.push('\n');
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::{Layout, Plain, json_text};

    /// ESC, CR, LF, NUL, DEL, CSI as one character, and characters that turn text around or end a
    /// line.
    const FOREIGN: &str =
        "eth\u{1b}[2J\r\n\0\u{7f}\u{9b}2J\u{61c}\u{200f}\u{202e}\u{2066}\u{2028}\u{2029}é";

    #[test]
    fn nothing_that_others_have_named_moves_the_cursor() {
        let name = "eth\u{1b}[2J0\nNo changes.\u{202e}\u{9b}é";
        let shown = "eth\u{fffd}[2J0\u{fffd}No changes.\u{fffd}\u{fffd}é";
        assert_eq!(Plain(name).to_string(), shown);
        crate::fuzzing::harmless(&Plain(FOREIGN).to_string());
        assert!(!Plain(FOREIGN).to_string().contains('\n'));
    }

    #[test]
    fn json_moves_no_cursor_and_parses_to_the_same_string() {
        for layout in [Layout::Lines, Layout::OneLine] {
            let text = json_text(&[FOREIGN], layout).unwrap();
            crate::fuzzing::harmless(&text);
            assert!(text.contains("é") && text.ends_with("]\n"), "{text:?}");
            assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap(), [FOREIGN]);
        }
    }
}
