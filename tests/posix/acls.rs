//! Access control lists: what one mount sets, the kernels of all obey at once. Users are threads of this program with
//! another file system id, so that no process has to be started between a change and a look.
#![allow(
    unsafe_code,
    reason = "ids, umask and extended attributes of a thread have no safe wrapper in std"
)]

use crate::{
    MEMBERS,
    attributes::{errno, list as names_of, remove, set},
    common::{Cluster, SOON, until},
    folders,
};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NOBODY: u32 = u32::MAX;
const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;
/// Longer than kernels keep attributes.
const KEPT: Duration = Duration::from_millis(1_300);
const ROUNDS: usize = 30;

/// `u::7,u:USER:RIGHTS,g::GROUP,m::MASK,o::0` as setfacl(1) writes it.
fn named(user: u32, rights: u8, group: u8, mask: u8) -> Vec<u8> {
    bytes(&[
        (1, 7, NOBODY),
        (2, rights, user),
        (4, group, NOBODY),
        (16, mask, NOBODY),
        (32, 0, NOBODY),
    ])
}

fn bytes(entries: &[(u8, u8, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, rights, id) in entries {
        bytes.extend([*tag, 0, *rights, 0]);
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let name = CString::new(name).expect("no NUL");
    let mut value = vec![0_u8; 4096];
    // SAFETY: two strings that end with NUL, and a buffer of the length said.
    let len = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let Ok(len) = usize::try_from(len) else {
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::ENODATA), "{error}");
        return None;
    };
    value.truncate(len);
    Some(value)
}

/// Works as a user, whose group has the same number, with a umask.
fn by<T: Send>(user: u32, umask: libc::mode_t, work: impl FnOnce() -> T + Send) -> T {
    let as_user = || {
        // SAFETY: all four are of this thread alone; setgroups by the plain call, which leaves other threads alone.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_FS), 0);
            libc::umask(umask);
            assert_eq!(libc::syscall(libc::SYS_setgroups, 0, 0), 0);
            libc::setfsgid(user);
            libc::setfsuid(user);
        }
        work()
    };
    thread::scope(|scope| scope.spawn(as_user).join().expect("the user's work"))
}

