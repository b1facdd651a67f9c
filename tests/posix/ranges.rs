//! Ranges of files: room, zeros, holes and copies, on every mount.

use crate::{MEMBERS, Numbers, common::shared::Shared, folders, mapping::Mapping, sh};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::Path,
};

const MIB: u64 = 1 << 20;
const SEED: u64 = 11;
const STEPS: usize = 150;
const SIZE_MAX: usize = 300_000;

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("opened")
}

#[allow(unsafe_code)]
fn allocate(file: &File, mode: i32, offset: usize, len: usize) -> io::Result<()> {
    // SAFETY: an open descriptor and plain numbers.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn seek(file: &File, offset: u64, whence: i32) -> Result<u64, Option<i32>> {
    // SAFETY: an open descriptor and plain numbers.
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
    u64::try_from(at).map_err(|_| io::Error::last_os_error().raw_os_error())
}

/// As copy_file_range(2), again until all is copied or the source ends; bytes copied.
#[allow(unsafe_code)]
fn copy(from: &File, mut at: i64, to: &File, mut to_at: i64, len: usize) -> usize {
    let mut copied = 0;
    while copied < len {
        // SAFETY: open descriptors and offsets that live through the call.
        let some = unsafe {
            libc::copy_file_range(
                from.as_raw_fd(),
                &raw mut at,
                to.as_raw_fd(),
                &raw mut to_at,
                len - copied,
                0,
            )
        };
        let some = usize::try_from(some)
            .unwrap_or_else(|_| panic!("copied {copied}, then {}", io::Error::last_os_error()));
        if some == 0 {
            break;
        }
        copied += some;
    }
    copied
}

/// Random allocations, zeros, copies and writes on random mounts against a model. `HYDFS_SEED` repeats or varies a run.
#[test]
fn random_ranges_match_a_model() {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "ranges");
    let files: Vec<File> = at.iter().map(|at| open(&at.join("f"))).collect();
    let mut model: Vec<u8> = Vec::new();
    let seed = std::env::var("HYDFS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(SEED);
    let mut numbers = Numbers(seed);
    let mut history = Vec::new();
    for step in 0..STEPS {
        let mount = numbers.below(MEMBERS as u64) as usize;
        let file = &files[mount];
        let offset = numbers.below(SIZE_MAX as u64) as usize;
        let len = 1 + numbers.below(60_000) as usize;
        let grow = |model: &mut Vec<u8>| model.resize(model.len().max(offset + len), 0);
        let zero = |model: &mut Vec<u8>| {
            let end = model.len().min(offset + len);
            model[offset.min(end)..end].fill(0);
        };
        let what = match numbers.below(8) {
            0..3 => {
                let bytes = numbers.bytes(len);
                file.write_all_at(&bytes, offset as u64).expect("written");
                grow(&mut model);
                model[offset..offset + len].copy_from_slice(&bytes);
                "write"
            }
            3 => {
                allocate(file, 0, offset, len).expect("room");
                grow(&mut model);
                "room"
            }
            4 => {
                allocate(file, KEEP, offset, len).expect("room past the end");
                "room, size kept"
            }
            5 => {
                allocate(file, PUNCH, offset, len).expect("punched");
                zero(&mut model);
                "punch"
            }
            6 => {
                let keep = numbers.below(2) == 0;
                allocate(file, if keep { ZERO | KEEP } else { ZERO }, offset, len).expect("zeroed");
                zero(&mut model);
                if !keep {
                    grow(&mut model);
                }
                "zero"
            }
            _ => {
                let from = numbers.below(SIZE_MAX as u64) as usize;
                if from < offset + len && offset < from + len {
                    continue;
                }
                let wanted = model.len().saturating_sub(from).min(len);
                let copied = copy(file, from as i64, file, offset as i64, len);
                assert_eq!(copied, wanted, "step {step}, HYDFS_SEED={seed}");
                let bytes = model[from.min(model.len())..][..wanted].to_vec();
                if wanted > 0 {
                    model.resize(model.len().max(offset + wanted), 0);
                    model[offset..offset + wanted].copy_from_slice(&bytes);
                }
                "copy"
            }
        };
        history.push(format!("{step}: mount {} {what} {offset}+{len}", mount + 1));
        let reader = numbers.below(MEMBERS as u64) as usize;
        let found = fs::read(at[reader].join("f")).expect("read");
        let differs = found.iter().zip(&model).position(|(a, b)| a != b);
        let tail = history.len().saturating_sub(12);
        assert!(
            found == model,
            "step {step}, mount {}: {} bytes for {}, differ at {differs:?}; run again: HYDFS_SEED={seed}\n{}",
            reader + 1,
            found.len(),
            model.len(),
            history[tail..].join("\n")
        );
    }
}

