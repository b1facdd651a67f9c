//! Bytes at offsets: against a local reference, with holes, cut while others write.

use crate::{
    MEMBERS, Numbers,
    common::{SOON, shared::Shared, until},
    folders, sh,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const SEED: u64 = 7;
const STEPS: usize = 500;
const SIZE_MAX: u64 = 400_000;

/// Random operations on random mounts, with descriptors that stay open and ones that are opened for it, each compared
/// with the same on a local file. `HYDFS_SEED` repeats or varies a run.
#[test]
fn random_operations_match_a_local_file() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "random");
    let local = tempfile::NamedTempFile::new().expect("a local file");
    let reference = OpenOptions::new()
        .read(true)
        .write(true)
        .open(local.path())
        .expect("opened");
    let paths: Vec<PathBuf> = at.iter().map(|at| at.join("f")).collect();
    fs::write(&paths[0], "").expect("made");
    let open = |path: &PathBuf| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("opened")
    };
    let mut kept: Vec<File> = paths.iter().map(open).collect();
    let seed = std::env::var("HYDFS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(SEED);
    let mut numbers = Numbers(seed);
    let mut history: Vec<String> = Vec::new();
    for step in 0..STEPS {
        let mount = numbers.below(MEMBERS as u64) as usize;
        let fresh = numbers.below(2) == 0;
        let size = reference.metadata().expect("metadata").len();
        let opened = fresh.then(|| open(&paths[mount]));
        let file = opened.as_ref().unwrap_or(&kept[mount]);
        let (offset, len) = (numbers.below(SIZE_MAX), numbers.below(30_000) as usize);
        let what = match numbers.below(12) {
            0..5 => {
                let text = numbers.bytes(len);
                file.write_all_at(&text, offset).expect("written");
                reference.write_all_at(&text, offset).expect("written");
                format!("write {len} at {offset}")
            }
            5..7 => {
                let text = numbers.bytes(len);
                let mut file = OpenOptions::new()
                    .append(true)
                    .open(&paths[mount])
                    .expect("opened");
                file.write_all(&text).expect("appended");
                reference.write_all_at(&text, size).expect("written");
                format!("append {len} at {size}")
            }
            7 => {
                file.set_len(offset).expect("cut");
                reference.set_len(offset).expect("cut");
                format!("truncate {size} to {offset}")
            }
            8 => {
                file.sync_all().expect("synced");
                "fsync".into()
            }
            9 => {
                kept[mount] = open(&paths[mount]);
                "reopen".into()
            }
            _ => {
                let (mut found, mut expected) = (vec![0; len], vec![0; len]);
                let (n, m) = (
                    file.read_at(&mut found, offset).expect("read"),
                    reference.read_at(&mut expected, offset).expect("read"),
                );
                assert!(
                    (n, &found) == (m, &expected),
                    "step {step}, read {len} at {offset} of {size} on mount {}: {n} bytes for {m}; run again: HYDFS_SEED={seed}\n{}",
                    mount + 1,
                    history.join("\n")
                );
                format!("read {len} at {offset}")
            }
        };
        history.push(format!(
            "{step}: mount {} {} {what}",
            mount + 1,
            if fresh { "fresh" } else { "kept" }
        ));
        drop(opened);
        let reader = numbers.below(MEMBERS as u64) as usize;
        let found = fs::read(&paths[reader]).expect("read");
        let mut expected = vec![0; reference.metadata().expect("metadata").len() as usize];
        reference.read_exact_at(&mut expected, 0).expect("read");
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        let tail = history.len().saturating_sub(12);
        assert!(
            found == expected,
            "step {step}, mount {}: {} bytes for {}, differ at {differs:?}; run again: HYDFS_SEED={seed}\n{}",
            reader + 1,
            found.len(),
            expected.len(),
            history[tail..].join("\n")
        );
        assert_eq!(
            fs::metadata(&paths[(reader + 1) % MEMBERS])
                .expect("metadata")
                .len(),
            expected.len() as u64,
            "{}",
            history[tail..].join("\n")
        );
    }
}

