//! Who is in the group: bootstrap, learners, voters, transfer of leadership. For the leader; others are told who leads.

use crate::{
    group::Group,
    raft::{Membership, Raft},
    wire::Address,
};
use hydfs_types::{BoxFuture, LogIndex, MemberId};
use openraft::{
    ChangeMembers, Instant as _,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use tokio::time::timeout;

/// Longest wait for a change of members.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for another leader after a transfer began.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3);
/// A new leader must have been heard from this recently.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Why a change of members was not made, or not seen to be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader changes members.
    #[error("this member does not lead the agreement group{}", .0.map(|leader| format!(", {leader} does")).unwrap_or_default())]
    NotLeader(Option<MemberId>),
    #[error("the change is refused: {0}")]
    Refused(String),
    /// It may still happen; the same change may be asked for again.
    #[error("no majority of voters took the change within {millis} ms")]
    NoQuorum { millis: u64 },
    #[error("the agreement log of this member stopped: {0}")]
    Stopped(String),
}

/// The group as one member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    pub term: u64,
    pub leader: Option<MemberId>,
    pub last: Option<LogIndex>,
    pub committed: Option<LogIndex>,
    pub applied: LogIndex,
    /// Last entry in the newest snapshot.
    pub snapshot: Option<LogIndex>,
    /// Last entry dropped from the log.
    pub purged: Option<LogIndex>,
    pub voters: BTreeSet<MemberId>,
    pub learners: BTreeSet<MemberId>,
    /// A change of voters is half done; asking for voters again finishes it.
    pub joint: bool,
    /// At the leader: what each other member is known to have on disk.
    pub matched: BTreeMap<MemberId, Option<LogIndex>>,
    /// At the leader: how long ago each other member answered.
    pub heard: BTreeMap<MemberId, Option<Duration>>,
    /// At the leader: how long ago a majority was last known to follow.
    pub quorum_age: Option<Duration>,
}

