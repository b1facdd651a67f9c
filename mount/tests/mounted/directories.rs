use crate::{
    harness::{self, Mount, errno},
    mounted,
};
use hydfs_mount::{Answer, Caller, FileSystem, FsError, MemoryFs, Request, ServeConfig};
use hydfs_types::BoxFuture;
use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

#[test]
fn make_list_remove() {
    let mount = mounted!();
    fs::create_dir_all(mount.at("a/b/c")).unwrap();
    assert_eq!(errno(fs::create_dir(mount.at("a"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(mount.at("a"))), libc::ENOTEMPTY);
    fs::write(mount.at("a/f"), b"x").unwrap();
    assert_eq!(errno(fs::remove_dir(mount.at("a/f"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(mount.at("a/b"))), libc::EISDIR);
    assert_eq!(
        errno(fs::create_dir(mount.at(&"n".repeat(256)))),
        libc::ENAMETOOLONG
    );
    assert_eq!(fs::metadata(mount.at("a")).unwrap().nlink(), 3);
    fs::remove_dir_all(mount.at("a")).unwrap();
    assert_eq!(fs::read_dir(&mount.path).unwrap().count(), 0);
}

#[test]
fn rename_over_and_exchange() {
    let mount = mounted!();
    let (a, b) = (mount.at("a"), mount.at("b"));
    fs::write(&a, b"aaa").unwrap();
    fs::write(&b, b"bbb").unwrap();
    let old = fs::File::open(&b).unwrap();
    fs::rename(&a, &b).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"aaa");
    assert_eq!(std::io::read_to_string(&old).unwrap(), "bbb");
    fs::create_dir(&a).unwrap();
    assert_eq!(errno(fs::rename(&b, &a)), libc::EISDIR);
    assert_eq!(errno(fs::rename(&a, mount.at("a/inside"))), libc::EINVAL);
    let renameat2 = |flags: u32| {
        let (from, to) = (crate::harness::c(&a), crate::harness::c(&b));
        // SAFETY: both paths are strings ended by NUL.
        crate::harness::checked(unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                flags,
            )
        })
    };
    assert_eq!(errno(renameat2(libc::RENAME_NOREPLACE)), libc::EEXIST);
    renameat2(libc::RENAME_EXCHANGE).unwrap();
    assert!(fs::metadata(&b).unwrap().is_dir());
    assert_eq!(fs::read(&a).unwrap(), b"aaa");
    fs::remove_dir(&b).unwrap();
    assert_eq!(errno(renameat2(libc::RENAME_WHITEOUT)), libc::EINVAL);
}

#[test]
fn two_thousand_entries() {
    many(&mounted!());
}

/// With time-outs the kernel asks for entries with attributes, also of a file system that gives none.
#[test]
fn two_thousand_entries_with_attributes() {
    for bare in [false, true] {
        let (attr_ttl, entry_ttl) = (Duration::from_secs(60), Duration::from_secs(60));
        let config = ServeConfig {
            attr_ttl,
            entry_ttl,
            ..harness::config()
        };
        let Some(mount) = harness::mounted(
            Arc::new(Listing {
                memory: MemoryFs::default(),
                bare,
            }),
            config,
        ) else {
            return;
        };
        many(&mount);
    }
}

/// The model, whose listings may lack attributes.
struct Listing {
    memory: MemoryFs,
    bare: bool,
}

impl FileSystem for Listing {
    fn call(
        &self,
        caller: Caller,
        request: Request,
    ) -> BoxFuture<'static, Result<Answer, FsError>> {
        let (answer, bare) = (self.memory.call(caller, request), self.bare);
        Box::pin(async move {
            match answer.await {
                Ok(Answer::Entries(entries)) if bare => Ok(Answer::Entries(
                    entries.into_iter().map(|e| (e.0, None)).collect(),
                )),
                other => other,
            }
        })
    }
}

fn many(mount: &Mount) {
    let names: BTreeSet<String> = (0..2_000)
        .map(|n| format!("a-name-of-some-length-{n:05}"))
        .collect();
    for name in &names {
        fs::write(mount.at(name), b"").unwrap();
    }
    let listed: Vec<String> = fs::read_dir(&mount.path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(listed.len(), names.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    harness::shell(
        "ls -a | wc -l | grep -x 2002; ls -lR | grep -c ' 0 .* a-name' | grep -x 2000; rm -r *",
        &mount.path,
    );
    assert_eq!(fs::read_dir(&mount.path).unwrap().count(), 0);
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let mount = mounted!();
    let name = std::ffi::OsStr::from_bytes(b"\xff\n \"*");
    fs::write(mount.path.join(name), b"x").unwrap();
    assert_eq!(
        fs::read_dir(&mount.path)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .file_name(),
        name
    );
}
