//! Errors of the TOML parser, in words that tell the correction.
//!
//! One mistake makes a parser stumble several times, and makes the parts that it salvaged look
//! wrong in other ways. So each statement has one syntax error, and [`without_follow_ups`] drops
//! possible consequences of it.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use super::{
    diagnostic::{Finding, FindingKind, Source},
    mask,
    scan::{self, Statement, Token, TokenKind},
};

/// The syntax errors of a text, at most one for a statement.
///
/// `errors` are the parser's; their `Display` shows the line unmasked, so that
/// only their message and place are taken.
pub(super) fn findings(source: &Source<'_>, errors: &[toml::de::Error]) -> Vec<Finding> {
    if errors.is_empty() {
        return Vec::new();
    }
    let statements = scan::statements(source.text);
    if let Some(finding) = other_format(source, &statements) {
        return vec![finding];
    }
    let place = |error: &toml::de::Error| error.span().unwrap_or(0..0);
    let mut found: Vec<_> = errors
        .iter()
        .map(|error| (index(&statements, place(error).start), place(error), error.message()))
        .collect();
    found.sort_by_key(|(index, at, _)| (*index, at.start));
    found.dedup_by_key(|(index, ..)| *index);
    without_keys_of_another_peer(&statements, source.text, &mut found);
    found
        .into_iter()
        .map(|(index, at, message)| finding(source.text, statements.get(index), message, at))
        .collect()
}

/// The first byte of a text that is not UTF-8.
pub(super) fn not_utf8(at: usize) -> Finding {
    Finding {
        weight: FindingKind::Syntax,
        span: at..at + 1,
        message: "the file is not UTF-8 from here on".into(),
        hint: "save the file as UTF-8".into(),
    }
}

/// A second `[peer]` is one error: its keys are not those of the first one.
fn without_keys_of_another_peer(
    statements: &[Statement],
    text: &str,
    found: &mut Vec<(usize, Range<usize>, &str)>,
) {
    let header = |index: usize| (0..=index).rev().find(|&at| statements[at].is_header());
    let second: BTreeSet<usize> = found
        .iter()
        .filter(|(index, ..)| statements.get(*index).is_some_and(|s| is_single_peer(text, s)))
        .map(|(index, ..)| *index)
        .collect();
    found.retain(|(index, _, message)| {
        let below = statements.get(*index).and_then(|_| header(*index));
        let of_second = below.is_some_and(|header| header != *index && second.contains(&header));
        !(of_second && message.starts_with("duplicate key"))
    });
}

/// `[peer]`, which makes one table where `[[peer]]` makes one of many.
fn is_single_peer(text: &str, statement: &Statement) -> bool {
    let tokens: Vec<_> = statement.tokens.iter().map(|token| &text[token.range.clone()]).collect();
    tokens.starts_with(&["[", "peer", "]"])
}

/// Another format than TOML, recognised by the beginning of the text: one error for all of it.
fn other_format(source: &Source<'_>, statements: &[Statement]) -> Option<Finding> {
    let text = source.text;
    let word = |token: &Token| &text[token.range.clone()];
    let statement = statements.iter().find(|s| s.tokens[0].kind != TokenKind::Comment)?;
    let first = &statement.tokens[0];
    let mapping = |word: &str| word.len() > 1 && word.ends_with(':') && statement.tokens.len() == 1;
    let format = match first.kind {
        TokenKind::Sign(b'{') => "JSON",
        TokenKind::Word if word(first) == "---" || mapping(word(first)) => "YAML",
        TokenKind::Word | TokenKind::Text { .. } | TokenKind::Sign(_) | TokenKind::Comment => {
            return None;
        }
    };
    let (file, hint) = match source.file {
        0 => (
            "mesh.toml",
            "write [mesh] and name = \"lab\" below it, and so on: see meshsec.toml(5)",
        ),
        _ if format == "JSON" => {
            ("a file named .toml", "give the file a name that ends with .json")
        }
        _ => (
            "a file named .toml",
            "write [[peer]] and name = \"a\" below it, and so on: see meshsec.toml(5)",
        ),
    };
    let message = format!("this looks like {format}, and {file} is TOML");
    Some(Finding {
        weight: FindingKind::Syntax,
        span: first.range.clone(),
        message,
        hint: hint.into(),
    })
}

/// Drops findings that may only be there because of a syntax error: missing parts, findings in a
/// damaged statement, and findings behind a damaged header.
pub(super) fn without_follow_ups(source: &Source<'_>, findings: Vec<Finding>) -> Vec<Finding> {
    let is_syntax = |finding: &Finding| finding.weight == FindingKind::Syntax;
    if !findings.iter().any(is_syntax) {
        return findings;
    }
    let statements = scan::statements(source.text);
    let mut damaged = vec![false; statements.len()];
    for finding in findings.iter().filter(|finding| is_syntax(finding)) {
        let first = index(&statements, finding.span.start);
        let Some(statement) = statements.get(first) else { continue };
        let is_whole = finding.message.contains(TWICE) || !statement.is_header();
        let following = statements[first + 1..].iter().take_while(|s| !is_whole && !s.is_header());
        let count = 1 + following.count();
        damaged[first..first + count].fill(true);
    }
    let certain = |finding: &Finding| match finding.weight {
        FindingKind::Syntax => true,
        // The parser fills in numbers that the file doesn't have.
        FindingKind::Wrong if finding.span.is_empty() => false,
        FindingKind::Wrong => damaged.get(index(&statements, finding.span.start)) != Some(&true),
        FindingKind::Missing => false,
    };
    findings.into_iter().filter(certain).collect()
}

