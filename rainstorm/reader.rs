//! Reads one task's share of a pinned source, in batches cut at line ends.
//!
//! The data of each file is cut into chunks of a fixed size, numbered through all files; a line belongs to the chunk
//! that its first byte is in. Task i of n reads the chunks i, i + n, i + 2n, …, and what a change of n left to it: the shares depend on nothing but the
//! pinned source and the positions, so every attempt reads the same (fault R10).
//!
//! So it is with frames. Which is the first of a chunk is only known to who comes from the frames before it: each task goes through the lengths of
//! those of other tasks, too, from the last frame of its own chunk before.

use crate::batch::{Batch, LINE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::framed::Framed;
use crate::frames::Prefix;
use crate::plan::{Pinned, PinnedFile};
use crate::position::Share;
use crate::records::Records;
use crate::seams::Storage;
use bytes::{Bytes, BytesMut};
use memchr::memchr;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Read beyond a chunk in the same call, for the line that crosses its end.
const OVERLAP_BYTES: u64 = 16 << 10;

/// What a chunk has come to.
struct Placed {
    /// Its lines or frames, and where the first of them begins in its file.
    records: Option<(u64, Records)>,
    /// Where the last frame begins that is known to, in this chunk or before.
    frame_at: u64,
}

/// Reader of one task.
pub struct Reader {
    storage: Arc<dyn Storage>,
    pinned: Arc<Pinned>,
    chunk_bytes: u64,
    /// Records are frames.
    prefix: Option<Prefix>,
    /// Number of the first chunk of each file, and of all chunks.
    firsts: Vec<u64>,
    /// What has not been handed out.
    shares: Vec<Share>,
    /// The chunk that is read ahead.
    ahead: Option<(u64, JoinHandle<Result<Placed>>)>,
    /// Where what was handed out last begins, in the file that it is of.
    start: u64,
}

/// A chunk that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub number: u64,
    /// The share that it was of, by its number.
    pub share: usize,
    pub step: u64,
    /// As in [`Share`].
    pub at: u64,
}

impl Chunk {
    /// The next one of its share.
    pub fn after(&self) -> u64 {
        self.number + self.step
    }
}

impl Reader {
    /// A reader of these shares of a source that is cut into chunks of that size, of frames if they have a prefix.
    pub fn new(
        storage: Arc<dyn Storage>,
        pinned: Arc<Pinned>,
        (chunk_bytes, prefix): (u32, Option<Prefix>),
        shares: Vec<Share>,
    ) -> Self {
        Self {
            firsts: firsts(&pinned, chunk_bytes),
            storage,
            pinned,
            chunk_bytes: chunk_bytes.max(1).into(),
            prefix,
            shares,
            ahead: None,
            start: 0,
        }
    }

    /// What has not been handed out.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The share whose next chunk comes first: the order of chunks is the order of the source.
    fn turn(&self) -> Option<usize> {
        let all = self.firsts.last().copied().unwrap_or_default();
        let open = self.shares.iter().enumerate();
        open.filter(|(_, share)| share.next < share.end.min(all))
            .min_by_key(|(_, share)| share.next)
            .map(|(at, _)| at)
    }

    /// Everything is handed out.
    pub fn is_done(&self) -> bool {
        self.turn().is_none()
    }

    /// The number of the file that the next chunk is of; of none, the one behind the last.
    pub fn file(&self) -> usize {
        let next = self.turn().map_or(u64::MAX, |at| self.shares[at].next);
        self.file_of(next)
    }

    fn file_of(&self, chunk: u64) -> usize {
        self.firsts.partition_point(|&first| first <= chunk) - 1
    }

    /// No other file has chunks behind file number `file`.
    pub fn is_last_file(&self, file: usize) -> bool {
        let all = self.firsts.last().copied().unwrap_or_default();
        self.firsts.get(file + 1).is_none_or(|&end| end == all)
    }

    /// The next chunk and its lines or frames, `None` if none begins in it; the one after it is read meanwhile.
    pub async fn next(&mut self) -> Result<(Chunk, Option<Records>)> {
        let at = self.turn().ok_or(Error::Over)?;
        let share = self.shares[at];
        let chunk = Chunk {
            number: share.next,
            share: at,
            step: share.step,
            at: share.at,
        };
        let ahead = self.ahead.take();
        let current = match ahead.filter(|(number, _)| *number == chunk.number) {
            Some((_, ahead)) => ahead,
            None => self.spawn(share),
        };
        self.shares[at].next = chunk.after();
        self.shares[at].at = 0;
        if self.prefix.is_none() {
            self.read_ahead();
        }
        let placed = current
            .await
            .map_err(|error| Error::Attempt(format!("a reader stopped: {error}")))??;
        if self.prefix.is_some() {
            if self.file_of(chunk.after()) == self.file_of(chunk.number) {
                self.shares[at].at = placed.frame_at;
            }
            self.read_ahead();
        }
        let records = placed.records.map(|(start, records)| {
            self.start = start;
            records
        });
        Ok((chunk, records))
    }

