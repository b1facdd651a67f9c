//! The file as a whole: made and looked at by the supervisor, opened by workers; and the session in its header.

use crate::{
    Error,
    behind::Backlog,
    handles::Handles,
    layout::*,
    lockers::Lockers,
    map::{self, Mapped},
    requests::Requests,
};
use hydfs_types::{Incarnation, SessionId};
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// Makes an empty memory file: the supervisor, before its first worker.
pub fn create() -> io::Result<File> {
    let file = map::memory_file()?;
    let header = [
        (AT_VERSION, VERSION),
        (AT_WORDS, WORDS as u64),
        (AT_CHECKSUM, checksum(MAGIC, VERSION, WORDS as u64)),
        (AT_MAGIC, MAGIC),
    ];
    for (at, word) in header {
        let word = word.to_ne_bytes();
        file.write_all_at(&word, (at * word.len()) as u64)?;
    }
    Ok(file)
}

/// How many workers have begun on a memory file.
pub fn begun(file: &File) -> io::Result<u64> {
    look(file, AT_BEGUN)
}

/// How many workers have served on it.
pub fn ready(file: &File) -> io::Result<u64> {
    look(file, AT_READY)
}

/// How far the record journal went, as [`Memory::journal_end`] says it.
pub fn journal_end(file: &File) -> io::Result<Option<u64>> {
    Ok(Some(look(file, AT_JOURNAL_END)?).filter(|end| *end != 0))
}

fn look(file: &File, at: usize) -> io::Result<u64> {
    let mut word = [0; size_of::<u64>()];
    let offset = at * size_of::<u64>();
    file.read_exact_at(&mut word, offset as u64)?;
    Ok(u64::from_ne_bytes(word))
}

/// The member's session with the agreement group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptSession {
    pub id: SessionId,
    /// Last seq that may have been given out.
    pub last: u64,
    /// The agreed state has this session.
    pub known: bool,
}

/// A memory file in a worker.
#[derive(Debug)]
pub struct Memory {
    words: &'static [AtomicU64],
    pub(crate) requests: Requests,
    pub(crate) handles: Handles,
    pub(crate) lockers: Lockers,
    pub(crate) behind: Backlog,
    takes_over: bool,
}

