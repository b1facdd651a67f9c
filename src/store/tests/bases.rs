//! Bases against a plain vector, against flipped bits and against crashes.
#![allow(clippy::unwrap_used)]

use hydfs_store::{
    Bases, Crash, DiskOp, Fault, MemDisk, RealDisk, SUM_BLOCK_BYTES, StoreError, SyncMode,
};
use hydfs_types::SegmentId;
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

const SEGMENT: SegmentId = SegmentId(0x1234);
const FILE: &str = "base/34/0000000000001234";
const INLINE: SyncMode = SyncMode::Inline {
    delay: Duration::ZERO,
};

fn open(disk: &MemDisk) -> Bases {
    Bases::open(disk.attach(), "base", INLINE).unwrap()
}

fn everything(bases: &Bases) -> Vec<u8> {
    bases.read(SEGMENT, 0, 1 << 22).unwrap().to_vec()
}

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ salt | 1)
        .collect()
}

#[derive(Debug, Clone)]
enum Step {
    Write { offset: u64, len: usize, salt: u8 },
    Append { len: usize, salt: u8 },
    SetLen(u64),
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let near = prop_oneof![
        0u64..300_000,
        Just(SUM_BLOCK_BYTES),
        Just(SUM_BLOCK_BYTES - 1),
        Just(2 * SUM_BLOCK_BYTES + 1)
    ];
    let len = prop_oneof![0usize..5000, 60_000usize..140_000];
    let step = prop_oneof![
        4 => (near.clone(), len.clone(), any::<u8>()).prop_map(|(offset, len, salt)| Step::Write { offset, len, salt }),
        4 => (len, any::<u8>()).prop_map(|(len, salt)| Step::Append { len, salt }),
        2 => near.prop_map(Step::SetLen),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

fn apply(bases: &Bases, step: &Step, model: &mut Vec<u8>) -> Result<(), StoreError> {
    match step {
        Step::Write { offset, len, salt } => write(bases, *offset, &pattern(*len, *salt), model),
        Step::Append { len, salt } => {
            write(bases, model.len() as u64, &pattern(*len, *salt), model)
        }
        Step::SetLen(len) => {
            bases.set_len(SEGMENT, *len)?;
            model.resize(*len as usize, 0);
            Ok(())
        }
        Step::Sync => bases.sync_now(SEGMENT),
        Step::Reopen => Ok(()),
    }
}

fn write(bases: &Bases, offset: u64, bytes: &[u8], model: &mut Vec<u8>) -> Result<(), StoreError> {
    bases.write(SEGMENT, offset, bytes)?;
    if !bytes.is_empty() {
        let end = offset as usize + bytes.len();
        model.resize(model.len().max(end), 0);
        model[offset as usize..end].copy_from_slice(bytes);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_base_is_a_vector_of_bytes(steps in steps()) {
        let disk = MemDisk::new(1);
        let mut bases = open(&disk);
        let mut model = Vec::new();
        for step in &steps {
            apply(&bases, step, &mut model).unwrap();
            if matches!(step, Step::Reopen) {
                drop(bases);
                disk.crash(Crash::Kill);
                bases = open(&disk);
            }
            bases.verify(SEGMENT).unwrap();
            prop_assert_eq!(&everything(&bases), &model);
            prop_assert_eq!(bases.len(SEGMENT).unwrap().unwrap_or(0), model.len() as u64);
        }
    }

    /// The journal's part is played by the list of steps since the last sync.
    #[test]
    fn fault_s2_a_redo_after_any_crash_gives_the_same_base(seed: u64, steps in steps(), stop in 0u64..60, torn: bool) {
        let disk = MemDisk::new(seed);
        let bases = open(&disk);
        disk.stop_after(stop);
        let (mut synced, mut model) = (Vec::new(), Vec::new());
        let mut since = Vec::new();
        let mut stopped = None;
        for step in &steps {
            if let Err(error) = apply(&bases, step, &mut model) {
                prop_assert!(matches!(error, StoreError::Io { .. }), "{error}");
                stopped = Some(step.clone());
                break;
            }
            since.push(step.clone());
            // After a kill everything is there but the step that was in hand, which a cut ends.
            if matches!(step, Step::Sync) || (!torn && matches!(step, Step::SetLen(_))) {
                synced = model.clone();
                since.clear();
            }
        }
        drop(bases);
        disk.crash(if torn { Crash::PowerCutTorn } else { Crash::Kill });
        let bases = open(&disk);
        if torn {
            bases.after_power_loss();
        }
        let mut redone = synced;
        for step in since.iter().chain(&stopped) {
            apply(&bases, step, &mut redone).unwrap();
        }
        // The length that the journal knows; nothing behind it counts.
        bases.set_len(SEGMENT, redone.len() as u64).unwrap();
        bases.sync_now(SEGMENT).unwrap();
        prop_assert!(everything(&bases) == redone);
        bases.verify(SEGMENT).unwrap();
    }
}

/// What a kill cuts off: some writes, then perhaps a cut.
fn one_cut() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1usize..3000, 60_000usize..70_000];
    let write = prop_oneof![
        (0u64..200_000, len.clone(), any::<u8>()).prop_map(|(offset, len, salt)| Step::Write {
            offset,
            len,
            salt
        }),
        (len, any::<u8>()).prop_map(|(len, salt)| Step::Append { len, salt }),
    ];
    let cut = proptest::option::of((0u64..200_000).prop_map(Step::SetLen));
    (proptest::collection::vec(write, 1..5), cut).prop_map(|(mut steps, cut)| {
        steps.extend(cut);
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3 * cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Killed at any moment, once more while it writes again what it had in hand: nothing is lost, though nobody else has
    /// a copy; and a bit that flipped meanwhile is not taken for good.
    #[test]
    fn fault_s8_after_a_kill_what_was_in_hand_is_written_again_and_a_flip_is_found(
        steps in one_cut(), stops in proptest::collection::vec(0u64..14, 1..3), len in 0usize..180_000, flip in proptest::option::of((0u64..180_000, 0u8..8)),
    ) {
        let disk = MemDisk::new(7);
        let bases = open(&disk);
        let old = pattern(len, 5);
        bases.write(SEGMENT, 0, &old).unwrap();
        bases.sync_now(SEGMENT).unwrap();
        drop(bases);
        for stop in stops {
            let bases = open(&disk);
            let mut model = old.clone();
            disk.stop_after(stop);
            let done = steps.iter().try_for_each(|step| apply(&bases, step, &mut model));
            drop((done, bases));
            disk.crash(Crash::Kill);
        }
        let flipped = flip.is_some_and(|(at, bit)| disk.flip_bit(FILE, at, bit).is_ok());
        let bases = open(&disk);
        let mut model = old.clone();
        for step in &steps {
            apply(&bases, step, &mut model).unwrap();
        }
        bases.settle(SEGMENT);
        let found = bases.verify(SEGMENT);
        if !flipped {
            prop_assert!(found.is_ok(), "{found:?}");
        }
        if found.is_ok() {
            prop_assert!(everything(&bases) == model);
        }
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(60)
}

#[test]
fn fault_s8_a_flipped_bit_is_found_by_scrub_read_and_write() {
    for at in [0u64, 5000, SUM_BLOCK_BYTES - 1, SUM_BLOCK_BYTES, 149_999] {
        let disk = MemDisk::new(1);
        let bases = open(&disk);
        bases.write(SEGMENT, 0, &pattern(150_000, 1)).unwrap();
        bases.sync_now(SEGMENT).unwrap();
        bases.verify(SEGMENT).unwrap();
        disk.flip_bit(FILE, at, 6).unwrap();
        let block = at / SUM_BLOCK_BYTES * SUM_BLOCK_BYTES;
        let found = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Damaged { offset, .. }) if offset == block);
        assert!(found(bases.verify(SEGMENT)), "scrub at {at}");
        assert!(
            found(bases.read(SEGMENT, 0, 150_000).map(drop)),
            "read at {at}"
        );
        assert!(
            found(bases.write(SEGMENT, block + 100, b"x")),
            "a write must not make it look right, at {at}"
        );
        assert!(
            found(bases.set_len(SEGMENT, block + 200)),
            "nor a cut, at {at}"
        );
        // A whole new block heals it.
        bases
            .write(SEGMENT, block, &pattern(SUM_BLOCK_BYTES as usize, 9))
            .unwrap();
        bases.verify(SEGMENT).unwrap();
    }
}

#[test]
fn fault_s8_a_flipped_bit_in_a_hole_or_a_sum_is_found() {
    for (file, at) in [
        (FILE.to_owned(), 10u64),
        (FILE.to_owned(), 70_000),
        (format!("{FILE}.sum"), 16 + 2 * 8),
    ] {
        let disk = MemDisk::new(1);
        let bases = open(&disk);
        bases.write(SEGMENT, 200_000, b"behind two holes").unwrap();
        bases.write(SEGMENT, 140_000, b"x").unwrap();
        bases.sync_now(SEGMENT).unwrap();
        disk.flip_bit(&file, at, 0).unwrap();
        disk.crash(Crash::Kill);
        assert!(
            matches!(open(&disk).verify(SEGMENT), Err(StoreError::Damaged { .. })),
            "{file} at {at}"
        );
    }
}

#[test]
fn fault_s8_a_damaged_header_of_the_checksums_makes_nothing_good() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    bases.write(SEGMENT, 0, &pattern(100_000, 1)).unwrap();
    bases.sync_now(SEGMENT).unwrap();
    disk.crash(Crash::Kill);
    let sums = format!("{FILE}.sum");
    disk.flip_bit(&sums, 3, 1).unwrap();
    open(&disk).verify(SEGMENT).unwrap();
    disk.flip_bit(&sums, 3, 1).unwrap();
    disk.flip_bit(FILE, 70_000, 1).unwrap();
    disk.crash(Crash::Kill);
    let damaged = open(&disk).verify(SEGMENT);
    assert!(
        matches!(damaged, Err(StoreError::Damaged { offset, .. }) if offset == SUM_BLOCK_BYTES)
    );
}

#[test]
fn fault_s13_a_crash_leaves_the_old_base_or_the_pulled_one() {
    for stop in 0..40 {
        let mut finished = true;
        for (seed, how) in [
            (1, Crash::Kill),
            (2, Crash::PowerCut),
            (3, Crash::PowerCutTorn),
            (4, Crash::PowerCutTorn),
            (5, Crash::PowerCutTorn),
        ] {
            let disk = MemDisk::new(seed * 1000 + stop);
            let (old, new) = (pattern(100_000, 1), pattern(170_000, 2));
            let bases = open(&disk);
            bases.write(SEGMENT, 0, &old).unwrap();
            bases.sync_now(SEGMENT).unwrap();
            disk.stop_after(stop);
            let adopted = pull(&bases, &new);
            drop(bases);
            disk.crash(how);
            let bases = open(&disk);
            bases.verify(SEGMENT).unwrap();
            let found = everything(&bases);
            assert!(
                found == new || (found == old && adopted.is_err()),
                "a mix of {} bytes, stop {stop} {how:?}",
                found.len()
            );
            assert_eq!(bases.list().unwrap(), [SEGMENT]);
            assert!(disk.attach().list("base/tmp").unwrap().is_empty());
            finished &= adopted.is_ok();
        }
        if finished {
            return assert!(stop > 5, "the pull was interrupted {stop} times");
        }
    }
    panic!("the pull never finished");
}

/// Its name too, also where the folder was synced before.
#[test]
fn fault_s13_a_pulled_base_is_there_after_a_power_cut() {
    let other = SegmentId(SEGMENT.0 + 256);
    for seed in 0..8 {
        let disk = MemDisk::new(seed);
        let bases = open(&disk);
        bases.write(other, 0, b"in the same folder").unwrap();
        bases.sync_now(other).unwrap();
        let new = pattern(100_000, 1);
        pull(&bases, &new).unwrap();
        drop(bases);
        disk.crash(Crash::PowerCut);
        let bases = open(&disk);
        bases.verify(SEGMENT).unwrap();
        assert_eq!(everything(&bases), new);
    }
}

/// What its steps bring again may not be all that it held: it has to be compared.
#[test]
fn a_base_that_is_missing_after_a_power_loss_is_in_doubt() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    bases.after_power_loss();
    bases.write(SEGMENT, 10, b"redone").unwrap();
    bases.redone();
    bases.write(SegmentId(99), 0, b"new").unwrap();
    assert!(bases.doubts(SEGMENT) && !bases.doubts(SegmentId(99)));
}