impl Group {
    /// Makes a new group of which this member is the only voter. On a folder that is part of a group this is refused.
    pub fn bootstrap(&self) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            let only = BTreeMap::from([(self.me().0, Address(self.peers().net.local_addr()))]);
            self.raft()
                .initialize(only)
                .await
                .map_err(|error| match error {
                    RaftError::APIError(error) => ChangeError::Refused(error.to_string()),
                    RaftError::Fatal(error) => ChangeError::Stopped(error.to_string()),
                })
        })
    }

    /// Whether this folder is or was part of a group.
    pub fn has_log(&self) -> BoxFuture<'_, Result<bool, ChangeError>> {
        Box::pin(async move {
            self.raft()
                .is_initialized()
                .await
                .map_err(|error| ChangeError::Stopped(error.to_string()))
        })
    }

    /// Has the leader send the log to a member, which gets no vote by it. Does nothing if that is so; a new address is noted.
    pub fn add_learner(
        &self,
        member: MemberId,
        addr: SocketAddr,
    ) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            let node = BTreeMap::from([(member.0, Address(addr))]);
            match self.membership().get_node(&member.0).copied() {
                Some(Address(known)) if known == addr => Ok(()),
                Some(_) => self.change(ChangeMembers::SetNodes(node), true).await,
                None => self.change(ChangeMembers::AddNodes(node), true).await,
            }
        })
    }

    /// Makes these members, learners until now, the voters; who is none any more stays a learner. Choose members that have
    /// caught up ([`Metrics::matched`]): entries commit only with a majority of the new voters.
    pub fn set_voters(&self, voters: BTreeSet<MemberId>) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            if voters.is_empty() {
                return Err(ChangeError::Refused("a group needs a voter".into()));
            }
            let voters: BTreeSet<u64> = voters.into_iter().map(|member| member.0).collect();
            if *self.membership().get_joint_config() == [voters.clone()] {
                return Ok(());
            }
            self.change(ChangeMembers::ReplaceAllVoters(voters), true)
                .await
        })
    }

    /// Takes a member out of the group, its vote first. A leader transfers its leadership before it is removed.
    pub fn remove(&self, member: MemberId) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            if member == self.me() && self.is_leader() {
                return Err(ChangeError::Refused(
                    "the leader cannot remove itself: transfer leadership first".into(),
                ));
            }
            let voters: BTreeSet<MemberId> = self.membership().voter_ids().map(MemberId).collect();
            if voters.contains(&member) {
                self.set_voters(
                    voters
                        .into_iter()
                        .filter(|voter| *voter != member)
                        .collect(),
                )
                .await?;
            }
            if self.membership().get_node(&member.0).is_none() {
                return Ok(());
            }
            self.change(
                ChangeMembers::RemoveNodes(BTreeSet::from([member.0])),
                false,
            )
            .await
        })
    }

    /// Hands leadership to a voter and waits until this member has given it up.
    pub fn transfer_leader(&self, to: MemberId) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            let metrics = self.metrics();
            if !self.is_leader() {
                return Err(ChangeError::NotLeader(metrics.leader));
            }
            // openraft leads no more once it began, so somebody who cannot take over is not asked.
            let heard = metrics
                .heard
                .get(&to)
                .copied()
                .flatten()
                .is_some_and(|age| age <= HEARD_WITHIN);
            if !metrics.voters.contains(&to) || !heard {
                return Err(ChangeError::Refused(format!(
                    "{to} is no voter that answers"
                )));
            }
            let begun = self.raft().trigger().transfer_leader(to.0).await;
            begun.map_err(|error| ChangeError::Stopped(error.to_string()))?;
            let mut leadership = self.watch_leader();
            let given_up =
                leadership.wait_for(|(_, leader)| leader.is_some_and(|leader| leader != self.me()));
            match timeout(TRANSFER_DEADLINE, given_up).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(ChangeError::Stopped("shut down".into())),
                Err(_) => Err(ChangeError::NoQuorum {
                    millis: TRANSFER_DEADLINE.as_millis() as u64,
                }),
            }
        })
    }

    /// Takes a snapshot of the local state now and drops the log behind it.
    pub fn trigger_snapshot(&self) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            self.raft()
                .trigger()
                .snapshot()
                .await
                .map_err(|error| ChangeError::Stopped(error.to_string()))
        })
    }

    /// The group as this member sees it.
    pub fn metrics(&self) -> Metrics {
        let watch = self.raft().metrics();
        let raft = watch.borrow_watched();
        let index = |id: Option<crate::raft::LogId>| id.map(|id| LogIndex(id.index));
        let membership = raft.membership_config.membership();
        let matched = raft
            .replication
            .iter()
            .flatten()
            .filter(|(id, _)| **id != raft.id);
        let heard = raft
            .heartbeat
            .iter()
            .flatten()
            .filter(|(id, _)| **id != raft.id);
        // openraft notes only what others acknowledge: whoever votes alone is a majority at any time.
        let alone = raft.state.is_leader() && membership.get_joint_config() == &[[raft.id].into()];
        let acknowledged = raft.last_quorum_acked.map(|at| at.elapsed());
        Metrics {
            term: raft.current_term,
            leader: raft.current_leader.map(MemberId),
            last: raft.last_log_index.map(LogIndex),
            committed: index(raft.cluster_committed),
            applied: self.progress().applied(),
            snapshot: index(raft.snapshot),
            purged: index(raft.purged),
            voters: membership.voter_ids().map(MemberId).collect(),
            learners: membership.learner_ids().map(MemberId).collect(),
            joint: membership.get_joint_config().len() > 1,
            matched: matched
                .map(|(id, at)| (MemberId(*id), index(*at)))
                .collect(),
            heard: heard
                .map(|(id, at)| (MemberId(*id), at.map(|at| at.elapsed())))
                .collect(),
            quorum_age: if alone {
                Some(Duration::ZERO)
            } else {
                acknowledged
            },
        }
    }

    fn membership(&self) -> Membership {
        let watch = self.raft().server_metrics();
        let members = watch.borrow_watched().membership_config.clone();
        members.membership().clone()
    }

    /// A change of voters takes two entries. It runs in a task of its own, so that a caller who goes away leaves none half done.
    async fn change(
        &self,
        change: ChangeMembers<u64, Address>,
        retain: bool,
    ) -> Result<(), ChangeError> {
        if !self.is_leader() {
            return Err(ChangeError::NotLeader(self.watch_leader().borrow().1));
        }
        let raft = self.raft().clone();
        match timeout(CHANGE_DEADLINE, tokio::spawn(changed(raft, change, retain))).await {
            Ok(Ok(done)) => done,
            Ok(Err(panicked)) => Err(ChangeError::Stopped(panicked.to_string())),
            Err(_) => Err(ChangeError::NoQuorum {
                millis: CHANGE_DEADLINE.as_millis() as u64,
            }),
        }
    }
}

async fn changed(
    raft: Raft,
    change: ChangeMembers<u64, Address>,
    retain: bool,
) -> Result<(), ChangeError> {
    match raft.change_membership(change, retain).await {
        Ok(_) => Ok(()),
        Err(RaftError::Fatal(error)) => Err(ChangeError::Stopped(error.to_string())),
        Err(RaftError::APIError(error)) => Err(match error {
            ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to) => {
                ChangeError::NotLeader(to.leader_id.map(MemberId))
            }
            other => ChangeError::Refused(other.to_string()),
        }),
    }
}
