//! The machine's file system as a [`Disk`]. One process at a time holds a root: a second one is refused.

use crate::{Disk, DiskFile, Space, StoreError, sys};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, IoSlice},
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Files below a folder of this machine.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// Holds the lock for as long as the disk is open.
    _lock: File,
}

impl RealDisk {
    /// Opens (or makes) the folder and locks it against other processes.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.display().to_string();
        let unusable = |why: String| StoreError::NotUsable {
            path: path.clone(),
            why,
        };
        if let Err(error) = fs::create_dir_all(root) {
            return Err(match error.kind() {
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                    unusable("it is not a folder".into())
                }
                _ => unusable(format!("cannot make it: {error}")),
            });
        }
        let lock =
            File::open(root).map_err(|error| unusable(format!("cannot read it: {error}")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path }),
            Err(TryLockError::Error(error)) => {
                return Err(unusable(format!("cannot lock it: {error}")));
            }
        }
        let disk = Self {
            root: root.to_owned(),
            _lock: lock,
        };
        disk.probe()
            .map_err(|error| unusable(format!("cannot write in it: {error}")))?;
        Ok(disk)
    }

    /// Finds out at start, not at the first write, that the folder cannot be written.
    fn probe(&self) -> io::Result<()> {
        let path = self.root.join(".probe");
        File::create(&path)?;
        fs::remove_file(path)
    }

    fn path(&self, path: &str) -> io::Result<PathBuf> {
        below(&self.root, path)
    }
}

/// A relative path below `root`; refused if it leaves it.
pub(crate) fn below(root: &Path, path: &str) -> io::Result<PathBuf> {
    let path = Path::new(path);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(root.join(path));
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        "path leaves the data folder",
    ))
}

/// Names in a folder, sorted.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        // Names that are not UTF-8 are none of ours.
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Fills `buf` from `offset`; fewer bytes only at the file's end.
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Makes the names in a folder durable.
fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_path)
}

impl Disk for RealDisk {
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(self.path(path)?)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        fs::exists(self.path(path)?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        names(&self.path(dir)?)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        let mut path = self.root.clone();
        for part in self
            .path(dir)?
            .strip_prefix(&self.root)
            .map_err(io::Error::other)?
            .components()
        {
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => sync_parent(&path)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        fs::rename(&from, &to)?;
        sync_parent(&to)?;
        if from.parent() == to.parent() {
            Ok(())
        } else {
            sync_parent(&from)
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_path(&self.path(dir)?)
    }

    fn space(&self) -> io::Result<Space> {
        sys::space(&self.root)
    }

    fn locate(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.0, buf, offset)
    }

    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        // Ends with the file, or with an error where a page is missing.
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            match sys::read_cached(&self.0, &mut bytes, len, at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        Some(bytes)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if let [part] = parts {
            return self.0.write_all_at(part, offset);
        }
        let mut parts = parts.to_vec();
        let mut rest = parts.as_mut_slice();
        let mut offset = offset;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match sys::pwritev(&self.0, rest, offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(wrote) => {
                    offset += wrote as u64;
                    IoSlice::advance_slices(&mut rest, wrote);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match sys::fallocate(&self.0, len) {
            // Not every file system reserves; then it is only made long enough.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                if self.len()? < len {
                    self.set_len(len)
                } else {
                    Ok(())
                }
            }
            other => other,
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
