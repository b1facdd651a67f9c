//! A disk that fails on demand, over another one: for tests on running members. It adds failures and changes nothing else.

use crate::{Disk, DiskFile, Space};
use std::{
    io::{self, IoSlice},
    sync::Arc,
    thread,
    time::Duration,
};

/// How a faulty disk fails now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaults {
    /// There is no room: nothing grows (ENOSPC). What was reserved before can be written.
    pub full: bool,
    /// Bases cannot be read (EIO).
    pub unreadable: bool,
    /// Nothing can be written or synced any more (EIO).
    pub broken: bool,
    /// Every sync takes this much longer.
    pub slow: Duration,
}

/// Asked before each operation.
pub type ChooseFaults = Arc<dyn Fn() -> DiskFaults + Send + Sync>;

/// The disk.
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    faults: ChooseFaults,
}

impl FaultyDisk {
    pub fn new(inner: Arc<dyn Disk>, faults: ChooseFaults) -> Self {
        Self { inner, faults }
    }
}

fn no_room() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Disk for FaultyDisk {
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        if create && (self.faults)().full && !self.inner.exists(path)? {
            return Err(no_room());
        }
        Ok(Arc::new(FaultyFile {
            inner: self.inner.open_file(path, create)?,
            faults: self.faults.clone(),
            is_base: path.starts_with(crate::Folder::BASE),
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
        if (self.faults)().broken {
            return Err(broken());
        }
        self.inner.sync_dir(dir)
    }

    fn space(&self) -> io::Result<Space> {
        let space = self.inner.space()?;
        let full = (self.faults)().full;
        Ok(Space {
            free: if full { 0 } else { space.free },
            ..space
        })
    }

    fn locate(&self, path: &str) -> String {
        self.inner.locate(path)
    }
}

struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    faults: ChooseFaults,
    is_base: bool,
}

impl FaultyFile {
    /// Refuses all on a broken disk, and to grow to `len` on a full one.
    fn admit(&self, len: u64) -> io::Result<()> {
        let faults = (self.faults)();
        if faults.broken {
            return Err(broken());
        }
        if faults.full && len > self.inner.len()? {
            return Err(no_room());
        }
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_base && (self.faults)().unreadable {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.inner.read_at(buf, offset)
    }

    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        if self.is_base && (self.faults)().unreadable {
            return None;
        }
        self.inner.read_cached(offset, len)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.admit(offset + bytes as u64)?;
        self.inner.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let DiskFaults { slow, broken, .. } = (self.faults)();
        if broken {
            return Err(self::broken());
        }
        if !slow.is_zero() {
            thread::sleep(slow);
        }
        self.inner.sync()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.admit(len)?;
        self.inner.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.admit(len)?;
        self.inner.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemDisk;
    use std::sync::{Mutex, PoisonError};

    #[test]
    fn a_full_disk_refuses_growth_and_an_unreadable_one_reads() {
        let now = Arc::new(Mutex::new(DiskFaults::default()));
        let set = |faults| *now.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        let asked = now.clone();
        let disk = FaultyDisk::new(
            MemDisk::new(1).attach(),
            Arc::new(move || *asked.lock().unwrap_or_else(PoisonError::into_inner)),
        );
        disk.create_dir_all("base").expect("a folder");
        let file = disk.open_file("base/a", true).expect("a file");
        let write = |offset| file.write_at(&[IoSlice::new(b"four")], offset);
        write(0).expect("there is room");
        set(DiskFaults {
            full: true,
            ..DiskFaults::default()
        });
        let code = |error: io::Error| error.raw_os_error();
        assert_eq!(write(2).map_err(code), Err(Some(libc::ENOSPC)));
        write(0).expect("what is there can be written");
        assert_eq!(
            disk.open_file("base/b", true).err().and_then(code),
            Some(libc::ENOSPC)
        );
        assert_eq!(disk.space().expect("space").free, 0);
        set(DiskFaults {
            unreadable: true,
            ..DiskFaults::default()
        });
        assert_eq!(
            file.read_at(&mut [0; 4], 0).map_err(code),
            Err(Some(libc::EIO))
        );
        set(DiskFaults {
            broken: true,
            ..DiskFaults::default()
        });
        assert_eq!(write(0).map_err(code), Err(Some(libc::EIO)));
        assert_eq!(file.sync().map_err(code), Err(Some(libc::EIO)));
        set(DiskFaults::default());
        assert_eq!(file.read_at(&mut [0; 9], 0).expect("it reads again"), 4);
    }
}
