//! Content: reads, writes, truncation, durability.
//!
//! A record is acknowledged when every acting replica has received it; its caller may have the answer before
//! (`behind.rs`). Appends carry no offset at all: where they land is the slot leader's order. Writes at offsets are
//! cut at segment borders, each piece one record.

use crate::{
    call::Call,
    error::of_command,
    synthetic::{Node, Synthetic},
    table::{Asks, Busy},
    volume::{Outcome, Volume},
};
use bytes::{Bytes, BytesMut};
use hydfs_data::{DataError, Draft, FileWriter, Target};
use hydfs_mount::{Answer, FsError, Handle};
use hydfs_state::{Place, State};
use hydfs_types::{Command, CommandError, Ino, Op, PAYLOAD_BYTES_MAX, SegmentId, Seq};
use std::sync::Arc;

/// Largest offset of a file in bytes.
pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64 - PAYLOAD_BYTES_MAX as u64;
/// Times that a read begins anew because the file was cut meanwhile.
const READS: usize = 100;
/// Times that a sync begins anew because the cluster ended the writer.
const SYNCS: usize = 50;

/// One piece of a read: of a segment, or a hole.
pub(crate) struct Piece {
    pub segment: Option<(SegmentId, u64)>,
    pub len: usize,
}

/// What a write puts into a file.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// So many zeros at an offset, where the file has content; its size stays.
    Zeros(u64),
}

