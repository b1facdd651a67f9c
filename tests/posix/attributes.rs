//! Extended attributes and what the file system says about a file.
#![allow(
    unsafe_code,
    reason = "extended attributes have no safe wrapper in std"
)]

use crate::{
    MEMBERS,
    common::{Cluster, SOON, replicas, shared::Shared, until, xattr},
    folders,
};
use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    thread,
    time::Duration,
};

fn c(text: &[u8]) -> CString {
    CString::new(text).expect("no NUL")
}

fn done(code: libc::c_int) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(crate) fn set(path: &Path, name: &str, value: &[u8], flags: libc::c_int) -> io::Result<()> {
    let (path, name) = (c(path.as_os_str().as_bytes()), c(name.as_bytes()));
    // SAFETY: two strings that end with NUL, and a buffer of the length said.
    done(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
}

pub(crate) fn remove(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path.as_os_str().as_bytes()), c(name.as_bytes()));
    // SAFETY: two strings that end with NUL.
    done(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
}

pub(crate) fn list(path: &Path) -> Vec<String> {
    let path = c(path.as_os_str().as_bytes());
    let mut buffer = vec![0_u8; 65_536];
    // SAFETY: a string that ends with NUL, and a buffer of the length said.
    let len = unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let len = usize::try_from(len).expect("listed");
    buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(crate::common::text)
        .collect()
}

pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.expect_err("refused").raw_os_error()
}

#[test]
fn extended_attributes() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "xattrs");
    fs::write(at[0].join("f"), "x").expect("written");
    fs::create_dir(at[0].join("d")).expect("made");
    for name in ["f", "d"] {
        let on = |i: usize| at[i].join(name);
        set(&on(0), "user.colour", b"blue", 0).expect("set");
        assert_eq!(xattr(&on(1), "user.colour").as_deref(), Some("blue"));
        set(&on(1), "user.colour", b"red", libc::XATTR_REPLACE).expect("replaced");
        assert_eq!(
            errno(set(&on(2), "user.colour", b"green", libc::XATTR_CREATE)),
            Some(libc::EEXIST)
        );
        assert_eq!(
            errno(set(&on(2), "user.none", b"green", libc::XATTR_REPLACE)),
            Some(libc::ENODATA)
        );
        assert_eq!(xattr(&on(2), "user.colour").as_deref(), Some("red"));
        set(&on(2), "user.large", &vec![b'l'; 60_000], 0).expect("set");
        assert_eq!(
            xattr(&on(0), "user.large").map(|value| value.len()),
            Some(60_000)
        );
        let mut names = list(&on(0));
        names.sort();
        assert_eq!(
            names,
            ["user.colour", "user.large"],
            "what the file system says of itself is not listed"
        );
        remove(&on(0), "user.large").expect("removed");
        assert_eq!(errno(remove(&on(1), "user.large")), Some(libc::ENODATA));
        assert_eq!(list(&on(2)), ["user.colour"]);
    }
    // Names that are not kept say so; none is lost silently.
    assert_eq!(
        errno(set(&at[0].join("f"), "user.hydfs.version", b"7", 0)),
        Some(libc::EPERM)
    );
    assert_eq!(
        errno(set(&at[0].join("f"), "system.other", b"7", 0)),
        Some(libc::EOPNOTSUPP)
    );
    // A file keeps them through a rename and loses them with its last name.
    fs::rename(at[1].join("f"), at[1].join("g")).expect("renamed");
    assert_eq!(
        xattr(&at[2].join("g"), "user.colour").as_deref(),
        Some("red")
    );
}

#[test]
fn where_a_file_is() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    // Members that have just joined are learners for a moment.
    cluster.wait_healthy();
    let at = folders(&cluster, "where");
    fs::write(at[0].join("f"), vec![1; 100_000]).expect("written");
    for at in &at {
        let path = at.join("f");
        assert_eq!(replicas(&path), [1, 2, 3]);
        let version = xattr(&path, "user.hydfs.version").expect("a version");
        assert!(version.parse::<u64>().is_ok(), "{version}");
        let segments = xattr(&path, "user.hydfs.segments").expect("segments");
        assert_eq!(segments.lines().count(), 1, "{segments}");
        assert_eq!(xattr(&path, "user.hydfs.nothing"), None);
    }
    let version = |i: usize| {
        xattr(&at[i].join("f"), "user.hydfs.version")
            .and_then(|text| text.parse::<u64>().ok())
            .expect("a version")
    };
    // The end of a writer is lazy: the version settles a moment after the close.
    until("the writer's end", SOON, || {
        cluster.status(1).contains("writers 0")
    });
    let before = version(0);
    OpenOptions::new()
        .append(true)
        .open(at[1].join("f"))
        .expect("opened")
        .write_all(b"more")
        .expect("appended");
    assert_eq!(fs::read(at[2].join("f")).expect("read").len(), 100_004);
    assert!(version(2) > before);
    assert_eq!(version(0), version(1));
}

