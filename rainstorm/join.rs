//! Joins two streams by key where their times are at most `within_ms` apart. Lines are held until the event watermark
//! says that no partner can come any more.

use crate::batch::{BATCH_BYTES, Batch, LINE_BYTES_MAX, Lines};
use crate::dead::Letters;
use crate::due::Due;
use crate::error::{Error, Result};
use crate::event_time::TimeFormat;
use crate::key::{Keys, write_key};
use crate::room::Room;
use crate::stateful::{Held, PIECE_BYTES, State, Stateful};
use crate::table::{Delta, Table, Which};
use crate::window::read_time;
use bytes::Bytes;

/// Entries of what is due that are worked off in one go.
const FORGOTTEN_AT_ONCE: usize = 1 << 14;

/// One side of a join: columns as numbers from 0.
#[derive(Debug, Clone)]
pub struct Side {
    pub on: Vec<usize>,
    pub time: usize,
    pub format: TimeFormat,
}

/// A join of two streams, the left one first.
#[derive(Debug, Clone)]
pub struct JoinSpec {
    pub sides: [Side; 2],
    /// What each side's columns are called. Lines that are held have them.
    pub columns: [Option<Vec<String>>; 2],
    pub within_ms: i64,
}

/// What is left of a batch.
struct Left {
    side: usize,
    batch: Batch,
    line: usize,
    /// The number of the line of the other side to go on with.
    from: u64,
}

/// The state of a join.
pub struct Join {
    spec: JoinSpec,
    room: Room,
    /// Lines by side, key, time and number.
    lines: Table<Vec<u8>>,
    index: Index,
    /// Number of the next line.
    next: u64,
    mark: i64,
    /// The mark of the last save.
    saved: i64,
    late: Lines,
    /// Of a batch whose pairs are more than a batch.
    left: Option<Left>,
    /// Bytes of the longest line that was held.
    longest: usize,
    /// A piece is to be saved even if it is empty.
    owes_piece: bool,
}

/// Which lines are held.
struct Index {
    /// Time and number, by side and key, in the order of the numbers.
    held: Table<Vec<(i64, u64)>>,
    /// Side and key by the time after which no partner comes.
    due: Due,
    within_ms: i64,
}

impl Index {
    fn hold(&mut self, side: usize, key: &[u8], time: i64, number: u64) -> Result<()> {
        self.held.update(&of_side(side, key), Vec::new, |held, _| {
            let at = held.partition_point(|&(_, other)| other < number);
            held.insert(at, (time, number));
        })?;
        let last = time.saturating_add(self.within_ms);
        self.due.insert(last, &[&[side as u8], key])
    }
}

impl Join {
    /// Nothing held.
    pub fn new(spec: JoinSpec, room: Room) -> Self {
        let index = Index {
            held: Table::derived(room.part(1, 4)),
            due: Due::new(room.part(1, 4)),
            within_ms: spec.within_ms,
        };
        Self {
            spec,
            lines: Table::new(room.part(1, 2)),
            room,
            index,
            next: 0,
            mark: i64::MIN,
            saved: i64::MIN,
            late: Lines::default(),
            left: None,
            longest: 0,
            owes_piece: false,
        }
    }

