//! Snapshot files of the agreed state: `snapshot-INDEX` in the group's folder. A new one is written aside, synced and renamed, and
//! only then are older ones removed, so that the newest file is always whole (fault S13).
//!
//! A file is `head length u32 LE · CRC-32C of the head u32 LE · versioned head · state`.

use crate::{
    error::Error,
    raft::{Snapshot, SnapshotMeta},
    wire::Meta,
};
use bytes::Bytes;
use hydfs_store::{Disk, DiskFile};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Largest snapshot in bytes that is read or received.
pub const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;
const PREFIX: &str = "snapshot-";
const HEAD_BYTES_MAX: usize = 1 << 20;
const PREFIX_BYTES: usize = 8;
/// Before a snapshot is tried again for which there was no room.
const ROOM_AGAIN: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Head {
    meta: Meta,
    len: u64,
    /// CRC-32C of the state.
    crc: u32,
}

/// The folder of snapshots.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: String,
    /// File work runs on a thread for blocking calls; otherwise where it is asked for, as the simulator needs it.
    threads: bool,
    /// Index of the newest file. Held while a file is written: one at a time.
    newest: Mutex<Option<u64>>,
}

impl Snapshots {
    /// Opens the folder and clears away what an interrupted write left.
    pub fn open(disk: Arc<dyn Disk>, dir: &str, threads: bool) -> Result<Self, Error> {
        let this = Self {
            disk,
            dir: dir.to_owned(),
            threads,
            newest: Mutex::new(None),
        };
        this.disk
            .create_dir_all(dir)
            .map_err(|source| this.failed(dir, source))?;
        let names = this
            .disk
            .list(dir)
            .map_err(|source| this.failed(dir, source))?;
        let found: Vec<u64> = names
            .iter()
            .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
            .collect();
        let newest = found.iter().copied().max();
        for name in names
            .iter()
            .filter(|name| name.starts_with(PREFIX) && name.ends_with(".tmp"))
        {
            this.remove(&format!("{dir}/{name}"))?;
        }
        for old in found.into_iter().filter(|index| Some(*index) != newest) {
            this.remove(&this.path(old))?;
        }
        *this.lock() = newest;
        Ok(this)
    }

    /// The newest snapshot, if there is any.
    pub async fn load(self: &Arc<Self>) -> Result<Option<Snapshot>, Error> {
        self.blocking(|this| {
            // Under the lock: a newer file must not remove the one that is being read.
            let newest = this.lock();
            newest.map(|index| this.read(index)).transpose()
        })
        .await
    }

    /// Reads the newest snapshot whole, on this thread; the last entry that it holds, or 0.
    pub fn check(&self) -> Result<u64, Error> {
        let Some(index) = *self.lock() else {
            return Ok(0);
        };
        let snapshot = self.read(index)?;
        Ok(snapshot.meta.last_log_id.map_or(0, |id| id.index))
    }

    /// Makes this the newest snapshot, durably. One that is not newer than the newest changes nothing.
    pub async fn save(self: &Arc<Self>, meta: &SnapshotMeta, state: Bytes) -> Result<(), Error> {
        let Some(last) = meta.last_log_id else {
            return Ok(());
        };
        let meta = Meta::from(meta);
        loop {
            let (meta, state) = (meta.clone(), state.clone());
            let saved = self
                .blocking(move |this| this.replace(last.index, meta, &state))
                .await;
            match saved {
                // The group could not go on without it. Until there is room the log keeps what it would free.
                Err(Error::Disk { path, source }) if is_full(&source) => {
                    tracing::warn!(
                        path,
                        "there is no room for a snapshot of the agreed state: trying again"
                    );
                    tokio::time::sleep(ROOM_AGAIN).await;
                }
                other => return other,
            }
        }
    }

    fn replace(&self, index: u64, meta: Meta, state: &[u8]) -> Result<(), Error> {
        let mut newest = self.lock();
        if newest.is_some_and(|newest| newest >= index) {
            return Ok(());
        }
        self.write(index, meta, state)?;
        match newest.replace(index) {
            Some(old) => self.remove(&self.path(old)),
            None => Ok(()),
        }
    }

    fn read(&self, index: u64) -> Result<Snapshot, Error> {
        let path = self.path(index);
        let damaged = |why: &str| Error::Snapshot {
            path: self.disk.locate(&path),
            why: why.to_owned(),
        };
        let file = self
            .disk
            .open_file(&path, false)
            .map_err(|source| self.failed(&path, source))?;
        let read = |offset, len| {
            read_exact(&*file, offset, len).map_err(|source| self.failed(&path, source))
        };
        let prefix = read(0, PREFIX_BYTES)?;
        let word = |at: usize| {
            u32::from_le_bytes(
                prefix[at..at + 4]
                    .try_into()
                    .expect("eight bytes were read"),
            )
        };
        let (head_len, head_crc) = (word(0) as usize, word(4));
        if head_len > HEAD_BYTES_MAX {
            return Err(damaged("its head is too long"));
        }
        let head = read(PREFIX_BYTES as u64, head_len)?;
        if crc32c::crc32c(&head) != head_crc {
            return Err(damaged("the checksum of its head does not match"));
        }
        let head: Head = hydfs_types::decode(&head).map_err(|error| damaged(&error.to_string()))?;
        if head.len > SNAPSHOT_BYTES_MAX {
            return Err(damaged("it is too long"));
        }
        let state = read((PREFIX_BYTES + head_len) as u64, head.len as usize)?;
        if crc32c::crc32c(&state) != head.crc {
            return Err(damaged("its checksum does not match"));
        }
        let meta = head
            .meta
            .try_into()
            .map_err(|error: crate::wire::Malformed| damaged(&error.0))?;
        Ok(Snapshot {
            meta,
            snapshot: state.into(),
        })
    }

