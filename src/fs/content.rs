//! Content: reads, writes, truncation, durability.
//!
//! A record is acknowledged when every acting replica has received it; its caller may have the answer before
//! (`behind.rs`). Appends carry no offset at all: where they land is the slot leader's order. Writes at offsets are
//! cut at segment borders, each piece one record.

use crate::{
    call::Call,
    error::of_command,
    synthetic::{Node, Synthetic},
    table::Busy,
    volume::{Outcome, Volume},
};
use bytes::{Bytes, BytesMut};
use hydfs_data::{DataError, Draft, FileWriter, Queued, Target};
use hydfs_mount::{Answer, FsError, Handle};
use hydfs_state::{Place, State};
use hydfs_types::{
    AgreementError, Command, CommandError, Ino, Op, PAYLOAD_BYTES_MAX, Reply, SEGMENT_BYTES,
    SegmentId, Seq, Then,
};
use std::{sync::Arc, time::Duration};

/// Times that a truncate starts over because the file changed below it.
const TRUNCATE_TRIES: usize = 50;
/// Largest offset of a file in bytes.
pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64 - PAYLOAD_BYTES_MAX as u64;

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
        match self.table.get(handle) {
            Some(open) => {
                if let Some(text) = &open.text {
                    return Ok(Self::slice(text, offset, len));
                }
            }
            // Opened through an earlier worker: its text is made again.
            None if Synthetic::is(ino) => {
                let text = match self.control_of(ino)?.1 {
                    Node::File(text) => text,
                    Node::Directory(_) => return Err(FsError::IsDirectory),
                };
                return Ok(Self::slice(&text, offset, len));
            }
            None => return Err(FsError::BadHandle),
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

    async fn read_pieces(&self, ino: Ino, offset: u64, len: u32) -> Outcome<Bytes> {
        let pieces = Self::pieces(&self.ctx.state(), ino, offset, u64::from(len))?;
        if let [
            Piece {
                segment: Some((segment, at)),
                len,
            },
        ] = pieces[..]
        {
            let bytes = self
                .data
                .reader
                .read(segment, at, len as u32)
                .await
                .map_err(Self::data_error)?;
            return Ok(padded(bytes, len));
        }
        let mut all = BytesMut::with_capacity(pieces.iter().map(|piece| piece.len).sum());
        for piece in pieces {
            let end = all.len() + piece.len;
            if let Some((segment, at)) = piece.segment {
                all.extend_from_slice(
                    &self
                        .data
                        .reader
                        .read(segment, at, piece.len as u32)
                        .await
                        .map_err(Self::data_error)?,
                );
            }
            all.resize(end, 0);
        }
        Ok(all.freeze())
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
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: Bytes,
        append: bool,
        call: &Call,
    ) -> Outcome {
        let len = data.len() as u32;
        if Synthetic::is(ino) {
            self.put_control(ino, &data)?;
            return Ok(Answer::Written(len));
        }
        let open = self.table.get(handle).ok_or(FsError::BadHandle)?;
        let at = if append { None } else { Some(offset) };
        if let Some(written) = self
            .write_when_uncrowded(call, ino, at, &data, open.how)
            .await
        {
            return written;
        }
        self.write_for(call, ino, at, data, open.how.sync).await?;
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
        if let Some(lost) = self.take_lost(ino) {
            return Err(lost);
        }
        let outcome = loop {
            let writer = self.writer(ino).await?;
            self.recall(ino).await?;
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
                        let now = self.writer(ino).await?;
                        break if durable {
                            now.sync().await
                        } else {
                            now.flush().await
                        };
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
                self.push_zeros(writer, at.unwrap_or_default(), len, time, durable)
            }
        }
    }

    /// Zeros where there are segments; holes stay holes. The last record's seq, 0 where there was nothing to do.
    fn push_zeros(
        &self,
        writer: &FileWriter,
        offset: u64,
        len: u64,
        time: hydfs_types::Time,
        durable: bool,
    ) -> Result<Seq, DataError> {
        let ranges = held_ranges(&self.ctx.state(), writer.ino, offset, len).map_err(gone)?;
        let mut last = Seq(0);
        for (segment, offset, len) in ranges {
            writer.room(Some(Target::Segment(segment)))?;
            let op = Op::Zero {
                offset,
                len,
                extend: false,
            };
            let target = Target::Segment(segment);
            last = writer.push(Draft::new(target, op, Bytes::new(), time).durable(durable))?;
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
            let note = call.note(at, piece.len());
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
            let draft = draft.durable(durable).noted(call.note(piece, len));
            last = writer.push(draft.behind(call.is_answered()))?;
            offset += len as u64;
        }
        Ok(last)
    }

    /// The segment at an offset, made where there is none yet.
    async fn place(&self, ino: Ino, offset: u64) -> Result<(SegmentId, u64, u64), DataError> {
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

    /// This mount's live writer of a file; a grant where there is none (one command).
    pub(crate) async fn writer(&self, ino: Ino) -> Outcome<Arc<FileWriter>> {
        let gate = self.table.with(ino, |used| used.gate.clone());
        let _turn = gate.lock().await;
        if let Some(writer) = self.table.writer(ino) {
            return Ok(writer);
        }
        self.granted(ino).await
    }

    async fn granted(&self, ino: Ino) -> Outcome<Arc<FileWriter>> {
        let writer = self.grant(ino).await?;
        self.table.take_up(&writer);
        Ok(writer)
    }

    async fn grant(&self, ino: Ino) -> Outcome<Arc<FileWriter>> {
        match self
            .propose(Command::Grant {
                ino,
                incarnation: self.ctx.me(),
                job: None,
            })
            .await?
        {
            Reply::Granted(granted) => Ok(Arc::new(self.data.writer(ino, granted.writer))),
            other => Err(FsError::Unreachable(format!(
                "unexpected answer of the agreement group: {other:?}"
            ))),
        }
    }

    /// Takes a new writer for one that was ended and gives it what the old one could not get acknowledged. Says whether
    /// the caller's record is among it (or was merged); an error means that its fate is unknown.
    pub(crate) async fn replace_writer(&self, ino: Ino, old: &Arc<FileWriter>) -> Outcome<bool> {
        let gate = self.table.with(ino, |used| used.gate.clone());
        let _turn = gate.lock().await;
        if self
            .table
            .writer(ino)
            .is_some_and(|now| now.writer != old.writer)
        {
            return Ok(true);
        }
        self.barrier().await?;
        if old.is_open() {
            // A segment was retired below it. Only a fence tells for sure what became of records that are on their way.
            self.propose(Command::Fence { writer: old.writer }).await?;
        }
        let segments: Vec<SegmentId> = {
            let state = self.ctx.state();
            let (_, file) = state.file(ino).map_err(of_command)?;
            file.segments.values().copied().collect()
        };
        self.data
            .reader
            .look(&segments)
            .await
            .map_err(Self::data_error)?;
        if !old.is_idle() && !old.fate_is_known() {
            let why = "the cluster ended this writer and no longer knows whether its last write was merged";
            let lost = DataError::TimedOut {
                millis: 0,
                why: why.into(),
            };
            self.table.with(ino, |used| {
                used.writer = None;
                if old.has_behind() {
                    used.lost = Some(lost);
                }
            });
            return Err(FsError::TimedOut(why.into()));
        }
        // First grant and segments: what is taken from the old writer has to go somewhere, its callers wait for it there.
        let new = self.grant(ino).await?;
        for (mut offset, end) in old.cut_off_ranges() {
            while offset < end {
                offset += self.place(ino, offset).await.map_err(Self::data_error)?.2;
            }
        }
        let left = old.salvage();
        self.table.take_up(&new);
        let appends = left.iter().any(|queued| queued.target == Target::Tail);
        self.table.with(ino, |used| used.appended |= appends);
        for queued in left {
            self.push_again(&new, queued).map_err(Self::data_error)?;
        }
        self.say_read(old);
        Ok(true)
    }

    /// Queues a record of an ended writer under a new one. Where it was cut off by a truncate it counts as written after
    /// the cut. Never waits: all of them move in one step.
    fn push_again(&self, new: &FileWriter, queued: Queued) -> Result<(), DataError> {
        let Queued {
            target,
            op,
            mut payload,
            time,
            start,
            note,
            behind,
            ..
        } = queued;
        let gone = matches!(target, Target::Segment(segment) if self.ctx.state().segment(segment).is_none());
        let at = match op {
            Op::WriteAt(at) if gone => at,
            // Nothing is there any more that could be zeroed.
            Op::Zero { .. } if gone => return Ok(()),
            _ => {
                let draft = Draft::new(target, op, payload, time);
                return new.push(draft.noted(note).behind(behind)).map(drop);
            }
        };
        let mut offset = start + at;
        while !payload.is_empty() {
            let place = self
                .ctx
                .state()
                .place(new.ino, offset)
                .map_err(self::gone)?;
            let Place::In {
                segment,
                offset_in_segment,
                room,
                ..
            } = place
            else {
                return Err(DataError::TimedOut {
                    millis: 0,
                    why: "the file keeps changing below a write".into(),
                });
            };
            let len = payload.len().min(room.min(usize::MAX as u64) as usize);
            let piece = payload.split_to(len);
            // The last one stands for all: it is sent after the others.
            let note = note.clone().filter(|_| payload.is_empty());
            let (target, op) = (Target::Segment(segment), Op::WriteAt(offset_in_segment));
            let draft = Draft::new(target, op, piece, time);
            new.push(draft.noted(note).behind(behind))?;
            offset += len as u64;
        }
        Ok(())
    }

    /// What became of a fenced writer's records is known here: the cluster need not keep it (R5).
    fn say_read(&self, old: &FileWriter) {
        let (agreement, end) = (self.ctx.agreement.clone(), old.finish(false));
        tokio::spawn(async move {
            if let Err(error) = agreement.propose(Command::End { ends: vec![end] }).await {
                tracing::info!(%error, "a fenced writer is kept until this member's next start");
            }
        });
    }

    /// A write was refused for want of space: its writer ends with what is acknowledged, so that nothing of the refused
    /// write turns up later. The next write gets a writer once that end is agreed.
    pub(crate) async fn give_up(&self, ino: Ino, writer: &Arc<FileWriter>) {
        let gate = self.table.with(ino, |used| used.gate.clone());
        let turn = gate.lock_owned().await;
        if writer.is_idle()
            || self
                .table
                .writer(ino)
                .is_none_or(|now| now.writer != writer.writer)
        {
            return;
        }
        let behind = writer.has_behind();
        let ends = vec![writer.give_up()];
        self.table.with(ino, |used| {
            used.writer = None;
            if behind {
                used.lost = Some(DataError::NoSpace);
            }
        });
        let agreement = self.ctx.agreement.clone();
        // Also when whoever wrote has stopped waiting.
        let ended = tokio::spawn(async move {
            while let Err(AgreementError::NoQuorum { .. }) =
                agreement.propose(Command::End { ends: ends.clone() }).await
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            drop(turn);
        });
        if let Err(error) = ended.await {
            tracing::error!(%ino, %error, "a writer that was refused space was not ended");
        }
    }

    pub(crate) async fn flush(&self, ino: Ino) -> Outcome {
        let flushed = self.drain(ino).await;
        if let Some(lost) = self.take_lost(ino) {
            return Err(lost);
        }
        flushed.map(|()| Answer::Done)
    }

    /// fsync: everything written to the file so far is on disk on every acting replica; names are so already.
    pub async fn sync(&self, ino: Ino) -> Outcome {
        if Synthetic::is(ino) {
            return Ok(Answer::Done);
        }
        let _busy = Busy::new(&self.table, ino);
        self.flush(ino).await?;
        self.recall(ino).await?;
        let synced = match self.table.writer(ino) {
            Some(writer) => writer.sync_written().await.map_err(Self::data_error)?,
            None => Vec::new(),
        };
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

    /// Sets the size. Alone: one command. With writers on other mounts: every segment that changes is merged and cut
    /// under its slot leader's fence, so that nothing acknowledged later is lost with it (R8).
    pub(crate) async fn truncate(&self, ino: Ino, size: u64) -> Outcome<()> {
        if size > OFFSET_MAX {
            return Err(FsError::TooLarge);
        }
        let _busy = Busy::new(&self.table, ino);
        for _ in 0..TRUNCATE_TRIES {
            self.drain(ino).await?;
            self.barrier().await?;
            self.recall(ino).await?;
            let (mut command, boundary) = self.truncate_command(ino, size)?;
            if let Some(segment) = boundary.filter(|_| size > 0 && self.table.writer(ino).is_some())
            {
                // What this mount wrote below the new end has to be in the base before it is cut.
                self.data
                    .reader
                    .look(&[segment])
                    .await
                    .map_err(Self::data_error)?;
                command = self.truncate_command(ino, size)?.0;
            }
            match self.ctx.agreement.propose(command).await {
                Ok(_) => return Ok(()),
                Err(AgreementError::Refused(CommandError::Busy)) => {
                    let others = self.has_other_writers(ino)?;
                    if others || self.ctx.state().must_cut_off(ino, size) {
                        self.cut_off(ino, size).await?;
                        return Ok(());
                    }
                    if let Some(segment) = boundary {
                        self.data
                            .reader
                            .look(&[segment])
                            .await
                            .map_err(Self::data_error)?;
                    }
                }
                Err(AgreementError::Refused(CommandError::Changed)) => {}
                Err(error) => return Err(crate::error::of_agreement(error)),
            }
        }
        Err(FsError::TryAgain)
    }

    fn has_other_writers(&self, ino: Ino) -> Outcome<bool> {
        let mine = self.table.writer(ino).map(|writer| writer.writer);
        let state = self.ctx.state();
        let (_, file) = state.file(ino).map_err(of_command)?;
        Ok(file.writers.iter().any(|writer| Some(*writer) != mine))
    }

    /// The fast command, and the segment that the new end falls into.
    fn truncate_command(&self, ino: Ino, size: u64) -> Outcome<(Command, Option<SegmentId>)> {
        let sole = self
            .table
            .writer(ino)
            .filter(|writer| writer.is_open())
            .map(|writer| (writer.writer, writer.last_sent()));
        let state = self.ctx.state();
        let (_, file) = state.file(ino).map_err(of_command)?;
        let boundary = file
            .segments
            .range(..size.max(1))
            .next_back()
            .map(|(_, id)| *id);
        Ok((
            Command::Truncate {
                ino,
                size,
                sole,
                versions: state.truncate_versions(ino, size),
            },
            boundary,
        ))
    }

    /// Truncates below live writers of other mounts: everything acknowledged is merged under the fence before the cut.
    async fn cut_off(&self, ino: Ino, size: u64) -> Outcome<()> {
        let (cuts, far) = {
            let state = self.ctx.state();
            let (_, file) = state.file(ino).map_err(of_command)?;
            let behind = file
                .segments
                .range(size + 1..)
                .rev()
                .map(|(_, id)| (*id, Then::Retire));
            let mut cuts: Vec<(SegmentId, Then)> = behind.collect();
            let boundary = file
                .segments
                .range(..=size)
                .next_back()
                .and_then(|(start, id)| Some((size - start, *id, state.segment(*id)?.len)));
            let reached = boundary.filter(|(wanted, _, len)| *wanted <= SEGMENT_BYTES.max(*len));
            cuts.extend(reached.map(|(wanted, id, _)| (id, Then::SetLen(wanted))));
            (cuts, reached.is_none())
        };
        for (segment, then) in cuts {
            self.data
                .reader
                .cutoff(segment, then)
                .await
                .map_err(Self::data_error)?;
        }
        if far {
            self.grow_far(ino, size).await
        } else {
            Ok(())
        }
    }

    /// Grows a file past what its last segment may take, below live writers of other mounts. The segment at the new end
    /// gets its length by a record; then the one that was last takes no more appends, so that they go to the new end.
    async fn grow_far(&self, ino: Ino, size: u64) -> Outcome<()> {
        let before = {
            let state = self.ctx.state();
            let (_, file) = state.file(ino).map_err(of_command)?;
            file.segments.values().next_back().copied()
        };
        let (end, at, _) = self.place(ino, size - 1).await.map_err(Self::data_error)?;
        self.lengthen(ino, end, at + 1).await?;
        let Some(before) = before.filter(|before| *before != end) else {
            return Ok(());
        };
        // One that holds nothing cannot be full.
        self.lengthen(ino, before, 1).await?;
        self.data
            .reader
            .cutoff(before, Then::Full)
            .await
            .map_err(Self::data_error)
    }

    /// Makes a segment at least this long.
    async fn lengthen(&self, ino: Ino, segment: SegmentId, len: u64) -> Outcome<()> {
        let writer = self.writer(ino).await?;
        let op = Op::Zero {
            offset: len,
            len: 0,
            extend: true,
        };
        let draft = Draft::new(Target::Segment(segment), op, Bytes::new(), self.clock.now());
        let seq = writer.push(draft).map_err(Self::data_error)?;
        writer.acknowledged(seq).await.map_err(Self::data_error)
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

/// The segments that a range of a file touches, with offset and length in each.
fn held_ranges(
    state: &State,
    ino: Ino,
    mut offset: u64,
    len: u64,
) -> Result<Vec<(SegmentId, u64, u64)>, CommandError> {
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
                ranges.push((segment, offset_in_segment, len));
                offset += len;
            }
            Place::Missing { .. } => {
                let next = file.segments.range(offset + 1..).next();
                offset = next.map_or(end, |(start, _)| *start);
            }
        }
    }
    Ok(ranges)
}

fn gone(error: CommandError) -> DataError {
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
