//! The last calls of this mount that failed for reasons that are not the caller's: what `.cluster/errors` shows.

use crate::volume::Volume;
use hydfs_mount::{FsError, errno};
use hydfs_types::Ino;
use std::{
    collections::VecDeque,
    fmt::Write,
    sync::{Mutex, PoisonError},
};
use tokio::time::Instant;

/// Failures that are kept.
const KEPT: usize = 256;

#[derive(Default)]
pub struct Failures(Mutex<VecDeque<(Instant, String)>>);

/// What to do about an error, if it is not the caller's own.
fn remedy(operation: &str, error: &FsError) -> Option<&'static str> {
    Some(match error {
        // Of a lock it is the answer that was asked for.
        FsError::TryAgain if operation != "setlk" => {
            "others change the file all the while, or more is in flight than fits: try again"
        }
        FsError::ReadOnly(_) => "bring back a majority of the voters, see .cluster/status",
        FsError::Unreachable(_) => {
            "see .cluster/status for who is down; a member that is rejoining needs a moment"
        }
        FsError::TimedOut(_) => {
            "see .cluster/status; whether it was done is unknown, so look before trying again"
        }
        FsError::NoSpace(_) => "free or add disk space, or add members",
        FsError::Damaged(_) => "see the lines `damaged` in .cluster/status, and the log",
        _ => return None,
    })
}

impl Volume {
    /// Notes a failed call.
    pub(crate) fn note_failure(
        &self,
        operation: &str,
        (ino, name): (Ino, Option<&[u8]>),
        error: &FsError,
    ) {
        let Some(remedy) = remedy(operation, error) else {
            return;
        };
        let path = self.ctx.state().path_of(ino);
        let mut text = match path.as_deref() {
            Some("/") if name.is_some() => format!("{operation} "),
            Some(path) => format!("{operation} {path}"),
            None => format!("{operation} inode {ino}"),
        };
        if let Some(name) = name {
            text.push('/');
            text.push_str(&String::from_utf8_lossy(name));
        }
        // One line each, whatever names contain.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let line = format!("{text}: error {}, {error}: {remedy}", errno(error));
        let mut kept = self
            .failures
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((Instant::now(), line));
    }

    /// A line each, the latest last: how long ago, operation, path, errno, cause, remedy.
    pub fn failures_text(&self) -> String {
        let kept = self
            .failures
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.iter().fold(String::new(), |mut text, (at, line)| {
            let ago = at.elapsed().as_secs_f64();
            writeln!(text, "{ago:.1} s ago: {line}").expect("text in memory");
            text
        })
    }
}