    fn write(&self, index: u64, meta: Meta, state: &[u8]) -> Result<(), Error> {
        let path = self.path(index);
        let temporary = format!("{path}.tmp");
        let head = hydfs_types::encode(&Head {
            meta,
            len: state.len() as u64,
            crc: crc32c::crc32c(state),
        });
        let prefix = [
            (head.len() as u32).to_le_bytes(),
            crc32c::crc32c(&head).to_le_bytes(),
        ]
        .concat();
        let write = || {
            let file = self.disk.open_file(&temporary, true)?;
            file.set_len(0)?;
            file.write_at(
                &[
                    IoSlice::new(&prefix),
                    IoSlice::new(&head),
                    IoSlice::new(state),
                ],
                0,
            )?;
            file.sync()?;
            self.disk.rename(&temporary, &path)
        };
        write().map_err(|source| {
            // A part of it must not fill what is left of the disk. The error that matters is the one above.
            drop(self.disk.remove_file(&temporary));
            self.failed(&path, source)
        })
    }

    fn remove(&self, path: &str) -> Result<(), Error> {
        self.disk
            .remove_file(path)
            .map_err(|source| self.failed(path, source))
    }

    fn path(&self, index: u64) -> String {
        format!("{}/{PREFIX}{index}", self.dir)
    }

    fn failed(&self, path: &str, source: io::Error) -> Error {
        Error::Disk {
            path: self.disk.locate(path),
            source,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if !self.threads {
            return work(self);
        }
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|error| {
            Err(Error::Disk {
                path: self.disk.locate(&self.dir),
                source: io::Error::other(error),
            })
        })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn read_exact(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    // Looked at before a buffer is made: a damaged length must not become an allocation.
    if file.len()? < offset + len as u64 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is cut short",
        ));
    }
    let mut out = vec![0; len];
    let got = file.read_at(&mut out, offset)?;
    if got < len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is cut short",
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raft::StoredMembership, wire::EntryId};
    use hydfs_store::{Crash, MemDisk};

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(EntryId { term: 1, index }.into()),
            last_membership: StoredMembership::default(),
        }
    }

    fn open(disk: &MemDisk) -> Arc<Snapshots> {
        Arc::new(Snapshots::open(disk.attach(), "raft", false).unwrap())
    }

    /// The predecessor wrote fetched replicas in place: a crash left a cut file that counted as whole.
    #[tokio::test]
    async fn fault_s13_a_crash_leaves_the_old_snapshot_or_the_new_one() {
        let (mut old_seen, mut new_seen) = (0, 0);
        for step in 0..20 {
            let disk = MemDisk::new(step);
            let snapshots = open(&disk);
            snapshots
                .save(&meta(10), Bytes::from(vec![1; 9000]))
                .await
                .unwrap();
            disk.stop_after(step);
            let saved = snapshots.save(&meta(20), Bytes::from(vec![2; 9000])).await;
            disk.crash(Crash::PowerCutTorn);
            let found = open(&disk)
                .load()
                .await
                .unwrap()
                .expect("one of them is there");
            match found.meta.last_log_id.unwrap().index {
                10 => {
                    assert!(saved.is_err(), "step {step}: a saved snapshot is gone");
                    assert_eq!(found.snapshot, vec![1; 9000]);
                    old_seen += 1;
                }
                index => {
                    assert_eq!((index, found.snapshot), (20, Bytes::from(vec![2; 9000])));
                    new_seen += 1;
                }
            }
            assert_eq!(
                disk.attach().list("raft").unwrap().len(),
                1,
                "step {step}: opening clears up"
            );
        }
        assert!(
            old_seen > 0 && new_seen > 0,
            "{old_seen} old, {new_seen} new"
        );
    }

    #[tokio::test]
    async fn damage_is_reported_and_older_ones_are_ignored() {
        let disk = MemDisk::new(1);
        let snapshots = open(&disk);
        snapshots
            .save(&meta(10), Bytes::from_static(b"state"))
            .await
            .unwrap();
        snapshots
            .save(&meta(7), Bytes::from_static(b"older"))
            .await
            .unwrap();
        assert_eq!(snapshots.load().await.unwrap().unwrap().snapshot, "state");
        for offset in 0..25 {
            disk.flip_bit("raft/snapshot-10", offset, 3).unwrap();
            assert!(snapshots.load().await.is_err(), "byte {offset}");
            disk.flip_bit("raft/snapshot-10", offset, 3).unwrap();
        }
        assert!(snapshots.load().await.is_ok());
    }
}
