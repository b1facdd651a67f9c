//! This mount's writers of files: their grants, and what becomes of one that the cluster has ended (R5).

use crate::{
    content,
    error::of_command,
    volume::{Outcome, Volume},
};
use hydfs_data::{DataError, Draft, FileWriter, Queued, Target};
use hydfs_mount::FsError;
use hydfs_state::Place;
use hydfs_types::{Command, Ino, Op, Refusal, Reply, SegmentId};
use std::{sync::Arc, time::Duration};

/// Times that the segments of a file are listed anew because a truncate takes them away.
const LOOKS: usize = 50;
const AGAIN: Duration = Duration::from_millis(100);

impl Volume {
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
        self.look_at_all(ino).await?;
        if !old.is_idle() && !old.fate_is_known() {
            let why = "the cluster ended this writer and no longer knows whether its last write was merged";
            let lost = DataError::TimedOut {
                millis: 0,
                why: why.into(),
            };
            let behind = old.has_behind();
            old.abandon();
            self.table.with(ino, |used| {
                used.writer = None;
                if behind {
                    used.losses.note(lost);
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
        let over_quota = self
            .hand_room_on(old, &new)
            .await
            .err()
            .map(DataError::from);
        let left = old.salvage();
        let appends = left.iter().any(|queued| queued.target == Target::Tail);
        let (mut lost, mut refused) = (None, None);
        for queued in left {
            let note = queued.note.clone();
            let goes_on = match (&lost, &over_quota) {
                (Some(_), _) => false,
                // What was answered before there was a quota goes on all the same.
                (None, Some(why)) if !queued.behind => {
                    refused = Some(why.clone());
                    false
                }
                (None, _) => {
                    lost = self.push_again(&new, queued).err();
                    lost.is_none()
                }
            };
            if let Some(note) = note.filter(|_| !goes_on) {
                note.given_up();
            }
        }
        let lost = lost.or(refused);
        // Only now: what is written from here on comes behind.
        self.table.take_up(&new);
        self.table.with(ino, |used| {
            used.appended |= appends;
            lost.into_iter().for_each(|why| used.losses.note(why));
        });
        self.say_read(old);
        Ok(true)
    }

    /// Everything that anybody has acknowledged of a file is merged, and the end of every fenced writer of it fixed.
    pub(crate) async fn look_at_all(&self, ino: Ino) -> Outcome<()> {
        for _ in 0..LOOKS {
            let segments: Vec<SegmentId> = {
                let state = self.ctx.state();
                let (_, file) = state.file(ino).map_err(of_command)?;
                file.segments.values().copied().collect()
            };
            match self.data.reader.look(&segments).await {
                // A truncate took it away meanwhile.
                Err(DataError::Refused(Refusal::Retired(_))) => self.barrier().await?,
                looked => return looked.map_err(Self::data_error),
            }
        }
        Err(FsError::TryAgain)
    }

    /// Queues a record of an ended writer under a new one, which nobody else has yet. Where it was cut off by a truncate it
    /// counts as written after the cut. Never waits: all of them move in one step, which no deadline divides.
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
            Op::Zero { .. } if gone => {
                note.iter().for_each(|note| note.done());
                return Ok(());
            }
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
                .map_err(content::gone)?;
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
        let ends = vec![end];
        tokio::spawn(async move {
            // Until then other mounts ask for what it may have answered.
            loop {
                match agreement.propose(Command::End { ends: ends.clone() }).await {
                    Err(error) if error.is_silence() => tokio::time::sleep(AGAIN).await,
                    Err(error) => {
                        tracing::info!(%error, "a fenced writer is kept until this member's next start");
                        return;
                    }
                    Ok(_) => return,
                }
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
        let (end, behind) = writer.give_up();
        let ends = vec![end];
        self.table.with(ino, |used| {
            used.writer = None;
            if behind {
                used.losses.note(DataError::NoSpace);
            }
        });
        let agreement = self.ctx.agreement.clone();
        // Also when whoever wrote has stopped waiting.
        let ended = tokio::spawn(async move {
            while agreement
                .propose(Command::End { ends: ends.clone() })
                .await
                .is_err_and(|error| error.is_silence())
            {
                tokio::time::sleep(AGAIN).await;
            }
            drop(turn);
        });
        if let Err(error) = ended.await {
            tracing::error!(%ino, %error, "a writer that was refused space was not ended");
        }
    }
}