/// One mount writes, and reads what it wrote before anybody merged it; the others read now and then, so that cuts come
/// between. `HYDFS_SEED` repeats or varies a run.
#[test]
fn what_one_mount_writes_alone_it_reads_as_a_local_file() {
    const STEPS: usize = 600;
    const SIZE_MAX: u64 = 60_000;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "alone");
    let paths: Vec<PathBuf> = at.iter().map(|at| at.join("f")).collect();
    let open = |path: &PathBuf| {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false);
        how.open(path).expect("opened")
    };
    let mut file = open(&paths[0]);
    let mut expected: Vec<u8> = Vec::new();
    let seed = std::env::var("HYDFS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(SEED);
    let mut numbers = Numbers(seed);
    for step in 0..STEPS {
        let (offset, len) = (numbers.below(SIZE_MAX), numbers.below(9_000) as usize);
        let end = offset as usize + len;
        let what = match numbers.below(20) {
            0..8 => {
                let text = numbers.bytes(len);
                file.write_all_at(&text, offset).expect("written");
                expected.resize(expected.len().max(if len > 0 { end } else { 0 }), 0);
                if len > 0 {
                    expected[offset as usize..end].copy_from_slice(&text);
                }
                "write"
            }
            8..11 => {
                let text = numbers.bytes(len);
                let mut file = OpenOptions::new()
                    .append(true)
                    .open(&paths[0])
                    .expect("opened");
                file.write_all(&text).expect("appended");
                expected.extend_from_slice(&text);
                "append"
            }
            11 => {
                file.set_len(offset).expect("cut");
                expected.resize(offset as usize, 0);
                "truncate"
            }
            12..14 => {
                let range = format!("fallocate -p -o {offset} -l {} f", len + 1);
                sh(&at[0], &range);
                let end = expected.len().min(end + 1);
                if (offset as usize) < end {
                    expected[offset as usize..end].fill(0);
                }
                "punch"
            }
            14 => {
                file.sync_all().expect("synced");
                "fsync"
            }
            15 => {
                file = open(&paths[0]);
                "reopen"
            }
            _ => {
                let reader = 1 + numbers.below(MEMBERS as u64 - 1) as usize;
                let found = fs::read(&paths[reader]).expect("read");
                assert!(
                    found == expected,
                    "step {step} on another mount; HYDFS_SEED={seed}"
                );
                "read elsewhere"
            }
        };
        let from = numbers.below(SIZE_MAX);
        let mut found = vec![0; numbers.below(40_000) as usize];
        let n = file.read_at(&mut found, from).expect("read");
        let wanted = expected.get(from as usize..).unwrap_or_default();
        let wanted = &wanted[..wanted.len().min(found.len())];
        assert!(
            found[..n] == *wanted,
            "step {step}, after {what}, {} at {from} of {}: run again with HYDFS_SEED={seed}",
            found.len(),
            expected.len()
        );
        let size = file.metadata().expect("metadata").len();
        assert_eq!(size, expected.len() as u64, "step {step}, after {what}");
    }
}

#[test]
fn holes_read_as_zeros_and_take_no_room() {
    const FAR: u64 = 300 << 20;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "holes");
    let file = File::create(at[0].join("f")).expect("made");
    file.write_all_at(b"begin", 0).expect("written");
    file.write_all_at(b"middle", 100_000_000).expect("written");
    file.write_all_at(b"end", FAR).expect("written");
    drop(file);
    for at in &at {
        let meta = fs::metadata(at.join("f")).expect("metadata");
        assert_eq!(meta.len(), FAR + 3);
        let file = File::open(at.join("f")).expect("opened");
        let mut text = [1; 12];
        file.read_exact_at(&mut text, 99_999_997).expect("read");
        assert_eq!(&text, b"\0\0\0middle\0\0\0");
        let mut text = [1; 8];
        assert_eq!(file.read_at(&mut text, FAR - 2).expect("read"), 5);
        assert_eq!(&text[..5], b"\0\0end");
        let mut text = vec![1; 1 << 20];
        file.read_exact_at(&mut text, 200 << 20).expect("read");
        assert!(text.iter().all(|byte| *byte == 0));
    }
    // A file of nothing but a size.
    sh(
        &at[1],
        "truncate -s 150M empty; stat -c %s empty; cmp -n 157286400 empty /dev/zero",
    );
    assert!(
        fs::metadata(at[2].join("empty"))
            .expect("metadata")
            .blocks()
            < 1000,
        "a hole takes no room"
    );
    sh(
        &at[2],
        "printf tail >>empty; tail -c 6 empty | od -An -c | tr -d ' \\n' | grep -qx '\\\\0\\\\0tail'",
    );
    assert_eq!(
        fs::metadata(at[0].join("empty")).expect("metadata").len(),
        (150 << 20) + 4
    );
}

