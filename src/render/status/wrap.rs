//! Lines that fit a terminal.

use std::{fmt::Write, time::Duration};

use unicode_width::UnicodeWidthStr;

/// Columns of a terminal that nobody has made wider.
pub(in crate::render) const WIDTH: usize = 80;

/// Writes a text that begins where a line has come to, and goes on in lines that are indented by so
/// many columns.
pub(in crate::render) fn write_wrapped(page: &mut String, used: usize, indent: usize, text: &str) {
    write_words(page, [used, indent, WIDTH], UnicodeWidthStr::width, text);
    page.push('\n');
}

/// Writes words, from a column that a line has come to. Lines that would be longer than so many
/// columns go on behind an indent; a word that is longer stays in one piece.
pub(in crate::render) fn write_words(
    page: &mut String,
    [used, indent, columns]: [usize; 3],
    width: fn(&str) -> usize,
    text: &str,
) {
    let mut column = used;
    let mut is_first = true;
    for word in text.split(' ') {
        let wide = width(word);
        if !is_first && column + 1 + wide > columns {
            let _ = write!(page, "\n{:indent$}", "");
            (column, is_first) = (indent, true);
        }
        if !is_first {
            page.push(' ');
            column += 1;
        }
        page.push_str(word);
        column += wide;
        is_first = false;
    }
}

/// A paragraph of its own.
pub(in crate::render) fn write_paragraph(page: &mut String, indent: usize, text: &str) {
    let _ = write!(page, "{:indent$}", "");
    write_wrapped(page, indent, indent, text);
}

/// A duration in words: without seconds where there are hours.
pub(in crate::render) fn duration(seconds: u64) -> String {
    let coarse = match seconds {
        0..3600 => seconds,
        3600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3600,
    };
    humantime::format_duration(Duration::from_secs(coarse)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_before_the_word_that_does_not_fit() {
        let mut page = String::from("12345678");
        write_wrapped(&mut page, 8, 4, &"word ".repeat(20));
        assert!(page.lines().all(|line| line.len() <= WIDTH), "{page}");
        assert!(page.lines().skip(1).all(|line| line.starts_with("    word")), "{page}");
        let mut page = String::new();
        write_paragraph(&mut page, 2, &"x".repeat(100));
        assert_eq!(page.lines().count(), 1, "a word is not cut: {page}");
    }

    #[test]
    fn durations_are_as_exact_as_they_are_long() {
        assert_eq!(duration(65), "1m 5s");
        assert_eq!(duration(3_725), "1h 2m");
        assert_eq!(duration(90_061), "1day 1h");
    }
}
