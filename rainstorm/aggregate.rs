//! Aggregates by key over the whole input: counts, sums, least and greatest, averages, distinct values, the best few.
//! Only the final result is put out (fault R8), unless the spec asks for a changelog.

use crate::batch::{BATCH_BYTES, Batch, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::decimal::Decimal;
use crate::error::{Error, Result};
use crate::key::{Keys, push_key, write_key};
use crate::room::Room;
use crate::stateful::{Held, PIECE_BYTES, State, Stateful};
use crate::table::{Delta, Table, Value, Which};
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

impl Value for Total {}

/// Of those that are not among the best, so many are kept until they are sorted out.
const BEST_SLACK: usize = 1024;

/// Keeps the `count` greatest, the greatest first; among equals the key that sorts first.
pub fn keep_best<K: Ord>(all: &mut Vec<(K, Total)>, count: usize) {
    all.sort_by(|a, b| b.1.value().cmp(&a.1.value()).then_with(|| a.0.cmp(&b.0)));
    all.truncate(count);
}

/// The state of an aggregate without windows.
pub struct Totals {
    spec: Aggregate,
    room: Room,
    totals: Table<Total>,
    /// Key and value, of those counted as distinct.
    pairs: Table<()>,
    key: Vec<u8>,
    writing: Option<Writing>,
}

/// How far the putting out has come.
struct Writing {
    /// Lines of a JSON document that are still to come.
    members: usize,
    /// The best so far, and some that may be.
    best: Vec<(Box<[u8]>, Total)>,
}

impl Totals {
    /// An empty one.
    pub fn new(spec: Aggregate, room: Room) -> Self {
        let (totals, pairs) = match spec.kind {
            Kind::Distinct => (room.part(1, 2), room.part(1, 2)),
            _ => (room.clone(), room.part(0, 1)),
        };
        Self {
            spec,
            room,
            totals: Table::new(totals),
            pairs: Table::new(pairs),
            key: Vec::new(),
            writing: None,
        }
    }

    /// Takes one line in.
    fn take(&mut self, line: &[u8], one: Total) -> Result<()> {
        if self.spec.kind == Kind::Distinct {
            let of = self.spec.of.unwrap_or_default();
            let value = csv::value(csv::field(line, of).unwrap_or_default());
            let pair = pair(&self.key, self.spec.by.len(), &value);
            if !self.pairs.insert(&pair, ())? {
                return Ok(());
            }
        }
        let add = |total: &mut Total, is_new| match total.with(one) {
            _ if is_new => true,
            Some(sum) => {
                *total = sum;
                true
            }
            None => false,
        };
        match self.totals.update(&self.key, || one, add)? {
            true => Ok(()),
            false => Err(self.spec.overflow(&self.key)),
        }
    }

    /// Puts out some totals, sorted by key; whether there are more.
    fn write(&mut self, which: Which, out: &mut Vec<Batch>) -> Result<bool> {
        let mut lines = Lines::default();
        let is_first = self.writing.is_none();
        if is_first {
            self.totals.begin(which)?;
        }
        let writing = self.writing.get_or_insert_with(|| Writing {
            members: self.totals.count(),
            best: Vec::new(),
        });
        let several = self.spec.by.len() > 1;
        let (json, best) = (self.spec.json && !self.spec.changelog, self.spec.best);
        if json && is_first {
            lines.push(b"{");
        }
        let mut put = |key: &[u8], total: Total, left: usize| {
            match json {
                true => {
                    // Keys that are none were refused as they came.
                    let key = serde_json::Value::from(String::from_utf8_lossy(key));
                    let comma = if left > 0 { "," } else { "" };
                    lines.push(format!("  {key}: {}{comma}", total.value()).as_bytes());
                }
                false => lines.push_with(|to| {
                    push_key(key, several, to);
                    to.extend_from_slice(format!(",{}", total.value()).as_bytes());
                }),
            }
            if lines.bytes() >= BATCH_BYTES {
                out.extend(lines.take());
            }
        };
        let over = self.totals.walk(&mut PIECE_BYTES.clone(), |key, total| {
            let Some(&total) = total else {
                return Ok(());
            };
            if let Some(best) = best {
                add_to_best(&mut writing.best, best, (key.into(), total));
                return Ok(());
            }
            writing.members = writing.members.saturating_sub(1);
            put(key, total, writing.members);
            Ok(())
        })?;
        if over {
            let mut all = std::mem::take(&mut writing.best);
            keep_best(&mut all, best.unwrap_or_default());
            let mut left = all.len();
            for (key, total) in all {
                left -= 1;
                put(&key, total, left);
            }
            if json {
                lines.push(b"}");
            }
            self.writing = None;
        }
        out.extend(lines.take());
        Ok(!over)
    }
}

/// Adds one to those of which the `count` best are wanted.
pub fn add_to_best<K: Ord>(all: &mut Vec<(K, Total)>, count: usize, one: (K, Total)) {
    all.push(one);
    if all.len() >= 2 * count + BEST_SLACK {
        keep_best(all, count);
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
            self.take(line, one)?;
        }
        self.pairs.settle()?;
        self.totals.settle()
    }

    fn barrier(&mut self, _mark: i64, out: &mut Vec<Batch>) -> Result<bool> {
        match self.spec.changelog {
            true => self.write(Which::ChangedSorted, out),
            false => Ok(false),
        }
    }

    fn finish(&mut self, out: &mut Vec<Batch>) -> Result<bool> {
        match self.spec.changelog {
            true => self.write(Which::ChangedSorted, out),
            false => self.write(Which::All, out),
        }
    }
}

