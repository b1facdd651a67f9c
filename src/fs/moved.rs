//! Files of which another mount has just taken a name away that this kernel had.
//!
//! rename(2) looks up the old name and then the new one, and does nothing, with success, where it finds one inode under both:
//! two names of one file. With another mount's rename of the same file in between, two mounts would have renamed it. So the
//! first time that a thread looks such a file up, by whatever name, it is told ESTALE: the kernel then begins the whole call
//! anew and asks for every name, whatever it keeps (`retry_estale`, LOOKUP_REVAL). It does so once for a call, so a thread that
//! does is told of no other file meanwhile. No program sees any of that, and the loser finds the old name gone.
//!
//! What is not caught: a kernel that has another file under the new name in its cache swallows the ESTALE with that.

use crate::volume::{Outcome, Volume};
use hydfs_mount::{Answer, Caller, FsError};
use hydfs_types::{FileKind, Ino};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The kernel may be between its two lookups for so long.
const BETWEEN: Duration = Duration::from_secs(3);
/// Files that are remembered; of more, calls go on with what they have found.
const FILES_MAX: usize = 4_096;
/// A call that begins anew has asked for all its names by then.
const ANEW: Duration = Duration::from_millis(200);
/// Threads that are told of one file, and that begin a call anew.
const THREADS_MAX: usize = 1_024;

#[derive(Default)]
pub(crate) struct Moved {
    known: Mutex<Known>,
    /// Whether there are any: most lookups need no lock.
    any: AtomicBool,
}

#[derive(Default)]
struct Known {
    files: BTreeMap<Ino, Mark>,
    /// Threads that begin a call anew, until when.
    anew: BTreeMap<u32, Instant>,
}

struct Mark {
    until: Instant,
    /// Threads that know.
    told: BTreeSet<u32>,
}

impl Moved {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel may use a name of these that they have not got any more.
    pub fn note(&self, inos: impl Iterator<Item = Ino>) {
        let now = Instant::now();
        let files = &mut self.lock().files;
        for ino in inos {
            if files.len() >= FILES_MAX {
                files.retain(|_, mark| mark.until > now);
            }
            if files.len() < FILES_MAX {
                let mark = Mark {
                    until: now + BETWEEN,
                    told: BTreeSet::new(),
                };
                files.insert(ino, mark);
            }
        }
        self.any.store(!files.is_empty(), Relaxed);
    }

    /// Whether a thread has to begin its call anew; once for each mark.
    fn is_news(&self, ino: Ino, thread: u32) -> bool {
        if !self.any.load(Relaxed) {
            return false;
        }
        let now = Instant::now();
        let Known { files, anew } = &mut *self.lock();
        let Some(mark) = files.get_mut(&ino) else {
            return false;
        };
        if mark.until <= now {
            files.remove(&ino);
            self.any.store(!files.is_empty(), Relaxed);
            return false;
        }
        if anew.len() >= THREADS_MAX {
            anew.retain(|_, until| *until > now);
        }
        let full = mark.told.len().max(anew.len()) >= THREADS_MAX;
        if full || !mark.told.insert(thread) || anew.get(&thread).is_some_and(|until| *until > now)
        {
            return false;
        }
        anew.insert(thread, now + ANEW);
        true
    }

    /// A thread is told that there is no such name, with which most calls end.
    fn has_ended(&self, thread: u32) {
        if self.any.load(Relaxed) {
            self.lock().anew.remove(&thread);
        }
    }
}

impl Volume {
    /// What the kernel is told of an entry that it looked up.
    pub(crate) fn or_moved(&self, caller: Caller, found: Outcome) -> Outcome {
        match &found {
            // Directories have one name.
            Ok(Answer::Attr(attr))
                if attr.kind != FileKind::Directory
                    && caller.unique != 0
                    && self.moved.is_news(attr.ino, caller.pid) =>
            {
                Err(FsError::Stale)
            }
            Err(FsError::NotFound) => {
                self.moved.has_ended(caller.pid);
                found
            }
            _ => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_thread_is_told_once_and_only_for_a_while() {
        let moved = Moved::default();
        assert!(!moved.is_news(Ino(5), 70));
        moved.note([Ino(5)].into_iter());
        assert!(moved.is_news(Ino(5), 70) && !moved.is_news(Ino(5), 70));
        assert!(!moved.is_news(Ino(6), 71));
        assert!(moved.is_news(Ino(5), 71));
        moved.note([Ino(5)].into_iter());
        tokio::time::advance(ANEW).await;
        assert!(moved.is_news(Ino(5), 70), "it was moved again");
        tokio::time::advance(BETWEEN).await;
        assert!(!moved.is_news(Ino(5), 72));
        assert!(!moved.any.load(Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_begins_anew_is_told_of_no_other_file_and_the_next_one_is() {
        let moved = Moved::default();
        moved.note([5, 6, 7].map(Ino).into_iter());
        assert!(moved.is_news(Ino(5), 70));
        assert!(!moved.is_news(Ino(6), 70));
        moved.has_ended(70);
        assert!(!moved.is_news(Ino(6), 70), "it has asked for that since");
        assert!(moved.is_news(Ino(7), 70));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_limit() {
        let moved = Moved::default();
        moved.note((0..=FILES_MAX as u64).map(Ino));
        assert!(!moved.is_news(Ino(FILES_MAX as u64), 70));
        tokio::time::advance(BETWEEN).await;
        moved.note([Ino(FILES_MAX as u64)].into_iter());
        assert!(moved.is_news(Ino(FILES_MAX as u64), 70));
    }
}