fn may_read(user: u32, path: &Path) -> bool {
    match by(user, 0o022, || File::open(path)) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => false,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// A cluster whose mounts other users can get to, and a folder on each.
fn up(name: &str) -> Option<(Cluster, Vec<PathBuf>)> {
    let cluster = Cluster::up(MEMBERS)?;
    for i in cluster.members() {
        let mount = cluster.mount(i);
        for above in mount.ancestors().skip(1).take(3) {
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(above, open).expect("opened to all");
        }
    }
    let at = folders(&cluster, name);
    Some((cluster, at))
}

/// Whether exactly these may read a file, on every mount.
fn readers(at: &[PathBuf], name: &str, who: &[u32], when: &str) {
    for (i, at) in at.iter().enumerate() {
        for user in [ALICE, BOB] {
            assert_eq!(
                may_read(user, &at.join(name)),
                who.contains(&user),
                "user {user} on mount {i}, {when}"
            );
        }
    }
}

#[test]
fn a_list_is_obeyed_on_all_mounts_at_once() {
    let Some((_cluster, at)) = up("acl") else {
        return;
    };
    let file = |i: usize| at[i % MEMBERS].join("f");
    fs::write(file(0), "text").expect("written");
    fs::set_permissions(file(0), fs::Permissions::from_mode(0o640)).expect("closed");
    readers(&at, "f", &[], "before");
    for round in 0..ROUNDS {
        let by_whom = file(round);
        let when = format!("round {round}");
        match round % 5 {
            0 => {
                set(&by_whom, ACCESS, &named(ALICE, 4, 0, 4), 0).expect("set");
                readers(&at, "f", &[ALICE], &when);
                let mode = fs::metadata(file(round + 1)).expect("metadata").mode();
                assert_eq!(mode & 0o7777, 0o740, "the mask is the group's class");
            }
            1 => {
                set(&by_whom, ACCESS, &named(BOB, 6, 0, 6), 0).expect("set");
                readers(&at, "f", &[BOB], &when);
            }
            2 => {
                // Another mask, which is what chmod changes of it.
                fs::set_permissions(&by_whom, fs::Permissions::from_mode(0o720)).expect("chmod");
                readers(&at, "f", &[], &when);
                assert_eq!(get(&file(round + 1), ACCESS), Some(named(BOB, 6, 0, 2)));
                fs::set_permissions(&by_whom, fs::Permissions::from_mode(0o740)).expect("chmod");
                readers(&at, "f", &[BOB], &when);
            }
            3 => {
                // Group and others of a list that goes stay as the mode has them: g is the mask.
                remove(&by_whom, ACCESS).expect("removed");
                readers(&at, "f", &[], &when);
                remove(&by_whom, ACCESS).expect("there is none, and that is no error");
            }
            _ => {
                let minimal = bytes(&[(1, 6, NOBODY), (4, 0, NOBODY), (32, 4, NOBODY)]);
                set(&by_whom, ACCESS, &minimal, 0).expect("set");
                readers(&at, "f", &[ALICE, BOB], &when);
                for i in 0..MEMBERS {
                    assert_eq!(get(&file(i), ACCESS), None, "it is the mode alone");
                    assert!(names_of(&file(i)).is_empty());
                    let mode = fs::metadata(file(i)).expect("metadata").mode();
                    assert_eq!(mode & 0o7777, 0o604);
                }
            }
        }
    }
    set(&file(0), ACCESS, &named(ALICE, 4, 0, 4), 0).expect("set");
    assert_eq!(
        names_of(&file(1)),
        [ACCESS],
        "as local file systems list it"
    );
}

/// A kernel keeps lists for as long as it has the inode, and a lookup of it under a name that is new to this kernel makes
/// attributes fresh without a new look at them. A right that was taken away would be granted for a second more.
#[test]
fn a_list_that_a_kernel_has_kept_for_long_is_not_obeyed_after_a_change() {
    const CHANGES: usize = 6;
    const WORKERS: usize = 4;
    let Some((cluster, at)) = up("kept") else {
        return;
    };
    let file = |i: usize| at[i % MEMBERS].join("f");
    fs::write(file(0), "text").expect("written");
    let names: Vec<String> = (0..CHANGES + WORKERS).map(|n| format!("n{n}")).collect();
    for name in &names {
        // Only the kernel of the first mount knows it.
        fs::hard_link(file(0), at[0].join(name)).expect("linked");
    }
    let list = |grants| named(ALICE, if grants { 4 } else { 0 }, 0, 4);
    let readers_are = |name: &str, grants, when: &str| {
        readers(&at, name, if grants { &[ALICE] } else { &[] }, when);
    };
    set(&file(0), ACCESS, &list(true), 0).expect("set");
    for (round, name) in names[..CHANGES].iter().enumerate() {
        let (before, changer) = (round % 2 == 0, round % MEMBERS);
        readers_are("f", before, "before");
        // Attributes end, lists stay.
        thread::sleep(KEPT);
        set(&file(changer), ACCESS, &list(!before), 0).expect("set");
        readers_are(name, !before, &format!("round {round}"));
        readers_are("f", !before, &format!("round {round}"));
    }
    // Nor after a change of workers, before or after the list is changed.
    for (round, name) in names[CHANGES..].iter().enumerate() {
        set(&file(0), ACCESS, &list(true), 0).expect("set");
        readers_are("f", true, "before");
        if round % 2 == 0 {
            let before = cluster.pid(2);
            // SAFETY: plain numbers.
            assert_eq!(unsafe { libc::kill(before as i32, libc::SIGKILL) }, 0);
            set(&file(0), ACCESS, &list(false), 0).expect("set while nobody serves");
            until("the next worker", SOON, || cluster.pid(2) != before);
            thread::sleep(KEPT);
        } else {
            cluster.kill_worker(2);
            thread::sleep(KEPT);
            set(&file(0), ACCESS, &list(false), 0).expect("set");
        }
        readers_are(name, false, &format!("worker {round}"));
    }
}

#[test]
fn what_is_made_inherits_instead_of_losing_the_umask() {
    let Some((_cluster, at)) = up("inherit") else {
        return;
    };
    let mode = |path: &Path| fs::symlink_metadata(path).expect("metadata").mode() & 0o7777;
    let make = |dir: &Path, umask| {
        let open = |name: &str| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(dir.join(name))
        };
        by(0, umask, || {
            drop(open("f").expect("made"));
            fs::create_dir(dir.join("d")).expect("made");
            std::os::unix::fs::symlink("f", dir.join("l")).expect("made");
            let fifo = CString::new(dir.join("p").as_os_str().as_bytes()).expect("no NUL");
            // SAFETY: a string that ends with NUL.
            assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o666) }, 0);
        });
        ["f", "d", "l", "p"].map(|name| mode(&dir.join(name)))
    };
    for (umask, wanted) in [
        (0o000, [0o666, 0o777, 0o777, 0o666]),
        (0o027, [0o640, 0o750, 0o777, 0o640]),
    ] {
        let plain = format!("plain{umask}");
        fs::create_dir(at[0].join(&plain)).expect("made");
        assert_eq!(make(&at[1].join(&plain), umask), wanted, "the umask alone");
    }

    let default = named(ALICE, 7, 5, 7);
    fs::create_dir(at[0].join("shared")).expect("made");
    set(&at[0].join("shared"), DEFAULT, &default, 0).expect("set");
    assert_eq!(get(&at[1].join("shared"), DEFAULT), Some(default.clone()));
    assert_eq!(get(&at[1].join("shared"), ACCESS), None);
    let made = make(&at[1].join("shared"), 0o077);
    assert_eq!(
        made,
        [0o660, 0o770, 0o777, 0o660],
        "whatever the umask says"
    );
    let of_file = bytes(&[
        (1, 6, NOBODY),
        (2, 7, ALICE),
        (4, 5, NOBODY),
        (16, 6, NOBODY),
        (32, 0, NOBODY),
    ]);
    for at in &at {
        let below = |name: &str| at.join("shared").join(name);
        assert_eq!(get(&below("f"), ACCESS), Some(of_file.clone()));
        assert_eq!(get(&below("p"), ACCESS), Some(of_file.clone()));
        assert_eq!(get(&below("f"), DEFAULT), None);
        assert_eq!(get(&below("d"), ACCESS), Some(default.clone()));
        assert_eq!(get(&below("d"), DEFAULT), Some(default.clone()));
        assert!(may_read(ALICE, &below("f")) && !may_read(BOB, &below("f")));
    }
    // In what inherited it, and by whom it names.
    let deep = at[2].join("shared/d/deep");
    by(ALICE, 0o077, || fs::create_dir(&deep)).expect("ALICE may write there");
    assert_eq!((mode(&deep), get(&deep, DEFAULT)), (0o770, Some(default)));
    let refused = by(BOB, 0, || fs::create_dir(at[2].join("shared/d/other")));
    assert_eq!(errno(refused), Some(libc::EACCES));
    remove(&at[2].join("shared"), DEFAULT).expect("removed");
    fs::write(at[0].join("shared/later"), "").expect("made");
    assert_eq!(get(&at[1].join("shared/later"), ACCESS), None);
}

