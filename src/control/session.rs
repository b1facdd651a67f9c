//! One connection of the control socket: requests in turn, at most one open transfer and one `multiappend`.

use crate::{
    Error, Kind, Member,
    files::{self, OpenFile},
    peer::{self, STAGED_BYTES_MAX},
    protocol::{APPENDERS_MAX, PIECE_BYTES, Request, Response, Transfer},
};
use bytes::{Bytes, BytesMut};
use hydfs_mount::Caller;
use std::sync::Arc;

/// State of a connection.
pub(crate) struct Session {
    member: Arc<dyn Member>,
    caller: Caller,
    open: Option<Open>,
    gather: Option<Gather>,
}

struct Open {
    path: String,
    transfer: Transfer,
    file: OpenFile,
    offset: u64,
    /// A failed write spoils the transfer: the close reports it again instead of claiming success.
    spoiled: Option<Error>,
}

struct Gather {
    path: String,
    members: Vec<String>,
    data: Vec<BytesMut>,
    bytes: usize,
}

impl Session {
    pub(crate) fn new(member: Arc<dyn Member>, caller: Caller) -> Self {
        Self {
            member,
            caller,
            open: None,
            gather: None,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(&mut self, request: Request) -> Response {
        match self.try_answer(request).await {
            Ok(response) => response,
            Err(error) => Response::Failed(error),
        }
    }

    async fn try_answer(&mut self, request: Request) -> Result<Response, Error> {
        let member = self.member.clone();
        Ok(match request {
            Request::Status => Response::Status(member.status().await?),
            Request::Members => Response::Members(member.members().await?),
            Request::Locate { path } => Response::Located(member.locate(path).await?),
            Request::Store => Response::Store(member.store().await?),
            Request::Metrics => Response::Text(member.metrics()),
            Request::Suspicion { set } => Response::Suspicion(member.suspicion(set).await?),
            Request::Drain { member: name, on } => Response::Drain(member.drain(name, on).await?),
            Request::Dismiss { member: name, now } => {
                member.dismiss(name, now).await.map(|()| Response::Done)?
            }
            Request::Leave => member.leave().await.map(|()| Response::Done)?,
            Request::Merge { path } => Response::Merged(member.merge(self.caller, path).await?),
            Request::ReadReplica {
                member: from,
                path,
                offset,
                len,
            } => {
                let len = len.min(PIECE_BYTES as u32);
                Response::Data(member.read_replica(from, path, offset, len).await?)
            }
            Request::Open { path, transfer } => self.begin(path, transfer).await?,
            Request::Write { data } => self.write(data).await?,
            Request::Read => self.read().await?,
            Request::Close => self.close().await?,
            Request::Gather { path, members } => self.gather(path, members)?,
            Request::Piece { at, data } => self.piece(at, &data)?,
            Request::Go => self.go().await?,
            Request::AuditJob { name } => Response::Audit(member.audit_job(name).await?),
            Request::CheckJob { path, spec } => {
                member.check_job(self.caller, path, spec).await?;
                Response::Done
            }
        })
    }

    /// What is left when the other side is gone: half-made files go, handles are given back.
    pub(crate) async fn abandon(&mut self) {
        let Some(open) = self.open.take() else { return };
        let fs = self.member.files();
        files::close(&*fs, self.caller, &open.file).await;
        if open.transfer == Transfer::Create
            && let Err(error) = files::remove(&*fs, self.caller, &open.path).await
        {
            tracing::warn!(path = open.path, %error, "a half-made file could not be removed");
        }
    }

    async fn begin(&mut self, path: String, transfer: Transfer) -> Result<Response, Error> {
        self.abandon().await;
        let fs = self.member.files();
        let file = match transfer {
            Transfer::Create => files::create(&*fs, self.caller, &path).await?,
            Transfer::Append => files::open(&*fs, self.caller, &path, files::append_how()).await?,
            Transfer::Read => files::open(&*fs, self.caller, &path, files::read_how()).await?,
        };
        let size = file.size;
        self.open = Some(Open {
            path,
            transfer,
            file,
            offset: 0,
            spoiled: None,
        });
        Ok(Response::Opened { size })
    }

    async fn write(&mut self, data: Bytes) -> Result<Response, Error> {
        let open = self.open.as_mut().ok_or_else(nothing_open)?;
        let append = match open.transfer {
            Transfer::Create => false,
            Transfer::Append => true,
            Transfer::Read => {
                return Err(Error::new(Kind::Invalid, "the transfer is a download"));
            }
        };
        if let Some(error) = &open.spoiled {
            return Err(error.clone());
        }
        let len = data.len() as u64;
        let fs = self.member.files();
        let written =
            files::write_all(&*fs, self.caller, &open.file, open.offset, data, append).await;
        if let Err(error) = written {
            let error = error.on(&open.path);
            open.spoiled = Some(error.clone());
            return Err(error);
        }
        open.offset += len;
        Ok(Response::Done)
    }

    async fn read(&mut self) -> Result<Response, Error> {
        let open = self.open.as_mut().ok_or_else(nothing_open)?;
        let fs = self.member.files();
        let data = files::read(
            &*fs,
            self.caller,
            &open.file,
            open.offset,
            PIECE_BYTES as u32,
        )
        .await
        .map_err(|e| e.on(&open.path))?;
        open.offset += data.len() as u64;
        Ok(Response::Data(data))
    }

    async fn close(&mut self) -> Result<Response, Error> {
        let open = self.open.take().ok_or_else(nothing_open)?;
        let fs = self.member.files();
        if open.transfer == Transfer::Read {
            files::close(&*fs, self.caller, &open.file).await;
            return Ok(Response::Done);
        }
        let written = open.spoiled.clone().map_or(Ok(()), Err);
        let failed = written.is_err();
        let finished = files::finish(&*fs, self.caller, &open.file, written).await;
        if failed && open.transfer == Transfer::Create {
            files::remove(&*fs, self.caller, &open.path).await?;
        }
        finished.map_err(|e| e.on(&open.path))?;
        Ok(Response::Done)
    }

    fn gather(&mut self, path: String, members: Vec<String>) -> Result<Response, Error> {
        if members.is_empty() || members.len() > APPENDERS_MAX {
            return Err(Error::new(
                Kind::Invalid,
                format!("name 1 to {APPENDERS_MAX} members"),
            ));
        }
        self.gather = Some(Gather {
            path,
            data: members.iter().map(|_| BytesMut::new()).collect(),
            members,
            bytes: 0,
        });
        Ok(Response::Done)
    }

    fn piece(&mut self, at: usize, piece: &[u8]) -> Result<Response, Error> {
        let gather = self.gather.as_mut().ok_or_else(nothing_open)?;
        let data = gather
            .data
            .get_mut(at)
            .ok_or_else(|| Error::new(Kind::Invalid, "no member at that position"))?;
        gather.bytes += piece.len();
        if gather.bytes > STAGED_BYTES_MAX {
            let mib = STAGED_BYTES_MAX >> 20;
            self.gather = None;
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "a multiappend takes at most {mib} MiB in all: append larger files one by one"
                ),
            ));
        }
        data.extend_from_slice(piece);
        Ok(Response::Done)
    }

    async fn go(&mut self) -> Result<Response, Error> {
        let gather = self.gather.take().ok_or_else(nothing_open)?;
        let mut parts = Vec::with_capacity(gather.members.len());
        for (name, data) in gather.members.into_iter().zip(gather.data) {
            let addr = self.member.address(name.clone()).await?;
            parts.push((name, addr, data.freeze()));
        }
        let net = self.member.net();
        let staging = self.member.staging();
        let done =
            peer::append_everywhere(&*net, &staging, self.caller, &gather.path, parts).await?;
        Ok(Response::Appended(done))
    }
}

fn nothing_open() -> Error {
    Error::new(Kind::Invalid, "no transfer is open on this connection")
}
