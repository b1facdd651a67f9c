//! `fsck` finds damage of each kind, explains it, and changes nothing. Folders are made with the store's own calls.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use hydfs_node::{FolderReport, fsck};
use hydfs_store::{
    Bases, Folder, Journal, JournalEntry, Log, LogOptions, SUM_BLOCK_BYTES, StoreError,
    check::Severity,
};
use hydfs_types::{Digest, Op, Record, RecordHead, SegmentId, SegmentVersion, Seq, Time, WriterId};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const SEGMENT: SegmentId = SegmentId(0x1234);
const BASE: &str = "base/34/0000000000001234";
const BASE_BYTES: usize = 3 * SUM_BLOCK_BYTES as usize + 1000;

struct Data {
    root: tempfile::TempDir,
}

fn record(seq: u64, len: usize) -> Record {
    let payload = Bytes::from(vec![seq as u8 | 1; len]);
    let head = RecordHead {
        writer: WriterId(7),
        segment: SegmentId(0x5678),
        seq: Seq(seq),
        prev: Seq(seq - 1),
        op: Op::Append,
        time: Time::default(),
        len: len as u32,
        crc: crc32c::crc32c(&payload),
    };
    Record { head, payload }
}

impl Data {
    /// A folder of a member that stopped: a base of four blocks, and records that wait for a merge.
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), "n1").unwrap();
        let options = LogOptions::new(folder.salt());
        let bases = Bases::open(folder.disk().clone(), Folder::BASE, options.sync).unwrap();
        let content: Vec<u8> = (0..BASE_BYTES).map(|at| (at * 31) as u8 | 1).collect();
        bases.write(SEGMENT, 0, &content).unwrap();
        bases.sync(SEGMENT).await.unwrap();
        let (journal, _) = Journal::load(folder.disk().clone(), Folder::JOURNAL, options).unwrap();
        journal
            .append(&JournalEntry::Adopted {
                segment: SEGMENT,
                version: SegmentVersion(1),
                len: BASE_BYTES as u64,
                digest: Digest::default(),
            })
            .unwrap();
        for seq in 1..=20 {
            let record = record(seq, 5000);
            journal
                .append_record(&record.head, &record.payload)
                .unwrap();
            journal.sync().await.unwrap();
        }
        drop(
            Log::open(folder.disk().clone(), Folder::RAFT, options, |_, _, _| {
                Ok(())
            })
            .unwrap(),
        );
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn check(&self) -> FolderReport {
        let before = listing(self.root.path());
        let report = fsck(self.root.path()).unwrap();
        assert!(
            listing(self.root.path()) == before,
            "the check changed the folder"
        );
        report
    }

    /// The one finding that there is, as (severity, path, offset, what and remedy).
    fn one(&self) -> (Severity, String, Option<u64>, String) {
        let report = self.check();
        let [finding] = &report.findings[..] else {
            panic!("{:#?}", report.findings)
        };
        assert!(!report.clean && !finding.remedy.is_empty());
        (
            finding.severity,
            finding.path.clone(),
            finding.offset,
            format!("{} / {}", finding.what, finding.remedy),
        )
    }

    fn flip(&self, name: &str, at: u64) {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    fn cut(&self, name: &str, len: u64) {
        let file = fs::OpenOptions::new().write(true).open(self.path(name));
        file.unwrap().set_len(len).unwrap();
    }
}

/// Every file with its content, but for the zeros that logs end in.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(listing(&path));
            continue;
        }
        let file = fs::File::open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        let mut bytes = vec![0; len.min(1 << 20) as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        all.insert(path, (len, bytes));
    }
    all
}

#[tokio::test]
async fn an_intact_folder_is_clean() {
    let data = Data::new().await;
    let report = data.check();
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(report.identity.unwrap().name, "n1");
    assert_eq!(
        (report.looked.records, report.looked.journal_entries),
        (20, 21)
    );
    assert_eq!(
        (report.looked.bases, report.looked.base_bytes),
        (1, BASE_BYTES as u64)
    );
}

#[tokio::test]
async fn fault_s8_a_flipped_bit_of_a_base_is_named_with_its_block() {
    let data = Data::new().await;
    data.flip(BASE, 2 * SUM_BLOCK_BYTES + 77);
    let (severity, path, offset, text) = data.one();
    assert_eq!(
        (severity, offset),
        (Severity::Damage, Some(2 * SUM_BLOCK_BYTES))
    );
    assert!(path.ends_with(BASE), "{path}");
    assert!(
        text.contains("checksum") && text.contains("start the member"),
        "{text}"
    );
}

#[tokio::test]
async fn a_base_that_was_cut_or_is_gone_is_found() {
    let data = Data::new().await;
    data.cut(BASE, SUM_BLOCK_BYTES);
    let report = data.check();
    assert!(
        report
            .findings
            .iter()
            .all(|one| one.severity == Severity::Damage)
            && report
                .findings
                .iter()
                .any(|one| one.what.contains("65536 bytes long"))
            && report
                .findings
                .iter()
                .any(|one| one.what.contains("3 blocks")),
        "{:#?}",
        report.findings
    );
    fs::remove_file(data.path(BASE)).unwrap();
    fs::remove_file(data.path(&format!("{BASE}.sum"))).unwrap();
    let (severity, _, _, text) = data.one();
    assert_eq!(severity, Severity::Damage);
    assert!(text.contains("is missing"), "{text}");
}