/// Cutting a file that other mounts append to: what is acknowledged after the cut stays, in order and whole.
#[test]
fn truncate_below_writers_of_other_mounts() {
    cut_below_writers(64, 25, 0);
}

/// The file is rolled into several segments between the cuts, which make full ones the last again.
#[test]
fn truncate_of_many_segments_below_writers_of_other_mounts() {
    cut_below_writers(1_000_000, 5, 70 << 20);
}

/// Writers append records of `size` bytes on all mounts but one, which cuts the file `cuts` times, each time that it has
/// grown to `least` bytes.
fn cut_below_writers(size: usize, cuts: usize, least: u64) {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "cut");
    fs::write(at[0].join("f"), "").expect("made");
    let done = AtomicBool::new(false);
    let record = |writer: usize, number: usize| {
        format!("{writer} {number:08} {}\n", "x".repeat(size - 12)).into_bytes()
    };
    let written = thread::scope(|scope| {
        let writers: Vec<_> = (1..MEMBERS)
            .map(|writer| {
                let (path, done) = (at[writer].join("f"), &done);
                scope.spawn(move || {
                    let mut file = OpenOptions::new().append(true).open(path).expect("opened");
                    let mut number = 0;
                    while !done.load(Ordering::SeqCst) {
                        file.write_all(&record(writer, number))
                            .unwrap_or_else(|error| {
                                panic!("record {number} of writer {writer}: {error}")
                            });
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        for cut in 0..cuts {
            let file = OpenOptions::new()
                .write(true)
                .open(at[0].join("f"))
                .expect("opened");
            let len = || file.metadata().expect("metadata").len();
            until("the file has grown", SOON, || len() >= least);
            let len = len();
            // Down to whole records; every fifth time to nothing.
            let keep = if cut % 5 == 4 {
                0
            } else {
                len / 2 / size as u64 * size as u64
            };
            file.set_len(keep)
                .unwrap_or_else(|error| panic!("cut {cut} from {len} to {keep}: {error}"));
            thread::sleep(std::time::Duration::from_millis(30));
        }
        done.store(true, Ordering::SeqCst);
        writers
            .into_iter()
            .map(|writer| writer.join().expect("no failed write"))
            .collect::<Vec<usize>>()
    });
    let found = fs::read(at[0].join("f")).expect("read");
    assert!(
        at.iter()
            .all(|at| fs::read(at.join("f")).expect("read") == found),
        "all mounts have the same"
    );
    let mut last = [None; MEMBERS];
    for bytes in found.chunks(size) {
        let text = String::from_utf8_lossy(bytes);
        let writer: usize = text[..1]
            .parse()
            .unwrap_or_else(|_| panic!("torn: {text:.60}"));
        let number: usize = text[2..10]
            .parse()
            .unwrap_or_else(|_| panic!("torn: {text:.60}"));
        assert!(bytes == record(writer, number), "torn: {text:.60}");
        assert!(
            last[writer].is_none_or(|last| number > last),
            "record {number} of writer {writer} after {:?}",
            last[writer]
        );
        last[writer] = Some(number);
    }
    // What was written after the last cut is all there: each writer's last records without a gap.
    for (writer, written) in (1..MEMBERS).zip(written) {
        assert!(written > 0);
        assert!(
            last[writer].is_none_or(|last| last == written - 1),
            "the last of writer {writer} is {:?}, {written} were written",
            last[writer]
        );
    }
}

/// Growing a file by truncate while another mount appends leaves no append below the new end unseen.
#[test]
fn truncate_grows_below_a_writer_of_another_mount() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "grow");
    fs::write(at[0].join("f"), "start").expect("made");
    let mut writer = OpenOptions::new()
        .append(true)
        .open(at[1].join("f"))
        .expect("opened");
    writer.write_all(b"-one").expect("appended");
    let other = OpenOptions::new()
        .write(true)
        .open(at[2].join("f"))
        .expect("opened");
    other
        .set_len(20)
        .expect("grown while another mount has a writer");
    writer.write_all(b"-two").expect("appended");
    for at in &at {
        assert_eq!(
            fs::read(at.join("f")).expect("read"),
            b"start-one\0\0\0\0\0\0\0\0\0\0\0-two",
            "{}",
            at.display()
        );
    }
    other.set_len(7).expect("cut");
    writer.write_all(b"-three").expect("appended");
    for at in &at {
        assert_eq!(
            fs::read(at.join("f")).expect("read"),
            b"start-o-three",
            "{}",
            at.display()
        );
    }
}

/// fsync returns when the bytes are on disk; the counters say that the disks were asked.
#[test]
fn fsync_reaches_the_disks() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "sync");
    for (i, at) in at.iter().enumerate() {
        let mut file = File::create(at.join(format!("f{i}"))).expect("made");
        file.write_all(&[i as u8; 5000]).expect("written");
        file.sync_all().expect("synced");
        file.write_all(b"x").expect("written");
        file.sync_data().expect("synced");
        File::open(at)
            .expect("opened")
            .sync_all()
            .expect("a directory is synced");
    }
    let mut direct = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(direct.write(true).append(true), libc::O_SYNC);
    direct
        .open(at[0].join("f1"))
        .expect("opened")
        .write_all(b"y")
        .expect("written through");
    let mut text = Vec::new();
    File::open(at[2].join("f1"))
        .expect("opened")
        .read_to_end(&mut text)
        .expect("read");
    assert_eq!((text.len(), &text[4999..]), (5002, &b"\x01xy"[..]));
}

