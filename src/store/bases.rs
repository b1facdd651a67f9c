//! Bases: the merged bytes of segments, each a plain, possibly sparse file `base/XX/SEGMENT` with its checksums in
//! `base/XX/SEGMENT.sum`. All calls but [`Bases::sync`] block for as long as the disk takes.
//!
//! Writes are the journal's to repeat: they are durable only after [`Bases::sync`], and after a power loss everything
//! since the last sync of a segment is applied again, in order; after a kill the step that was in hand. A crash may leave
//! blocks and checksums that do not fit. So a base of an earlier life is written with care (`base_file.rs`) until it is
//! known that they do: after a kill when that step is done ([`Bases::settle`]), after a power loss when the base was
//! compared with another replica ([`Bases::vouch`]) or pulled anew. Reads and [`Bases::verify`] say what they find. One
//! change of a segment at a time is the caller's duty; reads may come at any time.

use crate::{
    Adoption, Disk, Result, StoreError, SyncMode,
    base_file::{BaseFile, Trust, sum_path},
};
use bytes::Bytes;
use hydfs_types::SegmentId;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Most bases held open at once; each takes two descriptors.
const OPEN_MAX: usize = 256;
/// Longest wait for the sync of one base.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);

/// What a look at some blocks of a base found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Blocks looked at.
    pub blocks: u64,
    /// Those that do not match their checksums, or cannot be read.
    pub bad: Vec<u64>,
    /// There may be more behind them.
    pub more: bool,
}

/// The bases of one data folder. Clones share them.
#[derive(Clone)]
pub struct Bases {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: Arc<str>,
    sync: SyncMode,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<SegmentId, (Arc<BaseFile>, u64)>,
    /// Counts uses, for the least recent one.
    clock: u64,
    /// Changed since their last sync.
    dirty: BTreeSet<SegmentId>,
    /// The machine lost power before this life.
    torn: bool,
    /// Steps of the journal are done again.
    redoing: bool,
    /// Sums and content fit, or it is damaged.
    trusted: BTreeSet<SegmentId>,
    /// Changed in this life where something did not match its sum.
    unmatched: BTreeSet<SegmentId>,
    /// A sync of them failed: what is on disk is unknown until they are adopted or removed.
    failed: BTreeSet<SegmentId>,
    /// What a sync that did not end in time was to make durable. A disk that takes so long is as good as gone.
    hung: Option<SegmentId>,
    /// Folders known to exist, those of them whose names are durable, and how many names were made in each.
    dirs: BTreeSet<u8>,
    durable_dirs: BTreeSet<u8>,
    made: BTreeMap<u8, u64>,
    adoptions: u64,
}

/// Spreads segments over 256 folders.
fn folder(segment: SegmentId) -> u8 {
    segment.0 as u8
}

impl Bases {
    /// Opens (or begins) the bases in `dir` and forgets adoptions that were not committed.
    pub fn open(disk: Arc<dyn Disk>, dir: &str, sync: SyncMode) -> Result<Self> {
        let bases = Self {
            disk,
            dir: dir.into(),
            sync,
            state: Arc::default(),
        };
        let tmp = format!("{dir}/tmp");
        bases
            .disk
            .create_dir_all(&tmp)
            .map_err(bases.failed("make", &tmp))?;
        for name in bases.disk.list(&tmp).map_err(bases.failed("list", &tmp))? {
            let path = format!("{tmp}/{name}");
            bases
                .disk
                .remove_file(&path)
                .map_err(bases.failed("remove", &path))?;
        }
        Ok(bases)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(
        &self,
        op: &'static str,
        path: &str,
    ) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.disk.locate(path);
        move |error| StoreError::io(op, path.clone(), error)
    }

    fn folder_path(&self, folder: u8) -> String {
        format!("{}/{folder:02x}", self.dir)
    }

    pub(crate) fn path(&self, segment: SegmentId) -> String {
        format!("{}/{:016x}", self.folder_path(folder(segment)), segment.0)
    }

    /// Up to `len` bytes at `offset`, fewer at the end, none of a base that is not there. Whole blocks are checked.
    pub fn read(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        self.file(segment, false)?
            .map_or(Ok(Bytes::new()), |file| file.read(offset, len as usize))
    }

