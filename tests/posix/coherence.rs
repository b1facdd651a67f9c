//! What one mount did, the others see: at once where it was closed, growing where it is being written.

use crate::{MEMBERS, Numbers, common::shared::Shared, folders};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const ROUNDS: usize = 300;

#[test]
fn close_to_open_on_all_mounts() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "cto");
    let mut numbers = Numbers(1);
    let mut expected: Vec<u8> = Vec::new();
    for round in 0..ROUNDS {
        let writer = at[round % MEMBERS].join("f");
        let text = numbers.bytes(1 + (round * 37) % 9000);
        match round % 4 {
            // The same size, other bytes: nothing but the content tells.
            1 if !expected.is_empty() => {
                expected
                    .iter_mut()
                    .for_each(|byte| *byte = byte.wrapping_add(1));
                let file = OpenOptions::new()
                    .write(true)
                    .open(&writer)
                    .expect("opened");
                file.write_all_at(&expected, 0).expect("written");
            }
            2 => {
                OpenOptions::new()
                    .append(true)
                    .open(&writer)
                    .expect("opened")
                    .write_all(&text)
                    .expect("appended");
                expected.extend_from_slice(&text);
            }
            _ => {
                fs::write(&writer, &text).expect("written");
                expected = text;
            }
        }
        for step in 1..=MEMBERS {
            let reader = at[(round + step) % MEMBERS].join("f");
            let found = fs::read(&reader)
                .unwrap_or_else(|error| panic!("round {round}: {}: {error}", reader.display()));
            assert!(
                found == expected,
                "round {round}: {} has {} bytes, written were {}",
                reader.display(),
                found.len(),
                expected.len()
            );
            assert_eq!(
                fs::metadata(&reader).expect("metadata").len(),
                expected.len() as u64,
                "round {round}"
            );
        }
    }
}

/// The same with descriptors that stay open: each read asks anew.
#[test]
fn open_descriptors_see_what_others_wrote() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "open");
    fs::write(at[0].join("f"), [0; 10_000]).expect("written");
    let files: Vec<File> = at
        .iter()
        .map(|at| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(at.join("f"))
                .expect("opened")
        })
        .collect();
    let mut numbers = Numbers(2);
    let mut expected = vec![0; 10_000];
    for round in 0..120 {
        let writer = &files[round % MEMBERS];
        let (from, text) = (
            numbers.below(9_000) as usize,
            numbers.bytes(1 + round * 7 % 900),
        );
        writer.write_all_at(&text, from as u64).expect("written");
        expected[from..][..text.len()].copy_from_slice(&text);
        for (i, file) in files.iter().enumerate() {
            let mut found = vec![0; expected.len()];
            file.read_exact_at(&mut found, 0).expect("read");
            let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(
                differs,
                None,
                "round {round}: descriptor of mount {} after a write of {} bytes at {from} on mount {}",
                i + 1,
                text.len(),
                round % MEMBERS + 1
            );
        }
    }
}

#[test]
fn names_are_seen_at_once() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "names");
    for round in 0..100 {
        let (one, other) = (round % MEMBERS, (round + 1) % MEMBERS);
        let name = format!("n{}", round % 7);
        for reader in &at {
            // What is not there is remembered nowhere.
            assert!(!reader.join(&name).exists(), "round {round}");
        }
        if round % 2 == 0 {
            fs::write(at[one].join(&name), "x").expect("made");
        } else {
            fs::create_dir(at[one].join(&name)).expect("made");
        }
        for reader in &at {
            assert_eq!(
                fs::metadata(reader.join(&name))
                    .expect("seen at once")
                    .is_dir(),
                round % 2 == 1
            );
            let listed = fs::read_dir(reader)
                .expect("listed")
                .filter_map(Result::ok)
                .any(|entry| entry.file_name() == *name);
            assert!(listed, "round {round}");
        }
        fs::rename(at[other].join(&name), at[other].join("moved")).expect("renamed");
        for reader in &at {
            assert!(
                !reader.join(&name).exists() && reader.join("moved").exists(),
                "round {round}: renamed"
            );
        }
        if round % 2 == 0 {
            fs::remove_file(at[one].join("moved")).expect("removed");
        } else {
            fs::remove_dir(at[one].join("moved")).expect("removed");
        }
        for reader in &at {
            assert!(!reader.join("moved").exists(), "round {round}: removed");
            assert_eq!(
                fs::read_dir(reader).expect("listed").count(),
                0,
                "round {round}"
            );
        }
    }
}

/// Readers on all mounts follow a file that grows: whatever they read is a prefix of what was written.
#[test]
fn reading_while_another_mount_writes() {
    const PIECE: usize = 40_000;
    const PIECES: usize = 100;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "growing");
    let text = Numbers(3).bytes(PIECE * PIECES);
    let done = AtomicBool::new(false);
    for appends in [false, true] {
        let name = format!("f{appends}");
        fs::write(at[0].join(&name), "").expect("made");
        done.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            for reader in &at {
                let (path, text, done) = (reader.join(&name), &text, &done);
                scope.spawn(move || {
                    let mut seen = 0;
                    let mut kept = File::open(&path).expect("opened");
                    loop {
                        let last = done.load(Ordering::SeqCst);
                        for file in [&mut File::open(&path).expect("opened"), &mut kept] {
                            let mut found = Vec::new();
                            file.seek(SeekFrom::Start(0)).expect("sought");
                            file.read_to_end(&mut found).expect("read");
                            let differs = found.iter().zip(text).position(|(a, b)| a != b);
                            assert_eq!(
                                differs,
                                None,
                                "{} of {} bytes is no prefix",
                                path.display(),
                                found.len()
                            );
                            assert!(
                                found.len() >= seen,
                                "{} shrank from {seen} to {}",
                                path.display(),
                                found.len()
                            );
                            seen = found.len();
                        }
                        if last {
                            break;
                        }
                    }
                    assert_eq!(seen, text.len(), "{}", path.display());
                });
            }
            let mut file = OpenOptions::new()
                .append(appends)
                .write(true)
                .open(at[1].join(&name))
                .expect("opened");
            for piece in text.chunks(PIECE) {
                file.write_all(piece).expect("written");
            }
            drop(file);
            done.store(true, Ordering::SeqCst);
        });
        assert_eq!(
            fs::metadata(at[2].join(&name)).expect("metadata").size(),
            text.len() as u64
        );
    }
}
