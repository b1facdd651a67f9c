//! Aggregates by key over the whole input: counts, sums, least and greatest, averages, distinct values, the best few.
//! Only the final result is put out (fault R8), unless the spec asks for a changelog.

use crate::batch::{BATCH_BYTES, Batch, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::decimal::Decimal;
use crate::error::{Error, Result};
use crate::key::{Keys, push_key, write_key};
use crate::stateful::Stateful;
use crate::table::{Delta, Table, check_size};
use crate::window::WindowSpec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is worked out for each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Count,
    Sum,
    Min,
    Max,
    Avg,
    /// How many different values.
    Distinct,
}

/// An aggregate with its columns as numbers from 0.
#[derive(Debug, Clone)]
pub struct Aggregate {
    pub kind: Kind,
    pub by: Vec<usize>,
    /// The column that numbers or values are in.
    pub of: Option<usize>,
    /// Only so many keys with the greatest results, the greatest first.
    pub best: Option<usize>,
    pub window: Option<WindowSpec>,
    /// One JSON document instead of lines.
    pub json: bool,
    /// At each job epoch, what has changed.
    pub changelog: bool,
}

/// The result of one key so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Total {
    Count(u64),
    Sum(Decimal),
    Min(Decimal),
    Max(Decimal),
    Avg(Decimal, u64),
}

impl Total {
    /// Of nothing but `number`; a distinct value counts as one.
    pub fn first(kind: Kind, number: Decimal) -> Self {
        match kind {
            Kind::Count | Kind::Distinct => Self::Count(1),
            Kind::Sum => Self::Sum(number),
            Kind::Min => Self::Min(number),
            Kind::Max => Self::Max(number),
            Kind::Avg => Self::Avg(number, 1),
        }
    }

    /// With another one; `None` if it gets too large.
    pub fn with(self, other: Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Count(a), Self::Count(b)) => Self::Count(a.checked_add(b)?),
            (Self::Sum(a), Self::Sum(b)) => Self::Sum(a.checked_add(b)?),
            (Self::Min(a), Self::Min(b)) => Self::Min(a.min(b)),
            (Self::Max(a), Self::Max(b)) => Self::Max(a.max(b)),
            (Self::Avg(a, m), Self::Avg(b, n)) => Self::Avg(a.checked_add(b)?, m.checked_add(n)?),
            (same, _) => same,
        })
    }

    /// As a number, to be shown and compared.
    pub fn value(self) -> Decimal {
        match self {
            Self::Count(count) => Decimal::whole(i64::try_from(count).unwrap_or(i64::MAX)),
            Self::Sum(value) | Self::Min(value) | Self::Max(value) => value,
            Self::Avg(sum, count) => sum.divided_by(count),
        }
    }
}

impl Aggregate {
    /// What one line adds.
    pub fn one(&self, line: &[u8]) -> Result<Total> {
        let number = match (self.kind, self.of) {
            (Kind::Count | Kind::Distinct, _) | (_, None) => Decimal::default(),
            (_, Some(of)) => number(line, of)?,
        };
        Ok(Total::first(self.kind, number))
    }

    /// The key of a line.
    pub fn key(&self, line: &[u8], key: &mut Vec<u8>) {
        key.clear();
        write_key(line, &self.by, key);
    }

    /// The error of a total that got too large.
    pub fn overflow(&self, key: &[u8]) -> Error {
        let mut shown = Vec::new();
        push_key(key, self.by.len() > 1, &mut shown);
        Error::Job(format!(
            "the result of key `{}` does not fit into a number of 29 digits",
            String::from_utf8_lossy(&shown)
        ))
    }
}

/// Keeps the `count` greatest, the greatest first; among equals the key that sorts first.
pub fn keep_best<K: Ord>(all: &mut Vec<(K, Total)>, count: usize) {
    all.sort_by(|a, b| b.1.value().cmp(&a.1.value()).then_with(|| a.0.cmp(&b.0)));
    all.truncate(count);
}

/// The state of an aggregate without windows.
pub struct Totals {
    spec: Aggregate,
    totals: Table<Total>,
    /// Key and value, of those counted as distinct.
    pairs: Table<()>,
    key: Vec<u8>,
}

impl Totals {
    /// An empty one.
    pub fn new(spec: Aggregate) -> Self {
        Self {
            spec,
            totals: Table::default(),
            pairs: Table::default(),
            key: Vec::new(),
        }
    }

    fn write(&self, all: Vec<(Box<[u8]>, Total)>, out: &mut Vec<Batch>) {
        let several = self.spec.by.len() > 1;
        let mut lines = Lines::default();
        for (key, total) in all {
            lines.push_with(|to| {
                push_key(&key, several, to);
                to.extend_from_slice(format!(",{}", total.value()).as_bytes());
            });
            if lines.bytes() >= BATCH_BYTES {
                out.extend(lines.take());
            }
        }
        out.extend(lines.take());
    }

