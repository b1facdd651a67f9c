//! The group's own calls to other members: votes, appends, snapshots, transfer of leadership.

use crate::{
    raft::{Snapshot, Types, Vote},
    wire::{
        self, Append, AppendAnswer, Piece, Request, Response, SNAPSHOT_PIECE_BYTES, Target,
        Transfer, VoteAsk,
    },
};
use bytes::Bytes;
use hydfs_types::{MemberId, Net, NetError};
use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// An append waits at least this long for its answer: the other side syncs its disk before it answers.
const APPEND_DEADLINE_MIN: Duration = Duration::from_millis(2000);

/// Appends to a member that left one unanswered wait this long for a sign of life before one is tried anyway.
const SILENCE: Duration = Duration::from_secs(10);
/// Part of that wait which is spent inside one call.
const SILENCE_STEP: Duration = Duration::from_secs(1);
/// A piece of a snapshot waits this long for its answer, and is sent this many more times.
const PIECE_DEADLINE: Duration = Duration::from_secs(5);
const PIECE_RETRIES: u32 = 3;
/// Longest time that the other side takes to restore a snapshot it has.
const RESTORE_DEADLINE: Duration = Duration::from_secs(600);

/// Finds where a member serves; the agreed state knows.
pub type Resolve = Arc<dyn Fn(MemberId) -> Option<SocketAddr> + Send + Sync>;

/// The network and who is where.
#[derive(Clone)]
pub struct Peers {
    pub net: Arc<dyn Net>,
    pub resolve: Resolve,
    /// Per member, when the append was sent that it has not answered.
    unanswered: Arc<Mutex<BTreeMap<u64, Unanswered>>>,
}

type Unanswered = Arc<watch::Sender<Option<Instant>>>;

/// Calls to one member.
pub struct Link {
    peers: Peers,
    target: MemberId,
    /// Where it served when it became a member of the group.
    known: SocketAddr,
    /// Heartbeats are always sent; openraft ends them when the majority is lost (R14). Appends must not take their place then:
    /// a leader that is heard but hears nobody would repeat them for ever, and keep the others from electing one. So after an
    /// append without an answer the next waits for a sign of life, which only heartbeats ask for.
    heartbeat: bool,
    unanswered: Unanswered,
}

impl Peers {
    pub fn new(net: Arc<dyn Net>, resolve: Resolve) -> Self {
        Self {
            net,
            resolve,
            unanswered: Arc::default(),
        }
    }

