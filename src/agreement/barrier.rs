//! Barriers: an index that covers everything acknowledged before the call.
//!
//! Callers of one member share rounds. A round answers those who asked before it began and nobody else, so a caller that comes
//! while one is under way waits for the next.

use crate::{
    group::{BACKOFF_MAX, BACKOFF_MIN, Group},
    propose::no_quorum,
    wire::{self, Request, Response},
};
use bytes::Bytes;
use hydfs_types::{AgreementError, LogIndex, MemberId, suspend};
use openraft::LinearizerOption;
use std::{
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

/// Most callers of one member that wait for a barrier.
pub const BARRIERS_MAX: usize = 16_384;
/// One round waits at most this long before it is begun anew, perhaps at another leader.
const ROUND_DEADLINE: Duration = Duration::from_millis(1500);

/// A barrier waits so long for the kernel to take notice of what changed; then it asks for no lease.
const ONLOOKER_WAIT: Duration = Duration::from_millis(5);

/// Why a leader does not answer though it leads.
pub(crate) const NOT_SHOWN: &str = "a member with a read lease has not applied it yet";

/// Somebody who waits for a round.
pub type Waiter = oneshot::Sender<Result<LogIndex, AgreementError>>;

/// What a leader knows about its right to answer without asking anybody.
pub struct Lease {
    /// False in simulation, whose clock no suspension touches.
    watched: bool,
    /// How long the machine had been suspended when a majority last confirmed the leader. openraft's clock stands still
    /// meanwhile, so its lease seems to last; a suspension since then voids it.
    suspended: Mutex<Option<Duration>>,
    /// Why the last round failed, for those whose time runs out.
    trouble: Mutex<String>,
}

/// Runs rounds for as long as the group is there.
pub async fn run(group: Weak<Group>, mut asked: mpsc::Receiver<Waiter>) {
    while let Some(first) = asked.recv().await {
        let mut waiters = vec![first];
        let mut backoff = BACKOFF_MIN;
        loop {
            while let Ok(waiter) = asked.try_recv() {
                waiters.push(waiter);
            }
            waiters.retain(|waiter| !waiter.is_closed());
            let Some(group) = group.upgrade().filter(|_| !waiters.is_empty()) else {
                break;
            };
            let answer = match group.progress().stopped() {
                Some(stopped) => Some(Err(stopped)),
                None => group.round().await.map(Ok),
            };
            if let Some(answer) = answer {
                for waiter in waiters {
                    // Who has given up needs no answer.
                    waiter.send(answer.clone()).ok();
                }
                break;
            }
            let mut leadership = group.watch_leader();
            let seen = *leadership.borrow();
            drop(group);
            tokio::select! {
                biased;
                _ = leadership.wait_for(|now| *now != seen) => backoff = BACKOFF_MIN,
                () = sleep(backoff) => backoff = BACKOFF_MAX.min(backoff * 2),
            }
        }
    }
}

impl Group {
    /// As [`hydfs_types::Agreement::barrier`], with a deadline of the caller's.
    pub async fn barrier_by(&self, deadline: Instant) -> Result<LogIndex, AgreementError> {
        let begun = Instant::now();
        let (send, receive) = oneshot::channel();
        self.barriers()
            .try_send(send)
            .map_err(|_| no_quorum(begun, "too many barriers wait".into()))?;
        let index = match timeout_at(deadline, receive).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(AgreementError::Stopped("shut down".into())),
            Err(_) => return Err(no_quorum(begun, self.lease().trouble())),
        };
        self.progress().reached(index, deadline).await?;
        Ok(index)
    }

    /// One attempt. `None`: to be tried again.
    async fn round(&self) -> Option<LogIndex> {
        // A lease is counted from here.
        let (sent, suspended) = (Instant::now(), suspend::suspended());
        let deadline = sent + ROUND_DEADLINE;
        let mut leadership = self.watch_leader();
        let seen = *leadership.borrow_and_update();
        let response = tokio::select! {
            biased;
            response = self.ask_barrier(deadline) => response,
            _ = leadership.wait_for(|now| *now != seen) => Response::Unavailable { why: "the leader changed".into() },
        };
        let why = match response {
            Response::Barrier { index } => {
                self.held().saw(index);
                return Some(index);
            }
            Response::Lease { index, granted } => {
                self.took(sent, suspended, index, granted);
                return Some(index);
            }
            Response::NotLeader { .. } => "no leader is known".into(),
            Response::Unavailable { why } => why,
            other => format!("unexpected answer {other:?}"),
        };
        *self
            .lease()
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = why;
        None
    }

    async fn ask_barrier(&self, deadline: Instant) -> Response {
        let (leader, addr) = match self.leader_addr() {
            (Some(leader), _) if leader == self.me() => return self.ask_self(deadline).await,
            (Some(leader), Some(addr)) => (leader, addr),
            (leader, addr) => return Response::NotLeader { leader, addr },
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = left.as_millis() as u32;
        // A member that is not admitted yet holds no lease, one that stops wants none, and one whose kernel has not heard
        // of all that is applied may not say so.
        let request = match self.session().life() {
            0 => Request::Barrier { millis },
            _ if self.held().is_over() => Request::Barrier { millis },
            life => match self.told(LogIndex(0), Instant::now() + ONLOOKER_WAIT).await {
                Err(_) => Request::Barrier { millis },
                Ok(()) => Request::Lease {
                    member: self.me(),
                    life,
                    applied: self.told_through(),
                    millis,
                },
            },
        };
        let request = wire::request(&request, Bytes::new());
        match self.peers().net.call(addr, request, left).await {
            Ok(frame) => frame
                .message()
                .unwrap_or_else(|error| Response::Unavailable {
                    why: error.to_string(),
                }),
            Err(error) => Response::Unavailable {
                why: format!("the leader {leader}: {error}"),
            },
        }
    }

    /// As [`Group::ask_barrier`], on the leader.
    async fn ask_self(&self, deadline: Instant) -> Response {
        match self.session().life() {
            0 => self.serve_barrier(self.me(), deadline).await,
            life => match self.told(LogIndex(0), Instant::now() + ONLOOKER_WAIT).await {
                Err(_) => self.serve_barrier(self.me(), deadline).await,
                Ok(()) => {
                    let told = self.told_through();
                    self.serve_lease(self.me(), life, told, deadline).await
                }
            },
        }
    }

    /// The leader's answer to `asker`, when the index is visible: at once while a majority has acknowledged it lately, else after a round to the voters. A fresh
    /// leader names an index past its first entry, so it waits until that is committed.
    pub(crate) async fn serve_barrier(&self, asker: MemberId, deadline: Instant) -> Response {
        if !self.is_leader() {
            let (leader, addr) = self.leader_addr();
            return Response::NotLeader { leader, addr };
        }
        if self.lease().holds()
            && let Some(index) = self.read_index(Some(self.timing().lease_read), deadline).await
            // Looked at again: the machine may have slept since.
            && self.lease().holds()
        {
            return self.barrier_at(index, asker, deadline).await;
        }
        let before = suspend::suspended();
        match self.read_index(None, deadline).await {
            Some(index) => {
                self.lease().confirm(before);
                self.barrier_at(index, asker, deadline).await
            }
            None => Response::Unavailable {
                why: "the leader has no majority".into(),
            },
        }
    }

    async fn barrier_at(&self, index: LogIndex, asker: MemberId, deadline: Instant) -> Response {
        match self.show(index, asker, deadline).await {
            true => Response::Barrier { index },
            false => Response::Unavailable {
                why: NOT_SHOWN.into(),
            },
        }
    }

    /// openraft's read index: by its lease if a majority's acknowledgement is younger than `age`, else by a round.
    async fn read_index(&self, age: Option<Duration>, deadline: Instant) -> Option<LogIndex> {
        let left = deadline.saturating_duration_since(Instant::now());
        let option =
            LinearizerOption::new(Some(age.unwrap_or_default()), true).with_wait_timeout(left);
        match timeout_at(deadline, self.raft().get_read_linearizer(option)).await {
            Ok(Ok(read)) => Some(LogIndex(read.read_log_id().index())),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no read index");
                None
            }
            Err(_) => None,
        }
    }

    /// Where the leader serves, as far as known.
    pub(crate) fn leader_addr(&self) -> (Option<MemberId>, Option<std::net::SocketAddr>) {
        let leader = self.watch_leader().borrow().1;
        (leader, leader.and_then(|leader| self.address_of(leader)))
    }
}

impl Lease {
    pub fn new(watched: bool) -> Self {
        Self {
            watched,
            suspended: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    fn holds(&self) -> bool {
        let confirmed = *self
            .suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !self.watched || confirmed.is_some_and(|then| suspend::ran_on(then, suspend::suspended()))
    }

    fn confirm(&self, suspended: Duration) {
        *self
            .suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(suspended);
    }

    fn trouble(&self) -> String {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
