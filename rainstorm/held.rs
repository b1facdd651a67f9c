//! Lines or frames that were read and not all passed on yet: a source with a rate passes them on in portions. A position between
//! two portions names the byte that comes next, so that a restart in the middle of a chunk doubles nothing.

use crate::dead::{Origin, Starts};
use crate::reader::Chunk;
use crate::receipt::Reads;
use crate::records::Records;
use hydfs_types::Ino;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was read since the last barrier: by file of a followed source, by share of a pinned one.
pub type AllReads = BTreeMap<(Option<Ino>, usize), Reads>;

/// What one read gave.
pub struct Held {
    records: Records,
    /// The first line that was not passed on.
    next: usize,
    /// The file's number (of a source that is pinned) or inode (of one that is followed).
    pub file: u64,
    /// Where the first line stands in the file.
    start: u64,
    path: Arc<str>,
    ino: Ino,
    generation: u64,
    /// Of a pinned source.
    chunk: Option<Chunk>,
}

/// The file that lines are of.
pub struct File {
    pub number: u64,
    pub path: Arc<str>,
    pub ino: Ino,
    pub generation: u64,
}

impl Held {
    /// Lines of chunk `chunk` of a pinned source, or of a followed file, that begin at byte `start`.
    pub fn new(records: Records, file: File, start: u64, chunk: Option<Chunk>) -> Self {
        Self {
            records,
            next: 0,
            file: file.number,
            start,
            path: file.path,
            ino: file.ino,
            generation: file.generation,
            chunk,
        }
    }

    /// Leaves out the lines that begin before byte `at`: they were passed on before.
    pub fn skip_to(&mut self, at: u64) {
        while self.next < self.records.count() && self.byte(self.next) < at {
            self.next += 1;
        }
    }

    fn byte(&self, line: usize) -> u64 {
        self.start + self.records.start(line)
    }

    /// The chunk that is not passed on wholly.
    pub fn chunk(&self) -> Option<Chunk> {
        self.chunk
    }

    /// Its file, and the byte of it where a restart goes on.
    pub fn position(&self) -> (Ino, u64) {
        (self.ino, self.byte(self.next))
    }

    /// Whether some of it was passed on.
    pub fn is_begun(&self) -> bool {
        self.next > 0
    }

    /// The next lines, `most` at most, and where they come from; what is left of it, if anything. Reads are noted by file as
    /// they are passed on, by chunk once the whole chunk is.
    pub fn release(mut self, most: usize, reads: &mut AllReads) -> (Records, Origin, Option<Self>) {
        let (from, count) = (self.next, self.records.count());
        let to = from.saturating_add(most.max(1)).min(count);
        let whole = from == 0 && to == count;
        let start = self.byte(from);
        let piece = match whole {
            true => self.records.clone(),
            false => self.records.part(from..to),
        };
        let ended = to == count;
        match self.chunk {
            Some(chunk) if ended => {
                let of_share = of_share(reads, chunk);
                self.records.count_among(of_share, chunk.after());
            }
            Some(_) => {}
            None => {
                let (ino, generation) = (Some(self.ino), self.generation);
                let begin = || Reads::begin(ino, generation, start, 0);
                let of_file = reads.entry((ino, 0)).or_insert_with(begin);
                piece.count_among(of_file, start + piece.bytes());
            }
        }
        let origin = Origin {
            path: self.path.clone(),
            starts: Starts::Piece(start),
        };
        self.next = to;
        (piece, origin, (!ended).then_some(self))
    }

    /// Nothing is left to be passed on.
    pub fn is_empty(&self) -> bool {
        self.next >= self.records.count()
    }

    /// An empty rest still counts as read.
    pub fn conclude(self, reads: &mut AllReads) {
        if let Some(chunk) = self.chunk {
            let of_share = of_share(reads, chunk);
            self.records.count_among(of_share, chunk.after());
        }
    }
}

/// What was read of the share that a chunk is of.
pub fn of_share(reads: &mut AllReads, chunk: Chunk) -> &mut Reads {
    let begin = || Reads::begin(None, 0, chunk.number, chunk.step);
    reads.entry((None, chunk.share)).or_insert_with(begin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use bytes::Bytes;

    fn lines(records: &Records) -> &Batch {
        match records {
            Records::Lines(lines) => lines,
            Records::Frames(_) => panic!("lines were held"),
        }
    }

    #[test]
    fn portions_are_the_lines_and_a_restart_goes_on_between_them() {
        let text = "a\n\nccc\nd";
        let held = || {
            let file = File {
                number: 0,
                path: "/in".into(),
                ino: Ino(7),
                generation: 3,
            };
            Held::new(
                Records::Lines(Batch::from_lines(Bytes::from_static(text.as_bytes()))),
                file,
                100,
                Some(Chunk {
                    number: 4,
                    share: 0,
                    step: 2,
                    at: 0,
                }),
            )
        };
        let mut reads = AllReads::new();
        let (piece, origin, rest) = held().release(2, &mut reads);
        let piece = lines(&piece);
        assert_eq!(
            (&piece.bytes()[..], origin.start(piece, 1)),
            (&b"a\n"[..], 102)
        );
        assert!(reads.is_empty());
        let (_, at) = rest.unwrap().position();
        assert_eq!(at, 103);
        let mut again = held();
        again.skip_to(at);
        let (piece, origin, rest) = again.release(9, &mut reads);
        let piece = lines(&piece);
        assert_eq!(
            (&piece.bytes()[..], origin.start(piece, 1)),
            (&b"ccc\nd"[..], 107)
        );
        assert!(rest.is_none());
        let read = &reads[&(None, 0)];
        assert_eq!((read.from, read.to, read.lines, read.bytes), (4, 6, 4, 9));
    }
}