    /// Puts out the pairs of what is left, as many as make a batch.
    fn work(&mut self, mut left: Left, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<()> {
        let mut lines = Lines::default();
        while left.line < left.batch.count() {
            match self.take(&left, &mut lines) {
                Ok(None) => {}
                Ok(Some(from)) => {
                    self.left = Some(Left { from, ..left });
                    break;
                }
                Err(error) => letters.blame(&left.batch, left.line, error)?,
            }
            left.line += 1;
            left.from = 0;
        }
        out.extend(lines.take());
        self.index.held.settle()?;
        self.lines.settle()
    }

    /// Pairs a line with those of the other side and holds it; `out` is full: the number of the one to go on with.
    fn take(&mut self, left: &Left, out: &mut Lines) -> Result<Option<u64>> {
        let (side, line) = (left.side, left.batch.line(left.line));
        let Side { on, time, format } = &self.spec.sides[side];
        let time = read_time(line, *time, *format)?;
        if time < self.mark {
            self.late.push(line);
            return Ok(None);
        }
        let mut key = Vec::new();
        write_key(line, on, &mut key);
        let within = self.spec.within_ms;
        let held = self.index.held.get(&of_side(1 - side, &key))?;
        let is_near =
            |(other, number): &&(i64, u64)| *number >= left.from && (other - time).abs() <= within;
        let near = held.into_iter().flatten().filter(is_near);
        let near: Vec<(i64, u64)> = near.copied().collect();
        let room = LINE_BYTES_MAX.saturating_sub(line.len() + 1);
        // Most often none is so long that all have to be looked at first.
        if self.longest > room && left.from == 0 {
            for &(other, number) in &near {
                let partner = self.lines.get(&place(1 - side, &key, other, number))?;
                if partner.is_some_and(|partner| partner.len() > room) {
                    let what = "a joined line is longer than a line may be";
                    return Err(Error::Line(format!("{what}: {LINE_BYTES_MAX} bytes")));
                }
            }
        }
        for (other, number) in near {
            if out.bytes() >= BATCH_BYTES {
                return Ok(Some(number));
            }
            if let Some(partner) = self.lines.get(&place(1 - side, &key, other, number))? {
                let (left, right) = match side {
                    0 => (line, &partner[..]),
                    _ => (&partner[..], line),
                };
                out.push_with(|to| {
                    to.extend_from_slice(left.strip_suffix(b"\r").unwrap_or(left));
                    to.push(b',');
                    to.extend_from_slice(right.strip_suffix(b"\r").unwrap_or(right));
                });
            }
        }
        self.longest = self.longest.max(line.len());
        let number = self.next;
        self.next += 1;
        self.lines
            .insert(&place(side, &key, time, number), line.to_vec())?;
        self.index.hold(side, &key, time, number)?;
        Ok(None)
    }

    /// Forgets lines whose partners would be older than the event watermark; whether there may be more of them.
    fn forget(&mut self) -> Result<bool> {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((last, of_side)) = self.index.due.take_before(self.mark)? else {
                return Ok(false);
            };
            let Some(mut held) = self.index.held.remove(&of_side)? else {
                continue;
            };
            let (side, key) = (usize::from(of_side[0]), &of_side[1..]);
            let time = last - self.spec.within_ms;
            for &(at, number) in held.iter().filter(|(at, _)| *at == time) {
                self.lines.remove(&place(side, key, at, number))?;
            }
            held.retain(|&(at, _)| at != time);
            if !held.is_empty() {
                self.index.held.insert(&of_side, held)?;
            }
        }
        Ok(true)
    }
}

/// Side and key in one.
fn of_side(side: usize, key: &[u8]) -> Vec<u8> {
    let mut both = Vec::with_capacity(key.len() + 1);
    both.push(side as u8);
    both.extend_from_slice(key);
    both
}

/// The key of a held line in its table.
fn place(side: usize, key: &[u8], time: i64, number: u64) -> Vec<u8> {
    let mut place = Vec::with_capacity(key.len() + 17);
    place.push(side as u8);
    place.extend_from_slice(&time.to_be_bytes());
    place.extend_from_slice(&number.to_be_bytes());
    place.extend_from_slice(key);
    place
}

/// Side, time, number and key of a held line.
fn placed(place: &[u8]) -> Option<(usize, i64, u64, &[u8])> {
    let (&side, rest) = place.split_first()?;
    let (time, rest) = rest.split_first_chunk()?;
    let (number, key) = rest.split_first_chunk()?;
    let (time, number) = (i64::from_be_bytes(*time), u64::from_be_bytes(*number));
    (side < 2).then_some((usize::from(side), time, number, key))
}

type Saved = (i64, u64, Delta<Vec<u8>>);