/// The statement that a place belongs to: the last that begins at or before it.
fn index(statements: &[Statement], at: usize) -> usize {
    statements.partition_point(|statement| statement.range.start <= at).saturating_sub(1)
}

/// Part of the message about a key or table that is there twice: its statement is well-formed, and
/// its meaning is known.
const TWICE: &str = "is there twice";

fn finding(text: &str, statement: Option<&Statement>, message: &str, at: Range<usize>) -> Finding {
    let (span, message, hint) = statement
        .and_then(|statement| unclosed(statement, &at))
        .or_else(|| statement.and_then(|statement| colon(text, statement)))
        .or_else(|| statement.and_then(|statement| bare_address(text, statement)))
        .or_else(|| statement.and_then(second_key))
        .or_else(|| known(text, statement, message, &at))
        .unwrap_or_else(|| other(message, at));
    Finding { weight: FindingKind::Syntax, span, message, hint }
}

/// `name: "b"`, as in YAML.
fn colon(text: &str, statement: &Statement) -> Option<Said> {
    let is_sign = |sign| statement.tokens.iter().any(|token| token.kind == TokenKind::Sign(sign));
    let colon = statement.tokens.iter().take(2).find_map(|token| {
        let at = text[token.range.clone()].find(':')?;
        (token.kind == TokenKind::Word).then_some(token.range.start + at)
    })?;
    let message = "a colon after a key";
    (!is_sign(b'=')).then(|| (colon..colon + 1, message.into(), "write = instead of :".into()))
}

/// `address = 192.0.2.1`: an address needs quotes.
fn bare_address(text: &str, statement: &Statement) -> Option<Said> {
    let [.., equals, value] = &statement.tokens[..] else { return None };
    let word = &text[value.range.clone()];
    let bare = word.split(['/', '%']).next().unwrap_or("").trim_end_matches(',');
    let is_address = bare.parse::<IpAddr>().is_ok() || bare.parse::<SocketAddr>().is_ok();
    (equals.kind == TokenKind::Sign(b'=') && value.kind == TokenKind::Word && is_address).then(
        || {
            let hint = format!("put it in quotes: \"{bare}\"");
            (value.range.clone(), "an address without quotes".into(), hint)
        },
    )
}

/// `generation = 1 reqid = 2`: the second key of a line.
fn second_key(statement: &Statement) -> Option<Said> {
    let mut depth = 0_usize;
    let mut equals = statement.tokens.iter().enumerate().filter_map(|(at, token)| {
        match token.kind {
            TokenKind::Sign(b'[' | b'{') => depth += 1,
            TokenKind::Sign(b']' | b'}') => depth = depth.saturating_sub(1),
            TokenKind::Sign(b'=') if depth == 0 => return Some(at),
            TokenKind::Sign(_) | TokenKind::Word | TokenKind::Text { .. } | TokenKind::Comment => {}
        }
        None
    });
    let (first, second) = (equals.next()?, equals.next()?);
    // Between the two signs there are a value and the key.
    let key = second.checked_sub(1).filter(|key| *key > first + 1)?;
    let token = &statement.tokens[key];
    let is_name = matches!(token.kind, TokenKind::Word | TokenKind::Text { closed: true, .. });
    is_name.then(|| {
        let message = "a second key on one line";
        (token.range.clone(), message.into(), "write it on a line of its own".into())
    })
}

type Said = (Range<usize>, String, String);

/// Strings and brackets without an end are reported where they begin: the
/// parser notices at the end of the line, or of the file.
fn unclosed(statement: &Statement, at: &Range<usize>) -> Option<Said> {
    let open = statement.tokens.iter().find_map(|token| match token.kind {
        TokenKind::Text { quotes, closed: false } if token.range.start <= at.start => {
            Some(token.range.start..token.range.start + quotes)
        }
        TokenKind::Text { .. } | TokenKind::Word | TokenKind::Sign(_) | TokenKind::Comment => None,
    });
    if let Some(opening) = open {
        let hint = "write the same quotes at its end";
        return Some((opening, "the string has no end".into(), hint.into()));
    }
    let bracket = statement.unclosed?;
    let message = "the bracket has no end, or a comma is missing";
    let hint = "write the closing bracket, or look for a comma too few";
    Some((bracket..bracket + 1, message.into(), hint.into()))
}

