//! The agreement seam: what the rest of a member may ask of the Raft group.

use crate::{BoxFuture, Command, CommandError, LogIndex, MemberId, Reply};
use std::time::Duration;
use tokio::sync::watch;

/// Why the group gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// The group answered: the command is refused.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// No majority or no leader within the deadline, and nothing was done.
    #[error("no majority of voters answered within {millis} ms: {why}")]
    NoQuorum { millis: u64, why: String },
    /// A command may be in the log: the effect is unknown, the same identity may be retried.
    #[error("whether it was done is not known after {millis} ms: {why}")]
    InDoubt { millis: u64, why: String },
    /// This member is not admitted (any more): it must rejoin before it may speak.
    #[error("this member's incarnation has ended: it has to rejoin")]
    Expired,
    /// The local replica of the agreed state stopped.
    #[error("the agreement log of this member stopped: {0}")]
    Stopped(String),
}

impl AgreementError {
    /// The same of a command that may have been taken.
    pub fn in_doubt(self) -> Self {
        match self {
            Self::NoQuorum { millis, why } => Self::InDoubt { millis, why },
            other => other,
        }
    }

    /// Nobody has answered in time: the same may be asked again.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::NoQuorum { .. } | Self::InDoubt { .. })
    }
}

/// Index of the last entry applied to the local copy of the agreed state.
pub type AppliedWatch = watch::Receiver<LogIndex>;

/// The identity of one command, where it outlives the process that proposes it.
pub trait CommandIdentity: Send + Sync {
    /// The seq under which an earlier process may have proposed the command. Asked once.
    fn before(&self) -> Option<u64>;
    /// The command goes out under this seq now; says which one is given up for it.
    fn note(&self, seq: u64) -> Option<u64>;
}

/// One member's handle on the agreement group. The local state handed to the state machine holds, when a
/// call below returns, at least everything the call speaks of.
pub trait Agreement: Send + Sync + 'static {
    /// Commits a command (exactly once: retries carry the same session and seq, R15) and waits until it is applied here too.
    /// Cost: one round to the leader, one group-committed round to the voters.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, AgreementError>>;
    /// As `propose`, under an identity that is kept: it is answered until [`Agreement::forget`], also to a later process
    /// that goes on with this one's session.
    fn propose_kept<'a>(
        &'a self,
        command: Command,
        identity: &'a dyn CommandIdentity,
    ) -> BoxFuture<'a, Result<Reply, AgreementError>>;
    /// Nobody will ask for the answer of a command with a kept identity any more.
    fn forget(&self, seq: u64);
    /// Returns when the local state includes every command that was acknowledged anywhere before this call began.
    /// Cost: one round to the leader, none on the leader while its lease holds; concurrent callers share one.
    fn barrier(&self) -> BoxFuture<'_, Result<LogIndex, AgreementError>>;
    /// Waits until the local state includes the entry at `index`.
    fn wait_applied(&self, index: LogIndex) -> BoxFuture<'_, Result<(), AgreementError>>;
    /// Watches the local state's index.
    fn applied(&self) -> AppliedWatch;
    /// The highest index that every member which may answer reads without asking is known to have applied: what a
    /// command up to it did can be shown.
    fn visible(&self) -> LogIndex;
    /// [`Agreement::visible`], if this member holds a read lease: its copy then has all that was acknowledged anywhere
    /// before this call. Costs nothing.
    fn leased(&self) -> Option<LogIndex>;
    /// How long the read lease lasts at least, if this member holds one.
    fn lease_left(&self) -> Duration {
        Duration::ZERO
    }
    /// The leader as far as known.
    fn leader(&self) -> Option<MemberId>;
}