    fn write_json(all: Vec<(Box<[u8]>, Total)>, out: &mut Vec<Batch>) {
        let mut lines = Lines::default();
        lines.push(b"{");
        let count = all.len();
        for (at, (key, total)) in all.into_iter().enumerate() {
            // Keys that are none were refused as they came.
            let key = serde_json::Value::from(String::from_utf8_lossy(&key));
            let comma = if at + 1 < count { "," } else { "" };
            lines.push(format!("  {key}: {}{comma}", total.value()).as_bytes());
            if lines.bytes() >= BATCH_BYTES {
                out.extend(lines.take());
            }
        }
        lines.push(b"}");
        out.extend(lines.take());
    }
}

/// A key of so many columns and a value, in one: which is which can be told. A key of several columns tells where each ends;
/// in one of one column a zero byte is followed by 0xff.
fn pair(key: &[u8], columns: usize, value: &[u8]) -> Vec<u8> {
    let mut pair = Vec::with_capacity(key.len() + value.len() + 2);
    for &byte in key {
        pair.push(byte);
        if byte == 0 && columns == 1 {
            pair.push(0xff);
        }
    }
    pair.extend_from_slice(&[0, 0]);
    pair.extend_from_slice(value);
    pair
}

/// The key of a pair.
fn pair_key(pair: &[u8], columns: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(pair.len());
    let (mut bytes, mut ends) = (pair.iter(), 0);
    while let Some(&byte) = bytes.next() {
        if byte != 0 {
            key.push(byte);
            continue;
        }
        let escaped = bytes.next() == Some(&0xff);
        match (escaped, columns) {
            (true, 1) => key.push(0),
            (true, _) => key.extend_from_slice(&[0, 0xff]),
            (false, 1) => break,
            (false, _) => {
                key.extend_from_slice(&[0, 0]);
                ends += 1;
                if ends == columns {
                    break;
                }
            }
        }
    }
    key
}

impl Stateful for Totals {
    fn apply(
        &mut self,
        _input: usize,
        batch: Batch,
        _out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        for (at, line) in batch.lines().enumerate() {
            let one = match self.spec.one(line) {
                Ok(one) => one,
                Err(error) => {
                    letters.blame(&batch, at, error)?;
                    continue;
                }
            };
            self.spec.key(line, &mut self.key);
            if self.spec.json && str::from_utf8(&self.key).is_err() {
                let what = format!(
                    "the key `{}` is no UTF-8, as members of a JSON document must be",
                    self.key.escape_ascii()
                );
                let remedy = "filter such lines out, or give the sink `format = \"lines\"`";
                letters.blame(&batch, at, Error::Line(format!("{what}; {remedy}")))?;
                continue;
            }
            if self.spec.kind == Kind::Distinct {
                let of = self.spec.of.unwrap_or_default();
                let value = csv::value(csv::field(line, of).unwrap_or_default());
                let pair = pair(&self.key, self.spec.by.len(), &value);
                if !self.pairs.insert(&pair, ()) {
                    continue;
                }
            }
            let mut is_new = false;
            let total = self.totals.update(&self.key, || {
                is_new = true;
                one
            });
            if !is_new {
                *total = total
                    .with(one)
                    .ok_or_else(|| self.spec.overflow(&self.key))?;
            }
        }
        check_size(self.bytes(), self.totals.len() + self.pairs.len())
    }

