//! Requests in flight: what each has caused so far, so that it is not caused again when the kernel sends the request to
//! another worker. A request has a place here from before its first effect until after its reply.

use crate::{Error, Full, Memory, layout::*};
use hydfs_types::{SegmentId, Seq, WriterId};
use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

// Words of a request. A piece is five words: what of it, writer, seq, bytes, segment.
const UNIQUE: usize = 0;
const FLAGS: usize = 1;
const SEQ: usize = 2;
const HANDLE: usize = 3;
const PIECES: usize = 5;
/// What of it, then where it went.
const PIECE_WORDS: usize = 1 + Piece::WORDS;

const ANSWERED: u64 = 1;
/// A command was proposed, under an identity that nobody can ask for any more.
const LOST: u64 = u64::MAX;
/// More pieces than there is room for.
const TOO_MANY: usize = 4;

const NOTHING: u64 = 0;
const SENT: u64 = 1;
const DONE: u64 = 2;

/// Set by the kernel in the number of a request that it sends again.
pub(crate) const SENT_AGAIN: u64 = 1 << 63;

/// A record that a write request made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub writer: WriterId,
    pub seq: Seq,
    /// Bytes of the request in it.
    pub len: u64,
    /// Where it was to go when it was made.
    pub segment: SegmentId,
}

impl Piece {
    pub(crate) const WORDS: usize = 4;

    pub(crate) fn load(words: &[AtomicU64]) -> Self {
        let word = |at: usize| words[at].load(SeqCst);
        Self {
            writer: WriterId(word(0)),
            seq: Seq(word(1)),
            len: word(2),
            segment: SegmentId(word(3)),
        }
    }

    pub(crate) fn store(&self, words: &[AtomicU64]) {
        let content = [self.writer.0, self.seq.0, self.len, self.segment.0];
        for (word, value) in words.iter().zip(content) {
            word.store(value, SeqCst);
        }
    }
}

/// What became of a piece, as far as the memory file knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It may have been received somewhere.
    Sent(Piece),
    /// Every acting replica has it.
    Done(Piece),
}

impl Asked {
    pub fn piece(&self) -> Piece {
        match self {
            Self::Sent(piece) | Self::Done(piece) => *piece,
        }
    }
}

#[derive(Debug, Default)]
struct Index {
    by_unique: HashMap<u64, usize>,
    free: Vec<usize>,
    /// Places of requests that an earlier worker had in hand.
    earlier: BTreeSet<usize>,
    /// Of these, the ones that were not sent again yet.
    left: BTreeSet<usize>,
}

/// Which places are taken.
#[derive(Debug)]
pub(crate) struct Requests(Mutex<Index>);