#[test]
fn holes_are_told_from_data() {
    const FAR: u64 = 300 * MIB;
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "seek");
    let file = open(&at[0].join("f"));
    file.write_all_at(b"begin", 0).expect("written");
    file.write_all_at(b"end", FAR).expect("written");
    for at in &at {
        let file = File::open(at.join("f")).expect("opened");
        assert_eq!(seek(&file, 2, libc::SEEK_DATA), Ok(2));
        let hole = seek(&file, 0, libc::SEEK_HOLE).expect("a hole");
        assert!((5..FAR).contains(&hole), "hole at {hole}");
        let data = seek(&file, hole, libc::SEEK_DATA).expect("data");
        assert!(data > hole && data <= FAR, "data at {data}");
        assert_eq!(seek(&file, FAR, libc::SEEK_HOLE), Ok(FAR + 3));
        assert_eq!(
            seek(&file, FAR + 3, libc::SEEK_DATA),
            Err(Some(libc::ENXIO))
        );
    }
    // Programs that look for holes copy what is there, and nothing else.
    sh(&at[1], "cp f copy; cmp f copy; cmp copy ../seek/f");
    let copied = fs::metadata(at[2].join("copy")).expect("metadata");
    assert_eq!(copied.len(), FAR + 3);
    assert!(copied.blocks() * 512 < 200 * MIB, "holes were filled");

    // What is written into a hole through a mapping is data, though the kernel has not handed it on.
    let mapped = open(&at[1].join("mapped"));
    mapped.set_len(FAR).expect("grown");
    assert_eq!(
        seek(&mapped, 100 * MIB, libc::SEEK_DATA),
        Err(Some(libc::ENXIO))
    );
    let mut map = Mapping::of(&mapped, true);
    map.bytes_mut()[200 * MIB as usize] = 7;
    let reader = File::open(at[1].join("mapped")).expect("opened");
    let data = seek(&reader, 100 * MIB, libc::SEEK_DATA).expect("the mapped byte");
    assert!(data <= 200 * MIB, "data at {data}");
    let hole = seek(&reader, data, libc::SEEK_HOLE).expect("a hole");
    assert!(hole > 200 * MIB, "hole at {hole}");
}

#[test]
fn copies_have_what_other_mounts_appended() {
    let Some(cluster) = Shared::up(MEMBERS) else {
        return;
    };
    let at = folders(&cluster, "copy");
    let mut expected = Numbers(3).bytes(5_000_000);
    fs::write(at[0].join("from"), &expected).expect("written");
    let mut appender = OpenOptions::new()
        .append(true)
        .open(at[1].join("from"))
        .expect("opened");
    appender.write_all(b" and more").expect("appended");
    expected.extend_from_slice(b" and more");
    let (from, to) = (
        File::open(at[2].join("from")).expect("opened"),
        open(&at[2].join("to")),
    );
    assert_eq!(copy(&from, 0, &to, 0, 8_000_000), expected.len());
    drop(to);
    for at in &at {
        assert!(fs::read(at.join("to")).expect("read") == expected);
    }
    // By an ordinary user's copy a file loses its set-user-id bit, as by a write.
    sh(&at[0], "cp /bin/true tool; chmod 4755 tool");
    let tool = open(&at[0].join("tool"));
    let from = File::open(at[0].join("from")).expect("opened");
    std::thread::spawn(move || {
        become_ordinary();
        assert_eq!(copy(&from, 0, &tool, 0, 10), 10);
    })
    .join()
    .expect("copied");
    assert_eq!(sh(&at[1], "stat -c %a tool"), "755\n");
}

/// This thread's calls on files are those of an ordinary user from now on.
#[allow(unsafe_code)]
fn become_ordinary() {
    // SAFETY: takes a number and cannot fail.
    unsafe { libc::setfsuid(65_534) };
}
