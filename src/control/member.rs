//! What the socket needs from a member, and the rows that its answers are made of. Rows serialize as JSON for
//! `--json`; their field names are stable.

use crate::{Error, Kind, Staging, files};
use bytes::Bytes;
use hydfs_mount::{Caller, FileSystem};
use hydfs_types::{BoxFuture, Net};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, sync::Arc};

/// A running member, as far as the command line needs it. Every call bounds its own waiting.
pub trait Member: Send + Sync + 'static {
    /// The file system that the mount serves, for file commands without a mount.
    fn files(&self) -> Arc<dyn FileSystem>;
    /// The network, for `multiappend`.
    fn net(&self) -> Arc<dyn Net>;
    /// The staging area that also serves other members' frames of `Service::Control`.
    fn staging(&self) -> Arc<Staging>;
    /// Health of this member and, as far as it knows, of the cluster. No network round.
    fn status(&self) -> BoxFuture<'_, Result<Status, Error>>;
    /// Every member that was not forgotten, sorted by ring id. No network round.
    fn members(&self) -> BoxFuture<'_, Result<Vec<MemberRow>, Error>>;
    /// Where the copies of a file *are*: asked from the replicas, never computed (fault S19).
    fn locate(&self, path: String) -> BoxFuture<'_, Result<FileCopies, Error>>;
    /// Files of which this member holds segments on its disk.
    fn store(&self) -> BoxFuture<'_, Result<Vec<StoredRow>, Error>>;
    /// Up to `len` bytes of the file as `member`'s own disk has them, merged part only; empty at the end.
    /// Refuses a member that does not hold the segment at `offset`.
    fn read_replica(
        &self,
        member: String,
        path: String,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'_, Result<Bytes, Error>>;
    /// Reads (`None`) or sets the suspicion mechanism, cluster-wide and live.
    fn suspicion(&self, set: Option<bool>) -> BoxFuture<'_, Result<Suspicion, Error>>;
    /// Has the copies of a member (`None`: this one) moved to others, or takes that back; says how far that is.
    fn drain(&self, member: Option<String>, on: bool) -> BoxFuture<'_, Result<Drain, Error>>;
    /// A member that is down has left for good. Refuses where nobody alive has what it has, unless `now`.
    fn dismiss(&self, member: String, now: bool) -> BoxFuture<'_, Result<(), Error>>;
    /// Leaves the cluster for good as it is: drain first. The member stops itself soon after it has answered.
    fn leave(&self) -> BoxFuture<'_, Result<(), Error>>;
    /// The Prometheus text page.
    fn metrics(&self) -> String;

    /// Whether a job's spec would start if the caller dropped it now; messages call it `path`. Starts nothing.
    fn check_job(
        &self,
        _caller: Caller,
        path: String,
        _spec: String,
    ) -> BoxFuture<'_, Result<(), Error>> {
        let why = format!("{path}: this member runs no jobs");
        Box::pin(async { Err(Error::new(Kind::NotSupported, why)) })
    }

    /// Checks a job against its receipt, or says how far that is.
    fn audit_job(&self, name: String) -> BoxFuture<'_, Result<Audit, Error>> {
        let why = format!("{name}: this member runs no jobs");
        Box::pin(async { Err(Error::new(Kind::NotSupported, why)) })
    }

    /// Makes everything acknowledged before this call readable, in agreed order.
    fn merge(&self, caller: Caller, path: String) -> BoxFuture<'_, Result<Merged, Error>> {
        let fs = self.files();
        Box::pin(async move { files::merge_by_reading(&*fs, caller, &path).await })
    }
    /// Address of a live member by name.
    fn address(&self, member: String) -> BoxFuture<'_, Result<SocketAddr, Error>> {
        Box::pin(async move {
            let rows = self.members().await?;
            let row = rows.iter().find(|row| row.name == member).ok_or_else(|| {
                Error::new(
                    Kind::NotFound,
                    format!("no member is named {member}: `hydfs list_mem_ids` shows the names"),
                )
            })?;
            match row.state {
                Liveness::Alive => Ok(row.addr),
                _ => Err(Error::new(
                    Kind::Unreachable,
                    format!("member {member} is not alive: start it, or name another"),
                )),
            }
        })
    }
}

/// Whether a member lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    Alive,
    Dead,
    /// Left on purpose.
    Left,
}

impl std::fmt::Display for Liveness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Left => "left",
        })
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    pub name: String,
    pub addr: SocketAddr,
    pub state: Liveness,
    pub incarnation: u64,
    /// Position on the ring, in hex: `SHA-256(name)` shortened as the ring shows it.
    pub ring_id: String,
    pub leader: bool,
    pub voter: bool,
    /// SWIM suspects it, in the view of the answering member.
    pub suspected: bool,
}

/// Health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub member: String,
    pub healthy: bool,
    /// As `.cluster/status`: `healthy` or `degraded: …` first, details after.
    pub text: String,
    pub leader: Option<String>,
    pub members_alive: usize,
}

/// A file's copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCopies {
    pub path: String,
    /// Position of the file's first segment on the ring, in hex.
    pub ring_id: String,
    pub size: u64,
    pub segments: Vec<SegmentCopies>,
}

/// Copies of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCopies {
    /// File offset where it begins.
    pub start: u64,
    pub len: u64,
    pub version: u64,
    /// Replicas that have the segment on disk, by their own answer.
    pub replicas: Vec<ReplicaRow>,
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRow {
    pub member: String,
    pub addr: SocketAddr,
    pub ring_id: String,
    /// Version of the copy on that disk.
    pub version: u64,
    pub synced: bool,
}

/// A file with segments on this member's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRow {
    /// `None` where the file is unlinked but not collected yet.
    pub path: Option<String>,
    pub ring_id: String,
    pub segments: usize,
    /// Bytes of it on this disk.
    pub bytes: u64,
}

/// How far a member is from being free to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub member: String,
    pub on: bool,
    /// Slots that would lack copies without it.
    pub slots: usize,
    /// Merged bytes of the copies that are still to be made.
    pub bytes: u64,
    /// It still votes in the agreement group.
    pub voter: bool,
    /// Estimate of the time that the bytes take, in milliseconds, where there is one yet.
    pub millis: Option<u64>,
}

impl Drain {
    /// Nothing is lost or has to be repaired when it goes.
    pub fn is_done(&self) -> bool {
        self.on && self.slots == 0 && !self.voter
    }
}

/// How far the audit of a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Job epochs whose input was read; the outputs come after the last.
    pub epochs: u64,
    /// Job epochs in all.
    pub of: u64,
    /// What it went through, as JSON, once it has ended well.
    pub outcome: Option<String>,
}

/// State of the suspicion mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    pub on: bool,
}

/// What a merge made readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// Bytes of the file now.
    pub size: u64,
    /// Time it took, in microseconds.
    pub micros: u64,
}

/// One member's part of a `multiappend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    pub member: String,
    pub bytes: u64,
    /// Time from the common start to this member's acknowledgement, in microseconds.
    pub micros: u64,
    /// Why it failed, where it did.
    pub error: Option<String>,
}
