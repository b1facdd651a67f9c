//! Aggregates over windows of event time: tumbling, sliding, and sessions of one key. A window puts its result out
//! once, when the event watermark has passed its end and the allowed lateness; lines that come after that are late.
//!
//! Windows close at barriers only, and the event watermark that closed them is saved in the same job epoch: after a
//! restart no window is put out twice.

use crate::aggregate::{Aggregate, Kind, Total, add_to_best, keep_best};
use crate::batch::{BATCH_BYTES, Batch, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::due::{self, Due};
use crate::error::{Error, Result};
use crate::event_time::TimeFormat;
use crate::key::{Keys, push_key};
use crate::room::Room;
use crate::starts::Starts;
use crate::stateful::{Held, PIECE_BYTES, State, Stateful};
use crate::table::{Delta, Table, Value, Which};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::Bound;

/// Most windows that one line is in.
pub const OVERLAP_MAX: i64 = 1000;
/// What a window costs in memory, about.
const WINDOW_BYTES: usize = 64;
/// Windows that are closed in one go.
const CLOSED_AT_ONCE: usize = 1 << 16;

/// How windows are cut. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Tumbling(i64),
    Sliding {
        size: i64,
        step: i64,
    },
    /// A session ends when its key is silent for so long.
    Session(i64),
    /// Each line says its window's start and end itself, in its first two columns: results that are put together.
    Given,
}

impl Cut {
    /// The event watermark at which a window closes, and its other time. Results that are put together are complete once no older
    /// ones come.
    fn due(self, start: i64, end: i64) -> (i64, i64) {
        match self {
            Self::Given => (start, end),
            Self::Tumbling(_) | Self::Sliding { .. } | Self::Session(_) => (end, start),
        }
    }

    /// Start and end of a window that is due so.
    fn times(self, closes: i64, other: i64) -> (i64, i64) {
        match self {
            Self::Given => (closes, other),
            Self::Tumbling(_) | Self::Sliding { .. } | Self::Session(_) => (other, closes),
        }
    }
}

/// Windows of an aggregate.
#[derive(Debug, Clone)]
pub struct WindowSpec {
    pub cut: Cut,
    /// The column with the line's time.
    pub time: usize,
    pub format: TimeFormat,
    pub lateness_ms: i64,
}

/// An open window of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    start: i64,
    end: i64,
    total: Total,
}

impl Value for Vec<Open> {
    fn heap_bytes(&self) -> usize {
        WINDOW_BYTES * self.len()
    }
}

/// The state of an aggregate with windows.
pub struct Windows {
    spec: Aggregate,
    window: WindowSpec,
    room: Room,
    /// Per key, sorted by start.
    open: Table<Vec<Open>>,
    /// Windows by the mark at which they close, their other time and key; some are gone.
    due: Due,
    /// Of open sessions.
    starts: Option<Starts>,
    /// Start, end, key and value, of those counted as distinct.
    pairs: Table<()>,
    mark: i64,
    /// No session that begins earlier is put out any more: stages behind this one were told so.
    told: i64,
    /// The mark of the last save.
    saved: i64,
    /// Windows that are closed now, one after the other.
    closing: Option<Closing>,
    late: Lines,
    key: Vec<u8>,
    /// A piece is to be saved even if it is empty.
    owes_piece: bool,
}

/// How far the closing has come.
#[derive(Default)]
struct Closing {
    any: bool,
    /// Start and end of the windows of which the best are wanted.
    times: (i64, i64),
    /// The best of them so far, and some that may be.
    best: Vec<(Box<[u8]>, Total)>,
}

impl Windows {
    /// Without any window.
    pub fn new(spec: Aggregate, window: WindowSpec, room: Room) -> Self {
        let pairs = match spec.kind {
            Kind::Distinct => room.part(1, 4),
            _ => room.part(0, 1),
        };
        let starts = match window.cut {
            Cut::Session(gap) => Some(Starts::new(gap)),
            _ => None,
        };
        Self {
            spec,
            window,
            starts,
            open: Table::new(room.part(1, 2)),
            due: Due::new(room.part(1, 4)),
            pairs: Table::new(pairs),
            room,
            mark: i64::MIN,
            told: i64::MIN,
            saved: i64::MIN,
            closing: None,
            late: Lines::default(),
            key: Vec::new(),
            owes_piece: false,
        }
    }

