//! The group's log as openraft drives it, on the store's write-ahead log.
//!
//! An append returns when the entries can be read; its callback comes when they are on disk. Several syncs may be under way,
//! each covers all that was appended before it, and appends that wait together share one (group commit). Nothing in the file is
//! changed: what another leader overwrote or a snapshot covers is voided by a record, and whole files are dropped later.

use crate::{
    error::Error,
    index::Index,
    raft::{Entry, LogId, Types, Vote},
    record,
    wire::{APPEND_BYTES_MAX, command_bytes},
};
use hydfs_store::{Disk, Log, LogOptions, Position, StoreError, SyncMode, blocking};
use hydfs_types::LogIndex;
use openraft::{
    LogState, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How long an append waits for space on a full disk before the group stops here. Meanwhile others take over.
const FULL_DISK_DEADLINE: Duration = Duration::from_secs(60);
const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);

/// The log of one member. Clones share it; openraft reads through some and writes through one.
#[derive(Clone)]
pub struct Storage {
    shared: Arc<Shared>,
}

struct Shared {
    log: Log,
    threads: bool,
    index: Mutex<Index>,
}

impl Storage {
    /// Opens or begins the log in `dir`.
    pub fn open(disk: Arc<dyn Disk>, dir: &str, options: LogOptions) -> Result<Self, Error> {
        let mut index = Index::default();
        let mut wrong = None;
        let visit = |at, kind, payload| {
            record::replay(&mut index, at, kind, payload).map_err(|error| {
                let why = error.to_string();
                wrong = Some(error);
                StoreError::Malformed {
                    what: format!("a record at {at}"),
                    why,
                }
            })
        };
        let opened = blocking(|| Log::open(disk, dir, options, visit));
        if let Some(error) = wrong {
            return Err(error);
        }
        let wanted = index.purged.map_or(0, |id| id.index + 1);
        let first = index
            .range(0..u64::MAX)
            .next()
            .map_or(wanted, |slot| slot.id.index);
        if first > wanted {
            return Err(Error::Hole {
                from: LogIndex(wanted),
                to: LogIndex(first - 1),
            });
        }
        // The mark was written after its entries; where a cut took them, it says no more than what is left.
        index.committed = index.committed.filter(|id| Some(*id) <= index.last());
        let threads = options.sync == SyncMode::Thread;
        Ok(Self {
            shared: Arc::new(Shared {
                log: opened?,
                threads,
                index: Mutex::new(index),
            }),
        })
    }

    /// How many entries the log has, and the last one that it dropped (0: none).
    pub fn extent(&self) -> (u64, u64) {
        let index = self.index();
        let purged = index.purged.map_or(0, |id| id.index);
        (index.range(0..u64::MAX).count() as u64, purged)
    }

    /// The last entry in the log, or the last that it dropped.
    pub fn last(&self) -> LogIndex {
        LogIndex(self.index().last().map_or(0, |id| id.index))
    }

    /// Makes everything written so far durable.
    pub async fn sync(&self) -> Result<(), Error> {
        Ok(self.shared.log.sync().await?)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.shared
            .index
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record, again and again while the disk is full.
    async fn write(
        &self,
        mut record: impl FnMut(&Log) -> Result<Position, StoreError>,
    ) -> Result<Position, Error> {
        let deadline = Instant::now() + FULL_DISK_DEADLINE;
        loop {
            match record(&self.shared.log) {
                Err(error) if error.is_no_space() && Instant::now() < deadline => {
                    tracing::warn!(%error, "the agreement log waits for space");
                    sleep(FULL_DISK_PAUSE).await;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Entries of the range, as many as fit into `bytes` (at least one).
    fn read(&self, range: Range<u64>, bytes: usize) -> Result<Vec<Entry>, Error> {
        let mut found: Vec<(Position, Option<Entry>)> = Vec::new();
        let mut sum = 0;
        for slot in self.index().range(range) {
            sum += slot.entry.as_ref().map_or(0, command_bytes);
            if sum > bytes && !found.is_empty() {
                break;
            }
            found.push((slot.at, slot.entry.clone()));
        }
        let mut entries = Vec::with_capacity(found.len());
        let mut sum = 0;
        for (at, entry) in found {
            let entry = match entry {
                Some(entry) => entry,
                None => {
                    let (kind, payload) = self.shared.log.read(at)?;
                    record::read_entry(kind, payload)?
                }
            };
            sum += command_bytes(&entry);
            if sum > bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Lets go of files whose entries a snapshot covers, once the record that says so is durable.
    async fn drop_files(&self, marked: Position) -> Result<(), Error> {
        self.shared.log.sync().await?;
        let keep = self
            .index()
            .first_at()
            .map_or(marked, |first| first.min(marked));
        if !self.shared.threads {
            return Ok(self.shared.log.drop_before(keep)?);
        }
        let shared = self.shared.clone();
        let dropped = tokio::task::spawn_blocking(move || shared.log.drop_before(keep)).await;
        Ok(dropped.unwrap_or_else(|error| Err(StoreError::Poisoned(error.to_string())))?)
    }
}

impl RaftLogReader<Types> for Storage {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(bounds(&range), usize::MAX)?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start..end, APPEND_BYTES_MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.index().vote)
    }
}

impl RaftLogStorage<Types> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let index = self.index();
        Ok(LogState {
            last_purged_log_id: index.purged,
            last_log_id: index.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write(|log| record::write_vote(log, *vote)).await?;
        self.sync().await?;
        self.index().vote = Some(*vote);
        Ok(())
    }

    /// Only remembered: it is written with the next entries, so that it costs no record of its own while nothing happens.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.index().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.index().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        for entry in entries {
            let at = self.write(|log| record::write_entry(log, &entry)).await?;
            self.index().push(entry, at);
        }
        let news = {
            let mut index = self.index();
            let known = index.committed;
            if index.committed_written == known {
                None
            } else {
                index.committed_written = known;
                known
            }
        };
        if let Some(committed) = news {
            self.write(|log| record::write_committed(log, committed))
                .await?;
        }
        // Asked for here: it covers exactly what is written now.
        let synced = self.shared.log.sync();
        tokio::spawn(async move {
            callback.io_completed(synced.await.map_err(|error| Error::from(error).into()))
        });
        Ok(())
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> Result<(), io::Error> {
        // Not synced: if the record is lost with the power, so is all that was appended behind it, and nobody was told of that.
        self.write(|log| record::write_truncated(log, keep)).await?;
        self.index().truncate_after(keep);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let (vote, committed) = {
            let mut index = self.index();
            index.purge(upto);
            (index.vote, index.committed)
        };
        // What must outlive the dropped files is written again behind them.
        let marked = self.write(|log| record::write_purged(log, upto)).await?;
        if let Some(vote) = vote {
            self.write(|log| record::write_vote(log, vote)).await?;
        }
        if let Some(committed) = committed {
            self.write(|log| record::write_committed(log, committed))
                .await?;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.drop_files(marked).await {
                // The next purge tries again; a broken disk is met, and reported, by the next append.
                tracing::warn!(%error, "old agreement log files stay");
            }
        });
        Ok(())
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(at) => at + 1,
        Bound::Excluded(at) => *at,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}
