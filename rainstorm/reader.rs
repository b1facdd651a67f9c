//! Reads one task's share of a pinned source, in batches cut at line ends.
//!
//! The data of each file is cut into chunks of a fixed size, numbered through all files; a line belongs to the chunk
//! that its first byte is in. Task i of n reads the chunks i, i + n, i + 2n, …: the share depends on nothing but the pinned source, so every attempt
//! reads the same (fault R10), and the position of a task is the number of its next chunk.

use crate::batch::{Batch, LINE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::plan::{Pinned, PinnedFile};
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
    tasks: u64,
    /// Next chunk to hand out.
    chunk: u64,
    /// That chunk, being read ahead.
    ahead: Option<JoinHandle<Result<Option<Placed>>>>,
    /// Where the lines that were handed out last begin, in the file that they are of.
    start: u64,
}

impl Reader {
    /// A reader that goes on at `chunk`, which is one of its own.
    pub fn new(
        storage: Arc<dyn Storage>,
        pinned: Arc<Pinned>,
        chunk_bytes: u32,
        tasks: u32,
        chunk: u64,
    ) -> Self {
        let chunk_bytes = u64::from(chunk_bytes.max(1));
        let mut firsts = vec![0];
        let mut all = 0;
        for file in &pinned.files {
            all += file
                .source
                .len
                .saturating_sub(file.data_at)
                .div_ceil(chunk_bytes);
            firsts.push(all);
        }
        Self {
            storage,
            pinned,
            chunk_bytes,
            firsts,
            tasks: tasks.max(1).into(),
            chunk,
            ahead: None,
            start: 0,
        }
    }

    /// Next chunk that has not been handed out.
    pub fn position(&self) -> u64 {
        self.chunk
    }

    /// Everything is handed out.
    pub fn is_done(&self) -> bool {
        !self.is_chunk(self.chunk)
    }

    /// The number of the file that the next chunk is of.
    pub fn file(&self) -> usize {
        self.firsts.partition_point(|&first| first <= self.chunk) - 1
    }

    /// No other file has chunks behind file number `file`.
    pub fn is_last_file(&self, file: usize) -> bool {
        let all = self.firsts.last().copied().unwrap_or_default();
        self.firsts.get(file + 1).is_none_or(|&end| end == all)
    }

    fn is_chunk(&self, chunk: u64) -> bool {
        self.firsts.last().is_some_and(|&all| chunk < all)
    }

    /// The lines of the next chunk, `None` if no line begins in it; the one after it is read meanwhile.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        let current = self.ahead.take().unwrap_or_else(|| self.spawn(self.chunk));
        let after = self.chunk + self.tasks;
        if self.is_chunk(after) {
            self.ahead = Some(self.spawn(after));
        }
        let batch = current
            .await
            .map_err(|error| Error::Attempt(format!("a reader stopped: {error}")))??;
        self.chunk = after;
        Ok(batch.map(|(start, batch)| {
            self.start = start;
            batch
        }))
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
        let at = self.firsts.partition_point(|&first| first <= chunk) - 1;
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
        if let Some(ahead) = &self.ahead {
            ahead.abort();
        }
    }
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
