//! A disk over another one that leaves a mark on it once a sync has failed: what was written before may be lost, though the
//! page cache shows it until the kernel lets go of it.
//!
//! The mark is an empty file. Nobody syncs it: it is for whoever starts on the same boot, to whom a name in memory is as
//! good; after another boot everything that was not synced is doubted anyway. It is made as well as the disk lets.

use crate::{Disk, DiskFile, Space};
use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Path of the mark.
pub(crate) const MARK: &str = "sync-failed";

/// The mark of one data folder, as one life makes it.
pub(crate) struct Mark {
    disk: Arc<dyn Disk>,
    made: AtomicBool,
}

impl Mark {
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        let made = AtomicBool::new(false);
        Arc::new(Self { disk, made })
    }

    /// Makes the mark, once in a life.
    pub fn make(&self) {
        if self.made.swap(true, Ordering::AcqRel) {
            return;
        }
        let path = self.disk.locate(MARK);
        match self.disk.open_file(MARK, true) {
            Ok(_) => {
                tracing::error!(%path, "a sync failed: what was not on disk before is in doubt")
            }
            Err(error) => {
                tracing::error!(%path, %error, "a sync failed, and that cannot be noted: empty the data folder before the member is started by hand");
            }
        }
    }

    /// What an earlier life has marked is made good. A mark of this life stays.
    pub fn remove(&self) -> io::Result<()> {
        if self.made.load(Ordering::Acquire) || !self.disk.exists(MARK)? {
            return Ok(());
        }
        self.disk.remove_file(MARK)
    }
}

/// The disk.
pub(crate) struct MarkedDisk {
    pub inner: Arc<dyn Disk>,
    pub mark: Arc<Mark>,
}

fn noted<T>(mark: &Mark, result: io::Result<T>) -> io::Result<T> {
    result.inspect_err(|_| mark.make())
}

impl Disk for MarkedDisk {
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(MarkedFile {
            inner: self.inner.open_file(path, create)?,
            mark: self.mark.clone(),
        }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        noted(&self.mark, self.inner.sync_dir(dir))
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn locate(&self, path: &str) -> String {
        self.inner.locate(path)
    }
}

struct MarkedFile {
    inner: Arc<dyn DiskFile>,
    mark: Arc<Mark>,
}

impl DiskFile for MarkedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        self.inner.read_cached(offset, len)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        noted(&self.mark, self.inner.sync())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn is_empty(&self) -> io::Result<bool> {
        self.inner.is_empty()
    }
}