    /// As [`Bases::read`], if the base is open, its bytes are in memory and good, and nobody changes it just now. Never waits.
    pub fn read_cached(&self, segment: SegmentId, offset: u64, len: u32) -> Option<Bytes> {
        let file = {
            let mut state = self.state.try_lock().ok()?;
            state.clock += 1;
            let clock = state.clock;
            let (file, used) = state.open.get_mut(&segment)?;
            *used = clock;
            Arc::clone(file)
        };
        file.read_cached(offset, len as usize)
    }

    /// Length in bytes, if there is a base.
    pub fn len(&self, segment: SegmentId) -> Result<Option<u64>> {
        self.file(segment, false)?
            .map(|file| file.len())
            .transpose()
    }

    /// Puts `bytes` at `offset`; what is missing before them becomes zeros.
    pub fn write(&self, segment: SegmentId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.change(segment, |file, trust| file.write(offset, bytes, trust))
    }

    /// Cuts or grows the base.
    pub fn set_len(&self, segment: SegmentId, len: u64) -> Result<()> {
        self.change(segment, |file, trust| file.set_len(len, trust))
    }

    /// The machine lost power since these bases were written: whatever they hold has to be compared.
    /// What is done again from here on is done to what was found.
    pub fn after_power_loss(&self) {
        let mut state = self.state();
        (state.torn, state.redoing) = (true, true);
    }

    /// All that the journal says is done again.
    pub fn redone(&self) {
        self.state().redoing = false;
    }

    /// Whether the base may hold bytes that nobody vouches for, though they match their checksums.
    pub fn doubts(&self, segment: SegmentId) -> bool {
        let state = self.state();
        state.torn && !state.trusted.contains(&segment)
    }

    /// The base was compared with another replica's: from now on its checksums count.
    pub fn vouch(&self, segment: SegmentId) {
        self.state().trusted.insert(segment);
    }

    /// A whole step was written: after a kill, the one that was in hand is done. Whether there were bytes in its way that
    /// match no checksum.
    pub fn settle(&self, segment: SegmentId) -> bool {
        let mut state = self.state();
        if !state.torn {
            state.trusted.insert(segment);
        }
        state.unmatched.remove(&segment)
    }

    fn change(
        &self,
        segment: SegmentId,
        change: impl FnOnce(&BaseFile, Trust) -> Result<bool>,
    ) -> Result<()> {
        let gone = || self.failed("open", &self.path(segment))(io::ErrorKind::NotFound.into());
        let file = self.file(segment, true)?.ok_or_else(gone)?;
        let trust = {
            let mut state = self.state();
            state.dirty.insert(segment);
            match (state.trusted.contains(&segment), state.torn) {
                (true, _) => Trust::Checked,
                (false, false) => Trust::Redo,
                (false, true) => Trust::Torn,
            }
        };
        if !change(&file, trust)? {
            self.state().unmatched.insert(segment);
        }
        Ok(())
    }

    /// As [`Bases::read`], off the caller's thread.
    pub async fn read_aside(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        let bases = self.clone();
        self.to_its_end(move || bases.read(segment, offset, len))
            .await
    }

