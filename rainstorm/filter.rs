//! Passes the lines that match. Where the text looked for stands in the file as it is, a batch is searched as a whole
//! and only lines with a hit are looked at.

use crate::batch::{Batch, Lines};
use crate::csv;
use crate::decimal::Decimal;
use crate::spec::{Bound, Order, Test};
use memchr::{memchr, memchr_iter, memchr3, memmem};

/// A filter.
pub struct Filter {
    column: Option<usize>,
    test: Test,
    not: bool,
    /// Of `Contains`: made once, not for each line.
    contains: Option<memmem::Finder<'static>>,
    /// Finds where a line may match.
    finder: Option<memmem::Finder<'static>>,
}

impl Filter {
    /// A filter of lines, or of the values of a column.
    pub fn new(column: Option<usize>, test: Test, not: bool) -> Self {
        let finder = match &test {
            Test::Contains(text) | Test::Equals(text)
                if !text.is_empty() && !text.contains(&b'\n') =>
            {
                // A quote inside a CSV field is doubled in the file; a trailing return may be stripped from a line.
                let literal = column.is_none() || !text.contains(&b'"');
                literal.then(|| memmem::Finder::new(text).into_owned())
            }
            _ => None,
        };
        let contains = match &test {
            Test::Contains(text) => Some(memmem::Finder::new(text).into_owned()),
            _ => None,
        };
        Self {
            column,
            test,
            not,
            contains,
            finder,
        }
    }

    fn matches(&self, line: &[u8]) -> bool {
        match self.column {
            None => self.test(line.strip_suffix(b"\r").unwrap_or(line)),
            Some(index) => csv::field(line, index).is_some_and(|raw| self.test(&csv::value(raw))),
        }
    }

    /// Whether a hit at `from` can be told to stand in the column without cutting the line into fields: commas are
    /// counted many at a time. False says nothing.
    fn is_in_column(&self, line: &[u8], from: usize) -> bool {
        let Some(column) = self.column else {
            return false;
        };
        let (text, whole) = match &self.test {
            Test::Contains(text) => (text, false),
            Test::Equals(text) => (text, true),
            _ => return false,
        };
        let (before, behind) = (&line[..from], &line[from + text.len()..]);
        let plain = memchr(b'"', before).is_none() && memchr3(b',', b'"', b'\r', text).is_none();
        if !plain || memchr_iter(b',', before).count() != column {
            return false;
        }
        let begins = before.last().is_none_or(|&byte| byte == b',');
        let ends = behind.first().is_none_or(|&byte| byte == b',');
        !whole || (begins && ends)
    }

    fn test(&self, value: &[u8]) -> bool {
        match &self.test {
            Test::Contains(_) => self
                .contains
                .as_ref()
                .is_some_and(|finder| finder.find(value).is_some()),
            Test::Equals(text) => value == text.as_slice(),
            Test::Regex(regex) => regex.is_match(value),
            Test::In(all) => all.iter().any(|text| value == text.as_slice()),
            Test::Compare(order, bound) => compare(value, *order, bound),
        }
    }

    /// Whether the text may stand in a value across the end of its quotes, as in `"x"y`: a search for it in the lines as they
    /// are misses that.
    fn is_torn(&self, bytes: &[u8]) -> bool {
        let (Some(_), Test::Contains(text) | Test::Equals(text)) = (self.column, &self.test) else {
            return false;
        };
        let at = |quote: usize| {
            let (before, behind) = (&bytes[..quote], &bytes[quote + 1..]);
            let ends = |cut: usize| behind.starts_with(&text[cut..]);
            let is_cut = |cut: usize| ends(cut) && before.ends_with(&text[..cut]);
            behind.first().is_some_and(|next| text.contains(next)) && (1..text.len()).any(is_cut)
        };
        memchr_iter(b'"', bytes).any(at)
    }

    /// The lines that match; the batch itself if all do.
    pub fn apply(&self, batch: Batch) -> Option<Batch> {
        let mut lines = Lines::default();
        let mut run = 0..0;
        let mut keep = |index: usize, lines: &mut Lines| match run.end == index {
            true => run.end += 1,
            false => lines.push_run(&batch, std::mem::replace(&mut run, index..index + 1)),
        };
        match &self.finder {
            Some(finder) if !self.not && !self.is_torn(batch.bytes()) => {
                let bytes = batch.bytes();
                let (mut at, mut index) = (0, 0);
                while let Some(hit) = finder.find(&bytes[at..]) {
                    index = batch.line_from(index, at + hit);
                    let line = batch.line(index);
                    let from = at + hit - batch.range(index).start;
                    if self.is_in_column(line, from) || self.matches(line) {
                        keep(index, &mut lines);
                    }
                    at = batch.range(index).end;
                }
            }
            _ => {
                for index in 0..batch.count() {
                    if self.matches(batch.line(index)) != self.not {
                        keep(index, &mut lines);
                    }
                }
            }
        }
        if run.len() == batch.count() {
            return Some(batch);
        }
        lines.push_run(&batch, run);
        lines.take()
    }
}

