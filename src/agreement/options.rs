//! What a group is started with.

use crate::{network::Resolve, session::KeptSession};
use hydfs_store::{Disk, LogOptions};
use hydfs_types::{Clock, MemberId, Net, Planted, SessionId};
use std::{sync::Arc, time::Duration};

/// Everything that is handed in.
pub struct Options {
    pub me: MemberId,
    pub disk: Arc<dyn Disk>,
    /// Folder of log and snapshots on that disk, usually `raft`.
    pub dir: String,
    pub log: LogOptions,
    pub net: Arc<dyn Net>,
    /// Where a member serves now; `None` falls back on the address it was added with.
    pub resolve: Resolve,
    /// Stamps commands at the leader.
    pub clock: Arc<dyn Clock>,
    pub timing: Timing,
    pub retention: Retention,
    /// This worker life as a client.
    pub session: SessionId,
    /// Where the session is kept, if it outlives this worker.
    pub kept: Option<KeptSession>,
    /// Election timeouts are drawn from it. It differs between members and, in production, between starts.
    pub seed: u64,
    /// A bug for the simulator to find; none otherwise.
    pub planted: Option<Planted>,
}

/// Times of the protocol (R14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    /// A follower waits a leader's lease of `election_max` and then between `election_min` and `election_max` before it stands.
    /// A vote is waited for as long as `election_min`: whoever grants it syncs its log first, perhaps behind a sync that is
    /// under way.
    pub election_min: Duration,
    pub election_max: Duration,
    /// A barrier is answered by the leader alone if a majority acknowledged it this recently. Well below the lease, for drifting clocks.
    pub lease_read: Duration,
    /// Default deadline of a command.
    pub propose_deadline: Duration,
    /// Default deadline of a barrier.
    pub barrier_deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(900),
            election_max: Duration::from_millis(1000),
            lease_read: Duration::from_millis(500),
            propose_deadline: Duration::from_secs(10),
            barrier_deadline: Duration::from_secs(5),
        }
    }
}

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// A snapshot is taken when this many entries were committed since the last.
    pub snapshot_entries: u64,
    /// Entries kept though a snapshot covers them, so that a member that was away for a moment needs no snapshot.
    pub keep_entries: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            snapshot_entries: 20_000,
            keep_entries: 5_000,
        }
    }
}

impl Timing {
    /// openraft's configuration.
    pub(crate) fn config(
        &self,
        retention: &Retention,
    ) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        openraft::Config {
            cluster_name: "hydfs".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(retention.snapshot_entries),
            max_in_snapshot_log_to_keep: retention.keep_entries,
            purge_batch_size: 1.max(retention.keep_entries / 4),
            replication_lag_threshold: retention.snapshot_entries + retention.keep_entries,
            max_payload_entries: 1024,
            api_channel_size: Some(8192),
            enable_pre_vote: Some(true),
            // A restarted leader stands again: its state may be older than what it has acknowledged.
            enable_leader_restore: Some(false),
            // R14: without a majority a leader falls silent, so that who hears it but is not heard may elect another.
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            // A member whose folder was rolled back is sent again what it lacks. Else the leader would go on from what it once
            // had, be refused, and go on again, at the speed of the link.
            allow_log_reversion: Some(true),
            backoff: "50ms 100ms 200ms ..1000ms".into(),
            ..Default::default()
        }
        .validate()
    }
}
