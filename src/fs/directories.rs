//! Directories as they are listed, also with attributes: those that a lookup of each name would give.

use crate::{
    control::JOB_FILES_FROM,
    synthetic::{Node, Synthetic},
    volume::{Outcome, Volume},
};
use hydfs_mount::{Answer, FsError, Opened};
use hydfs_state::{Body, State};
use hydfs_types::{Attr, CommandError, DirEntry, Ino, ROOT_INO};

/// Entries with their attributes, where they were asked for.
type Listed = Vec<(DirEntry, Option<Attr>)>;

impl Volume {
    pub(crate) async fn open_dir(&self, ino: Ino) -> Outcome {
        if !Synthetic::is(ino) {
            if ino == ROOT_INO
                && let Some(why) = self.silent()
            {
                return Err(why);
            }
            self.barrier().await?;
            return self.dir_in(&self.ctx.state(), ino);
        }
        Ok(self.opened_dir())
    }

    pub(crate) fn dir_in(&self, state: &State, ino: Ino) -> Outcome {
        match state.inode(ino).map_err(crate::error::of_command)?.body {
            Body::Directory(_) => Ok(self.opened_dir()),
            _ => Err(FsError::NotDirectory),
        }
    }

    fn opened_dir(&self) -> Answer {
        Answer::Opened(Opened {
            handle: self.open_dirs.next(),
            direct: false,
            mappable: false,
            keep_cache: false,
        })
    }

    /// Entries after a cookie, so many at most.
    pub(crate) async fn read_dir(&self, ino: Ino, from: (u64, usize), attrs: bool) -> Outcome {
        let (cookie, limit) = from;
        if Synthetic::is(ino) {
            let (path, node) = self.control_of(ino)?;
            let Node::Directory(names) = node else {
                return Err(FsError::NotDirectory);
            };
            let entries = self.synthetic.list(&path, &names, cookie, limit);
            return Ok(Answer::Entries(bare(entries)));
        }
        self.barrier().await?;
        let of_job = self.job_files(ino, cookie);
        let entries = if cookie < JOB_FILES_FROM {
            Self::entries_in(&self.ctx.state(), ino, from)?
        } else {
            Vec::new()
        };
        if attrs {
            for entry in &entries {
                // What cannot be sent is told to whoever closes the file, not to whoever lists it.
                drop(self.send_behind(entry.ino).await);
            }
        }
        let room = limit - entries.len().min(limit);
        let of_job = bare(of_job.into_iter().take(room).collect());
        let mut listed = match attrs {
            true => self.as_listed(&self.ctx.state(), entries),
            false => bare(entries),
        };
        listed.extend(of_job);
        Ok(Answer::Entries(listed))
    }

    /// A directory's own entries.
    pub(crate) fn entries_in(
        state: &State,
        ino: Ino,
        (cookie, limit): (u64, usize),
    ) -> Outcome<Vec<DirEntry>> {
        let entries = state.read_dir(ino, cookie, limit);
        entries.map_err(|error| match error {
            // Removed while it was open: as Linux says it, and there is no path that the kernel could look up anew.
            CommandError::Stale(_) => FsError::NotFound,
            error => crate::error::of_command(error),
        })
    }

    /// Entries with attributes; `None` if something has to be sent before.
    pub(crate) fn with_attrs(&self, state: &State, entries: Vec<DirEntry>) -> Option<Listed> {
        let behind = entries.iter().any(|entry| self.is_behind(entry.ino));
        (!behind).then(|| self.as_listed(state, entries))
    }

    fn as_listed(&self, state: &State, entries: Vec<DirEntry>) -> Listed {
        let with_attr = |entry: DirEntry| {
            let attr = self.as_known(state, entry.ino).ok().flatten();
            (entry, attr)
        };
        entries.into_iter().map(with_attr).collect()
    }
}

/// Entries alone.
pub(crate) fn bare(entries: Vec<DirEntry>) -> Listed {
    entries.into_iter().map(|entry| (entry, None)).collect()
}
