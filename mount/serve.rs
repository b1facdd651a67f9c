//! Serves a mount from its FUSE descriptor, in the worker.
//!
//! Without an offer `serve` reads the first request it finds on the descriptor as the INIT. With one, INIT was answered
//! before (`begin`, in the supervisor): the session is shown the offer as an INIT of its own making, and the kernel is asked
//! to send again what the worker before left without an answer.

use crate::{
    FileSystem, KernelCache, MountError, adapter::Adapter, init, init::Offer, notify::Kernel,
    supervise,
};
use fuser::{Session, SessionACL};
use hydfs_types::BoxFuture;
use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};
use tokio::{runtime::Handle as Runtime, sync::watch};

/// How a mount is served.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// How long the kernel may keep attributes at least: for a file system that changes only through this mount. What
    /// others share says so for each answer ([`FileSystem::keep`]).
    pub attr_ttl: Duration,
    /// How long the kernel may keep entries at least.
    pub entry_ttl: Duration,
    /// The longest time that the file system lets anything be kept.
    pub keep_max: Duration,
    /// A request without an answer for this long answers ETIMEDOUT.
    pub op_timeout: Duration,
    /// A blocking lock that is not free for this long answers ETIMEDOUT.
    pub lock_timeout: Duration,
    /// Requests in flight at most; with more the kernel's queue holds the callers back.
    pub in_flight: usize,
    /// st_blksize. cp, cat and tar use at least 128 KiB by themselves; Python and others take this number as the
    /// buffer of each open file, where 1 MiB would turn small random reads into large ones.
    pub block_bytes: u32,
    /// Threads that read requests: two, so that one slow inline answer does not stop the others.
    pub threads: usize,
    /// Where it is mounted, to raise the kernel's read-ahead; never touched otherwise.
    pub path: Option<PathBuf>,
    /// What the kernel offered when the mount began, if that is over.
    pub offer: Option<Offer>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            attr_ttl: Duration::ZERO,
            entry_ttl: Duration::ZERO,
            keep_max: Duration::from_secs(1),
            op_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(30),
            in_flight: 1_024,
            block_bytes: 128 << 10,
            threads: 2,
            path: None,
            offer: None,
        }
    }
}

/// A mount being served. Dropping it neither stops the service nor unmounts.
pub struct Serving {
    session: JoinHandle<io::Result<()>>,
    ended: watch::Receiver<bool>,
    cache: Arc<Kernel>,
}

/// Begins to serve the mount behind `fd`. Requests run on `runtime`, which must not be the caller's only thread.
/// Returns when kernel and file system have agreed on the protocol.
pub fn serve(
    fd: OwnedFd,
    fs: Arc<dyn FileSystem>,
    runtime: Runtime,
    config: &ServeConfig,
) -> Result<Serving, MountError> {
    let mut options = fuser::Config::default();
    options.acl = SessionACL::All;
    options.n_threads = Some(config.threads.max(1));
    // A cloned descriptor's requests die with the process that read them.
    options.clone_fd = false;
    let device = fd.try_clone().map_err(MountError::Session)?;
    let longest = config.attr_ttl.max(config.entry_ttl).max(config.keep_max);
    let cache = Kernel::new(longest);
    let adapter = Adapter::new(fs, runtime, config, cache.clone());
    let session = match &config.offer {
        None => Session::from_fd(adapter, fd, SessionACL::All, options),
        Some(offer) => init::take_over(adapter, fd, *offer, options),
    }
    .map_err(MountError::Session)?;
    let started = cache.start(session.notifier(), device);
    started.map_err(MountError::Thread)?;
    if let Some(path) = &config.path {
        // Only now: the INIT answer lowers it to what it was when the kernel asked.
        supervise::raise_read_ahead(path);
    }
    let (end, ended) = watch::channel(false);
    let at_end = cache.clone();
    let run = move || {
        let result = session.run();
        at_end.close();
        end.send_replace(true);
        result
    };
    let session = std::thread::Builder::new()
        .name("fuse-session".into())
        .spawn(run)
        .map_err(MountError::Thread)?;
    Ok(Serving {
        session,
        ended,
        cache,
    })
}

impl Serving {
    /// Blocks until the mount is gone.
    pub fn wait(self) -> Result<(), MountError> {
        match self.session.join() {
            Ok(result) => result.map_err(MountError::Session),
            Err(_) => Err(MountError::Session(io::Error::other(
                "a session thread panicked",
            ))),
        }
    }

    /// Resolves when the mount is gone.
    pub fn ended(&self) -> BoxFuture<'static, ()> {
        let mut ended = self.ended.clone();
        Box::pin(async move {
            // An error means that the sender is gone, and the session with it.
            if ended.wait_for(|ended| *ended).await.is_err() {
                tracing::error!("the session thread panicked");
            }
        })
    }

    /// Tells the kernel of changes made elsewhere.
    pub fn notifier(&self) -> Arc<dyn KernelCache> {
        self.cache.clone()
    }
}