    fn read_ahead(&mut self) {
        if let Some(after) = self.turn() {
            let share = self.shares[after];
            self.ahead = Some((share.next, self.spawn(share)));
        }
    }

    /// Where what was handed out last begins, in the file that it is of.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// A file, by its number.
    pub fn pinned(&self, file: usize) -> Option<&PinnedFile> {
        self.pinned.files.get(file)
    }

    /// Begins to read the next chunk of a share.
    fn spawn(&self, share: Share) -> JoinHandle<Result<Placed>> {
        let (storage, pinned) = (self.storage.clone(), self.pinned.clone());
        let at = self.file_of(share.next);
        let (chunk, bytes) = (share.next - self.firsts[at], self.chunk_bytes);
        let prefix = self.prefix;
        tokio::spawn(async move {
            // Only chunks that are there are asked for.
            let file = pinned.files.get(at).ok_or(Error::Over)?;
            let start = file.data_at + chunk * bytes;
            let end = start + bytes;
            match prefix {
                None => read_lines(&*storage, file, start, end).await,
                Some(prefix) => {
                    let framed = Framed {
                        storage: &*storage,
                        source: &file.source,
                        path: &file.path,
                        prefix,
                    };
                    // Of a chunk that was begun the share names a frame in it, which need not be its first.
                    let known = Some(share.at).filter(|&at| at > file.data_at && at <= start);
                    read_frames(&framed, known.unwrap_or(file.data_at), start, end).await
                }
            }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((_, ahead)) = &self.ahead {
            ahead.abort();
        }
    }
}

/// Number of the first chunk of each file of a source, and of all chunks.
pub fn firsts(pinned: &Pinned, chunk_bytes: u32) -> Vec<u64> {
    let mut firsts = vec![0];
    let mut all = 0;
    for file in &pinned.files {
        let data = file.source.len.saturating_sub(file.data_at);
        all += data.div_ceil(chunk_bytes.max(1).into());
        firsts.push(all);
    }
    firsts
}

/// The frames that begin in `start..end`; one begins at byte `known`, which is not behind that.
async fn read_frames(framed: &Framed<'_>, known: u64, start: u64, end: u64) -> Result<Placed> {
    let end = end.min(framed.source.len);
    let place = framed.walk(known, start).await?;
    if place.is_cut {
        return Err(framed.ends_within(place.at));
    }
    let frames = match place.at < end {
        true => framed.all(place.at, end).await?,
        false => None,
    };
    let last = frames
        .as_ref()
        .map(|frames| frames.start(frames.count() - 1));
    Ok(Placed {
        frame_at: match last {
            Some(last) => place.at + last as u64,
            None => place.before.unwrap_or(known),
        },
        records: frames.map(|frames| (place.at, Records::Frames(frames))),
    })
}

/// The lines whose first byte is in `start..end`.
async fn read_lines(
    storage: &dyn Storage,
    pinned: &PinnedFile,
    start: u64,
    end: u64,
) -> Result<Placed> {
    let len = pinned.source.len;
    let end = end.min(len);
    // One byte before the chunk tells whether a line begins at its first byte.
    let from = if start > pinned.data_at {
        start - 1
    } else {
        start
    };
    let want = (end + OVERLAP_BYTES).min(len) - from;
    let mut bytes = read(storage, pinned, from, want).await?;
    let first = match from < start {
        false => 0,
        true => match memchr(b'\n', &bytes[..(end - from) as usize]) {
            Some(at) if from + at as u64 + 1 < end => at + 1,
            _ => {
                return Ok(Placed {
                    records: None,
                    frame_at: 0,
                });
            }
        },
    };
    // The last line is the one that the chunk's last byte is in; it may end far behind.
    let mut searched = (end - 1 - from) as usize;
    let last = loop {
        if let Some(at) = memchr(b'\n', &bytes[searched..]) {
            break searched + at;
        }
        searched = bytes.len();
        let at = from + searched as u64;
        if at >= len {
            break searched;
        }
        if searched > LINE_BYTES_MAX + (end - from) as usize {
            let what = format!(
                "a line of {} near byte {end} is longer than {LINE_BYTES_MAX} bytes",
                pinned.path
            );
            return Err(Error::Job(format!("{what}; cut it into shorter lines")));
        }
        let more = read(storage, pinned, at, (1 << 20).min(len - at)).await?;
        let mut joined = BytesMut::from(&bytes[..]);
        joined.extend_from_slice(&more);
        bytes = joined.freeze();
    };
    let lines = Batch::from_lines(bytes.slice(first..last));
    Ok(Placed {
        records: Some((from + first as u64, Records::Lines(lines))),
        frame_at: 0,
    })
}

async fn read(storage: &dyn Storage, pinned: &PinnedFile, offset: u64, len: u64) -> Result<Bytes> {
    let bytes = storage.read(&pinned.source, offset, len as u32).await?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(Error::Attempt(format!(
            "{} of {len} bytes read at {offset} of {}",
            bytes.len(),
            pinned.source.ino
        ))),
    }
}
