use crate::{
    harness::{c, checked, errno},
    mounted,
};
use std::{ffi::CString, fs, io, path::Path};

fn key(name: &str) -> CString {
    CString::new(name).unwrap()
}

fn get(path: &Path, name: &str, room: usize) -> io::Result<Vec<u8>> {
    let (path, name, mut value) = (c(path), key(name), vec![0u8; room]);
    // SAFETY: strings ended by NUL and a buffer of the length named.
    let len = checked(unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            room,
        )
    } as i64)?;
    if room > 0 {
        value.truncate(len as usize);
    } else {
        value.resize(len as usize, 0);
    }
    Ok(value)
}

fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<i64> {
    let (path, name) = (c(path), key(name));
    // SAFETY: strings ended by NUL and a buffer of the length named.
    checked(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
}

fn list(path: &Path, room: usize) -> io::Result<Vec<u8>> {
    let (path, mut names) = (c(path), vec![0u8; room]);
    // SAFETY: a string ended by NUL and a buffer of the length named.
    let len =
        checked(unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), room) } as i64)?;
    names.resize(len as usize, 0);
    Ok(names)
}

#[test]
fn set_get_list_remove() {
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, b"").unwrap();
    assert_eq!(errno(get(&path, "user.a", 10)), libc::ENODATA);
    assert_eq!(
        errno(set(&path, "user.a", b"1", libc::XATTR_REPLACE)),
        libc::ENODATA
    );
    set(&path, "user.a", b"value", libc::XATTR_CREATE).unwrap();
    assert_eq!(
        errno(set(&path, "user.a", b"1", libc::XATTR_CREATE)),
        libc::EEXIST
    );
    assert_eq!(get(&path, "user.a", 5).unwrap(), b"value");
    assert_eq!(get(&path, "user.a", 0).unwrap().len(), 5);
    assert_eq!(errno(get(&path, "user.a", 4)), libc::ERANGE);
    set(&path, "user.bb", &[7; 60_000], 0).unwrap();
    assert_eq!(get(&path, "user.bb", 65_536).unwrap(), [7; 60_000]);
    assert_eq!(list(&path, 100).unwrap(), b"user.a\0user.bb\0");
    assert_eq!(list(&path, 0).unwrap().len(), 15);
    assert_eq!(errno(list(&path, 14)), libc::ERANGE);
    let (name, file) = (key("user.a"), c(&path));
    // SAFETY: strings ended by NUL.
    let remove = || checked(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) });
    remove().unwrap();
    assert_eq!(errno(remove()), libc::ENODATA);
}

#[test]
fn names_that_are_not_served_answer_so_each_time() {
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, b"").unwrap();
    for _ in 0..2 {
        assert_eq!(errno(get(&path, "security.capability", 10)), libc::ENODATA);
        assert_eq!(errno(get(&path, "system.nfs4_acl", 10)), libc::EOPNOTSUPP);
        // The model has none, which keeps nobody from setting others.
        assert_eq!(
            errno(get(&path, "system.posix_acl_access", 10)),
            libc::ENODATA
        );
        assert_eq!(
            errno(set(&path, "security.selinux", b"x", 0)),
            libc::EOPNOTSUPP
        );
        // As setfacl(1) writes `u::rw,g::r,o::r`: version 2, then tag, rights and nobody in particular.
        let list: Vec<u8> = [(0x01, 6), (0x04, 4), (0x20, 4)]
            .into_iter()
            .flat_map(|(tag, rights)| [tag, 0, rights, 0, 0xff, 0xff, 0xff, 0xff])
            .collect();
        let list = [&[2, 0, 0, 0][..], &list].concat();
        for (path, name) in [
            (&path, "system.posix_acl_access"),
            (&mount.path, "system.posix_acl_default"),
        ] {
            assert_eq!(errno(set(path, name, &list, 0)), libc::EOPNOTSUPP);
        }
        set(&path, "user.still", b"x", 0).unwrap();
        set(&path, "trusted.root", b"x", 0).unwrap();
    }
}
