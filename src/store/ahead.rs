//! Log files made before they are needed: preallocated, with a durable header and a durable name. Dropped files are
//! kept as spares and renamed, because writing into blocks that exist syncs faster than into fresh ones.

use crate::{Disk, DiskFile, Result, StoreError, disk::write_bytes, entry::encode_file_header};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Path of a log file.
pub(crate) fn file_path(dir: &str, number: u32) -> String {
    format!("{dir}/{number:08}.log")
}

/// Number of the log or spare file of this name.
pub(crate) fn file_number(name: &str, suffix: &str) -> Option<u32> {
    name.strip_suffix(suffix)?.parse().ok()
}

/// The supply of fresh files.
pub(crate) struct Ahead {
    pub disk: Arc<dyn Disk>,
    pub dir: String,
    pub file_bytes: u64,
    pub salt: u64,
    pub spares_max: usize,
    /// Highest number that has a file.
    pub last: u32,
    /// File `last`, waiting for its first entry.
    pub ready: Option<Arc<dyn DiskFile>>,
    /// Paths of files to reuse.
    pub spares: Vec<String>,
    /// Bytes of the disk that `ready` and `spares` hold already; readable without the lock.
    pub stock: Arc<AtomicU64>,
}

impl Ahead {
    /// The next file and its number.
    pub fn take(&mut self) -> Result<(u32, Arc<dyn DiskFile>)> {
        self.prepare()?;
        let file = self
            .ready
            .take()
            .ok_or_else(|| StoreError::Poisoned("no fresh log file".into()))?;
        self.count_stock(0);
        Ok((self.last, file))
    }

    /// States what is in stock, `making` files that are about to be included.
    pub fn count_stock(&self, making: usize) {
        let files = self.spares.len() + usize::from(self.ready.is_some()) + making;
        self.stock
            .store(files as u64 * self.file_bytes, Ordering::Release);
    }

    /// Makes the next file unless it is there.
    pub fn prepare(&mut self) -> Result<()> {
        if self.ready.is_some() {
            return Ok(());
        }
        let number = self.last + 1;
        let path = file_path(&self.dir, number);
        // Before it takes room, so that nobody sees the room gone and nothing in stock for it.
        self.count_stock(usize::from(self.spares.is_empty()));
        match self.make(number, &path) {
            Ok(file) => {
                self.last = number;
                self.ready = Some(file);
                self.count_stock(0);
                Ok(())
            }
            Err(error) => {
                // What is left of it would only hold space; opening the log removes it if this cannot.
                self.disk.remove_file(&path).ok();
                self.count_stock(0);
                Err(StoreError::io("make", self.disk.locate(&path), error))
            }
        }
    }

    fn make(&mut self, number: u32, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(spare) = self.spares.pop() {
            self.disk.rename(&spare, path)?;
        }
        let file = self.disk.open_file(path, true)?;
        file.allocate(self.file_bytes)?;
        write_bytes(&*file, 0, &encode_file_header(number, self.salt))?;
        file.sync()?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Takes a file that holds nothing of interest any more.
    pub fn recycle(&mut self, number: u32) -> io::Result<()> {
        let path = file_path(&self.dir, number);
        if self.spares.len() < self.spares_max {
            let spare = format!("{}/{number:08}.spare", self.dir);
            self.disk.rename(&path, &spare)?;
            self.spares.push(spare);
            self.count_stock(0);
            return Ok(());
        }
        self.remove(number)
    }

    /// Removes a file, durably, so that files go in order.
    pub fn remove(&mut self, number: u32) -> io::Result<()> {
        self.disk.remove_file(&file_path(&self.dir, number))?;
        self.disk.sync_dir(&self.dir)
    }
}
