//! Log and state machine against openraft's own suite, and the log against a model through crashes.

use crate::{
    log::Storage,
    machine::{Machine, StateMachine},
    progress::Progress,
    raft::{Entry, LogId, Payload, Sealed, Types, Vote},
    snapshots::Snapshots,
    wire::EntryId,
};
use bytes::Bytes;
use hydfs_store::{Crash, LogOptions, MemDisk, SyncMode};
use hydfs_types::{CommandError, Envelope, LogIndex, Reply};
use openraft::{
    RaftLogReader, StorageError,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{sync::Arc, time::Duration};

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: LogIndex, _: Envelope) -> Result<Reply, CommandError> {
        Ok(Reply::Done)
    }
    fn skip(&mut self, _: LogIndex) {}
    fn snapshot(&self) -> Vec<u8> {
        vec![7; 100]
    }
    fn restore(&mut self, bytes: &[u8], _: LogIndex) -> Result<(), String> {
        (bytes == [7; 100])
            .then_some(())
            .ok_or_else(|| "other bytes".into())
    }
}

fn options() -> LogOptions {
    LogOptions {
        file_bytes: 16 << 10,
        spares: 1,
        salt: 5,
        sync: SyncMode::Inline {
            delay: Duration::from_micros(100),
        },
    }
}

fn open(disk: &MemDisk) -> Storage {
    Storage::open(disk.attach(), "raft", options()).unwrap()
}

struct Builder;

impl StoreBuilder<Types, Storage, Machine> for Builder {
    async fn build(&self) -> Result<((), Storage, Machine), StorageError<Types>> {
        let disk = MemDisk::new(1);
        let snapshots = Arc::new(Snapshots::open(disk.attach(), "raft", false).unwrap());
        Ok((
            (),
            open(&disk),
            Machine::new(Box::new(Nothing), Arc::new(Progress::new()), snapshots),
        ))
    }
}

#[tokio::test(start_paused = true)]
async fn openraft_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn id(term: u64, index: u64) -> LogId {
    EntryId { term, index }.into()
}

fn entry(term: u64, index: u64, len: usize) -> Entry {
    Entry::new(
        id(term, index),
        Payload::Normal(Sealed(Bytes::from(vec![index as u8; len]))),
    )
}

/// What the log should hold: entries from `first`, the purge mark, the vote.
#[derive(Clone, Default)]
struct Model {
    first: u64,
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

async fn check(storage: &mut Storage, model: &Model, what: &str) {
    assert_eq!(
        storage.try_get_log_entries(0..u64::MAX).await.unwrap(),
        model.entries,
        "{what}"
    );
    let state = storage.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, model.purged, "{what}");
    assert_eq!(
        state.last_log_id,
        model.entries.last().map(|e| e.log_id).or(model.purged),
        "{what}"
    );
    assert_eq!(storage.read_vote().await.unwrap(), model.vote, "{what}");
}

/// Random operations, then a kill or a power cut: all that was said to be durable is there, and the log is one that was written.
async fn crash_run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = MemDisk::new(seed);
    let mut storage = open(&disk);
    let mut model = Model::default();
    let mut term = 1;
    for life in 0..4 {
        let what = format!("seed {seed}, life {life}");
        check(&mut storage, &model, &what).await;
        for _ in 0..rng.random_range(1..40) {
            match rng.random_range(0..10) {
                0..6 => {
                    let count = rng.random_range(1..6);
                    let first = model.next();
                    let new: Vec<Entry> = (first..first + count)
                        .map(|at| entry(term, at, rng.random_range(0..900)))
                        .collect();
                    storage.blocking_append(new.clone()).await.unwrap();
                    model.entries.extend(new);
                }
                6 if !model.entries.is_empty() => {
                    let keep = rng.random_range(0..=model.entries.len());
                    let last = model.entries[..keep]
                        .last()
                        .map(|e| e.log_id)
                        .or(model.purged);
                    storage.truncate_after(last).await.unwrap();
                    model.entries.truncate(keep);
                    // As a leader would: the cut is followed by entries of a newer term.
                    term += 1;
                    let first = model.next();
                    storage
                        .blocking_append([entry(term, first, 10)])
                        .await
                        .unwrap();
                    model.entries.push(entry(term, first, 10));
                }
                7 if !model.entries.is_empty() => {
                    let gone = rng.random_range(1..=model.entries.len());
                    let upto = model.entries[gone - 1].log_id;
                    storage.purge(upto).await.unwrap();
                    storage.sync().await.unwrap();
                    model.entries.drain(..gone);
                    (model.first, model.purged) = (upto.index + 1, Some(upto));
                }
                8 => {
                    term += 1;
                    let vote = Vote::new(term, rng.random_range(1..4));
                    storage.save_vote(&vote).await.unwrap();
                    model.vote = Some(vote);
                }
                9 => {
                    // A snapshot of another member that reaches past the end.
                    let upto = id(term, model.next() + rng.random_range(0..5));
                    storage.purge(upto).await.unwrap();
                    storage.sync().await.unwrap();
                    model = Model {
                        first: upto.index + 1,
                        entries: Vec::new(),
                        purged: Some(upto),
                        vote: model.vote,
                    };
                }
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        check(&mut storage, &model, &what).await;
        let how = [Crash::Kill, Crash::PowerCut, Crash::PowerCutTorn][rng.random_range(0..3)];
        disk.crash(how);
        storage = open(&disk);
    }
}

#[tokio::test(start_paused = true)]
async fn durable_entries_survive_every_crash() {
    for seed in 0..60 {
        crash_run(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn appends_share_syncs_and_files_are_dropped() {
    let disk = MemDisk::new(3);
    let mut storage = open(&disk);
    let mut answers = Vec::new();
    let changes = disk.changes();
    for at in 0..20 {
        let (send, receive) = Types::oneshot();
        storage
            .append([entry(1, at, 100)], IOFlushed::signal(send))
            .await
            .unwrap();
        answers.push(receive);
    }
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    // 20 entries, at most a handful of syncs and marks.
    assert!(
        disk.changes() - changes < 28,
        "{} changes of the disk",
        disk.changes() - changes
    );
    for at in 20..600 {
        storage.blocking_append([entry(1, at, 1000)]).await.unwrap();
    }
    let files = disk.attach().list("raft").unwrap().len();
    storage.purge(id(1, 590)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let left = disk.attach().list("raft").unwrap().len();
    assert!(files > 30 && left < 6, "{files} files before, {left} after");
}