    fn link(&self, target: u64, node: &wire::Address, heartbeat: bool) -> Link {
        let mut all = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let unanswered = all
            .entry(target)
            .or_insert_with(|| Arc::new(watch::Sender::new(None)))
            .clone();
        Link {
            peers: self.clone(),
            target: MemberId(target),
            known: node.0,
            heartbeat,
            unanswered,
        }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &wire::Address) -> Link {
        self.link(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &wire::Address) -> Link {
        self.link(target, node, true)
    }
}

impl Link {
    /// An `Unreachable` leaves nothing unanswered: nothing was sent.
    async fn call(
        &self,
        request: &Request,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Response, RPCError<Types>> {
        let addr = (self.peers.resolve)(self.target).unwrap_or(self.known);
        let answer = self
            .peers
            .net
            .call(addr, wire::request(request, body), deadline)
            .await;
        let frame = answer.map_err(|error| match error {
            NetError::Unreachable { .. } | NetError::Refused { .. } => {
                self.unanswered.send_replace(None);
                RPCError::Unreachable(Unreachable::new(&error))
            }
            NetError::TimedOut { .. } | NetError::Broken { .. } => {
                RPCError::Network(NetworkError::new(&error))
            }
        })?;
        self.unanswered
            .send_if_modified(|sent| sent.take().is_some());
        match frame.message() {
            Ok(Response::Unavailable { why }) => {
                Err(RPCError::Network(NetworkError::from_string(why)))
            }
            Ok(response) => Ok(response),
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }

    /// Holds an append back while an earlier one has no answer and nothing else was answered since.
    async fn wait_for_life(&self) -> Result<(), RPCError<Types>> {
        let mut unanswered = self.unanswered.subscribe();
        let sent = *unanswered.borrow();
        let Some(wait) = sent.and_then(|sent| SILENCE.checked_sub(sent.elapsed())) else {
            return Ok(());
        };
        match timeout(wait.min(SILENCE_STEP), unanswered.wait_for(Option::is_none)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RPCError::Unreachable(Unreachable::from_string(format!(
                "{} has left an append unanswered",
                self.target
            )))),
        }
    }

    fn vote_ask(&self, rpc: VoteRequest<Types>) -> VoteAsk {
        VoteAsk {
            vote: rpc.vote.into(),
            last: rpc.last_log_id.map(Into::into),
            transfer: rpc.leadership_transfer,
            target: Target(self.target),
        }
    }

    async fn ask_vote(
        &self,
        request: Request,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(&request, Bytes::new(), option.hard_ttl()).await? {
            Response::Vote {
                vote,
                granted,
                last,
            } => Ok(VoteResponse::new(
                Vote::from(vote),
                last.map(Into::into),
                granted,
            )),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends the pieces that the other side says it wants, until it has restored the state. Its answer is its vote: one higher
    /// than ours ends the transfer. What a broken transfer left there is not sent again.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
    ) -> Result<Vote, RPCError<Types>> {
        let total = snapshot.snapshot.len() as u64;
        let (mut offset, mut failures) = (0, 0);
        let mut arrived = None;
        loop {
            if offset == total
                && arrived.get_or_insert_with(Instant::now).elapsed() > RESTORE_DEADLINE
            {
                return Err(RPCError::Network(NetworkError::from_string(
                    "the snapshot is not restored in time",
                )));
            }
            let end = total.min(offset + SNAPSHOT_PIECE_BYTES as u64);
            let piece = Piece {
                vote: vote.into(),
                meta: (&snapshot.meta).into(),
                offset,
                total,
                target: Target(self.target),
            };
            let body = snapshot.snapshot.slice(offset as usize..end as usize);
            match self
                .call(&Request::Piece(piece), body, PIECE_DEADLINE)
                .await
            {
                Ok(Response::Piece {
                    vote: theirs, done, ..
                }) if done || Vote::from(theirs) > vote => {
                    return Ok(theirs.into());
                }
                Ok(Response::Piece { next, .. }) if next >= end && next <= total => {
                    (offset, failures) = (next, 0)
                }
                // It begins anew: it was restarted, or another leader came between.
                Ok(Response::Piece { next, .. }) if failures < PIECE_RETRIES => {
                    (offset, failures) = (next.min(total), failures + 1);
                }
                Err(RPCError::Network(error)) if failures < PIECE_RETRIES => {
                    tracing::debug!(%error, target = %self.target, offset, "a piece of a snapshot is sent again");
                    failures += 1;
                }
                Err(error) => return Err(error),
                Ok(other) => return Err(unexpected(&other)),
            }
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (entries, body) = wire::split_entries(&rpc.entries);
        let request = Request::Append(Append {
            vote: rpc.vote.into(),
            prev: rpc.prev_log_id.map(Into::into),
            committed: rpc.leader_commit.map(Into::into),
            entries,
            target: Target(self.target),
        });
        let deadline = if self.heartbeat {
            option.hard_ttl()
        } else {
            option.hard_ttl().max(APPEND_DEADLINE_MIN)
        };
        if !self.heartbeat {
            self.wait_for_life().await?;
            self.unanswered.send_replace(Some(Instant::now()));
        }
        match self.call(&request, body, deadline).await? {
            Response::Append(answer) => Ok(match answer {
                AppendAnswer::Success => AppendEntriesResponse::Success,
                AppendAnswer::Partial(id) => {
                    AppendEntriesResponse::PartialSuccess(id.map(Into::into))
                }
                AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
                AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Request::Vote(self.vote_ask(rpc)), option)
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Request::PreVote(self.vote_ask(rpc)), option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, &snapshot) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = Request::Transfer(Transfer {
            from: (*rpc.from_leader()).into(),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(|id| (*id).into()),
        });
        match self.call(&request, Bytes::new(), option.hard_ttl()).await? {
            Response::Transfer { done: true } => Ok(Ok(())),
            // The reason is logged over there.
            Response::Transfer { done: false } => Err(RPCError::Network(
                NetworkError::from_string("transfer declined"),
            )),
            other => Err(unexpected(&other)),
        }
    }
}

impl From<VoteAsk> for VoteRequest<Types> {
    fn from(ask: VoteAsk) -> Self {
        let mut rpc = VoteRequest::new(ask.vote.into(), ask.last.map(Into::into));
        rpc.leadership_transfer = ask.transfer;
        rpc
    }
}

fn unexpected(response: &Response) -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string(format!(
        "unexpected answer {response:?}"
    )))
}
