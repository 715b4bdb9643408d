//! Lines that are broken between words, for a terminal of a known width.

use anstream::adapter::strip_str;
use unicode_width::UnicodeWidthStr;

use super::status::wrap::write_words;

/// Columns by which the rest of a long line is indented more than its beginning.
const INDENT: usize = 4;
/// On a terminal that is narrower than this, lines stay as they are.
const NARROWEST: usize = 40;

/// Breaks each line that is longer than so many columns between two words. A word that is longer
/// stays in one piece. Colours take no columns.
pub fn fold(text: &str, columns: usize) -> String {
    if columns < NARROWEST {
        return text.into();
    }
    let mut page = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match width(line) > columns {
            true => fold_line(&mut page, line, columns),
            false => page.push_str(line),
        }
    }
    page
}

fn fold_line(page: &mut String, line: &str, columns: usize) {
    let words = line.trim_start_matches(' ');
    let begin = line.len() - words.len();
    let indent = (begin + INDENT).min(columns / 2);
    page.push_str(&line[..begin]);
    write_words(page, [begin, indent, columns], width, words);
}

/// The columns that a text takes on a terminal.
fn width(text: &str) -> usize {
    strip_str(text.trim_end_matches('\n')).to_string().width()
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn a_long_line_goes_on_below_its_beginning() {
        let text = "short\n  Warning: this line has many words and does not fit\nlast";
        let wanted = "short\n  Warning: this line has many words and\n      does not fit\nlast";
        assert_eq!(fold(text, 40), wanted);
    }

    #[test]
    fn colours_take_no_columns() {
        let text = format!("\x1b[33m{}\x1b[0m b\n", "a".repeat(38));
        assert_eq!(fold(&text, 40), text);
        assert_eq!(fold(&text.replace(" b", " bc"), 40).lines().count(), 2);
    }

    #[test]
    fn a_long_word_stays_in_one_piece() {
        let word = "x".repeat(90);
        assert_eq!(fold(&format!("a {word} b"), 40), format!("a\n    {word}\n    b"));
    }

    #[test]
    fn no_word_is_lost_at_any_width() {
        let text = "one two  three\n\n    # four five six seven eight nine ten eleven twelve\n";
        for columns in 0..100 {
            let folded = fold(text, columns);
            let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
            assert_eq!(words(&folded), words(text));
        }
    }
}