fn known(
    text: &str,
    statement: Option<&Statement>,
    message: &str,
    at: &Range<usize>,
) -> Option<Said> {
    let input = text.get(at.clone()).unwrap_or("");
    let before = text.get(..at.start).unwrap_or("").trim_end_matches([' ', '\t']);
    let said = |message: &str, hint: &str| Some((at.clone(), message.into(), hint.into()));
    if before.ends_with('=') && (input.is_empty() || message.starts_with("missing value")) {
        return said("the value is missing", "write a value after the =");
    }
    let description = message.split(", expected").next().unwrap_or(message);
    match description {
        "duplicate key" if statement.is_some_and(|s| is_single_peer(text, s)) => said(
            "[peer] is there more than once",
            "write [[peer]], with two brackets, for each of them",
        ),
        "duplicate key" => {
            let of = statement.filter(|statement| statement.is_header());
            let what = if of.is_some() { "table" } else { "key" };
            said(&format!("the {what} {} {TWICE}", mask::quote(input)), "leave one of the two")
        }
        "string values must be quoted" => unquoted(input).and_then(|hint| said(UNQUOTED, hint)),
        "invalid boolean" => said("this is neither true nor false", "write true or false"),
        "key with no value" => said("a key without = and value", "write key = value"),
        "unclosed table" | "unclosed array table" => {
            said("the table's header has no end", "write the closing ]")
        }
        "unexpected key or value" if ends_in_comma(text, at.start) => {
            said("a comma at the end of a line", "leave the comma out")
        }
        "unexpected key or value" => {
            said("something follows what is complete", "write it on a line of its own")
        }
        "missing escaped value" => said(
            "an unknown escape",
            "write \\\\ for a backslash, or put the string in 'single quotes'",
        ),
        "extra `=`" => said("one = too many", "leave it out"),
        "unexpected leading zero" => said("a number begins with 0", "leave the leading 0 out"),
        "invalid basic string"
        | "invalid multi-line basic string"
        | "invalid literal string"
        | "invalid multi-line literal string"
        | "invalid comment character" => said("a control character", "remove it"),
        _ => None,
    }
}

/// Whether a comma stands here and nothing else follows on its line.
fn ends_in_comma(text: &str, at: usize) -> bool {
    let line = text[at..].lines().next().unwrap_or("");
    let rest = line.strip_prefix(',').map(str::trim_start);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

const UNQUOTED: &str = "this is no number, no true or false, and no string in quotes";

/// The correction of a value without quotes.
fn unquoted(input: &str) -> Option<&'static str> {
    Some(match input.to_ascii_lowercase().as_str() {
        "yes" | "on" | "no" | "off" => "write true or false",
        _ if input.starts_with(['“', '”', '„', '‘', '’', '«']) => {
            "write straight quotes, \" or ', in place of typographic ones"
        }
        _ => "put it in quotes if it is text",
    })
}

/// Other messages of the parser. They are fixed texts, but still pass through the mask.
fn other(message: &str, at: Range<usize>) -> Said {
    let (description, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let hint = match expected {
        "" | "nothing" => "see https://toml.io for the syntax".into(),
        expected => format!("expected here: {}", mask::plain(expected)),
    };
    (at, mask::plain(description), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<(usize, String)> {
        let (_, errors) = toml::de::DeTable::parse_recoverable(text);
        let source = Source::new(text);
        findings(&source, &errors)
            .into_iter()
            .map(|finding| (source.line(finding.span.start), finding.message))
            .collect()
    }

    #[test]
    fn each_damaged_statement_has_one_error() {
        let found = messages("a = [1,\n2\nb = 3\nc = 'x'\n");
        assert_eq!(found, [(1, "the bracket has no end, or a comma is missing".into())]);
        let found = messages("a = 'x\nb = \nc = yes\n");
        assert_eq!(found.iter().map(|found| found.0).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_second_key_of_a_line_is_named_and_two_equals_signs_are_something_else() {
        let second = "a second key on one line";
        for (text, message) in [
            ("a = 1 b = \"1h\"\n", second),
            ("a = \"x\" b = 2\n", second),
            ("a = { b = 1 } c = 2\n", second),
            ("a = 1, b = 2\n", second),
            ("a = = 2\n", "one = too many"),
        ] {
            assert_eq!(messages(text), [(1, message.into())], "{text}");
        }
    }

    #[test]
    fn an_open_string_is_reported_where_it_begins() {
        let found = messages("a = 1\nb = '''x\ny\nz\n");
        assert_eq!(found, [(2, "the string has no end".into())]);
    }

    #[test]
    fn what_a_damaged_header_hides_is_doubtful() {
        let text = "[a\nb = 1\n[c]\nd = 2\n";
        let source = Source::new(text);
        let at = |weight, place: &str| {
            let start = text.find(place).unwrap();
            Finding { weight, span: start..start + 1, message: place.into(), hint: String::new() }
        };
        let all = vec![
            at(FindingKind::Syntax, "[a"),
            at(FindingKind::Wrong, "b"),
            at(FindingKind::Wrong, "d"),
            at(FindingKind::Missing, "[c]"),
        ];
        let kept: Vec<_> =
            without_follow_ups(&source, all).into_iter().map(|finding| finding.message).collect();
        assert_eq!(kept, ["[a", "d"]);
    }
}
