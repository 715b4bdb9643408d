//! What others have named, as a terminal may show it.
//!
//! Devices, chains and rules of others have names with whatever is in them, and
//! so has a snapshot that somebody sent.

use std::fmt::{self, Display, Formatter, Write};

use crate::config::printable;

/// Displays in one line, and without what moves the cursor, colours or turns text around.
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

#[cfg(test)]
mod tests {
    use super::Plain;

    #[test]
    fn nothing_that_others_have_named_moves_the_cursor() {
        let name = "eth\u{1b}[2J0\nNo changes.\u{202e}\u{9b}é";
        let shown = "eth\u{fffd}[2J0\u{fffd}No changes.\u{fffd}\u{fffd}é";
        assert_eq!(Plain(name).to_string(), shown);
    }
}
