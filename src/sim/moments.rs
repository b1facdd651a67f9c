//! What the attempts of real jobs came to in this run, moment by moment, as RainStorm tells it.

use crate::sample::spaces;
use hydfs_types::{JobId, MemberId};
use rainstorm::{Moment, Onlooker, Options, Planted, Seen};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// All moments so far.
#[derive(Clone)]
pub struct Moments {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How many there are.
    count: watch::Sender<usize>,
}

impl Moments {
    pub fn new() -> Self {
        Self {
            seen: Arc::default(),
            count: watch::Sender::new(0),
        }
    }

    /// RainStorm's settings on a simulated member: production's, but that scratch files are memory, that no
    /// processes are started, and that it tells of its moments here.
    pub fn options(&self, state_memory_bytes: usize, planted: Option<Planted>) -> Options {
        let moments = self.clone();
        let told = move |seen| {
            let mut all = moments.seen.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(seen);
            let count = all.len();
            drop(all);
            moments.count.send_replace(count);
        };
        Options {
            scratch_in_memory: true,
            state_memory_bytes,
            planted,
            stand_in: Some(spaces()),
            onlooker: Some(Onlooker::new(told)),
            ..Options::new("")
        }
    }

    /// Job epochs that were committed, of all jobs.
    pub fn committed(&self) -> u64 {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = |seen: &&Seen| matches!(seen.moment, Moment::Committed(_));
        all.iter().filter(committed).count() as u64
    }

    /// Changes with each further moment.
    pub fn changes(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Those of one job.
    pub fn of(&self, job: JobId) -> Course {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Course(all.iter().filter(|seen| seen.job == job).cloned().collect())
    }
}

/// The moments of one job.
pub struct Course(Vec<Seen>);

impl Course {
    /// The number of its newest attempt that was placed, and where its tasks run, a row for each stage.
    pub fn placed(&self) -> Option<(u32, Vec<Vec<MemberId>>)> {
        self.0.iter().rev().find_map(|seen| match &seen.moment {
            Moment::Placed(rows) => Some((seen.attempt.0, rows.clone())),
            _ => None,
        })
    }

    /// What has come since the newest attempt was placed.
    fn attempt(&self) -> impl DoubleEndedIterator<Item = &Moment> {
        let newest = self.placed().map_or(0, |(attempt, _)| attempt);
        let of_it = move |seen: &&Seen| seen.attempt.0 == newest;
        self.0.iter().filter(of_it).map(|seen| &seen.moment)
    }

    /// Job epochs that the newest attempt has committed.
    pub fn commits(&self) -> usize {
        let committed = |moment: &&Moment| matches!(moment, Moment::Committed(_));
        self.attempt().filter(committed).count()
    }

    /// The last commit is done, and no source has let the next barrier in.
    pub fn is_between(&self) -> bool {
        let border =
            |moment: &&Moment| matches!(moment, Moment::LetIn { .. } | Moment::Committed(_));
        let last = self.attempt().rev().find(border);
        matches!(last, Some(Moment::Committed(_)))
    }

    /// A source has let a barrier in, and not every task has reported.
    pub fn is_at_barrier(&self) -> bool {
        let border =
            |moment: &&Moment| matches!(moment, Moment::LetIn { .. } | Moment::Passed { .. });
        let last = self.attempt().rev().find(border);
        matches!(last, Some(Moment::LetIn { .. }))
    }

    /// Every task has reported, and the commit is not asked for.
    pub fn is_behind_barrier(&self) -> bool {
        let by_coordinator =
            |moment: &&Moment| !matches!(moment, Moment::LetIn { .. } | Moment::Reported { .. });
        let last = self.attempt().rev().find(by_coordinator);
        matches!(last, Some(Moment::Passed { .. }))
    }

    /// A commit is asked for, and nobody knows yet what becomes of it.
    pub fn is_committing(&self) -> bool {
        let by_coordinator =
            |moment: &&Moment| !matches!(moment, Moment::LetIn { .. } | Moment::Reported { .. });
        let last = self.attempt().rev().find(by_coordinator);
        matches!(last, Some(Moment::Proposed(_)))
    }
}