fn compare(value: &[u8], order: Order, bound: &Bound) -> bool {
    let ordering = match bound {
        Bound::Number(bound) => match Decimal::parse(value) {
            Some(number) => number.cmp(bound),
            None => return false,
        },
        Bound::Text(bound) => value.cmp(bound),
    };
    match order {
        Order::Above => ordering.is_gt(),
        Order::AtLeast => ordering.is_ge(),
        Order::Below => ordering.is_lt(),
        Order::AtMost => ordering.is_le(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn run(column: Option<usize>, test: Test, not: bool, text: &'static str) -> String {
        let batch = Batch::from_text(Bytes::from_static(text.as_bytes())).unwrap();
        let out = Filter::new(column, test, not).apply(batch);
        out.map_or(String::new(), |batch| {
            String::from_utf8(batch.bytes().to_vec()).unwrap()
        })
    }

    #[test]
    fn texts() {
        let text = "a,x\nb,\"x, y\"\nxx,c\nd,x\n";
        let contains = || Test::Contains(b"x".to_vec());
        let equals = |text: &str| Test::Equals(text.as_bytes().to_vec());
        assert_eq!(
            run(None, contains(), false, text),
            "a,x\nb,\"x, y\"\nxx,c\nd,x"
        );
        assert_eq!(
            run(Some(1), contains(), false, text),
            "a,x\nb,\"x, y\"\nd,x"
        );
        assert_eq!(run(Some(1), contains(), true, text), "xx,c");
        assert_eq!(run(Some(1), equals("x"), false, text), "a,x\nd,x");
        assert_eq!(run(Some(1), equals("x, y"), false, text), "b,\"x, y\"");
        let regex = regex::bytes::Regex::new("^[ab],").unwrap();
        assert_eq!(
            run(None, Test::Regex(regex), false, text),
            "a,x\nb,\"x, y\""
        );
        let nowhere = Test::Contains(b"nowhere".to_vec());
        assert_eq!(run(None, nowhere, false, text), "");
        let quoted = "\"a\"\"b\",1\nab,2\n";
        assert_eq!(run(Some(0), equals("a\"b"), false, quoted), "\"a\"\"b\",1");
        let some = Test::In(vec![b"c".to_vec(), b"x".to_vec()]);
        assert_eq!(run(Some(1), some, false, text), "a,x\nxx,c\nd,x");
    }

    #[test]
    fn a_text_across_the_end_of_quotes_is_found() {
        let text = "\",,\"a\nx\n\",\"a\n";
        let wanted = || b",a".to_vec();
        assert_eq!(run(Some(0), Test::Equals(wanted()), false, text), "\",\"a");
        let contains = Test::Contains(wanted());
        assert_eq!(run(Some(0), contains, false, text), "\",,\"a\n\",\"a");
    }

    #[test]
    fn comparisons() {
        let text = "a,2\nb,10\nc,2.5\nd,none\ne\n";
        let number = |order, text: &str| {
            Test::Compare(
                order,
                Bound::Number(Decimal::parse(text.as_bytes()).unwrap()),
            )
        };
        let at_least = number(Order::AtLeast, "2.5");
        assert_eq!(run(Some(1), at_least, false, text), "b,10\nc,2.5");
        let above = number(Order::Above, "2.5");
        assert_eq!(run(Some(1), above, false, text), "b,10");
        let at_most = number(Order::AtMost, "2");
        assert_eq!(run(Some(1), at_most, true, text), "b,10\nc,2.5\nd,none\ne");
        let below = Test::Compare(Order::Below, Bound::Text(b"2.5".to_vec()));
        assert_eq!(run(Some(1), below, false, text), "a,2\nb,10");
    }

    proptest! {
        /// Searching a batch as a whole finds the lines that looking at each one finds.
        #[test]
        fn equals_a_look_at_each_line(
            text in "[ab,\"\n]{0,60}",
            wanted in "[ab,\"]{1,3}",
            column in 0..4_usize,
            whole in any::<bool>(),
        ) {
            let wanted = wanted.into_bytes();
            let test = if whole { Test::Equals(wanted) } else { Test::Contains(wanted) };
            let filter = Filter::new(column.checked_sub(1), test, false);
            let batch = Batch::from_lines(Bytes::from(text));
            let want: Vec<Vec<u8>> = batch.lines().filter(|line| filter.matches(line)).map(<[u8]>::to_vec).collect();
            let got = filter.apply(batch);
            let got: Vec<Vec<u8>> = got.iter().flat_map(Batch::lines).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(got, want);
        }
    }
}
