//! The log as its callers see it: order, files, limits, errors.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use hydfs_store::{
    Crash, DiskOp, ENTRY_BYTES_MAX, Fault, Log, LogOptions, MemDisk, Position, RealDisk, Result,
    StoreError, SyncMode, Witness,
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const INLINE: SyncMode = SyncMode::Inline {
    delay: Duration::from_millis(1),
};

fn options() -> LogOptions {
    LogOptions {
        file_bytes: 16 << 10,
        spares: 2,
        salt: 7,
        sync: INLINE,
    }
}

fn open(disk: &MemDisk) -> Result<(Log, Vec<(Position, Bytes)>)> {
    let mut entries = Vec::new();
    let log = Log::open(disk.attach(), "log", options(), |at, _, bytes| {
        entries.push((at, bytes));
        Ok(())
    })?;
    Ok((log, entries))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

fn names(disk: &MemDisk, suffix: &str) -> Vec<String> {
    disk.attach()
        .list("log")
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(suffix))
        .collect()
}

fn fill(log: &Log, count: usize) -> Vec<Position> {
    (0..count)
        .map(|at| log.append(1, &[&[at as u8; 1000]]).unwrap())
        .collect()
}

fn damaged(result: Result<impl Sized>) -> (String, u64) {
    match result.err() {
        Some(StoreError::Damaged { path, offset, .. }) => (path, offset),
        other => panic!("not damage: {other:?}"),
    }
}

#[test]
fn entries_come_back_in_order_over_files() {
    let disk = MemDisk::new(1);
    let (log, found) = open(&disk).unwrap();
    assert!(found.is_empty());
    let at = fill(&log, 40);
    assert!(at.is_sorted() && at[39].file() >= 3);
    let (kind, payload) = log.read(at[17]).unwrap();
    assert_eq!((kind, &payload[..]), (1, &[17; 1000][..]));
    let from = log
        .replay(at[20])
        .map(|entry| entry.unwrap().0)
        .collect::<Vec<_>>();
    assert_eq!(from, at[20..]);
    assert_eq!(log.stats().appends, 40);
    drop(log);
    disk.crash(Crash::Kill);
    let (log, found) = open(&disk).unwrap();
    assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), at);
    assert_eq!(log.durable(), log.tail());
}

#[test]
fn one_sync_serves_many() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let log = Log::open(
        disk,
        "log",
        LogOptions {
            sync: SyncMode::Thread,
            ..options()
        },
        |_, _, _| Ok(()),
    )
    .unwrap();
    wait(async {
        let mut waits = Vec::new();
        for _ in 0..300 {
            log.append(1, &[b"x"]).unwrap();
            waits.push(log.sync());
        }
        for wait in waits {
            wait.await.unwrap();
        }
    });
    let stats = log.stats();
    assert_eq!((stats.appends, stats.bytes), (300, 300));
    assert!(stats.syncs < 300, "{stats:?}");
    assert!(log.durable() > log.replay(Position(0)).last().unwrap().unwrap().0);
}

#[test]
fn dropped_files_are_reused_and_their_bytes_are_no_entries() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let at = fill(&log, 60);
    log.drop_before(at[59]).unwrap();
    assert!(matches!(log.read(at[0]), Err(StoreError::Dropped(_))));
    assert_eq!(names(&disk, ".spare").len(), 2);
    assert_eq!(log.first().file(), at[59].file());
    // Into a recycled file, and not far: old entries stand behind the new ones.
    let more = fill(&log, 15);
    assert!(names(&disk, ".spare").len() < 2);
    wait(log.sync()).unwrap();
    drop(log);
    disk.crash(Crash::PowerCut);
    let (log, found) = open(&disk).unwrap();
    assert_eq!(found.last().map(|(at, _)| *at), more.last().copied());
    assert_eq!(log.read(at[59]).unwrap().1[0], 59);
}

