//! Checks a job against its receipt: every job epoch has its line, what was read tiles the input without gap or
//! overlap and still has the same checksum, and the outputs are what was written, line for line.

use crate::audit_inputs::inputs;
use crate::audit_outputs::outputs;
use crate::error::{Error, Result};
use crate::receipt::{Line, receipt_path};
use crate::seams::{Owner, Storage, StorageError};
use bytes::Bytes;
use hydfs_types::JobInfo;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Largest receipt in bytes.
const RECEIPT_BYTES_MAX: usize = 256 << 20;
/// Bytes read at once.
pub const PIECE_BYTES: u64 = 1 << 20;

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

/// Audits a job as far as it has committed. `Error::Job` says what does not hold.
pub async fn audit(storage: &Arc<dyn Storage>, job: &JobInfo) -> Result<Audited> {
    let lines = lines(&**storage, job).await?;
    let mut audited = Audited {
        epochs: lines.len() as u64,
        ..Audited::default()
    };
    let Some(begin) = lines.first().and_then(|line| line.begin.clone()) else {
        return match job.epoch.0 {
            0 => Ok(audited),
            _ => Err(wrong(
                "the first line of the receipt does not say what the job began with",
            )),
        };
    };
    if begin.job != job.id.to_string() {
        return Err(wrong(&format!(
            "the receipt is of {}, not of {}",
            begin.job, job.id
        )));
    }
    inputs(storage, job, &begin, &lines, &mut audited).await?;
    outputs(&**storage, job, &lines, &mut audited).await?;
    Ok(audited)
}

pub fn wrong(what: &str) -> Error {
    Error::Job(format!("the audit failed: {what}"))
}

/// The lines of a job's receipt.
pub async fn lines(storage: &dyn Storage, job: &JobInfo) -> Result<Vec<Line>> {
    let path = receipt_path(&job.name);
    let text = match storage
        .read_small(&path, Owner::ROOT, RECEIPT_BYTES_MAX)
        .await
    {
        Ok(text) => text,
        Err(StorageError::NotFound(_)) if job.epoch.0 == 0 => Bytes::new(),
        Err(error) => return Err(error.into()),
    };
    let mut lines = Vec::new();
    for text in text
        .split(|&byte| byte == b'\n')
        .filter(|text| !text.is_empty())
    {
        let line: Line = serde_json::from_slice(text).map_err(|error| {
            wrong(&format!(
                "line {} of {path} is damaged: {error}",
                lines.len() + 1
            ))
        })?;
        let due = lines.len() as u64 + 1;
        if line.epoch != due {
            let what = format!(
                "{path} goes on with job epoch {} after {}",
                line.epoch,
                due - 1
            );
            return Err(wrong(&what));
        }
        lines.push(line);
    }
    // The job may have committed more while the receipt was read.
    if (lines.len() as u64) < job.epoch.0 {
        let what = format!(
            "{path} has {} lines for {} job epochs",
            lines.len(),
            job.epoch.0
        );
        return Err(wrong(&what));
    }
    Ok(lines)
}