#[test]
fn what_is_refused_of_lists() {
    let Some((cluster, at)) = up("refused") else {
        return;
    };
    let file = at[0].join("f");
    fs::write(&file, "text").expect("written");
    std::os::unix::fs::chown(&file, Some(ALICE), Some(ALICE)).expect("given to ALICE");
    let list = named(BOB, 6, 4, 6);
    for at in &at {
        let path = at.join("f");
        let by_bob = by(BOB, 0, || set(&path, ACCESS, &list, 0));
        assert_eq!(errno(by_bob), Some(libc::EPERM), "it is ALICE's");
        by(ALICE, 0, || set(&path, ACCESS, &list, 0)).expect("the owner may");
        let by_bob = by(BOB, 0, || remove(&path, ACCESS));
        assert_eq!(errno(by_bob), Some(libc::EPERM));
        assert_eq!(
            errno(set(&path, DEFAULT, &list, 0)),
            Some(libc::EACCES),
            "only directories pass rights on"
        );
    }
    for (wrong, error) in [
        (&list[..list.len() - 1], libc::EINVAL),
        (b"x", libc::EINVAL),
        (&bytes(&[(1, 7, NOBODY), (2, 7, 5)])[..], libc::EINVAL),
        (
            &bytes(&[(1, 9, NOBODY), (4, 7, NOBODY), (32, 7, NOBODY)]),
            libc::EINVAL,
        ),
    ] {
        assert_eq!(
            errno(set(&file, ACCESS, wrong, 0)),
            Some(error),
            "{wrong:?}"
        );
    }
    assert_eq!(
        get(&at[1].join("f"), ACCESS),
        Some(list.clone()),
        "none of it counted"
    );

    // Set-group-id of a group that ALICE is not in goes with her list, and stays with one of root's.
    std::os::unix::fs::chown(&file, None, Some(BOB)).expect("another group");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o2770)).expect("chmod");
    let mode = |i: usize| fs::metadata(at[i].join("f")).expect("metadata").mode() & 0o7777;
    set(&at[1].join("f"), ACCESS, &list, 0).expect("set");
    assert_eq!(mode(2), 0o2760);
    by(ALICE, 0, || set(&at[1].join("f"), ACCESS, &list, 0)).expect("set");
    assert_eq!(mode(2), 0o760);

    // The control tree has none, which does not keep users from it.
    for i in cluster.members() {
        let status = cluster.at(i, ".cluster/status");
        assert!(may_read(BOB, &status));
        assert_eq!(get(&status, ACCESS), None);
        assert!(set(&status, ACCESS, &list, 0).is_err());
    }
}

/// Without a majority nothing can be agreed, and the way to the control tree, which leads over the root, is open to all.
#[test]
fn users_read_the_control_tree_without_a_majority() {
    let Some((cluster, _)) = up("alone") else {
        return;
    };
    cluster.kill_all(&[2, 3]);
    let status = cluster.at(1, ".cluster/status");
    let began = Instant::now();
    assert!(may_read(BOB, &status));
    assert!(began.elapsed() < SOON);
}
