//! A disk in memory for simulation: seeded, deterministic, with power cuts, kills, errors, full disks and bit flips.
//!
//! [`MemDisk`] is the medium, which outlives the machine; [`MemDisk::attach`] is the view of one life of a process.
//! After a crash, views and files of earlier lives answer EIO, as tasks that outlived their machine deserve.

use crate::{Crash, Disk, DiskFile, Fault, Space, medium::Medium};
use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A simulated disk.
#[derive(Debug, Clone)]
pub struct MemDisk(Arc<Mutex<Medium>>);

fn lock(medium: &Mutex<Medium>) -> MutexGuard<'_, Medium> {
    medium.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemDisk {
    /// An empty disk; `seed` decides what torn power cuts leave.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Medium::new(seed))))
    }

    /// The disk as this life of a process sees it.
    pub fn attach(&self) -> Arc<dyn Disk> {
        Arc::new(View {
            medium: Arc::clone(&self.0),
            life: lock(&self.0).life,
        })
    }

    /// Ends the life that uses the disk now.
    pub fn crash(&self, how: Crash) {
        lock(&self.0).crash(how);
    }

    /// A copy of the disk as it is, for a look at what a machine would find on it. The two share nothing from then on.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(lock(&self.0).fork())))
    }

    /// After this many more changes (writes, syncs, names) every call fails, until [`MemDisk::crash`].
    pub fn stop_after(&self, changes: u64) {
        lock(&self.0).changes_left = Some(changes);
    }

    /// Changes so far.
    pub fn changes(&self) -> u64 {
        lock(&self.0).changes
    }

    /// Bytes that fit; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.0).capacity = bytes;
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        let space = lock(&self.0).space();
        space.total - space.free
    }

    /// Lets calls fail.
    pub fn inject(&self, fault: Fault) {
        lock(&self.0).faults.push(fault);
    }

    /// Ends all injected faults.
    pub fn heal(&self) {
        lock(&self.0).faults.clear();
    }

    /// Paths of the files below `dir` with their lengths in bytes, sorted.
    pub fn files(&self, dir: &str) -> Vec<(String, u64)> {
        lock(&self.0).files(dir)
    }

    /// Flips a bit of a file, as a decaying disk does.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        lock(&self.0).flip(path, offset, bit)
    }
}

#[derive(Debug)]
struct View {
    medium: Arc<Mutex<Medium>>,
    life: u64,
}

impl View {
    fn medium(&self) -> io::Result<MutexGuard<'_, Medium>> {
        alive(&self.medium, self.life)
    }
}

fn alive(medium: &Mutex<Medium>, life: u64) -> io::Result<MutexGuard<'_, Medium>> {
    let medium = lock(medium);
    if medium.life == life {
        Ok(medium)
    } else {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

impl Disk for View {
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.medium()?.open(path, create)?;
        Ok(Arc::new(MemFile {
            medium: Arc::clone(&self.medium),
            life: self.life,
            inode,
        }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.medium()?.exists(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.medium()?.list(dir)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.medium()?.create_dir_all(dir)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.medium()?.remove(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.medium()?.rename(from, to)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.medium()?.sync_dir(dir)
    }

    fn space(&self) -> io::Result<Space> {
        Ok(self.medium()?.space())
    }

    fn locate(&self, path: &str) -> String {
        format!("memory:{path}")
    }
}

#[derive(Debug)]
struct MemFile {
    medium: Arc<Mutex<Medium>>,
    life: u64,
    inode: u64,
}

impl MemFile {
    fn medium(&self) -> io::Result<MutexGuard<'_, Medium>> {
        alive(&self.medium, self.life)
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        if let Ok(mut medium) = self.medium() {
            medium.close(self.inode);
        }
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.medium()?.read(self.inode, buf, offset)
    }

    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let got = self.read_at(&mut bytes, offset).ok()?;
        bytes.truncate(got);
        Some(bytes)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.medium()?.write(self.inode, &bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.medium()?.sync(self.inode)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.medium()?.allocate(self.inode, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium()?.set_len(self.inode, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.medium()?.len(self.inode)
    }
}
