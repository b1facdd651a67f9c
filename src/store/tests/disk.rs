//! Both disks behave alike; the one in memory also forgets what was not synced.
#![allow(clippy::unwrap_used)]

use hydfs_store::{Crash, Disk, DiskOp, Fault, MemDisk, RealDisk};
use std::{
    io::{ErrorKind, IoSlice},
    sync::Arc,
};

fn conforms(disk: Arc<dyn Disk>) {
    assert_eq!(
        disk.open_file("none", false).err().unwrap().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        disk.open_file("no/dir", true).err().unwrap().kind(),
        ErrorKind::NotFound
    );
    disk.create_dir_all("a/b").unwrap();
    disk.create_dir_all("a/b").unwrap();
    let file = disk.open_file("a/b/f", true).unwrap();
    assert!(file.is_empty().unwrap());
    let parts = [
        IoSlice::new(b"one "),
        IoSlice::new(b""),
        IoSlice::new(b"two"),
        IoSlice::new(b""),
    ];
    file.write_at(&parts, 5000).unwrap();
    assert_eq!(file.len().unwrap(), 5007);
    let mut buf = [1; 20];
    assert_eq!(file.read_at(&mut buf, 4996).unwrap(), 11);
    assert_eq!(&buf[..11], b"\0\0\0\0one two");
    assert_eq!(file.read_at(&mut buf, 6000).unwrap(), 0);
    file.allocate(9000).unwrap();
    assert_eq!(file.len().unwrap(), 9000);
    file.allocate(10).unwrap();
    assert_eq!(file.len().unwrap(), 9000, "allocating never cuts");
    file.set_len(5002).unwrap();
    file.set_len(5010).unwrap();
    assert_eq!(file.read_at(&mut buf, 5000).unwrap(), 10);
    assert_eq!(&buf[..10], b"on\0\0\0\0\0\0\0\0");
    file.sync().unwrap();
    disk.open_file("a/b/g", true).unwrap();
    disk.sync_dir("a/b").unwrap();
    assert_eq!(disk.list("a/b").unwrap(), ["f", "g"]);
    assert_eq!(disk.list("a").unwrap(), ["b"]);
    disk.rename("a/b/f", "a/b/g").unwrap();
    assert!(!disk.exists("a/b/f").unwrap() && disk.exists("a/b/g").unwrap());
    assert_eq!(disk.open_file("a/b/g", true).unwrap().len().unwrap(), 5010);
    disk.remove_file("a/b/g").unwrap();
    assert_eq!(
        file.read_at(&mut buf, 5000).unwrap(),
        10,
        "who holds a removed file keeps it"
    );
    assert_eq!(
        disk.remove_file("a/b/g").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let space = disk.space().unwrap();
    assert!(space.free > 0 && space.free <= space.total);
}

#[test]
fn real_disk_conforms() {
    let root = tempfile::tempdir().unwrap();
    conforms(Arc::new(RealDisk::open(root.path()).unwrap()));
}

#[test]
fn memory_disk_conforms() {
    conforms(MemDisk::new(1).attach());
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let disk = MemDisk::new(1);
    let before = disk.attach();
    let file = before.open_file("f", true).unwrap();
    before.sync_dir("").unwrap();
    file.write_at(&[IoSlice::new(b"kept")], 0).unwrap();
    file.sync().unwrap();
    file.write_at(&[IoSlice::new(b"lost")], 0).unwrap();
    before.open_file("unnamed", true).unwrap();
    disk.crash(Crash::PowerCut);
    assert!(
        file.read_at(&mut [0; 4], 0).is_err(),
        "a dead process writes no more"
    );
    let after = disk.attach();
    let mut buf = [0; 4];
    after
        .open_file("f", false)
        .unwrap()
        .read_at(&mut buf, 0)
        .unwrap();
    assert_eq!((&buf, after.exists("unnamed").unwrap()), (b"kept", false));
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    let torn = |seed| {
        let disk = MemDisk::new(seed);
        let view = disk.attach();
        let file = view.open_file("f", true).unwrap();
        view.sync_dir("").unwrap();
        file.write_at(&[IoSlice::new(&[7; 40_000])], 0).unwrap();
        disk.crash(Crash::PowerCutTorn);
        let mut buf = vec![0; 40_000];
        disk.attach()
            .open_file("f", false)
            .unwrap()
            .read_at(&mut buf, 0)
            .unwrap();
        buf
    };
    assert_eq!(torn(5), torn(5));
    assert_ne!(torn(5), torn(6));
}

/// Linux tells of an error of writing back once, and calls the pages clean then: the next sync means nothing for them.
#[test]
fn what_a_sync_could_not_write_no_later_one_does() {
    let medium = MemDisk::new(1);
    let disk = medium.attach();
    let file = disk.open_file("f", true).unwrap();
    disk.sync_dir("").unwrap();
    let write = |bytes: &[u8]| file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    write(b"old");
    file.sync().unwrap();
    write(b"new");
    medium.inject(Fault {
        op: DiskOp::Sync,
        path: "f".into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    file.sync().unwrap_err();
    file.sync().unwrap();
    let shows = |medium: &MemDisk| {
        let mut buf = [0; 3];
        let file = medium.attach().open_file("f", false).unwrap();
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 3);
        buf
    };
    assert_eq!(&shows(&medium), b"new", "as long as the machine runs");
    let cut = medium.fork();
    cut.crash(Crash::PowerCut);
    assert_eq!(&shows(&cut), b"old");
    write(b"now");
    file.sync().unwrap();
    medium.crash(Crash::PowerCut);
    assert_eq!(
        &shows(&medium),
        b"now",
        "what is written again is synced again"
    );
}