    fn is_closed(&self, end: i64) -> bool {
        // Results of one barrier come before it.
        self.window.cut != Cut::Given && end.saturating_add(self.window.lateness_ms) <= self.mark
    }

    /// The windows that a line falls in, closed ones too.
    fn windows(&self, line: &[u8]) -> Result<Vec<(i64, i64)>> {
        if self.window.cut == Cut::Given {
            let at = |column| read_time(line, column, TimeFormat::UnixMs);
            return Ok(vec![(at(0)?, at(1)?)]);
        }
        let time = read_time(line, self.window.time, self.window.format)?;
        Ok(match self.window.cut {
            Cut::Tumbling(size) => {
                let start = time - time.rem_euclid(size);
                vec![(start, start + size)]
            }
            Cut::Sliding { size, step } => {
                let last = time - time.rem_euclid(step);
                let starts = (0..).map(|back| last - back * step);
                starts
                    .take_while(|start| start + size > time)
                    .map(|start| (start, start + size))
                    .collect()
            }
            Cut::Session(gap) => vec![(time, time + gap)],
            Cut::Given => Vec::new(),
        })
    }

    /// Whether the line is taken.
    fn take(&mut self, line: &[u8]) -> Result<bool> {
        let windows = self.windows(line)?;
        let one = self.spec.one(line)?;
        let mut key = std::mem::take(&mut self.key);
        self.spec.key(line, &mut key);
        let mut taken = false;
        for (start, end) in windows {
            let counts = match self.window.cut {
                Cut::Session(_) => {
                    !self.is_closed(end) || start >= self.told && self.touches(&key, start, end)?
                }
                _ => !self.is_closed(end),
            };
            if !counts {
                continue;
            }
            taken = true;
            if self.spec.kind == Kind::Distinct && !self.is_first(&key, (start, end), line)? {
                continue;
            }
            self.add(&key, start, end, one)?;
        }
        self.key = key;
        Ok(taken)
    }

    fn touches(&mut self, key: &[u8], start: i64, end: i64) -> Result<bool> {
        let open = self.open.get(key)?.map_or(&[][..], Vec::as_slice);
        Ok(open
            .iter()
            .any(|window| window.start < end && start < window.end))
    }

    fn is_first(&mut self, key: &[u8], (start, end): (i64, i64), line: &[u8]) -> Result<bool> {
        let mut pair = pair_prefix(start, end, key);
        let of = self.spec.of.unwrap_or_default();
        pair.extend_from_slice(&csv::value(csv::field(line, of).unwrap_or_default()));
        self.pairs.insert(&pair, ())
    }

    fn add(&mut self, key: &[u8], start: i64, end: i64, one: Total) -> Result<()> {
        let merges = matches!(self.window.cut, Cut::Session(_));
        let mut new = Open {
            start,
            end,
            total: one,
        };
        let (mut fits, mut is_due) = (true, false);
        let mut merged = Vec::new();
        self.open.update(key, Vec::new, |open, _| {
            let mut times = None;
            open.retain(|old| {
                let same = match merges {
                    true => old.start < new.end && new.start < old.end,
                    false => old.start == start && old.end == end,
                };
                if same {
                    new.start = new.start.min(old.start);
                    new.end = new.end.max(old.end);
                    times = Some((old.start, old.end));
                    if merges {
                        merged.push((old.start, old.end));
                    }
                    match old.total.with(new.total) {
                        Some(total) => new.total = total,
                        None => fits = false,
                    }
                }
                !same
            });
            // Of those that it took in the last ends last.
            is_due = times == Some((new.start, new.end));
            let at = open.partition_point(|old| (old.start, old.end) < (new.start, new.end));
            open.insert(at, new);
        })?;
        if !fits {
            return Err(self.spec.overflow(key));
        }
        if let Some(starts) = &mut self.starts {
            merged.iter().for_each(|(start, _)| starts.remove(*start));
            starts.add(new.start);
        }
        for (start, end) in merged {
            if (start, end) != (new.start, new.end) {
                self.due.remove(end, &[&due::sortable(start), key]);
            }
        }
        let (closes, other) = self.window.cut.due(new.start, new.end);
        match is_due {
            true => Ok(()),
            false => self.due.insert(closes, &[&due::sortable(other), key]),
        }
    }

