//! Sizes that are set (R8).

use crate::{
    call::{Call, CutAsked, unknown},
    content::OFFSET_MAX,
    error::of_command,
    table::Busy,
    volume::{Outcome, Volume},
};
use bytes::Bytes;
use hydfs_data::{Draft, FileWriter, Target};
use hydfs_memory::Slot;
use hydfs_mount::FsError;
use hydfs_types::{AgreementError, Command, CommandError, Ino, Op, SEGMENT_BYTES, SegmentId, Then};

/// Times that a truncate starts over because the file changed below it.
const TRUNCATE_TRIES: usize = 50;

/// A size that is wanted.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Exactly(u64),
    /// What is appended before it is agreed stays.
    AtLeast(u64),
}

impl Wanted {
    fn size(self) -> u64 {
        let (Self::Exactly(size) | Self::AtLeast(size)) = self;
        size
    }

    fn grows_only(self) -> bool {
        matches!(self, Self::AtLeast(_))
    }
}

impl Volume {
    /// Makes a file at least this long: one that is already, or that somebody appends to meanwhile, loses nothing.
    pub(crate) async fn grow(&self, call: &Call, ino: Ino, size: u64) -> Outcome<()> {
        self.resize(call, ino, Wanted::AtLeast(size)).await
    }

    /// Sets the size. Alone: one command. With writers on other mounts: every segment that changes is merged and cut
    /// under its slot leader's fence, so that nothing acknowledged later is lost with it (R8). What was written since an
    /// earlier worker did it for the same call is not cut again.
    pub(crate) async fn truncate(&self, call: &Call, ino: Ino, size: u64) -> Outcome<()> {
        self.resize(call, ino, Wanted::Exactly(size)).await
    }

