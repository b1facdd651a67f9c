//! Joins lines with the records of a CSV file that is held in memory whole, as it was when the job began.

use crate::attempt::Context;
use crate::batch::{BATCH_BYTES, Batch, LINE_BYTES_MAX, Lines};
use crate::csv;
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::key::write_key;
use crate::plan::{Lookup, PinnedFile};
use crate::position::Share;
use crate::reader::Reader;
use std::collections::HashMap;

/// Largest file in bytes.
pub const LOOKUP_BYTES_MAX: u64 = 256 << 20;

/// The file, by key.
pub struct Index {
    spec: Lookup,
    /// What is added to a line with this key: the fields, once for each record.
    added: HashMap<Box<[u8]>, Vec<Box<[u8]>>>,
}

impl Index {
    /// Reads the file.
    pub async fn load(context: &Context, spec: Lookup) -> Result<Self> {
        let pinned = context.sources.get(spec.source).ok_or(Error::Over)?.clone();
        let mut added: HashMap<Box<[u8]>, Vec<Box<[u8]>>> = HashMap::new();
        let chunk = context.chunk_bytes;
        let mut reader = Reader::new(
            context.storage.clone(),
            pinned,
            chunk,
            vec![Share::of_task(0, 1)],
        );
        let (mut key, mut fields) = (Vec::new(), Vec::new());
        while !reader.is_done() {
            let (_, Some(batch)) = reader.next().await? else {
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
                let records = added.entry(key.as_slice().into()).or_default();
                records.push(fields.as_slice().into());
            }
            tokio::task::yield_now().await;
        }
        Ok(Self { spec, added })
    }

    /// Each line with each of its records.
    pub fn apply(&self, batch: &Batch, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<()> {
        let mut lines = Lines::default();
        let mut key = Vec::new();
        let none = [vec![b','; self.spec.add.len()].into_boxed_slice()];
        for (at, line) in batch.lines().enumerate() {
            key.clear();
            write_key(line, &self.spec.on, &mut key);
            let records = match self.added.get(&key[..]) {
                Some(records) => &records[..],
                None if self.spec.keep_all => &none,
                None => continue,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let longest = records.iter().map(|fields| fields.len()).max();
            if line.len() + longest.unwrap_or(0) > LINE_BYTES_MAX {
                let what = "a joined line is longer than a line may be";
                let error = Error::Line(format!("{what}: {LINE_BYTES_MAX} bytes"));
                letters.blame(batch, at, error)?;
                continue;
            }
            for fields in records {
                lines.push_with(|to| {
                    to.extend_from_slice(line);
                    to.extend_from_slice(fields);
                });
                if lines.bytes() >= BATCH_BYTES {
                    out.extend(lines.take());
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
