//! The parts of a mesh.toml that may not be shown, not even in an error.
//!
//! Secrets don't belong in mesh.toml, and an error about one that is there must not carry it into a
//! terminal, a log or a CI run. Masking errs on the side of hiding: it looks at damaged text, where
//! the meaning is uncertain.
#![forbid(unsafe_code)]

use std::{ops::Range, path::Path};

use super::{
    scan::{self, Statement, Token, TokenKind},
    schema,
};

/// The shortest run of hex or base64 characters that may be a key.
const RUN: usize = 32;
/// The longest piece of input that a message quotes, in characters.
const QUOTED: usize = 80;
/// The longest piece of a parser's message.
const MESSAGE: usize = 400;
/// A key or a table with one of these in its name may hold a secret.
const SECRETIVE: [&str; 6] = ["key", "psk", "secret", "pass", "token", "ratchet"];
/// The parts of one text that must not be shown.
pub(super) struct Mask(Vec<Range<usize>>);

impl Mask {
    /// Finds the parts to hide.
    ///
    /// The text is read twice, as a whole and line by line: an extra quote turns strings inside
    /// out, and then one of the two readings is wrong.
    pub(super) fn of(text: &str) -> Self {
        let mut hidden = Vec::new();
        runs(text, |run| hidden.push(run));
        let mut whole = Reading::default();
        for statement in scan::statements(text) {
            whole.statement(text, 0, &statement, &mut hidden);
        }
        by_line(text, &mut hidden);
        Self(merged(hidden))
    }

    /// The same of a text that is JSON, or damaged JSON: its members, with a sign of equality, are
    /// those of TOML.
    pub(super) fn of_json(text: &str) -> Self {
        let mut like_toml = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (mut within, mut escaped) = (false, false);
            for c in line.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = within,
                    '"' => within = !within,
                    _ => {}
                }
                like_toml.push(if c == ':' && !within { '=' } else { c });
            }
        }
        let mut hidden = Vec::new();
        runs(&like_toml, |run| hidden.push(run));
        by_line(&like_toml, &mut hidden);
        secretive_members(&like_toml, &mut hidden);
        Self(merged(hidden))
    }

    /// Whether the character at this byte is hidden.
    pub(super) fn hides(&self, offset: usize) -> bool {
        let next = self.0.partition_point(|range| range.start <= offset);
        next > 0 && self.0[next - 1].contains(&offset)
    }
}

/// Reads a text line by line.
fn by_line(text: &str, hidden: &mut Vec<Range<usize>>) {
    let mut reading = Reading::default();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        for statement in scan::statements(line) {
            reading.statement(line, start, &statement, hidden);
        }
        start += line.len();
    }
}

/// Finds the values of members with secretive names, over all of their lines. All of a JSON text is
/// one statement, so that a reading as a whole would hide all that follows the first of them.
fn secretive_members(text: &str, hidden: &mut Vec<Range<usize>>) {
    let tokens: Vec<Token> =
        scan::statements(text).into_iter().flat_map(|statement| statement.tokens).collect();
    let mut depth = 0_usize;
    // The brackets around the member.
    let mut within: Option<usize> = None;
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Sign(b'{' | b'[') => depth += 1,
            TokenKind::Sign(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                within = within.filter(|member| depth >= *member);
            }
            TokenKind::Sign(b',') if within == Some(depth) => within = None,
            TokenKind::Sign(_) => {}
            TokenKind::Text { .. } | TokenKind::Word | TokenKind::Comment => {
                let next = tokens.get(i + 1).map(|token| token.kind);
                let is_name = next == Some(TokenKind::Sign(b'='));
                if !is_name && within.is_some() {
                    hidden.push(inside(token));
                } else if is_name && is_secretive(&text[token.range.clone()]) {
                    within = within.or(Some(depth));
                }
            }
        }
    }
}

fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The state from earlier statements that matters to the next one.
#[derive(Default)]
struct Reading {
    /// Within `[keys]` or the like.
    secretive: bool,
    /// A secret's string was left open, so that the next line may be its rest.
    open: bool,
}

