//! Passes the first line of each key: for ever, or until the key was not seen for a while of event time.

use crate::batch::{Batch, Lines};
use crate::dead::Letters;
use crate::due::Due;
use crate::error::Result;
use crate::event_time::TimeFormat;
use crate::key::{Keys, write_key};
use crate::room::Room;
use crate::stateful::{Held, PIECE_BYTES, State, Stateful};
use crate::table::{Delta, Table, Which};
use crate::window::read_time;
use bytes::Bytes;

/// Which lines are the same, with columns as numbers from 0.
#[derive(Debug, Clone)]
pub struct DedupSpec {
    /// None: the whole line.
    pub by: Vec<usize>,
    /// The line's time, and milliseconds behind it after which a key is forgotten.
    pub within: Option<(usize, TimeFormat, i64)>,
}

/// Keys that are forgotten in one go.
const FORGOTTEN_AT_ONCE: usize = 1 << 16;

/// The keys seen.
pub struct Dedup {
    spec: DedupSpec,
    room: Room,
    /// Each with the time at which it is forgotten.
    seen: Table<i64>,
    /// Keys by that time.
    due: Due,
    mark: i64,
    key: Vec<u8>,
    /// A piece is to be saved even if it is empty.
    owes_piece: bool,
}

impl Dedup {
    /// Nothing seen.
    pub fn new(spec: DedupSpec, room: Room) -> Self {
        let (seen, due) = match spec.within {
            Some(_) => (room.part(2, 3), room.part(1, 3)),
            None => (room.clone(), room.part(0, 1)),
        };
        Self {
            spec,
            room,
            seen: Table::new(seen),
            due: Due::new(due),
            mark: i64::MIN,
            key: Vec::new(),
            owes_piece: false,
        }
    }

    fn is_first(&mut self, line: &[u8]) -> Result<bool> {
        let (time, until) = match self.spec.within {
            None => (i64::MAX, i64::MAX),
            Some((column, format, within)) => {
                let time = read_time(line, column, format)?;
                (time, time.saturating_add(within))
            }
        };
        self.key.clear();
        write_key(line, &self.spec.by, &mut self.key);
        // By the times of the two lines alone: when a key is forgotten goes by how fast lines are read.
        let renews = self.seen.get(&self.key)?.is_some_and(|seen| time > *seen);
        let first = match renews {
            true => self.seen.update(
                &self.key,
                || until,
                |seen, _| {
                    *seen = until;
                    true
                },
            )?,
            false => self.seen.insert(&self.key, until)?,
        };
        if first && until < i64::MAX {
            self.due.insert(until, &[&self.key])?;
        }
        Ok(first)
    }
}

type Saved = (i64, Delta<i64>);

impl Stateful for Dedup {
    fn apply(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let mut lines = Lines::default();
        for (at, line) in batch.lines().enumerate() {
            match self.is_first(line) {
                Ok(true) => lines.push(line),
                Ok(false) => {}
                Err(error) => letters.blame(&batch, at, error)?,
            }
        }
        out.extend(lines.take());
        self.seen.settle()
    }

    fn barrier(&mut self, mark: i64, _out: &mut Vec<Batch>) -> Result<bool> {
        self.mark = self.mark.max(mark);
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((until, key)) = self.due.take_before(self.mark)? else {
                return Ok(false);
            };
            // Another line may count since.
            if self.seen.get(&key)? == Some(&until) {
                self.seen.remove(&key)?;
            }
        }
        Ok(true)
    }

    fn finish(&mut self, _out: &mut Vec<Batch>) -> Result<bool> {
        Ok(false)
    }
}

impl State for Dedup {
    fn begin_save(&mut self, full: bool) -> Result<()> {
        self.owes_piece = full;
        self.seen.begin(Which::to_save(full))
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let state: Saved = (self.mark, self.seen.next(&mut PIECE_BYTES.clone())?);
        if state.1.is_empty() && !std::mem::take(&mut self.owes_piece) {
            self.seen.saved()?;
            return Ok(None);
        }
        self.owes_piece = false;
        Ok(Some(hydfs_types::encode(&state)))
    }

