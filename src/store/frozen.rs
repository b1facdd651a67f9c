//! A data folder as a [`Disk`] that is never changed: writes, cuts, renames and removals answer as if they were done and
//! are forgotten. The code that opens logs and bases runs on it unchanged, so a check judges a folder exactly as the
//! member's next start will, and leaves every byte as it was.

use crate::{Disk, DiskFile, Space, StoreError, real, sys};
use std::{
    fs::{self, File, TryLockError},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files below an existing folder, read only. Locked against a running member for as long as it is open.
#[derive(Debug)]
pub struct FrozenDisk {
    root: PathBuf,
    _lock: File,
}

impl FrozenDisk {
    /// Opens the folder; refused where it is none, cannot be read, or a member runs on it.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.display().to_string();
        let unusable = |why: String| StoreError::NotUsable {
            path: path.clone(),
            why,
        };
        if !root.is_dir() {
            return Err(unusable("there is no such folder".into()));
        }
        let lock =
            File::open(root).map_err(|error| unusable(format!("cannot read it: {error}")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
            Err(TryLockError::Error(error)) => Err(unusable(format!("cannot lock it: {error}"))),
        }
    }
}

impl Disk for FrozenDisk {
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        match File::open(real::below(&self.root, path)?) {
            Ok(file) => Ok(Arc::new(FrozenFile(Some(file)))),
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                Ok(Arc::new(FrozenFile(None)))
            }
            Err(error) => Err(error),
        }
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        fs::exists(real::below(&self.root, path)?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        match real::names(&real::below(&self.root, dir)?) {
            // Whoever opens a folder made it first, as far as it knows.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    fn create_dir_all(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove_file(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        sys::space(&self.root)
    }

    fn locate(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }
}

/// An existing file, or one that was made and is forgotten.
#[derive(Debug)]
struct FrozenFile(Option<File>);

impl DiskFile for FrozenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0
            .as_ref()
            .map_or(Ok(0), |file| real::read_at(file, buf, offset))
    }

    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0
            .as_ref()
            .map_or(Ok(0), |file| Ok(file.metadata()?.len()))
    }
}