/// A change to what already is may leave the change time only within the tick of a local file system's clock.
#[test]
fn a_change_to_what_already_is_moves_the_change_time_when_the_tick_is_over() {
    const MORE_THAN_A_TICK: Duration = Duration::from_millis(20);
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "tick");
    let file = |i: usize| at[i].join("f");
    let mode = || fs::Permissions::from_mode(0o640);
    let change_time = |i: usize| {
        let seen = fs::metadata(file(i)).expect("metadata");
        assert_eq!(seen.mode() & 0o7777, 0o640);
        (seen.ctime(), seen.ctime_nsec())
    };
    fs::write(file(0), "text").expect("made");
    fs::set_permissions(file(0), mode()).expect("changed");
    for changer in [0, 1, 0, 0] {
        let before = change_time(2);
        thread::sleep(MORE_THAN_A_TICK);
        // The second comes within the tick of the first, and whatever becomes of it, nobody sees time go back.
        for _ in 0..2 {
            fs::set_permissions(file(changer), mode()).expect("changed");
            let uid = fs::metadata(file(changer)).expect("metadata").uid();
            std::os::unix::fs::chown(file(changer), Some(uid), None).expect("changed");
        }
        let after = change_time(changer);
        assert!(
            after > before,
            "by mount {changer}: {after:?} after {before:?}"
        );
        for reader in 0..MEMBERS {
            assert!(change_time(reader) >= after, "mount {reader}");
        }
    }
}

/// Times are those of the writes: looking at a file, on any mount, and the end of its writer move nothing.
#[test]
fn times_stay_what_the_last_write_made_them() {
    let Some(cluster) = Cluster::up(2) else {
        return;
    };
    let (here, there) = (cluster.at(1, "written"), cluster.at(2, "written"));
    let times = |path: &std::path::Path| {
        let known = fs::metadata(path).expect("metadata");
        let nanos = |sec: i64, nsec: i64| i128::from(sec) * 1_000_000_000 + i128::from(nsec);
        (
            nanos(known.mtime(), known.mtime_nsec()),
            nanos(known.ctime(), known.ctime_nsec()),
        )
    };
    for n in 0..3 {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(&here)
            .expect("opened");
        std::io::Write::write_all(&mut file, b"line\n").expect("written");
        drop(file);
        let closed = times(&here);
        assert_eq!(times(&there), closed, "elsewhere, round {n}");
        assert!(fs::read(&there).expect("read").ends_with(b"line\n"));
        assert_eq!(times(&there), closed, "after a read, round {n}");
        // Longer than a writer stays when nobody has it open.
        std::thread::sleep(std::time::Duration::from_millis(1000));
        assert_eq!(
            (times(&here), times(&there)),
            (closed, closed),
            "later, round {n}"
        );
    }
}

#[test]
fn names_that_are_no_attributes_are_refused_and_some_are_for_administrators() {
    let Some(cluster) = Cluster::up(1) else {
        return;
    };
    let file = cluster.at(1, "f");
    fs::write(&file, "text").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
    assert_eq!(errno(set(&file, "user.", b"x", 0)), Some(libc::EINVAL));
    assert_eq!(errno(remove(&file, "trusted.")), Some(libc::EINVAL));
    let control = cluster.at(1, ".cluster/status");
    assert_eq!(
        errno(set(&control, "user.a", b"x", 0)),
        Some(libc::EOPNOTSUPP)
    );
    assert_eq!(errno(remove(&control, "user.a")), Some(libc::EOPNOTSUPP));
    set(&file, "trusted.a", b"x", 0).expect("set");
    set(&file, "user.b", b"x", 0).expect("set");
    assert_eq!(list(&file), ["trusted.a", "user.b"]);
    let path = file.clone();
    let seen = thread::spawn(move || {
        become_ordinary();
        list(&path)
    });
    assert_eq!(seen.join().expect("listed"), ["user.b"]);
    let jobs = cluster.at(1, ".jobs");
    let moved = fs::rename(&jobs, cluster.at(1, "other"));
    assert_eq!(errno(moved), Some(libc::EBUSY));
    assert_eq!(errno(fs::remove_dir(&jobs)), Some(libc::EBUSY));
}

/// This thread has the rights of an ordinary user from now on.
fn become_ordinary() {
    // SAFETY: plain numbers. The system call, unlike libc's function, is for this thread alone.
    let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
    assert_eq!(changed, 0);
}

/// Whatever this mount has seen of a file's mode, and others have made of it since.
#[test]
fn set_id_bits_and_owners_are_those_that_all_mounts_agree_on() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let (here, there) = (cluster.at(1, "tool"), cluster.at(2, "tool"));
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    };
    let mode = |path: &Path| fs::metadata(path).expect("metadata").mode() & 0o7777;
    fs::write(&here, "text").expect("written");
    chmod(&here, 0o666);
    let mut file = OpenOptions::new().append(true).open(&here).expect("opened");
    let mut write = || {
        thread::scope(|scope| {
            let write = scope.spawn(|| {
                become_ordinary();
                file.write_all(b"more").expect("written");
            });
            write.join().expect("written");
        });
    };
    write();
    chmod(&there, 0o4777);
    write();
    assert_eq!((mode(&here), mode(&there)), (0o777, 0o777), "cleared");
    chmod(&here, 0o4777);
    chmod(&there, 0o640);
    write();
    assert_eq!(
        (mode(&here), mode(&there)),
        (0o640, 0o640),
        "no other mode came back"
    );

    // Through an open file the kernel checks the owner that it knew when it last looked.
    std::os::unix::fs::chown(&here, Some(65_534), None).expect("given away");
    let held = fs::File::open(&here).expect("opened");
    let changed = thread::spawn(move || {
        become_ordinary();
        held.set_permissions(fs::Permissions::from_mode(0o600))
            .expect("its own");
        std::os::unix::fs::chown(&there, Some(0), None).expect_err("not to give away");
        held
    });
    let held = changed.join().expect("changed");
    std::os::unix::fs::chown(cluster.at(2, "tool"), Some(0), None).expect("taken back");
    let refused = thread::spawn(move || {
        become_ordinary();
        held.set_permissions(fs::Permissions::from_mode(0o666))
    });
    let refused = refused.join().expect("asked").expect_err("refused");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert_eq!(mode(&here), 0o600);
}