impl Memory {
    /// Maps a memory file, as the worker that serves from now on.
    pub fn open(fd: OwnedFd) -> Result<Arc<Self>, Error> {
        let file = File::from(fd);
        let Mapped { words, chunks } = map::map(&file).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::Foreign("it has another size"),
            _ => Error::Map(error),
        })?;
        let word = |at: usize| words[at].load(SeqCst);
        if word(AT_MAGIC) != MAGIC {
            return Err(Error::Foreign("it begins with something else"));
        }
        if word(AT_VERSION) != VERSION {
            let found = word(AT_VERSION);
            return Err(Error::Version { found });
        }
        let sum = checksum(MAGIC, VERSION, word(AT_WORDS));
        if word(AT_WORDS) != WORDS as u64 || word(AT_CHECKSUM) != sum {
            return Err(Error::Damaged("its header"));
        }
        let takes_over = word(AT_READY) > 0;
        words[AT_BEGUN].fetch_add(1, SeqCst);
        Ok(Arc::new(Self {
            requests: Requests::restore(words)?,
            handles: Handles::restore(words)?,
            lockers: Lockers::restore(words)?,
            behind: Backlog::restore(words, chunks)?,
            takes_over,
            words,
        }))
    }

    /// Whether a worker before this one has served: its requests and handles are here.
    pub fn takes_over(&self) -> bool {
        self.takes_over
    }

    /// This worker serves: whoever starts it may count on it.
    pub fn set_ready(&self) {
        self.words()[AT_READY].fetch_add(1, SeqCst);
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.words
    }

    /// The session, if one was kept.
    pub fn session(&self) -> Option<KeptSession> {
        let word = |at: usize| self.words()[at].load(SeqCst);
        Some(KeptSession {
            id: SessionId(word(AT_SESSION)),
            last: word(AT_SESSION_LAST),
            known: word(AT_SESSION_KNOWN) != 0,
        })
        .filter(|session| session.id != SessionId(0))
    }

    /// Keeps the session. Called before a seq is used, so that it is never given out twice.
    pub fn save_session(&self, session: KeptSession) {
        let words = self.words();
        if words[AT_SESSION].load(SeqCst) != session.id.0 {
            // None until all of it is there. What was asked under the one before is not answered any more.
            words[AT_SESSION].store(0, SeqCst);
            self.forget_identities();
        }
        words[AT_SESSION_LAST].store(session.last, SeqCst);
        words[AT_SESSION_KNOWN].store(u64::from(session.known), SeqCst);
        words[AT_SESSION].store(session.id.0, SeqCst);
    }

    /// The incarnation that the session belongs to.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.words()[AT_INCARNATION].load(SeqCst))
    }

    pub fn save_incarnation(&self, incarnation: Incarnation) {
        self.words()[AT_INCARNATION].store(incarnation.0, SeqCst);
    }

    /// How far the record journal went, as a position in it; `None` where no worker has said.
    pub fn journal_end(&self) -> Option<u64> {
        let end = self.words()[AT_JOURNAL_END].load(SeqCst);
        Some(end).filter(|end| *end != 0)
    }

    /// Called after each append to the journal, before anybody is told of it.
    pub fn save_journal_end(&self, end: u64) {
        self.words()[AT_JOURNAL_END].store(end, SeqCst);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::{OpenFile, Piece};
    use hydfs_types::{Ino, SegmentId, Seq, Time, WriterId};

    /// A worker on this file.
    pub(crate) fn worker(file: &File) -> Arc<Memory> {
        Memory::open(file.try_clone().unwrap().into()).unwrap()
    }

    pub(crate) fn refused(file: &File) -> Error {
        Memory::open(file.try_clone().unwrap().into()).unwrap_err()
    }

    pub(crate) fn poke(file: &File, word: usize, value: u64) {
        let bytes = value.to_ne_bytes();
        file.write_all_at(&bytes, (word * bytes.len()) as u64)
            .unwrap();
    }

    #[test]
    fn a_worker_finds_what_the_one_before_left() {
        let file = create().unwrap();
        let first = worker(&file);
        assert!(!first.takes_over());
        first.save_session(KeptSession {
            id: SessionId(9),
            last: 4,
            known: true,
        });
        first.save_incarnation(Incarnation(3));
        assert_eq!(first.journal_end(), None);
        first.save_journal_end(1 << 32 | 17);
        let slot = first.begin(70).unwrap();
        slot.note_seq(5);
        let piece = Piece {
            writer: WriterId(6),
            seq: Seq(7),
            len: 8,
            segment: SegmentId(9),
        };
        slot.note_piece(0, piece);
        let opened = OpenFile {
            ino: Ino(11),
            how: 3,
        };
        let handle = first.open_file(opened, Some(&slot)).unwrap();
        let write = first.keep_behind(68, Ino(11), Some(3), Time::default(), b"bytes");
        write.unwrap().note_sent(piece);
        first.set_ready();
        drop(first);

        let second = worker(&file);
        assert!(second.takes_over());
        assert_eq!((begun(&file).unwrap(), ready(&file).unwrap()), (2, 1));
        assert_eq!(second.session().unwrap().last, 4);
        assert_eq!(second.incarnation(), Incarnation(3));
        assert_eq!(second.journal_end(), Some(1 << 32 | 17));
        assert_eq!(journal_end(&file).unwrap(), second.journal_end());
        assert_eq!(second.open_files(), vec![(handle, opened)]);
        let left = second.left_behind();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].behind.unique, left[0].sent), (68, Some(piece)));
        assert_eq!(left[0].behind.bytes, "bytes");
        let again = second.begin(70).unwrap();
        assert!(again.is_sent_again());
        assert_eq!(again.seq(), Some(5));
        assert_eq!(again.handle(), Some(handle));
        assert_eq!(again.pieces(), Some(vec![crate::Asked::Sent(piece)]));
        assert!(!second.begin(72).unwrap().is_sent_again());
    }

    #[test]
    fn what_is_no_memory_file_is_refused() {
        let foreign = tempfile::tempfile().unwrap();
        assert!(matches!(refused(&foreign), Error::Foreign(_)));
        foreign.set_len(WORDS as u64 * 8).unwrap();
        assert!(matches!(refused(&foreign), Error::Foreign(_)));
        let torn = create().unwrap();
        torn.set_len(WORDS as u64 * 4).unwrap();
        assert!(matches!(refused(&torn), Error::Foreign(_)));
    }

    #[test]
    fn another_version_is_refused_and_named() {
        let file = create().unwrap();
        poke(&file, AT_VERSION, VERSION + 1);
        let error = refused(&file);
        assert!(matches!(error, Error::Version { found } if found == VERSION + 1));
        assert!(error.to_string().contains("start it again"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_refused_whole() {
        let bad: [(usize, u64); 9] = [
            (AT_CHECKSUM, 1),
            (request(3).start + 1, 99),
            (request(3).start + 5, 3),
            (handle(5).start, 7 << 16 | 4),
            (locker(5).start, 1),
            (behind(0).start, 9),
            (behind(0).start + 8, 1 << 40),
            (link(0), 1),
            (CHUNKS_AT, 1),
        ];
        for (word, value) in bad {
            let file = create().unwrap();
            // A request and a write that are there: only then their other words count.
            poke(&file, request(3).start, 40);
            let memory = worker(&file);
            let write = memory.keep_behind(40, Ino(5), None, Time::default(), b"bytes");
            write.unwrap();
            poke(&file, word, value);
            assert!(matches!(refused(&file), Error::Damaged(_)), "word {word}");
        }
    }

    #[test]
    fn a_new_session_forgets_what_was_asked_under_the_old_one() {
        let file = create().unwrap();
        let memory = worker(&file);
        let save = |id| {
            memory.save_session(KeptSession {
                id: SessionId(id),
                last: 1,
                known: false,
            });
        };
        save(1);
        let slot = memory.begin(2).unwrap();
        slot.note_seq(1);
        save(1);
        assert_eq!((slot.seq(), slot.is_lost()), (Some(1), false));
        save(2);
        assert_eq!((slot.seq(), slot.is_lost()), (None, true));
    }
}
