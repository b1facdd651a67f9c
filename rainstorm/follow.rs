//! Follows the files of a source as they grow, and as new ones appear. A file belongs to one task, by the hash of its
//! inode: no member has to tell another who reads it, and every attempt shares them out alike.
//!
//! Files are looked at again and again: soon where lines come, at most `LOOK_EVERY_MAX` later where none do. Only whole
//! lines, or whole frames, are handed out; a last line without its end waits, and so does what is there of a frame. A file that is overwritten or cut fails the job, one that
//! is removed is forgotten, one that is renamed is still the same, also if it was called otherwise than the source says for a while.

use crate::batch::{Batch, LINE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::framed::Framed;
use crate::glob::{self, Found};
use crate::key::task_of;
use crate::plan::{Pinned, PinnedFile, SourcePlan};
use crate::position::FilePosition;
use crate::prepare::header;
use crate::records::Records;
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
/// Most files without a name of the source that are remembered: the last made ones. Each travels with every commit.
const AWAY_MAX: usize = 256;
/// What waits is found out so often for those who ask, in so many files at most.
const MEASURE_EVERY: Duration = Duration::from_millis(500);
const MEASURES_MAX: usize = 16;
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
    /// Files that the last list did not name, though they have names. One that is renamed while the directories are listed one
    /// after the other may be in none of them; one that is called otherwise may be renamed back.
    missing: BTreeSet<Ino>,
    /// Files that the log names already, since they cannot be read.
    told: BTreeSet<String>,
    measure_at: Instant,
    /// The file that was measured last.
    measured: Ino,
}

struct File {
    path: String,
    position: FilePosition,
    /// Bytes that were there at the last look.
    len: u64,
    /// Bytes behind the position that hold no line end, and no whole frame: not read again before there are more.
    searched: u64,
    look_at: Instant,
    pause: Duration,
    /// The first and the last of the looks that found nothing to read, since there was something.
    silent: Option<(Instant, Instant)>,
}

impl File {
    /// Bytes that may hold lines.
    fn unread(&self) -> u64 {
        let behind = self.len.saturating_sub(self.position.at);
        behind.saturating_sub(self.searched)
    }
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
            missing: BTreeSet::new(),
            told: BTreeSet::new(),
            measure_at: now,
            measured: Ino::default(),
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

    /// Bytes that are there and were not read. To read, a file is looked at once it is read up: whoever is slow behind this
    /// reader would never hear of what came since, so such files are looked at here.
    pub async fn behind(&mut self) -> Result<u64> {
        let now = Instant::now();
        if self.measure_at <= now {
            self.measure_at = now + MEASURE_EVERY;
            let due = self.files.iter().filter(|(ino, file)| {
                file.unread() == 0 && file.look_at <= now && !self.missing.contains(ino)
            });
            let due: Vec<Ino> = due.map(|(ino, _)| *ino).collect();
            // On from where the last measure ended: each has its turn.
            let first = due.partition_point(|ino| *ino <= self.measured);
            for ino in due[first..].iter().chain(&due[..first]).take(MEASURES_MAX) {
                self.look(*ino).await?;
                self.measured = *ino;
            }
        }
        Ok(self.files.values().map(File::unread).sum())
    }

    /// Whether a file had nothing to read for `idle`, as far as it was looked at. While its reader waits for room behind it,
    /// for a commit or for storage, lines may wait in the file: then nobody knows that it is silent.
    pub fn is_silent(&self, ino: Ino, idle: Duration, now: Instant) -> bool {
        let file = self.files.get(&ino).filter(|file| file.unread() == 0);
        let lately = idle.max(LIST_EVERY);
        file.and_then(|file| file.silent)
            .is_some_and(|(first, last)| {
                last.saturating_duration_since(first) >= idle
                    && now.saturating_duration_since(last) < lately
            })
    }

