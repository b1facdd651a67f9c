//! The serving side: what other members ask of this one.

use crate::{
    group::Group,
    raft::{LogId, Snapshot, SnapshotMeta, Types, Vote},
    snapshots::SNAPSHOT_BYTES_MAX,
    wire::{
        self, Append, AppendAnswer, Malformed, Piece, Propose, Request, Response, Transfer, VoteAsk,
    },
};
use bytes::{Bytes, BytesMut};
use hydfs_types::{BoxFuture, Frame, MemberId, Peer, Service};
use openraft::{
    async_runtime::WatchReceiver,
    raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteResponse},
};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Commands of other members that are in hand at once: fewer than the transport has places for all messages of the group, so
/// that appends, votes, leases and barriers always find one.
pub const ASKED_MAX: usize = 768;
/// Longest time that a proposal or barrier of another member is worked on.
const ASKED_MILLIS_MAX: u32 = 30_000;
/// Longest time that one message of the group itself is worked on.
const PROTOCOL_DEADLINE: Duration = Duration::from_secs(60);

/// Longest time that the restore of a snapshot holds back the answer to a piece; the sender asks again.
const RESTORE_STEP: Duration = Duration::from_secs(2);

/// A snapshot on its way in. There is one at a time: a leader's newer one replaces it.
#[derive(Default)]
pub struct Incoming {
    of: Option<Of>,
    bytes: BytesMut,
    /// It is whole and being restored; then the vote of this member, or why it failed.
    restored: Option<watch::Receiver<Option<Result<Vote, String>>>>,
}

/// Leader, content and length of a snapshot.
type Of = (Vote, SnapshotMeta, u64);

/// The payload of a frame that is a message of the member itself, not of the group.
pub fn member_payload(frame: &Frame) -> Option<Bytes> {
    let own = frame.service == Service::Agreement
        && (matches!(frame.message(), Ok(Request::Member))
            || matches!(frame.message(), Ok(Response::Member)));
    own.then(|| frame.body.clone())
}

/// A request of the member itself, which travels as a frame of `Service::Agreement`.
pub fn member_request(payload: Bytes) -> Frame {
    wire::request(&Request::Member, payload)
}

/// The answer to a [`member_request`].
pub fn member_response(payload: Bytes) -> Frame {
    Frame::new(Service::Agreement, &Response::Member, payload)
}

