//! Records: the immutable unit of writing, with the identity `(writer, seq)` for ever (R4).

use crate::{SegmentId, Seq, Time, WriterId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Largest payload of one record in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Nominal size of a segment in bytes: writes at offsets never cross it, appends end it.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// What a record does to its segment when it is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Adds the payload at the segment's end.
    Append,
    /// Puts the payload at this offset inside the segment; bytes between the end and the offset become zeros.
    WriteAt(u64),
    /// Puts zeros over `len` bytes from `offset` inside the segment; the end moves only if `extend`. No payload.
    Zero { offset: u64, len: u64, extend: bool },
}

/// A record without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHead {
    pub writer: WriterId,
    pub segment: SegmentId,
    pub seq: Seq,
    /// Seq of the record before it in its lane (this writer, this segment); 0 for the first.
    pub prev: Seq,
    pub op: Op,
    /// The writer's clock: a label, never an order.
    pub time: Time,
    /// Payload bytes.
    pub len: u32,
    /// CRC-32C of the payload.
    pub crc: u32,
}

/// A record with its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub head: RecordHead,
    pub payload: Bytes,
}

/// Consecutive records of one lane in a cut's order: all of the lane's records with `first <= seq <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub writer: WriterId,
    pub first: Seq,
    pub last: Seq,
}

impl Record {
    /// Whether the payload is the one that the head was made for.
    pub fn intact(&self) -> bool {
        self.payload.len() == self.head.len as usize
            && crc32c::crc32c(&self.payload) == self.head.crc
    }
}