impl Requests {
    pub(crate) fn restore(words: &[AtomicU64]) -> Result<Self, Error> {
        let mut index = Index::default();
        for at in (0..REQUESTS_MAX).rev() {
            let record = &words[request(at)];
            let unique = record[UNIQUE].load(SeqCst);
            if unique == 0 {
                index.free.push(at);
                continue;
            }
            let states = (0..PIECES_MAX).map(|i| record[PIECES + i * PIECE_WORDS].load(SeqCst));
            let good = unique & SENT_AGAIN == 0
                && record[FLAGS].load(SeqCst) <= ANSWERED
                && states.max().is_none_or(|state| state <= DONE);
            if !good || index.by_unique.insert(unique, at).is_some() {
                return Err(Error::Damaged("a request"));
            }
            index.earlier.insert(at);
        }
        index.left = index.earlier.clone();
        Ok(Self(Mutex::new(index)))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// A place for a request, by the kernel's number: the one that it already has if an earlier worker had it in hand.
    pub fn begin(self: &Arc<Self>, unique: u64) -> Result<Slot, Full> {
        let unique = unique & !SENT_AGAIN;
        let mut index = self.requests.lock();
        let known = index.by_unique.get(&unique).copied();
        let at = match known {
            Some(at) => {
                index.left.remove(&at);
                at
            }
            None => {
                let at = index.free.pop().ok_or(Full)?;
                index.by_unique.insert(unique, at);
                let record = &self.words()[request(at)];
                // What an earlier request left counts from the moment that this one is named.
                for word in &record[FLAGS..] {
                    word.store(0, SeqCst);
                }
                record[UNIQUE].store(unique, SeqCst);
                at
            }
        };
        Ok(Slot {
            memory: self.clone(),
            at,
            unique,
            sent_again: known.is_some(),
        })
    }

    /// The place of a request that an earlier worker had in hand, if it still has one. Does not claim it: if the kernel does
    /// not send the request again, [`Memory::settle`] frees the place.
    pub fn slot_left(self: &Arc<Self>, unique: u64) -> Option<Slot> {
        let unique = unique & !SENT_AGAIN;
        let index = self.requests.lock();
        let at = *index.by_unique.get(&unique)?;
        index.earlier.contains(&at).then(|| Slot {
            memory: self.clone(),
            at,
            unique,
            sent_again: true,
        })
    }

    /// The kernel has sent this request again: its place is not left any more.
    pub fn claim(&self, unique: u64) {
        let mut index = self.requests.lock();
        if !index.left.is_empty()
            && let Some(at) = index.by_unique.get(&(unique & !SENT_AGAIN)).copied()
        {
            index.left.remove(&at);
        }
    }

    /// The kernel has its reply: the place is free. Says which command's answer nobody will ask for again.
    pub fn replied(&self, unique: u64) -> Option<u64> {
        let mut index = self.requests.lock();
        let at = index.by_unique.remove(&(unique & !SENT_AGAIN))?;
        let seq = self.free(&mut index, at);
        Some(seq).filter(|seq| *seq != 0 && *seq != LOST)
    }

    fn free(&self, index: &mut Index, at: usize) -> u64 {
        let record = &self.words()[request(at)];
        let seq = record[SEQ].load(SeqCst);
        record[UNIQUE].store(0, SeqCst);
        index.earlier.remove(&at);
        index.free.push(at);
        seq
    }

    /// The kernel has sent again all that it will: frees the places of requests that had their reply or whose caller is
    /// gone. Returns the seqs that they held, and the handles that nobody was told of.
    pub fn settle(&self) -> (Vec<u64>, Vec<u64>) {
        let mut index = self.requests.lock();
        let (mut seqs, mut handles) = (Vec::new(), Vec::new());
        for at in std::mem::take(&mut index.left) {
            let record = &self.words()[request(at)];
            let unique = record[UNIQUE].load(SeqCst);
            let handle = record[HANDLE].load(SeqCst);
            if handle != 0 && record[FLAGS].load(SeqCst) & ANSWERED == 0 {
                handles.push(handle);
            }
            index.by_unique.remove(&unique);
            seqs.push(self.free(&mut index, at));
        }
        seqs.retain(|seq| *seq != 0 && *seq != LOST);
        (seqs, handles)
    }

    /// Whether requests of an earlier worker may still be sent again.
    pub fn has_left(&self) -> bool {
        !self.requests.lock().left.is_empty()
    }

    /// Seqs of the session that requests hold, as the worker before left them.
    pub fn seqs(&self) -> BTreeSet<u64> {
        let index = self.requests.lock();
        let seqs = index
            .by_unique
            .values()
            .map(|at| self.words()[request(*at)][SEQ].load(SeqCst));
        seqs.filter(|seq| *seq != 0 && *seq != LOST).collect()
    }

    /// Writers that requests in flight, and writes that were answered early, have sent records under, of which it is not
    /// known what became.
    pub fn writers(&self) -> BTreeSet<WriterId> {
        let mut writers = self.writers_behind();
        let index = self.requests.lock();
        for at in index.by_unique.values() {
            let record = &self.words()[request(*at)];
            for i in 0..PIECES_MAX {
                let piece = &record[piece_words(i)];
                if piece[0].load(SeqCst) == SENT {
                    writers.insert(Piece::load(&piece[1..]).writer);
                }
            }
        }
        writers
    }

    /// The session is another: nobody can be asked any more what became of commands under the one before.
    pub(crate) fn forget_identities(&self) {
        let index = self.requests.lock();
        for at in index.by_unique.values() {
            let seq = &self.words()[request(*at)][SEQ];
            if seq.load(SeqCst) != 0 {
                seq.store(LOST, SeqCst);
            }
        }
    }
}

fn piece_words(i: usize) -> Range<usize> {
    PIECES + i * PIECE_WORDS..PIECES + (i + 1) * PIECE_WORDS
}

/// The place of one request. Of no effect once the request was replied to.
#[derive(Debug, Clone)]
pub struct Slot {
    memory: Arc<Memory>,
    at: usize,
    unique: u64,
    sent_again: bool,
}

impl Slot {
    fn record(&self) -> &[AtomicU64] {
        &self.memory.words()[request(self.at)]
    }

