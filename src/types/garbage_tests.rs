//! Damaged and invented bytes for every message of this crate (fault M7): none makes the decoder panic, and none makes it
//! take more memory than the bytes themselves could fill, whatever lengths they announce.

use crate::*;
use hydfs_fuzz::{Target, seen};
use proptest::prelude::*;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator; remembers the largest request of each thread.
struct Watched;

// SAFETY: every call goes to the system's allocator as it came.
#[allow(unsafe_code, reason = "an allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(size));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

/// What serde takes at most for a list whose announced length it does not believe yet.
const CAUTIOUS_BYTES: usize = 1 << 20;

fn head() -> RecordHead {
    RecordHead {
        writer: WriterId(7),
        segment: SegmentId(300),
        seq: Seq(2),
        prev: Seq(1),
        op: Op::WriteAt(70_000),
        time: Time::default(),
        len: 5,
        crc: 0xdead_beef,
    }
}

fn config() -> SlotConfig {
    SlotConfig {
        epoch: SlotEpoch(9),
        acting: vec![Acting {
            incarnation: Incarnation(3),
            synced: true,
        }],
        leader: Incarnation(3),
        frozen: false,
    }
}

/// Valid messages, encoded.
fn samples() -> Vec<Vec<u8>> {
    let pulled = PulledSlot {
        slot: SlotId(4000),
        segments: vec![PulledSegment {
            segment: SegmentId(300),
            version: SegmentVersion(8),
            len: 70_005,
            digest: Digest::of(b"x"),
            pending: vec![head(), head()],
        }],
    };
    let append = Append {
        slot: SlotId(4000),
        epoch: SlotEpoch(9),
        map: MapVersion(1 << 40),
        from: Incarnation(3),
        records: vec![head(), head()],
        acked_through: Seq(1),
        durable: true,
    };
    let envelope = Envelope {
        session: SessionId(300),
        seq: 2,
        done_through: 1,
        incarnation: Incarnation(4),
        start: 6,
        time: Time::default(),
        command: Command::Admit(Admission {
            name: "n1".to_owned(),
            addr: ([127, 0, 0, 1], 7000).into(),
            zone: "z".to_owned(),
            weight: 100,
            storage: StorageId([1; 16]),
            boot: BootId([2; 16]),
            start_count: 3,
            drawn: 4,
            last: LogIndex(5),
        }),
    };
    let messages = [
        encode(&DataRequest::Append(append)),
        encode(&DataRequest::Fetch {
            segment: SegmentId(300),
            runs: vec![Run {
                writer: WriterId(7),
                first: Seq(1),
                last: Seq(u64::MAX),
            }],
        }),
        encode(&DataResponse::Pulled(vec![pulled.clone(), pulled])),
        encode(&DataResponse::Refused(Refusal::StaleEpoch(config()))),
        encode(&DataResponse::Sums {
            version: SegmentVersion(8),
            len: 70_005,
            sums: vec![1, u32::MAX],
        }),
        encode(&envelope),
    ];
    messages.iter().map(|bytes| bytes.to_vec()).collect()
}

/// Decodes as everything that a stranger's bytes may be taken for; the largest piece of memory that took.
fn read_as_anything(bytes: &[u8]) -> usize {
    LARGEST.set(0);
    drop(decode::<DataRequest>(bytes));
    drop(decode::<DataResponse>(bytes));
    drop(decode::<Envelope>(bytes));
    drop(decode::<Reply>(bytes));
    if let Some(prefix) = bytes.first_chunk() {
        drop(Frame::parse_prefix(prefix));
    }
    LARGEST.get()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn fault_m7_damaged_messages_are_refused_without_harm(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
        more in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone();
        for (at, byte) in damage {
            // The version stays, or nothing behind it would ever be read.
            let at = 2 + at.index(bytes.len() - 2);
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(more);
        prop_assert!(read_as_anything(&bytes) <= CAUTIOUS_BYTES + 16 * bytes.len());
    }

    #[test]
    fn fault_m7_invented_messages_are_refused_without_harm(
        invented in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = PROTOCOL_MAX.to_le_bytes().to_vec();
        bytes.extend(invented);
        prop_assert!(read_as_anything(&bytes) <= CAUTIOUS_BYTES + 16 * bytes.len());
    }
}

#[test]
fn the_samples_are_read_as_what_they_are() {
    let samples = samples();
    assert!(decode::<DataRequest>(&samples[0]).is_ok());
    assert!(decode::<DataRequest>(&samples[1]).is_ok());
    assert!(
        samples[2..5]
            .iter()
            .all(|one| decode::<DataResponse>(one).is_ok())
    );
    assert!(decode::<Envelope>(&samples[5]).is_ok());
}

#[test]
fn fault_m7_lengths_beyond_the_bytes_take_no_memory() {
    // Appended to a valid tag each: 2^63 of something.
    for tag in 0..20u8 {
        let mut bytes = PROTOCOL_MAX.to_le_bytes().to_vec();
        bytes.push(tag);
        bytes.extend([0xff; 9]);
        bytes.extend([1; 40]);
        assert!(read_as_anything(&bytes) <= CAUTIOUS_BYTES + 16 * bytes.len());
    }
}

#[test]
fn fuzz_messages() {
    let shapes = Target::new(env!("CARGO_MANIFEST_DIR"), "messages")
        .seeds(samples())
        .run(|bytes| {
            assert!(read_as_anything(bytes) <= CAUTIOUS_BYTES + 16 * bytes.len());
            let read = [
                seen(&decode::<DataRequest>(bytes)),
                seen(&decode::<DataResponse>(bytes)),
                seen(&decode::<Envelope>(bytes)),
                seen(&decode::<Reply>(bytes)),
            ];
            read.concat()
        });
    assert!(shapes > 100, "{shapes}");
}
