//! The one door between the kernel's requests and the file system: the inline answer, the limit on
//! requests in flight, the deadline, and the clearing of set-id bits. Knows nothing of FUSE.

use crate::{
    Answer, Caller, Change, FileSystem, FsError, Request, answer::Reply, catch_up::CatchingUp,
};
use hydfs_types::{Attr, DirEntry, Ino};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::Handle as Runtime,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

type Outcome = Result<Answer, FsError>;

pub(crate) struct Dispatch {
    fs: Arc<dyn FileSystem>,
    runtime: Runtime,
    permits: Arc<Semaphore>,
    /// Places of callers that wait for a lock: they hold nobody else up.
    waits: Arc<Semaphore>,
    deadline: Duration,
    advice: mpsc::Sender<(Caller, Request)>,
    catching_up: CatchingUp,
}

/// Callers that wait for locks at most.
const LOCK_WAITS_MAX: usize = 4_096;
/// Advice waiting at most.
const ADVICE_MAX: usize = 4_096;

/// Hands advice on, one by one; ends with the mount.
async fn advise(
    fs: Arc<dyn FileSystem>,
    mut advice: mpsc::Receiver<(Caller, Request)>,
    deadline: Duration,
) {
    while let Some((caller, request)) = advice.recv().await {
        let name = request.name();
        match timeout(deadline, fs.call(caller, request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(operation = name, %error, "advice refused"),
            Err(_) => tracing::debug!(operation = name, "advice not taken in time"),
        }
    }
}

/// An answer that somebody waits for. With a runtime that ends it is dropped: nobody serves any more, which is no error of
/// the file. A panic is one of ours: the kernel's answer to that is EIO.
struct Owed<R: Reply>(Option<R>);

impl<R: Reply> Owed<R> {
    fn pay(mut self, outcome: Outcome) {
        if let Some(reply) = self.0.take() {
            reply(outcome);
        }
    }
}

impl<R: Reply> Drop for Owed<R> {
    fn drop(&mut self) {
        let reply = self.0.take().filter(|_| !std::thread::panicking());
        if let Some(reply) = reply {
            reply(Err(FsError::Unreachable("this member has stopped".into())));
        }
    }
}

impl Dispatch {
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        runtime: Runtime,
        in_flight: usize,
        deadline: Duration,
        catching_up: CatchingUp,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(in_flight));
        let (advice, inbox) = mpsc::channel(ADVICE_MAX);
        runtime.spawn(advise(fs.clone(), inbox, deadline));
        Self {
            fs,
            runtime,
            permits,
            waits: Arc::new(Semaphore::new(LOCK_WAITS_MAX)),
            deadline,
            advice,
            catching_up,
        }
    }

    pub(crate) fn file_system(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    /// Gets an answer and gives it to `reply`: before this returns if the file system has it at hand, else
    /// from a task. With `strip`, set-id bits of the request's file are cleared first (or along with it).
    pub(crate) fn submit(
        self: &Arc<Self>,
        caller: Caller,
        request: Request,
        strip: bool,
        reply: impl Reply,
    ) {
        self.fs.asked(request.name());
        self.fs.arrived(caller.unique);
        if self.catching_up.is_done_with(caller.unique) {
            self.fs.caught_up();
        }
        let strip = if strip {
            file_of(&request).filter(|ino| self.fs.may_have_set_id(*ino))
        } else {
            None
        };
        if strip.is_none()
            && let Some(outcome) = self.at_once(caller, &request)
        {
            if let Err(error) = &outcome {
                self.fs.failed(request.name(), request.about(), error);
            }
            reply(outcome);
            return self.fs.replied(caller.unique);
        }
        let permit = match self.admit(&request) {
            Ok(permit) => permit,
            Err(error) => {
                reply(Err(error));
                return self.fs.replied(caller.unique);
            }
        };
        let this = self.clone();
        let owed = Owed(Some(reply));
        self.runtime.spawn(async move {
            let _permit = permit;
            let name = request.name();
            let (ino, about) = request.about();
            let about = about.map(<[u8]>::to_vec);
            let deadline = this.deadline + wait_of(&request).unwrap_or_default();
            let answer = timeout(deadline, this.serve(caller, request, strip)).await;
            let outcome = answer.unwrap_or_else(|_| Err(this.late(name)));
            if let Err(error) = &outcome {
                this.fs.failed(name, (ino, about.as_deref()), error);
            }
            owed.pay(outcome);
            this.fs.replied(caller.unique);
        });
    }

    /// As `submit` for a listing whose entries all must have attributes: missing ones are asked for.
    pub(crate) fn submit_listing(
        self: &Arc<Self>,
        caller: Caller,
        request: Request,
        reply: impl Reply,
    ) {
        let this = self.clone();
        self.submit(caller, request, false, move |outcome| match outcome {
            Ok(Answer::Entries(entries)) if entries.iter().any(|entry| entry.1.is_none()) => {
                let runtime = this.runtime.clone();
                let owed = Owed(Some(reply));
                runtime.spawn(async move {
                    let filled = timeout(this.deadline, this.with_attrs(entries)).await;
                    owed.pay(filled.unwrap_or_else(|_| Err(this.late("readdirplus"))));
                });
            }
            other => reply(other),
        });
    }

    /// Entries that are gone meanwhile are left out; at any other error the listing ends before that entry, and
    /// fails when it is the first.
    async fn with_attrs(&self, entries: Vec<(DirEntry, Option<Attr>)>) -> Outcome {
        let mut filled = Vec::with_capacity(entries.len());
        for (entry, attr) in entries {
            let attr = match attr {
                Some(attr) => Ok(attr),
                None => self.attr(entry.ino).await,
            };
            match attr {
                Ok(attr) => filled.push((entry, Some(attr))),
                Err(FsError::NotFound | FsError::Stale) => {}
                Err(error) if filled.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Answer::Entries(filled))
    }

    /// Hands on that the kernel dropped an inode. Advice: with too much of it waiting, it is dropped.
    pub(crate) fn forget(&self, caller: Caller, ino: Ino) {
        let request = Request::Forget { ino };
        if self.at_once(caller, &request).is_none()
            && self.advice.try_send((caller, request)).is_err()
        {
            tracing::trace!(%ino, "forget dropped");
        }
    }

    /// A panic of the file system must not take the session thread with it.
    fn at_once(&self, caller: Caller, request: &Request) -> Option<Outcome> {
        catch_unwind(AssertUnwindSafe(|| self.fs.call_now(caller, request))).unwrap_or_else(|_| {
            tracing::error!(operation = request.name(), "the file system panicked");
            Some(Err(FsError::Damaged("internal error, see the log".into())))
        })
    }

    /// Takes a place among the requests in flight. With none left the session thread waits: the kernel's
    /// queue holds back the callers, nothing piles up here. A release is never held back, it frees things.
    fn admit(&self, request: &Request) -> Result<Option<OwnedSemaphorePermit>, FsError> {
        if matches!(
            request,
            Request::Release { .. } | Request::ReleaseDir { .. }
        ) {
            return Ok(None);
        }
        if wait_of(request).is_some() {
            let place = self.waits.clone().try_acquire_owned();
            let full = |_| FsError::NoLocks(format!("{LOCK_WAITS_MAX} callers wait already"));
            return place.map(Some).map_err(full);
        }
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(Some(permit));
        }
        let wait = async { timeout(self.deadline, self.permits.clone().acquire_owned()).await };
        match self.runtime.block_on(wait) {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(self.late(request.name())),
        }
    }

    async fn serve(&self, caller: Caller, request: Request, strip: Option<Ino>) -> Outcome {
        let request = match strip {
            Some(ino) => self.stripping(ino, request).await?,
            None => request,
        };
        if let Request::Seek {
            ino, offset, data, ..
        } = request
        {
            return match self.fs.call(caller, request).await {
                Err(FsError::NotSupported(_)) => self.seek_without_holes(ino, offset, data).await,
                outcome => outcome,
            };
        }
        self.fs.call(caller, request).await
    }

    /// Clears set-id bits of `ino`, within the request where it sets attributes anyway. Whether there are any, and which mode
    /// remains, is not known here: others may change it at any time.
    async fn stripping(&self, ino: Ino, mut request: Request) -> Result<Request, FsError> {
        if let Request::SetAttr { set, .. } = &mut request {
            set.clear_set_id = true;
            return Ok(request);
        }
        let set = Change {
            clear_set_id: true,
            ..Change::default()
        };
        let clear = Request::SetAttr {
            ino,
            handle: None,
            set,
        };
        self.fs.call(ADAPTER, clear).await?;
        Ok(request)
    }

    async fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        let get = Request::GetAttr { ino, handle: None };
        match self.fs.call(ADAPTER, get).await? {
            Answer::Attr(attr) => Ok(attr),
            other => Err(FsError::Invalid(format!("getattr answered {other:?}"))),
        }
    }

    async fn seek_without_holes(&self, ino: Ino, offset: u64, data: bool) -> Outcome {
        let size = self.attr(ino).await?.size;
        match offset < size {
            true => Ok(Answer::Offset(if data { offset } else { size })),
            false => Err(FsError::NoData),
        }
    }

    fn late(&self, name: &str) -> FsError {
        FsError::TimedOut(format!(
            "{name} had no answer within {} ms",
            self.deadline.as_millis()
        ))
    }
}

/// Who asks where the adapter itself asks.
const ADAPTER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
    unique: 0,
};

/// How long a request may wait for a lock.
fn wait_of(request: &Request) -> Option<Duration> {
    match request {
        Request::SetLock { wait, .. } => *wait,
        _ => None,
    }
}

/// The file whose content or owner the request changes.
fn file_of(request: &Request) -> Option<Ino> {
    match request {
        Request::SetAttr { ino, .. }
        | Request::Open { ino, .. }
        | Request::Write { ino, .. }
        | Request::Allocate { ino, .. }
        | Request::Copy { ino, .. } => Some(*ino),
        _ => None,
    }
}
