//! Reads of files that this mount alone writes: from the base and its own records, without a look at the slot leaders (R7).

use crate::{content::Piece, volume::Volume};
use bytes::{Bytes, BytesMut};
use hydfs_data::{Extent, FileWriter};
use hydfs_state::State;
use hydfs_types::{Ino, SegmentId, SegmentVersion};

/// A piece of a read, and what it is made of.
struct Part {
    len: usize,
    held: Option<Held>,
}

struct Held {
    segment: SegmentId,
    version: SegmentVersion,
    at: u64,
    extents: Vec<Extent>,
}

impl Volume {
    /// Bytes at an offset, where nobody but this mount has or may have written what is not merged, and all of it is here.
    /// The caller has passed the barrier. `None`: to be read the usual way.
    pub(crate) async fn read_own(&self, ino: Ino, offset: u64, len: u32) -> Option<Bytes> {
        let writer = self.table.writer(ino)?;
        if !self.is_sole(&self.ctx.state(), ino, &writer) {
            return None;
        }
        let _quiet = writer.quiet().await?;
        let parts = self.own_parts(&self.ctx.state(), ino, &writer, (offset, len))?;
        let mut parts: Vec<Bytes> = parts
            .into_iter()
            .map(|part| self.read_part(&writer, part))
            .collect::<Option<_>>()?;
        if parts.len() == 1 {
            return parts.pop();
        }
        let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| all.extend_from_slice(part));
        Some(all.freeze())
    }

    fn own_parts(
        &self,
        state: &State,
        ino: Ino,
        writer: &FileWriter,
        (offset, len): (u64, u32),
    ) -> Option<Vec<Part>> {
        // Looked at again: it may have changed while others' records were waited for.
        if !self.is_sole(state, ino, writer) {
            return None;
        }
        let size = self.with_own(state, ino, Some(writer)).ok()?.size;
        let len_of = |segment: SegmentId, agreed: u64| {
            let own = writer.local_len_in(state, segment);
            own.unwrap_or(agreed)
        };
        let pieces = Self::pieces_of(state, ino, (offset, u64::from(len)), size, len_of).ok()?;
        let part = |piece: Piece| {
            let held = match piece.segment {
                Some((segment, at)) => Some(self.held(state, writer, segment, at, piece.len)?),
                None => None,
            };
            let len = piece.len;
            Some(Part { len, held })
        };
        pieces.into_iter().map(part).collect()
    }

    fn held(
        &self,
        state: &State,
        writer: &FileWriter,
        segment: SegmentId,
        at: u64,
        len: usize,
    ) -> Option<Held> {
        let (segment, version) = self.data.reader.at_hand(state, segment)?;
        let extents = writer.own_extents(state, segment, at, len as u64)?;
        Some(Held {
            segment,
            version,
            at,
            extents,
        })
    }

    fn read_part(&self, writer: &FileWriter, part: Part) -> Option<Bytes> {
        let Some(held) = part.held else {
            return Some(BytesMut::zeroed(part.len).freeze());
        };
        let range = (held.at, part.len);
        self.data.replica.read_own(
            held.segment,
            held.version,
            writer.writer,
            range,
            &held.extents,
        )
    }
}
