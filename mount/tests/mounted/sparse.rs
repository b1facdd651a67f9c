use crate::{
    harness::{checked, errno, shell},
    mounted,
};
use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
};

fn seek(file: &File, offset: i64, whence: i32) -> std::io::Result<i64> {
    // SAFETY: a plain call on an open descriptor.
    checked(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
}

fn allocate(file: &File, mode: i32, offset: i64, len: i64) -> std::io::Result<i64> {
    // SAFETY: a plain call on an open descriptor.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

#[test]
fn holes_take_no_room_and_are_found() {
    const FAR: u64 = 1 << 30;
    let mount = mounted!();
    let path = mount.at("f");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"end", FAR).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), FAR + 3);
    assert!(meta.blocks() * 512 <= 8_192);
    assert_eq!(seek(&file, 4_096, libc::SEEK_DATA).unwrap(), FAR as i64);
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE).unwrap(), 4_096);
    assert_eq!(
        seek(&file, FAR as i64, libc::SEEK_HOLE).unwrap(),
        FAR as i64 + 3
    );
    assert_eq!(
        errno(seek(&file, FAR as i64 + 3, libc::SEEK_DATA)),
        libc::ENXIO
    );
    assert_eq!(seek(&file, -3, libc::SEEK_END).unwrap(), FAR as i64);
    shell(
        "cp --sparse=always f g && test $(stat -c %b g) -le 16 && cmp f g",
        &mount.path,
    );
}

#[test]
fn allocation_modes() {
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, vec![1; 20_000]).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    allocate(&file, 0, 0, 30_000).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 30_000);
    allocate(
        &file,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        100,
        9_000,
    )
    .unwrap();
    allocate(&file, libc::FALLOC_FL_ZERO_RANGE, 19_000, 20_000).unwrap();
    let content = fs::read(&path).unwrap();
    let ones = |range: std::ops::Range<usize>| content[range].iter().all(|b| *b == 1);
    let zeros = |range: std::ops::Range<usize>| content[range].iter().all(|b| *b == 0);
    assert_eq!(content.len(), 39_000);
    assert!(ones(0..100) && zeros(100..9_100) && ones(9_100..19_000) && zeros(19_000..39_000));
    assert_eq!(
        errno(allocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4_096)),
        libc::EOPNOTSUPP
    );
    assert_eq!(errno(allocate(&file, 0, 0, 0)), libc::EINVAL);
}