    /// Work that is not given up once it has begun, off the caller's thread.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if let SyncMode::Inline { delay } = self.sync {
            let done = work();
            tokio::time::sleep(delay).await;
            return done;
        }
        joined(tokio::task::spawn_blocking(work).await)
    }

    /// Completes when everything written to the base before this call is on disk. Runs off the caller's thread.
    pub async fn sync(&self, segment: SegmentId) -> Result<()> {
        let bases = self.clone();
        self.aside(segment, move || bases.sync_now(segment)).await
    }

    /// A sync for this segment, off the caller's thread. One that misses its deadline is a failure for good.
    pub(crate) async fn aside(
        &self,
        segment: SegmentId,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let syncing = async {
            if let SyncMode::Inline { delay } = self.sync {
                tokio::time::sleep(delay).await;
                return work();
            }
            joined(tokio::task::spawn_blocking(work).await)
        };
        match tokio::time::timeout(SYNC_DEADLINE, syncing).await {
            Ok(result) => result,
            Err(_) => {
                self.state().hung.get_or_insert(segment);
                let seconds = SYNC_DEADLINE.as_secs();
                Err(StoreError::SyncTimedOut { seconds })
            }
        }
    }

    /// As [`Bases::sync`], on the caller's thread.
    pub fn sync_now(&self, segment: SegmentId) -> Result<()> {
        let path = self.path(segment);
        if self.state().failed.contains(&segment) {
            return Err(StoreError::Poisoned(format!(
                "an earlier sync of {} failed",
                self.disk.locate(&path)
            )));
        }
        let Some(file) = self.file(segment, false)? else {
            return Ok(());
        };
        self.state().dirty.remove(&segment);
        let result = file.sync().and_then(|()| self.sync_folder(folder(segment)));
        if result.is_err() {
            // The kernel may call the lost pages clean now, so that another sync would succeed and mean nothing.
            self.state().failed.insert(segment);
        }
        result
    }

    /// Why bases cannot be made durable here any more, if so: what was written before may be lost, and another sync that
    /// succeeds says nothing about it.
    pub fn failure(&self) -> Option<String> {
        let (hung, failed) = {
            let state = self.state();
            (state.hung, state.failed.first().copied())
        };
        let locate = |segment| self.disk.locate(&self.path(segment));
        let seconds = SYNC_DEADLINE.as_secs();
        hung.map(|one| format!("a sync of {} takes longer than {seconds} s", locate(one)))
            .or_else(|| failed.map(|one| format!("cannot sync {}", locate(one))))
    }

    /// Bases that were changed in this life and not synced since.
    pub fn unsynced(&self) -> Vec<SegmentId> {
        self.state().dirty.iter().copied().collect()
    }

    /// Makes the names in a folder durable. Whoever comes meanwhile syncs, too: nothing is durable before a sync has ended.
    fn sync_folder(&self, folder: u8) -> Result<()> {
        let made = {
            let state = self.state();
            if state.durable_dirs.contains(&folder) {
                return Ok(());
            }
            state.made.get(&folder).copied()
        };
        let path = self.folder_path(folder);
        self.disk
            .sync_dir(&path)
            .map_err(self.failed("sync", &path))?;
        let mut state = self.state();
        if state.made.get(&folder).copied() == made {
            state.durable_dirs.insert(folder);
        }
        Ok(())
    }

    /// Reads the whole base against its checksums.
    pub fn verify(&self, segment: SegmentId) -> Result<()> {
        let Some(file) = self.file(segment, false)? else {
            return Ok(());
        };
        let mut block = 0;
        while file.verify(block)? {
            block += 1;
        }
        Ok(())
    }

    /// Looks at `count` blocks from `first` on. A base that is not there has none.
    pub fn check_now(&self, segment: SegmentId, first: u64, count: u64) -> Result<Checked> {
        let mut checked = Checked::default();
        let Some(file) = self.file(segment, false)? else {
            return Ok(checked);
        };
        for block in first..first + count {
            match file.verify(block) {
                Ok(true) => {}
                Ok(false) => return Ok(checked),
                // A sector that cannot be read is as bad as one that reads wrong.
                Err(StoreError::Damaged { .. } | StoreError::Io { .. }) => checked.bad.push(block),
                Err(other) => return Err(other),
            }
            checked.blocks += 1;
        }
        checked.more = true;
        Ok(checked)
    }

    /// As [`Bases::check_now`], off the caller's thread.
    pub async fn check(&self, segment: SegmentId, first: u64, count: u64) -> Result<Checked> {
        let bases = self.clone();
        self.to_its_end(move || bases.check_now(segment, first, count))
            .await
    }

    /// CRC-32C of each block of the first `len` bytes, as the sums say: equal on replicas with equal bytes. What lies
    /// behind a shorter base's end counts as zeros.
    pub fn block_sums(&self, segment: SegmentId, len: u64) -> Result<Vec<u32>> {
        match self.file(segment, false)? {
            Some(file) => file.block_sums(len),
            None if len == 0 => Ok(Vec::new()),
            None => {
                let path = self.disk.locate(&self.path(segment));
                let why = "the file is missing".into();
                Err(StoreError::Damaged {
                    path,
                    offset: 0,
                    why,
                })
            }
        }
    }

    /// Puts good blocks in place of damaged ones, from block `first` on; only the last may be short, at the base's end.
    pub fn patch(&self, segment: SegmentId, first: u64, bytes: &[u8]) -> Result<()> {
        self.change(segment, |file, _| file.patch(first, bytes).map(|()| true))
    }

    /// Removes a base. One that is not there is no error.
    pub fn remove(&self, segment: SegmentId) -> Result<()> {
        self.forget(segment);
        let path = self.path(segment);
        for path in [&path, &sum_path(&path)] {
            match self.disk.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every segment that has a base here: what is on disk, not what should be.
    pub fn list(&self) -> Result<Vec<SegmentId>> {
        let mut out = Vec::new();
        for dir in self
            .disk
            .list(&self.dir)
            .map_err(self.failed("list", &self.dir))?
        {
            if dir.len() != 2 {
                continue;
            }
            let path = format!("{}/{dir}", self.dir);
            let names = self.disk.list(&path).map_err(self.failed("list", &path))?;
            let ids = names
                .iter()
                .filter(|name| name.len() == 16)
                .filter_map(|name| u64::from_str_radix(name, 16).ok());
            out.extend(ids.map(SegmentId));
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Begins to put a pulled base in place of what is here, if anything. Nothing changes before [`Adoption::finish`].
    pub fn adopt(&self, segment: SegmentId) -> Result<Adoption> {
        self.ensure_folder(folder(segment))?;
        let number = {
            let mut state = self.state();
            state.adoptions += 1;
            state.adoptions
        };
        Adoption::begin(self.clone(), segment, number)
    }

    /// Closes the segment's file and forgets what is known of it.
    pub(crate) fn forget(&self, segment: SegmentId) {
        let mut state = self.state();
        state.open.remove(&segment);
        state.dirty.remove(&segment);
        state.failed.remove(&segment);
        state.trusted.remove(&segment);
        state.unmatched.remove(&segment);
    }

    /// A synced base is in place.
    pub(crate) fn adopted(&self, segment: SegmentId) {
        self.forget(segment);
        self.state().trusted.insert(segment);
    }

    fn ensure_folder(&self, folder: u8) -> Result<()> {
        if self.state().dirs.contains(&folder) {
            return Ok(());
        }
        let path = self.folder_path(folder);
        self.disk
            .create_dir_all(&path)
            .map_err(self.failed("make", &path))?;
        self.state().dirs.insert(folder);
        Ok(())
    }

    /// The open base. The state stays locked, so that two callers never hold two views of one base.
    fn file(&self, segment: SegmentId, create: bool) -> Result<Option<Arc<BaseFile>>> {
        if create {
            self.ensure_folder(folder(segment))?;
        }
        let mut state = self.state();
        state.clock += 1;
        let clock = state.clock;
        if let Some((file, used)) = state.open.get_mut(&segment) {
            *used = clock;
            return Ok(Some(Arc::clone(file)));
        }
        let path = self.path(segment);
        let file = match BaseFile::open(&*self.disk, &path, false)? {
            None if create => {
                state.durable_dirs.remove(&folder(segment));
                *state.made.entry(folder(segment)).or_default() += 1;
                // One that is missing when its steps are done again may have held more than they bring.
                if !state.redoing {
                    state.trusted.insert(segment);
                }
                BaseFile::open(&*self.disk, &path, true)?
            }
            other => other,
        };
        let Some(file) = file else { return Ok(None) };
        let file = Arc::new(file);
        state.evict();
        state.open.insert(segment, (Arc::clone(&file), clock));
        Ok(Some(file))
    }
}

/// What work on another thread came to.
fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| Err(StoreError::Poisoned(error.to_string())))
}

impl State {
    /// Closes the least recently used base if there are too many; one that was changed since its last sync only where there
    /// is no other, since Linux tells an error of writing back to the next who opens a file only while it has the file in
    /// mind. Those in use stay.
    fn evict(&mut self) {
        if self.open.len() < OPEN_MAX {
            return;
        }
        let idle = self
            .open
            .iter()
            .filter(|(_, (file, _))| Arc::strong_count(file) == 1);
        let dirty = |segment: &SegmentId| self.dirty.contains(segment);
        let least = idle.map(|(segment, (_, used))| (dirty(segment), *used, *segment));
        if let Some((.., segment)) = least.min() {
            self.open.remove(&segment);
        }
    }
}