    /// Puts out windows that close at or before `end`, by end, start and key; whether there may be more.
    fn close(&mut self, end: i64, out: &mut Vec<Batch>) -> Result<bool> {
        let mut closing = self.closing.take().unwrap_or_default();
        let (mut lines, mut bytes) = (Lines::default(), 0);
        let mut more = true;
        for _ in 0..CLOSED_AT_ONCE {
            if bytes >= PIECE_BYTES {
                break;
            }
            // No window ends later than any time.
            let next = self.due.take_before(end.saturating_add(1))?;
            let Some((closes, what)) = next else {
                more = false;
                break;
            };
            let Some((other, key)) = due::split(&what) else {
                continue;
            };
            let (start, end) = self.window.cut.times(closes, other);
            let Some(total) = self.take_out(key, start, end)? else {
                continue;
            };
            if closing.times != (start, end) {
                self.write_best(&mut closing, &mut lines);
            }
            closing.any = true;
            closing.times = (start, end);
            match self.spec.best {
                Some(best) => add_to_best(&mut closing.best, best, (key.into(), total)),
                None => self.write(closing.times, key, total, &mut lines),
            }
            if lines.bytes() >= BATCH_BYTES {
                bytes += lines.bytes();
                out.extend(lines.take());
            }
        }
        match more {
            true => self.closing = Some(closing),
            false => {
                self.write_best(&mut closing, &mut lines);
                if closing.any && self.spec.kind == Kind::Distinct {
                    self.forget_pairs(end)?;
                }
            }
        }
        out.extend(lines.take());
        Ok(more)
    }

    /// The total of an open window, which is open no more.
    fn take_out(&mut self, key: &[u8], start: i64, end: i64) -> Result<Option<Total>> {
        let is_it = |window: &Open| (window.start, window.end) == (start, end);
        let Some(open) = self.open.get(key)? else {
            return Ok(None);
        };
        let Some(at) = open.iter().position(is_it) else {
            return Ok(None);
        };
        let is_last = open.len() == 1;
        let window = self.open.update(key, Vec::new, |open, _| open.remove(at))?;
        if is_last {
            self.open.remove(key)?;
        }
        if let Some(starts) = &mut self.starts {
            starts.remove(start);
        }
        Ok(Some(window.total))
    }

    fn forget_pairs(&mut self, end: i64) -> Result<()> {
        // Times before 1970 lie behind the others.
        let negative = i64::MIN.to_be_bytes();
        let behind = match end.checked_add(1) {
            Some(behind) => behind.to_be_bytes(),
            None => negative,
        };
        let ranges = match end >= 0 {
            true => [
                (Bound::Unbounded, Bound::Excluded(&behind[..])),
                (Bound::Included(&negative[..]), Bound::Unbounded),
            ],
            false => [
                (Bound::Included(&negative[..]), Bound::Excluded(&behind[..])),
                (Bound::Excluded(&behind[..]), Bound::Excluded(&behind[..])),
            ],
        };
        let count = if end >= 0 { 2 } else { 1 };
        self.pairs
            .remove_where(&ranges[..count], |pair| pair_end(pair) <= end)
    }

    fn write_best(&self, closing: &mut Closing, lines: &mut Lines) {
        let mut all = std::mem::take(&mut closing.best);
        keep_best(&mut all, self.spec.best.unwrap_or_default());
        for (key, total) in all {
            self.write(closing.times, &key, total, lines);
        }
    }

    fn write(&self, (start, end): (i64, i64), key: &[u8], total: Total, lines: &mut Lines) {
        lines.push_with(|to| {
            to.extend_from_slice(format!("{start},{end},").as_bytes());
            push_key(key, self.spec.by.len() > 1, to);
            to.extend_from_slice(format!(",{}", total.value()).as_bytes());
        });
    }
}

fn pair_prefix(start: i64, end: i64, key: &[u8]) -> Vec<u8> {
    let mut pair = Vec::with_capacity(key.len() + 32);
    pair.extend_from_slice(&end.to_be_bytes());
    pair.extend_from_slice(&start.to_be_bytes());
    pair.extend_from_slice(&(key.len() as u32).to_be_bytes());
    pair.extend_from_slice(key);
    pair
}

fn pair_end(pair: &[u8]) -> i64 {
    pair.first_chunk()
        .map_or(i64::MIN, |end| i64::from_be_bytes(*end))
}

fn pair_key(pair: &[u8]) -> Option<&[u8]> {
    let (len, rest) = pair.get(16..)?.split_first_chunk()?;
    rest.get(..u32::from_be_bytes(*len) as usize)
}