impl Volume {
    /// Bytes at an offset: everything acknowledged before the call is in them.
    /// Cost: clean and held here: the barrier alone. Dirty: one round to the slot leaders of the range.
    pub(crate) async fn read(
        &self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Outcome<Bytes> {
        match self.table.of(handle) {
            Ok(open) => {
                if let Some(text) = &open.text {
                    return Ok(Self::slice(text, offset, len));
                }
            }
            // Opened through an earlier worker: its text is made again.
            Err(_) if Synthetic::is(ino) => {
                let text = match self.control_of(ino)?.1 {
                    Node::File(text) => text,
                    Node::Directory(_) => return Err(FsError::IsDirectory),
                };
                return Ok(Self::slice(&text, offset, len));
            }
            Err(error) => return Err(error),
        }
        self.barrier().await?;
        self.read_at(ino, offset, len).await
    }

    /// The path of a file that stands directly in the directory of jobs, or is an order to one.
    fn job_file(&self, ino: Ino) -> Option<String> {
        let path = self.ctx.state().path_of(ino)?;
        let name = path.strip_prefix("/.jobs/")?;
        let job = name.strip_suffix("/control").unwrap_or(name);
        (!job.contains('/')).then_some(path)
    }

    pub(crate) fn tell_jobs(&self, path: &str) {
        if let Some(hook) = self.job_hook.get() {
            hook(path);
        }
    }

    /// Bytes that the caller knows to be merged and fixed: no barrier, no look.
    pub async fn read_fixed(&self, ino: Ino, offset: u64, len: u32) -> Outcome<Bytes> {
        self.read_pieces(ino, offset, len).await
    }

    /// As [`Volume::read`], without a handle; the caller has passed the barrier.
    pub async fn read_at(&self, ino: Ino, offset: u64, len: u32) -> Outcome<Bytes> {
        self.send_behind(ino).await?;
        if let Some(bytes) = self.read_own(ino, offset, len).await {
            return Ok(bytes);
        }
        self.settle_range(ino, offset, u64::from(len)).await?;
        self.read_pieces(ino, offset, len).await
    }

    /// What is pending in a range is merged: the agreed state tells its content and the file's size after it.
    pub(crate) async fn settle_range(&self, ino: Ino, offset: u64, len: u64) -> Outcome<()> {
        self.send_behind(ino).await?;
        self.recall(ino).await?;
        let dirty = dirty_segments(&self.ctx.state(), ino, offset, len)?;
        if dirty.is_empty() {
            return Ok(());
        }
        self.data
            .reader
            .look(&dirty)
            .await
            .map_err(Self::data_error)
            .map(drop)
    }

    /// The agreed content of a range. Where a base ends before its piece there is a hole, unless the file was cut between
    /// the look at its segments and the bytes: then it is read anew, so that nobody sees zeros that were never there.
    async fn read_pieces(&self, ino: Ino, offset: u64, len: u32) -> Outcome<Bytes> {
        for _ in 0..READS {
            let (version, pieces) = {
                let state = self.ctx.state();
                let version = state.inode(ino).map_err(of_command)?.data_version;
                (version, Self::pieces(&state, ino, offset, u64::from(len))?)
            };
            match self.read_through(&pieces).await {
                Ok((bytes, true)) => return Ok(bytes),
                Ok((bytes, false)) => {
                    // Who answered may have applied a cut that is not applied here. It need not be visible to anybody yet,
                    // so a read lease does not do.
                    self.round().await?;
                    let state = self.ctx.state();
                    if state.inode(ino).map_err(of_command)?.data_version == version {
                        return Ok(bytes);
                    }
                }
                Err(DataError::Retired(_)) => self.round().await?,
                Err(error) => return Err(Self::data_error(error)),
            }
        }
        Err(FsError::TryAgain)
    }

    /// The bytes of pieces, and whether there were as many as asked for: what is missing of one is zeros.
    async fn read_through(&self, pieces: &[Piece]) -> Result<(Bytes, bool), DataError> {
        if let [
            Piece {
                segment: Some((segment, at)),
                len,
            },
        ] = *pieces
        {
            let bytes = self.data.reader.read(segment, at, len as u32).await?;
            let whole = bytes.len() >= len;
            return Ok((padded(bytes, len), whole));
        }
        let mut all = BytesMut::with_capacity(pieces.iter().map(|piece| piece.len).sum());
        let mut whole = true;
        for piece in pieces {
            let end = all.len() + piece.len;
            if let Some((segment, at)) = piece.segment {
                let bytes = self.data.reader.read(segment, at, piece.len as u32).await?;
                whole &= bytes.len() >= piece.len;
                all.extend_from_slice(&bytes);
            }
            all.resize(end, 0);
        }
        Ok((all.freeze(), whole))
    }

    /// The pieces of a range, up to the file's end.
    pub(crate) fn pieces(state: &State, ino: Ino, offset: u64, len: u64) -> Outcome<Vec<Piece>> {
        let size = state.file(ino).map_err(of_command)?.0.attr.size;
        Self::pieces_of(state, ino, (offset, len), size, |_, agreed| agreed)
    }

    /// The same in a file of this size, whose segments are as long as `len_of` says of each and its agreed length.
    pub(crate) fn pieces_of(
        state: &State,
        ino: Ino,
        (offset, len): (u64, u64),
        size: u64,
        len_of: impl Fn(SegmentId, u64) -> u64,
    ) -> Outcome<Vec<Piece>> {
        let (_, file) = state.file(ino).map_err(of_command)?;
        let end = size.min(offset.saturating_add(len));
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let below = file.segments.range(..=at).next_back();
            let next = file
                .segments
                .range(at + 1..)
                .next()
                .map_or(end, |(start, _)| (*start).min(end));
            let held = below.and_then(|(start, id)| {
                state
                    .segment(*id)
                    .map(|known| (*start, *id, start + len_of(*id, known.len)))
            });
            match held {
                Some((start, id, held_to)) if at < held_to => {
                    let stop = held_to.min(next);
                    pieces.push(Piece {
                        segment: Some((id, at - start)),
                        len: (stop - at) as usize,
                    });
                    at = stop;
                }
                _ => {
                    pieces.push(Piece {
                        segment: None,
                        len: (next - at) as usize,
                    });
                    at = next;
                }
            }
        }
        Ok(pieces)
    }

    pub(crate) async fn write(
        &self,
        (ino, handle): (Ino, Handle),
        at: Option<u64>,
        data: Bytes,
        sync: bool,
        call: &Call,
    ) -> Outcome {
        let len = data.len() as u32;
        if Synthetic::is(ino) {
            self.put_control(ino, &data)?;
            return Ok(Answer::Written(len));
        }
        let how = self.table.of(handle)?.writing(sync);
        self.heed_losses(handle, Asks::Write)?;
        if let Some(written) = self.write_when_uncrowded(call, ino, at, &data, how).await {
            return written;
        }
        self.write_for(call, ino, at, data, how.sync).await?;
        Ok(Answer::Written(len))
    }

    /// Writes at an offset, or at the end. Acknowledged when it returns.
    pub async fn put(
        &self,
        ino: Ino,
        offset: Option<u64>,
        data: Bytes,
        durable: bool,
    ) -> Outcome<()> {
        self.left_is_sent(ino).await;
        let call = Call::once();
        self.put_for(&call, ino, offset, data, durable).await
    }

