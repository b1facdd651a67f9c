//! Mounting itself: what is in the way, what is missing, what remains.

use crate::harness::{self, can_mount};
use hydfs_mount::{MountError, MountOptions, mount, mount_at, unmount};
use std::{fs, path::Path};

fn attempt(path: &Path) -> MountError {
    mount(path, &MountOptions::default()).expect_err("refused")
}

#[test]
fn says_what_is_wrong_with_the_mount_point() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = attempt(&missing);
    assert!(
        matches!(error, MountError::Missing(_)) && error.to_string().contains("mkdir -p"),
        "{error}"
    );
    assert!(matches!(
        attempt(&folder.path().join("no/where")),
        MountError::Missing(_)
    ));
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(attempt(&file), MountError::NotDirectory(_)));
    unmount(folder.path()).expect("nothing to do");
}

#[test]
fn a_served_mount_is_not_mounted_over() {
    let Some(first) = harness::memory() else {
        return;
    };
    assert!(matches!(attempt(&first.path), MountError::Busy(_)));
    let entry = mount_at(&first.path).unwrap().unwrap();
    assert!(entry.is_hydfs() && entry.source == "hydfs");
    let read_ahead =
        fs::read_to_string(format!("/sys/class/bdi/{}/read_ahead_kb", entry.device)).unwrap();
    assert_eq!(read_ahead.trim(), "1024");
}

#[test]
fn dead_mounts_are_cleared_and_content_below_is_kept() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("below"), b"x").unwrap();
    // Two mounts whose servers are gone, on top of each other.
    for _ in 0..2 {
        drop(mount(folder.path(), &MountOptions::default()).unwrap().fd);
        assert_eq!(
            harness::errno(fs::read_dir(folder.path()).map(drop)),
            libc::ENOTCONN
        );
    }
    let options = MountOptions {
        name: "hydfs:/var/lib/a b,c".into(),
        ..MountOptions::default()
    };
    let mounted = mount(folder.path(), &options).unwrap();
    assert_eq!(
        mount_at(&mounted.path).unwrap().unwrap().source,
        options.name
    );
    drop(mounted.fd);
    unmount(folder.path()).unwrap();
    assert_eq!(mount_at(&mounted.path).unwrap(), None);
    assert_eq!(fs::read(folder.path().join("below")).unwrap(), b"x");
}

#[test]
fn a_mount_nobody_serves_is_reported() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let held = mount(folder.path(), &MountOptions::default()).unwrap();
    let error = attempt(folder.path());
    assert!(matches!(error, MountError::Silent(_)), "{error}");
    drop(held.fd);
    unmount(folder.path()).unwrap();
}

#[test]
fn a_mount_in_use_goes_away_too() {
    let Some(mount) = harness::memory() else {
        return;
    };
    let open = fs::File::create(mount.at("f")).unwrap();
    unmount(&mount.path).unwrap();
    assert_eq!(mount_at(&mount.path).unwrap(), None);
    drop(open);
}
