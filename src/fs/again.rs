//! Writes that the kernel sends again, because the worker that had them in hand is gone.
//!
//! Its records went out under a writer that its member's return has fenced. A look at the file's segments fixes that
//! writer's end: what is merged is written, and only the rest is made anew, under a new writer (R5).

use crate::{
    call::{Call, unknown},
    error::of_command,
    volume::{Outcome, Volume},
};
use hydfs_data::FileWriter;
use hydfs_memory::{Asked, Piece};
use hydfs_mount::FsError;
use hydfs_state::WriterPhase;
use hydfs_types::{Command, Ino, SegmentId, WriterId};
use std::collections::BTreeSet;

impl Volume {
    /// How many pieces of a write were made before, by an earlier worker, and how many bytes stand in them.
    pub(crate) async fn made_before(&self, call: &Call, ino: Ino) -> Outcome<(usize, usize)> {
        let Some(slot) = call.sent_again() else {
            return Ok((0, 0));
        };
        let asked = slot.pieces().ok_or_else(unknown)?;
        let open: BTreeSet<WriterId> = asked.iter().filter_map(open_writer).collect();
        if !open.is_empty() {
            self.fix_ends(ino, &open).await?;
        }
        let mut made = Vec::new();
        for one in &asked {
            made.push(match one {
                Asked::Done(_) => true,
                Asked::Sent(piece) => self.is_merged(ino, piece)?,
            });
        }
        let first = made.iter().take_while(|made| **made).count();
        if made[first..].iter().any(|made| *made) {
            return Err(unknown());
        }
        let bytes: u64 = asked[..first].iter().map(|one| one.piece().len).sum();
        (first..asked.len()).for_each(|piece| slot.withdraw(piece));
        Ok((first, bytes as usize))
    }

    /// Sees to it that the agreed state knows what of these writers' records counts.
    pub(crate) async fn fix_ends(&self, ino: Ino, writers: &BTreeSet<WriterId>) -> Outcome<()> {
        self.barrier().await?;
        for writer in writers {
            if self
                .table
                .writer(ino)
                .is_some_and(|mine| mine.writer == *writer)
            {
                // Of this worker, which has queued what was answered: a fence would have the rest made twice.
                self.drain(ino).await?;
                continue;
            }
            let open = self
                .ctx
                .state()
                .writer(*writer)
                .is_some_and(|known| known.phase == WriterPhase::Open);
            if open {
                self.propose(Command::Fence { writer: *writer }).await?;
            }
        }
        self.look_at_all(ino).await
    }

    pub(crate) fn is_merged(&self, ino: Ino, piece: &Piece) -> Outcome<bool> {
        let state = self.ctx.state();
        let (_, file) = state.file(ino).map_err(of_command)?;
        let merged = FileWriter::merged_of(&state, ino, piece.writer).ok_or_else(unknown)?;
        if piece.seq <= merged {
            return Ok(true);
        }
        // A truncate elsewhere took away where it went: perhaps with the record in it.
        let there = piece.segment == SegmentId::default()
            || file.segments.values().any(|one| *one == piece.segment);
        there.then_some(false).ok_or_else(unknown)
    }
}

fn open_writer(asked: &Asked) -> Option<WriterId> {
    match asked {
        Asked::Sent(piece) => Some(piece.writer),
        Asked::Done(_) => None,
    }
}

impl Volume {
    /// A write of the mount; only what an earlier worker has not written of it.
    pub(crate) async fn write_for(
        &self,
        call: &Call,
        ino: Ino,
        at: Option<u64>,
        data: bytes::Bytes,
        durable: bool,
    ) -> Outcome<()> {
        let (pieces, bytes) = self.made_before(call, ino).await?;
        if bytes > data.len() {
            return Err(FsError::Invalid(
                "another request under the same number".into(),
            ));
        }
        if pieces > 0 {
            tracing::info!(%ino, pieces, bytes, of = data.len(), "a write that the worker before had in hand is there");
        }
        call.begin_at(pieces);
        let rest = data.slice(bytes..);
        if rest.is_empty() && pieces > 0 {
            return if durable {
                self.sync(ino).await.map(drop)
            } else {
                Ok(())
            };
        }
        let at = at.map(|at| at + bytes as u64);
        self.put_for(call, ino, at, rest, durable).await
    }
}
