//! Reads one task's share of a pinned source, in batches cut at line ends.
//!
//! The data of each file is cut into chunks of a fixed size, numbered through all files; a line belongs to the chunk
//! that its first byte is in. Task i of n reads the chunks i, i + n, i + 2n, …, and what a change of n left to it: the shares depend on nothing but the
//! pinned source and the positions, so every attempt reads the same (fault R10).

use crate::batch::{Batch, LINE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::plan::{Pinned, PinnedFile};
use crate::position::Share;
use crate::seams::Storage;
use bytes::{Bytes, BytesMut};
use memchr::memchr;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Read beyond a chunk in the same call, for the line that crosses its end.
const OVERLAP_BYTES: u64 = 16 << 10;

/// Lines, and where the first of them begins in its file.
type Placed = (u64, Batch);

/// Reader of one task.
pub struct Reader {
    storage: Arc<dyn Storage>,
    pinned: Arc<Pinned>,
    chunk_bytes: u64,
    /// Number of the first chunk of each file, and of all chunks.
    firsts: Vec<u64>,
    /// What has not been handed out.
    shares: Vec<Share>,
    /// The chunk that is read ahead.
    ahead: Option<(u64, JoinHandle<Result<Option<Placed>>>)>,
    /// Where the lines that were handed out last begin, in the file that they are of.
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
    /// A reader of these shares.
    pub fn new(
        storage: Arc<dyn Storage>,
        pinned: Arc<Pinned>,
        chunk_bytes: u32,
        shares: Vec<Share>,
    ) -> Self {
        Self {
            firsts: firsts(&pinned, chunk_bytes),
            storage,
            pinned,
            chunk_bytes: chunk_bytes.max(1).into(),
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

    /// The next chunk and its lines, `None` if no line begins in it; the one after it is read meanwhile.
    pub async fn next(&mut self) -> Result<(Chunk, Option<Batch>)> {
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
            None => self.spawn(chunk.number),
        };
        self.shares[at].next = chunk.after();
        self.shares[at].at = 0;
        if let Some(after) = self.turn() {
            let number = self.shares[after].next;
            self.ahead = Some((number, self.spawn(number)));
        }
        let batch = current
            .await
            .map_err(|error| Error::Attempt(format!("a reader stopped: {error}")))??;
        Ok((
            chunk,
            batch.map(|(start, batch)| {
                self.start = start;
                batch
            }),
        ))
    }

    /// Where the lines that were handed out last begin, in the file that they are of.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// A file, by its number.
    pub fn pinned(&self, file: usize) -> Option<&PinnedFile> {
        self.pinned.files.get(file)
    }

    fn spawn(&self, chunk: u64) -> JoinHandle<Result<Option<Placed>>> {
        let (storage, pinned) = (self.storage.clone(), self.pinned.clone());
        let at = self.file_of(chunk);
        let (chunk, bytes) = (chunk - self.firsts[at], self.chunk_bytes);
        tokio::spawn(async move {
            // Only chunks that are there are asked for.
            let file = pinned.files.get(at).ok_or(Error::Over)?;
            let start = file.data_at + chunk * bytes;
            read_chunk(&*storage, file, start, start + bytes).await
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

/// The lines whose first byte is in `start..end`, and where they begin.
async fn read_chunk(
    storage: &dyn Storage,
    pinned: &PinnedFile,
    start: u64,
    end: u64,
) -> Result<Option<Placed>> {
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
            _ => return Ok(None),
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
    Ok(Some((from + first as u64, lines)))
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
