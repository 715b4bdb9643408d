//! JSON in place of TOML, for files of peers that other programs make.
//!
//! `serde_json` checks the text. Here the text is walked once more, as `serde_json` gives no places,
//! and becomes the tree that the TOML parser gives. So one reader serves both.
#![forbid(unsafe_code)]

use std::{borrow::Cow, ops::Range};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    diagnostic::{Finding, FindingKind},
    mask,
    reader::{Value, type_name},
};

/// The members of the object that a text is, and the errors that are in the text. After an error
/// of syntax there is no object.
pub(super) fn parse(text: &str) -> (DeTable<'_>, Vec<Finding>) {
    let start = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let content = &text[start..];
    if content.trim_ascii().is_empty() {
        let hint = "write { \"peer\": [ … ] }, or leave the file out of include";
        let finding = syntax(0..0, "the file is empty".into(), hint);
        return (DeTable::new(), vec![finding]);
    }
    if let Err(error) = serde_json::from_str::<serde_json::Value>(content) {
        return (DeTable::new(), vec![invalid(content, start, &error)]);
    }
    let mut walk = Walk { text, at: start, findings: Vec::new() };
    let root = walk.value();
    let span = root.span();
    let is = type_name(root.get_ref());
    if let DeValue::Table(members) = root.into_inner() {
        return (members, walk.findings);
    }
    let message = format!("the file must be an object, not {is}");
    let first = span.start..span.start + 1;
    (DeTable::new(), vec![syntax(first, message, "write { \"peer\": … } around it")])
}

fn syntax(span: Range<usize>, message: String, hint: &str) -> Finding {
    Finding { weight: FindingKind::Syntax, span, message, hint: hint.into() }
}

/// An error of `serde_json`, at its place.
fn invalid(content: &str, start: usize, error: &serde_json::Error) -> Finding {
    let lines = content.split_inclusive('\n').take(error.line().saturating_sub(1));
    let at = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
    // The end of a text that breaks off is its last character.
    let last = content.trim_ascii_end().len().saturating_sub(1);
    let at = start + at.min(last);
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
    let hint = match what {
        "trailing comma" => "leave the comma out",
        "trailing characters" => "leave out all that is behind the first object",
        "key must be a string" => "put it in double quotes",
        _ => "see https://www.json.org for the syntax",
    };
    syntax(at..at + 1, format!("this is not JSON: {}", mask::plain(what)), hint)
}

/// A walk through a text that is JSON. For a text that is not, it would give some tree.
struct Walk<'i> {
    text: &'i str,
    at: usize,
    findings: Vec<Finding>,
}

impl<'i> Walk<'i> {
    /// The next character that is not space.
    fn next(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|c| c.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over a sign if it is the next one.
    fn passes(&mut self, sign: u8) -> bool {
        let is_next = self.next() == Some(sign);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self) -> Value<'i> {
        let first = self.next();
        let start = self.at;
        let value = match first {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => DeValue::String(self.string()),
            _ => self.word(),
        };
        Spanned::new(start..self.at, value)
    }

