//! Writes that are answered before any replica has them (R10).
//!
//! While a writer is alone with its file, a write without `O_SYNC` is done for its caller once it is queued: it goes out in
//! the background, many in a round, small ones that follow each other as one record. Whoever else wants to see or
//! change the file first *recalls* the writer: everything that it has answered is then on every acting replica, and it
//! answers nothing early for a while, in which whoever asked need not ask again. `fsync` and `close` wait for what is queued.
//!
//! A record that gathers several writes gets the seq of the last of them before anything of it is sent, and keeps both:
//! under one identity there is never another content. A replica has all of it or nothing, so what is known of a
//! record's seq is true of each seq in it.
//!
//! Cost: to the caller no round; to the cluster what the records of a round cost, for as many writes as came during the
//! round before.

use crate::{
    counters::Counters,
    error::DataError,
    sender::{Draft, FileWriter, Inner, Note, Queued},
};
use bytes::BytesMut;
use hydfs_types::{BoxFuture, Ino, Op, SegmentId, Seq, WriterId};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Bytes that one writer has queued at most when it answers early.
const WINDOW_BYTES: usize = 8 << 20;
/// Writes that one writer has queued at most when it answers early.
const WINDOW_WRITES: usize = 2048;
/// Bytes of a record that gathers several writes; larger ones travel alone, and are not copied.
const GATHERED_BYTES: usize = 256 << 10;
/// Writes up to this size are gathered.
const SMALL_BYTES: usize = 64 << 10;
/// So long nothing is answered early after a recall.
const RECALLED: Duration = Duration::from_secs(20);
/// So long whoever recalled need not do it again: well within that, as clocks of two members run.
pub const TRUSTED: Duration = Duration::from_secs(15);
/// Longest wait for a shorter queue.
const CROWDED: Duration = Duration::from_secs(2);

/// Who answers writes early on this member.
pub trait WriteBehind: Send + Sync {
    /// Everything that these writers of a file answered early is acknowledged, and they answer nothing early for a while.
    fn recall(&self, ino: Ino, writers: Vec<WriterId>) -> BoxFuture<'_, Result<(), DataError>>;
}

/// What a writer answers early.
#[derive(Default)]
pub(crate) struct Behind {
    /// It was recalled, and answers nothing early before then.
    recalled: Option<Instant>,
    /// Bytes that are queued.
    bytes: usize,
    writes: usize,
    /// Somebody sends what is queued.
    sending: bool,
}

/// What became of a write that might be answered early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is queued and may be answered. `first`: nobody sends yet.
    Behind { first: bool },
    /// It is not queued: there is too much before it, or the writer was recalled.
    No,
}

impl FileWriter {
    /// Queues a record of a write that is answered at once, where that may be. The caller holds a read lease, under which
    /// this is the file's only writer.
    pub fn push_behind(&self, draft: Draft) -> Result<Pushed, DataError> {
        let crc = crc32c::crc32c(&draft.payload);
        let place = self.place_of(&draft)?;
        let len = draft.payload.len();
        let mut inner = self.inner();
        if !inner.has_room_for(len) {
            return Ok(Pushed::No);
        }
        self.enqueue(&mut inner, draft.behind(true), place, crc)?;
        Counters::add(&self.ctx.counters.behind, 1);
        let first = !std::mem::replace(&mut inner.behind.sending, true);
        Ok(Pushed::Behind { first })
    }

    /// Whether a write of so many bytes would be answered early but for what is queued before it.
    pub fn is_crowded(&self, len: usize) -> bool {
        let inner = self.inner();
        !inner.behind.is_recalled() && !inner.ended && !inner.has_room_for(len)
    }

    /// Waits until half of the window is free, but not for long.
    pub async fn uncrowded(&self) {
        let freed = async {
            loop {
                let mut rung = std::pin::pin!(self.shortened.notified());
                rung.as_mut().enable();
                {
                    let inner = self.inner();
                    let behind = &inner.behind;
                    if behind.is_recalled()
                        || inner.ended
                        || behind.bytes <= WINDOW_BYTES / 2 && behind.writes <= WINDOW_WRITES / 2
                    {
                        return;
                    }
                }
                rung.await;
            }
        };
        drop(tokio::time::timeout(CROWDED, freed).await);
    }

    /// Answers nothing early for a while.
    pub fn set_recalled(&self) {
        self.inner().behind.recalled = Some(Instant::now() + RECALLED);
        self.shortened.notify_waiters();
    }

