//! Where an offset of a file stands: in a segment, or where the next one would begin.

use crate::{FileBody, Namespace};
use hydfs_types::{Digest, SEGMENT_BYTES, SegmentId, SlotId};

/// Largest size of a file in bytes, as the kernel has it.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Where an offset of a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this segment, which takes `room` more bytes from there on before the next may begin.
    In {
        segment: SegmentId,
        start: u64,
        offset_in_segment: u64,
        room: u64,
    },
    /// In a hole: a segment for it begins at `start` (`Command::Extend`).
    Missing { start: u64 },
}

/// The slot of a file's segment: the key itself places the first, the key and the index the others.
pub fn slot_of(key: &Digest, segment_index: u64) -> SlotId {
    hydfs_ring::segment_slot(key, segment_index)
}

/// The index that places a segment on the ring.
pub fn segment_index(start: u64) -> u64 {
    start / SEGMENT_BYTES
}

impl Namespace {
    /// Bytes from `start` on that belong to the segment there: nominally `SEGMENT_BYTES`, more where appends
    /// have made it longer, never past the next segment's start.
    pub(crate) fn cap(&self, file: &FileBody, start: u64, segment: SegmentId) -> u64 {
        let own = SEGMENT_BYTES.max(self.segments[&segment].len);
        let next = file
            .segments
            .range(start + 1..)
            .next()
            .map(|(next, _)| next - start);
        next.map_or(own, |gap| gap.min(own))
    }

    pub(crate) fn place(&self, file: &FileBody, offset: u64) -> Place {
        let grid = |bytes: u64| bytes - bytes % SEGMENT_BYTES;
        let Some((&start, &segment)) = file.segments.range(..=offset).next_back() else {
            return Place::Missing {
                start: grid(offset),
            };
        };
        let cap = self.cap(file, start, segment);
        let offset_in_segment = offset - start;
        if offset_in_segment < cap {
            return Place::In {
                segment,
                start,
                offset_in_segment,
                room: cap - offset_in_segment,
            };
        }
        Place::Missing {
            start: start + cap + grid(offset_in_segment - cap),
        }
    }
}
