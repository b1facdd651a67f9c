use crate::{harness::errno, mounted};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
};

#[test]
fn reads_what_was_written() {
    let mount = mounted!();
    let path = mount.at("f");
    let data: Vec<u8> = (0..5_000_011u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&path, &data).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), data.len() as u64);
    assert!(fs::read(&path).unwrap() == data);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all_at(b"over", 1_048_574).unwrap();
    let mut four = [0; 4];
    file.read_exact_at(&mut four, 1_048_574).unwrap();
    assert_eq!(&four, b"over");
    file.seek(SeekFrom::End(-3)).unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, data[data.len() - 3..]);
    file.sync_all().unwrap();
}

#[test]
fn open_flags_and_truncate() {
    let mount = mounted!();
    let path = mount.at("f");
    assert_eq!(errno(File::open(&path)), libc::ENOENT);
    fs::write(&path, b"0123456789").unwrap();
    assert_eq!(
        errno(OpenOptions::new().write(true).create_new(true).open(&path)),
        libc::EEXIST
    );
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123\0\0");
    File::create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_SYNC)
        .open(&path)
        .unwrap();
    file.write_all(b"durable").unwrap();
    assert_eq!(
        errno(OpenOptions::new().write(true).open(&mount.path)),
        libc::EISDIR
    );
    assert_eq!(fs::read(&path).unwrap(), b"durable");
}

#[test]
fn direct_io_of_any_split() {
    let mount = mounted!();
    let path = mount.at("f");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    // Not aligned to pages, so the kernel cuts it in its own way.
    let buffer: Vec<u8> = (0..2_097_152u32 + 7).map(|n| n as u8).collect();
    file.write_all_at(&buffer[7..], 0).unwrap();
    let mut back = vec![0; buffer.len() - 7];
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(back == buffer[7..]);
}

#[test]
fn unlinked_files_stay_until_closed() {
    let mount = mounted!();
    let path = mount.at("f");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all(b"still").unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(b" here").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut all = String::new();
    file.read_to_string(&mut all).unwrap();
    assert_eq!(all, "still here");
    assert_eq!(file.metadata().unwrap().len(), 10);
    assert_eq!(fs::read_dir(&mount.path).unwrap().count(), 0);
}