    /// Whether anything that was answered is not acknowledged.
    pub fn has_behind(&self) -> bool {
        self.inner().behind.writes > 0
    }

    /// The same where that can be said without a wait; else it may.
    pub fn may_have_behind(&self) -> bool {
        let inner = self.inner.try_lock();
        inner.map_or(true, |inner| inner.behind.writes > 0)
    }

    /// Whether less is queued than one record takes.
    pub fn has_little(&self) -> bool {
        self.inner().behind.bytes < GATHERED_BYTES
    }

    /// Whoever sends in the background stops, if nothing is queued.
    pub fn stop_sending(&self) -> bool {
        let mut inner = self.inner();
        let empty = inner.queue.is_empty();
        if empty {
            inner.behind.sending = false;
        }
        empty
    }
}

impl Behind {
    fn is_recalled(&self) -> bool {
        self.recalled.is_some_and(|until| Instant::now() < until)
    }
}

impl Inner {
    fn has_room_for(&self, len: usize) -> bool {
        let behind = &self.behind;
        !behind.is_recalled()
            && behind.writes < WINDOW_WRITES
            && (behind.bytes == 0 || behind.bytes + len <= WINDOW_BYTES)
    }

    /// A record is the last of the queue now.
    pub(crate) fn joined(&mut self) {
        if let Some(queued) = self.queue.back().filter(|queued| queued.behind) {
            self.behind.bytes += queued.payload.len();
            self.behind.writes += queued.writes;
        }
    }

    /// The first record leaves the queue.
    pub(crate) fn pop_front(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        if queued.behind {
            self.behind.bytes = self.behind.bytes.saturating_sub(queued.payload.len());
            self.behind.writes = self.behind.writes.saturating_sub(queued.writes);
        }
        Some(queued)
    }

    /// Small writes that were answered, follow each other and were sent to nobody become one record. How many went into
    /// others.
    pub(crate) fn gather(&mut self) -> u64 {
        let sent = self.queue.partition_point(|queued| queued.seq <= self.sent);
        if self.queue.len() - sent < 2 {
            return 0;
        }
        let before = self.queue.len();
        let unsent = self.queue.split_off(sent);
        let mut group: Vec<Queued> = Vec::new();
        let mut bytes = 0;
        for queued in unsent {
            let len = queued.payload.len();
            let joins = group.last().is_some_and(|last| follows(last, &queued));
            if !joins || bytes + len > GATHERED_BYTES {
                self.queue.extend(one_of(std::mem::take(&mut group)));
                bytes = 0;
            }
            bytes += len;
            group.push(queued);
        }
        self.queue.extend(one_of(group));
        (before - self.queue.len()) as u64
    }
}

/// Whether the second of two queued records may become one with the first.
fn follows(first: &Queued, second: &Queued) -> bool {
    let small = |queued: &Queued| queued.behind && queued.payload.len() <= SMALL_BYTES;
    let adjacent = match (first.op, second.op) {
        (Op::Append, Op::Append) => true,
        (Op::WriteAt(at), Op::WriteAt(next)) => at + first.payload.len() as u64 == next,
        _ => false,
    };
    small(first) && small(second) && first.target == second.target && adjacent
}

/// One record of several; nothing of none.
fn one_of(mut group: Vec<Queued>) -> Option<Queued> {
    let mut last = group.pop()?;
    let Some(first) = group.first() else {
        return Some(last);
    };
    last.op = first.op;
    group.push(last.clone());
    let len = group.iter().map(|one| one.payload.len()).sum();
    let mut payload = BytesMut::with_capacity(len);
    group
        .iter()
        .for_each(|one| payload.extend_from_slice(&one.payload));
    last.payload = payload.freeze();
    last.crc = crc32c::crc32c(&last.payload);
    last.writes = group.iter().map(|one| one.writes).sum();
    let notes = group.into_iter().filter_map(|one| one.note).collect();
    last.note = Some(Arc::new(Notes(notes)));
    Some(last)
}

/// Of all writes that a record gathers.
struct Notes(Vec<Arc<dyn Note>>);

impl Note for Notes {
    fn sent(&self, writer: WriterId, seq: Seq, segment: Option<SegmentId>) {
        self.0
            .iter()
            .for_each(|note| note.sent(writer, seq, segment));
    }

    fn done(&self) {
        self.0.iter().for_each(|note| note.done());
    }

    fn withdrawn(&self) {
        self.0.iter().for_each(|note| note.withdrawn());
    }

    fn given_up(&self) {
        self.0.iter().for_each(|note| note.given_up());
    }
}
