//! Writes that were answered early: each is here with its bytes from before its answer until every replica has it, so that
//! the worker after a dead one can send it.
//!
//! The bytes are in chunks, of which each names the next. A write becomes true with the store of its state, after its
//! bytes and all else; whatever is of no write is free. Never decides when a write is sent, nor where to.

use crate::{Error, Full, Memory, Piece, layout::*, map::Chunk, requests::SENT_AGAIN};
use bytes::{Bytes, BytesMut};
use crc32c::{crc32c, crc32c_append};
use hydfs_types::{Ino, Time, WriterId};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

// Words of a write. Those from its order up to its first chunk never change while it is here, and are summed.
const STATE: usize = 0;
const ORDER: usize = 1;
const UNIQUE: usize = 2;
const INO: usize = 3;
const HAS_OFFSET: usize = 4;
const OFFSET: usize = 5;
const SEC: usize = 6;
const NSEC: usize = 7;
const LEN: usize = 8;
/// Number of the chunk plus one, as in the links between chunks; 0 ends a chain.
const FIRST: usize = 9;
const CHECKSUM: usize = 10;
const PIECES: usize = 11;

const FREE: u64 = 0;
const KEPT: u64 = 1;
/// Sent, under the first or the second of two pieces: another is noted beside the one that counts.
const SENT: [u64; 2] = [2, 3];

/// A write that was answered early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The kernel's number of the request, without its mark of one that is sent again.
    pub unique: u64,
    pub ino: Ino,
    /// Offset in bytes; `None`: appended.
    pub at: Option<u64>,
    /// Of the write, as the file carries it.
    pub time: Time,
    pub bytes: Bytes,
}

/// A write that an earlier worker left.
#[derive(Debug)]
pub struct Left {
    pub behind: Behind,
    /// Where it was last sent to, by an earlier worker or this one. `None`: never, or withdrawn.
    pub sent: Option<Piece>,
    pub kept: Kept,
}

#[derive(Debug)]
struct Place {
    at: usize,
    chunks: Vec<Chunk>,
}

impl Place {
    /// The place with the chunks that its record names; `None` if that cannot be what a worker wrote.
    fn restore(words: &[AtomicU64], at: usize, chunks: &mut [Option<Chunk>]) -> Option<Self> {
        let record = &words[behind(at)];
        let word = |at: usize| record[at].load(SeqCst);
        let len = usize::try_from(word(LEN)).ok()?;
        let mut next = word(FIRST);
        let mut chain = Vec::new();
        for _ in 0..len.div_ceil(CHUNK_BYTES) {
            let number = usize::try_from(next).ok()?.checked_sub(1)?;
            chain.push(chunks.get_mut(number)?.take()?);
            next = words[link(number)].load(SeqCst);
        }
        let place = Self { at, chunks: chain };
        let good = next == 0
            && word(STATE) <= SENT[1]
            && word(CHECKSUM) == checksum(record, place.parts(len));
        good.then_some(place)
    }

    /// The bytes of a write of this length.
    fn parts(&self, len: usize) -> impl Iterator<Item = &[u8]> {
        let of_chunk = move |(i, chunk)| {
            let chunk: &Chunk = chunk;
            &chunk.bytes()[..CHUNK_BYTES.min(len - i * CHUNK_BYTES)]
        };
        self.chunks.iter().enumerate().map(of_chunk)
    }

    /// Writes the bytes, and the chain. Returns its first word.
    fn fill(&mut self, words: &[AtomicU64], bytes: &[u8]) -> u64 {
        for (chunk, part) in self.chunks.iter_mut().zip(bytes.chunks(CHUNK_BYTES)) {
            chunk.write(part);
        }
        let mut next = 0;
        for chunk in self.chunks.iter().rev() {
            words[link(chunk.number())].store(next, SeqCst);
            next = chunk.number() as u64 + 1;
        }
        next
    }
}

/// Of what never changes, and of the bytes.
fn checksum<'a>(record: &[AtomicU64], parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let words = record[ORDER..CHECKSUM].iter();
    let head: Vec<u8> = words
        .flat_map(|word| word.load(SeqCst).to_le_bytes())
        .collect();
    u64::from(parts.fold(crc32c(&head), crc32c_append))
}

