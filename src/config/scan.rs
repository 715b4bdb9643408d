//! The words, strings and statements of a TOML text, however broken it is.
//!
//! Not a parser: the parser gives up on damaged text, and exactly there a line is shown to the
//! operator. Masking and the locating of syntax errors need the places of strings and statements in
//! damaged text too.
#![forbid(unsafe_code)]

use std::ops::Range;

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A bare word: a key, a number, a string without quotes.
    Word,
    /// A string with its quotes.
    Text {
        /// Bytes of its opening quotes, and of its closing ones.
        quotes: usize,
        /// Whether it has closing quotes.
        closed: bool,
    },
    /// One of `= [ ] { } ,`.
    Sign(u8),
    /// `#` and the rest of its line.
    Comment,
}

/// A token and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub range: Range<usize>,
}

/// A header, or a key with its value, over all of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub range: Range<usize>,
    pub tokens: Vec<Token>,
    /// The innermost bracket that is still open at the end of the text.
    pub unclosed: Option<usize>,
}

impl Statement {
    /// Whether it is a table's header, `[name]` or `[[name]]`.
    pub(super) fn is_header(&self) -> bool {
        self.tokens.first().is_some_and(|token| token.kind == TokenKind::Sign(b'['))
    }
}

/// The statements of a text, in order.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut scanner = Scanner::default();
    let mut at = 0;
    while at < text.len() {
        at = scanner.step(text, at);
    }
    scanner.end_statement();
    scanner.done
}

#[derive(Default)]
struct Scanner {
    done: Vec<Statement>,
    tokens: Vec<Token>,
    open: Vec<usize>,
    assigned: bool,
}

impl Scanner {
    /// Takes the token that begins at `at`. Returns the beginning of the next one.
    fn step(&mut self, text: &str, at: usize) -> usize {
        let rest = &text.as_bytes()[at..];
        match rest[0] {
            b'\n' => {
                if self.open.is_empty() {
                    self.end_statement();
                }
                at + 1
            }
            b' ' | b'\t' | b'\r' => at + 1,
            b'#' => self.push(TokenKind::Comment, at, until(rest, |c| c == b'\n')),
            quote @ (b'"' | b'\'') => {
                let (length, quotes, closed) = string(rest, quote);
                self.push(TokenKind::Text { quotes, closed }, at, length)
            }
            sign @ (b'=' | b'[' | b']' | b'{' | b'}' | b',') => {
                self.bracket(sign, at);
                self.push(TokenKind::Sign(sign), at, 1)
            }
            _ => self.push(TokenKind::Word, at, until(rest, ends_word).max(1)),
        }
    }

    fn push(&mut self, kind: TokenKind, at: usize, length: usize) -> usize {
        self.tokens.push(Token { kind, range: at..at + length });
        at + length
    }

    /// Brackets of a value join lines to one statement. Brackets of a header don't.
    fn bracket(&mut self, sign: u8, at: usize) {
        match sign {
            b'=' => self.assigned = true,
            b'[' | b'{' if self.assigned => self.open.push(at),
            b']' | b'}' => drop(self.open.pop()),
            _ => {}
        }
    }

    fn end_statement(&mut self) {
        let unclosed = self.open.last().copied();
        self.open.clear();
        self.assigned = false;
        let tokens = std::mem::take(&mut self.tokens);
        if let (Some(first), Some(last)) = (tokens.first(), tokens.last()) {
            let range = first.range.start..last.range.end;
            self.done.push(Statement { range, tokens, unclosed });
        }
    }
}

fn until(bytes: &[u8], end: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&c| end(c)).unwrap_or(bytes.len())
}

fn ends_word(c: u8) -> bool {
    c.is_ascii_whitespace() || b"\"'=[]{},#".contains(&c)
}

/// Length of the string that `bytes` begin with, length of its opening quotes,
/// and whether it is closed. One without closing quotes ends where TOML's own
/// lexer ends it: with its line, or with the text if it has three quotes.
fn string(bytes: &[u8], quote: u8) -> (usize, usize, bool) {
    let many = bytes.starts_with(&[quote; 3]);
    let quotes = if many { 3 } else { 1 };
    let mut at = quotes;
    while at < bytes.len() {
        match bytes[at] {
            b'\n' if !many => return (at, quotes, false),
            b'\\' if quote == b'"' && bytes.get(at + 1) != Some(&b'\n') => at += 2,
            c if c == quote && !many => return (at + 1, quotes, true),
            c if c == quote && bytes[at..].starts_with(&[quote; 3]) => {
                // Up to two quotes may stand right before the closing ones.
                let more = bytes[at + 3..].iter().take(2).take_while(|&&c| c == quote).count();
                return (at + 3 + more, quotes, true);
            }
            _ => at += 1,
        }
    }
    (bytes.len(), quotes, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<Vec<&str>> {
        let words = |statement: &Statement| {
            statement.tokens.iter().map(|token| &text[token.range.clone()]).collect()
        };
        statements(text).iter().map(words).collect()
    }

    #[test]
    fn a_statement_is_a_header_or_a_key_with_its_value() {
        let text = "[a] # x\nb.c = 'd#e'\n\n'f' = [1,\n 2] # y\n";
        let expected: Vec<Vec<&str>> = vec![
            vec!["[", "a", "]", "# x"],
            vec!["b.c", "=", "'d#e'"],
            vec!["'f'", "=", "[", "1", ",", "2", "]", "# y"],
        ];
        assert_eq!(pieces(text), expected);
    }

    #[test]
    fn an_open_string_ends_with_its_line_and_an_open_triple_one_with_the_text() {
        assert_eq!(pieces("a = \"b\nc = 1"), [vec!["a", "=", "\"b"], vec!["c", "=", "1"]]);
        assert_eq!(pieces("a = '''b\nc = 1"), [vec!["a", "=", "'''b\nc = 1"]]);
    }

    #[test]
    fn quotes_inside_a_string_do_not_end_it() {
        assert_eq!(pieces(r#"a = "b\"c" d"#), [vec!["a", "=", r#""b\"c""#, "d"]]);
        assert_eq!(pieces(r#"a = """b"c""""" d"#), [vec!["a", "=", r#""""b"c""""""#, "d"]]);
        assert_eq!(pieces("a = 'b\\' c"), [vec!["a", "=", "'b\\'", "c"]]);
    }

    #[test]
    fn an_open_bracket_of_a_value_is_remembered_and_a_header_has_none() {
        assert_eq!(statements("a = { b = [1\nc = 2")[0].unclosed, Some(10));
        let header = statements("[a\nb = 1");
        assert_eq!((header.len(), header[0].is_header(), header[0].unclosed), (2, true, None));
    }
}
