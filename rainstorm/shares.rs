//! Shares out anew what tasks have still to read of a pinned source, when their number changes: every chunk that was in a
//! share before is in exactly one after.

use crate::position::Share;

impl Share {
    /// It goes on to the end of the source.
    fn is_open(&self) -> bool {
        self.end == u64::MAX
    }

    /// Whether a chunk is in it.
    pub fn has(&self, chunk: u64) -> bool {
        let step = self.step.max(1);
        (self.next..self.end).contains(&chunk) && (chunk - self.next).is_multiple_of(step)
    }

    fn chunks(&self) -> u64 {
        self.end
            .saturating_sub(self.next)
            .div_ceil(self.step.max(1))
    }

    /// The first half of its chunks, and the others.
    fn halves(self) -> [Self; 2] {
        let middle = self.next + self.chunks().div_ceil(2) * self.step;
        let first = Self {
            end: middle,
            ..self
        };
        let second = Self {
            next: middle,
            at: 0,
            ..self
        };
        [first, second]
    }
}

/// How many chunks of a source of `all` chunks are in these shares.
pub fn left(shares: &[Share], all: u64) -> u64 {
    let bounded = shares.iter().map(|share| Share {
        end: share.end.min(all),
        ..*share
    });
    bounded.map(|share| share.chunks()).sum()
}

/// The shares of `tasks` tasks, from those that some tasks had of a source of `all` chunks.
///
/// Open shares are always one for each task, as many chunks apart as there are tasks. Behind the one that is furthest nothing
/// was read: from there on each of the new tasks gets every `tasks`th chunk. What is left before that is dealt out in ranges.
pub fn deal(shares: &[Share], all: u64, tasks: u32) -> Vec<Vec<Share>> {
    let open = shares.iter().filter(|share| share.is_open());
    let border = open.map(|share| share.next).max().unwrap_or(all);
    let tasks = tasks.max(1) as usize;
    let mut dealt: Vec<Vec<Share>> = vec![Vec::new(); tasks];
    let mut left: Vec<Share> = Vec::new();
    let mut begun = 0;
    for share in shares {
        let end = if share.is_open() { border } else { share.end };
        let end = end.min(all);
        match share.next < end {
            true => left.push(Share { end, ..*share }),
            // A share that is read up may end there, too.
            false if share.is_open() && share.next == border => begun = share.at,
            false => {}
        }
    }
    while left.len() < tasks {
        let longest = (0..left.len()).max_by_key(|&at| left[at].chunks());
        let Some(at) = longest.filter(|&at| left[at].chunks() > 1) else {
            break;
        };
        let halves = left.swap_remove(at).halves();
        left.extend(halves);
    }
    left.sort_by_key(|share| (std::cmp::Reverse(share.chunks()), share.next));
    let mut loads = vec![0; tasks];
    for share in left {
        let least = (0..tasks)
            .min_by_key(|&task| loads[task])
            .unwrap_or_default();
        loads[least] += share.chunks();
        dealt[least].push(share);
    }
    for (task, shares) in (0_u64..).zip(&mut dealt) {
        shares.push(Share {
            next: border + task,
            step: tasks as u64,
            end: u64::MAX,
            at: if task == 0 { begun } else { 0 },
        });
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Chunks that are to be read, each with the byte where it goes on.
    fn chunks(shares: &[Share], all: u64) -> Vec<(u64, u64)> {
        let of_share = |share: &Share| {
            let numbers = (share.next..share.end.min(all)).step_by(share.step as usize);
            let (first, at) = (share.next, share.at);
            numbers.map(move |number| (number, if number == first { at } else { 0 }))
        };
        let mut chunks: Vec<_> = shares.iter().flat_map(of_share).collect();
        chunks.sort_unstable();
        chunks
    }

    /// Reads so many chunks, as `Reader` does; the last of them perhaps in part.
    fn read(shares: &mut [Share], all: u64, count: u64, begin: bool) {
        for _ in 0..count {
            let open = shares
                .iter_mut()
                .filter(|share| share.next < share.end.min(all));
            let Some(share) = open.min_by_key(|share| share.next) else {
                return;
            };
            share.next += share.step;
            share.at = 0;
        }
        let open = shares
            .iter_mut()
            .filter(|share| share.next < share.end.min(all));
        if let (Some(share), true) = (open.min_by_key(|share| share.next), begin) {
            share.at = 1 + share.next;
        }
    }

    #[test]
    fn a_chunk_that_was_begun_goes_on_beside_a_share_that_is_read_up() {
        let open = Share {
            next: 5,
            step: 1,
            end: u64::MAX,
            at: 70,
        };
        let read_up = Share {
            end: 5,
            at: 0,
            ..open
        };
        for tasks in 1..4 {
            let dealt = deal(&[open, read_up], 9, tasks).concat();
            assert_eq!(chunks(&dealt, 9), [(5, 70), (6, 0), (7, 0), (8, 0)]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// However often the number of tasks changes, and however far each of them has come.
        #[test]
        fn every_chunk_stays_in_one_share(
            all in 0_u64..200,
            steps in proptest::collection::vec((1_u32..7, proptest::collection::vec((0_u64..12, any::<bool>()), 7)), 1..8),
        ) {
            let mut tasks = vec![vec![Share::of_task(0, 1)]];
            for (count, reads) in steps {
                for (shares, (count, begin)) in tasks.iter_mut().zip(reads) {
                    read(shares, all, count, begin);
                }
                let before = tasks.concat();
                tasks = deal(&before, all, count);
                prop_assert_eq!(tasks.len(), count as usize);
                prop_assert_eq!(chunks(&tasks.concat(), all), chunks(&before, all));
                prop_assert_eq!(left(&before, all), chunks(&before, all).len() as u64);
                // Changes alone make no more and more shares.
                let again = deal(&tasks.concat(), all, count);
                prop_assert!(again.concat().len() <= tasks.concat().len() + count as usize);
            }
        }
    }
}
