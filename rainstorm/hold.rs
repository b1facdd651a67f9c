//! Jobs that this leader does something to from outside: meanwhile their drivers leave something be.

use hydfs_types::JobId;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// Jobs that are held, each by how many.
#[derive(Debug, Default)]
pub struct Holds(watch::Sender<BTreeMap<JobId, usize>>);

/// Holds a job until it is dropped.
#[derive(Debug)]
pub struct Hold<'a> {
    holds: &'a Holds,
    job: JobId,
}

impl Holds {
    /// From now on.
    pub fn hold(&self, job: JobId) -> Hold<'_> {
        self.0
            .send_modify(|held| *held.entry(job).or_default() += 1);
        Hold { holds: self, job }
    }

    /// Somebody holds it.
    pub fn has(&self, job: JobId) -> bool {
        self.0.borrow().contains_key(&job)
    }

    /// Returns once nobody does.
    pub async fn free(&self, job: JobId) {
        // The sender is `self`: it does not go away.
        drop(
            self.0
                .subscribe()
                .wait_for(|held| !held.contains_key(&job))
                .await,
        );
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.holds.0.send_modify(|held| {
            if let Some(count) = held.get_mut(&self.job) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&self.job);
                }
            }
        });
    }
}