fn piece_words(i: usize) -> Range<usize> {
    PIECES + i * Piece::WORDS..PIECES + (i + 1) * Piece::WORDS
}

fn sent(record: &[AtomicU64]) -> Option<Piece> {
    let state = record[STATE].load(SeqCst);
    let i = SENT.iter().position(|sent| *sent == state)?;
    Some(Piece::load(&record[piece_words(i)]))
}

#[derive(Debug, Default)]
struct Index {
    /// By order, which is given out once.
    taken: BTreeMap<u64, Place>,
    free: Vec<usize>,
    /// Last in, first out: what was used takes memory already.
    chunks: Vec<Chunk>,
}

/// Which places and chunks are taken.
#[derive(Debug)]
pub(crate) struct Backlog {
    index: Mutex<Index>,
    /// Orders up to this one are of earlier workers.
    left: u64,
}

impl Backlog {
    pub(crate) fn restore(words: &[AtomicU64], chunks: Vec<Chunk>) -> Result<Self, Error> {
        let left = words[AT_BEHIND_ISSUED].load(SeqCst);
        let mut chunks: Vec<Option<Chunk>> = chunks.into_iter().map(Some).collect();
        let mut index = Index::default();
        for at in (0..BEHIND_MAX).rev() {
            let record = &words[behind(at)];
            if record[STATE].load(SeqCst) == FREE {
                index.free.push(at);
                continue;
            }
            let order = record[ORDER].load(SeqCst);
            let place = Place::restore(words, at, &mut chunks).filter(|_| order <= left);
            let known = place.map(|place| index.taken.insert(order, place));
            if !matches!(known, Some(None)) {
                return Err(Error::Damaged("a write that was answered"));
            }
        }
        index.chunks = chunks.into_iter().rev().flatten().collect();
        Ok(Self {
            index: Mutex::new(index),
            left,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place with chunks for so many bytes.
    fn take(&self, len: usize) -> Result<Place, Full> {
        let mut index = self.lock();
        let rest = index.chunks.len().checked_sub(len.div_ceil(CHUNK_BYTES));
        let rest = rest.ok_or(Full)?;
        let at = index.free.pop().ok_or(Full)?;
        let chunks = index.chunks.drain(rest..).rev().collect();
        Ok(Place { at, chunks })
    }
}

impl Memory {
    /// Keeps a write, before it is answered. Copies the bytes. `Full`: not kept, as there is no place or no room.
    pub fn keep_behind(
        self: &Arc<Self>,
        unique: u64,
        ino: Ino,
        at: Option<u64>,
        time: Time,
        bytes: &[u8],
    ) -> Result<Kept, Full> {
        let mut place = self.behind.take(bytes.len())?;
        let words = self.words();
        let order = words[AT_BEHIND_ISSUED].fetch_add(1, SeqCst) + 1;
        let record = &words[behind(place.at)];
        let content = [
            (ORDER, order),
            (UNIQUE, unique & !SENT_AGAIN),
            (INO, ino.0),
            (HAS_OFFSET, u64::from(at.is_some())),
            (OFFSET, at.unwrap_or(0)),
            (SEC, time.sec.cast_unsigned()),
            (NSEC, u64::from(time.nsec)),
            (LEN, bytes.len() as u64),
            (FIRST, place.fill(words, bytes)),
        ];
        for (at, value) in content {
            record[at].store(value, SeqCst);
        }
        record[CHECKSUM].store(checksum(record, std::iter::once(bytes)), SeqCst);
        record[STATE].store(KEPT, SeqCst);
        self.behind.lock().taken.insert(order, place);
        Ok(Kept {
            memory: self.clone(),
            order,
        })
    }

    /// The writes that earlier workers left and that were not freed since, in the order in which they were kept.
    pub fn left_behind(self: &Arc<Self>) -> Vec<Left> {
        let index = self.behind.lock();
        let left = index.taken.range(..=self.behind.left);
        let left = left.map(|(order, place)| {
            let record = &self.words()[behind(place.at)];
            Left {
                behind: read(record, place),
                sent: sent(record),
                kept: Kept {
                    memory: self.clone(),
                    order: *order,
                },
            }
        });
        left.collect()
    }

    /// Writers that the writes were last sent under.
    pub(crate) fn writers_behind(&self) -> BTreeSet<WriterId> {
        let index = self.behind.lock();
        let records = index
            .taken
            .values()
            .map(|place| &self.words()[behind(place.at)]);
        records.filter_map(sent).map(|piece| piece.writer).collect()
    }
}

fn read(record: &[AtomicU64], place: &Place) -> Behind {
    let word = |at: usize| record[at].load(SeqCst);
    let len = word(LEN) as usize;
    let mut bytes = BytesMut::with_capacity(len);
    for part in place.parts(len) {
        bytes.extend_from_slice(part);
    }
    Behind {
        unique: word(UNIQUE),
        ino: Ino(word(INO)),
        at: (word(HAS_OFFSET) != 0).then(|| word(OFFSET)),
        time: Time {
            sec: word(SEC).cast_signed(),
            nsec: word(NSEC) as u32,
        },
        bytes: bytes.freeze(),
    }
}

/// The place of one write. Of no effect once it was freed, by whichever `Kept` of the same write. A write whose `Kept` is
/// dropped stays where it is, for the next worker.
#[derive(Debug)]
pub struct Kept {
    memory: Arc<Memory>,
    order: u64,
}

impl Kept {
    /// Changes the record, unless it was freed.
    fn change(&self, change: impl FnOnce(&[AtomicU64])) {
        let index = self.memory.behind.lock();
        if let Some(place) = index.taken.get(&self.order) {
            change(&self.memory.words()[behind(place.at)]);
        }
    }

    /// Before the write may go out as this record. In place of the record that was noted before, if one was: what became
    /// of that must be known.
    pub fn note_sent(&self, to: Piece) {
        self.change(|record| {
            let i = usize::from(record[STATE].load(SeqCst) == SENT[0]);
            to.store(&record[piece_words(i)]);
            record[STATE].store(SENT[i], SeqCst);
        });
    }

    /// No replica has the record that was noted, nor will: the write counts as never sent.
    pub fn withdraw(&self) {
        self.change(|record| record[STATE].store(KEPT, SeqCst));
    }

    /// Every replica has the write, or it was given up: its place is free.
    pub fn free(&self) {
        let mut index = self.memory.behind.lock();
        if let Some(place) = index.taken.remove(&self.order) {
            self.memory.words()[behind(place.at)][STATE].store(FREE, SeqCst);
            index.free.push(place.at);
            index.chunks.extend(place.chunks.into_iter().rev());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        create,
        memory::tests::{poke, refused, worker},
    };
    use hydfs_types::{SegmentId, Seq};
    use std::{
        fs::File,
        os::unix::fs::{FileExt, MetadataExt},
        thread,
    };

    const NOW: Time = Time { sec: -7, nsec: 999 };

    fn keep(memory: &Arc<Memory>, unique: u64, bytes: &[u8]) -> Result<Kept, Full> {
        memory.keep_behind(unique, Ino(5), Some(unique), NOW, bytes)
    }

    fn piece(writer: u64) -> Piece {
        Piece {
            writer: WriterId(writer),
            seq: Seq(2),
            len: 3,
            segment: SegmentId(4),
        }
    }

    fn uniques(file: &File) -> Vec<u64> {
        let left = worker(file).left_behind();
        left.iter().map(|left| left.behind.unique).collect()
    }

    #[test]
    fn the_next_worker_finds_every_byte_in_the_order_of_the_writes() {
        let file = create().unwrap();
        let memory = worker(&file);
        let lens = [0, 1, 4_095, 4_096, 4_097, 10_007, 1 << 20];
        let mut kept = Vec::new();
        let mut expected = Vec::new();
        for (i, len) in (0..).zip(lens) {
            let bytes: Vec<u8> = (0..len).map(|n: u32| (n % 251) as u8).collect();
            let (unique, at) = (1_000 - i, (i % 2 == 0).then_some(i << 40));
            let marked = unique | SENT_AGAIN;
            kept.push(memory.keep_behind(marked, Ino(i), at, NOW, &bytes).unwrap());
            expected.push(Behind {
                unique,
                ino: Ino(i),
                at,
                time: NOW,
                bytes: bytes.into(),
            });
        }
        assert!(memory.left_behind().is_empty(), "nobody left them");
        kept.remove(2).free();
        expected.remove(2);
        drop((kept, memory));
        for _ in 0..2 {
            let left = worker(&file).left_behind();
            assert!(left.iter().all(|left| left.sent.is_none()));
            let found: Vec<_> = left.into_iter().map(|left| left.behind).collect();
            assert!(found == expected);
        }
    }

    #[test]
    fn there_is_a_limit_of_writes() {
        let memory = worker(&create().unwrap());
        let keep = |n| keep(&memory, n, b"");
        let kept: Vec<Kept> = (0..BEHIND_MAX as u64).map(|n| keep(n).unwrap()).collect();
        assert_eq!(keep(1 << 40).unwrap_err(), Full);
        kept[7].free();
        keep(1 << 40).unwrap();
        assert_eq!(keep(1 << 41).unwrap_err(), Full);
    }

    #[test]
    fn there_is_a_limit_of_bytes() {
        let memory = worker(&create().unwrap());
        let bytes = vec![9; BEHIND_BYTES + 1];
        assert_eq!(keep(&memory, 1, &bytes).unwrap_err(), Full);
        let all = keep(&memory, 2, &bytes[1..]).unwrap();
        assert_eq!(keep(&memory, 3, b"x").unwrap_err(), Full);
        keep(&memory, 4, b"").unwrap();
        all.free();
        keep(&memory, 5, b"x").unwrap();
        assert_eq!(keep(&memory, 6, &bytes[1..]).unwrap_err(), Full);
        keep(&memory, 7, &bytes[CHUNK_BYTES + 1..]).unwrap();
    }

    #[test]
    fn a_write_that_was_freed_changes_nobody_elses() {
        let file = create().unwrap();
        let memory = worker(&file);
        let old = keep(&memory, 1, b"old").unwrap();
        old.free();
        let _new = keep(&memory, 2, b"new").unwrap();
        old.note_sent(piece(1));
        old.withdraw();
        old.free();
        let left = worker(&file).left_behind();
        assert_eq!(left.len(), 1);
        assert_eq!(
            (&left[0].behind.bytes[..], left[0].sent),
            (&b"new"[..], None)
        );
    }

    #[test]
    fn where_a_write_was_last_sent_to_is_known() {
        let file = create().unwrap();
        let memory = worker(&file);
        let kept = keep(&memory, 1, b"x").unwrap();
        let _other = keep(&memory, 2, b"y").unwrap();
        let known = || worker(&file).left_behind()[0].sent;
        assert_eq!(known(), None);
        for writer in 1..4 {
            kept.note_sent(piece(writer));
            assert_eq!(known(), Some(piece(writer)));
            assert_eq!(memory.writers(), BTreeSet::from([WriterId(writer)]));
            assert_eq!(worker(&file).writers(), memory.writers());
        }
        kept.withdraw();
        assert_eq!(known(), None);
        assert!(memory.writers().is_empty());
        kept.note_sent(piece(9));
        assert_eq!(known(), Some(piece(9)));
        kept.free();
        assert!(memory.writers().is_empty());
    }

    #[test]
    fn the_next_worker_frees_what_it_was_left() {
        let file = create().unwrap();
        let memory = worker(&file);
        for unique in 1..4 {
            keep(&memory, unique, &[3; 5_000]).unwrap();
        }
        let memory = worker(&file);
        let left = memory.left_behind();
        left[1].kept.free();
        memory.left_behind()[0].kept.free();
        left[0].kept.free();
        keep(&memory, 9, b"another").unwrap();
        assert_eq!(memory.left_behind().len(), 1, "the other is its own");
        assert_eq!(uniques(&file), [3, 9]);
    }

    #[test]
    fn a_write_that_was_not_all_there_never_was() {
        let file = create().unwrap();
        let bytes = vec![1; BEHIND_BYTES];
        keep(&worker(&file), 1, &bytes).unwrap();
        poke(&file, behind(0).start + STATE, FREE);
        let memory = worker(&file);
        assert!(memory.left_behind().is_empty());
        keep(&memory, 2, &bytes).unwrap();
        assert_eq!(uniques(&file), [2]);
    }

    #[test]
    fn a_page_that_was_used_is_used_again_before_a_new_one() {
        let file = create().unwrap();
        let memory = worker(&file);
        let one = |unique| keep(&memory, unique, &[7; 3 * CHUNK_BYTES]).unwrap();
        let _first = one(1);
        one(2).free();
        let used = file.metadata().unwrap().blocks();
        for unique in 3..2_000 {
            one(unique).free();
        }
        assert_eq!(file.metadata().unwrap().blocks(), used);
    }

    #[test]
    fn threads_do_not_disturb_each_other() {
        let file = create().unwrap();
        let memory = worker(&file);
        let run = |thread: u64| {
            for n in 0..400 {
                let unique = thread * 1_000 + n;
                let bytes = vec![unique as u8; (unique * 37 % 9_000) as usize];
                let kept = keep(&memory, unique, &bytes).unwrap();
                kept.note_sent(piece(unique));
                if n % 8 != 0 {
                    kept.free();
                }
            }
        };
        thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || run(thread));
            }
        });
        let left = worker(&file).left_behind();
        assert_eq!(left.len(), 4 * 50);
        for Left { behind, sent, .. } in left {
            let unique = behind.unique;
            assert_eq!(behind.bytes.len() as u64, unique * 37 % 9_000);
            assert!(behind.bytes.iter().all(|byte| *byte == unique as u8));
            assert_eq!(sent, Some(piece(unique)));
        }
    }

