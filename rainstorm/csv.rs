//! Fields of one CSV line (RFC 4180), found on demand: a line without quotes costs one `memchr` per comma.
//!
//! A record is one line: line ends inside quoted fields are not supported (`docs/JOBS.md`). A field that opens
//! a quote and never closes it reaches to the end of the line. The raw text of a field includes its quotes.

use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// The byte order mark that text of some programs begins with.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// Iterator over the raw fields of a line. An empty line has one empty field.
pub struct Fields<'a> {
    rest: Option<&'a [u8]>,
}

/// The raw fields of `line`; a carriage return at its end is not part of the last one.
pub fn fields(line: &[u8]) -> Fields<'_> {
    Fields {
        rest: Some(line.strip_suffix(b"\r").unwrap_or(line)),
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let from = if rest.first() == Some(&b'"') {
            quoted_len(rest)
        } else {
            0
        };
        match memchr(b',', &rest[from..]) {
            Some(comma) => {
                self.rest = Some(&rest[from + comma + 1..]);
                Some(&rest[..from + comma])
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }
}

/// Bytes of the quoted part that `text` begins with, both quotes included.
pub fn quoted_len(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match memchr(b'"', &text[at..]) {
            None => return text.len(),
            Some(quote) if text.get(at + quote + 1) == Some(&b'"') => at += quote + 2,
            Some(quote) => return at + quote + 1,
        }
    }
}

/// The raw field number `index`, from 0.
pub fn field(line: &[u8], index: usize) -> Option<&[u8]> {
    fields(line).nth(index)
}

/// The value of a raw field: quotes removed, doubled quotes made single.
pub fn value(raw: &[u8]) -> Cow<'_, [u8]> {
    if raw.first() != Some(&b'"') {
        return Cow::Borrowed(raw);
    }
    let end = quoted_len(raw);
    let closed = end > 1 && end <= raw.len() && raw[end - 1] == b'"' && closes(&raw[..end]);
    let inner = if closed {
        &raw[1..end - 1]
    } else {
        &raw[1..end]
    };
    let tail = &raw[end..];
    if tail.is_empty() && memchr(b'"', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        out.push(byte);
        if byte == b'"' {
            bytes.next();
        }
    }
    out.extend_from_slice(tail);
    Cow::Owned(out)
}

/// Whether a quoted part ends with its closing quote (and not with half of a doubled one, or none).
fn closes(quoted: &[u8]) -> bool {
    let quotes = quoted.iter().filter(|&&byte| byte == b'"').count();
    quotes.is_multiple_of(2)
}

/// Appends `value` as a field, quoted if it needs to be.
pub fn push_value(value: &[u8], out: &mut Vec<u8>) {
    if memchr2(b',', b'"', value).is_none() && memchr2(b'\r', b'\n', value).is_none() {
        out.extend_from_slice(value);
        return;
    }
    push_quoted(value, out);
}

/// Appends `value` as a field in quotes.
pub fn push_quoted(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in value {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(line: &[u8]) -> Vec<Vec<u8>> {
        fields(line).map(|raw| value(raw).into_owned()).collect()
    }

    fn reference(line: &[u8]) -> Vec<Vec<u8>> {
        let mut reader = csv_core::Reader::new();
        let (mut out, mut ends) = (vec![0; line.len() + 8], vec![0; line.len() + 8]);
        let mut input = line.to_vec();
        input.push(b'\n');
        let (_, _, wrote, fields) = reader.read_record(&input, &mut out, &mut ends);
        let mut from = 0;
        let mut all: Vec<Vec<u8>> = Vec::new();
        for &end in &ends[..fields] {
            all.push(out[from..end].to_vec());
            from = end;
        }
        assert!(wrote >= from);
        all
    }

    #[test]
    fn quoted_commas_and_doubled_quotes() {
        assert_eq!(
            values(br#"1,"a, b","say ""hi""",last"#),
            [&b"1"[..], b"a, b", b"say \"hi\"", b"last"]
        );
        assert_eq!(values(b"a,,\r"), [&b"a"[..], b"", b""]);
        assert_eq!(values(b""), [&b""[..]]);
        assert_eq!(values(br#""open, to the end"#), [&b"open, to the end"[..]]);
        assert_eq!(field(br#""x,y",z"#, 1), Some(&b"z"[..]));
        assert_eq!(field(b"a,b", 2), None);
    }

    proptest! {
        /// The same values as csv-core, on every line whose quotes are balanced.
        #[test]
        fn agrees_with_csv_core(line in "[ab,\" ]{1,24}") {
            let opens = fields(line.as_bytes()).any(|raw| raw.first() == Some(&b'"') && !closes(&raw[..quoted_len(raw)]));
            prop_assume!(!opens);
            prop_assert_eq!(values(line.as_bytes()), reference(line.as_bytes()));
        }

        #[test]
        fn pushed_values_come_back(all in proptest::collection::vec("[ab,\"\r ]{0,8}", 1..5)) {
            let mut line = Vec::new();
            for (at, text) in all.iter().enumerate() {
                if at > 0 { line.push(b','); }
                push_value(text.as_bytes(), &mut line);
            }
            let want: Vec<Vec<u8>> = all.iter().map(|text| text.clone().into_bytes()).collect();
            prop_assert_eq!(values(&line), want);
        }
    }
}
