//! The record journal: what a replica has received, promised and applied, in order. Typed entries over a [`Log`].
//!
//! It keeps no index: the data crate rebuilds its own from the entries that [`Journal::open`] shows, and asks for a
//! payload by the position it was told.

use crate::{Disk, Log, LogOptions, Position, Result, StoreError};
use bytes::Bytes;
use hydfs_types::{
    Digest, Incarnation, Prepare, RecordHead, Run, SegmentId, SegmentVersion, Seq, SlotEpoch,
    SlotId, Then, WriterId, decode, encode,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An entry with a payload behind its head.
const KIND_RECORD: u8 = 1;
/// Any other entry.
const KIND_FACT: u8 = 2;
/// A record's head, encoded, is shorter than this: reads ask the disk once.
const HEAD_BYTES_GUESS: usize = 128;

/// One entry. Only grows at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalEntry {
    /// A record was received; its payload follows in the log.
    Record(RecordHead),
    /// Nothing is answered at a lower epoch of this slot any more (R3).
    Fence { slot: SlotId, epoch: SlotEpoch },
    /// A cut was prepared (R6 b).
    Prepared(Prepare),
    /// A cut is in the base: which records it merged, and what then. All that a redo after a power loss needs.
    Applied {
        segment: SegmentId,
        version: SegmentVersion,
        len: u64,
        digest: Digest,
        runs: Vec<Run>,
        then: Then,
    },
    /// A pulled base is in place.
    Adopted {
        segment: SegmentId,
        version: SegmentVersion,
        len: u64,
        digest: Digest,
    },
    /// Records of this lane above `after` will never be merged.
    Dropped {
        segment: SegmentId,
        writer: WriterId,
        after: Seq,
    },
    /// The segment is gone.
    Retired { segment: SegmentId },
    /// From here on this incarnation writes.
    Incarnation { incarnation: Incarnation },
    /// Everything pending in this segment, in the order in which it counts (R11: pulled before direct; kept by checkpoints).
    Order {
        segment: SegmentId,
        slot: SlotId,
        pending: Vec<(WriterId, Seq)>,
    },
}

/// The journal of one data folder.
pub struct Journal {
    log: Log,
}

impl Journal {
    /// Opens (or begins) the journal in `dir` and shows every entry, in order, to `visit`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        options: LogOptions,
        mut visit: impl FnMut(Position, JournalEntry) -> Result<()>,
    ) -> Result<Self> {
        let log = Log::open(disk, dir, options, |at, kind, bytes| {
            visit(at, parse(at, kind, &bytes)?)
        })?;
        Ok(Self { log })
    }

    /// As [`Journal::open`], with all entries at once.
    pub fn load(
        disk: Arc<dyn Disk>,
        dir: &str,
        options: LogOptions,
    ) -> Result<(Self, Vec<(Position, JournalEntry)>)> {
        let mut entries = Vec::new();
        let journal = Self::open(disk, dir, options, |at, entry| {
            entries.push((at, entry));
            Ok(())
        })?;
        Ok((journal, entries))
    }

    /// Journals a record: it survives this process. The payload must be the one that the head was made for.
    pub fn append_record(&self, head: &RecordHead, payload: &Bytes) -> Result<Position> {
        assert_eq!(
            head.len as usize,
            payload.len(),
            "record {}/{} with a foreign payload",
            head.writer,
            head.seq
        );
        let start = encode(&JournalEntry::Record(head.clone()));
        self.log.append(KIND_RECORD, &[&start, payload])
    }

    /// Journals anything but a record.
    pub fn append(&self, entry: &JournalEntry) -> Result<Position> {
        assert!(
            !matches!(entry, JournalEntry::Record(_)),
            "records are journaled with their payload"
        );
        self.log.append(KIND_FACT, &[&encode(entry)])
    }

    /// The payload, `len` bytes, of the record at `at`.
    pub fn read_payload(&self, at: Position, len: usize) -> Result<Bytes> {
        let (kind, bytes) = self.log.read_sized(at, HEAD_BYTES_GUESS + len)?;
        match bytes.len().checked_sub(len) {
            Some(start) if kind == KIND_RECORD => Ok(bytes.slice(start..)),
            _ => Err(malformed(at, "no record with such a payload")),
        }
    }

    /// Completes when everything journaled before this call is on disk.
    pub fn sync(&self) -> impl Future<Output = Result<()>> + Send + 'static + use<> {
        self.log.sync()
    }

    /// The log below: positions, dropping of old files, counters.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

fn malformed(at: Position, why: impl ToString) -> StoreError {
    StoreError::Malformed {
        what: format!("journal entry at {at}"),
        why: why.to_string(),
    }
}

fn parse(at: Position, kind: u8, bytes: &[u8]) -> Result<JournalEntry> {
    let entry: JournalEntry = decode(bytes).map_err(|error| malformed(at, error))?;
    if (kind == KIND_RECORD) == matches!(entry, JournalEntry::Record(_)) && kind <= KIND_FACT {
        Ok(entry)
    } else {
        Err(malformed(at, format!("kind {kind} does not fit it")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<(u8, Vec<u8>)> {
        let facts = [
            JournalEntry::Fence {
                slot: SlotId(7),
                epoch: SlotEpoch(300),
            },
            JournalEntry::Order {
                segment: SegmentId(9),
                slot: SlotId(7),
                pending: vec![(WriterId(1), Seq(2)), (WriterId(1), Seq(3))],
            },
            JournalEntry::Adopted {
                segment: SegmentId(9),
                version: SegmentVersion(4),
                len: 1 << 26,
                digest: Digest::of(b"x"),
            },
        ];
        facts
            .iter()
            .map(|fact| (KIND_FACT, hydfs_types::encode(fact).to_vec()))
            .collect()
    }

    #[test]
    fn the_samples_are_entries() {
        for (kind, bytes) in samples() {
            parse(Position::default(), kind, &bytes).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Checksums let no damage through to the decoder; a newer version's entries, or a bug's, they do.
        #[test]
        fn fault_m7_no_bytes_of_an_entry_do_harm(
            which in any::<prop::sample::Index>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            kind in any::<u8>(),
            keeps_kind in any::<bool>(),
        ) {
            let samples = samples();
            let (right, mut bytes) = samples[which.index(samples.len())].clone();
            for (at, byte) in damage {
                let at = 2 + at.index(bytes.len() - 2);
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len() - cut.index(bytes.len()).min(4));
            let kind = if keeps_kind { right } else { kind };
            if let Ok(entry) = parse(Position::default(), kind, &bytes) {
                prop_assert_eq!(kind == KIND_RECORD, matches!(entry, JournalEntry::Record(_)));
            }
        }
    }

    #[test]
    fn fuzz_entry() {
        let seeds = samples()
            .into_iter()
            .map(|(kind, bytes)| [&[kind][..], &bytes].concat());
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "entry")
            .seeds(seeds)
            .run(|bytes| match bytes.split_first() {
                Some((kind, bytes)) => hydfs_fuzz::seen(&parse(Position::default(), *kind, bytes)),
                None => String::new(),
            });
        assert!(shapes > 5, "{shapes}");
    }
}