    pub(crate) async fn put_for(
        &self,
        call: &Call,
        ino: Ino,
        offset: Option<u64>,
        data: Bytes,
        durable: bool,
    ) -> Outcome<()> {
        if data.is_empty() {
            return Ok(());
        }
        if offset.is_some_and(|offset| offset > OFFSET_MAX) {
            return Err(FsError::TooLarge);
        }
        self.record(call, ino, offset, Content::Bytes(data), durable)
            .await
    }

    /// Makes records of a write and gets them acknowledged, under new writers where the cluster ended one.
    pub(crate) async fn record(
        &self,
        call: &Call,
        ino: Ino,
        offset: Option<u64>,
        content: Content,
        durable: bool,
    ) -> Outcome<()> {
        let busy = Busy::new(&self.table, ino);
        let losses = self.table.losses(ino);
        let outcome = loop {
            let writer = self.writer(ino).await?;
            self.recall(ino).await?;
            match self.have_room_for(&writer, offset, &content).await {
                Ok(()) => {}
                Err(DataError::WriterEnded(_)) => {
                    self.replace_writer(ino, &writer).await?;
                    continue;
                }
                Err(error) => break Err(error),
            }
            // Until all of it is queued it is nobody's record: what another call salvages does not have it.
            let queued = self
                .queue(call, &writer, offset, content.clone(), durable)
                .await;
            let done = match queued {
                Ok(last) => writer.acknowledged(last).await,
                Err(DataError::WriterEnded(_)) => {
                    self.replace_writer(ino, &writer).await?;
                    continue;
                }
                // Its segment went before it was queued.
                Err(DataError::Retired(_)) => continue,
                Err(error) => Err(error),
            };
            match done {
                // A truncate elsewhere retired the segment below a write: with its writer fenced it goes on in what is there now.
                Err(DataError::Retired(_)) if self.ctx.state().inode(ino).is_err() => break done,
                Err(DataError::WriterEnded(_) | DataError::Retired(_)) => {
                    // The queue of the ended writer goes on under a new one, this write's record with it (R5).
                    if self.replace_writer(ino, &writer).await? {
                        self.drain(ino).await?;
                        if let Some(lost) = self.table.lost_since(ino, losses) {
                            // Perhaps this one, too.
                            break Err(lost);
                        }
                        if durable {
                            self.sync_records(ino).await?;
                        }
                        break Ok(());
                    }
                }
                Err(DataError::NoSpace) => {
                    self.give_up(ino, &writer).await;
                    break Err(DataError::NoSpace);
                }
                done => break done,
            }
        };
        drop(busy);
        outcome.map_err(Self::data_error)
    }

    /// Makes records of a write; the last one's seq.
    pub(crate) async fn queue(
        &self,
        call: &Call,
        writer: &Arc<FileWriter>,
        offset: Option<u64>,
        content: Content,
        durable: bool,
    ) -> Result<Seq, DataError> {
        let time = self.clock.now();
        match (offset, content) {
            (None, Content::Bytes(data)) => {
                self.push_append(call, writer, data, time, durable).await
            }
            (Some(at), Content::Bytes(data)) => {
                self.push_at(call, writer, at, data, time, durable).await
            }
            (at, Content::Zeros(len)) => {
                let range = (at.unwrap_or_default(), len);
                self.push_zeros(call, writer, range, time, durable)
            }
        }
    }

    /// Zeros where there are segments; holes stay holes. The last record's seq, 0 where there was nothing to do.
    fn push_zeros(
        &self,
        call: &Call,
        writer: &FileWriter,
        (offset, len): (u64, u64),
        time: hydfs_types::Time,
        durable: bool,
    ) -> Result<Seq, DataError> {
        let ranges = held_ranges(&self.ctx.state(), writer.ino, offset, len).map_err(gone)?;
        let (mut last, mut done) = (Seq(0), offset);
        for (piece, held) in ranges.into_iter().enumerate() {
            let target = Target::Segment(held.segment);
            writer.room(Some(target))?;
            let op = Op::Zero {
                offset: held.at,
                len: held.len,
                extend: false,
            };
            // The hole before it counts as done with it.
            let note = call.note(piece, (held.end - done) as usize, false);
            let draft = Draft::new(target, op, Bytes::new(), time);
            last = writer.push(draft.durable(durable).noted(note))?;
            done = held.end;
        }
        Ok(last)
    }

