//! The command line's side of the control socket.

use crate::{
    Appended, Audit, Drain, Error, FileCopies, Kind, MemberRow, Merged, Status, StoredRow,
    Suspicion,
    protocol::{PIECE_BYTES, Request, Response, Transfer},
    server::ShortPath,
    wire,
};
use bytes::Bytes;
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;

/// Longest wait for one answer. Longer than any wait inside the member, so that its own words arrive.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// A connection to the local member.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// Calls one request and takes its answer of that shape.
macro_rules! ask {
    ($self:expr, $request:expr, $shape:pat => $value:expr) => {
        match $self.call($request).await? {
            $shape => Ok($value),
            other => Err(unexpected(&other)),
        }
    };
}

impl Client {
    /// Connects to the member whose data folder holds the socket at `path`.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let short = ShortPath::of(path).map_err(|e| no_member(path, &e))?;
        let stream = UnixStream::connect(short.path())
            .await
            .map_err(|e| no_member(path, &e))?;
        Ok(Self { stream })
    }

    pub async fn status(&mut self) -> Result<Status, Error> {
        ask!(self, Request::Status, Response::Status(status) => status)
    }

    pub async fn members(&mut self) -> Result<Vec<MemberRow>, Error> {
        ask!(self, Request::Members, Response::Members(rows) => rows)
    }

    pub async fn locate(&mut self, path: &str) -> Result<FileCopies, Error> {
        ask!(self, Request::Locate { path: path.to_owned() }, Response::Located(copies) => copies)
    }

    pub async fn store(&mut self) -> Result<Vec<StoredRow>, Error> {
        ask!(self, Request::Store, Response::Store(rows) => rows)
    }

    pub async fn metrics(&mut self) -> Result<String, Error> {
        ask!(self, Request::Metrics, Response::Text(text) => text)
    }

    pub async fn suspicion(&mut self, set: Option<bool>) -> Result<Suspicion, Error> {
        ask!(self, Request::Suspicion { set }, Response::Suspicion(state) => state)
    }

    pub async fn drain(&mut self, member: Option<String>, on: bool) -> Result<Drain, Error> {
        ask!(self, Request::Drain { member, on }, Response::Drain(drain) => drain)
    }

    pub async fn dismiss(&mut self, member: String, now: bool) -> Result<(), Error> {
        ask!(self, Request::Dismiss { member, now }, Response::Done => ())
    }

    pub async fn leave(&mut self) -> Result<(), Error> {
        ask!(self, Request::Leave, Response::Done => ())
    }

    pub async fn check_job(&mut self, path: &str, spec: String) -> Result<(), Error> {
        let path = path.to_owned();
        ask!(self, Request::CheckJob { path, spec }, Response::Done => ())
    }

    /// Audits a job, or says how far that is: to be called until there is an outcome.
    pub async fn audit_job(&mut self, name: &str) -> Result<Audit, Error> {
        let name = name.to_owned();
        ask!(self, Request::AuditJob { name }, Response::Audit(audit) => audit)
    }

    pub async fn merge(&mut self, path: &str) -> Result<Merged, Error> {
        ask!(self, Request::Merge { path: path.to_owned() }, Response::Merged(merged) => merged)
    }

    /// One piece of a replica's copy; empty at the end.
    pub async fn read_replica(
        &mut self,
        member: &str,
        path: &str,
        offset: u64,
    ) -> Result<Bytes, Error> {
        let request = Request::ReadReplica {
            member: member.to_owned(),
            path: path.to_owned(),
            offset,
            len: PIECE_BYTES as u32,
        };
        ask!(self, request, Response::Data(data) => data)
    }

    /// Begins to make a new file.
    pub async fn create(&mut self, path: &str) -> Result<Upload<'_>, Error> {
        self.upload(path, Transfer::Create).await
    }

    /// Begins to append to an existing file.
    pub async fn append(&mut self, path: &str) -> Result<Upload<'_>, Error> {
        self.upload(path, Transfer::Append).await
    }

    /// Begins to read a file, merged up to now.
    pub async fn get(&mut self, path: &str) -> Result<Download<'_>, Error> {
        let size = self.open(path, Transfer::Read).await?;
        Ok(Download { client: self, size })
    }

    /// Every named member appends its data at the same moment.
    pub async fn multi_append(
        &mut self,
        path: &str,
        parts: Vec<(String, Bytes)>,
    ) -> Result<Vec<Appended>, Error> {
        let members = parts.iter().map(|(member, _)| member.clone()).collect();
        let gather = Request::Gather {
            path: path.to_owned(),
            members,
        };
        ask!(self, gather, Response::Done => ())?;
        for (at, (_, mut data)) in parts.into_iter().enumerate() {
            while !data.is_empty() {
                let piece = data.split_to(data.len().min(PIECE_BYTES));
                ask!(self, Request::Piece { at, data: piece }, Response::Done => ())?;
            }
        }
        ask!(self, Request::Go, Response::Appended(done) => done)
    }

    async fn upload(&mut self, path: &str, transfer: Transfer) -> Result<Upload<'_>, Error> {
        self.open(path, transfer).await?;
        Ok(Upload { client: self })
    }

    async fn open(&mut self, path: &str, transfer: Transfer) -> Result<u64, Error> {
        let path = path.to_owned();
        ask!(self, Request::Open { path, transfer }, Response::Opened { size } => size)
    }

    async fn call(&mut self, request: Request) -> Result<Response, Error> {
        wire::send(&mut self.stream, &request).await?;
        let answer = wire::receive(&mut self.stream, ANSWER_DEADLINE).await?;
        match answer {
            Some(Response::Failed(error)) => Err(error),
            Some(response) => Ok(response),
            None => Err(Error::new(
                Kind::Unreachable,
                "the member stopped before it answered: what was asked may or may not have happened",
            )),
        }
    }
}

/// An upload in progress. Dropping the client instead of finishing it undoes a `create`.
#[derive(Debug)]
pub struct Upload<'a> {
    client: &'a mut Client,
}

impl Upload<'_> {
    /// Sends the next bytes; at most [`PIECE_BYTES`] at once stay together in the file.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            ask!(self.client, Request::Write { data: piece }, Response::Done => ())?;
        }
        Ok(())
    }

    /// Returns when everything is durable on every replica.
    pub async fn finish(self) -> Result<(), Error> {
        ask!(self.client, Request::Close, Response::Done => ())
    }
}

/// A download in progress.
#[derive(Debug)]
pub struct Download<'a> {
    client: &'a mut Client,
    /// Bytes of the file when it was opened.
    pub size: u64,
}

impl Download<'_> {
    /// The next bytes; empty at the end.
    pub async fn read(&mut self) -> Result<Bytes, Error> {
        ask!(self.client, Request::Read, Response::Data(data) => data)
    }

    /// Ends the download.
    pub async fn finish(self) -> Result<(), Error> {
        ask!(self.client, Request::Close, Response::Done => ())
    }
}

fn unexpected(response: &Response) -> Error {
    Error::new(
        Kind::Io,
        format!("unexpected answer of the member: {response:?}"),
    )
}

fn no_member(path: &Path, error: &std::io::Error) -> Error {
    let folder = path.parent().unwrap_or(path).display();
    Error::new(
        Kind::Unreachable,
        format!(
            "no member answers for the data folder {folder} ({error}): start one with `hydfs member`, \
             or name the folder with --data or HYDFS_DATA"
        ),
    )
}