impl Group {
    /// Answers a frame of `Service::Agreement`. Frames for which [`member_payload`] gives something are the member's to answer.
    pub fn serve(&self, frame: Frame, _from: Peer) -> BoxFuture<'_, Frame> {
        Box::pin(async move {
            let answer = match frame.message() {
                Ok(request) => self.answer(request, frame.body).await,
                Err(error) => Err(Malformed(error.to_string())),
            };
            wire::response(&answer.unwrap_or_else(|error| Response::Unavailable {
                why: error.to_string(),
            }))
        })
    }

    async fn answer(&self, request: Request, body: Bytes) -> Result<Response, Malformed> {
        match request {
            Request::Propose(propose) => {
                // They wait for others, up to seconds, and must not take the places of the messages that end that wait.
                let Ok(_place) = self.asked().try_acquire() else {
                    return Ok(Response::NotTaken {
                        why: "too many commands of other members are in hand".into(),
                    });
                };
                Ok(self.serve_propose(propose).await)
            }
            Request::Barrier { millis } => {
                let deadline =
                    Instant::now() + Duration::from_millis(millis.min(ASKED_MILLIS_MAX).into());
                Ok(self.serve_barrier(MemberId(0), deadline).await)
            }
            Request::Lease {
                member,
                life,
                applied,
                millis,
            } => {
                let deadline =
                    Instant::now() + Duration::from_millis(millis.min(ASKED_MILLIS_MAX).into());
                Ok(self.serve_lease(member, life, applied, deadline).await)
            }
            Request::Show { through } => Ok(self.serve_show(through).await),
            Request::Release { member, life } => Ok(self.serve_release(member, life)),
            Request::Member => Err(Malformed(
                "a message of the member came to the group".into(),
            )),
            Request::Append(Append { target, .. })
            | Request::Vote(VoteAsk { target, .. })
            | Request::PreVote(VoteAsk { target, .. })
            | Request::Piece(Piece { target, .. })
                if target.0 != self.me() =>
            {
                Ok(Response::Unavailable {
                    why: format!("it is for {}, and this is {}", target.0, self.me()),
                })
            }
            protocol => match timeout(PROTOCOL_DEADLINE, self.protocol(protocol, body)).await {
                Ok(answer) => answer,
                Err(_) => Ok(Response::Unavailable {
                    why: format!("no answer within {PROTOCOL_DEADLINE:?}"),
                }),
            },
        }
    }

    async fn protocol(&self, request: Request, body: Bytes) -> Result<Response, Malformed> {
        let answer = match request {
            Request::Append(append) => self.serve_append(append, body).await?,
            Request::Vote(ask) => self
                .raft()
                .vote(ask.into())
                .await
                .map(vote_answer)
                .map_err(|error| error.to_string()),
            Request::PreVote(ask) => self
                .raft()
                .pre_vote(ask.into())
                .await
                .map(vote_answer)
                .map_err(|error| error.to_string()),
            Request::Piece(piece) => self.serve_piece(piece, body).await?,
            Request::Transfer(transfer) => self.serve_transfer(transfer).await,
            Request::Member
            | Request::Propose(_)
            | Request::Barrier { .. }
            | Request::Lease { .. }
            | Request::Show { .. }
            | Request::Release { .. } => {
                unreachable!("answered by the caller")
            }
        };
        Ok(answer.unwrap_or_else(|why| Response::Unavailable { why }))
    }

    async fn serve_append(
        &self,
        append: Append,
        mut body: Bytes,
    ) -> Result<Result<Response, String>, Malformed> {
        let entries = append
            .entries
            .into_iter()
            .map(|head| wire::join_entry(head, &mut body));
        let rpc = AppendEntriesRequest {
            vote: append.vote.into(),
            prev_log_id: append.prev.map(Into::into),
            leader_commit: append.committed.map(Into::into),
            entries: entries.collect::<Result<_, _>>()?,
        };
        let answer = self.raft().append_entries(rpc).await;
        Ok(answer.map(append_answer).map_err(|error| error.to_string()))
    }

    async fn serve_transfer(&self, transfer: Transfer) -> Result<Response, String> {
        let last: Option<LogId> = transfer.last.map(Into::into);
        let rpc = TransferLeaderRequest::new(transfer.from.into(), transfer.to, last);
        match self.raft().handle_transfer_leader(rpc).await {
            Ok(answer) => {
                if let Err(error) = &answer {
                    tracing::warn!(%error, "leadership is not taken over");
                }
                Ok(Response::Transfer {
                    done: answer.is_ok(),
                })
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn serve_piece(
        &self,
        piece: Piece,
        body: Bytes,
    ) -> Result<Result<Response, String>, Malformed> {
        if piece.total > SNAPSHOT_BYTES_MAX || piece.offset + body.len() as u64 > piece.total {
            return Err(Malformed("a piece lies outside its snapshot".into()));
        }
        let mine = self.raft().server_metrics().borrow_watched().vote;
        let vote = Vote::from(piece.vote);
        if mine > vote {
            return Ok(Ok(Response::Piece {
                vote: mine.into(),
                next: piece.offset,
                done: false,
            }));
        }
        let of = (vote, piece.meta.try_into()?, piece.total);
        let (next, restored) = {
            let mut incoming = self.incoming();
            if let Some(snapshot) = incoming.take(of, piece.offset, &body) {
                incoming.restored = Some(self.restore(vote, snapshot));
            }
            (incoming.next(), incoming.restored.clone())
        };
        let Some(mut restored) = restored else {
            return Ok(Ok(Response::Piece {
                vote: piece.vote,
                next,
                done: false,
            }));
        };
        let waited = timeout(RESTORE_STEP, restored.wait_for(Option::is_some)).await;
        let result = waited.ok().and_then(|restored| restored.ok()?.clone());
        Ok(match result {
            Some(Ok(vote)) => Ok(Response::Piece {
                vote: vote.into(),
                next,
                done: true,
            }),
            Some(Err(why)) => Err(why),
            None => Ok(Response::Piece {
                vote: piece.vote,
                next,
                done: false,
            }),
        })
    }

    /// Restores in a task of its own: it takes as long as it takes, whoever waits for it.
    fn restore(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> watch::Receiver<Option<Result<Vote, String>>> {
        let (done, restored) = watch::channel(None);
        let raft = self.raft().clone();
        tokio::spawn(async move {
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            done.send_replace(Some(
                installed
                    .map(|answer| answer.vote)
                    .map_err(|error| error.to_string()),
            ));
        });
        restored
    }

    async fn serve_propose(&self, propose: Propose) -> Response {
        let deadline =
            Instant::now() + Duration::from_millis(propose.millis.min(ASKED_MILLIS_MAX).into());
        let Propose {
            envelope,
            forward,
            asker,
            ..
        } = propose;
        self.propose_for(envelope, forward, asker, deadline).await
    }
}

impl Incoming {
    /// Adds a piece if it is the one wanted next. Gives the snapshot once, when it is whole.
    fn take(&mut self, of: Of, offset: u64, body: &[u8]) -> Option<Snapshot> {
        if self.of.as_ref() != Some(&of) {
            *self = Self {
                of: Some(of.clone()),
                ..Self::default()
            };
        }
        if self.restored.is_some() || self.bytes.len() as u64 != offset {
            return None;
        }
        self.bytes.extend_from_slice(body);
        let (_, meta, total) = of;
        let whole = self.bytes.len() as u64 == total;
        whole.then(|| Snapshot {
            meta,
            snapshot: std::mem::take(&mut self.bytes).freeze(),
        })
    }

    /// The offset wanted next.
    fn next(&self) -> u64 {
        match (&self.restored, &self.of) {
            (Some(_), Some((_, _, total))) => *total,
            _ => self.bytes.len() as u64,
        }
    }
}

fn vote_answer(answer: VoteResponse<Types>) -> Response {
    Response::Vote {
        vote: answer.vote.into(),
        granted: answer.vote_granted,
        last: answer.last_log_id.map(Into::into),
    }
}

fn append_answer(answer: AppendEntriesResponse<Types>) -> Response {
    Response::Append(match answer {
        AppendEntriesResponse::Success => AppendAnswer::Success,
        AppendEntriesResponse::PartialSuccess(id) => AppendAnswer::Partial(id.map(Into::into)),
        AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote(vote.into()),
    })
}
