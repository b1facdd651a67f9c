//! The data folder: whose it is, and what it says when it is not.
#![allow(clippy::unwrap_used)]

use hydfs_store::{Crash, DiskOp, Fault, Folder, MemDisk, RealDisk, StoreError};
use hydfs_types::{BootId, ClusterId, MemberId, StorageId};
use std::fs;

#[test]
fn a_folder_keeps_its_identity_and_counts_starts() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let first = Folder::open(&path, "vm1").unwrap();
    let (storage, boot) = (first.storage(), first.boot());
    assert_ne!(storage, StorageId::default());
    assert_eq!(
        (first.start_count(), first.cluster(), first.member()),
        (1, None, None)
    );
    first.set_cluster(ClusterId([3; 16])).unwrap();
    first.set_member(MemberId(4)).unwrap();
    drop(first);
    let second = Folder::open(&path, "vm1").unwrap();
    assert_eq!(
        (second.storage(), second.boot(), second.start_count()),
        (storage, boot, 2)
    );
    assert_eq!(
        (second.cluster(), second.member()),
        (Some(ClusterId([3; 16])), Some(MemberId(4)))
    );
    for dir in ["raft", "journal", "base", "cache"] {
        assert!(path.join(dir).is_dir());
    }
    let text = fs::read_to_string(path.join("format")).unwrap();
    assert!(
        text.contains("format = 4\nname = \"vm1\"\nstorage = \"")
            && text.contains("start_count = 2"),
        "{text}"
    );
}

fn refused(path: &std::path::Path, name: &str) -> String {
    Folder::open(path, name).err().expect("refused").to_string()
}

#[test]
fn a_wrong_folder_is_refused_with_a_remedy() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let folder = Folder::open(&path, "vm1").unwrap();
    folder.set_cluster(ClusterId([1; 16])).unwrap();
    let other = folder.set_cluster(ClusterId([2; 16])).unwrap_err();
    assert!(
        matches!(other, StoreError::OtherCluster { .. })
            && other.to_string().contains("choose another data folder")
    );
    assert!(refused(&path, "vm1").contains("is in use by another hydfs member"));
    drop(folder);
    assert!(refused(&path, "vm2").contains("belongs to the member \"vm1\", not \"vm2\""));
    let format = fs::read_to_string(path.join("format")).unwrap();
    fs::write(
        path.join("format"),
        format.replace("format = 4", "format = 5\nnews = true"),
    )
    .unwrap();
    assert!(refused(&path, "vm1").contains("format 5, this hydfs reads up to 4: upgrade hydfs"));
    fs::write(
        path.join("format"),
        format.replace("format = 4", "format = 3"),
    )
    .unwrap();
    assert!(refused(&path, "vm1").contains("an earlier build (format 3, this one reads 4)"));
    fs::write(path.join("format"), "garbage").unwrap();
    assert!(refused(&path, "vm1").contains("damaged"));
    fs::write(path.join("base/left"), "data").unwrap();
    fs::remove_file(path.join("format")).unwrap();
    assert!(refused(&path, "vm1").contains("no file \"format\""));
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(refused(&file, "vm1").contains("not a folder"));
    assert!(refused(&file.join("below"), "vm1").contains("not a usable data folder"));
    assert!(
        refused(std::path::Path::new("/proc/nothing"), "vm1").contains("not a usable data folder")
    );
}

#[test]
fn fault_s14_paths_never_leave_the_folder() {
    use hydfs_store::Disk;
    let root = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(&root.path().join("data")).unwrap();
    for path in ["../x", "/etc/passwd", "a/../../x", "./x", "a/./../../b"] {
        assert!(disk.open_file(path, true).is_err(), "{path}");
        assert!(
            disk.create_dir_all(path).is_err() && disk.remove_file(path).is_err(),
            "{path}"
        );
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_crash_while_starting_never_loses_a_start_that_was_used() {
    let (storage, boot) = (StorageId([5; 16]), BootId([6; 16]));
    for stop in 0..30 {
        for how in [Crash::PowerCut, Crash::PowerCutTorn] {
            let disk = MemDisk::new(stop);
            Folder::on(disk.attach(), "vm1", storage, boot)
                .unwrap()
                .set_cluster(ClusterId([1; 16]))
                .unwrap();
            disk.stop_after(stop);
            let used = Folder::on(disk.attach(), "vm1", StorageId([9; 16]), boot).is_ok();
            disk.crash(how);
            let folder = Folder::on(disk.attach(), "vm1", StorageId([9; 16]), boot).unwrap();
            assert!(folder.start_count() >= 2 + u64::from(used) && folder.start_count() <= 3);
            assert_eq!(
                (folder.storage(), folder.cluster()),
                (storage, Some(ClusterId([1; 16])))
            );
        }
    }
}

#[test]
fn fault_s2_a_start_that_is_killed_before_it_made_good_a_power_loss_leaves_that_to_the_next() {
    let disk = MemDisk::new(1);
    let start = |boot| Folder::on(disk.attach(), "vm1", StorageId([5; 16]), BootId([boot; 16]));
    assert!(!start(1).unwrap().rebooted());
    disk.crash(Crash::PowerCut);
    assert!(start(2).unwrap().rebooted());
    disk.crash(Crash::Kill);
    let folder = start(2).unwrap();
    assert!(
        folder.rebooted(),
        "what the first start had not written again yet is lost"
    );
    folder.made_good().unwrap();
    drop(folder);
    disk.crash(Crash::Kill);
    assert!(!start(2).unwrap().rebooted());
}

#[test]
fn a_failed_sync_is_known_to_the_next_start_until_it_is_settled() {
    let disk = MemDisk::new(1);
    let start = || Folder::on(disk.attach(), "vm1", StorageId([5; 16]), BootId([1; 16])).unwrap();
    let folder = start();
    let file = folder.disk().open_file("journal/f", true).unwrap();
    disk.inject(Fault {
        op: DiskOp::Sync,
        path: "journal/f".into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    assert!(!folder.sync_failed());
    file.sync().unwrap_err();
    // It makes nothing good in the same life.
    folder.settled().unwrap();
    disk.crash(Crash::Kill);
    for _ in 0..2 {
        let folder = start();
        assert!(folder.sync_failed() && folder.rebooted());
        disk.crash(Crash::Kill);
    }
    let folder = start();
    folder.settled().unwrap();
    disk.crash(Crash::Kill);
    let folder = start();
    assert!(!folder.sync_failed());
    assert!(folder.rebooted(), "bases are not made good yet");
    folder.made_good().unwrap();
    disk.crash(Crash::Kill);
    assert!(!start().rebooted());
}

#[test]
fn who_lost_the_end_of_a_journal_is_of_another_boot_from_then_on() {
    let disk = MemDisk::new(1);
    let start = |boot| Folder::on(disk.attach(), "vm1", StorageId([5; 16]), BootId([boot; 16]));
    let folder = start(1).unwrap();
    assert_eq!(folder.boot(), BootId([1; 16]));
    folder.lose().unwrap();
    let lost = folder.boot();
    assert_ne!(lost, BootId([1; 16]));
    disk.crash(Crash::PowerCut);
    let folder = start(1).unwrap();
    assert!(folder.boot() == lost && folder.rebooted());
    folder.lose().unwrap();
    assert!(![lost, BootId([1; 16])].contains(&folder.boot()));
    assert_ne!(start(2).unwrap().boot(), BootId([1; 16]));
}