fn pull(bases: &Bases, bytes: &[u8]) -> Result<(), StoreError> {
    let mut adoption = bases.adopt(SEGMENT)?;
    for (at, piece) in bytes.chunks(60_000).enumerate() {
        adoption.write(at as u64 * 60_000, piece)?;
    }
    adoption.finish(bytes.len() as u64)
}

#[test]
fn a_pull_given_up_leaves_nothing() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    bases.adopt(SEGMENT).unwrap().write(0, b"half").unwrap();
    assert!(disk.attach().list("base/tmp").unwrap().is_empty());
    assert_eq!(bases.len(SEGMENT).unwrap(), None);
    assert!(bases.list().unwrap().is_empty());
    bases.remove(SEGMENT).unwrap();
}

#[test]
fn more_bases_than_open_files() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    for id in 0..600 {
        bases.write(SegmentId(id), 0, &id.to_le_bytes()).unwrap();
    }
    assert_eq!(bases.unsynced().len(), 600);
    for id in (0..600).rev() {
        assert_eq!(
            &bases.read(SegmentId(id), 0, 100).unwrap()[..],
            id.to_le_bytes()
        );
        bases.write(SegmentId(id), 8, b"more").unwrap();
        bases.verify(SegmentId(id)).unwrap();
    }
    assert_eq!(bases.list().unwrap().len(), 600);
}

