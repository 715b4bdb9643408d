//! Writes the next generation into the text of mesh.toml, and changes nothing else.
#![forbid(unsafe_code)]

use std::ops::Range;

use toml::de::DeTable;

use crate::model::Generation;

/// The text with `generation` in `[rotation]` raised by one.
///
/// `None` if there is no such number: the text is not the one that was loaded.
pub(super) fn raised(text: &str, generation: Generation) -> Option<String> {
    let span = place(text, "generation")?;
    let written = text.get(span.clone())?;
    let number = Written::of(written)?;
    if number.value()? != generation.get() {
        return None;
    }
    let next = number.with(generation.get() + 1);
    Some([&text[..span.start], &next, &text[span.end..]].concat())
}

/// The place of the value of a key of `[rotation]`, in any form of the table.
pub(super) fn place(text: &str, key: &str) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let rotation = root.get_ref().get("rotation")?.get_ref().as_table()?;
    Some(rotation.get(key)?.span())
}

/// A TOML integer as it is written.
struct Written<'t> {
    /// `+`, `0x`, `0o`, `0b` or nothing.
    prefix: &'t str,
    /// Digits, and underscores between them.
    digits: &'t str,
    radix: u32,
}

impl<'t> Written<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let radix = match text.get(..2) {
            Some("0x") => 16,
            Some("0o") => 8,
            Some("0b") => 2,
            _ => 10,
        };
        let length = if radix != 10 { 2 } else { usize::from(text.starts_with('+')) };
        let (prefix, digits) = text.split_at(length);
        let is_digit = |c: char| c == '_' || c.is_digit(radix);
        (!digits.is_empty() && digits.chars().all(is_digit)).then_some(Self {
            prefix,
            digits,
            radix,
        })
    }

    fn value(&self) -> Option<u64> {
        u64::from_str_radix(&self.digits.replace('_', ""), self.radix).ok()
    }

    /// Another number in the same notation: radix, case, least width, and underscores at the same
    /// distance from its end.
    fn with(&self, value: u64) -> String {
        let width = self.digits.chars().filter(|&c| c != '_').count();
        let upper = self.digits.contains(|c: char| c.is_ascii_uppercase());
        let digits = match self.radix {
            16 if upper => format!("{value:0width$X}"),
            16 => format!("{value:0width$x}"),
            8 => format!("{value:0width$o}"),
            2 => format!("{value:0width$b}"),
            _ => format!("{value:0width$}"),
        };
        let grouping = Grouping::of(self.digits);
        let mut written = String::from(self.prefix);
        for (at, digit) in digits.char_indices() {
            if at > 0 && grouping.parts(digits.len() - at) {
                written.push('_');
            }
            written.push(digit);
        }
        written
    }
}

/// The number of digits behind each underscore of a number.
struct Grouping(Vec<usize>);

impl Grouping {
    fn of(digits: &str) -> Self {
        let mut behind = 0;
        let mut underscores = Vec::new();
        for c in digits.chars().rev() {
            match c {
                '_' => underscores.push(behind),
                _ => behind += 1,
            }
        }
        Self(underscores)
    }

    /// Whether an underscore stands before the last `behind` digits. Groups of
    /// one size, such as thousands, go on in a number that has grown.
    fn parts(&self, behind: usize) -> bool {
        let Some(&size) = self.0.first() else { return false };
        let regular = self.0.iter().zip(1..).all(|(&at, count)| at == size * count);
        self.0.contains(&behind) || (regular && behind.is_multiple_of(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_raised_in_its_own_writing() {
        for (written, next) in [
            ("0", "1"),
            ("9", "10"),
            ("+1", "+2"),
            ("999_999", "1_000_000"),
            ("1_2_3", "1_2_4"),
            ("12_34_999", "12_35_000"),
            ("0xff", "0x100"),
            ("0x00FF", "0x0100"),
            ("0xFFFF_FFFF", "0x1_0000_0000"),
            ("0xdead_beef", "0xdead_bef0"),
            ("0o17", "0o20"),
            ("0b1111_1111", "0b1_0000_0000"),
        ] {
            let number = Written::of(written).unwrap();
            assert_eq!(number.with(number.value().unwrap() + 1), next, "{written}");
        }
        for other in ["", "-1", "1.0", "0xg", "1e3", "true", "+"] {
            assert!(Written::of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn however_the_table_is_written_nothing_else_changes() {
        for text in [
            "[rotation]\ngeneration = @ # a comment, generation = 7\n",
            "generation.generation = 7\n[rotation]\r\n\r\n generation\t=\t@\r\n# end",
            "rotation = { generation = @ }\n",
            "rotation.generation=@\n[other]\ngeneration = 7\n",
            "\"rotation\".'generation' = @",
            "\u{feff}# é\n[ rotation ]\n\"generation\" = @\n[[peer]]\nname = \"generation = 7\"\n",
            "a = \"\"\"\n[rotation]\ngeneration = 7\n\"\"\"\n[rotation]\ngeneration = @",
        ] {
            let now = Generation::new(7).unwrap();
            let next = raised(&text.replace('@', "7"), now);
            assert_eq!(next, Some(text.replace('@', "8")), "{text}");
        }
    }

    #[test]
    fn another_number_than_was_loaded_is_left_alone() {
        let generation = Generation::new(7).unwrap();
        for text in ["", "[rotation]\n", "[rotation]\ngeneration = 8", "rotation = 7", "["] {
            assert_eq!(raised(text, generation), None);
        }
    }
}
