//! One request of the mount, with its place in the memory file: what it causes has an identity there, so that it is not
//! caused twice when the kernel sends the request to the next worker.
//!
//! Only requests that may not take effect twice have a place. The others (reads, locks) may: nobody else sees what they did,
//! or takes it for done, before their caller has an answer.

use crate::{
    error::of_agreement,
    volume::{Outcome, Volume},
};
use hydfs_data::Note;
use hydfs_memory::{Asked, Kept, Memory, Piece, Slot};
use hydfs_mount::{FsError, Handle, Request};
use hydfs_types::{Command, CommandIdentity, Reply, SegmentId, SegmentVersion, Seq, WriterId};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// A request in hand.
#[derive(Default)]
pub(crate) struct Call {
    slot: Option<Slot>,
    /// Where its bytes are kept, if an earlier worker has answered it.
    kept: Option<Arc<Kept>>,
    /// The identity of an earlier worker's command was asked for.
    asked: AtomicBool,
    /// The first piece of a write that this worker makes.
    first: AtomicUsize,
    /// The file that this worker has opened for it; 0 is none.
    opened: AtomicU64,
}

impl Call {
    /// Of somebody who will not send it again.
    pub(crate) fn once() -> Self {
        Self::default()
    }

    /// Of the kernel, with its number for it.
    pub(crate) fn of(
        memory: Option<&Arc<Memory>>,
        unique: u64,
        request: &Request,
    ) -> Outcome<Self> {
        let Some(memory) = memory.filter(|_| unique != 0 && has_place(request)) else {
            return Ok(Self::once());
        };
        let slot = memory.begin(unique).map_err(|_| FsError::TryAgain)?;
        Ok(Self {
            slot: Some(slot),
            ..Self::default()
        })
    }

    /// A write that an earlier worker has answered, with the place of its request if that may be sent again.
    pub(crate) fn left(slot: Option<Slot>, kept: Arc<Kept>) -> Self {
        Self {
            slot,
            kept: Some(kept),
            ..Self::default()
        }
    }

    /// Whether it was answered before it was made.
    pub(crate) fn is_answered(&self) -> bool {
        self.kept.is_some()
    }

    /// All of an answered write is known to be merged.
    pub(crate) fn set_made(&self, len: usize) {
        if let Some(note) = self.note(0, len, true) {
            note.done();
        }
    }

    pub(crate) fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// The place of a request that an earlier worker had in hand.
    pub(crate) fn sent_again(&self) -> Option<&Slot> {
        self.slot().filter(|slot| slot.is_sent_again())
    }

    pub(crate) fn note_opened(&self, handle: Handle) {
        self.opened.store(handle, Relaxed);
    }

    pub(crate) fn opened(&self) -> Option<Handle> {
        Some(self.opened.load(Relaxed)).filter(|handle| *handle != 0)
    }

    /// The answer goes to the kernel now.
    pub(crate) fn set_answered(&self) {
        if let Some(slot) = &self.slot {
            slot.set_answered();
        }
    }

    /// Pieces from this one on are this worker's.
    pub(crate) fn begin_at(&self, piece: usize) {
        self.first.store(piece, Relaxed);
    }

    /// Before a slot leader is asked to cut.
    pub(crate) fn note_cut(&self, asked: CutAsked) {
        if let Some(slot) = &self.slot {
            let [cut, newest] = asked.into();
            slot.note_piece(1, newest);
            // In this order: whoever finds the cut knows all of it.
            slot.note_piece(0, cut);
        }
    }

    /// The cut that an earlier worker may have asked for.
    pub(crate) fn cut_before(&self) -> Option<CutAsked> {
        let asked = self.sent_again()?.pieces()?;
        let cut = asked.first()?.piece();
        let newest = asked.get(1).map(Asked::piece);
        (cut.writer == WriterId::default()).then(|| CutAsked::from(cut, newest))
    }

    /// Where the identity of a piece is kept. The bytes of a write that was answered are kept until its last one is there.
    pub(crate) fn note(&self, piece: usize, len: usize, is_last: bool) -> Option<Arc<dyn Note>> {
        self.noted(piece, len, self.kept.clone().filter(|_| is_last))
    }

    /// The same of a write that is answered early, whose bytes are kept there.
    pub(crate) fn note_kept(&self, len: usize, kept: Option<Arc<Kept>>) -> Option<Arc<dyn Note>> {
        self.noted(0, len, kept)
    }

    fn noted(&self, piece: usize, len: usize, kept: Option<Arc<Kept>>) -> Option<Arc<dyn Note>> {
        if self.slot.is_none() && kept.is_none() {
            return None;
        }
        Some(Arc::new(PieceNote {
            slot: self.slot.clone(),
            kept,
            piece: self.first.load(Relaxed) + piece,
            len: len as u64,
        }))
    }
}

/// A cut of a segment to a length in bytes, of this version of it alone. It is kept where a write has its first two pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutAsked {
    pub segment: SegmentId,
    pub base: SegmentVersion,
    pub len: u64,
    /// No segment after this one had been made when it was asked for.
    pub newest: Option<SegmentId>,
}

