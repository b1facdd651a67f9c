//! Follows the files of a source as they grow, and as new ones appear. A file belongs to one task, by the hash of its
//! inode: no member has to tell another who reads it, and every attempt shares them out alike.
//!
//! Files are looked at again and again: soon where lines come, at most `LOOK_EVERY_MAX` later where none do. Only whole
//! lines are handed out; a last line without its end waits. A file that is overwritten or cut fails the job, one that
//! is removed is forgotten, one that is renamed is still the same.

use crate::batch::{Batch, LINE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::glob;
use crate::key::task_of;
use crate::plan::{Pinned, SourcePlan};
use crate::position::FilePosition;
use crate::prepare::header;
use crate::seams::{Owner, Source, Storage, StorageError};
use hydfs_types::Ino;
use memchr::memrchr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A file where lines came is looked at again so soon.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A silent one at least so often.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(40);
/// New files are looked for so often.
const LIST_EVERY: Duration = Duration::from_millis(250);
/// Most files looked at before others get their turn.
const LOOKS_MAX: usize = 32;

/// The task of `tasks` that a followed file belongs to.
pub fn file_task(ino: Ino, tasks: u32) -> u32 {
    task_of(&ino.0.to_be_bytes(), tasks)
}

/// Reader of one task of a followed source.
pub struct Follow {
    storage: Arc<dyn Storage>,
    plan: SourcePlan,
    pinned: Arc<Pinned>,
    owner: Owner,
    task: u32,
    tasks: u32,
    chunk_bytes: u64,
    /// Where reading goes on, of files that were read before.
    positions: BTreeMap<Ino, FilePosition>,
    files: BTreeMap<Ino, File>,
    /// The file that was read last: the next one has its turn.
    turn: Ino,
    list_at: Instant,
    /// It knows which files there are.
    listed: bool,
}

struct File {
    path: String,
    position: FilePosition,
    /// Bytes that were there at the last look.
    len: u64,
    /// Bytes behind the position that hold no line end: not read again before there are more.
    searched: u64,
    look_at: Instant,
    pause: Duration,
}

impl Follow {
    /// A reader of task `task` of `tasks` that goes on at `positions`.
    pub fn new(
        storage: Arc<dyn Storage>,
        plan: SourcePlan,
        pinned: Arc<Pinned>,
        owner: Owner,
        (task, tasks): (u32, u32),
        chunk_bytes: u32,
        positions: &[FilePosition],
    ) -> Self {
        let now = Instant::now();
        Self {
            storage,
            plan,
            pinned,
            owner,
            task,
            tasks,
            chunk_bytes: chunk_bytes.into(),
            positions: positions.iter().map(|p| (p.ino, *p)).collect(),
            files: BTreeMap::new(),
            turn: Ino(0),
            list_at: now,
            listed: false,
        }
    }

    /// Where each of its files stands.
    pub fn positions(&self) -> Vec<FilePosition> {
        self.positions.values().copied().collect()
    }

    /// Where a file stands.
    pub fn position(&self, ino: Ino) -> Option<FilePosition> {
        self.positions.get(&ino).copied()
    }

    /// The path of a file.
    pub fn path(&self, ino: Ino) -> Option<&str> {
        self.files.get(&ino).map(|file| &*file.path)
    }

    /// The inodes of its files; `None` before it has looked for them.
    pub fn inodes(&self) -> Option<impl Iterator<Item = Ino>> {
        self.listed.then(|| self.files.keys().copied())
    }

    /// Bytes that were there at the last looks and were not read.
    pub fn behind(&self) -> u64 {
        let files = self.files.values();
        let behind = |file: &File| file.len - file.position.at - file.searched;
        files.map(behind).sum()
    }

    /// When there may be more, after `next` had nothing.
    pub fn look_at(&self) -> Instant {
        let files = self.files.values().map(|file| file.look_at);
        files.fold(self.list_at, Instant::min)
    }

    /// Whole lines that are there now, and their file; `None` if there are none.
    pub async fn next(&mut self) -> Result<Option<(Ino, Batch)>> {
        if self.list_at <= Instant::now() {
            self.list().await?;
            self.list_at = Instant::now() + LIST_EVERY;
            self.listed = true;
        }
        let behind = self
            .files
            .range(self.turn..)
            .skip_while(|(ino, _)| **ino == self.turn);
        let order: Vec<Ino> = behind
            .chain(self.files.range(..=self.turn))
            .map(|(ino, _)| *ino)
            .collect();
        let mut looks = 0;
        for ino in order {
            if looks >= LOOKS_MAX {
                break;
            }
            let Some(file) = self.files.get(&ino) else {
                continue;
            };
            if file.position.at + file.searched >= file.len {
                if file.look_at > Instant::now() {
                    continue;
                }
                looks += 1;
                self.look(ino).await?;
            }
            self.turn = ino;
            if let Some(batch) = self.read(ino).await? {
                return Ok(Some((ino, batch)));
            }
        }
        Ok(None)
    }

    /// Finds the files that are there now, and forgets those that are gone.
    async fn list(&mut self) -> Result<()> {
        let found = match glob::expand(&*self.storage, &self.plan.path).await {
            Ok(found) => found,
            Err(StorageError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut there = BTreeSet::new();
        for (path, entry) in found {
            let ino = entry.ino;
            if file_task(ino, self.tasks) != self.task {
                continue;
            }
            there.insert(ino);
            match self.files.get_mut(&ino) {
                Some(file) => file.path = path,
                None => self.open(ino, path).await?,
            }
        }
        self.files.retain(|ino, _| there.contains(ino));
        self.positions.retain(|ino, _| there.contains(ino));
        Ok(())
    }

    async fn open(&mut self, ino: Ino, path: String) -> Result<()> {
        let position = match self.positions.get(&ino) {
            Some(position) => *position,
            None => match self.begin(ino, &path).await? {
                Some(position) => position,
                None => return Ok(()),
            },
        };
        self.positions.insert(ino, position);
        let file = File {
            path,
            position,
            len: position.at,
            searched: 0,
            look_at: Instant::now(),
            pause: LOOK_EVERY,
        };
        self.files.insert(ino, file);
        Ok(())
    }

    /// Where reading of a new file begins; `None` if it cannot begin yet.
    async fn begin(&self, ino: Ino, path: &str) -> Result<Option<FilePosition>> {
        if let Some(file) = self.pinned.files.iter().find(|file| file.source.ino == ino) {
            let at = match self.plan.at_end {
                true => file.source.len,
                false => file.data_at,
            };
            let generation = file.source.generation;
            return Ok(Some(FilePosition {
                ino,
                generation,
                at,
            }));
        }
        let Some(source) = self.pin(ino, path).await? else {
            return Ok(None);
        };
        let generation = source.generation;
        if !self.plan.csv {
            let at = 0;
            return Ok(Some(FilePosition {
                ino,
                generation,
                at,
            }));
        }
        let Some((names, at)) = header(&*self.storage, &source).await? else {
            return Ok(None);
        };
        if self
            .pinned
            .columns
            .as_ref()
            .is_some_and(|all| *all != names)
        {
            return Err(Error::Job(format!(
                "{path} has the columns `{}`, other than the source's other files; move it elsewhere",
                names.join("`, `")
            )));
        }
        Ok(Some(FilePosition {
            ino,
            generation,
            at,
        }))
    }

    /// The file as it is now; `None` if it is gone or another one stands there.
    async fn pin(&self, ino: Ino, path: &str) -> Result<Option<Source>> {
        match self.storage.pin(path, self.owner).await {
            Ok(source) => Ok((source.ino == ino).then_some(source)),
            Err(StorageError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How long is it now?
    async fn look(&mut self, ino: Ino) -> Result<()> {
        let Some(path) = self.files.get(&ino).map(|file| file.path.clone()) else {
            return Ok(());
        };
        let source = self.pin(ino, &path).await?;
        let Some(file) = self.files.get_mut(&ino) else {
            return Ok(());
        };
        let before = file.len;
        if let Some(source) = source {
            if source.len < file.position.at {
                return Err(Error::Job(format!(
                    "{path} is shorter than what was read of it; a followed file may only grow: rename it and begin a new one"
                )));
            }
            file.len = source.len;
        }
        file.pause = match file.len > before {
            true => LOOK_EVERY,
            false => (file.pause * 2).min(LOOK_EVERY_MAX),
        };
        file.look_at = Instant::now() + file.pause;
        Ok(())
    }

    /// The whole lines at the position, of about one chunk.
    async fn read(&mut self, ino: Ino) -> Result<Option<Batch>> {
        let Some(file) = self.files.get_mut(&ino) else {
            return Ok(None);
        };
        let (at, there) = (file.position.at, file.len - file.position.at);
        if there == 0 || there == file.searched {
            return Ok(None);
        }
        // A longer line than a chunk needs more, up to the longest line that there may be.
        let mut want = self.chunk_bytes.max(1);
        loop {
            let source = Source {
                ino,
                generation: file.position.generation,
                len: file.len,
            };
            let len = want.min(there);
            let bytes = self.storage.read(&source, at, len as u32).await?;
            if bytes.len() as u64 != len {
                let what = format!("{} of {len} bytes read at {at} of {ino}", bytes.len());
                return Err(Error::Attempt(what));
            }
            if let Some(end) = memrchr(b'\n', &bytes) {
                file.position.at += end as u64 + 1;
                file.searched = 0;
                self.positions.insert(ino, file.position);
                return Ok(Some(Batch::from_lines(bytes.slice(..end))));
            }
            if len > LINE_BYTES_MAX as u64 {
                return Err(Error::Job(format!(
                    "a line of {} at byte {at} is longer than {LINE_BYTES_MAX} bytes; cut it into shorter lines",
                    file.path
                )));
            }
            if len == there {
                file.searched = there;
                return Ok(None);
            }
            want *= 2;
        }
    }
}