    /// Two writes of two chunks each, of which the second ones are alike: chunks 0 and 1, and 2 and 3.
    fn two_writes() -> File {
        let file = create().unwrap();
        let memory = worker(&file);
        for first in [1, 2] {
            let mut bytes = vec![first; 2 * CHUNK_BYTES];
            bytes[CHUNK_BYTES..].fill(3);
            keep(&memory, u64::from(first), &bytes).unwrap();
        }
        assert_eq!(uniques(&file), [1, 2]);
        file
    }

    #[test]
    fn every_word_of_a_write_is_looked_at() {
        for word in ORDER..PIECES {
            for flip in [1, 1 << 20, 1 << 63] {
                let file = two_writes();
                let at = behind(1).start + word;
                let old = worker(&file).words()[at].load(SeqCst);
                poke(&file, at, old ^ flip);
                let error = refused(&file).to_string();
                assert!(error.contains("a write that was answered"), "word {word}");
            }
        }
    }

    #[test]
    fn a_write_that_cannot_be_is_refused() {
        let first = behind(0).start;
        let bad = [
            ("a state", first + STATE, 4),
            ("an order that nobody gave out", AT_BEHIND_ISSUED, 1),
            ("a chain that ends early", link(0), 0),
            ("a chain that does not end", link(1), 5),
            ("a chain in a circle", link(0), 1),
            (
                "a chain past the last chunk",
                link(0),
                CHUNKS_MAX as u64 + 1,
            ),
            ("a chunk of another write, with the same bytes", link(2), 2),
            ("a byte of the first chunk", CHUNKS_AT, 1),
            ("the last byte", CHUNKS_AT + 4 * CHUNK_WORDS - 1, 1),
        ];
        for (what, word, value) in bad {
            let file = two_writes();
            poke(&file, word, value);
            assert!(matches!(refused(&file), Error::Damaged(_)), "{what}");
        }
    }

    #[test]
    fn an_order_that_two_writes_have_is_refused() {
        let file = create().unwrap();
        let memory = worker(&file);
        for unique in 1..3 {
            keep(&memory, unique, b"").unwrap();
        }
        let [from, to] = [0, 1].map(|at| (behind(at).start * size_of::<u64>()) as u64);
        let mut record = [0; BEHIND_WORDS * size_of::<u64>()];
        file.read_exact_at(&mut record, from).unwrap();
        file.write_all_at(&record, to).unwrap();
        assert!(matches!(refused(&file), Error::Damaged(_)));
    }
}