    /// When there may be more, after `next` had nothing.
    pub fn look_at(&self) -> Instant {
        let there = self.files.iter();
        let there = there.filter(|(ino, _)| !self.missing.contains(ino));
        let looks = there.map(|(_, file)| file.look_at);
        looks.fold(self.list_at, Instant::min)
    }

    /// Whole lines or frames that are there now, and their file; `None` if there are none.
    pub async fn next(&mut self) -> Result<Option<(Ino, Records)>> {
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
            // Of one that is missing nobody knows whether it can still be read.
            let file = self.files.get(&ino);
            let Some(file) = file.filter(|_| !self.missing.contains(&ino)) else {
                continue;
            };
            if file.unread() == 0 {
                if file.look_at > Instant::now() {
                    continue;
                }
                looks += 1;
                self.look(ino).await?;
            }
            self.turn = ino;
            if let Some(records) = self.read(ino).await? {
                return Ok(Some((ino, records)));
            }
        }
        Ok(None)
    }

    /// Finds the files that are there now, and forgets those that exist no more.
    async fn list(&mut self) -> Result<()> {
        let (path, own) = (&self.plan.path, &self.plan.own);
        let found = match glob::expand(&*self.storage, path, own).await {
            Ok(found) => found,
            Err(StorageError::NotFound(_)) => Found::default(),
            Err(error) => return Err(error.into()),
        };
        let mut there = BTreeSet::new();
        self.tell(found.unreadable).await?;
        for (path, entry) in found.files {
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
        let known = self.positions.keys().copied();
        let missing: BTreeSet<Ino> = known.filter(|ino| !there.contains(ino)).collect();
        let before = std::mem::replace(&mut self.missing, missing);
        let is_away = |ino: &Ino| self.missing.contains(ino) && before.contains(ino);
        self.files.retain(|ino, _| !is_away(ino));
        let away = self.missing.intersection(&before).copied().collect();
        self.forget_removed(away).await;
        Ok(())
    }

    /// Says once in the job's log which files it cannot read.
    async fn tell(&mut self, unreadable: Vec<String>) -> Result<()> {
        if self.task > 0 {
            return Ok(());
        }
        for path in unreadable {
            if !self.told.insert(path.clone()) {
                continue;
            }
            let line = format!("{path} has a name that is no UTF-8, and is not read: rename it\n");
            let log = format!("{}/log", self.plan.own);
            let log = self.storage.append_text(&log, self.owner, line.into());
            log.await?;
        }
        Ok(())
    }

    /// Forgets the positions of files that have no name any more, of those that two lists in a row have missed. While nobody
    /// can tell, they stay.
    async fn forget_removed(&mut self, missing: Vec<Ino>) {
        if missing.is_empty() {
            return;
        }
        let Ok(named) = self.storage.named(&missing).await else {
            return;
        };
        let gone = missing.iter().zip(named).filter(|(_, named)| !named);
        let mut gone: Vec<Ino> = gone.map(|(ino, _)| *ino).collect();
        let away = missing.iter().filter(|ino| !gone.contains(ino));
        let away: Vec<Ino> = away.copied().collect();
        gone.extend(&away[..away.len().saturating_sub(AWAY_MAX)]);
        for ino in gone {
            self.missing.remove(&ino);
            self.files.remove(&ino);
            self.positions.remove(&ino);
        }
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
            silent: None,
        };
        self.files.insert(ino, file);
        Ok(())
    }

    /// Where reading of a new file begins; `None` if it cannot begin yet.
    async fn begin(&self, ino: Ino, path: &str) -> Result<Option<FilePosition>> {
        if let Some(file) = self.pinned.files.iter().find(|file| file.source.ino == ino) {
            let at = match self.plan.at_end {
                true => self.last_begun(file).await?,
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
        let Some((names, at)) = header(&*self.storage, &source, true).await? else {
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

    /// Where the last line or frame of a file begins that was not whole when it was pinned, or else its end: it is written while the
    /// job runs, and half of it would be another one.
    async fn last_begun(&self, file: &PinnedFile) -> Result<u64> {
        if let Some(prefix) = self.plan.prefix() {
            let framed = Framed {
                storage: &*self.storage,
                source: &file.source,
                path: &file.path,
                prefix,
            };
            return Ok(framed.walk(file.data_at, file.source.len).await?.at);
        }
        let mut end = file.source.len;
        while end > file.data_at && file.source.len - end < LINE_BYTES_MAX as u64 {
            let at = file
                .data_at
                .max(end.saturating_sub(self.chunk_bytes.max(1)));
            let read = self.storage.read(&file.source, at, (end - at) as u32);
            let bytes = read.await?;
            if let Some(last) = memrchr(b'\n', &bytes) {
                return Ok(at + last as u64 + 1);
            }
            end = at;
        }
        Ok(file.data_at.max(end))
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
        let began = Instant::now();
        let source = self.pin(ino, &path).await?;
        let Some(file) = self.files.get_mut(&ino) else {
            return Ok(());
        };
        let before = file.len;
        let now = Instant::now();
        if let Some(source) = source {
            if source.len < file.position.at {
                return Err(Error::Job(format!(
                    "{path} is shorter than what was read of it; a followed file may only grow: rename it and begin a new one"
                )));
            }
            file.len = source.len;
            file.silent = match file.len > before {
                true => None,
                // What it says of a file is as old as its beginning.
                false => Some((file.silent.map_or(now, |(first, _)| first), began)),
            };
        }
        file.pause = match file.len > before {
            true => LOOK_EVERY,
            false => (file.pause * 2).min(LOOK_EVERY_MAX),
        };
        file.look_at = now + file.pause;
        Ok(())
    }

    /// The whole lines or frames at the position, of about one chunk.
    async fn read(&mut self, ino: Ino) -> Result<Option<Records>> {
        let Some(file) = self.files.get_mut(&ino) else {
            return Ok(None);
        };
        let (at, there) = (file.position.at, file.len - file.position.at);
        if there == 0 || there == file.searched {
            return Ok(None);
        }
        let source = Source {
            ino,
            generation: file.position.generation,
            len: file.len,
        };
        let want = self.chunk_bytes.max(1);
        let records = match self.plan.prefix() {
            Some(prefix) => {
                let framed = Framed {
                    storage: &*self.storage,
                    source: &source,
                    path: &file.path,
                    prefix,
                };
                framed.some(at, want).await?.map(Records::Frames)
            }
            None => whole_lines(&*self.storage, &source, &file.path, at, want)
                .await?
                .map(Records::Lines),
        };
        match &records {
            Some(records) => {
                file.position.at += records.bytes();
                file.searched = 0;
                file.silent = None;
                self.positions.insert(ino, file.position);
            }
            None => file.searched = there,
        }
        Ok(records)
    }
}

/// The whole lines from byte `at` on, of about `want` bytes.
async fn whole_lines(
    storage: &dyn Storage,
    source: &Source,
    path: &str,
    at: u64,
    mut want: u64,
) -> Result<Option<Batch>> {
    let there = source.len - at;
    // A longer line than a chunk needs more, up to the longest line that there may be.
    loop {
        let len = want.min(there);
        let bytes = storage.read(source, at, len as u32).await?;
        if bytes.len() as u64 != len {
            let what = format!(
                "{} of {len} bytes read at {at} of {}",
                bytes.len(),
                source.ino
            );
            return Err(Error::Attempt(what));
        }
        if let Some(end) = memrchr(b'\n', &bytes) {
            return Ok(Some(Batch::from_lines(bytes.slice(..end))));
        }
        if len > LINE_BYTES_MAX as u64 {
            return Err(Error::Job(format!(
                "a line of {path} at byte {at} is longer than {LINE_BYTES_MAX} bytes; cut it into shorter lines"
            )));
        }
        if len == there {
            return Ok(None);
        }
        want *= 2;
    }
}