impl Stateful for Join {
    fn apply(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let left = Left {
            side: input.min(1),
            batch,
            line: 0,
            from: 0,
        };
        self.work(left, out, letters)
    }

    fn go_on(&mut self, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<bool> {
        match self.left.take() {
            Some(left) => self.work(left, out, letters).map(|()| true),
            None => Ok(false),
        }
    }

    fn barrier(&mut self, mark: i64, _out: &mut Vec<Batch>) -> Result<bool> {
        self.mark = self.mark.max(mark);
        self.forget()
    }

    fn finish(&mut self, _out: &mut Vec<Batch>) -> Result<bool> {
        Ok(false)
    }

    /// A pair is as old as its older line.
    fn holds(&self, mark: i64) -> i64 {
        mark.saturating_sub(self.spec.within_ms)
    }

    fn take_late(&mut self) -> Option<Batch> {
        self.late.take()
    }
}

impl State for Join {
    fn begin_save(&mut self, full: bool) -> Result<()> {
        // Which lines are late does not change with a restart.
        self.owes_piece = full || self.mark != self.saved;
        self.saved = self.mark;
        self.lines.begin(Which::to_save(full))
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let lines = self.lines.next(&mut PIECE_BYTES.clone())?;
        let state: Saved = (self.mark, self.next, lines);
        if state.2.is_empty() && !self.owes_piece {
            self.lines.saved()?;
            return Ok(None);
        }
        self.owes_piece = false;
        Ok(Some(hydfs_types::encode(&state)))
    }

    fn is_unchanged(&self) -> bool {
        self.lines.is_unchanged() && self.mark == self.saved
    }

    fn bytes(&self) -> usize {
        self.lines.bytes()
    }

    fn held(&self) -> Held {
        let Index { held, due, .. } = &self.index;
        Held {
            memory: (self.lines.memory() + held.memory() + due.memory()) as u64,
            disk: self.room.disk_bytes(),
        }
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (mark, next, lines): Saved = hydfs_types::decode(saved)?;
        self.mark = self.mark.max(mark);
        self.saved = self.mark;
        self.next = self.next.max(next);
        let mine = |place: &[u8]| placed(place).is_some_and(|(_, _, _, key)| keys.hold(key));
        self.lines.restore(lines, mine)
    }

