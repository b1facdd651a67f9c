//! The write-ahead log, for the agreement group's entries and for the record journal alike.
//!
//! [`Log::append`] puts an entry into the page cache: it outlives the process. [`Log::sync`] puts everything before it
//! on disk: it outlives the power. A failed sync stops the log for good, because nobody can say what it left
//! (Rebello et al., "Can Applications Recover from fsync Failures?"); opening it again finds out.
//!
//! Entries go to one file after the other, each of a fixed, preallocated size. Locks are taken in the order
//! `syncing`, `tail`, `ahead`, `files`; `tail` is held while an entry is written, so positions are the order of bytes.

use crate::{
    Disk, DiskFile, Position, Replay, Result, StoreError, SyncMode,
    ahead::{Ahead, file_path},
    commit::Committer,
    disk::read_bytes,
    entry::{
        ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, EntryHeader, FIRST_ENTRY, KIND_CALLER_MAX, KIND_END,
        KIND_MARK, LOG_FILE_BYTES, crc_parts, entry_bytes,
    },
    recovery::{Files, erase, recover},
};
use bytes::Bytes;
use std::{
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Longest wait for one sync. A disk that takes longer is as good as gone.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);

/// How a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a file in bytes. Smaller ones are for tests and simulation.
    pub file_bytes: u64,
    /// Dropped files kept for reuse.
    pub spares: usize,
    /// Drawn once for the data folder: entries of another log are none of this one.
    pub salt: u64,
    pub sync: SyncMode,
}

impl LogOptions {
    /// Production's options.
    pub fn new(salt: u64) -> Self {
        Self {
            file_bytes: LOG_FILE_BYTES,
            spares: 2,
            salt,
            sync: SyncMode::Thread,
        }
    }
}

/// Who outlives this process, and then knows how far a log went: pages that could not be written to the disk go without a
/// trace once the kernel lets go of them, and with them the end of a log.
pub trait Witness: Send + Sync {
    /// Everything before `end` is in the log. Called before [`Log::append`] returns; never waits.
    fn written(&self, end: Position);
}

/// What a log has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    pub appends: u64,
    /// Bytes of payloads.
    pub bytes: u64,
    /// Syncs of files: the group commit's cost.
    pub syncs: u64,
}

#[derive(Default)]
struct Counters {
    appends: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

/// Where entries go.
struct Tail {
    file: Arc<dyn DiskFile>,
    next: Position,
    /// End of the last entry of a caller: what a sync has to reach.
    written: Position,
    /// Files with bytes that no sync has covered, oldest first.
    unsynced: Vec<(u32, Arc<dyn DiskFile>)>,
}

/// The log as its callers and its sync thread share it.
pub(crate) struct Shared {
    options: LogOptions,
    disk: Arc<dyn Disk>,
    dir: String,
    /// One sync at a time.
    syncing: Mutex<()>,
    tail: Mutex<Tail>,
    ahead: Mutex<Ahead>,
    stock: Arc<AtomicU64>,
    files: RwLock<Files>,
    durable: AtomicU64,
    /// Why the log stopped.
    poison: OnceLock<String>,
    witness: OnceLock<Arc<dyn Witness>>,
    counters: Counters,
}

/// A segmented write-ahead log. Shared by reference; closing it waits for a running sync.
pub struct Log {
    shared: Arc<Shared>,
    committer: Option<Committer>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Opens (or begins) the log in `dir`. Shows every entry, in order, to `visit`; what was read is durable when this
    /// returns. A torn tail that was never synced is cut off, damage before it is an error.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        options: LogOptions,
        mut visit: impl FnMut(Position, u8, Bytes) -> Result<()>,
    ) -> Result<Self> {
        let mut ahead = Ahead {
            disk: Arc::clone(&disk),
            dir: dir.to_owned(),
            file_bytes: options.file_bytes,
            salt: options.salt,
            spares_max: options.spares,
            last: 0,
            ready: None,
            spares: Vec::new(),
            stock: Arc::default(),
        };
        let found = recover(&mut ahead, &mut visit)?;
        ahead.count_stock(0);
        let tail = found.tail;
        let file = Arc::clone(&found.files[&tail.file()]);
        let shared = Arc::new(Shared {
            options,
            disk,
            dir: dir.to_owned(),
            syncing: Mutex::new(()),
            tail: Mutex::new(Tail {
                file,
                next: tail,
                written: tail,
                unsynced: Vec::new(),
            }),
            stock: Arc::clone(&ahead.stock),
            ahead: Mutex::new(ahead),
            files: RwLock::new(found.files),
            durable: AtomicU64::new(tail.0),
            poison: OnceLock::new(),
            witness: OnceLock::new(),
            counters: Counters::default(),
        });
        let committer = match options.sync {
            SyncMode::Thread => Some(Committer::start(Arc::clone(&shared))?),
            SyncMode::Inline { .. } => None,
        };
        Ok(Self { shared, committer })
    }