    async fn resize(&self, call: &Call, ino: Ino, wanted: Wanted) -> Outcome<()> {
        let size = wanted.size();
        if size > OFFSET_MAX {
            return Err(FsError::TooLarge);
        }
        self.left_is_sent(ino).await;
        let _busy = Busy::new(&self.table, ino);
        if let Some(asked) = self.was_cut(call).await? {
            return self.retire_behind(ino, size, asked.newest).await;
        }
        for _ in 0..TRUNCATE_TRIES {
            self.drain(ino).await?;
            self.barrier().await?;
            self.recall(ino).await?;
            let (mut command, boundary) = self.resizing(ino, wanted)?;
            if let Some(segment) = boundary.filter(|_| size > 0 && self.table.writer(ino).is_some())
            {
                // What this mount wrote below the new end has to be in the base before it is cut.
                self.data
                    .reader
                    .look(&[segment])
                    .await
                    .map_err(Self::data_error)?;
                command = self.resizing(ino, wanted)?.0;
            }
            let proposed = match call.slot() {
                Some(_) => self.ctx.agreement.propose_kept(command, call).await,
                None => self.ctx.agreement.propose(command).await,
            };
            if let Err(AgreementError::Refused(_)) = proposed {
                self.forget_command(call);
            }
            match proposed {
                Ok(_) => return Ok(()),
                Err(AgreementError::Refused(CommandError::Busy)) => {
                    let others = self.has_other_writers(ino)?;
                    if others || self.ctx.state().must_cut_off(ino, size) {
                        return self.cut_off(call, ino, wanted).await;
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
                Err(error) => {
                    let error = crate::error::of_agreement(error);
                    if !self.may_try_again(ino, &error).await {
                        return Err(error);
                    }
                }
            }
        }
        Err(FsError::TryAgain)
    }

    /// The cut where the new end falls, if an earlier worker, which nobody can ask any more, has made it.
    async fn was_cut(&self, call: &Call) -> Outcome<Option<CutAsked>> {
        if call.sent_again().is_some_and(Slot::is_lost) {
            return Err(unknown());
        }
        let Some(asked) = call.cut_before() else {
            return Ok(None);
        };
        self.barrier().await?;
        let state = self.ctx.state();
        let known = state.segment(asked.segment).ok_or_else(unknown)?;
        match known.version {
            version if version == asked.base => Ok(None),
            version if version == asked.base.next() && known.len == asked.len => Ok(Some(asked)),
            _ => Err(unknown()),
        }
    }

    fn has_other_writers(&self, ino: Ino) -> Outcome<bool> {
        let mine = self.table.writer(ino).map(|writer| writer.writer);
        let state = self.ctx.state();
        let (_, file) = state.file(ino).map_err(of_command)?;
        Ok(file.writers.iter().any(|writer| Some(*writer) != mine))
    }

    /// The fast command, and the segment that the new end falls into.
    fn resizing(&self, ino: Ino, wanted: Wanted) -> Outcome<(Command, Option<SegmentId>)> {
        let size = wanted.size();
        let writer = self.table.writer(ino).filter(|writer| writer.is_open());
        let state = self.ctx.state();
        let (_, file) = state.file(ino).map_err(of_command)?;
        let boundary = file
            .segments
            .range(..size.max(1))
            .next_back()
            .map(|(_, id)| *id);
        // What it sent to segments that are gone has nothing to wait for.
        let last = |writer: &FileWriter| match boundary {
            Some(segment) if file.segments.len() == 1 => writer.last_in(segment),
            _ => writer.last_sent(),
        };
        let sole = writer.map(|writer| (writer.writer, last(&writer)));
        let versions = state.truncate_versions(ino, size);
        let command = match wanted {
            Wanted::Exactly(size) => Command::Truncate {
                ino,
                size,
                sole,
                versions,
            },
            Wanted::AtLeast(size) => Command::Grow {
                ino,
                size,
                sole,
                versions,
            },
        };
        Ok((command, boundary))
    }

    /// Sets the size below live writers of other mounts: everything acknowledged is merged under the fence before the cut.
    async fn cut_off(&self, call: &Call, ino: Ino, wanted: Wanted) -> Outcome<()> {
        let size = wanted.size();
        let (cuts, far, shrinks) = {
            let state = self.ctx.state();
            let (inode, file) = state.file(ino).map_err(of_command)?;
            let behind = file
                .segments
                .range(size + 1..)
                .rev()
                .filter(|_| !wanted.grows_only())
                .map(|(_, id)| (*id, Then::Retire));
            let end_with = |len| match wanted {
                Wanted::Exactly(_) => Then::SetLen(len),
                Wanted::AtLeast(_) => Then::Grow(len),
            };
            let mut cuts: Vec<(SegmentId, Then)> = behind.collect();
            let boundary = file
                .segments
                .range(..=size)
                .next_back()
                .and_then(|(start, id)| Some((size - start, *id, state.segment(*id)?.len)));
            let reached = boundary.filter(|(end, _, len)| *end <= SEGMENT_BYTES.max(*len));
            cuts.extend(reached.map(|(end, id, _)| (id, end_with(end))));
            let shrinks = size < inode.attr.size && !wanted.grows_only();
            (cuts, reached.is_none(), shrinks)
        };
        if self
            .ctx
            .state()
            .inode(ino)
            .is_ok_and(|inode| size > inode.attr.size)
        {
            // No command makes the file longer here, which a quota would refuse.
            let writer = self.writer(ino).await?;
            let room = self.have_room(&writer, Some(size), 0).await;
            room.map_err(Self::data_error)?;
        }
        for (segment, then) in cuts {
            let before = call.cut_before().filter(|one| one.segment == segment);
            let ask = |base| {
                if let Then::SetLen(len) = then {
                    let asked = CutAsked {
                        segment,
                        base,
                        len,
                        newest: self.newest_segment(),
                    };
                    call.note_cut(asked);
                }
            };
            self.data
                .reader
                .cutoff(segment, then, before.map(|one| one.base), ask)
                .await
                .map_err(Self::data_error)?;
        }
        if !wanted.grows_only() {
            self.retire_behind(ino, size, self.newest_segment()).await?;
        }
        if !far {
            return Ok(());
        }
        let (end, len) = self.grow_far(ino, size).await?;
        if !shrinks {
            return Ok(());
        }
        // A size that was set before goes on behind it: where it was cut the file ends.
        let cut = self
            .data
            .reader
            .cutoff(end, Then::SetLen(len), None, |_| {});
        cut.await.map_err(Self::data_error)
    }

    fn newest_segment(&self) -> Option<SegmentId> {
        let state = self.ctx.state();
        state.names.segments.keys().next_back().copied()
    }

    /// Between the end of the last segment and the cut of the one before it appends may have found that one full, and have
    /// begun another behind it, where the file went on before the cut. Those go, too. `newest`: no segment after this one had
    /// been made when the cut was through.
    async fn retire_behind(&self, ino: Ino, size: u64, newest: Option<SegmentId>) -> Outcome<()> {
        for _ in 0..TRUNCATE_TRIES {
            let behind: Vec<SegmentId> = {
                let state = self.ctx.state();
                let (_, file) = state.file(ino).map_err(of_command)?;
                let Some((start, id)) = file.segments.range(..=size).next_back() else {
                    return Ok(());
                };
                let end = start + state.segment(*id).map_or(0, |segment| segment.len);
                // One that begins where this one ends was begun since.
                let mut behind = file.segments.range(start + 1..).peekable();
                let gap = behind.peek().is_some_and(|(next, _)| **next > end);
                let behind = behind.rev().map(|(_, id)| *id);
                behind.filter(|id| gap && Some(*id) <= newest).collect()
            };
            if behind.is_empty() {
                return Ok(());
            }
            for segment in behind {
                let retired = self.data.reader.cutoff(segment, Then::Retire, None, |_| {});
                retired.await.map_err(Self::data_error)?;
            }
        }
        Err(FsError::TryAgain)
    }

    /// Grows a file past what its last segment may take, below live writers of other mounts. The segment at the new end
    /// gets its length by a record; then the one that was last takes no more appends, so that they go to the new end.
    /// Answers that segment and its length.
    async fn grow_far(&self, ino: Ino, size: u64) -> Outcome<(SegmentId, u64)> {
        let before = {
            let state = self.ctx.state();
            let (_, file) = state.file(ino).map_err(of_command)?;
            let below = file.segments.range(..size);
            below.map(|(_, id)| *id).next_back()
        };
        let (end, at, _) = self.place(ino, size - 1).await.map_err(Self::data_error)?;
        self.lengthen(ino, end, at + 1).await?;
        let Some(before) = before.filter(|before| *before != end) else {
            return Ok((end, at + 1));
        };
        // One that holds nothing cannot be full.
        self.lengthen(ino, before, 1).await?;
        self.data
            .reader
            .cutoff(before, Then::Full, None, |_| {})
            .await
            .map_err(Self::data_error)?;
        Ok((end, at + 1))
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
}