    fn is_unchanged(&self) -> bool {
        self.seen.is_unchanged()
    }

    fn bytes(&self) -> usize {
        self.seen.bytes()
    }

    fn held(&self) -> Held {
        Held {
            memory: (self.seen.memory() + self.due.memory()) as u64,
            disk: self.room.disk_bytes(),
        }
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (mark, seen): Saved = hydfs_types::decode(saved)?;
        self.mark = self.mark.max(mark);
        self.seen.restore(seen, |key| keys.hold(key))
    }

    fn restored(&mut self) -> Result<()> {
        self.seen.begin(Which::All)?;
        let due = &mut self.due;
        let done = self
            .seen
            .walk(&mut usize::MAX.clone(), |key, until| match until {
                Some(&until) if until < i64::MAX => due.insert(until, &[key]),
                _ => Ok(()),
            });
        done.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stateful::{put_back, save};

    fn feed(dedup: &mut Dedup, text: &'static str) -> String {
        let mut out = Vec::new();
        let batch = Batch::from_lines(Bytes::from_static(text.as_bytes()));
        let mut letters = Letters::new(false);
        dedup.apply(0, batch, &mut out, &mut letters).unwrap();
        out.first().map_or(String::new(), |batch| {
            String::from_utf8(batch.bytes().to_vec()).unwrap()
        })
    }

    #[test]
    fn each_key_passes_once_also_after_a_restore() {
        let spec = DedupSpec {
            by: vec![1],
            within: None,
        };
        let mut dedup = Dedup::new(spec.clone(), Room::vast());
        assert_eq!(feed(&mut dedup, "1,a\n2,b\n3,a"), "1,a\n2,b");
        let saved = save(&mut dedup, false);
        let mut again = Dedup::new(spec, Room::vast());
        put_back(&mut again, &saved);
        assert_eq!(feed(&mut again, "4,b\n5,c"), "5,c");
    }

    #[test]
    fn a_key_is_forgotten_behind_its_time() {
        let spec = DedupSpec {
            by: vec![1],
            within: Some((0, TimeFormat::UnixMs, 10)),
        };
        let mut dedup = Dedup::new(spec, Room::vast());
        assert_eq!(feed(&mut dedup, "1,a\n9,a"), "1,a");
        let saved = save(&mut dedup, false);
        let mut again = Dedup::new(dedup.spec.clone(), Room::vast());
        put_back(&mut again, &saved);
        for dedup in [&mut dedup, &mut again] {
            dedup.barrier(12, &mut Vec::new()).unwrap();
            assert_eq!(dedup.bytes(), 0);
        }
        assert_eq!(feed(&mut dedup, "12,a"), "12,a");
    }

    #[test]
    fn what_passes_does_not_go_by_when_keys_are_forgotten() {
        let lines = ["0,a", "50,b", "100,a", "110,a", "200,a", "211,a"];
        for marks in [&[][..], &[1], &[1, 2, 3, 4]] {
            let spec = DedupSpec {
                by: vec![1],
                within: Some((0, TimeFormat::UnixMs, 10)),
            };
            let mut dedup = Dedup::new(spec, Room::vast());
            let mut passed = Vec::new();
            for (at, line) in lines.into_iter().enumerate() {
                passed.extend((!feed(&mut dedup, line).is_empty()).then_some(line));
                if marks.contains(&at) {
                    let (time, _) = line.split_once(',').unwrap();
                    let mark = time.parse().unwrap();
                    dedup.barrier(mark, &mut Vec::new()).unwrap();
                }
            }
            assert_eq!(passed, ["0,a", "50,b", "100,a", "200,a", "211,a"]);
            dedup.barrier(222, &mut Vec::new()).unwrap();
            assert_eq!(dedup.bytes(), 0);
        }
    }
}