    /// From here on `witness` knows how far the log goes. Once.
    pub fn set_witness(&self, witness: Arc<dyn Witness>) {
        let tail = lock(&self.shared.tail);
        witness.written(tail.written);
        drop(self.shared.witness.set(witness));
    }

    /// Adds an entry whose payload is all `parts` behind each other; `kind` is the caller's, 1 to 127. When it returns,
    /// the entry survives the death of this process. [`StoreError::NoSpace`] leaves everything as it was.
    pub fn append(&self, kind: u8, parts: &[&[u8]]) -> Result<Position> {
        assert!(
            (1..=KIND_CALLER_MAX).contains(&kind),
            "kind {kind} is not for callers"
        );
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let limit = ENTRY_BYTES_MAX.min(
            self.shared
                .options
                .file_bytes
                .saturating_sub(FIRST_ENTRY + 64) as usize,
        );
        if len > limit {
            return Err(StoreError::TooLarge { bytes: len, limit });
        }
        let crc = crc_parts(parts);
        let shared = &*self.shared;
        let mut tail = lock(&shared.tail);
        shared.healthy()?;
        shared.make_room(&mut tail, entry_bytes(len))?;
        let at = tail.next;
        shared.write(&mut tail, kind, crc, len, parts)?;
        tail.written = tail.next;
        shared.testify(tail.written);
        if tail
            .unsynced
            .last()
            .is_none_or(|(number, _)| *number != at.file())
        {
            let file = Arc::clone(&tail.file);
            tail.unsynced.push((at.file(), file));
        }
        drop(tail);
        shared.counters.appends.fetch_add(1, Ordering::Relaxed);
        shared
            .counters
            .bytes
            .fetch_add(len as u64, Ordering::Relaxed);
        Ok(at)
    }

    /// Completes when everything appended before this call is on disk. Callers that wait at once share one sync.
    pub fn sync(&self) -> impl Future<Output = Result<()>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        let target = lock(&shared.tail).written;
        // Asked now, not at the first poll: the promise is about what was appended before the call.
        let answer = match &self.committer {
            Some(committer) if shared.durable() < target => Some(committer.ask()),
            _ => None,
        };
        async move {
            shared.healthy()?;
            if shared.durable() >= target {
                return Ok(());
            }
            let syncing = async {
                match answer {
                    Some(answer) => answer?.await.unwrap_or_else(|_| {
                        Err(StoreError::Poisoned("the sync thread ended".into()))
                    }),
                    None => shared.sync_inline(target).await,
                }
            };
            match tokio::time::timeout(SYNC_DEADLINE, syncing).await {
                Ok(result) => result,
                Err(_) => Err(shared.hung()),
            }
        }
    }

    /// Everything before this position is on disk.
    pub fn durable(&self) -> Position {
        self.shared.durable()
    }

    /// Where the next entry goes.
    pub fn tail(&self) -> Position {
        lock(&self.shared.tail).next
    }

    /// The oldest position still held.
    pub fn first(&self) -> Position {
        let files = self
            .shared
            .files
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        files
            .first_key_value()
            .map_or(Position::default(), |(&number, _)| {
                Position::new(number, FIRST_ENTRY)
            })
    }

    /// Kind and payload of the entry at `at`, checked.
    pub fn read(&self, at: Position) -> Result<(u8, Bytes)> {
        self.read_sized(at, ENTRY_HEADER_BYTES + 4096)
    }

    /// As [`Log::read`], in one read of the disk if the payload has at most `guess` bytes.
    pub fn read_sized(&self, at: Position, guess: usize) -> Result<(u8, Bytes)> {
        self.shared.read(at, guess)
    }

    /// All entries from `from` (or from the first one still held) up to now.
    pub fn replay(&self, from: Position) -> Replay {
        let shared = Arc::clone(&self.shared);
        let tail = lock(&shared.tail).next;
        let files = shared
            .files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let salt = shared.options.salt;
        Replay::new(
            files,
            salt,
            from,
            tail,
            Box::new(move |number| shared.locate(number)),
        )
    }

    /// Lets go of whole files that end before `keep`. Entries from `keep` on stay.
    pub fn drop_before(&self, keep: Position) -> Result<()> {
        let shared = &*self.shared;
        shared.healthy()?;
        let _syncing = lock(&shared.syncing);
        let mut tail = lock(&shared.tail);
        let end = keep.file().min(tail.next.file());
        tail.unsynced.retain(|(number, _)| *number >= end);
        drop(tail);
        let mut ahead = lock(&shared.ahead);
        loop {
            let first = self.first().file();
            if first >= end {
                return Ok(());
            }
            // Oldest first and each durable, so that what a power cut leaves has no gap.
            ahead
                .recycle(first)
                .map_err(|error| StoreError::io("drop", shared.locate(first), error))?;
            shared
                .files
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&first);
        }
    }

    /// Removes the entry at `from` and all after it, durably. What came before is durable too when this returns.
    pub fn truncate_from(&self, from: Position) -> Result<()> {
        let shared = &*self.shared;
        shared.healthy()?;
        let _syncing = lock(&shared.syncing);
        let mut tail = lock(&shared.tail);
        if from >= tail.next {
            return Ok(());
        }
        if from < self.first() {
            return Err(StoreError::Dropped(from));
        }
        shared
            .truncate(&mut tail, from)
            .map_err(|error| shared.stop("cut", from.file(), error))
    }

    /// Keeps the entry at `kept` and removes all after it, durably.
    pub fn truncate_after(&self, kept: Position) -> Result<()> {
        let (_, payload) = self.read(kept)?;
        self.truncate_from(Position(kept.0 + entry_bytes(payload.len())))
    }

    /// Bytes of the disk that files for later entries hold already.
    pub fn stock_bytes(&self) -> u64 {
        self.shared.stock.load(Ordering::Acquire)
    }

    /// Why the log takes nothing any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.poison.get().cloned()
    }

    /// What the log has done since it was opened.
    pub fn stats(&self) -> LogStats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            appends: get(&counters.appends),
            bytes: get(&counters.bytes),
            syncs: get(&counters.syncs),
        }
    }
}