impl Reading {
    /// Whether all of this statement is about a secret.
    fn begin(&mut self, text: &str, statement: &Statement) -> bool {
        let tokens = &statement.tokens;
        let of = |token: &Token| &text[token.range.clone()];
        let header = statement.is_header() || is_damaged_header(tokens);
        let assigns = is_key(tokens, 0);
        if header || assigns {
            self.open = false;
        }
        if header {
            self.secretive = tokens.iter().any(|token| is_secretive(of(token)));
            return false;
        }
        // A statement that begins with neither a key nor a bracket nor a # may be a secret's second
        // line.
        let begins =
            assigns || matches!(tokens[0].kind, TokenKind::Comment | TokenKind::Sign(b'{'));
        let first = without_colon(of(&tokens[0]));
        let known = schema::begins_a_line(first) || first == "---";
        self.open || self.secretive || !(begins || known)
    }

    /// Adds the parts to hide of a statement of `text`, which begins at `base`.
    fn statement(
        &mut self,
        text: &str,
        base: usize,
        statement: &Statement,
        hidden: &mut Vec<Range<usize>>,
    ) {
        let tokens = &statement.tokens;
        let of = |token: &Token| &text[token.range.clone()];
        let mut secret = self.begin(text, statement);
        for (i, token) in tokens.iter().enumerate() {
            if (secret && !may_show(text, tokens, i)) || swallows(of(token)) {
                let range = inside(token);
                hidden.push(base + range.start..base + range.end);
                self.open |= matches!(token.kind, TokenKind::Text { closed: false, .. });
            }
            secret |= match token.kind {
                TokenKind::Text { .. } if !is_key(tokens, i) => names_a_secret(of(token)),
                TokenKind::Text { .. }
                | TokenKind::Word
                | TokenKind::Sign(_)
                | TokenKind::Comment => is_secretive(of(token)),
            };
        }
    }
}

/// `keys]`: the opening bracket is missing.
fn is_damaged_header(tokens: &[Token]) -> bool {
    let sign = |wanted| tokens.iter().any(|token| token.kind == TokenKind::Sign(wanted));
    sign(b']') && !sign(b'=') && !sign(b'[')
}

/// A key as YAML has it, `name:`. Text that follows the colon without a space is not part of the
/// key.
fn without_colon(word: &str) -> &str {
    word.strip_suffix(':').unwrap_or(word)
}

/// Whether token `i` of a statement with a secret may still be shown.
fn may_show(text: &str, tokens: &[Token], i: usize) -> bool {
    let of = |i: usize| &text[tokens[i].range.clone()];
    match tokens[i].kind {
        TokenKind::Sign(_) => true,
        TokenKind::Comment => false,
        _ if is_key(tokens, i) || (i == 0 && schema::is_key(without_colon(of(i)))) => true,
        // Its end is missing, so that the text after it may be a part of it.
        TokenKind::Text { closed: false, .. } => false,
        _ if i < 2 || tokens[i - 1].kind != TokenKind::Sign(b'=') => false,
        TokenKind::Text { closed: true, .. } | TokenKind::Word => {
            let key = of(i - 2).trim_matches(['"', '\'']);
            let place = key.rsplit('.').next().unwrap_or(key);
            schema::is_place(place) && !of(i).contains('=')
        }
    }
}

/// Whether token `i` stands where a key stands, and `=` follows.
fn is_key(tokens: &[Token], i: usize) -> bool {
    let sign = |i: usize, signs: &[u8]| match tokens.get(i).map(|token| token.kind) {
        Some(TokenKind::Sign(sign)) => signs.contains(&sign),
        _ => false,
    };
    let first = || !(0..i).any(|i| sign(i, b"="));
    sign(i + 1, b"=") && (first() || sign(i - 1, b"{,"))
}

/// The token without its quotes, or without its `#`.
fn inside(token: &Token) -> Range<usize> {
    let Range { start, end } = token.range;
    match token.kind {
        TokenKind::Text { quotes, closed: true } => start + quotes..end - quotes,
        TokenKind::Text { quotes, closed: false } => start + quotes..end,
        TokenKind::Comment => start + 1..end,
        TokenKind::Word | TokenKind::Sign(_) => start..end,
    }
}

fn is_secretive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETIVE.iter().any(|word| name.contains(word))
}

/// Whether a string or comment holds a secret's line because of a misplaced quote.
fn swallows(text: &str) -> bool {
    text.contains('=') && is_secretive(text)
}

