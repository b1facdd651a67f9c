//! Random writes, sent, withdrawn and freed, over the lives of several workers, against a list of what must be there.

use crate::{
    BEHIND_BYTES, BEHIND_MAX, Behind, Full, Kept, Memory, Piece, create, layout::CHUNK_BYTES,
    memory::tests::worker,
};
use hydfs_types::{Ino, SegmentId, Seq, Time, WriterId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{collections::BTreeSet, sync::Arc};

struct Expected {
    behind: Behind,
    sent: Option<Piece>,
    kept: Kept,
}

/// Writes in their order.
#[derive(Default)]
struct Model {
    writes: Vec<Expected>,
    /// How many of them this worker was left.
    left: usize,
    /// Those that were freed in this life.
    freed: Vec<Kept>,
}

impl Model {
    fn has_room(&self, len: usize) -> bool {
        let lens = self.writes.iter().map(|one| one.behind.bytes.len());
        let chunks: usize = lens.chain([len]).map(|len| len.div_ceil(CHUNK_BYTES)).sum();
        self.writes.len() < BEHIND_MAX && chunks <= BEHIND_BYTES / CHUNK_BYTES
    }

    fn writers(&self) -> BTreeSet<WriterId> {
        let sent = self.writes.iter().filter_map(|one| one.sent);
        sent.map(|piece| piece.writer).collect()
    }

    fn keep(&mut self, rng: &mut SmallRng, memory: &Arc<Memory>, what: &str) {
        let most = [5, 10_000, 100_000, 2 << 20][rng.random_range(0..4)];
        let mut bytes = vec![0; rng.random_range(0..most)];
        rng.fill(&mut bytes[..]);
        let behind = Behind {
            unique: rng.random_range(0..1 << 62),
            ino: Ino(rng.random()),
            at: rng.random::<bool>().then(|| rng.random()),
            time: Time {
                sec: rng.random(),
                nsec: rng.random_range(0..1_000_000_000),
            },
            bytes: bytes.into(),
        };
        let Behind {
            unique,
            ino,
            at,
            time,
            ref bytes,
        } = behind;
        match memory.keep_behind(unique, ino, at, time, bytes) {
            Ok(kept) => {
                assert!(self.has_room(bytes.len()), "{what}");
                let sent = None;
                self.writes.push(Expected { behind, sent, kept });
            }
            Err(Full) => assert!(!self.has_room(bytes.len()), "{what}"),
        }
    }

    /// Does something to a write that is there.
    fn change(&mut self, rng: &mut SmallRng) {
        if self.writes.is_empty() {
            return;
        }
        let i = rng.random_range(0..self.writes.len());
        let one = &mut self.writes[i];
        match rng.random_range(0..4) {
            0..2 => {
                let piece = Piece {
                    writer: WriterId(rng.random_range(0..20)),
                    seq: Seq(rng.random()),
                    len: rng.random(),
                    segment: SegmentId(rng.random()),
                };
                one.kept.note_sent(piece);
                one.sent = Some(piece);
            }
            2 => {
                one.kept.withdraw();
                one.sent = None;
            }
            _ => {
                one.kept.free();
                self.freed.push(self.writes.remove(i).kept);
                self.left -= usize::from(i < self.left);
            }
        }
    }

    /// Does to a write that was freed what must have no effect.
    fn disturb(&self, rng: &mut SmallRng) {
        if !self.freed.is_empty() {
            let kept = &self.freed[rng.random_range(0..self.freed.len())];
            kept.withdraw();
            kept.free();
        }
    }

    fn check_left(&self, memory: &Arc<Memory>, what: &str) {
        let left = memory.left_behind();
        assert_eq!(left.len(), self.left, "{what}");
        for (found, expected) in left.iter().zip(&self.writes) {
            assert!(found.behind == expected.behind, "{what}");
            assert_eq!(found.sent, expected.sent, "{what}");
        }
    }

    /// Another worker finds all that is there, and goes on with it.
    fn take_over(&mut self, memory: &Arc<Memory>, what: &str) {
        self.left = self.writes.len();
        self.check_left(memory, what);
        self.freed.clear();
        for (expected, found) in self.writes.iter_mut().zip(memory.left_behind()) {
            expected.kept = found.kept;
        }
    }
}

fn run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let file = create().unwrap();
    let mut model = Model::default();
    for life in 0..6 {
        let what = format!("seed {seed}, life {life}");
        let memory = worker(&file);
        model.take_over(&memory, &what);
        for _ in 0..rng.random_range(1..200) {
            match rng.random_range(0..20) {
                0..9 => model.keep(&mut rng, &memory, &what),
                9..18 => model.change(&mut rng),
                _ => model.disturb(&mut rng),
            }
        }
        model.check_left(&memory, &what);
        assert_eq!(memory.writers(), model.writers(), "{what}");
    }
}

#[test]
fn workers_find_what_a_simple_list_has() {
    for seed in 0..8 {
        run(seed);
    }
}