#[test]
fn truncation_is_durable_and_leaves_no_ghosts() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let at = fill(&log, 40);
    wait(log.sync()).unwrap();
    log.truncate_after(at[4]).unwrap();
    assert_eq!(log.tail(), at[5]);
    assert_eq!(log.append(2, &[&[9; 1000]]).unwrap(), at[5]);
    wait(log.sync()).unwrap();
    drop(log);
    disk.crash(Crash::PowerCut);
    let (_, found) = open(&disk).unwrap();
    assert_eq!(
        found.iter().map(|(_, bytes)| bytes[0]).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 9]
    );
}

#[test]
fn a_full_disk_refuses_and_later_goes_on() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let mut at = fill(&log, 3);
    disk.set_capacity(Some(20 << 10));
    let refused = loop {
        match log.append(1, &[&[at.len() as u8; 1000]]) {
            Ok(position) => at.push(position),
            Err(error) => break error,
        }
    };
    assert!(refused.is_no_space(), "{refused}");
    assert!(log.append(1, &[&[0; 1000]]).unwrap_err().is_no_space());
    assert_eq!(log.read(at[2]).unwrap().1[0], 2);
    wait(log.sync()).unwrap();
    disk.set_capacity(None);
    at.extend(fill(&log, 3));
    drop(log);
    disk.crash(Crash::Kill);
    assert_eq!(
        open(&disk)
            .unwrap()
            .1
            .iter()
            .map(|(at, _)| *at)
            .collect::<Vec<_>>(),
        at
    );
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let at = fill(&log, 1);
    disk.inject(Fault {
        op: DiskOp::Sync,
        path: ".log".into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    assert!(matches!(wait(log.sync()), Err(StoreError::Poisoned(_))));
    assert!(matches!(wait(log.sync()), Err(StoreError::Poisoned(_))));
    assert!(matches!(
        log.append(1, &[b"x"]),
        Err(StoreError::Poisoned(_))
    ));
    assert!(log.durable() <= at[0]);
    assert_eq!(log.read(at[0]).unwrap().1.len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_hangs_stops_the_log() {
    let disk = MemDisk::new(1);
    let options = LogOptions {
        sync: SyncMode::Inline {
            delay: Duration::from_secs(3600),
        },
        ..options()
    };
    let log = Log::open(disk.attach(), "log", options, |_, _, _| Ok(())).unwrap();
    log.append(1, &[b"x"]).unwrap();
    let hung = log.sync().await;
    assert!(matches!(hung, Err(StoreError::SyncTimedOut { .. })));
    assert!(log.failure().unwrap().contains("longer than"));
    assert!(matches!(
        log.append(1, &[b"y"]),
        Err(StoreError::Poisoned(_))
    ));
}

#[test]
fn too_large_is_said() {
    let disk = MemDisk::new(1);
    let options = LogOptions {
        file_bytes: 8 << 20,
        ..options()
    };
    let log = Log::open(disk.attach(), "log", options, |_, _, _| Ok(())).unwrap();
    log.append(1, &[&vec![1; ENTRY_BYTES_MAX]]).unwrap();
    assert!(matches!(
        log.append(1, &[&vec![1; ENTRY_BYTES_MAX], b"x"]),
        Err(StoreError::TooLarge { .. })
    ));
}

#[test]
fn fault_s8_a_flipped_bit_of_synced_entries_is_found() {
    for (entry, byte) in [(0usize, 2u64), (3, 30), (11, 500), (17, 20), (39, 700)] {
        let disk = MemDisk::new(1);
        let (log, _) = open(&disk).unwrap();
        let at = fill(&log, 40);
        wait(log.sync()).unwrap();
        drop(log);
        let name = format!("log/{:08}.log", at[entry].file());
        disk.flip_bit(&name, at[entry].offset() + byte, 3).unwrap();
        disk.crash(Crash::Kill);
        let (path, offset) = damaged(open(&disk));
        assert!(path.ends_with(&name), "{path}");
        assert_eq!(offset, at[entry].offset());
    }
}

#[test]
fn fault_s8_a_flipped_bit_is_found_by_a_read() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let at = fill(&log, 2);
    disk.flip_bit("log/00000001.log", at[1].offset() + 600, 0)
        .unwrap();
    assert_eq!(damaged(log.read(at[1])).1, at[1].offset());
    assert_eq!(
        damaged(log.replay(at[0]).collect::<Result<Vec<_>>>()).1,
        at[1].offset()
    );
}

#[test]
fn fault_s8_a_lost_file_and_a_lost_header_are_found() {
    for lost in ["missing", "header", "first header", "last header"] {
        let disk = MemDisk::new(1);
        let (log, _) = open(&disk).unwrap();
        let last = fill(&log, 40)[39].file();
        wait(log.sync()).unwrap();
        drop(log);
        match lost {
            "missing" => disk.attach().remove_file("log/00000002.log").unwrap(),
            "first header" => disk.flip_bit("log/00000001.log", 3, 1).unwrap(),
            "last header" => disk.flip_bit(&format!("log/{last:08}.log"), 12, 1).unwrap(),
            _ => disk.flip_bit("log/00000002.log", 17, 1).unwrap(),
        }
        disk.crash(Crash::Kill);
        damaged(open(&disk));
    }
}

#[test]
fn fault_s1_what_a_torn_tail_left_behind_never_comes_back() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let at = fill(&log, 30);
    drop(log);
    // As if a power cut had kept all but the second: nothing says that it was durable.
    disk.flip_bit("log/00000001.log", at[1].offset() + 500, 1)
        .unwrap();
    disk.crash(Crash::Kill);
    let (log, found) = open(&disk).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(log.append(1, &[&[77; 1000]]).unwrap(), at[1]);
    drop(log);
    disk.crash(Crash::Kill);
    let (_, found) = open(&disk).unwrap();
    let bytes: Vec<u8> = found.iter().map(|(_, bytes)| bytes[0]).collect();
    assert_eq!(bytes, [0, 77]);
}

#[test]
fn fault_s8_damage_anywhere_gives_the_same_entries_or_an_error() {
    for round in 0..300u64 {
        let disk = MemDisk::new(1);
        let (log, _) = open(&disk).unwrap();
        let at = fill(&log, 30);
        wait(log.sync()).unwrap();
        drop(log);
        // A walk over three files that meets headers, payloads, padding and unwritten space.
        let place = round * 7_919 % (3 * options().file_bytes);
        let name = format!("log/{:08}.log", 1 + place / options().file_bytes);
        disk.flip_bit(&name, place % options().file_bytes, (round % 8) as u8)
            .unwrap();
        disk.crash(Crash::Kill);
        match open(&disk) {
            Ok((_, found)) => assert!(found.iter().map(|(at, _)| *at).eq(at), "round {round}"),
            Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{error}"),
        }
    }
}

#[test]
fn fault_s8_a_lost_header_is_found_even_if_nothing_was_durable() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    fill(&log, 2);
    drop(log);
    disk.flip_bit("log/00000001.log", 3, 1).unwrap();
    disk.crash(Crash::Kill);
    assert_eq!(damaged(open(&disk)).1, 0);
}

#[test]
fn a_witness_knows_how_far_the_log_goes_before_an_append_returns() {
    struct End(AtomicU64);
    impl Witness for End {
        fn written(&self, end: Position) {
            self.0.store(end.0, Ordering::SeqCst);
        }
    }
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    fill(&log, 1);
    let end = Arc::new(End(AtomicU64::new(0)));
    let knows = || Position(end.0.load(Ordering::SeqCst));
    log.set_witness(end.clone());
    assert_eq!(knows(), log.tail());
    for n in 0..30 {
        let at = log.append(1, &[&[n; 5000]]).unwrap();
        assert!(knows() > at && knows() == log.tail());
        drop(wait(log.sync()));
        // A mark after the sync is nobody's.
        assert!(knows() <= log.tail());
    }
    let before = knows();
    drop(log);
    disk.crash(Crash::Kill);
    let (log, _) = open(&disk).unwrap();
    assert!(before <= log.tail());
    log.set_witness(end.clone());
    let at = log.append(1, &[b"x"]).unwrap();
    log.truncate_from(at).unwrap();
    assert_eq!(knows(), at);
}