    async fn push_append(
        &self,
        call: &Call,
        writer: &Arc<FileWriter>,
        mut data: Bytes,
        time: hydfs_types::Time,
        durable: bool,
    ) -> Result<Seq, DataError> {
        self.table.with(writer.ino, |used| used.appended = true);
        let gap = Self::gap(&self.ctx.state(), writer.ino);
        let gap = gap.map_err(|_| DataError::Agreement(CommandError::NotFound.into()))?;
        if let Some(start) = gap {
            self.ctx
                .agreement
                .propose(Command::Extend {
                    ino: writer.ino,
                    starts: vec![start],
                })
                .await?;
        }
        writer.room(Some(Target::Tail))?;
        let mut last = Seq(0);
        for at in 0.. {
            if data.is_empty() {
                break;
            }
            let piece = data.split_to(data.len().min(PAYLOAD_BYTES_MAX));
            let note = call.note(at, piece.len(), data.is_empty());
            let draft = Draft::new(Target::Tail, Op::Append, piece, time);
            let draft = draft.durable(durable).noted(note);
            last = writer.push(draft.behind(call.is_answered()))?;
        }
        Ok(last)
    }

    async fn push_at(
        &self,
        call: &Call,
        writer: &Arc<FileWriter>,
        mut offset: u64,
        mut data: Bytes,
        time: hydfs_types::Time,
        durable: bool,
    ) -> Result<Seq, DataError> {
        let mut last = Seq(0);
        for piece in 0.. {
            if data.is_empty() {
                break;
            }
            let (segment, at, room) = self.place(writer.ino, offset).await?;
            writer.room(Some(Target::Segment(segment)))?;
            let len = data
                .len()
                .min(PAYLOAD_BYTES_MAX)
                .min(room.min(usize::MAX as u64) as usize);
            let (target, op) = (Target::Segment(segment), Op::WriteAt(at));
            let draft = Draft::new(target, op, data.split_to(len), time);
            let note = call.note(piece, len, data.is_empty());
            let draft = draft.durable(durable).noted(note);
            last = writer.push(draft.behind(call.is_answered()))?;
            offset += len as u64;
        }
        Ok(last)
    }

    /// The segment at an offset, made where there is none yet.
    pub(crate) async fn place(
        &self,
        ino: Ino,
        offset: u64,
    ) -> Result<(SegmentId, u64, u64), DataError> {
        for _ in 0..4 {
            let place = self.ctx.state().place(ino, offset).map_err(gone)?;
            match place {
                Place::In {
                    segment,
                    offset_in_segment,
                    room,
                    ..
                } => return Ok((segment, offset_in_segment, room)),
                Place::Missing { start } => {
                    self.ctx
                        .agreement
                        .propose(Command::Extend {
                            ino,
                            starts: vec![start],
                        })
                        .await?;
                }
            }
        }
        Err(DataError::TimedOut {
            millis: 0,
            why: "the file keeps changing below a write".into(),
        })
    }

    /// close(2): everything that was written through descriptors like this one is received. Of one that only reads nothing was.
    pub(crate) async fn flush(&self, ino: Ino, handle: Handle) -> Outcome {
        if self.table.get(handle).is_some_and(|open| !open.how.write) {
            return Ok(Answer::Done);
        }
        let flushed = self.drain(ino).await;
        self.heed_losses(handle, Asks::Close)?;
        flushed.map(|()| Answer::Done)
    }

    /// fsync(2) of an open file: as [`Volume::sync`], and it is told what is lost of what was answered before.
    pub(crate) async fn sync_through(&self, ino: Ino, handle: Handle) -> Outcome {
        let synced = self.sync(ino).await;
        self.heed_losses(handle, Asks::Sync)?;
        synced
    }

    /// Everything written to the file so far is on disk on every acting replica; names are so already.
    pub async fn sync(&self, ino: Ino) -> Outcome {
        if Synthetic::is(ino) {
            return Ok(Answer::Done);
        }
        let _busy = Busy::new(&self.table, ino);
        self.drain(ino).await?;
        self.recall(ino).await?;
        let synced = self.sync_records(ino).await?;
        let unmerged: Vec<SegmentId> = {
            let state = self.ctx.state();
            let Ok((_, file)) = state.file(ino) else {
                return Ok(Answer::Done);
            };
            file.segments
                .values()
                .copied()
                .filter(|segment| !state.is_clean_segment(*segment) && !synced.contains(segment))
                .collect()
        };
        self.data
            .sync_segments(&unmerged)
            .await
            .map_err(Self::data_error)?;
        Ok(Answer::Done)
    }