/// The time in a column.
pub fn read_time(line: &[u8], column: usize, format: TimeFormat) -> Result<i64> {
    let value = csv::value(csv::field(line, column).unwrap_or_default());
    format.parse(&value).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
        Error::Line(format!(
            "column {} of `{shown}` is not a time as `time_format` says; filter such lines out or mend it",
            column + 1
        ))
    })
}

type Saved = (i64, Delta<Vec<Open>>, Delta<()>);

impl Stateful for Windows {
    fn apply(
        &mut self,
        _input: usize,
        batch: Batch,
        _out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        for (at, line) in batch.lines().enumerate() {
            match self.take(line) {
                Ok(true) => {}
                Ok(false) => self.late.push(line),
                Err(error) => letters.blame(&batch, at, error)?,
            }
        }
        self.pairs.settle()?;
        self.open.settle()
    }

    fn barrier(&mut self, mark: i64, out: &mut Vec<Batch>) -> Result<bool> {
        if mark <= self.mark && self.closing.is_none() {
            return Ok(false);
        }
        self.mark = self.mark.max(mark);
        let more = self.close(self.mark.saturating_sub(self.window.lateness_ms), out)?;
        if !more {
            self.told = self.holds(self.mark);
        }
        Ok(more)
    }

    fn finish(&mut self, out: &mut Vec<Batch>) -> Result<bool> {
        self.close(i64::MAX, out)
    }

    fn holds(&self, mark: i64) -> i64 {
        let open = mark.saturating_sub(self.window.lateness_ms);
        match self.window.cut {
            Cut::Tumbling(size) | Cut::Sliding { size, .. } => open.saturating_sub(size),
            Cut::Session(gap) => {
                let next = open.saturating_sub(gap);
                let earliest = self.starts.as_ref().and_then(Starts::earliest);
                earliest.map_or(next, |earliest| earliest.min(next))
            }
            Cut::Given => mark,
        }
    }

    fn take_late(&mut self) -> Option<Batch> {
        self.late.take()
    }
}

impl State for Windows {
    fn begin_save(&mut self, full: bool) -> Result<()> {
        // Each mark that moved is saved, one that closed nothing here, too: other tasks have closed windows on its account, and a
        // line that was late before a restart must be late behind it.
        self.owes_piece = full || self.mark != self.saved;
        self.saved = self.mark;
        self.open.begin(Which::to_save(full))?;
        self.pairs.begin(Which::to_save(full))
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let mut left = PIECE_BYTES;
        let (open, pairs) = (self.open.next(&mut left)?, self.pairs.next(&mut left)?);
        let state: Saved = (self.mark, open, pairs);
        let is_empty = state.1.is_empty() && state.2.is_empty();
        if is_empty && !self.owes_piece {
            self.open.saved()?;
            self.pairs.saved()?;
            return Ok(None);
        }
        self.owes_piece = false;
        Ok(Some(hydfs_types::encode(&state)))
    }

    fn is_unchanged(&self) -> bool {
        self.open.is_unchanged() && self.pairs.is_unchanged() && self.mark == self.saved
    }

    fn bytes(&self) -> usize {
        self.open.bytes() + self.pairs.bytes()
    }

    fn held(&self) -> Held {
        let memory = self.open.memory() + self.due.memory() + self.pairs.memory();
        Held {
            memory: memory as u64,
            disk: self.room.disk_bytes(),
        }
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (mark, open, pairs): Saved = hydfs_types::decode(saved)?;
        self.mark = self.mark.max(mark);
        self.saved = self.mark;
        self.open.restore(open, |key| keys.hold(key))?;
        let mine = |pair: &[u8]| pair_key(pair).is_some_and(|key| keys.hold(key));
        self.pairs.restore(pairs, mine)
    }

    fn restored(&mut self) -> Result<()> {
        self.open.begin(Which::All)?;
        let (due, starts, cut) = (&mut self.due, &mut self.starts, self.window.cut);
        self.open.walk(&mut usize::MAX.clone(), |key, open| {
            let mut open = open.into_iter().flatten();
            open.try_for_each(|window| {
                starts
                    .iter_mut()
                    .for_each(|starts| starts.add(window.start));
                let (closes, other) = cut.due(window.start, window.end);
                due.insert(closes, &[&due::sortable(other), key])
            })
        })?;
        self.told = self.holds(self.mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
