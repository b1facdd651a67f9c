//! Which record holds each byte of a segment that its base does not have yet: the last one that wrote there. Decisions
//! only, no I/O. What no extent covers is the base's, or a hole behind its end.

use hydfs_types::{Op, RecordHead, Seq};
use std::collections::BTreeMap;

/// Bytes of one record, or zeros that one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the segment, and how many bytes it has.
    pub start: u64,
    pub len: u64,
    pub from: Source,
}

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Zeros,
    /// The payload of this record, from `skip` bytes on. It has `len` bytes in all.
    Record {
        seq: Seq,
        skip: u64,
        len: u32,
    },
}

/// Extents of one segment; no two of them meet.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    by_start: BTreeMap<u64, (u64, Source)>,
}

impl Extents {
    /// One record more, in a segment that is `len` bytes long before it.
    pub fn add(&mut self, head: &RecordHead, len: u64) {
        let source = Source::Record {
            seq: head.seq,
            skip: 0,
            len: head.len,
        };
        match head.op {
            Op::Append => self.put(len, u64::from(head.len), source),
            Op::WriteAt(offset) => self.put(offset, u64::from(head.len), source),
            // Zeros reach no further than the segment does; what they grow it by is a hole.
            Op::Zero {
                offset, len: zeros, ..
            } => {
                let end = offset.saturating_add(zeros).min(len);
                self.put(offset, end.saturating_sub(offset), Source::Zeros);
            }
        }
    }

    fn put(&mut self, start: u64, len: u64, from: Source) {
        if len == 0 {
            return;
        }
        let end = start + len;
        if let Some((&at, &(stop, old))) = self.by_start.range(..start).next_back()
            && stop > start
        {
            self.by_start.insert(at, (start, old));
            if stop > end {
                self.by_start.insert(end, (stop, old.after(end - at)));
            }
        }
        let inside: Vec<u64> = self.by_start.range(start..end).map(|(at, _)| *at).collect();
        for at in inside {
            if let Some((stop, old)) = self.by_start.remove(&at)
                && stop > end
            {
                self.by_start.insert(end, (stop, old.after(end - at)));
            }
        }
        self.by_start.insert(start, (end, from));
    }

    /// The parts of extents that lie in a range, in order.
    pub fn within(&self, start: u64, len: u64) -> Vec<Extent> {
        let end = start.saturating_add(len);
        if end == start {
            return Vec::new();
        }
        let before = self.by_start.range(..start).next_back();
        before
            .into_iter()
            .chain(self.by_start.range(start..end))
            .filter(|(_, (stop, _))| *stop > start)
            .map(|(&at, &(stop, from))| {
                let first = at.max(start);
                Extent {
                    start: first,
                    len: stop.min(end) - first,
                    from: from.after(first - at),
                }
            })
            .collect()
    }
}

impl Source {
    /// The same, so many bytes later.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::Zeros => Self::Zeros,
            Self::Record { seq, skip, len } => Self::Record {
                seq,
                skip: skip + bytes,
                len,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::after;
    use hydfs_types::{SegmentId, Time, WriterId};
    use proptest::prelude::*;

    fn head(seq: u64, op: Op, len: u32) -> RecordHead {
        RecordHead {
            writer: WriterId(1),
            segment: SegmentId(1),
            seq: Seq(seq),
            prev: Seq(seq - 1),
            op,
            time: Time::default(),
            len,
            crc: 0,
        }
    }

    fn op() -> impl Strategy<Value = (Op, u32)> {
        prop_oneof![
            (1..40u32).prop_map(|len| (Op::Append, len)),
            (0..200u64, 1..40u32).prop_map(|(at, len)| (Op::WriteAt(at), len)),
            (0..200u64, 0..60u64, any::<bool>()).prop_map(|(offset, len, extend)| {
                let op = Op::Zero {
                    offset,
                    len,
                    extend,
                };
                (op, 0)
            }),
        ]
    }

    /// What a replica makes of the records when it merges them, byte by byte: who wrote it, and which byte of it.
    fn merged(content: &mut Vec<Option<(u64, u64)>>, head: &RecordHead) {
        let len = content.len() as u64;
        content.resize(after(len, head) as usize, None);
        let (at, end) = match head.op {
            Op::Append => (len, len + u64::from(head.len)),
            Op::WriteAt(at) => (at, at + u64::from(head.len)),
            Op::Zero {
                offset, len: zeros, ..
            } => (offset, (offset + zeros).min(len)),
        };
        for byte in at..end {
            let zero = matches!(head.op, Op::Zero { .. });
            content[byte as usize] = (!zero).then_some((head.seq.0, byte - at));
        }
    }

    proptest! {
        #[test]
        fn they_say_of_each_byte_what_a_merge_makes_of_it(
            base in 0..100usize,
            ops in prop::collection::vec(op(), 1..30),
            from in 0..250u64,
            len in 0..120u64,
        ) {
            // Bytes of the base itself are named by seq 0.
            let mut content: Vec<_> = (0..base as u64).map(|at| Some((0, at))).collect();
            let mut shown = content.clone();
            let mut extents = Extents::default();
            for (n, (op, bytes)) in ops.into_iter().enumerate() {
                let head = head(n as u64 + 1, op, bytes);
                extents.add(&head, content.len() as u64);
                merged(&mut content, &head);
            }
            shown.resize(content.len(), None);
            let mut last = from;
            for extent in extents.within(from, len) {
                prop_assert!(extent.start >= last && extent.len > 0);
                last = extent.start + extent.len;
                prop_assert!(last <= from + len);
                for byte in 0..extent.len {
                    shown[(extent.start + byte) as usize] = match extent.from {
                        Source::Zeros => None,
                        Source::Record { seq, skip, .. } => Some((seq.0, skip + byte)),
                    };
                }
            }
            let range = |all: &Vec<_>| -> Vec<Option<(u64, u64)>> {
                all.iter().skip(from as usize).take(len as usize).copied().collect()
            };
            prop_assert_eq!(range(&shown), range(&content));
        }
    }
}
