//! What bases do about syncs: before which end nothing is durable, and what becomes of those that hang.
#![allow(clippy::unwrap_used)]

use hydfs_store::{
    Bases, Crash, Disk, DiskFile, DiskOp, Fault, MemDisk, Space, StoreError, SyncMode,
};
use hydfs_types::SegmentId;
use std::{
    io,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

const SEGMENT: SegmentId = SegmentId(0x1234);
const FILE: &str = "base/34/0000000000001234";
const INLINE: SyncMode = SyncMode::Inline {
    delay: Duration::ZERO,
};

fn open(disk: &MemDisk) -> Bases {
    Bases::open(disk.attach(), "base", INLINE).unwrap()
}

#[test]
fn a_base_that_is_not_synced_stays_open_while_another_can_be_closed() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    let others = (0..300).map(|n| SegmentId(0x10000 + n));
    for other in others.clone() {
        bases.write(other, 0, b"x").unwrap();
        bases.sync_now(other).unwrap();
    }
    bases.write(SEGMENT, 0, b"bytes").unwrap();
    for other in others {
        assert_eq!(&bases.read(other, 0, 1).unwrap()[..], b"x");
    }
    disk.inject(Fault {
        op: DiskOp::Open,
        path: FILE.into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    assert_eq!(&bases.read(SEGMENT, 0, 5).unwrap()[..], b"bytes");
}

/// A disk whose first sync of a folder ends when it is told to.
struct SlowFolders {
    inner: Arc<dyn Disk>,
    began: mpsc::Sender<()>,
    ends: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Disk for SlowFolders {
    fn open_file(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open_file(path, create)
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
        let ends = self.ends.lock().unwrap().take();
        if let Some(ends) = ends {
            self.began.send(()).unwrap();
            ends.recv().unwrap();
        }
        self.inner.sync_dir(dir)
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn locate(&self, path: &str) -> String {
        self.inner.locate(path)
    }
}

#[test]
fn a_name_is_durable_only_after_a_sync_of_its_folder_has_ended() {
    let disk = MemDisk::new(1);
    let (began, begins) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let slow = SlowFolders {
        inner: disk.attach(),
        began,
        ends: Mutex::new(Some(ends)),
    };
    let bases = Bases::open(Arc::new(slow), "base", INLINE).unwrap();
    // Two bases of one folder.
    let other = SegmentId(SEGMENT.0 + 0x100);
    bases.write(SEGMENT, 0, b"one").unwrap();
    bases.write(other, 0, b"two").unwrap();
    let first = bases.clone();
    let syncing = thread::spawn(move || first.sync_now(SEGMENT));
    begins.recv().unwrap();
    bases.sync_now(other).unwrap();
    let left = disk.fork();
    left.crash(Crash::PowerCut);
    assert_eq!(&open(&left).read(other, 0, 3).unwrap()[..], b"two");
    end.send(()).unwrap();
    syncing.join().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_hangs_is_a_failure_for_good() {
    let disk = MemDisk::new(1);
    let delay = Duration::from_secs(3600);
    let bases = Bases::open(disk.attach(), "base", SyncMode::Inline { delay }).unwrap();
    bases.write(SEGMENT, 0, b"bytes").unwrap();
    assert_eq!(bases.failure(), None);
    let hung = bases.sync(SEGMENT).await;
    assert!(matches!(hung, Err(StoreError::SyncTimedOut { .. })));
    assert!(bases.failure().unwrap().contains("longer than"));
}