    fn barrier(&mut self, _mark: i64, out: &mut Vec<Batch>) -> Result<()> {
        if self.spec.changelog {
            let changed = self.totals.changed();
            let all = changed
                .into_iter()
                .filter_map(|key| Some((key.into(), *self.totals.get(key)?)))
                .collect();
            self.write(all, out);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Batch>) -> Result<()> {
        if self.spec.changelog {
            return self.barrier(i64::MIN, out);
        }
        let mut all = self.totals.drain_sorted();
        if let Some(best) = self.spec.best {
            keep_best(&mut all, best);
        }
        match self.spec.json {
            true => Self::write_json(all, out),
            false => self.write(all, out),
        }
        Ok(())
    }

    fn save(&mut self, full: bool) -> Option<Bytes> {
        let state = (self.totals.delta(full), self.pairs.delta(full));
        let is_empty = state.0.is_empty() && state.1.is_empty();
        (!is_empty).then(|| hydfs_types::encode(&state))
    }

    fn is_unchanged(&self) -> bool {
        self.totals.is_unchanged() && self.pairs.is_unchanged()
    }

    fn bytes(&self) -> usize {
        self.totals.bytes() + self.pairs.bytes()
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (totals, pairs): (Delta<Total>, Delta<()>) = hydfs_types::decode(saved)?;
        self.totals.restore(totals, |key| keys.hold(key));
        let several = self.spec.by.len();
        self.pairs
            .restore(pairs, |pair| keys.hold(&pair_key(pair, several)));
        Ok(())
    }
}

/// The number in a column.
pub fn number(line: &[u8], column: usize) -> Result<Decimal> {
    let value = csv::value(csv::field(line, column).unwrap_or_default());
    Decimal::parse(&value).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
        Error::Line(format!(
            "column {} of `{shown}` is not a number (digits, perhaps a point and up to nine more); filter such lines out",
            column + 1
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: Kind, of: Option<usize>) -> Aggregate {
        Aggregate {
            kind,
            by: vec![0],
            of,
            best: None,
            window: None,
            json: false,
            changelog: false,
        }
    }

    fn feed(totals: &mut Totals, text: &'static str) {
        let batch = Batch::from_lines(Bytes::from_static(text.as_bytes()));
        let mut letters = Letters::new(false);
        totals
            .apply(0, batch, &mut Vec::new(), &mut letters)
            .unwrap();
    }

    fn result(mut totals: Totals) -> String {
        let mut out = Vec::new();
        totals.finish(&mut out).unwrap();
        let text: Vec<_> = out
            .iter()
            .map(|batch| String::from_utf8_lossy(batch.bytes()))
            .collect();
        text.join("\n")
    }

    #[test]
    fn every_kind_gives_its_result_also_after_a_restore_in_between() {
        let (first, second) = ("a,1.5\nb,2\na,-3", "b,2\na,1.5\nc,7");
        for (kind, want) in [
            (Kind::Count, "a,3\nb,2\nc,1"),
            (Kind::Sum, "a,0\nb,4\nc,7"),
            (Kind::Min, "a,-3\nb,2\nc,7"),
            (Kind::Max, "a,1.5\nb,2\nc,7"),
            (Kind::Avg, "a,0\nb,2\nc,7"),
            (Kind::Distinct, "a,2\nb,1\nc,1"),
        ] {
            let mut totals = Totals::new(spec(kind, Some(1)));
            feed(&mut totals, first);
            let saved = totals.save(false).unwrap();
            assert!(totals.save(false).is_none() && totals.is_unchanged());
            let mut again = Totals::new(spec(kind, Some(1)));
            again.restore(&saved, Keys { task: 0, tasks: 1 }).unwrap();
            feed(&mut again, second);
            assert_eq!(result(again), want, "{kind:?}");
        }
    }

    #[test]
    fn the_key_of_a_pair_can_be_told() {
        for (line, columns) in [
            (&b"a\0\0b,c"[..], 1),
            (b"a\0b,\0c", 2),
            (b",", 2),
            (b"a", 1),
        ] {
            let by: Vec<usize> = (0..columns).collect();
            let mut key = Vec::new();
            write_key(line, &by, &mut key);
            for value in [&b""[..], b"\0\0v", b"v\0"] {
                assert_eq!(pair_key(&pair(&key, columns, value), columns), key);
            }
        }
        assert_ne!(pair(b"a", 1, b"b\0\0c"), pair(b"a\0\0b", 1, b"c"));
    }

    #[test]
    fn several_columns_make_a_key_and_the_best_come_first() {
        let mut top = spec(Kind::Count, None);
        top.by = vec![1, 0];
        top.best = Some(2);
        let mut totals = Totals::new(top);
        feed(
            &mut totals,
            "x,\"a, b\"\ny,c\nx,\"a, b\"\nz,c\nz,c\nz,c\nw,c",
        );
        assert_eq!(result(totals), "c,z,3\n\"a, b\",x,2");
    }

    #[test]
    fn a_changelog_tells_what_changed_at_each_job_epoch() {
        let mut spec = spec(Kind::Count, None);
        spec.changelog = true;
        let mut totals = Totals::new(spec);
        feed(&mut totals, "a\nb");
        let mut out = Vec::new();
        totals.barrier(i64::MIN, &mut out).unwrap();
        assert_eq!(out.pop().unwrap().bytes(), "a,1\nb,1");
        totals.save(false).unwrap();
        feed(&mut totals, "b");
        assert_eq!(result(totals), "b,2");
    }

    #[test]
    fn a_number_that_is_none_and_a_sum_without_room_fail_the_job() {
        let batch = |text: &'static str| Batch::from_lines(Bytes::from_static(text.as_bytes()));
        let mut totals = Totals::new(spec(Kind::Sum, Some(1)));
        let error = totals
            .apply(0, batch("k,one"), &mut Vec::new(), &mut Letters::new(false))
            .unwrap_err();
        assert!(
            error.is_final() && error.to_string().contains("column 2"),
            "{error}"
        );
        let huge = "k,9999999999999999999999999999\n".repeat(20);
        let huge = Batch::from_text(Bytes::from(huge)).unwrap();
        // What does not fit is no single line's fault.
        let error = totals
            .apply(0, huge, &mut Vec::new(), &mut Letters::new(true))
            .unwrap_err();
        assert!(error.to_string().contains("key `k`"), "{error}");
        assert!(
            totals
                .restore(b"\x01\x00\xff", Keys { task: 0, tasks: 1 })
                .is_err()
        );
    }
}