    fn restored(&mut self) -> Result<()> {
        self.lines.begin(Which::All)?;
        let (index, longest) = (&mut self.index, &mut self.longest);
        let done = self
            .lines
            .walk(&mut usize::MAX.clone(), |place, line| match placed(place) {
                Some((side, time, number, key)) => {
                    *longest = line.map_or(0, Vec::len).max(*longest);
                    index.hold(side, key, time, number)
                }
                None => Ok(()),
            });
        done.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stateful::{put_back, save};
    use proptest::prelude::*;

    fn join(within_ms: i64) -> Join {
        let side = || Side {
            on: vec![1],
            time: 0,
            format: TimeFormat::UnixMs,
        };
        let spec = JoinSpec {
            sides: [side(), side()],
            columns: [None, None],
            within_ms,
        };
        Join::new(spec, Room::vast())
    }

    fn feed(join: &mut Join, side: usize, line: &str) -> Vec<String> {
        let mut out = Vec::new();
        let batch = Batch::from_lines(Bytes::from(line.to_owned()));
        let mut letters = Letters::new(false);
        join.apply(side, batch, &mut out, &mut letters).unwrap();
        while join.go_on(&mut out, &mut letters).unwrap() {}
        let lines = out.iter().flat_map(Batch::lines);
        lines
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn partners_meet_within_the_time_whoever_comes_first() {
        let mut join = join(10);
        assert!(feed(&mut join, 0, "100,k,left").is_empty());
        assert_eq!(
            feed(&mut join, 1, "110,k,right"),
            ["100,k,left,110,k,right"]
        );
        assert!(feed(&mut join, 1, "111,k,far").is_empty());
        assert!(feed(&mut join, 1, "100,other,x").is_empty());
        assert_eq!(
            feed(&mut join, 0, "111,k,more"),
            ["111,k,more,110,k,right", "111,k,more,111,k,far"]
        );
        join.barrier(111, &mut Vec::new()).unwrap();
        assert!(feed(&mut join, 1, "105,k,slow").is_empty());
        assert_eq!(join.take_late().unwrap().bytes(), "105,k,slow");
        join.barrier(1000, &mut Vec::new()).unwrap();
        assert_eq!(join.lines.len(), 0);
        assert_eq!(join.bytes(), 0);
    }

    #[test]
    fn pairs_leave_in_batches_however_many_a_line_makes() {
        let mut join = join(10);
        let held: Vec<String> = (0..5000).map(|n| format!("1,k,{n:0100}")).collect();
        feed(&mut join, 0, &held.join("\n"));
        let batch = Batch::from_lines(Bytes::from_static(b"2,k,a\n2,k,b"));
        let (mut out, mut letters, mut pairs) = (Vec::new(), Letters::new(false), Vec::new());
        join.apply(1, batch, &mut out, &mut letters).unwrap();
        loop {
            assert!(out.iter().map(|batch| batch.bytes().len()).sum::<usize>() < 2 * BATCH_BYTES);
            let lines = out.iter().flat_map(Batch::lines);
            pairs.extend(lines.map(|line| String::from_utf8(line.to_vec()).unwrap()));
            out.clear();
            if !join.go_on(&mut out, &mut letters).unwrap() {
                break;
            }
        }
        let with = |right: &str| held.iter().map(|left| format!("{left},{right}")).collect();
        let want: [Vec<String>; 2] = [with("2,k,a"), with("2,k,b")];
        assert_eq!(pairs, want.concat());
    }

    #[test]
    fn a_line_whose_pair_is_too_long_is_a_dead_letter() {
        let mut join = join(10);
        let long = format!("1,k,{}", "x".repeat(LINE_BYTES_MAX - 10));
        feed(&mut join, 0, &long);
        let batch = Batch::from_lines(Bytes::from_static(b"2,k,too much\n2,j,none"));
        let (mut out, mut letters) = (Vec::new(), Letters::new(true));
        join.apply(1, batch, &mut out, &mut letters).unwrap();
        assert!(out.is_empty() && join.lines.len() == 2);
        assert_eq!(letters.take().len(), 1);
    }

    proptest! {
        /// Every pair within the time once, also when the state is saved and restored in between.
        #[test]
        fn pairs_equal_the_batch_computation(
            steps in proptest::collection::vec((0..2_usize, 0..3_i64, 0..3_u8), 1..30),
            restore_at in 0..30_usize,
        ) {
            let mut live = join(4);
            let (mut now, mut saves, mut got) = (0, Vec::new(), Vec::new());
            let mut all: Vec<(usize, i64, u8, usize)> = Vec::new();
            for (at, (side, pause, key)) in steps.into_iter().enumerate() {
                now += pause;
                all.push((side, now, key, at));
                got.extend(feed(&mut live, side, &format!("{now},{key},{at}")));
                live.barrier(now, &mut Vec::new()).unwrap();
                saves.extend(save(&mut live, false));
                if at == restore_at {
                    let bytes = live.bytes();
                    live = join(4);
                    put_back(&mut live, &saves);
                    prop_assert_eq!(live.bytes(), bytes);
                }
            }
            let mut want = Vec::new();
            for left in all.iter().filter(|line| line.0 == 0) {
                for right in all.iter().filter(|line| line.0 == 1 && line.2 == left.2) {
                    if (left.1 - right.1).abs() <= 4 {
                        want.push(format!("{},{},{},{},{},{}", left.1, left.2, left.3, right.1, right.2, right.3));
                    }
                }
            }
            got.sort();
            want.sort();
            prop_assert_eq!(got, want);
        }
    }
}
