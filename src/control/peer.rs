//! `multiappend` between members: each first takes what it will append, then all are told to begin in the same
//! moment and append through their own file systems (fault S20: concurrency that is real). What a member appends
//! comes from the user who asked; no member ever reads its host's files for another (fault S14).

use crate::{Appended, Error, Kind, files};
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use hydfs_mount::{Caller, FileSystem};
use hydfs_types::{Frame, Net, Peer, Service};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Bytes that a member keeps staged at most, all senders together.
pub const STAGED_BYTES_MAX: usize = 64 << 20;
/// What was staged and not begun for so long is dropped.
const STAGED_TIME_MAX: Duration = Duration::from_secs(60);
const PIECE: usize = 4 << 20;
const STAGE_DEADLINE: Duration = Duration::from_secs(10);
const APPEND_DEADLINE: Duration = Duration::from_secs(60);

/// From the member that was asked to one that shall append.
#[derive(Debug, Serialize, Deserialize)]
enum PeerRequest {
    /// The body goes behind the `offset` bytes staged under the ticket.
    Stage {
        ticket: u64,
        offset: u64,
    },
    /// Appends what is staged.
    Append {
        ticket: u64,
        path: String,
        uid: u32,
        gid: u32,
    },
    Drop {
        ticket: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum PeerResponse {
    Done,
    Appended { bytes: u64 },
    Failed(Error),
}

/// A member's staging area; serves frames of [`Service::Control`].
pub struct Staging {
    fs: Arc<dyn FileSystem>,
    held: Mutex<BTreeMap<(String, u64), Held>>,
    /// Tickets given out by this member.
    tickets: AtomicU64,
}

struct Held {
    data: BytesMut,
    since: Instant,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").finish_non_exhaustive()
    }
}

impl Staging {
    /// An empty staging area that appends through `fs`.
    pub fn new(fs: Arc<dyn FileSystem>) -> Arc<Self> {
        Arc::new(Self {
            fs,
            held: Mutex::default(),
            tickets: AtomicU64::new(1),
        })
    }

    /// Answers a frame of [`Service::Control`] from another member. Never fails otherwise than by an answer.
    pub async fn serve(&self, from: &Peer, frame: Frame) -> Frame {
        let response = match self.try_serve(&from.name, &frame).await {
            Ok(response) => response,
            Err(error) => PeerResponse::Failed(error),
        };
        Frame::new(Service::Control, &response, Bytes::new())
    }

    async fn try_serve(&self, from: &str, frame: &Frame) -> Result<PeerResponse, Error> {
        let request: PeerRequest = frame
            .message()
            .map_err(|error| Error::new(Kind::Invalid, error.to_string()))?;
        match request {
            PeerRequest::Stage { ticket, offset } => {
                self.stage(from, ticket, offset, &frame.body)?;
                Ok(PeerResponse::Done)
            }
            PeerRequest::Append {
                ticket,
                path,
                uid,
                gid,
            } => {
                let data = self.take(from, ticket).ok_or_else(|| {
                    Error::new(Kind::NotFound, "nothing is staged here any more: try again")
                })?;
                let caller = Caller {
                    uid,
                    gid,
                    pid: 0,
                    unique: 0,
                };
                let bytes = files::append_bytes(&*self.fs, caller, &path, data).await?;
                Ok(PeerResponse::Appended { bytes })
            }
            PeerRequest::Drop { ticket } => {
                self.take(from, ticket);
                Ok(PeerResponse::Done)
            }
        }
    }

    fn stage(&self, from: &str, ticket: u64, offset: u64, piece: &[u8]) -> Result<(), Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, h| h.since.elapsed() < STAGED_TIME_MAX);
        let key = (from.to_owned(), ticket);
        if offset == 0 {
            held.remove(&key);
        }
        let before: usize = held.values().map(|h| h.data.len()).sum();
        if before + piece.len() > STAGED_BYTES_MAX {
            return Err(Error::new(
                Kind::Busy,
                "too much is staged at this member: try again in a minute",
            ));
        }
        let entry = held.entry(key).or_insert_with(|| Held {
            data: BytesMut::new(),
            since: Instant::now(),
        });
        if entry.data.len() as u64 != offset {
            return Err(Error::new(
                Kind::Invalid,
                "a staged piece is missing: try again",
            ));
        }
        entry.data.extend_from_slice(piece);
        Ok(())
    }

    fn take(&self, from: &str, ticket: u64) -> Option<Bytes> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = held.remove(&(from.to_owned(), ticket))?;
        Some(taken.data.freeze())
    }
}

