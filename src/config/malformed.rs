//! Texts that are not secrets: their forms, without a character of them.
//!
//! An operator who sees "47 bytes" looks for three that no editor shows.
#![forbid(unsafe_code)]

/// The two forms of a secret.
pub(super) const EXPECTED: &str = "64 hex digits or 44 characters of base64";

/// The reason why a text is not a key. It tells only the length and the form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length in bytes is not a key's.
    #[error("{0} bytes long, not {EXPECTED}")]
    Length(usize),
    /// The length in bytes is a key's, but the characters are not.
    #[error("{0} bytes long but not {1} throughout")]
    Characters(usize, &'static str),
    /// A form that can be recognised.
    #[error("{}, not {EXPECTED}", .0.is())]
    Form(Form),
    /// All zeros, which is nobody's key.
    #[error("all zeros")]
    Zeros,
}

/// The form of a text that may well be the right secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nothing, or space.
    Empty,
    /// UTF-8 behind EF BB BF, as some editors write it.
    ByteOrderMark,
    /// FF FE or FE FF first, as a shell of Windows writes it.
    Utf16,
    /// The 32 bytes themselves.
    Raw,
    /// `0x` before the digits.
    Prefix,
    /// `01:02:…`.
    Colons,
    /// Quotes around it.
    Quotes,
    /// `-` and `_` in place of `+` and `/`.
    Url,
    /// Without the `=` at its end.
    Unpadded,
    /// `-----BEGIN`.
    Pem,
    /// A file of WireGuard, or one of NAME=VALUE.
    Assignment,
    /// More than one line.
    Lines,
}

impl Malformed {
    /// The problem by the whole text, with the space around it.
    pub(super) fn of(self, text: &[u8]) -> Self {
        form(text).map_or(self, Self::Form)
    }

    /// The remedy; `otherwise` where the text gives no clue.
    pub(super) fn hint(self, otherwise: &str) -> String {
        match self {
            Self::Form(form) => form.hint(otherwise).into(),
            Self::Length(_) | Self::Characters(..) | Self::Zeros => otherwise.into(),
        }
    }
}

impl Form {
    fn is(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::ByteOrderMark => "text behind a byte order mark",
            Self::Utf16 => "UTF-16 text",
            Self::Raw => "32 raw bytes",
            Self::Prefix => "hex digits behind 0x",
            Self::Colons => "hex digits with colons",
            Self::Quotes => "in quotes",
            Self::Url => "base64 of the URL kind, with - and _",
            Self::Unpadded => "base64 without the = at its end",
            Self::Pem => "a PEM file",
            Self::Assignment => "a line of the form NAME = VALUE",
            Self::Lines => "several lines",
        }
    }

    fn hint(self, otherwise: &str) -> &str {
        match self {
            Self::Empty | Self::Lines | Self::Pem => otherwise,
            Self::ByteOrderMark => {
                "remove its first three bytes: sed -i '1s/^\\xef\\xbb\\xbf//' FILE"
            }
            Self::Utf16 => "save it as ASCII or UTF-8, without a byte order mark",
            Self::Raw => "put the same bytes there as text: base64 FILE prints it",
            Self::Prefix => "remove the 0x",
            Self::Colons => "remove the colons",
            Self::Quotes => "remove the quotes",
            Self::Url => {
                "write + for each - and / for each _, and = at its end where that is missing"
            }
            Self::Unpadded => "write = at its end",
            Self::Assignment => "leave the value, and nothing else, in the file",
        }
    }
}

fn form(text: &[u8]) -> Option<Form> {
    let inner = text.trim_ascii();
    let digits = |text: &[u8]| text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit);
    if inner.is_empty() {
        Some(Form::Empty)
    } else if text.starts_with(b"\xef\xbb\xbf") {
        Some(Form::ByteOrderMark)
    } else if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        Some(Form::Utf16)
    } else if text.len() == 32 && !text.is_ascii() {
        Some(Form::Raw)
    } else if inner.starts_with(b"-----BEGIN") {
        Some(Form::Pem)
    } else if let Some(rest) = inner.strip_prefix(b"0x").or(inner.strip_prefix(b"0X")) {
        digits(rest).then_some(Form::Prefix)
    } else if inner.len() == 95 && inner.iter().skip(2).step_by(3).all(|&c| c == b':') {
        Some(Form::Colons)
    } else if is_quoted(inner) {
        Some(Form::Quotes)
    } else {
        base64(inner).or_else(|| lines(inner))
    }
}

fn is_quoted(text: &[u8]) -> bool {
    matches!(text, [b'"', .., b'"'] | [b'\'', .., b'\''])
}

/// 43 characters of base64, of either alphabet, with or without its end.
fn base64(text: &[u8]) -> Option<Form> {
    let body = text.strip_suffix(b"=").unwrap_or(text);
    let plain = |c: &u8| c.is_ascii_alphanumeric() || b"+/".contains(c);
    if body.len() != 43 || !body.iter().all(|c| plain(c) || b"-_".contains(c)) {
        return None;
    }
    if !body.iter().all(plain) {
        return Some(Form::Url);
    }
    (body.len() == text.len()).then_some(Form::Unpadded)
}

fn lines(text: &[u8]) -> Option<Form> {
    let name = |text: &[u8]| {
        let text = text.trim_ascii();
        let word = |c: &u8| c.is_ascii_alphanumeric() || b"_-. ".contains(c);
        (1..32).contains(&text.len()) && text.iter().all(word)
    };
    let assigns = text.split(|&c| c == b'\n').any(|line| {
        let at = line.iter().position(|&c| c == b'=');
        at.is_some_and(|at| name(&line[..at]) && !line[at + 1..].trim_ascii().is_empty())
    });
    match (assigns, text.contains(&b'\n')) {
        (true, _) => Some(Form::Assignment),
        (false, true) => Some(Form::Lines),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::secrets::secret, *};

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn form_of(text: &[u8]) -> Malformed {
        secret(text).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_text_is_known_by_its_looks() {
        let raw: Vec<u8> = (100..132).map(|byte: u8| byte.wrapping_mul(7)).collect();
        let utf16: Vec<u8> = "\u{feff}"
            .encode_utf16()
            .chain(HEX.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        let colons: Vec<&str> =
            HEX.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        let url = BASE64.replace("AA", "-_");
        for (text, form) in [
            ("".into(), Form::Empty),
            (" \n".into(), Form::Empty),
            (format!("\u{feff}{BASE64}").into_bytes(), Form::ByteOrderMark),
            (utf16, Form::Utf16),
            (raw, Form::Raw),
            (format!("0x{HEX}\n").into(), Form::Prefix),
            (colons.join(":").into(), Form::Colons),
            (format!("\"{BASE64}\"").into(), Form::Quotes),
            (format!("'{HEX}'\n").into(), Form::Quotes),
            (url.clone().into(), Form::Url),
            (url.trim_end_matches('=').into(), Form::Url),
            (BASE64.trim_end_matches('=').into(), Form::Unpadded),
            ("-----BEGIN PRIVATE KEY-----\nx".into(), Form::Pem),
            (format!("[Interface]\nPrivateKey = {BASE64}").into(), Form::Assignment),
            (format!("MESH_KEY={HEX}").into(), Form::Assignment),
            (format!("{HEX}\n{HEX}").into(), Form::Lines),
        ] {
            assert_eq!(form_of(&text), Malformed::Form(form), "{form:?}");
        }
        assert_eq!(form_of(b"hunter2"), Malformed::Length(7));
    }
}
