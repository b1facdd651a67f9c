//! Checks a job against its receipt: every job epoch has its line, what was read tiles the input without gap or
//! overlap and still has the same checksum, and the outputs are what was written, line for line.
//!
//! The receipt goes by a line at a time. What is kept of it grows with the files that the job reads and writes, not with its job
//! epochs.

use crate::audit_inputs::Reading;
use crate::audit_outputs::Outputs;
use crate::error::{Error, Result};
use crate::receipt_lines::{Place, Receipt};
use crate::seams::{Storage, StorageError};
use hydfs_types::JobInfo;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an audit went through.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Audited {
    pub epochs: u64,
    pub lines_in: u64,
    pub bytes_in: u64,
    pub lines_out: u64,
    pub bytes_out: u64,
    /// Inputs and outputs that are removed: what they held cannot be read again.
    pub gone: BTreeSet<String>,
    /// Outputs that were removed and made anew, with the first job epoch that is in them.
    pub anew: BTreeMap<String, u64>,
}

/// How far an audit is. Its inputs are read job epoch by job epoch, then its outputs.
#[derive(Debug, Default)]
pub struct Far {
    epochs: AtomicU64,
    of: AtomicU64,
}

impl Far {
    /// Job epochs whose input was read, and how many there are.
    pub fn epochs(&self) -> (u64, u64) {
        (self.epochs.load(Relaxed), self.of.load(Relaxed))
    }
}

/// Audits a job as far as it has committed. `Error::Job` says what does not hold.
pub async fn audit(storage: &Arc<dyn Storage>, job: &JobInfo, far: &Far) -> Result<Audited> {
    far.of.store(job.epoch.0, Relaxed);
    let mut audited = Audited::default();
    let receipt = match Receipt::pin(&**storage, &job.name).await {
        Err(StorageError::NotFound(_)) if job.epoch.0 == 0 => return Ok(audited),
        receipt => receipt?,
    };
    let mut reading: Option<Reading> = None;
    let mut outputs = Outputs::default();
    let mut lines = receipt.lines(Place::default());
    while let Some(mut line) = lines.next().await? {
        outputs.add(&line);
        let begins = line.begin.is_some();
        let mut now = match (reading, line.begin.take()) {
            (None, None) => {
                return Err(wrong(
                    "the first line of the receipt does not say what the job began with",
                ));
            }
            (None, Some(begin)) => Reading::first(begin, job)?,
            (Some(before), Some(begin)) => before.next(begin)?,
            (Some(now), None) => now,
        };
        if begins {
            now.check_bounds(&**storage).await?;
        }
        now.check(storage, &line, &mut audited).await?;
        far.epochs.store(line.epoch.min(job.epoch.0), Relaxed);
        reading = Some(now);
    }
    let end = lines.place();
    audited.epochs = end.epoch;
    // The job may have committed more since.
    if end.epoch < job.epoch.0 {
        let what = format!(
            "{} has {} lines for {} job epochs",
            receipt.path(),
            end.epoch,
            job.epoch.0
        );
        return Err(wrong(&what));
    }
    if let Some(reading) = &reading {
        reading.check_end(job)?;
    }
    outputs
        .check(&**storage, &receipt, end, &mut audited)
        .await?;
    Ok(audited)
}

pub fn wrong(what: &str) -> Error {
    Error::Job(format!("the audit failed: {what}"))
}
