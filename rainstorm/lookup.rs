//! Joins lines with the records of a CSV file that is held in memory whole, as it was when the job began.

use crate::attempt::Context;
use crate::batch::{BATCH_BYTES, Batch, LINE_BYTES_MAX, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::key::write_key;
use crate::plan::{Lookup, NodeId, PinnedFile};
use crate::position::Share;
use crate::reader::Reader;
use crate::records::Records as Read;
use std::collections::HashMap;
use std::sync::Arc;

/// Largest file in bytes.
pub const LOOKUP_BYTES_MAX: u64 = 256 << 20;

/// Most bytes that the records of one file take in a member's memory.
const RECORDS_BYTES_MAX: usize = 1 << 30;
/// What a key costs beside its bytes, about.
const KEY_BYTES: usize = 72;

/// The records of a file by key. The tasks of a stage share them on each member.
#[derive(Default)]
pub struct Records {
    /// What is added to lines, one after the other.
    bytes: Vec<u8>,
    records: Vec<Record>,
    keys: HashMap<Box<[u8]>, Chain>,
    keys_bytes: usize,
}

struct Record {
    start: u32,
    end: u32,
    /// The next one with this key; of the last one, itself.
    next: u32,
}

/// The records with one key, in the order of the file.
struct Chain {
    first: u32,
    last: u32,
    longest: u32,
}

impl Records {
    async fn load(context: &Context, spec: &Lookup) -> Result<Self> {
        let pinned = context.sources.get(spec.source).ok_or(Error::Over)?.clone();
        let path = pinned
            .files
            .first()
            .map_or("", |file| &file.path)
            .to_owned();
        let mut all = Self::default();
        let chunk = context.chunk_bytes;
        let mut reader = Reader::new(
            context.storage.clone(),
            pinned,
            (chunk, None),
            vec![Share::of_task(0, 1)],
        );
        let (mut key, mut fields) = (Vec::new(), Vec::new());
        while !reader.is_done() {
            let (_, Some(Read::Lines(batch))) = reader.next().await? else {
                continue;
            };
            for line in batch.lines() {
                key.clear();
                fields.clear();
                write_key(line, &spec.file_on, &mut key);
                for &column in &spec.add {
                    fields.push(b',');
                    fields.extend_from_slice(csv::field(line, column).unwrap_or_default());
                }
                all.add(&key, &fields);
            }
            if all.memory() > RECORDS_BYTES_MAX {
                let what = format!(
                    "the records of {path} take more than {RECORDS_BYTES_MAX} bytes of memory"
                );
                return Err(Error::Job(format!(
                    "{what}; make it a source and join the two streams"
                )));
            }
            tokio::task::yield_now().await;
        }
        Ok(all)
    }

    /// Bytes of it, about.
    fn memory(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Record>() + self.keys_bytes
    }

    fn add(&mut self, key: &[u8], fields: &[u8]) {
        let (start, number) = (self.bytes.len() as u32, self.records.len() as u32);
        self.bytes.extend_from_slice(fields);
        self.records.push(Record {
            start,
            end: self.bytes.len() as u32,
            next: number,
        });
        let longest = fields.len() as u32;
        match self.keys.get_mut(key) {
            Some(chain) => {
                self.records[chain.last as usize].next = number;
                chain.last = number;
                chain.longest = chain.longest.max(longest);
            }
            None => {
                self.keys_bytes += key.len() + KEY_BYTES;
                let chain = Chain {
                    first: number,
                    last: number,
                    longest,
                };
                self.keys.insert(key.into(), chain);
            }
        }
    }

    /// What a record adds, and the number of the next one with its key.
    fn record(&self, number: u32) -> (&[u8], Option<u32>) {
        let record = &self.records[number as usize];
        let fields = &self.bytes[record.start as usize..record.end as usize];
        (fields, (record.next != number).then_some(record.next))
    }
}

/// A join of one task with a file.
pub struct Index {
    spec: Lookup,
    records: Arc<Records>,
    /// Of a batch that makes more than one: the line to go on with, and the record, if some were added to it.
    left: Option<(Batch, usize, Option<u32>)>,
}

impl Index {
    /// Reads the file, unless another task of the node has.
    pub async fn load(context: &Context, node: NodeId, spec: Lookup) -> Result<Self> {
        let cell = context.records.get(node as usize).ok_or(Error::Over)?;
        let load = async || Records::load(context, &spec).await.map(Arc::new);
        let records = cell.get_or_try_init(load).await?.clone();
        Ok(Self {
            spec,
            records,
            left: None,
        })
    }

    /// Each line with each of its records, as many as make a batch.
    pub fn apply(
        &mut self,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        self.work((batch, 0, None), out, letters)
    }

    /// Goes on with what is left; false: nothing is.
    pub fn go_on(&mut self, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<bool> {
        match self.left.take() {
            Some(left) => self.work(left, out, letters).map(|()| true),
            None => Ok(false),
        }
    }

    fn work(
        &mut self,
        (batch, first, mut begun): (Batch, usize, Option<u32>),
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let mut lines = Lines::default();
        let mut key = Vec::new();
        let none = vec![b','; self.spec.add.len()];
        for (at, line) in batch.lines().enumerate().skip(first) {
            key.clear();
            write_key(line, &self.spec.on, &mut key);
            let chain = self.records.keys.get(&key[..]);
            let longest = match chain {
                Some(chain) => chain.longest as usize,
                None if self.spec.keep_all => none.len(),
                None => continue,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() + longest > LINE_BYTES_MAX {
                let what = "a joined line is longer than a line may be";
                let error = Error::Line(format!("{what}: {LINE_BYTES_MAX} bytes"));
                letters.blame(&batch, at, error)?;
                continue;
            }
            let mut number = begun.take().or(chain.map(|chain| chain.first));
            loop {
                if lines.bytes() >= BATCH_BYTES {
                    self.left = Some((batch.clone(), at, number));
                    out.extend(lines.take());
                    return Ok(());
                }
                let (fields, next) = match number {
                    Some(number) => self.records.record(number),
                    None => (&none[..], None),
                };
                lines.push_with(|to| {
                    to.extend_from_slice(line);
                    to.extend_from_slice(fields);
                });
                match next {
                    Some(_) => number = next,
                    None => break,
                }
            }
        }
        out.extend(lines.take());
        Ok(())
    }
}

/// Why a file cannot be held in memory, if it cannot.
pub fn too_large(file: &PinnedFile) -> Option<String> {
    let len = file.source.len;
    (len > LOOKUP_BYTES_MAX).then(|| {
        format!(
            "{} has {len} bytes, and a file that lines are joined with at most {LOOKUP_BYTES_MAX}",
            file.path
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn records_leave_in_batches_however_many_a_line_has() {
        let spec = Lookup {
            source: 0,
            on: vec![0],
            file_on: vec![0],
            add: vec![1],
            keep_all: true,
        };
        let field = |n: usize| format!(",{n:0100}");
        let mut records = Records::default();
        for n in 0..5000 {
            records.add(b"k", field(n).as_bytes());
            records.add(b"other", b",x");
        }
        let mut index = Index {
            spec,
            records: Arc::new(records),
            left: None,
        };
        let batch = Batch::from_lines(Bytes::from_static(b"k,a\nnone,b\nk,c"));
        let (mut out, mut letters, mut lines) = (Vec::new(), Letters::new(false), Vec::new());
        index.apply(batch, &mut out, &mut letters).unwrap();
        loop {
            assert!(out.iter().map(|batch| batch.bytes().len()).sum::<usize>() < 2 * BATCH_BYTES);
            let some = out.iter().flat_map(Batch::lines);
            lines.extend(some.map(|line| String::from_utf8(line.to_vec()).unwrap()));
            out.clear();
            if !index.go_on(&mut out, &mut letters).unwrap() {
                break;
            }
        }
        let with = |line: &'static str| (0..5000).map(move |n| format!("{line}{}", field(n)));
        let want = with("k,a").chain(["none,b,".to_owned()]).chain(with("k,c"));
        assert_eq!(lines, want.collect::<Vec<_>>());
    }
}
