//! How much room the state of a task has: memory, which the tasks of a member share, and a scratch file for what does not
//! fit there. The file has no name, so whatever ends the task, or the process, removes it; nothing in it is ever trusted again.

use crate::cold::Cold;
use crate::error::{Error, Result};
use crate::options::Options;
use rustix::fs::{MemfdFlags, fstatvfs, memfd_create};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Below the folder of executables.
const FOLDER: &str = "state";
/// Of each part's memory this share is the cache of its file.
const CACHE_SHARE: usize = 4;
/// How much is left of the disk is asked each time that the files have grown by so much.
const ASK_BYTES: u64 = 8 << 20;

/// What all tasks of a member share.
#[derive(Debug)]
pub struct Rooms {
    dir: PathBuf,
    in_memory: bool,
    task_memory: usize,
    all_memory: usize,
    disk: u64,
    reserve: u64,
    tasks: AtomicUsize,
}

impl Rooms {
    /// As a member's options say.
    pub fn new(options: &Options) -> Arc<Self> {
        Arc::new(Self {
            dir: options.cache_dir.join(FOLDER),
            in_memory: options.scratch_in_memory,
            task_memory: options.state_memory_bytes,
            all_memory: options.member_state_memory_bytes,
            disk: options.state_disk_bytes,
            reserve: options.state_disk_reserve_bytes,
            tasks: AtomicUsize::new(0),
        })
    }

    /// The room of one more task.
    pub fn room(self: &Arc<Self>) -> Room {
        self.tasks.fetch_add(1, Ordering::Relaxed);
        let task = Task {
            rooms: self.clone(),
            grown: AtomicU64::new(0),
            trouble: Mutex::new(None),
        };
        Room {
            task: Arc::new(task),
            part: (1, 1),
        }
    }
}

#[derive(Debug)]
struct Task {
    rooms: Arc<Rooms>,
    /// Bytes of its files.
    grown: AtomicU64,
    /// Why a file cannot grow.
    trouble: Mutex<Option<String>>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.rooms.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The room of one task, or a part of it.
#[derive(Debug, Clone)]
pub struct Room {
    task: Arc<Task>,
    /// So many parts of so many.
    part: (usize, usize),
}

impl Room {
    /// A part of it.
    pub fn part(&self, parts: usize, of: usize) -> Self {
        Self {
            task: self.task.clone(),
            part: (self.part.0 * parts, self.part.1 * of),
        }
    }

    /// Most bytes of memory. Less once the member has more tasks with state.
    pub fn memory_bytes(&self) -> usize {
        let whole = self.whole();
        whole - whole / CACHE_SHARE
    }

    fn whole(&self) -> usize {
        let rooms = &self.task.rooms;
        let tasks = rooms.tasks.load(Ordering::Relaxed).max(1);
        let memory = rooms.task_memory.min(rooms.all_memory / tasks);
        memory / self.part.1 * self.part.0
    }

    /// Bytes of all files of the task.
    pub fn disk_bytes(&self) -> u64 {
        self.task.grown.load(Ordering::Relaxed)
    }

    /// A new file for what does not fit into memory. Blocks.
    pub fn open(&self) -> Result<Cold> {
        let Rooms { dir, in_memory, .. } = &*self.task.rooms;
        let open = || {
            if *in_memory {
                return Ok(memfd_create("state", MemfdFlags::CLOEXEC)?.into());
            }
            if !dir.is_dir() {
                fs::create_dir_all(dir)?;
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            }
            tempfile::tempfile_in(dir)
        };
        let file = open().map_err(|error| self.error(&error))?;
        let scratch = Scratch {
            file,
            room: self.clone(),
            end: AtomicU64::new(0),
        };
        Cold::create(scratch, self.whole() / CACHE_SHARE, self.clone())
    }

    /// What `error`, of a file, means for the task.
    pub fn error(&self, error: &dyn std::error::Error) -> Error {
        let trouble = &self.task.trouble;
        let trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match &*trouble {
            Some(why) => Error::Job(why.clone()),
            None => Error::Attempt(format!(
                "state that is on disk, in {}: {error}",
                self.task.rooms.dir.display()
            )),
        }
    }

    fn refuse(&self, why: String) -> io::Error {
        let trouble = &self.task.trouble;
        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert(why);
        io::Error::from(io::ErrorKind::StorageFull)
    }

