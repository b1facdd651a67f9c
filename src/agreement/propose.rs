//! Commands: from whoever asks, by way of the leader, into the log, and back.

use crate::{
    barrier::NOT_SHOWN,
    group::{BACKOFF_MAX, BACKOFF_MIN, Group},
    raft::Sealed,
    wire::{self, COMMAND_BYTES_MAX, Propose, Request, Response},
};
use bytes::Bytes;
use hydfs_types::{
    AgreementError, Applied, Command, CommandError, CommandIdentity, Envelope, MemberId, Net,
    NetError, Reply, Time,
};
use openraft::errors::{ClientWriteError, RaftError};
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// One attempt waits at most this long: a leader that is cut off is not waited for much longer than it takes to elect another.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);
/// Why a command of a member that was expired meanwhile has no certain outcome.
const ENDED: &str = "this member was taken for dead before the answer came";

impl Group {
    /// As [`hydfs_types::Agreement::propose`], with a deadline of the caller's.
    pub async fn propose_by(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Reply, AgreementError> {
        self.propose_as(command, None, deadline).await
    }

    pub(crate) async fn propose_as(
        &self,
        command: Command,
        identity: Option<&dyn CommandIdentity>,
        deadline: Instant,
    ) -> Result<Reply, AgreementError> {
        let begun = Instant::now();
        let Ok(Ok(_permit)) = timeout_at(deadline, self.proposals().acquire()).await else {
            return Err(no_quorum(
                begun,
                "too many commands of this member wait for the leader".into(),
            ));
        };
        let admission = matches!(command, Command::Admit(_) | Command::TakeOver(_));
        if self.session().is_between() && !admission {
            return Err(AgreementError::Expired);
        }
        let ticket = match identity {
            Some(identity) => self.session().begin_kept(identity),
            None => self.session().begin(),
        };
        let envelope = Envelope {
            session: ticket.id,
            seq: ticket.seq,
            done_through: ticket.done_through,
            incarnation: ticket.incarnation,
            start: ticket.start,
            time: Time::default(),
            command,
        };
        let committed = self.commit(envelope, begun, deadline).await;
        let (applied, taken) = committed.map_err(|error| match ticket.asked_before {
            true => error.in_doubt(),
            false => error,
        })?;
        if applied.reply.is_ok() {
            ticket.done();
        }
        if let (true, Err(refused)) = (admission, &applied.reply) {
            // It may never be applied here: the log goes to the member that this one is a copy of.
            return Err(AgreementError::Refused(refused.clone()));
        }
        // It is applied, only not here yet.
        let reached = self.progress().reached(applied.index, deadline).await;
        reached.map_err(AgreementError::in_doubt)?;
        self.held().saw(applied.index);
        applied.reply.map_err(|refused| match refused {
            // The answers went with the incarnation, also that of an earlier attempt which was done.
            CommandError::Ended(ended) if ended == ticket.incarnation => {
                match taken || ticket.asked_before {
                    true => no_quorum(begun, ENDED.into()).in_doubt(),
                    false => AgreementError::Expired,
                }
            }
            refused => AgreementError::Refused(refused),
        })
    }

    /// Tries until there is an answer, always under the same identity. Also says whether an attempt before the one that was
    /// answered may have been taken.
    async fn commit(
        &self,
        envelope: Envelope,
        begun: Instant,
        deadline: Instant,
    ) -> Result<(Applied, bool), AgreementError> {
        let mut leadership = self.watch_leader();
        let mut backoff = BACKOFF_MIN;
        let mut hint = None;
        // Whether some attempt may have put it into the log.
        let mut taken = false;
        loop {
            if let Some(stopped) = self.progress().stopped() {
                return Err(stopped);
            }
            let seen = *leadership.borrow_and_update();
            let until = deadline.min(Instant::now() + ATTEMPT_DEADLINE);
            let response = tokio::select! {
                biased;
                response = self.attempt(envelope.clone(), hint.take(), until) => response,
                // Whoever was asked does not lead any more and may never answer.
                _ = leadership.wait_for(|now| *now != seen) => Response::Unavailable { why: "the leader changed".into() },
            };
            let why = match response {
                Response::Applied(applied) => return Ok((applied, taken)),
                Response::NotLeader {
                    leader: Some(leader),
                    addr: Some(addr),
                } if leader != self.me() => {
                    hint = Some((leader, addr));
                    format!("{leader} is said to lead")
                }
                Response::NotLeader { .. } => "no leader is known".into(),
                Response::NotTaken { why } => why,
                Response::Unavailable { why } => {
                    taken = true;
                    why
                }
                other => format!("unexpected answer {other:?}"),
            };
            if Instant::now() + backoff >= deadline {
                let error = no_quorum(begun, why);
                return Err(if taken { error.in_doubt() } else { error });
            }
            tokio::select! {
                biased;
                _ = leadership.wait_for(|now| *now != seen && now.1.is_some()) => backoff = BACKOFF_MIN,
                () = sleep(backoff) => backoff = BACKOFF_MAX.min(backoff * 2),
            }
        }
    }

    /// One attempt, at a member that was named as the leader or at the leader known here.
    async fn attempt(
        &self,
        envelope: Envelope,
        hint: Option<(MemberId, SocketAddr)>,
        deadline: Instant,
    ) -> Response {
        match hint {
            Some((_, addr)) => {
                let net = &*self.peers().net;
                ask(net, addr, envelope, false, self.me(), deadline).await
            }
            None => self.propose_for(envelope, true, self.me(), deadline).await,
        }
    }

    /// Commits the command if this member leads; else passes it on once if `forward`.
    pub(crate) async fn propose_for(
        &self,
        envelope: Envelope,
        forward: bool,
        asker: MemberId,
        deadline: Instant,
    ) -> Response {
        match self.leader_addr() {
            (Some(leader), _) if leader == self.me() => self.lead(envelope, asker, deadline).await,
            (Some(_), Some(addr)) if forward => {
                let net = &*self.peers().net;
                ask(net, addr, envelope, false, asker, deadline).await
            }
            (leader, addr) => Response::NotLeader { leader, addr },
        }
    }

    /// Puts the command into the log and waits until it is applied here and visible. openraft batches what arrives
    /// together.
    async fn lead(&self, envelope: Envelope, asker: MemberId, deadline: Instant) -> Response {
        let response = self.write(envelope, deadline).await;
        if let Response::Applied(applied) = &response
            && !self.show(applied.index, asker, deadline).await
        {
            return Response::Unavailable {
                why: NOT_SHOWN.into(),
            };
        }
        response
    }

    async fn write(&self, mut envelope: Envelope, deadline: Instant) -> Response {
        envelope.time = self.now();
        let sealed = hydfs_types::encode(&envelope);
        if sealed.len() > COMMAND_BYTES_MAX {
            let why = format!(
                "a command of {} bytes is over the limit of {COMMAND_BYTES_MAX}",
                sealed.len()
            );
            return Response::Applied(Applied {
                index: self.progress().applied(),
                reply: Err(CommandError::Invalid(why)),
            });
        }
        let written = match timeout_at(deadline, self.raft().client_write(Sealed(sealed))).await {
            Ok(written) => written,
            Err(_) => {
                return Response::Unavailable {
                    why: "no majority of voters took the command".into(),
                };
            }
        };
        match written {
            Ok(written) => match written.data {
                Some(reply) => Response::Applied(Applied {
                    index: hydfs_types::LogIndex(written.log_id.index),
                    reply,
                }),
                None => Response::Unavailable {
                    why: "the entry was no command".into(),
                },
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                match to.leader_id.map(MemberId) {
                    // Its own name only says that its lease ran out: nobody better is known.
                    Some(leader) if leader != self.me() => Response::NotLeader {
                        leader: Some(leader),
                        addr: to.leader_node.map(|node| node.0),
                    },
                    // Refused before it was appended.
                    _ => Response::NotTaken {
                        why: "the leader has lost its majority".into(),
                    },
                }
            }
            Err(error) => Response::Unavailable {
                why: error.to_string(),
            },
        }
    }
}

/// Asks the member that serves at `addr` to have a command committed, whether it leads or not. For a member that has no
/// group yet: its `Admit` goes this way. One attempt; the command must bear being tried again.
pub async fn propose_via(
    net: &dyn Net,
    addr: SocketAddr,
    envelope: Envelope,
    deadline: Duration,
) -> Result<Applied, AgreementError> {
    let begun = Instant::now();
    match ask(net, addr, envelope, true, MemberId(0), begun + deadline).await {
        Response::Applied(applied) => Ok(applied),
        Response::NotLeader { .. } => Err(no_quorum(
            begun,
            "the member that was asked knows no leader".into(),
        )),
        Response::NotTaken { why } => Err(no_quorum(begun, why)),
        Response::Unavailable { why } => Err(no_quorum(begun, why).in_doubt()),
        other => Err(no_quorum(begun, format!("unexpected answer {other:?}"))),
    }
}

async fn ask(
    net: &dyn Net,
    addr: SocketAddr,
    envelope: Envelope,
    forward: bool,
    asker: MemberId,
    deadline: Instant,
) -> Response {
    let left = deadline.saturating_duration_since(Instant::now());
    let request = Request::Propose(Propose {
        envelope,
        millis: left.as_millis() as u32,
        forward,
        asker,
    });
    match net
        .call(addr, wire::request(&request, Bytes::new()), left)
        .await
    {
        Ok(frame) => frame
            .message()
            .unwrap_or_else(|error| Response::Unavailable {
                why: error.to_string(),
            }),
        Err(error @ (NetError::Unreachable { .. } | NetError::Refused { .. })) => {
            Response::NotTaken {
                why: error.to_string(),
            }
        }
        Err(error) => Response::Unavailable {
            why: error.to_string(),
        },
    }
}

pub(crate) fn no_quorum(begun: Instant, why: String) -> AgreementError {
    AgreementError::NoQuorum {
        millis: begun.elapsed().as_millis() as u64,
        why,
    }
}