const SEGMENT: u64 = 64 << 20;

fn sizes(at: &[PathBuf], name: &str) -> Vec<u64> {
    let size = |at: &PathBuf| fs::metadata(at.join(name)).expect("metadata").len();
    at.iter().map(size).collect()
}

/// An append begins at the end, also where that was set and lies in a segment that is written to in part.
#[test]
fn appends_begin_at_a_size_that_was_set() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "set");
    let size = SEGMENT + (36 << 20);
    let file = File::create(at[0].join("f")).expect("made");
    file.set_len(size).expect("grown");
    file.write_at(b"x", SEGMENT + 5).expect("written");
    for (n, at) in at.iter().enumerate() {
        let mut appending = OpenOptions::new();
        let mut appending = appending.append(true).open(at.join("f")).expect("opened");
        appending
            .write_all(format!("line {n}\n").as_bytes())
            .expect("appended");
    }
    let added = 7 * MEMBERS as u64;
    assert_eq!(sizes(&at, "f"), [size + added; MEMBERS]);
    for at in &at {
        let file = File::open(at.join("f")).expect("opened");
        let mut tail = vec![0; added as usize];
        file.read_exact_at(&mut tail, size).expect("read");
        let lines: String = (0..MEMBERS).map(|n| format!("line {n}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&tail), lines);
    }
}

/// Sizes that another mount set are cut where there is nothing but holes, below its open descriptor, and after it cut.
#[test]
fn sizes_that_another_mount_set_are_set_anew() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "anew");
    for (n, (before, after)) in [
        (2 * SEGMENT + 1027, SEGMENT + 1008),
        (2 * SEGMENT + 1027, 2 * SEGMENT + 5),
        (3 * SEGMENT + 5, 3 * SEGMENT),
        (SEGMENT + 5, 7),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("f{n}");
        let file = File::create(at[2].join(&name)).expect("made");
        file.set_len(before).expect("grown");
        let other = OpenOptions::new().write(true).open(at[0].join(&name));
        other.expect("opened").set_len(after).expect("cut");
        assert_eq!(sizes(&at, &name), [after; MEMBERS], "{before} to {after}");
    }
    let file = File::create(at[1].join("g")).expect("made");
    file.write_at(b"x", SEGMENT + 5).expect("written");
    let other = OpenOptions::new().write(true).open(at[0].join("g"));
    other.expect("opened").set_len(0).expect("cut");
    file.set_len(100).expect("set where what it wrote is gone");
    assert_eq!(sizes(&at, "g"), [100; MEMBERS]);
}
