//! Journal entries: their bytes, and that they come back.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use hydfs_store::{Crash, Journal, JournalEntry, LogOptions, MemDisk, StoreError, SyncMode};
use hydfs_types::{
    Digest, Incarnation, MapVersion, Op, Prepare, RecordHead, Run, SegmentId, SegmentVersion, Seq,
    SlotEpoch, SlotId, Then, Time, WriterId, encode,
};
use std::time::Duration;

fn options() -> LogOptions {
    LogOptions {
        sync: SyncMode::Inline {
            delay: Duration::ZERO,
        },
        ..LogOptions::new(1)
    }
}

fn head(payload: &[u8]) -> RecordHead {
    RecordHead {
        writer: WriterId(3),
        segment: SegmentId(300),
        seq: Seq(2),
        prev: Seq(1),
        op: Op::WriteAt(70_000),
        time: Time {
            sec: 1_700_000_000,
            nsec: 5,
        },
        len: payload.len() as u32,
        crc: crc32c::crc32c(payload),
    }
}

fn entries() -> Vec<(JournalEntry, &'static str)> {
    let (segment, version, digest) = (SegmentId(300), SegmentVersion(9), Digest([0xab; 32]));
    let prepare = Prepare {
        slot: SlotId(17),
        epoch: SlotEpoch(4),
        map: MapVersion(21),
        from: Incarnation(6),
        segment,
        base: SegmentVersion(8),
        base_digest: Digest([0xcd; 32]),
        runs: vec![Run {
            writer: WriterId(3),
            first: Seq(1),
            last: Seq(2),
        }],
        digest,
        len: 70_005,
        then: Then::SetLen(5),
    };
    vec![
        (
            JournalEntry::Record(head(b"hello")),
            "01000003ac02020101f0a20480c49fd50c0505ccf6c6d309",
        ),
        (
            JournalEntry::Fence {
                slot: SlotId(17),
                epoch: SlotEpoch(4),
            },
            "0100011104",
        ),
        (
            JournalEntry::Prepared(prepare.clone()),
            "01000211041506ac0208cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd01030102ababababababababababababababababababababababababababababababababf5a2040205",
        ),
        (
            JournalEntry::Applied {
                segment,
                version,
                len: 70_005,
                digest,
                runs: prepare.runs.clone(),
                then: Then::SetLen(5),
            },
            "010003ac0209f5a204abababababababababababababababababababababababababababababababab010301020205",
        ),
        (
            JournalEntry::Adopted {
                segment,
                version,
                len: 70_005,
                digest,
            },
            "010004ac0209f5a204abababababababababababababababababababababababababababababababab",
        ),
        (
            JournalEntry::Dropped {
                segment,
                writer: WriterId(3),
                after: Seq(2),
            },
            "010005ac020302",
        ),
        (JournalEntry::Retired { segment }, "010006ac02"),
        (
            JournalEntry::Incarnation {
                incarnation: Incarnation(6),
            },
            "01000706",
        ),
        (
            JournalEntry::Order {
                segment,
                slot: SlotId(17),
                pending: vec![(WriterId(3), Seq(2))],
            },
            "010008ac0211010302",
        ),
    ]
}

#[test]
fn golden_entries() {
    for (entry, wanted) in entries() {
        let hex: String = encode(&entry).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, wanted, "{entry:?}");
    }
}

#[test]
fn entries_and_payloads_come_back() {
    let disk = MemDisk::new(1);
    let (journal, found) = Journal::load(disk.attach(), "journal", options()).unwrap();
    assert!(found.is_empty());
    let payload = Bytes::from(vec![5; 100_000]);
    let mut wanted = Vec::new();
    for (entry, _) in entries() {
        let at = match &entry {
            JournalEntry::Record(_) => {
                let big = head(&payload);
                wanted.push((
                    journal.append_record(&big, &payload).unwrap(),
                    JournalEntry::Record(big),
                ));
                journal
                    .append_record(&head(b"hello"), &Bytes::from_static(b"hello"))
                    .unwrap()
            }
            fact => journal.append(fact).unwrap(),
        };
        wanted.push((at, entry));
    }
    disk.crash(Crash::Kill);
    let (journal, found) = Journal::load(disk.attach(), "journal", options()).unwrap();
    assert_eq!(found, wanted);
    assert_eq!(
        journal.read_payload(wanted[0].0, payload.len()).unwrap(),
        payload
    );
    assert_eq!(journal.read_payload(wanted[1].0, 5).unwrap(), "hello");
    assert!(matches!(
        journal.read_payload(wanted[2].0, 5),
        Err(StoreError::Malformed { .. })
    ));
}
