//! Ranges of files: room and zeros (fallocate), holes (lseek), copies (copy_file_range).
//!
//! A hole is a range without a segment: made by a write, a truncate or an allocation far past the end. Zeros that were
//! written, also by punching, are data; they read the same.

use crate::{
    call::Call,
    content::{Content, OFFSET_MAX},
    synthetic::Synthetic,
    table::Asks,
    volume::{Outcome, Volume},
};
use bytes::BytesMut;
use hydfs_memory::PIECES_MAX;
use hydfs_mount::{Answer, FsError, Handle};
use hydfs_types::{Ino, PAYLOAD_BYTES_MAX};

/// Bytes that one request copies at most, and whoever copies asks again for the rest: its records are made in one round, and the
/// memory file has room for the identity of each, also where one is cut at the border of a segment.
const COPY_BYTES_MAX: u64 = (PIECES_MAX as u64 - 1) * PAYLOAD_BYTES_MAX as u64;

/// A range of an open file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub ino: Ino,
    pub handle: Handle,
    pub offset: u64,
}

impl Volume {
    /// Zeros (`punch`) or room in a range, and unless `keep_size` the size that it needs.
    pub(crate) async fn allocate(
        &self,
        call: &Call,
        at: Place,
        len: u64,
        keep_size: bool,
        punch: bool,
    ) -> Outcome {
        let open = self.table.of(at.handle)?;
        if Synthetic::is(at.ino) {
            return Err(FsError::NotSupported("a control file takes no room".into()));
        }
        if len == 0 {
            return Err(FsError::Invalid("a range of no bytes".into()));
        }
        let end = at
            .offset
            .checked_add(len)
            .filter(|end| *end <= OFFSET_MAX)
            .ok_or(FsError::TooLarge)?;
        self.heed_losses(at.handle, Asks::Write)?;
        // What the worker before has zeroed, others may have written to since.
        let (pieces, done) = self.made_before(call, at.ino).await?;
        call.begin_at(pieces);
        self.barrier().await?;
        let size = self.fresh(at.ino).await?.size;
        let begin = at.offset.saturating_add(done as u64);
        if punch && begin < end.min(size) {
            let zeros = Content::Zeros(end.min(size) - begin);
            self.record(call, at.ino, Some(begin), zeros, open.how.sync)
                .await?;
        }
        if !keep_size && end > size {
            self.grow(call, at.ino, end).await?;
        }
        Ok(Answer::Done)
    }

    /// Where the next data or the next hole at or after an offset begins; the end of the file is a hole.
    pub(crate) async fn seek(&self, at: Place, data: bool) -> Outcome<u64> {
        let open = self.table.of(at.handle)?;
        if open.text.is_some() {
            return Err(FsError::NotSupported("a control file has no holes".into()));
        }
        if self.table.is_written(at.ino)
            && let Some(kernel) = self.kernel.get()
        {
            // Programs of this mount may have mapped the file and written where there was a hole: those pages come first.
            kernel.invalidate_pages(at.ino).await;
        }
        self.barrier().await?;
        self.settle_range(at.ino, at.offset, u64::MAX).await?;
        let state = self.ctx.state();
        let size = state
            .inode(at.ino)
            .map_err(crate::error::of_command)?
            .attr
            .size;
        if at.offset >= size {
            return Err(FsError::NoData);
        }
        let mut offset = at.offset;
        for piece in Self::pieces(&state, at.ino, at.offset, u64::MAX)? {
            if piece.segment.is_some() == data {
                return Ok(offset);
            }
            offset += piece.len as u64;
        }
        if data { Err(FsError::NoData) } else { Ok(size) }
    }

    /// Copies up to `len` bytes from one file to another, or within one; how many there were. The bytes pass through
    /// this member, not through the caller. What is pending in the source is merged first.
    pub(crate) async fn copy(&self, call: &Call, from: Place, to: Place, len: u64) -> Outcome<u32> {
        let source = self.table.of(from.handle)?;
        let target = self.table.of(to.handle)?;
        if source.text.is_some() || target.text.is_some() {
            return Err(FsError::NotSupported(
                "control files are read and written".into(),
            ));
        }
        let len = len.min(COPY_BYTES_MAX);
        if to
            .offset
            .checked_add(len)
            .is_none_or(|end| end > OFFSET_MAX)
        {
            return Err(FsError::TooLarge);
        }
        self.heed_losses(to.handle, Asks::Write)?;
        let (pieces, made) = self.made_before(call, to.ino).await?;
        if pieces > 0 {
            // The worker before has copied these; what was the rest then, the source may not have any more.
            if target.how.sync {
                self.sync(to.ino).await?;
            }
            return Ok(made as u32);
        }
        self.barrier().await?;
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < len {
            let done = bytes.len() as u64;
            let piece = (len - done).min(PAYLOAD_BYTES_MAX as u64) as u32;
            match self.read_at(from.ino, from.offset + done, piece).await {
                Ok(read) if read.is_empty() => break,
                Ok(read) => bytes.extend_from_slice(&read),
                // Whoever copies may ask for the rest.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        let copied = bytes.len() as u32;
        self.put_for(
            call,
            to.ino,
            Some(to.offset),
            bytes.freeze(),
            target.how.sync,
        )
        .await?;
        Ok(copied)
    }
}