    fn no_space(&self, left: &str) -> io::Error {
        let rooms = &self.task.rooms;
        let what = format!("no space for the state of a task: {left}");
        let remedy = "free some, or give the stage more `tasks` and the cluster more members; then save the spec again to go on";
        self.refuse(format!("{what} in {}; {remedy}", rooms.dir.display()))
    }

    /// Asks for `more` bytes of disk.
    fn grow(&self, file: &File, more: u64) -> io::Result<()> {
        let rooms = &self.task.rooms;
        let before = self.disk_bytes();
        let after = before + more;
        if after > rooms.disk {
            let limit = rooms.disk;
            let what =
                format!("one task has more than {limit} bytes of state on its member's disk");
            let remedy = "give the stage more `tasks`; then save the spec again to go on";
            return Err(self.refuse(format!("{what}; {remedy}")));
        }
        let asks = before == 0 || before / ASK_BYTES != after / ASK_BYTES;
        if asks && !rooms.in_memory {
            let (disk, reserve) = (fstatvfs(file)?, rooms.reserve);
            let left = disk.f_bavail.saturating_mul(disk.f_frsize);
            if left < reserve.saturating_add(more) {
                let left = format!("{left} bytes are left, and {reserve} are kept free,");
                return Err(self.no_space(&left));
            }
        }
        self.task.grown.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }
}

/// A file without a name, as the store of cold state wants it.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    room: Room,
    /// Bytes behind which nothing was written.
    end: AtomicU64,
}

impl redb::StorageBackend for Scratch {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Takes no room yet.
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Nothing is read after a crash.
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let before = self.end.fetch_max(end, Ordering::Relaxed);
        if end > before
            && let Err(error) = self.room.grow(&self.file, end - before)
        {
            // The store may try the same again.
            self.end.store(before, Ordering::Relaxed);
            return Err(error);
        }
        match self.file.write_all_at(data, offset) {
            Err(error) if is_full(&error) => Err(self.room.no_space(&format!("{error},"))),
            done => done,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let end = self.end.load(Ordering::Relaxed);
        self.room.task.grown.fetch_sub(end, Ordering::Relaxed);
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Removes what a crash between two system calls may have left.
pub fn sweep(cache_dir: &Path) {
    let left = fs::read_dir(cache_dir.join(FOLDER)).into_iter().flatten();
    for entry in left.flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a scratch file of state stays");
        }
    }
}

#[cfg(test)]
impl Room {
    /// Memory without end.
    pub fn vast() -> Self {
        Self::of(usize::MAX, u64::MAX, 0)
    }

    /// So much memory and disk.
    pub fn of(memory: usize, disk: u64, reserve: u64) -> Self {
        let rooms = Rooms {
            dir: std::env::temp_dir().join("rainstorm-state"),
            in_memory: false,
            task_memory: memory,
            all_memory: usize::MAX,
            disk,
            reserve,
            tasks: AtomicUsize::new(0),
        };
        Arc::new(rooms).room()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::StorageBackend;

    #[test]
    fn tasks_share_the_memory_of_their_member() {
        let mut options = Options::new("/nowhere");
        options.state_memory_bytes = 400;
        options.member_state_memory_bytes = 800;
        let rooms = Rooms::new(&options);
        let first = rooms.room();
        assert_eq!(first.memory_bytes(), 300);
        assert_eq!(first.part(1, 2).memory_bytes(), 150);
        let others = [rooms.room(), rooms.room(), rooms.room()];
        assert_eq!(first.memory_bytes(), 150);
        drop(others);
        assert_eq!(first.memory_bytes(), 300);
    }

    #[test]
    fn a_full_disk_is_the_jobs_error_with_a_remedy() {
        let scratch = |path: &str, room: &Room| Scratch {
            file: fs::OpenOptions::new().write(true).open(path).unwrap(),
            room: room.clone(),
            end: AtomicU64::new(0),
        };
        let room = Room::of(0, u64::MAX, 0);
        let error = scratch("/dev/full", &room).write(0, b"x").unwrap_err();
        let error = room.error(&error);
        assert!(
            error.is_final() && error.to_string().contains("No space left"),
            "{error}"
        );
        for room in [Room::of(0, u64::MAX, u64::MAX), Room::of(0, 1000, 0)] {
            let error = scratch("/dev/null", &room).write(1000, b"x").unwrap_err();
            let error = room.error(&error);
            assert!(
                error.is_final() && error.to_string().contains("more `tasks`"),
                "{error}"
            );
        }
    }
}
