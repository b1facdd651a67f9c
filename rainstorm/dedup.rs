//! Passes the first line of each key: for ever, or until the key was not seen for a while of event time.

use crate::batch::{Batch, Lines};
use crate::dead::Letters;
use crate::error::Result;
use crate::event_time::TimeFormat;
use crate::key::{Keys, write_key};
use crate::stateful::Stateful;
use crate::table::{Delta, Table, check_size};
use crate::window::read_time;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Which lines are the same, with columns as numbers from 0.
#[derive(Debug, Clone)]
pub struct DedupSpec {
    /// None: the whole line.
    pub by: Vec<usize>,
    /// The line's time, and milliseconds behind it after which a key is forgotten.
    pub within: Option<(usize, TimeFormat, i64)>,
}

/// The keys seen.
pub struct Dedup {
    spec: DedupSpec,
    /// Each with the time at which it is forgotten.
    seen: Table<i64>,
    due: BTreeMap<i64, Vec<Box<[u8]>>>,
    mark: i64,
    key: Vec<u8>,
}

impl Dedup {
    /// Nothing seen.
    pub fn new(spec: DedupSpec) -> Self {
        Self {
            spec,
            seen: Table::default(),
            due: BTreeMap::new(),
            mark: i64::MIN,
            key: Vec::new(),
        }
    }

    fn is_first(&mut self, line: &[u8]) -> Result<bool> {
        let until = match self.spec.within {
            None => i64::MAX,
            Some((column, format, within)) => {
                read_time(line, column, format)?.saturating_add(within)
            }
        };
        self.key.clear();
        write_key(line, &self.spec.by, &mut self.key);
        let first = self.seen.insert(&self.key, until);
        if first && until < i64::MAX {
            let keys = self.due.entry(until).or_default();
            keys.push(self.key.clone().into());
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
        check_size(self.bytes(), self.seen.len())
    }

    fn barrier(&mut self, mark: i64, _out: &mut Vec<Batch>) -> Result<()> {
        self.mark = self.mark.max(mark);
        while let Some(first) = self.due.first_entry() {
            if *first.key() >= self.mark {
                break;
            }
            for key in first.remove() {
                self.seen.remove(&key);
            }
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<Batch>) -> Result<()> {
        Ok(())
    }

    fn save(&mut self, full: bool) -> Option<Bytes> {
        let state: Saved = (self.mark, self.seen.delta(full));
        let is_empty = !full && state.1.is_empty();
        (!is_empty).then(|| hydfs_types::encode(&state))
    }

    fn is_unchanged(&self) -> bool {
        self.seen.is_unchanged()
    }

    fn bytes(&self) -> usize {
        self.seen.bytes()
    }

    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()> {
        let (mark, seen): Saved = hydfs_types::decode(saved)?;
        self.mark = self.mark.max(mark);
        self.seen.restore(seen, |key| keys.hold(key));
        Ok(())
    }

    fn restored(&mut self) {
        self.due.clear();
        for (key, &until) in self.seen.iter().filter(|(_, until)| **until < i64::MAX) {
            self.due.entry(until).or_default().push(key.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut dedup = Dedup::new(spec.clone());
        assert_eq!(feed(&mut dedup, "1,a\n2,b\n3,a"), "1,a\n2,b");
        let saved = dedup.save(false).unwrap();
        let mut again = Dedup::new(spec);
        again.restore(&saved, Keys { task: 0, tasks: 1 }).unwrap();
        again.restored();
        assert_eq!(feed(&mut again, "4,b\n5,c"), "5,c");
    }

    #[test]
    fn a_key_is_forgotten_behind_its_time() {
        let mut dedup = Dedup::new(DedupSpec {
            by: vec![1],
            within: Some((0, TimeFormat::UnixMs, 10)),
        });
        assert_eq!(feed(&mut dedup, "1,a\n9,a"), "1,a");
        let saved = dedup.save(false).unwrap();
        let mut again = Dedup::new(dedup.spec.clone());
        again.restore(&saved, Keys { task: 0, tasks: 1 }).unwrap();
        again.restored();
        for dedup in [&mut dedup, &mut again] {
            dedup.barrier(12, &mut Vec::new()).unwrap();
            assert_eq!(dedup.bytes(), 0);
        }
        assert_eq!(feed(&mut dedup, "12,a"), "12,a");
    }
}