    fn object(&mut self) -> DeValue<'i> {
        let mut members = DeTable::new();
        self.at += 1;
        while self.next().is_some_and(|c| c != b'}') {
            let start = self.at;
            let name = self.string();
            let span = start..self.at;
            self.passes(b':');
            let value = self.value();
            self.passes(b',');
            if members.contains_key(&*name) {
                let message = format!("{} is there twice", mask::quote(&name));
                let (weight, hint) = (FindingKind::Wrong, "leave one of the two".into());
                self.findings.push(Finding { weight, span, message, hint });
            } else {
                members.insert(Spanned::new(span, name), value);
            }
        }
        self.passes(b'}');
        DeValue::Table(members)
    }

    fn array(&mut self) -> DeValue<'i> {
        let mut values = DeArray::new();
        self.at += 1;
        while self.next().is_some_and(|c| c != b']') {
            values.push(self.value());
            self.passes(b',');
        }
        self.passes(b']');
        DeValue::Array(values)
    }

    fn string(&mut self) -> Cow<'i, str> {
        let start = self.at;
        let mut escaped = false;
        let ends = |c: &u8| {
            let is_end = *c == b'"' && !escaped;
            escaped = *c == b'\\' && !escaped;
            is_end
        };
        let rest = self.text.as_bytes().get(start + 1..).unwrap_or_default();
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        self.at = (start + length + 2).min(self.text.len());
        let inside = self.text.get(start + 1..self.at - 1).unwrap_or_default();
        match inside.contains('\\') {
            true => serde_json::from_str(&self.text[start..self.at]).unwrap_or_default(),
            false => Cow::Borrowed(inside),
        }
    }

    /// A number, `true`, `false` or `null`. Null, and a number that TOML has not, are a float, which
    /// no key takes.
    fn word(&mut self) -> DeValue<'i> {
        let rest = &self.text[self.at..];
        let ends = |c: char| c.is_ascii_whitespace() || ",:[]{}\"".contains(c);
        // At least one character, so that the walk comes to its end.
        let least = rest.chars().next().map_or(0, char::len_utf8);
        let word = &rest[..rest.find(ends).unwrap_or(rest.len()).max(least)];
        self.at += word.len();
        let float = || DeValue::parse("nan").map(Spanned::into_inner);
        match word {
            "true" => DeValue::Boolean(true),
            "false" => DeValue::Boolean(false),
            "null" => float().unwrap_or(DeValue::Boolean(false)),
            number => DeValue::parse(number)
                .map(Spanned::into_inner)
                .or_else(|_| float())
                .unwrap_or(DeValue::Boolean(false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value as TOML has it, without its places.
    fn shown(value: &DeValue<'_>) -> String {
        match value {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.as_str().into(),
            DeValue::Float(number) => format!("float {}", number.as_str()),
            DeValue::Boolean(is) => is.to_string(),
            DeValue::Datetime(_) => "a date".into(),
            DeValue::Array(values) => {
                format!("{:?}", values.iter().map(|v| shown(v.get_ref())).collect::<Vec<_>>())
            }
            DeValue::Table(members) => {
                let member = |(name, value): (&Spanned<Cow<'_, str>>, &Value<'_>)| {
                    format!("{} {}", name.get_ref(), shown(value.get_ref()))
                };
                members.iter().map(member).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn values_come_out_as_they_are_written() {
        for (text, value) in [
            (r#"{"a": "b\"c\\", "d": "\/\u00e9\ud83d\ude00:,"}"#, r#"a "b\"c\\", d "/é😀:,""#),
            ("\u{feff}{ \"a\" : 1 , \"b\" : -12 }\r\n", "a 1, b -12"),
            (
                r#"{"a": 1.5, "b": 1e3, "c": true, "d": false}"#,
                "a float 1.5, b float 1e3, c true, d false",
            ),
            (r#"{"a": null, "b": 18446744073709551616}"#, "a float nan, b 18446744073709551616"),
            (
                r#"{"a": [], "b": {}, "c": [ [ 1 ], { "d": 2 } ]}"#,
                r#"a [], b , c ["[\"1\"]", "d 2"]"#,
            ),
        ] {
            let (members, findings) = parse(text);
            assert!(findings.is_empty(), "{text}: {findings:?}");
            assert_eq!(shown(&DeValue::Table(members)), value, "{text}");
        }
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = "\u{feff}{ \"é\": [ \"x\", 12 ] }";
        let (members, _) = parse(text);
        let (name, value) = members.iter().next().unwrap();
        assert_eq!(&text[name.span()], "\"é\"");
        assert_eq!(&text[value.span()], "[ \"x\", 12 ]");
        let values = value.get_ref().as_array().unwrap();
        let pieces: Vec<&str> = values.iter().map(|value| &text[value.span()]).collect();
        assert_eq!(pieces, ["\"x\"", "12"]);
    }

    #[test]
    fn what_is_not_json_has_one_error_at_its_place() {
        for (text, place, what) in [
            ("", "", "the file is empty"),
            ("{\"a\": 1,}", "}", "trailing comma"),
            ("{\"é\": 1}\n x", "x", "trailing characters"),
            ("{\"a\": [1, 2", "2", "EOF while parsing a list"),
            ("{a: 1}", "a", "key must be a string"),
            ("[[peer]]\nname = \"a\"\n", "p", "expected value"),
            ("[1]", "[", "must be an object, not an array"),
            ("{\"a\": \"\\ud800\"}", "\"", "unexpected end of hex escape"),
        ] {
            let (members, findings) = parse(text);
            let [finding] = &findings[..] else { panic!("{text}: {findings:?}") };
            assert!(members.is_empty() && finding.message.contains(what), "{finding:?}");
            assert_eq!(&text[finding.span.clone()], place, "{text}: {finding:?}");
        }
        assert!(parse(&"[".repeat(1 << 20)).1[0].message.contains("recursion limit"));
    }

    #[test]
    fn a_member_that_is_there_twice_is_an_error_at_the_second() {
        let text = r#"{"a": 1, "b": 2, "\u0061": 3}"#;
        let (_, findings) = parse(text);
        assert_eq!(findings[0].message, "\"a\" is there twice");
        assert_eq!(&text[findings[0].span.clone()], "\"\\u0061\"");
    }
}
