//! `mount -i -o remount,ro` and back, as an administrator types it.

use crate::{MEMBERS, common::Cluster, folders, sh};
use std::{fs, io::ErrorKind, path::Path};

#[test]
fn a_mount_becomes_read_only_and_writable_again() {
    let Some(cluster) = Cluster::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "ro");
    fs::write(at[0].join("f"), "kept").expect("written");
    // Without -i mount(8) looks for a helper that can mount anew, and there is none: a member mounts.
    let remount = |how: &str| {
        let mount = cluster.mount(1);
        sh(
            Path::new("/"),
            &format!("mount -i -o remount,{how} {}", mount.display()),
        )
    };
    let flags = || {
        sh(
            Path::new("/"),
            &format!("findmnt -no OPTIONS {}", cluster.mount(1).display()),
        )
    };
    let before = flags();
    remount("ro");
    for refused in [
        fs::write(at[0].join("f"), "changed"),
        fs::write(at[0].join("new"), ""),
        fs::remove_file(at[0].join("f")),
        fs::create_dir(at[0].join("d")),
    ] {
        let error = refused.expect_err("the mount is read-only");
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{error}");
    }
    assert_eq!(fs::read(at[0].join("f")).expect("read"), b"kept");
    // The mount, not the file system: others go on, and it sees what they do.
    fs::write(at[1].join("f"), "changed elsewhere").expect("written");
    assert_eq!(
        fs::read(at[0].join("f")).expect("read"),
        b"changed elsewhere"
    );
    remount("rw");
    fs::write(at[0].join("f"), "again").expect("written");
    assert_eq!(flags(), before, "all else is as it was");
}
