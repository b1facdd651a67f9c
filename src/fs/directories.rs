//! Directories as they are listed.

use crate::{
    control::JOB_FILES_FROM,
    synthetic::{Node, Synthetic},
    volume::{Outcome, Volume},
};
use hydfs_mount::{Answer, FsError, Opened};
use hydfs_state::{Body, State};
use hydfs_types::{DirEntry, Ino};

impl Volume {
    pub(crate) async fn open_dir(&self, ino: Ino) -> Outcome {
        if !Synthetic::is(ino) {
            self.barrier().await?;
            return Self::dir_in(&self.ctx.state(), ino);
        }
        Ok(Self::opened_dir())
    }

    pub(crate) fn dir_in(state: &State, ino: Ino) -> Outcome {
        match state.inode(ino).map_err(crate::error::of_command)?.body {
            Body::Directory(_) => Ok(Self::opened_dir()),
            _ => Err(FsError::NotDirectory),
        }
    }

    fn opened_dir() -> Answer {
        Answer::Opened(Opened {
            handle: 0,
            direct: false,
            mappable: false,
            keep_cache: false,
        })
    }

    pub(crate) async fn read_dir(&self, ino: Ino, cookie: u64, limit: usize) -> Outcome {
        if Synthetic::is(ino) {
            let (path, node) = self.control_of(ino)?;
            let Node::Directory(names) = node else {
                return Err(FsError::NotDirectory);
            };
            let entries = self.synthetic.list(&path, &names, cookie, limit);
            return Ok(Answer::Entries(
                entries.into_iter().map(|entry| (entry, None)).collect(),
            ));
        }
        self.barrier().await?;
        let of_job = self.job_files(ino, cookie);
        Self::entries_in(&self.ctx.state(), ino, (cookie, limit), of_job)
    }

    /// Entries of a directory, those of `of_job` behind its own.
    pub(crate) fn entries_in(
        state: &State,
        ino: Ino,
        (cookie, limit): (u64, usize),
        of_job: Vec<DirEntry>,
    ) -> Outcome {
        let mut entries = if cookie < JOB_FILES_FROM {
            state
                .read_dir(ino, cookie, limit)
                .map_err(crate::error::of_command)?
        } else {
            Vec::new()
        };
        let room = limit - entries.len().min(limit);
        entries.extend(of_job.into_iter().take(room));
        let attr = |ino: Ino| {
            state
                .inode(ino)
                .ok()
                .filter(|_| state.is_clean_file(ino))
                .map(|inode| inode.attr)
        };
        Ok(Answer::Entries(
            entries
                .into_iter()
                .map(|entry| {
                    let attr = attr(entry.ino);
                    (entry, attr)
                })
                .collect(),
        ))
    }
}
