//! What was read of a file: whole lines, or whole frames. Both count with all their bytes in the file.

use crate::batch::Batch;
use crate::frames::Frames;
use crate::receipt::Reads;
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    Lines(Batch),
    Frames(Frames),
}

impl Records {
    /// How many, at least 1.
    pub fn count(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.count(),
            Self::Frames(frames) => frames.count(),
        }
    }

    /// Bytes in the file; the last line of one counts with the end that it may not have.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Lines(lines) => lines.bytes().len() as u64 + 1,
            Self::Frames(frames) => frames.bytes().len() as u64,
        }
    }

    /// Where a record begins, counted from where the first does.
    pub fn start(&self, record: usize) -> u64 {
        match self {
            Self::Lines(lines) => lines.range(record).start as u64,
            Self::Frames(frames) => frames.start(record) as u64,
        }
    }

    /// Some of them, one at least.
    pub fn part(&self, records: Range<usize>) -> Self {
        match self {
            Self::Lines(lines) => {
                let (first, last) = (records.start, records.end - 1);
                let bytes = lines.range(first).start..lines.range(last).end;
                Self::Lines(Batch::from_lines(lines.bytes().slice(bytes)))
            }
            Self::Frames(frames) => Self::Frames(frames.part(records)),
        }
    }

    /// Takes them in among what was read up to `to`.
    pub fn count_among(&self, reads: &mut Reads, to: u64) {
        match self {
            Self::Lines(lines) => reads.add(to, lines),
            Self::Frames(frames) => reads.add_frames(to, frames),
        }
    }
}