#[tokio::test]
async fn lost_and_unreadable_checksums_are_found() {
    let data = Data::new().await;
    let sums = format!("{BASE}.sum");
    data.flip(&sums, 1);
    let (severity, path, _, text) = data.one();
    assert_eq!(severity, Severity::Damage);
    assert!(
        path.ends_with(".sum") && text.contains("unreadable"),
        "{path}: {text}"
    );
    fs::remove_file(data.path(&sums)).unwrap();
    let (_, path, _, text) = data.one();
    assert!(
        path.ends_with(BASE) && text.contains("no checksums"),
        "{path}: {text}"
    );
}

#[tokio::test]
async fn a_flipped_bit_of_the_journal_is_told_from_a_torn_tail() {
    let data = Data::new().await;
    data.flip("journal/00000001.log", 4096 + 12_000);
    let (severity, path, offset, text) = data.one();
    assert_eq!(severity, Severity::Damage);
    assert!(
        path.ends_with("journal/00000001.log") && offset.is_some_and(|at| at >= 4096),
        "{path} {offset:?}"
    );
    assert!(
        text.contains("durable") && text.contains("empty one"),
        "{text}"
    );
}

#[tokio::test]
async fn a_record_whose_own_checksum_is_wrong_is_found() {
    let data = Data::new().await;
    {
        let folder = Folder::open(data.root.path(), "n1").unwrap();
        let options = LogOptions::new(folder.salt());
        let (journal, _) = Journal::load(folder.disk().clone(), Folder::JOURNAL, options).unwrap();
        let mut bad = record(21, 100);
        bad.head.crc ^= 1;
        journal.append_record(&bad.head, &bad.payload).unwrap();
    }
    let (severity, _, _, text) = data.one();
    assert_eq!(severity, Severity::Damage);
    assert!(text.contains("record s21 of writer w7"), "{text}");
}

#[tokio::test]
async fn a_cut_log_file_is_found_by_its_size() {
    let data = Data::new().await;
    data.cut("journal/00000001.log", 4096 + 200);
    let report = data.check();
    assert!(
        report
            .findings
            .iter()
            .any(|one| one.severity == Severity::Damage && one.what.contains("only 4296 bytes")),
        "{:#?}",
        report.findings
    );
}

#[tokio::test]
async fn a_senseless_record_of_the_agreement_log_is_found() {
    let data = Data::new().await;
    {
        let folder = Folder::open(data.root.path(), "n1").unwrap();
        let options = LogOptions::new(folder.salt());
        let log = Log::open(folder.disk().clone(), Folder::RAFT, options, |_, _, _| {
            Ok(())
        });
        log.unwrap().append(99, &[b"from the future"]).unwrap();
    }
    let (severity, path, _, text) = data.one();
    assert_eq!(severity, Severity::Damage);
    assert!(
        path.ends_with("raft") && text.contains("unknown kind 99"),
        "{path}: {text}"
    );
}

#[tokio::test]
async fn a_damaged_snapshot_is_found() {
    let data = Data::new().await;
    fs::write(data.path("raft/snapshot-9"), b"no snapshot at all").unwrap();
    let (severity, _, _, text) = data.one();
    assert_eq!(severity, Severity::Damage);
    assert!(text.contains("snapshot"), "{text}");
}

#[tokio::test]
async fn strays_and_leftovers_are_warnings() {
    let data = Data::new().await;
    for name in [
        "notes.txt",
        "journal/00000001.bak",
        "base/34/readme",
        "base/tmp/0000000000001234-1",
        "raft/snapshot-7.tmp",
    ] {
        fs::write(data.path(name), b"x").unwrap();
    }
    // A copy that the journal does not know.
    fs::create_dir_all(data.path("base/99")).unwrap();
    fs::copy(data.path(BASE), data.path("base/99/0000000000000099")).unwrap();
    fs::copy(
        data.path(&format!("{BASE}.sum")),
        data.path("base/99/0000000000000099.sum"),
    )
    .unwrap();
    let report = data.check();
    assert!(
        report
            .findings
            .iter()
            .all(|one| one.severity == Severity::Warning),
        "{:#?}",
        report.findings
    );
    for word in [
        "notes.txt",
        "00000001.bak",
        "base/34/readme",
        "base/tmp/0000000000001234-1",
        "snapshot-7.tmp",
        "base/99/0000000000000099",
    ] {
        let named = report.findings.iter().any(|one| one.path.ends_with(word));
        assert!(named, "{word} is not in {:#?}", report.findings);
    }
}

#[tokio::test]
async fn a_lost_or_damaged_format_is_found_and_bases_are_still_checked() {
    let data = Data::new().await;
    data.flip(BASE, 5);
    fs::write(data.path("format"), b"format = \"one\"").unwrap();
    let report = data.check();
    assert!(report.identity.is_none());
    assert!(
        report
            .findings
            .iter()
            .any(|one| one.path.ends_with("format"))
            && report.findings.iter().any(|one| one.path.ends_with(BASE)),
        "{:#?}",
        report.findings
    );
    fs::remove_file(data.path("format")).unwrap();
    assert!(
        data.check()
            .findings
            .iter()
            .any(|one| one.what.contains("missing"))
    );
}

#[tokio::test]
async fn a_folder_in_use_and_a_folder_of_nobody_are_not_checked() {
    let data = Data::new().await;
    let running = Folder::open(data.root.path(), "n1").unwrap();
    assert!(matches!(
        fsck(data.root.path()),
        Err(StoreError::InUse { .. })
    ));
    drop(running);
    let empty = tempfile::tempdir().unwrap();
    let why = fsck(empty.path()).unwrap_err().to_string();
    assert!(why.contains("--data"), "{why}");
    assert!(fsck(&data.path("nowhere")).is_err());
}