fn names_a_secret(text: &str) -> bool {
    schema::secrets().any(|name| text.contains(name))
}

/// Calls `found` for each run of hex or base64 that is long enough for a key.
fn runs(text: &str, mut found: impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let length = count(&bytes[start..], |c| c.is_ascii_alphanumeric() || b"+/".contains(&c));
        let end = start + length;
        if length >= RUN && !(is_path(&bytes[start..end]) && bytes.get(end) != Some(&b'=')) {
            let padding = count(&bytes[end..], |c| c == b'=');
            found(start..end + padding);
        }
        start = end + 1;
    }
}

fn count(bytes: &[u8], of: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|&&c| of(c)).count()
}

/// Whether a run of base64 characters is a path in lower case, which an operator
/// has to read. 43 random characters of base64 look like one in one of 10^10 cases.
fn is_path(run: &[u8]) -> bool {
    run.contains(&b'/')
        && run.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'/')
        && run.split(|&c| c == b'/').all(|part| part.len() < RUN)
}

/// Whether a part of a text may be a key. Such a text is not turned into a suggestion: one that is
/// put otherwise is not hidden any more.
pub(super) fn may_be_a_key(text: &str) -> bool {
    let mut found = false;
    runs(text, |_| found = true);
    found
}

/// Input as messages show it: in quotes, keys masked, control characters
/// replaced, cut if it is long.
pub fn quote(input: &str) -> String {
    format!("\"{}\"", plain(input))
}

/// The same without quotes.
pub(super) fn plain(input: &str) -> String {
    shown(input, QUOTED)
}

/// A message of a parser about a foreign text, which it may quote.
pub fn readable(message: &str) -> String {
    shown(message, MESSAGE)
}