    /// What this mount wrote is on disk on every acting replica; the segments for which that took a round.
    async fn sync_records(&self, ino: Ino) -> Outcome<Vec<SegmentId>> {
        for _ in 0..SYNCS {
            let Some(writer) = self.table.writer(ino) else {
                return Ok(Vec::new());
            };
            match writer.sync_written().await {
                // It was ended meanwhile, and what it had left is another's.
                Err(DataError::WriterEnded(_) | DataError::Retired(_)) => self.drain(ino).await?,
                synced => return synced.map_err(Self::data_error),
            }
        }
        Err(FsError::TryAgain)
    }

    pub(crate) fn release(self: Arc<Self>, handle: Handle) -> Outcome {
        let Some((closed, last)) = self.table.close(handle) else {
            return Ok(Answer::Done);
        };
        if closed.how.write
            && let Some(path) = self.job_file(closed.ino)
        {
            // A spec is picked up when it is closed: its writer ends now, not after the usual pause.
            let volume = self.clone();
            tokio::spawn(async move {
                volume.end(vec![closed.ino]).await;
                volume.tell_jobs(&path);
            });
        }
        if last
            && self
                .ctx
                .state()
                .inode(closed.ino)
                .is_ok_and(|inode| inode.orphan.is_some())
        {
            self.orphans.notify_one();
        }
        Ok(Answer::Done)
    }

    /// Content of a control file, for those who read without a handle.
    pub fn control_text(&self, path: &str) -> Option<Bytes> {
        match self.control.get()?.node(path)? {
            Node::File(text) => Some(text),
            Node::Directory(_) => None,
        }
    }
}

/// Segments of a range that may have something pending; `settle_range` has them merged.
pub(crate) fn dirty_segments(
    state: &State,
    ino: Ino,
    offset: u64,
    len: u64,
) -> Outcome<Vec<SegmentId>> {
    let (inode, file) = state.file(ino).map_err(of_command)?;
    let live = !file.writers.is_empty();
    let end = offset.saturating_add(len);
    // Whether the file goes on behind the end that is agreed is known to the segments from here on alone.
    let end = if end > inode.attr.size { u64::MAX } else { end };
    let of_range = file
        .segments
        .range(..end)
        .rev()
        .scan(false, |done, (start, id)| {
            let keep = !*done;
            *done = *start <= offset;
            keep.then_some(*id)
        });
    Ok(of_range
        .filter(|id| live || !state.is_clean_segment(*id))
        .collect())
}

/// What a segment has of a range of a file.
struct Held {
    segment: SegmentId,
    /// Where it begins in the segment.
    at: u64,
    len: u64,
    /// Where it ends in the file.
    end: u64,
}

/// The segments that a range of a file touches.
fn held_ranges(
    state: &State,
    ino: Ino,
    mut offset: u64,
    len: u64,
) -> Result<Vec<Held>, CommandError> {
    let end = offset.saturating_add(len);
    let mut ranges = Vec::new();
    while offset < end {
        let (_, file) = state.file(ino)?;
        match state.place(ino, offset)? {
            Place::In {
                segment,
                offset_in_segment,
                room,
                ..
            } => {
                let len = room.min(end - offset);
                offset += len;
                ranges.push(Held {
                    segment,
                    at: offset_in_segment,
                    len,
                    end: offset,
                });
            }
            Place::Missing { .. } => {
                let next = file.segments.range(offset + 1..).next();
                offset = next.map_or(end, |(start, _)| *start);
            }
        }
    }
    Ok(ranges)
}

pub(crate) fn gone(error: CommandError) -> DataError {
    DataError::Agreement(error.into())
}

/// A base that ends before the agreed length ends in a hole.
pub(crate) fn padded(bytes: Bytes, len: usize) -> Bytes {
    if bytes.len() >= len {
        return bytes;
    }
    let mut full = BytesMut::from(&bytes[..]);
    full.resize(len, 0);
    full.freeze()
}
