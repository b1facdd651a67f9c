//! Frames are found one after the other: nothing in the middle of a file says where one begins. Whoever reads from some byte on goes from
//! length to length, from a place where a frame is known to begin.

use crate::error::{Error, Result};
use crate::frames::{Cut, Frames, PREFIX_BYTES, Prefix, RECORD_BYTES_MAX, TooLong};
use crate::seams::{Source, Storage};
use bytes::{Bytes, BytesMut};

/// Bytes that are read at once to go from length to length: few where they are far apart, more where they are close together.
const STRIDE_BYTES: u64 = 4 << 10;
const STRIDE_BYTES_MAX: u64 = 1 << 20;
/// Read beyond the end of a piece in the same call, for the frame that crosses it.
const OVERLAP_BYTES: u64 = 16 << 10;

/// A file of frames.
pub struct Framed<'a> {
    pub storage: &'a dyn Storage,
    pub source: &'a Source,
    /// What errors call the file.
    pub path: &'a str,
    pub prefix: Prefix,
}

/// How far one has come, going from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where a frame begins, or the last whole one ends.
    pub at: u64,
    /// Where the frame before it begins, of those that were passed.
    pub before: Option<u64>,
    /// What begins there is not whole: the file ends within it.
    pub is_cut: bool,
}

impl Framed<'_> {
    /// The first place at byte `to` or behind it where a frame begins, going on from byte `from`, where one does. Where the file ends
    /// before: the end of the last whole frame.
    pub async fn walk(&self, from: u64, to: u64) -> Result<Place> {
        let len = self.source.len;
        let (mut block, mut block_at, mut stride) = (Bytes::new(), from, STRIDE_BYTES);
        let mut place = Place {
            at: from,
            before: None,
            is_cut: false,
        };
        while place.at < to && place.at < len {
            let block_end = block_at + block.len() as u64;
            if place.at + PREFIX_BYTES as u64 > block_end {
                stride = match place.at <= block_end {
                    true => (stride * 4).min(STRIDE_BYTES_MAX),
                    false => STRIDE_BYTES,
                };
                block_at = place.at;
                block = self.bytes(block_at, stride.min(len - block_at)).await?;
            }
            let there = (place.at - block_at) as usize;
            let frame = self.prefix.frame_bytes(&block, there);
            let next = place.at + frame.map_err(|error| self.too_long(block_at, &error))? as u64;
            if next > len {
                place.is_cut = true;
                break;
            }
            place.before = Some(place.at);
            place.at = next;
        }
        Ok(place)
    }

    /// Whole frames from byte `at` on, of about `want` bytes: at least one, if one is whole.
    pub async fn some(&self, at: u64, want: u64) -> Result<Option<Frames>> {
        let there = self.source.len.saturating_sub(at);
        let mut want = want.min(there);
        loop {
            let bytes = self.bytes(at, want).await?;
            let cut = self.cut(&bytes, at, u64::MAX)?;
            want = match (cut.frames, cut.need) {
                (None, Some(need)) if need as u64 <= there => need as u64,
                (frames, _) => return Ok(frames),
            };
        }
    }

    /// The frames that begin from byte `at` on, where one does, and before byte `end`. The file holds all of them wholly.
    pub async fn all(&self, at: u64, end: u64) -> Result<Option<Frames>> {
        let there = self.source.len.saturating_sub(at);
        let mut bytes = self
            .bytes(at, (end - at + OVERLAP_BYTES).min(there))
            .await?;
        loop {
            let cut = self.cut(&bytes, at, end - at)?;
            let Some(need) = cut.need.map(|need| need as u64) else {
                return Ok(cut.frames);
            };
            if need > there {
                let whole = cut.frames.map_or(0, |frames| frames.bytes().len());
                return Err(self.ends_within(at + whole as u64));
            }
            let had = bytes.len() as u64;
            let more = self.bytes(at + had, need - had).await?;
            let mut joined = BytesMut::from(&bytes[..]);
            joined.extend_from_slice(&more);
            bytes = joined.freeze();
        }
    }

    fn cut(&self, bytes: &Bytes, at: u64, end: u64) -> Result<Cut> {
        Frames::cut(bytes, end, self.prefix).map_err(|error| self.too_long(at, &error))
    }

    async fn bytes(&self, at: u64, len: u64) -> Result<Bytes> {
        let bytes = self.storage.read(self.source, at, len as u32).await?;
        match bytes.len() as u64 == len {
            true => Ok(bytes),
            false => Err(Error::Attempt(format!(
                "{} of {len} bytes read at {at} of {}",
                bytes.len(),
                self.source.ino
            ))),
        }
    }

    fn too_long(&self, bytes_at: u64, error: &TooLong) -> Error {
        Error::Job(format!(
            "the record of {} at byte {} says that it has {} bytes, more than {RECORD_BYTES_MAX}; see whether the file is as `prefix` says",
            self.path,
            bytes_at + error.at as u64,
            error.length
        ))
    }

    /// The file ends within the record at byte `at`.
    pub fn ends_within(&self, at: u64) -> Error {
        Error::Job(format!(
            "{} ends at byte {} within the record that begins at byte {at}; follow the file if it is still written, or cut it there",
            self.path, self.source.len
        ))
    }
}