fn shown(input: &str, most: usize) -> String {
    let mut hidden = Vec::new();
    runs(input, |run| hidden.push(run));
    let mask = Mask(hidden);
    let mut shown: String = input
        .char_indices()
        .take(most)
        .map(|(at, c)| if mask.hides(at) { '*' } else { printable(c) })
        .collect();
    if input.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// A path from the command line as messages show it. It is not from the file, and is never cut,
/// because the operator may have to type it.
pub(super) fn path(path: &Path) -> String {
    path.to_string_lossy().chars().map(printable).collect()
}

/// A path that the file names, relative to `dir` or absolute.
pub(super) fn path_in(dir: &Path, named: &Path) -> String {
    let below = named.strip_prefix(dir).unwrap_or(named);
    let text = below.to_string_lossy();
    let mut hidden = Vec::new();
    runs(&text, |run| hidden.push(run));
    let mask = Mask(hidden);
    let shown: String = text
        .char_indices()
        .map(|(at, c)| if mask.hides(at) { '*' } else { printable(c) })
        .collect();
    path(&if below == named { shown.into() } else { dir.join(shown) })
}

/// A character that can't move the cursor, colour the terminal or turn text around.
pub fn printable(c: char) -> char {
    match c {
        '\u{061c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let mask = Mask::of(text);
        text.char_indices().map(|(at, c)| if mask.hides(at) { '*' } else { c }).collect()
    }

    #[test]
    fn a_secret_is_hidden_under_every_key_that_may_name_one() {
        assert_eq!(masked("mesh_key = 'hunter2'"), "mesh_key = '*******'");
        assert_eq!(masked("keys.psk = \"\"\"hu\n2\"\"\""), "keys.psk = \"\"\"****\"\"\"");
        assert_eq!(masked("\"private_key\" = hunter2"), "\"private_key\" = *******");
        assert_eq!(masked("meshkey = \"hunter2\""), "meshkey = \"*******\"");
        assert_eq!(masked("[keys]\nmseh_kye = 'hunter2'"), "[keys]\nmseh_kye = '*******'");
        assert_eq!(masked("a = { psk = 'hunter2' }"), "a = { psk = '*******' }");
        assert_eq!(masked("name = 'key'"), "name = 'key'");
    }

    #[test]
    fn a_place_of_a_secret_is_shown_and_all_else_beside_it_is_not() {
        let text = "mesh_key = { file = 'a', x = 'hunter2' }  # hunter2";
        assert_eq!(masked(text), "mesh_key = { file = 'a', x = '*******' }  #********");
        assert_eq!(masked("mesh_key.env = 'A'"), "mesh_key.env = 'A'");
        assert_eq!(masked("[keys.mesh_key]\nfile = 'a'"), "[keys.mesh_key]\nfile = 'a'");
    }

    #[test]
    fn an_open_string_is_hidden_and_so_is_the_line_that_may_be_its_rest() {
        assert_eq!(masked("psk = 'hunter2\nx = 1"), "psk = '*******\nx = 1");
        assert_eq!(masked("psk = '\nhunter2'\nx = 1"), "psk = '\n*******'\nx = 1");
        assert_eq!(masked("psk = { file = 'hunter2"), "psk = { file = '*******");
        assert_eq!(masked("psk 'hunter2'"), "psk '*******'");
        assert_eq!(masked("psk = 'hun'ter2'"), "psk = '***'****'");
    }

    #[test]
    fn a_colon_in_place_of_an_equals_sign_hides_no_less() {
        assert_eq!(masked("name: \"b\"\nshort_id : 2"), "name: \"b\"\nshort_id : 2");
        assert_eq!(masked("psk: hunter2"), "psk: *******");
        assert_eq!(masked("psk:hunter2"), "***********");
        assert_eq!(masked("name:psk:hunter2"), "*".repeat(16));
        assert_eq!(masked("keys: { psk: hunter2 }"), "***** { **** ******* }");
    }

    #[test]
    fn json_is_shown_and_hidden_as_toml_is() {
        let masked = |text: &str| {
            let mask = Mask::of_json(text);
            let shown = |(at, c)| if mask.hides(at) { '*' } else { c };
            text.char_indices().map(shown).collect::<String>()
        };
        for text in [
            "{\n  \"name\": \"a:b\",\n  \"short_id\": 1\n}",
            "{ \"peer\": [ { \"name\": \"a\" } ] }",
        ] {
            assert_eq!(masked(text), text);
        }
        assert_eq!(masked("{\n\"psk\": \"hunter2\"\n}"), "{\n\"psk\": \"*******\"\n}");
        assert_eq!(
            masked("{\"name\":\"a\",\"psk\":\"hunter2\"}"),
            "{\"name\":\"a\",\"psk\":\"*******\"}"
        );
        let members = "{\n\"psk\": {\n\"x\": \"hunter2\"\n},\n\"a\": \"b\"\n}";
        assert_eq!(masked(members), members.replace("hunter2", "*******"));
        for text in [
            "{ \"psk: \"hunter2\" }",
            "\"psk\":\n\"hunter2\"",
            "\"psk\"\n: \"hunter2\"",
            "\"psk\" \"hunter2\"",
            "{\"a\": \"\\\", \"psk\": \"hunter2\"}",
        ] {
            assert!(!masked(text).contains("hunter2"), "{}", masked(text));
        }
    }

    #[test]
    fn strings_turned_inside_out_still_hide() {
        for text in [
            "name = \"\"\"a\npsk = \"\"\"hunter2\"\"\"",
            "address = \"1\"\"\"\"psk = \"hunter2\"",
            "[keys]\npsk = {\n'\nhunter2",
        ] {
            assert!(!masked(text).contains("hunter2"), "{}", masked(text));
        }
    }

    #[test]
    fn a_run_that_may_be_a_key_is_hidden_anywhere() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(masked(&format!("name = '{hex}'")), format!("name = '{}'", "*".repeat(64)));
        let base64 = "k3hYt/1fUQz+Sn6vKJb0wQm8cXo2dGZr5TeWiLyPaR4=";
        assert_eq!(masked(base64), "*".repeat(44));
        assert_eq!(masked("a = 'b'  # short"), "a = 'b'  # short");
        let path = "file = '/etc/meshsec/production/frankfurt'";
        assert_eq!(masked(path), path);
        assert_eq!(masked("#  mesh_key = 'hunter2'"), format!("#{}", "*".repeat(22)));
    }

    #[test]
    fn what_a_message_quotes_is_masked_cut_and_harmless() {
        assert_eq!(quote("a\x1b[31m"), "\"a\u{fffd}[31m\"");
        assert_eq!(quote(&"ab".repeat(20)), format!("\"{}\"", "*".repeat(40)));
        assert_eq!(quote(&"-".repeat(90)), format!("\"{}…\"", "-".repeat(80)));
    }
}