    /// Changes the record, unless the place is another request's by now.
    fn change(&self, change: impl FnOnce(&[AtomicU64])) {
        let index = self.memory.requests.lock();
        if index.by_unique.get(&self.unique) == Some(&self.at) {
            change(self.record());
        }
    }

    /// The kernel's number of the request.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Whether an earlier worker had this request in hand.
    pub fn is_sent_again(&self) -> bool {
        self.sent_again
    }

    /// The command that the request proposed, if its answer can be asked for.
    pub fn seq(&self) -> Option<u64> {
        let seq = self.record()[SEQ].load(SeqCst);
        Some(seq).filter(|seq| *seq != 0 && *seq != LOST)
    }

    /// A command was proposed, and nobody can be asked what became of it.
    pub fn is_lost(&self) -> bool {
        self.record()[SEQ].load(SeqCst) == LOST
    }

    /// Before a command goes out.
    pub fn note_seq(&self, seq: u64) {
        self.change(|record| record[SEQ].store(seq, SeqCst));
    }

    /// The handle that the request was given.
    pub fn handle(&self) -> Option<u64> {
        Some(self.record()[HANDLE].load(SeqCst)).filter(|handle| *handle != 0)
    }

    pub(crate) fn note_handle(&self, handle: u64) {
        self.change(|record| record[HANDLE].store(handle, SeqCst));
    }

    /// The answer goes to the kernel now.
    pub fn set_answered(&self) {
        self.change(|record| record[FLAGS].store(ANSWERED, SeqCst));
    }

    /// The pieces of a write in their order, up to the first that was not made; `None` where there were too many to tell.
    pub fn pieces(&self) -> Option<Vec<Asked>> {
        let record = self.record();
        if record[TOO_MANY].load(SeqCst) != 0 {
            return None;
        }
        let asked = (0..PIECES_MAX).map_while(|i| {
            let words = &record[piece_words(i)];
            let piece = Piece::load(&words[1..]);
            match words[0].load(SeqCst) {
                SENT => Some(Asked::Sent(piece)),
                DONE => Some(Asked::Done(piece)),
                _ => None,
            }
        });
        Some(asked.collect())
    }

    /// Before a record goes out.
    pub fn note_piece(&self, i: usize, piece: Piece) {
        self.change(|record| {
            if i >= PIECES_MAX {
                return record[TOO_MANY].store(1, SeqCst);
            }
            let words = &record[piece_words(i)];
            words[0].store(NOTHING, SeqCst);
            piece.store(&words[1..]);
            words[0].store(SENT, SeqCst);
        });
    }

    /// Every acting replica has the piece.
    pub fn set_done(&self, i: usize) {
        self.set_piece(i, DONE);
    }

    /// It is known that no replica has the piece, nor will.
    pub fn withdraw(&self, i: usize) {
        self.set_piece(i, NOTHING);
    }

