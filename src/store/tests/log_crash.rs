//! The log against crashes at every boundary: what was synced is there, and what replays is a prefix of what was
//! appended, through kills, power cuts and crashes during recovery.
#![allow(clippy::unwrap_used)]

use hydfs_store::{Crash, Log, LogOptions, MemDisk, Position, StoreError, SyncMode};
use proptest::prelude::*;
use std::{future::Future, time::Duration};

const DIR: &str = "log";

fn options() -> LogOptions {
    LogOptions {
        file_bytes: 16 << 10,
        spares: 1,
        salt: 7,
        sync: SyncMode::Inline {
            delay: Duration::ZERO,
        },
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

type Entries = Vec<(Position, Vec<u8>)>;

fn open(disk: &MemDisk) -> Result<(Log, Entries), StoreError> {
    let mut entries = Vec::new();
    let log = Log::open(disk.attach(), DIR, options(), |at, _, bytes| {
        entries.push((at, bytes.to_vec()));
        Ok(())
    })?;
    Ok((log, entries))
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Sync,
    /// Part of what is held, in percent.
    Drop(u8),
    Truncate(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0usize..3000).prop_map(Step::Append),
        4 => Just(Step::Append(700)),
        4 => Just(Step::Sync),
        1 => (0u8..100).prop_map(Step::Drop),
        1 => (0u8..100).prop_map(Step::Truncate),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What may be found after a crash: a prefix of `entries`, at least `synced` of them; those before `dropped` may be gone.
#[derive(Debug, Default)]
struct Model {
    entries: Entries,
    synced: usize,
    dropped: usize,
}

impl Model {
    fn run(&mut self, log: &Log, steps: &[Step], salt: u8) -> Result<(), StoreError> {
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Append(len) => {
                    let payload = vec![salt ^ at as u8; *len];
                    match log.append(1, &[&payload[..len / 2], &payload[len / 2..]]) {
                        Ok(position) => self.entries.push((position, payload)),
                        Err(error) => {
                            // It may be there or not, at the tail or in the next file.
                            self.entries.push((Position(u64::MAX), payload));
                            return Err(error);
                        }
                    }
                }
                Step::Sync => {
                    wait(log.sync())?;
                    self.synced = self.entries.len();
                    assert!(
                        self.entries
                            .last()
                            .is_none_or(|(at, _)| *at < log.durable())
                            || self.synced <= self.dropped
                    );
                }
                Step::Drop(part) => {
                    let index = self.entries.len() * *part as usize / 100;
                    if let Some((position, _)) = self.entries.get(index) {
                        self.dropped = self.dropped.max(index);
                        log.drop_before(*position)?;
                    }
                }
                Step::Truncate(part) => {
                    let index =
                        self.dropped + (self.entries.len() - self.dropped) * *part as usize / 100;
                    if let Some((position, _)) = self.entries.get(index) {
                        self.synced = self.synced.min(index);
                        log.truncate_from(*position)?;
                        self.entries.truncate(index);
                        self.synced = index;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks what was found and takes it for the truth: opening makes it durable.
    fn check(&mut self, found: Entries) {
        let Some(first) = found.first() else {
            assert!(
                self.synced <= self.dropped,
                "synced {} entries, found none",
                self.synced
            );
            *self = Self::default();
            return;
        };
        let start = self
            .entries
            .iter()
            .position(|entry| entry.0 == first.0)
            .or(self.unplaced(first));
        let start =
            start.unwrap_or_else(|| panic!("an entry that was never appended: {:?}", found[0].0));
        assert!(
            start <= self.dropped,
            "{} entries are missing at the start",
            start - self.dropped
        );
        let end = start + found.len();
        assert!(
            end >= self.synced,
            "synced {} entries, found up to {end}",
            self.synced
        );
        for (wanted, got) in self.entries[start..].iter().zip(&found) {
            assert!(wanted.0 == got.0 || wanted.0.0 == u64::MAX, "entry moved");
            assert_eq!(wanted.1, got.1, "other bytes");
        }
        assert!(end <= self.entries.len(), "more entries than appended");
        self.entries.truncate(end);
        for (entry, got) in self.entries[start..].iter_mut().zip(found) {
            *entry = got;
        }
        (self.synced, self.dropped) = (end, self.dropped.min(end));
    }

    /// The append that was cut off has no known position.
    fn unplaced(&self, found: &(Position, Vec<u8>)) -> Option<usize> {
        let last = self
            .entries
            .last()
            .filter(|last| last.0.0 == u64::MAX && last.1 == found.1);
        last.map(|_| self.entries.len() - 1)
    }
}

fn how(kind: u8) -> Crash {
    [Crash::Kill, Crash::PowerCut, Crash::PowerCutTorn][kind as usize % 3]
}

fn scenario(seed: u64, lives: &[(Vec<Step>, u64, u8, u64)]) {
    let disk = MemDisk::new(seed);
    let mut model = Model::default();
    for (life, (steps, changes, crash, recovery)) in lives.iter().enumerate() {
        // A life that may end while it recovers.
        disk.stop_after(*recovery);
        if let Ok((_, found)) = open(&disk) {
            model.check(found);
        }
        disk.crash(how(*crash));
        let (log, found) = open(&disk).unwrap();
        model.check(found);
        assert_eq!(
            log.replay(Position(0))
                .map(|entry| entry.unwrap().0)
                .collect::<Vec<_>>(),
            positions(&model, &log)
        );
        disk.stop_after(*changes);
        // An error here is the machine's end.
        let _ended = model.run(&log, steps, life as u8 * 64);
        drop(log);
        disk.crash(how(crash / 3));
    }
    let (_, found) = open(&disk).unwrap();
    model.check(found);
}

fn positions(model: &Model, log: &Log) -> Vec<Position> {
    model
        .entries
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| *at >= log.first())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fault_s1_what_was_synced_survives_any_crash(
        seed: u64,
        lives in proptest::collection::vec((steps(), 1u64..200, 0u8..9, 0u64..20), 1..5),
    ) {
        scenario(seed, &lives);
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150)
}

#[test]
fn fault_s1_power_cut_at_every_write_boundary() {
    let steps: Vec<Step> = (0..40)
        .map(|at| match at % 8 {
            2 | 5 => Step::Sync,
            6 if at > 24 => Step::Drop(40),
            7 if at > 30 => Step::Truncate(60),
            _ => Step::Append(at * 53 % 2900),
        })
        .collect();
    for changes in 0..130 {
        for crash in 0..9 {
            scenario(
                changes,
                &[
                    (steps.clone(), changes, crash, 100),
                    (steps.clone(), 1000, crash, changes % 15),
                ],
            );
        }
    }
}