impl State for Totals {
    fn begin_save(&mut self, full: bool) -> Result<()> {
        self.totals.begin(Which::to_save(full))?;
        self.pairs.begin(Which::to_save(full))
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let mut left = PIECE_BYTES;
        let state = (self.totals.next(&mut left)?, self.pairs.next(&mut left)?);
        if state.0.is_empty() && state.1.is_empty() {
            self.totals.saved()?;
            self.pairs.saved()?;
            return Ok(None);
        }
        Ok(Some(hydfs_types::encode(&state)))
    }

    fn is_unchanged(&self) -> bool {
        self.totals.is_unchanged() && self.pairs.is_unchanged()
    }

    fn bytes(&self) -> usize {
        self.totals.bytes() + self.pairs.bytes()
    }

    fn held(&self) -> Held {
        Held {
            memory: (self.totals.memory() + self.pairs.memory()) as u64,
            disk: self.room.disk_bytes(),
        }
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (totals, pairs): (Delta<Total>, Delta<()>) = hydfs_types::decode(saved)?;
        self.totals.restore(totals, |key| keys.hold(key))?;
        let several = self.spec.by.len();
        self.pairs
            .restore(pairs, |pair| keys.hold(&pair_key(pair, several)))
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
    use crate::stateful::{put_back, save};

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
            let mut totals = Totals::new(spec(kind, Some(1)), Room::vast());
            feed(&mut totals, first);
            let saved = save(&mut totals, false);
            assert!(save(&mut totals, false).is_empty() && totals.is_unchanged());
            let mut again = Totals::new(spec(kind, Some(1)), Room::vast());
            put_back(&mut again, &saved);
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
        let mut totals = Totals::new(top, Room::vast());
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
        let mut totals = Totals::new(spec, Room::vast());
        feed(&mut totals, "a\nb");
        let mut out = Vec::new();
        totals.barrier(i64::MIN, &mut out).unwrap();
        assert_eq!(out.pop().unwrap().bytes(), "a,1\nb,1");
        save(&mut totals, false);
        feed(&mut totals, "b");
        assert_eq!(result(totals), "b,2");
    }

    #[test]
    fn a_number_that_is_none_and_a_sum_without_room_fail_the_job() {
        let batch = |text: &'static str| Batch::from_lines(Bytes::from_static(text.as_bytes()));
        let mut totals = Totals::new(spec(Kind::Sum, Some(1)), Room::vast());
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
