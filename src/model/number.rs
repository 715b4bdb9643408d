//! Numbers of 32 bits, as people and other programs write them.

/// The value of decimal digits or, behind `0x`, of hex digits; `None` of anything else, a sign
/// included.
pub fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // The parser takes a plus sign as a part of a number.
    let is_digit = |byte: u8| byte.is_ascii_hexdigit();
    digits.bytes().all(is_digit).then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn digits_alone_are_a_number() {
        assert_eq!(number("0x84001002"), Some(0x8400_1002));
        assert_eq!(number("0xAb"), Some(0xab));
        assert_eq!((number("010"), number("4294967295")), (Some(10), Some(u32::MAX)));
        for text in ["", "0x", "+1", "0x+1", "-1", "ab", "1_0", " 1", "4294967296", "0x100000000"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}