impl From<CutAsked> for [Piece; 2] {
    fn from(asked: CutAsked) -> Self {
        let piece = |seq, len, segment| Piece {
            writer: WriterId::default(),
            seq: Seq(seq),
            len,
            segment,
        };
        [
            piece(asked.base.0, asked.len, asked.segment),
            piece(0, 0, asked.newest.unwrap_or_default()),
        ]
    }
}

impl CutAsked {
    fn from(cut: Piece, newest: Option<Piece>) -> Self {
        let newest = newest.map(|piece| piece.segment);
        Self {
            segment: cut.segment,
            base: SegmentVersion(cut.seq.0),
            len: cut.len,
            newest: newest.filter(|segment| *segment != SegmentId::default()),
        }
    }
}

/// Requests that must not take effect twice.
fn has_place(request: &Request) -> bool {
    matches!(
        request,
        Request::Make { .. }
            | Request::Link { .. }
            | Request::Unlink { .. }
            | Request::RemoveDir { .. }
            | Request::Rename { .. }
            | Request::SetAttr { .. }
            | Request::Open { .. }
            | Request::Create { .. }
            | Request::Write { .. }
            | Request::Allocate { .. }
            | Request::Copy { .. }
            | Request::SetXattr { .. }
            | Request::RemoveXattr { .. }
    )
}

impl CommandIdentity for Call {
    fn before(&self) -> Option<u64> {
        let first = !self.asked.swap(true, Relaxed);
        self.sent_again().filter(|_| first)?.seq()
    }

    fn note(&self, seq: u64) -> Option<u64> {
        let slot = self.slot.as_ref()?;
        let given_up = slot.seq();
        slot.note_seq(seq);
        given_up
    }
}

/// Where one record of a write is known.
struct PieceNote {
    slot: Option<Slot>,
    kept: Option<Arc<Kept>>,
    piece: usize,
    len: u64,
}

impl Note for PieceNote {
    fn sent(&self, writer: WriterId, seq: Seq, segment: Option<SegmentId>) {
        let piece = Piece {
            writer,
            seq,
            len: self.len,
            segment: segment.unwrap_or_default(),
        };
        if let Some(slot) = &self.slot {
            slot.note_piece(self.piece, piece);
        }
        if let Some(kept) = &self.kept {
            kept.note_sent(piece);
        }
    }

    fn done(&self) {
        // In this order: whoever finds neither place asks for nothing.
        if let Some(slot) = &self.slot {
            slot.set_done(self.piece);
        }
        if let Some(kept) = &self.kept {
            kept.free();
        }
    }

    fn withdrawn(&self) {
        if let Some(slot) = &self.slot {
            slot.withdraw(self.piece);
        }
        if let Some(kept) = &self.kept {
            kept.withdraw();
        }
    }

    fn given_up(&self) {
        if let Some(kept) = &self.kept {
            kept.free();
        }
    }
}

impl Volume {
    /// Proposes the command of a request that has one, under the request's identity.
    pub(crate) async fn propose_for(&self, call: &Call, command: Command) -> Outcome<Reply> {
        let Some(slot) = call.slot() else {
            return self.propose(command).await;
        };
        if slot.is_sent_again() && slot.is_lost() {
            return Err(unknown());
        }
        if !slot.is_sent_again() {
            self.not_in_vain().await?;
        }
        let kept = self.ctx.agreement.propose_kept(command, call).await;
        self.kernel_told().await;
        kept.map_err(of_agreement)
    }

    /// What the request proposed was refused: the next command is another one, whoever serves the request then.
    pub(crate) fn forget_command(&self, call: &Call) {
        if let Some((slot, seq)) = call.slot().and_then(|slot| Some((slot, slot.seq()?))) {
            slot.note_seq(0);
            self.ctx.agreement.forget(seq);
        }
    }
}

/// A request of which nobody can tell whether it took effect.
pub(crate) fn unknown() -> FsError {
    let why = "the worker before this one had it in hand, and what became of it is not known any more: look before you repeat it";
    FsError::TimedOut(why.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hydfs_types::Ino;

    #[test]
    fn a_cut_that_was_asked_for_is_known_to_the_next_worker() {
        let file = hydfs_memory::create().unwrap();
        let open = || Memory::open(file.try_clone().unwrap().into()).unwrap();
        let request = Request::Open {
            ino: Ino(5),
            how: hydfs_mount::How::default(),
        };
        for (unique, newest) in [(2, Some(SegmentId(9))), (4, None)] {
            let asked = CutAsked {
                segment: SegmentId(7),
                base: SegmentVersion(3),
                len: 10,
                newest,
            };
            let memory = open();
            let call = Call::of(Some(&memory), unique, &request).unwrap();
            call.note_cut(asked);
            assert_eq!(call.cut_before(), None, "its own");
            let memory = open();
            let call = Call::of(Some(&memory), unique, &request).unwrap();
            assert_eq!(call.cut_before(), Some(asked));
        }
    }
}
