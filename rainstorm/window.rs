//! Aggregates over windows of event time: tumbling, sliding, and sessions of one key. A window puts its result out
//! once, when the event watermark has passed its end and the allowed lateness; lines that come after that are late.
//!
//! Windows close at barriers only, and the event watermark that closed them is saved in the same job epoch: after a
//! restart no window is put out twice.

use crate::aggregate::{Aggregate, Kind, Total, keep_best};
use crate::batch::{BATCH_BYTES, Batch, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::event_time::TimeFormat;
use crate::key::{Keys, push_key};
use crate::stateful::Stateful;
use crate::table::{Delta, Table, check_size};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most windows that one line is in.
pub const OVERLAP_MAX: i64 = 1000;
/// What a window costs in memory, about.
const WINDOW_BYTES: isize = 64;

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

/// What closed windows put out, by end and start.
type Results = BTreeMap<(i64, i64), Vec<(Box<[u8]>, Total)>>;

/// The state of an aggregate with windows.
pub struct Windows {
    spec: Aggregate,
    window: WindowSpec,
    /// Per key, sorted by start.
    open: Table<Vec<Open>>,
    /// Keys with a window that may end then; some entries are stale.
    due: BTreeMap<i64, BTreeSet<Box<[u8]>>>,
    /// Start, end, key and value, of those counted as distinct.
    pairs: Table<()>,
    mark: i64,
    /// The mark of the last save.
    saved: i64,
    late: Lines,
    key: Vec<u8>,
}

impl Windows {
    /// Without any window.
    pub fn new(spec: Aggregate, window: WindowSpec) -> Self {
        Self {
            spec,
            window,
            open: Table::default(),
            due: BTreeMap::new(),
            pairs: Table::default(),
            mark: i64::MIN,
            saved: i64::MIN,
            late: Lines::default(),
            key: Vec::new(),
        }
    }

    fn is_closed(&self, end: i64) -> bool {
        end.saturating_add(self.window.lateness_ms) <= self.mark
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
                Cut::Session(_) => !self.is_closed(end) || self.touches(&key, start, end),
                _ => !self.is_closed(end),
            };
            if !counts {
                continue;
            }
            taken = true;
            if self.spec.kind == Kind::Distinct && !self.is_first(&key, (start, end), line) {
                continue;
            }
            self.add(&key, start, end, one)?;
        }
        self.key = key;
        Ok(taken)
    }

    fn touches(&self, key: &[u8], start: i64, end: i64) -> bool {
        let open = self.open.get(key).map_or(&[][..], Vec::as_slice);
        open.iter()
            .any(|window| window.start < end && start < window.end)
    }

    fn is_first(&mut self, key: &[u8], (start, end): (i64, i64), line: &[u8]) -> bool {
        let mut pair = pair_prefix(start, end, key);
        let of = self.spec.of.unwrap_or_default();
        pair.extend_from_slice(&csv::value(csv::field(line, of).unwrap_or_default()));
        self.pairs.insert(&pair, ())
    }

    fn add(&mut self, key: &[u8], start: i64, end: i64, one: Total) -> Result<()> {
        let merges = matches!(self.window.cut, Cut::Session(_));
        let open = self.open.update(key, Vec::new);
        let mut new = Open {
            start,
            end,
            total: one,
        };
        let before = open.len();
        let mut fits = true;
        open.retain(|old| {
            let same = match merges {
                true => old.start < new.end && new.start < old.end,
                false => old.start == start && old.end == end,
            };
            if same {
                new.start = new.start.min(old.start);
                new.end = new.end.max(old.end);
                match old.total.with(new.total) {
                    Some(total) => new.total = total,
                    None => fits = false,
                }
            }
            !same
        });
        if !fits {
            return Err(self.spec.overflow(key));
        }
        let at = open.partition_point(|old| (old.start, old.end) < (new.start, new.end));
        open.insert(at, new);
        let grown = (open.len() as isize - before as isize) * WINDOW_BYTES;
        self.open.grow(grown);
        let keys = self.due.entry(new.end).or_default();
        if !keys.contains(key) {
            keys.insert(key.into());
        }
        Ok(())
    }

    /// Puts out windows that end at or before `end`, the earliest first.
    fn close(&mut self, end: i64, out: &mut Vec<Batch>) {
        let mut results = Results::new();
        while let Some(first) = self.due.first_entry() {
            if *first.key() > end {
                break;
            }
            for key in first.remove() {
                let Some(open) = self.open.get(&key) else {
                    continue;
                };
                if !open.iter().any(|window| window.end <= end) {
                    continue;
                }
                let open = self.open.update(&key, Vec::new);
                let (done, left): (Vec<Open>, Vec<Open>) =
                    open.drain(..).partition(|window| window.end <= end);
                let is_empty = left.is_empty();
                *open = left;
                self.open.grow(-(done.len() as isize) * WINDOW_BYTES);
                if is_empty {
                    self.open.remove(&key);
                }
                for window in done {
                    results
                        .entry((window.end, window.start))
                        .or_default()
                        .push((key.clone(), window.total));
                }
            }
        }
        if self.spec.kind == Kind::Distinct && !results.is_empty() {
            self.forget_pairs(end);
        }
        self.write(results, out);
    }

    fn forget_pairs(&mut self, end: i64) {
        let gone: Vec<Box<[u8]>> = self
            .pairs
            .iter()
            .filter(|(pair, _)| pair_end(pair) <= end)
            .map(|(pair, ())| pair.into())
            .collect();
        for pair in gone {
            self.pairs.remove(&pair);
        }
    }

    fn write(&self, results: Results, out: &mut Vec<Batch>) {
        let several = self.spec.by.len() > 1;
        let mut lines = Lines::default();
        for ((end, start), mut all) in results {
            match self.spec.best {
                Some(best) => keep_best(&mut all, best),
                None => all.sort_unstable_by(|a, b| a.0.cmp(&b.0)),
            }
            for (key, total) in all {
                lines.push_with(|to| {
                    to.extend_from_slice(format!("{start},{end},").as_bytes());
                    push_key(&key, several, to);
                    to.extend_from_slice(format!(",{}", total.value()).as_bytes());
                });
                if lines.bytes() >= BATCH_BYTES {
                    out.extend(lines.take());
                }
            }
        }
        out.extend(lines.take());
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
        check_size(self.bytes(), self.open.len() + self.pairs.len())
    }

    fn barrier(&mut self, mark: i64, out: &mut Vec<Batch>) -> Result<()> {
        if mark > self.mark {
            self.mark = mark;
            self.close(mark.saturating_sub(self.window.lateness_ms), out);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Batch>) -> Result<()> {
        self.close(i64::MAX, out);
        Ok(())
    }

    fn take_late(&mut self) -> Option<Batch> {
        self.late.take()
    }

    fn save(&mut self, full: bool) -> Option<Bytes> {
        let state: Saved = (self.mark, self.open.delta(full), self.pairs.delta(full));
        // Each mark that moved is saved, one that closed nothing here, too: other tasks have closed windows on its account, and a
        // line that was late before a restart must be late behind it.
        let same = self.mark == self.saved && state.1.is_empty() && state.2.is_empty();
        let is_empty = !full && same;
        self.saved = self.mark;
        (!is_empty).then(|| hydfs_types::encode(&state))
    }

    fn is_unchanged(&self) -> bool {
        self.open.is_unchanged() && self.pairs.is_unchanged() && self.mark == self.saved
    }

    fn bytes(&self) -> usize {
        self.open.bytes() + self.pairs.bytes()
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (mark, open, pairs): Saved = hydfs_types::decode(saved)?;
        self.mark = self.mark.max(mark);
        self.saved = self.mark;
        self.open.restore(open, |key| keys.hold(key));
        let mine = |pair: &[u8]| pair_key(pair).is_some_and(|key| keys.hold(key));
        self.pairs.restore(pairs, mine);
        Ok(())
    }

    fn restored(&mut self) {
        self.due.clear();
        let mut windows = 0;
        for (key, open) in self.open.iter() {
            windows += open.len() as isize;
            for window in open {
                self.due.entry(window.end).or_default().insert(key.into());
            }
        }
        self.open.grow(windows * WINDOW_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn windows(cut: Cut, kind: Kind, lateness_ms: i64) -> Windows {
        let spec = Aggregate {
            kind,
            by: vec![1],
            of: Some(2),
            best: None,
            window: None,
            json: false,
            changelog: false,
        };
        let window = WindowSpec {
            cut,
            time: 0,
            format: TimeFormat::UnixMs,
            lateness_ms,
        };
        Windows::new(spec, window)
    }

    fn feed(windows: &mut Windows, text: &str) {
        let batch = Batch::from_lines(Bytes::from(text.to_owned()));
        let mut letters = Letters::new(false);
        windows
            .apply(0, batch, &mut Vec::new(), &mut letters)
            .unwrap();
    }

    fn text(out: Vec<Batch>) -> String {
        let all: Vec<_> = out
            .iter()
            .map(|batch| String::from_utf8_lossy(batch.bytes()))
            .collect();
        all.join("\n")
    }

    fn advance(windows: &mut Windows, mark: i64) -> String {
        let mut out = Vec::new();
        windows.barrier(mark, &mut out).unwrap();
        text(out)
    }

    #[test]
    fn tumbling_windows_close_once_and_late_lines_go_aside() {
        let mut windows = windows(Cut::Tumbling(10), Kind::Sum, 5);
        feed(&mut windows, "1,a,1\n9,a,2\n10,b,3\n-1,a,4");
        assert_eq!(advance(&mut windows, 4), "");
        assert_eq!(advance(&mut windows, 5), "-10,0,a,4");
        feed(&mut windows, "3,a,10\n-2,z,1");
        assert_eq!(windows.take_late().unwrap().bytes(), "-2,z,1");
        assert_eq!(advance(&mut windows, 15), "0,10,a,13");
        assert_eq!(advance(&mut windows, 3), "");
        feed(&mut windows, "9,a,1");
        assert_eq!(windows.take_late().unwrap().bytes(), "9,a,1");
        let mut out = Vec::new();
        windows.finish(&mut out).unwrap();
        assert_eq!(text(out), "10,20,b,3");
    }

    #[test]
    fn sliding_windows_overlap() {
        let mut windows = windows(Cut::Sliding { size: 10, step: 5 }, Kind::Max, 0);
        feed(&mut windows, "7,a,1\n12,a,9");
        assert_eq!(advance(&mut windows, 100), "0,10,a,1\n5,15,a,9\n10,20,a,9");
    }

    #[test]
    fn sessions_grow_together_and_survive_a_restore() {
        let mut first = windows(Cut::Session(10), Kind::Count, 0);
        feed(&mut first, "0,a,x\n15,a,x\n100,b,x\n30,a,x");
        let saved = first.save(false).unwrap();
        let mut again = windows(Cut::Session(10), Kind::Count, 0);
        again.restore(&saved, Keys { task: 0, tasks: 1 }).unwrap();
        again.restored();
        feed(&mut again, "8,a,x");
        assert_eq!(advance(&mut again, 60), "0,25,a,3\n30,40,a,1");
        // What was put out is not put out again by whoever goes on from here.
        let saved = again.save(false).unwrap();
        let mut last = windows(Cut::Session(10), Kind::Count, 0);
        last.restore(&saved_first(&mut first), Keys { task: 0, tasks: 1 })
            .unwrap();
        last.restore(&saved, Keys { task: 0, tasks: 1 }).unwrap();
        last.restored();
        feed(&mut last, "9,a,x");
        assert_eq!(last.take_late().unwrap().bytes(), "9,a,x");
        let mut out = Vec::new();
        last.finish(&mut out).unwrap();
        assert_eq!(text(out), "100,110,b,1");
    }

    fn saved_first(first: &mut Windows) -> Bytes {
        first.save(true).unwrap()
    }

    #[test]
    fn a_mark_that_closed_nothing_outlives_a_restart() {
        let mut first = windows(Cut::Tumbling(10), Kind::Count, 0);
        assert_eq!(advance(&mut first, 20), "");
        assert!(!first.is_unchanged());
        let saved = first.save(false).unwrap();
        assert!(first.is_unchanged() && first.save(false).is_none());
        let mut again = windows(Cut::Tumbling(10), Kind::Count, 0);
        again.restore(&saved, Keys { task: 0, tasks: 1 }).unwrap();
        again.restored();
        feed(&mut again, "9,a,x");
        assert_eq!(again.take_late().unwrap().bytes(), "9,a,x");
    }

    #[test]
    fn distinct_values_are_forgotten_with_their_window() {
        let mut windows = windows(Cut::Tumbling(10), Kind::Distinct, 0);
        feed(&mut windows, "1,a,x\n2,a,x\n3,a,y\n11,a,x");
        assert_eq!(advance(&mut windows, 10), "0,10,a,2");
        assert_eq!(windows.pairs.len(), 1);
        assert_eq!(advance(&mut windows, 20), "10,20,a,1");
        assert_eq!(windows.bytes(), 0);
    }

    proptest! {
        /// However lines come that are not behind the mark, and wherever a restore falls: each is in its session.
        #[test]
        fn sessions_equal_the_batch_computation(
            steps in proptest::collection::vec((0..4_i64, 0..6_i64, 0..3_u8), 1..40),
            restore_at in 0..40_usize,
        ) {
            let mut live = windows(Cut::Session(4), Kind::Count, 0);
            let (mut mark, mut now, mut out) = (i64::MIN, 0, String::new());
            let (mut saves, mut all) = (Vec::new(), Vec::new());
            for (at, (pause, back, key)) in steps.into_iter().enumerate() {
                now += pause;
                let time = now - back;
                all.push((time, key));
                feed(&mut live, &format!("{time},k{key},x"));
                prop_assert!(live.take_late().is_none());
                mark = mark.max(time - 6);
                let closed = advance(&mut live, mark);
                if !closed.is_empty() { out.push_str(&closed); out.push('\n'); }
                saves.extend(live.save(false));
                if at == restore_at {
                    let bytes = live.bytes();
                    live = windows(Cut::Session(4), Kind::Count, 0);
                    for saved in &saves { live.restore(saved, Keys { task: 0, tasks: 1 }).unwrap(); }
                    live.restored();
                    prop_assert_eq!(live.bytes(), bytes);
                }
            }
            let mut last = Vec::new();
            live.finish(&mut last).unwrap();
            out.push_str(&text(last));
            let mut want = Vec::new();
            for key in 0..3_u8 {
                let mut times: Vec<i64> = all.iter().filter(|(_, k)| *k == key).map(|(t, _)| *t).collect();
                times.sort_unstable();
                for session in times.chunk_by(|a, b| b - a < 4) {
                    want.push(format!("{},{},k{key},{}", session[0], session[session.len() - 1] + 4, session.len()));
                }
            }
            let mut got: Vec<String> = out.lines().map(str::to_owned).collect();
            got.sort();
            want.sort();
            prop_assert_eq!(got, want);
        }
    }
}