#[test]
fn a_failed_sync_is_not_made_good_by_another() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    bases.write(SEGMENT, 0, b"bytes").unwrap();
    disk.inject(Fault {
        op: DiskOp::Sync,
        path: FILE.into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    assert!(matches!(
        bases.sync_now(SEGMENT),
        Err(StoreError::Io { .. })
    ));
    assert!(matches!(
        bases.sync_now(SEGMENT),
        Err(StoreError::Poisoned(_))
    ));
}

#[test]
fn a_full_disk_leaves_a_base_that_can_be_written_again() {
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    bases.write(SEGMENT, 0, &pattern(10_000, 1)).unwrap();
    disk.set_capacity(Some(1));
    assert!(
        bases
            .write(SEGMENT, 5_000, &pattern(100_000, 2))
            .unwrap_err()
            .is_no_space()
    );
    bases.verify(SEGMENT).unwrap();
    disk.set_capacity(None);
    bases.write(SEGMENT, 5_000, &pattern(100_000, 2)).unwrap();
    bases.verify(SEGMENT).unwrap();
}

#[test]
fn fault_s8_a_flipped_bit_is_met_by_a_small_read_too_and_a_patch_heals_it() {
    let root = tempfile::tempdir().unwrap();
    let disk = std::sync::Arc::new(hydfs_store::RealDisk::open(root.path()).unwrap());
    let bases = Bases::open(disk, "base", INLINE).unwrap();
    let bytes = pattern(3 * SUM_BLOCK_BYTES as usize + 500, 3);
    bases.write(SEGMENT, 0, &bytes).unwrap();
    let block = SUM_BLOCK_BYTES as usize;
    let path = root.path().join(FILE);
    let mut rotten = bytes.clone();
    rotten[block + 9] ^= 1;
    std::fs::write(&path, &rotten).unwrap();
    let read = |at: usize| bases.read(SEGMENT, at as u64, 100);
    assert!(matches!(
        read(block + 5000),
        Err(StoreError::Damaged { offset, .. }) if offset == SUM_BLOCK_BYTES
    ));
    assert_eq!(read(2 * block).unwrap(), bytes[2 * block..][..100]);
    assert_eq!(read(3 * block + 450).unwrap(), bytes[3 * block + 450..]);
    let checked = bases.check_now(SEGMENT, 0, 2).unwrap();
    assert_eq!((&checked.bad[..], checked.more), (&[1][..], true));
    bases.patch(SEGMENT, 1, &bytes[block..2 * block]).unwrap();
    assert_eq!(everything(&bases), bytes);
    let checked = bases.check_now(SEGMENT, 0, 9).unwrap();
    assert_eq!(
        (checked.blocks, checked.bad.len(), checked.more),
        (4, 0, false)
    );
    assert_eq!(std::fs::read(path).unwrap(), bytes);
}

#[test]
fn block_sums_depend_on_the_bytes_alone() {
    let len = 2 * SUM_BLOCK_BYTES + 70;
    let sums = |build: &dyn Fn(&Bases)| {
        let disk = MemDisk::new(1);
        let bases = open(&disk);
        build(&bases);
        bases.block_sums(SEGMENT, len).unwrap()
    };
    let mut content = vec![0; len as usize];
    content[10..20].fill(7);
    let written = sums(&|bases| bases.write(SEGMENT, 0, &content).unwrap());
    let with_holes = sums(&|bases| {
        bases.write(SEGMENT, 10, &[7; 10]).unwrap();
        bases.set_len(SEGMENT, len).unwrap();
    });
    let cut = sums(&|bases| {
        bases.write(SEGMENT, 0, &content).unwrap();
        bases.write(SEGMENT, len, &[9; 1000]).unwrap();
        bases.set_len(SEGMENT, len).unwrap();
    });
    assert_eq!(written, with_holes);
    assert_eq!(written, cut);
    let other = sums(&|bases| {
        bases.write(SEGMENT, 11, &[7; 10]).unwrap();
        bases.set_len(SEGMENT, len).unwrap();
    });
    assert_ne!(written[0], other[0]);
    assert_eq!(written[1..], other[1..]);
    // What lies behind the length is damage.
    let disk = MemDisk::new(1);
    let bases = open(&disk);
    bases.write(SEGMENT, 0, &[1; 100]).unwrap();
    assert!(matches!(
        bases.block_sums(SEGMENT, 50),
        Err(StoreError::Damaged { .. })
    ));
}

/// What is read without a wait is what is read with one, or nothing at all; on this machine's disk, too.
#[test]
fn a_read_that_never_waits_gives_the_same_bytes_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let real = Arc::new(RealDisk::open(folder.path()).unwrap());
    let memory = MemDisk::new(1);
    let mut given = 0;
    for bases in [
        Bases::open(real, "base", INLINE).unwrap(),
        Bases::open(memory.attach(), "base", INLINE).unwrap(),
    ] {
        assert_eq!(bases.read_cached(SEGMENT, 0, 10), None, "no base is open");
        bases.write(SEGMENT, 0, &pattern(200_000, 3)).unwrap();
        bases.set_len(SEGMENT, 300_000).unwrap();
        for (offset, len) in [
            (0, 1),
            (5, 70_000),
            (65_536, 65_536),
            (199_990, 100),
            (250_000, 100_000),
            (299_999, 9),
            (300_000, 5),
            (400_000, 5),
            (0, 1 << 20),
        ] {
            let waited = bases.read(SEGMENT, offset, len).unwrap();
            // The page cache keeps what it likes.
            if let Some(bytes) = bases.read_cached(SEGMENT, offset, len) {
                assert_eq!(bytes, waited, "{len} at {offset}");
                given += 1;
            }
        }
    }
    assert!(given >= 9, "memory has everything: {given}");
    memory.flip_bit(FILE, 70_000, 2).unwrap();
    let bases = open(&memory);
    assert!(bases.read(SEGMENT, 0, 10).is_ok(), "it is open now");
    assert!(bases.read_cached(SEGMENT, 0, 60_000).is_some());
    assert_eq!(bases.read_cached(SEGMENT, 66_000, 10), None, "a bad block");
}
