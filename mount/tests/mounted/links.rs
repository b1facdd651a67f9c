use crate::{harness::errno, mounted};
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

#[test]
fn hard_links_share_an_inode() {
    let mount = mounted!();
    let (a, b) = (mount.at("a"), mount.at("b"));
    fs::write(&a, b"one").unwrap();
    fs::hard_link(&a, &b).unwrap();
    let (left, right) = (fs::metadata(&a).unwrap(), fs::metadata(&b).unwrap());
    assert_eq!((left.ino(), left.nlink()), (right.ino(), 2));
    fs::write(&b, b"two!").unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"two!");
    assert_eq!(errno(fs::hard_link(&a, &b)), libc::EEXIST);
    fs::create_dir(mount.at("d")).unwrap();
    assert_eq!(
        errno(fs::hard_link(mount.at("d"), mount.at("e"))),
        libc::EPERM
    );
    fs::remove_file(&a).unwrap();
    assert_eq!(fs::metadata(&b).unwrap().nlink(), 1);
}

#[test]
fn symbolic_links() {
    let mount = mounted!();
    fs::create_dir(mount.at("d")).unwrap();
    fs::write(mount.at("d/f"), b"there").unwrap();
    symlink("d/f", mount.at("s")).unwrap();
    assert_eq!(fs::read(mount.at("s")).unwrap(), b"there");
    assert_eq!(fs::read_link(mount.at("s")).unwrap(), Path::new("d/f"));
    assert_eq!(fs::symlink_metadata(mount.at("s")).unwrap().len(), 3);
    symlink("loop", mount.at("loop")).unwrap();
    assert_eq!(errno(fs::read(mount.at("loop"))), libc::ELOOP);
    symlink("nowhere", mount.at("dangling")).unwrap();
    assert_eq!(errno(fs::read(mount.at("dangling"))), libc::ENOENT);
    let long = "x/".repeat(2_000);
    symlink(&long, mount.at("long")).unwrap();
    assert_eq!(fs::read_link(mount.at("long")).unwrap(), Path::new(&long));
}

#[test]
fn pipes_and_devices() {
    let mount = mounted!();
    crate::harness::shell(
        "mkfifo -m 640 p; (echo through > p &) ; test \"$(cat p)\" = through; mknod d c 1 3; stat -c %t:%T d | grep -x 1:3",
        &mount.path,
    );
}