    fn set_piece(&self, i: usize, state: u64) {
        if i < PIECES_MAX {
            self.change(|record| record[PIECES + i * PIECE_WORDS].store(state, SeqCst));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{OpenFile, create, memory::tests::worker};
    use hydfs_types::Ino;

    #[test]
    fn a_request_that_was_replied_to_has_no_place_and_changes_nobody_elses() {
        let file = create().unwrap();
        let memory = worker(&file);
        let old = memory.begin(2).unwrap();
        old.note_seq(7);
        assert_eq!(memory.replied(2), Some(7));
        let new = memory.begin(4).unwrap();
        assert_eq!((new.at, new.seq()), (old.at, None));
        old.note_seq(8);
        assert_eq!(new.seq(), None);
        assert_eq!(memory.replied(2), None);
    }

    #[test]
    fn there_is_a_limit() {
        let memory = worker(&create().unwrap());
        for n in 0..REQUESTS_MAX as u64 {
            memory.begin(2 + 2 * n).unwrap();
        }
        assert_eq!(memory.begin(1 << 40).unwrap_err(), Full);
        memory.replied(2);
        memory.begin(1 << 40).unwrap();
    }

    #[test]
    fn the_kernels_mark_does_not_make_it_another_request() {
        let file = create().unwrap();
        worker(&file).begin(2).unwrap().note_seq(3);
        let memory = worker(&file);
        let again = memory.begin(2 | SENT_AGAIN).unwrap();
        assert!(again.is_sent_again());
        assert_eq!(again.seq(), Some(3));
        assert_eq!(memory.replied(2 | SENT_AGAIN), Some(3));
    }

    #[test]
    fn what_is_not_sent_again_is_freed_and_handles_that_nobody_knows_are_named() {
        let file = create().unwrap();
        let first = worker(&file);
        let open = |unique| {
            let slot = first.begin(unique).unwrap();
            let file = OpenFile {
                ino: Ino(9),
                how: 1,
            };
            (first.open_file(file, Some(&slot)).unwrap(), slot)
        };
        let (unknown, _) = open(2);
        let (_, told) = open(4);
        told.set_answered();
        let (_, again) = open(6);
        again.note_seq(5);
        let memory = worker(&file);
        memory.begin(6).unwrap();
        assert!(memory.has_left());
        assert_eq!(memory.settle(), (vec![], vec![unknown]));
        assert!(!memory.has_left());
        assert_eq!(memory.seqs(), BTreeSet::from([5]));
    }

    #[test]
    fn a_request_that_was_left_can_be_looked_at_and_is_still_left() {
        let file = create().unwrap();
        worker(&file).begin(2).unwrap().note_seq(3);
        let memory = worker(&file);
        memory.begin(4).unwrap();
        let slot = memory.slot_left(2 | SENT_AGAIN).unwrap();
        assert!(slot.is_sent_again());
        assert_eq!(slot.seq(), Some(3));
        for not_left in [4, 6] {
            assert!(memory.slot_left(not_left).is_none());
        }
        assert_eq!(memory.settle(), (vec![3], vec![]));
        assert!(memory.slot_left(2).is_none());
        // Its place is another request's now, which nobody left.
        assert_eq!(memory.begin(8).unwrap().at, slot.at);
        assert!(memory.slot_left(8).is_none());
    }

    #[test]
    fn a_request_that_was_sent_again_is_found_until_its_reply() {
        let file = create().unwrap();
        worker(&file).begin(2).unwrap();
        let memory = worker(&file);
        memory.claim(2);
        assert!(memory.slot_left(2).is_some());
        memory.replied(2);
        assert!(memory.slot_left(2).is_none());
    }

    #[test]
    fn pieces_are_known_up_to_the_first_that_was_not_made() {
        let memory = worker(&create().unwrap());
        let slot = memory.begin(2).unwrap();
        let piece = |seq| Piece {
            writer: WriterId(1),
            seq: Seq(seq),
            len: 10,
            segment: SegmentId(3),
        };
        slot.note_piece(0, piece(1));
        slot.note_piece(1, piece(2));
        slot.set_done(0);
        assert_eq!(memory.writers(), BTreeSet::from([WriterId(1)]));
        let both = vec![Asked::Done(piece(1)), Asked::Sent(piece(2))];
        assert_eq!(slot.pieces(), Some(both));
        slot.withdraw(1);
        assert_eq!(slot.pieces(), Some(vec![Asked::Done(piece(1))]));
        assert!(memory.writers().is_empty());
        slot.note_piece(PIECES_MAX, piece(3));
        assert_eq!(slot.pieces(), None);
    }
}
