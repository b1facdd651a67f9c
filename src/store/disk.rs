//! The disk seam: files below one root, named by relative paths with `/` between parts.
//!
//! Durability is POSIX's, read strictly: bytes and length survive a power cut after [`DiskFile::sync`], a new or
//! removed name after [`Disk::sync_dir`]; [`Disk::rename`] and [`Disk::create_dir_all`] are durable when they return.
//! All methods block for as long as the disk takes; none allocates a thread.

use bytes::Bytes;
use std::{
    io::{self, IoSlice},
    sync::Arc,
};

/// Bytes of the file system below a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

/// A folder to keep files in.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing; `create` makes an empty one where there is none.
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// Names of the files and folders directly in `dir`, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a folder and its parents, durable when it returns.
    fn create_dir_all(&self, dir: &str) -> io::Result<()>;
    /// Removes a file; who holds it open keeps reading it.
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Gives a file another name, over what was there, atomically and durable when it returns.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    fn space(&self) -> io::Result<Space>;
    /// The path as a person finds it, for messages.
    fn locate(&self, path: &str) -> String;
}

/// An open file. Positions are absolute; there is no cursor.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes; fewer only at the file's end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`DiskFile::read_at`], if all of it is in memory; never waits for the disk.
    fn read_cached(&self, _offset: u64, _len: usize) -> Option<Vec<u8>> {
        None
    }
    /// Writes all parts, one behind the other.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Reserves space for `len` bytes and makes the file at least that long; new bytes are zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or grows the file; new bytes are zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads `len` bytes, or fewer where the file ends before.
pub(crate) fn read_bytes(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut out = vec![0; len];
    let got = file.read_at(&mut out, offset)?;
    out.truncate(got);
    Ok(out.into())
}

/// Writes one slice.
pub(crate) fn write_bytes(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(&[IoSlice::new(bytes)], offset)
}

/// Puts `bytes` in place of the file at `path`, all or nothing also through a power cut (fault S13).
pub(crate) fn replace_file(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let file = disk.open_file(&temporary, true)?;
    file.set_len(0)?;
    write_bytes(&*file, 0, bytes)?;
    file.sync()?;
    disk.rename(&temporary, path)
}
