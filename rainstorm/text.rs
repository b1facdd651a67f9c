//! What is done with texts that are most often, but need not be, UTF-8: bytes that are none stay as they are, and count
//! as a character each.

use crate::batch::LINE_BYTES_MAX;
use memchr::memmem;
use std::ops::Range;

/// Why a text is not made.
pub const TOO_LONG: &str = "a text would be longer than a line may be, 16 MiB";

/// Appends a text in upper or lower case. Bytes that are no UTF-8 have no case: they stay.
pub fn with_case(text: &[u8], cased: impl Fn(&str) -> String, out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        out.extend_from_slice(cased(chunk.valid()).as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
}

/// Where the characters of a text begin.
pub fn characters(text: &[u8]) -> impl Iterator<Item = usize> {
    let mut start = 0;
    text.utf8_chunks().flat_map(move |chunk| {
        let at = start;
        let invalid = at + chunk.valid().len();
        start = invalid + chunk.invalid().len();
        let valid = chunk.valid().char_indices();
        valid
            .map(move |(inner, _)| at + inner)
            .chain(invalid..start)
    })
}

/// The bytes of the characters from number `from` up to number `to`, or all to the end. Negative numbers count from the end;
/// what lies outside of the text is nothing.
pub fn slice(text: &[u8], from: i64, to: Option<i64>) -> Range<usize> {
    let count = match text.is_ascii() {
        true => text.len(),
        false => characters(text).count(),
    };
    let place = |number: i64| match number < 0 {
        true => count.saturating_sub(number.unsigned_abs() as usize),
        false => count.min(number as usize),
    };
    let from = place(from);
    let to = to.map_or(count, place).max(from);
    if text.is_ascii() {
        return from..to;
    }
    let byte = |number: usize| characters(text).nth(number).unwrap_or(text.len());
    byte(from)..byte(to)
}

/// The text with each `what` as `with`.
pub fn replaced(text: &[u8], what: &[u8], with: &[u8]) -> Result<Vec<u8>, String> {
    if what.is_empty() {
        return Err("an empty text cannot be replaced".to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memmem::find_iter(text, what) {
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(with);
        from = at + what.len();
        if out.len() > LINE_BYTES_MAX {
            return Err(TOO_LONG.to_owned());
        }
    }
    out.extend_from_slice(&text[from..]);
    match out.len() > LINE_BYTES_MAX {
        true => Err(TOO_LONG.to_owned()),
        false => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_and_cut() {
        let text = b"a\xc3\xa4\xff\xe2\x82\xacz\xe2\x82";
        assert_eq!(characters(text).collect::<Vec<_>>(), [0, 1, 3, 4, 7, 8, 9]);
        let cut = |text: &'static [u8], from, to| &text[slice(text, from, to)];
        assert_eq!(cut(b"abcdef", 1, Some(3)), b"bc");
        assert_eq!(cut(b"abcdef", -2, None), b"ef");
        assert_eq!(cut(b"abcdef", 0, Some(-4)), b"ab");
        assert_eq!(cut(b"abcdef", 4, Some(2)), b"");
        assert_eq!(cut(b"abcdef", -9, Some(99)), b"abcdef");
        assert_eq!(cut(b"abcdef", i64::MIN, Some(i64::MAX)), b"abcdef");
        assert_eq!(cut(text, 1, Some(4)), b"\xc3\xa4\xff\xe2\x82\xac");
        assert_eq!(cut(text, -3, Some(-2)), b"z");
        assert_eq!(cut(b"", 0, None), b"");
    }

    #[test]
    fn texts_are_replaced_as_long_as_they_fit_into_a_line() {
        assert_eq!(replaced(b"a-b--", b"-", b"+ ").unwrap(), b"a+ b+ + ");
        assert_eq!(replaced(b"aaa", b"aa", b"").unwrap(), b"a");
        assert!(replaced(b"a", b"", b"x").is_err());
        let long = vec![b'x'; 1 << 20];
        assert_eq!(replaced(&long[..17], b"x", &long), Err(TOO_LONG.to_owned()));
    }

    #[test]
    fn bytes_that_are_no_text_have_no_case() {
        for (case, want) in [
            (str::to_uppercase as fn(&str) -> String, b"CAF\xe9\xc3\x84"),
            (str::to_lowercase, b"caf\xe9\xc3\xa4"),
        ] {
            let mut out = Vec::new();
            with_case(b"Caf\xe9\xc3\xa4", case, &mut out);
            assert_eq!(out, want);
        }
    }
}
