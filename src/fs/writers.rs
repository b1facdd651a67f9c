//! This mount's writers of files: their grants, and what becomes of one that the cluster has ended (R5).

use crate::{
    content,
    error::of_command,
    volume::{Outcome, Volume},
};
use hydfs_data::{DataError, Draft, FileWriter, Queued, Target};
use hydfs_mount::FsError;
use hydfs_state::Place;
use hydfs_types::{AgreementError, Command, Ino, Op, Reply, SegmentId};
use std::{sync::Arc, time::Duration};

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
}