/// One member's part: its name, its address and what it appends.
pub(crate) type Part = (String, SocketAddr, Bytes);

/// Stages everything, then lets every member append at once. A member that fails says so in its row; only
/// staging is all or nothing.
pub async fn append_everywhere(
    net: &dyn Net,
    staging: &Staging,
    caller: Caller,
    path: &str,
    parts: Vec<Part>,
) -> Result<Vec<Appended>, Error> {
    let way = Way { net, staging };
    let base = staging
        .tickets
        .fetch_add(parts.len() as u64, Ordering::Relaxed);
    let numbered: Vec<(u64, Part)> = (base..).zip(parts).collect();
    let staged = join_all(
        numbered
            .iter()
            .map(|(ticket, part)| way.stage(*ticket, part)),
    )
    .await;
    if let Some(error) = staged.into_iter().find_map(Result::err) {
        join_all(
            numbered
                .iter()
                .map(|(ticket, part)| way.discard(*ticket, part)),
        )
        .await;
        return Err(error);
    }
    let began = Instant::now();
    let rows = numbered
        .iter()
        .map(|(ticket, part)| way.append(*ticket, part, caller, path, began));
    Ok(join_all(rows).await)
}

/// How another member, or this one, is reached.
struct Way<'a> {
    net: &'a dyn Net,
    staging: &'a Staging,
}

impl Way<'_> {
    async fn stage(&self, ticket: u64, (name, addr, data): &Part) -> Result<(), Error> {
        let mut offset = 0;
        loop {
            let end = data.len().min(offset + PIECE);
            let request = PeerRequest::Stage {
                ticket,
                offset: offset as u64,
            };
            let body = data.slice(offset..end);
            let answer = self.call(*addr, &request, body, STAGE_DEADLINE).await;
            answer.map_err(|e| e.on(format!("member {name}")))?;
            if end == data.len() {
                return Ok(());
            }
            offset = end;
        }
    }

    async fn append(
        &self,
        ticket: u64,
        (name, addr, data): &Part,
        caller: Caller,
        path: &str,
        began: Instant,
    ) -> Appended {
        let request = PeerRequest::Append {
            ticket,
            path: path.to_owned(),
            uid: caller.uid,
            gid: caller.gid,
        };
        let answer = self
            .call(*addr, &request, Bytes::new(), APPEND_DEADLINE)
            .await;
        let (bytes, error) = match answer {
            Ok(PeerResponse::Appended { bytes }) if bytes == data.len() as u64 => (bytes, None),
            Ok(other) => (0, Some(format!("unexpected answer: {other:?}"))),
            Err(error) => (0, Some(error.message)),
        };
        Appended {
            member: name.clone(),
            bytes,
            micros: began.elapsed().as_micros() as u64,
            error,
        }
    }

    async fn discard(&self, ticket: u64, (name, addr, _): &Part) {
        let request = PeerRequest::Drop { ticket };
        if let Err(error) = self
            .call(*addr, &request, Bytes::new(), STAGE_DEADLINE)
            .await
        {
            // It forgets by itself after a minute.
            tracing::debug!(member = name, %error, "staged bytes were not dropped");
        }
    }

    async fn call(
        &self,
        to: SocketAddr,
        request: &PeerRequest,
        body: Bytes,
        deadline: Duration,
    ) -> Result<PeerResponse, Error> {
        let frame = Frame::new(Service::Control, request, body);
        let answer = if to == self.net.local_addr() {
            let me = Peer {
                name: String::new(),
                addr: to,
                member: None,
            };
            self.staging.serve(&me, frame).await
        } else {
            let called = self.net.call(to, frame, deadline).await;
            called.map_err(|error| Error::new(Kind::Unreachable, error.to_string()))?
        };
        match answer.message() {
            Ok(PeerResponse::Failed(error)) => Err(error),
            Ok(response) => Ok(response),
            Err(error) => Err(Error::new(Kind::Io, error.to_string())),
        }
    }
}
