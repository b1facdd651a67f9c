use crate::mounted;
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
    sync::{Arc, Barrier},
    thread,
};

/// Fits 256 pages at any offset, so one write is one request.
const RECORD: usize = 1_044_480;

#[test]
fn large_appends_stay_whole() {
    const THREADS: usize = 4;
    const EACH: u8 = 6;
    let mount = mounted!();
    let path = mount.at("log");
    File::create(&path).unwrap();
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (path, start) = (path.clone(), start.clone());
            thread::spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                start.wait();
                for number in 0..EACH {
                    let mut record = vec![thread as u8; RECORD];
                    record[RECORD - 1] = number;
                    assert_eq!(file.write(&record).unwrap(), RECORD, "a short write");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let content = fs::read(&path).unwrap();
    assert_eq!(content.len(), RECORD * THREADS * usize::from(EACH));
    let mut next = [0; THREADS];
    for record in content.chunks(RECORD) {
        let writer = record[0];
        assert!(
            record[..RECORD - 1].iter().all(|b| *b == writer),
            "a torn record"
        );
        assert_eq!(
            record[RECORD - 1],
            next[usize::from(writer)],
            "out of order"
        );
        next[usize::from(writer)] += 1;
    }
}

#[test]
fn the_flag_counts_at_each_write() {
    let mount = mounted!();
    let path = mount.at("f");
    fs::write(&path, b"0123456789").unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(b"ab").unwrap();
    // SAFETY: plain fcntl calls on an open descriptor.
    let set = |flags: i32| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) };
    assert_eq!(set(libc::O_APPEND), 0);
    (&file).write_all(b"END").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ab23456789END");
    assert_eq!(set(0), 0);
    (&file).write_all(b"!").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ab23456789END!");
}

#[test]
fn a_shell_appends() {
    let mount = mounted!();
    crate::harness::shell("for n in 1 2 3; do echo line $n >> log; done", &mount.path);
    assert_eq!(
        fs::read_to_string(mount.at("log")).unwrap(),
        "line 1\nline 2\nline 3\n"
    );
}