impl Shared {
    fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    fn locate(&self, number: u32) -> String {
        self.disk.locate(&file_path(&self.dir, number))
    }

    pub(crate) fn location(&self) -> String {
        self.disk.locate(&self.dir)
    }

    fn healthy(&self) -> Result<()> {
        self.poison
            .get()
            .map_or(Ok(()), |why| Err(StoreError::Poisoned(why.clone())))
    }

    /// Stops the log: what the disk holds is unknown now.
    fn stop(&self, op: &'static str, number: u32, error: io::Error) -> StoreError {
        let path = self.locate(number);
        let why = self
            .poison
            .get_or_init(|| format!("cannot {op} {path}: {error}"));
        tracing::error!(%why, "log stopped");
        StoreError::Poisoned(why.clone())
    }

    /// Stops the log: nobody knows whether its sync will ever end.
    fn hung(&self) -> StoreError {
        let seconds = SYNC_DEADLINE.as_secs();
        let dir = self.location();
        let why = self
            .poison
            .get_or_init(|| format!("a sync of {dir} takes longer than {seconds} s"));
        tracing::error!(%why, "log stopped");
        StoreError::SyncTimedOut { seconds }
    }

    fn testify(&self, end: Position) {
        if let Some(witness) = self.witness.get() {
            witness.written(end);
        }
    }

