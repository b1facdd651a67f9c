use crate::{
    harness::{c, checked, shell},
    mounted,
};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a shell command as an ordinary user.
fn as_user(command: &str, folder: &Path) -> bool {
    Command::new("sh")
        .arg("-ec")
        .arg(command)
        .uid(12_345)
        .gid(12_345)
        .current_dir(folder)
        .status()
        .unwrap()
        .success()
}

#[test]
fn modes_owners_and_permissions() {
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, b"secret").unwrap();
    chmod(&path, 0o600);
    chmod(&mount.path, 0o755);
    assert!(
        !as_user("cat f", &mount.path),
        "the kernel must check permissions"
    );
    chown(&path, Some(12_345), Some(54_321)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (12_345, 54_321));
    assert!(as_user("cat f > /dev/null", &mount.path));
    assert!(!as_user("touch new", &mount.path));
    chmod(&mount.path, 0o1777);
    assert!(as_user("umask 027; touch new; mkdir sub", &mount.path));
    assert_eq!(
        (mode(&mount.at("new")), mode(&mount.at("sub"))),
        (0o640, 0o750),
        "the umask counts"
    );
    assert_eq!(fs::metadata(mount.at("new")).unwrap().uid(), 12_345);
}

#[test]
fn set_group_id_directories_pass_their_group_on() {
    let mount = mounted!();
    let dir = mount.at("d");
    fs::create_dir(&dir).unwrap();
    chown(&dir, None, Some(777)).unwrap();
    chmod(&dir, 0o2777);
    assert!(as_user("touch f; mkdir s", &dir));
    assert_eq!(fs::metadata(dir.join("f")).unwrap().gid(), 777);
    let sub = fs::metadata(dir.join("s")).unwrap();
    assert_eq!((sub.gid(), sub.mode() & 0o2000), (777, 0o2000));
}

#[test]
fn set_id_bits_go_with_content_and_owner() {
    let mount = mounted!();
    let path = mount.at("f");
    let reset = |content: &str| {
        fs::write(&path, content).unwrap();
        chmod(&path, 0o6777);
        assert_eq!(mode(&path), 0o6777);
    };
    fs::set_permissions(&mount.path, fs::Permissions::from_mode(0o777)).unwrap();
    reset("content");
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"root's")
        .unwrap();
    assert_eq!(mode(&path), 0o6777, "root keeps them");
    for command in [
        "echo more >> f",
        "echo new > f",
        "truncate -s 2 f",
        "fallocate -l 99999 f",
    ] {
        reset("content");
        assert!(as_user(command, &mount.path), "{command}");
        assert_eq!(mode(&path), 0o777, "{command}");
    }
    reset("content");
    chown(&path, Some(12_345), None).unwrap();
    assert_eq!(mode(&path), 0o777, "chown");
    // Without execution by the group the bit marks locking and stays.
    chmod(&path, 0o2666);
    assert!(as_user("echo more >> f", &mount.path));
    assert_eq!(mode(&path), 0o2666);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let mount = mounted!();
    let path = mount.at("f");
    let file = File::create(&path).unwrap();
    let made = fs::metadata(&path).unwrap();
    (&file).write_all(b"x").unwrap();
    let written = fs::metadata(&path).unwrap();
    assert!((written.mtime(), written.mtime_nsec()) > (made.mtime(), made.mtime_nsec()));
    for (sec, nsec) in [
        (-2, 250_000_001),
        (-1_000_000_000, 0),
        (0, 0),
        (5_000_000_000, 999_999_999),
    ] {
        let times = [libc::timespec {
            tv_sec: sec,
            tv_nsec: nsec,
        }; 2];
        let name = c(&path);
        // SAFETY: a path ended by NUL and two times.
        checked(unsafe { libc::utimensat(libc::AT_FDCWD, name.as_ptr(), times.as_ptr(), 0) })
            .unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (sec, nsec));
        assert_eq!((meta.atime(), meta.atime_nsec()), (sec, nsec));
    }
    shell(
        "touch -d '2001-02-03 04:05:06 UTC' f; test $(stat -c %Y f) = 981173106; touch f; test $(stat -c %Y f) -gt 981173106",
        &mount.path,
    );
}

#[test]
fn sizes_and_statfs() {
    let mount = mounted!();
    fs::write(mount.at("f"), vec![1; 10_000]).unwrap();
    let meta = fs::metadata(mount.at("f")).unwrap();
    assert_eq!(
        (meta.len(), meta.blocks(), meta.blksize()),
        (10_000, 24, 128 << 10)
    );
    let out = shell("stat -f -c '%s %l %b' .; df . > /dev/null", &mount.path);
    let numbers: Vec<u64> = out.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!(numbers[..2], [4_096, 255]);
    assert!(numbers[2] > 0);
}