    /// Moves on to the next file if `bytes` and the end entry do not fit.
    fn make_room(&self, tail: &mut Tail, bytes: u64) -> Result<()> {
        let end = entry_bytes(0);
        if tail.next.offset() + bytes + end <= self.options.file_bytes {
            return Ok(());
        }
        let mut ahead = lock(&self.ahead);
        let (number, file) = ahead.take()?;
        if let Err(error) = self.write(tail, KIND_END, 0, 0, &[]) {
            ahead.ready = Some(file);
            ahead.count_stock(0);
            return Err(error);
        }
        let ended = tail.next.file();
        if tail.unsynced.last().is_none_or(|(last, _)| *last != ended) {
            tail.unsynced.push((ended, Arc::clone(&tail.file)));
        }
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, Arc::clone(&file));
        tail.file = file;
        tail.next = Position::new(number, FIRST_ENTRY);
        Ok(())
    }

    /// Writes one entry at the tail. A full disk leaves the tail where it was; another error stops the log.
    fn write(
        &self,
        tail: &mut Tail,
        kind: u8,
        crc: u32,
        len: usize,
        parts: &[&[u8]],
    ) -> Result<()> {
        let at = tail.next;
        let header = EntryHeader {
            len: len as u32,
            crc,
            durable: self.durable(),
            kind,
        }
        .encode(at, self.options.salt);
        let mut slices = Vec::with_capacity(1 + parts.len());
        slices.push(IoSlice::new(&header));
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        if let Err(error) = tail.file.write_at(&slices, at.offset()) {
            let error = StoreError::io("write", self.locate(at.file()), error);
            return Err(match error {
                StoreError::Io { source, .. } => self.stop("write", at.file(), source),
                full => full,
            });
        }
        tail.next = Position(at.0 + entry_bytes(len));
        Ok(())
    }

    async fn sync_inline(&self, target: Position) -> Result<()> {
        if let SyncMode::Inline { delay } = self.options.sync
            && !delay.is_zero()
        {
            tokio::time::sleep(delay).await;
        }
        self.healthy()?;
        // Somebody else's sync may have covered it meanwhile.
        if self.durable() < target {
            self.sync_now()?;
            self.prepare_ahead();
        }
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub(crate) fn sync_now(&self) -> Result<()> {
        let _syncing = lock(&self.syncing);
        self.healthy()?;
        let (target, files) = {
            let mut tail = lock(&self.tail);
            (tail.written, std::mem::take(&mut tail.unsynced))
        };
        if target <= self.durable() {
            return Ok(());
        }
        for (number, file) in files {
            file.sync()
                .map_err(|error| self.stop("sync", number, error))?;
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.durable.store(target.0, Ordering::Release);
        self.mark(target);
        Ok(())
    }

    /// Notes on an idle log what is durable, so that later damage is not taken for a torn tail. A busy log says so with its
    /// next entry. Only a hint: if it cannot be written, or is lost with the power, nothing else is.
    fn mark(&self, durable: Position) {
        let mut tail = lock(&self.tail);
        let room = tail.next.offset() + 2 * entry_bytes(0) <= self.options.file_bytes;
        if tail.next == durable
            && room
            && let Err(error) = self.write(&mut tail, KIND_MARK, 0, 0, &[])
        {
            tracing::debug!(%error, "no mark after a sync");
        }
    }

    /// Makes the next file once this one is half full. A failure is met again, and reported, by the append that needs it.
    pub(crate) fn prepare_ahead(&self) {
        let offset = lock(&self.tail).next.offset();
        if offset <= self.options.file_bytes / 2 {
            return;
        }
        if let Err(error) = lock(&self.ahead).prepare() {
            tracing::debug!(%error, "next log file not ready");
        }
    }

    fn truncate(&self, tail: &mut Tail, from: Position) -> io::Result<()> {
        let mut ahead = lock(&self.ahead);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        // Newest first and each durable: what a power cut leaves is a longer log, never one with a gap.
        while ahead.last > from.file() {
            let last = ahead.last;
            ahead.ready = None;
            ahead.count_stock(0);
            ahead.remove(last)?;
            files.remove(&last);
            ahead.last = last - 1;
        }
        for (number, file) in std::mem::take(&mut tail.unsynced) {
            if number < from.file() {
                file.sync()?;
            }
        }
        let file = Arc::clone(files.get(&from.file()).ok_or(io::ErrorKind::NotFound)?);
        erase(&*file, from.offset(), self.options.file_bytes)?;
        (tail.file, tail.next, tail.written) = (file, from, from);
        self.testify(from);
        self.durable.store(from.0, Ordering::Release);
        Ok(())
    }

    fn read(&self, at: Position, guess: usize) -> Result<(u8, Bytes)> {
        let file = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(files.get(&at.file()).ok_or(StoreError::Dropped(at))?)
        };
        let failed = |error| StoreError::io("read", self.locate(at.file()), error);
        let mut bytes =
            read_bytes(&*file, at.offset(), ENTRY_HEADER_BYTES + guess).map_err(failed)?;
        let header = EntryHeader::decode(&bytes, at, self.options.salt)
            .filter(|header| header.kind <= KIND_CALLER_MAX);
        let Some(header) = header else {
            return Err(self.unreadable(at, "no entry begins here"));
        };
        let len = header.len as usize;
        if bytes.len() < ENTRY_HEADER_BYTES + len {
            bytes = read_bytes(&*file, at.offset(), ENTRY_HEADER_BYTES + len).map_err(failed)?;
        }
        if bytes.len() < ENTRY_HEADER_BYTES + len {
            return Err(self.unreadable(at, "the file ends within an entry"));
        }
        let payload = bytes.slice(ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + len);
        if crc32c::crc32c(&payload) != header.crc {
            return Err(self.unreadable(at, "the entry's checksum does not match"));
        }
        Ok((header.kind, payload))
    }

    /// Damage, unless the file was dropped (and perhaps reused) during the read.
    fn unreadable(&self, at: Position, why: &str) -> StoreError {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        if files.contains_key(&at.file()) {
            StoreError::Damaged {
                path: self.locate(at.file()),
                offset: at.offset(),
                why: why.into(),
            }
        } else {
            StoreError::Dropped(at)
        }
    }
}
