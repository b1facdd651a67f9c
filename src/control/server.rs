//! The socket `DATA/control.sock`: mode 0600, so that whoever owns the data folder commands the member.

use crate::{Error, Kind, Member, protocol::Request, session::Session, wire};
use hydfs_mount::Caller;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinHandle,
};

/// Connections served at once; more wait in the socket's queue.
pub const CONNECTIONS_MAX: usize = 64;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// A listening control socket. Dropping it closes the socket and removes its file.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens at `path`, replacing what a crash left there. Call it inside a tokio runtime.
    pub fn start(path: impl Into<PathBuf>, member: Arc<dyn Member>) -> Result<Self, Error> {
        let path = path.into();
        let listener = listen(&path).map_err(|error| Error::from(error).on(path.display()))?;
        let task = tokio::spawn(accept(listener, member));
        Ok(Self { path, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // It may be gone already: nothing else depends on it.
        drop(std::fs::remove_file(&self.path));
    }
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let short = ShortPath::of(path)?;
    let listener = UnixListener::bind(short.path())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A socket's address holds 107 bytes of path; a deeper data folder is reached through its descriptor.
pub(crate) struct ShortPath {
    path: PathBuf,
    _folder: Option<std::fs::File>,
}

impl ShortPath {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::{fd::AsRawFd, unix::ffi::OsStrExt};
        const SUN_PATH_MAX: usize = 107;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().as_bytes().len() <= SUN_PATH_MAX {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = std::fs::File::open(folder)?;
        let path = Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(Self {
            path,
            _folder: Some(folder),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

async fn accept(listener: UnixListener, member: Arc<dyn Member>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let member = member.clone();
                tokio::spawn(async move {
                    serve(stream, member).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others close theirs in a moment.
                tracing::warn!(%error, "control socket: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, member: Arc<dyn Member>) {
    let caller = match stream.peer_cred() {
        Ok(cred) => Caller {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid().unwrap_or(0) as u32,
            unique: 0,
        },
        Err(error) => {
            tracing::warn!(%error, "control socket: unknown caller refused");
            return;
        }
    };
    let mut session = Session::new(member, caller);
    if let Err(error) = converse(&mut stream, &mut session).await
        && error.kind != Kind::TimedOut
    {
        tracing::debug!(%error, "control connection ended");
    }
    session.abandon().await;
}

async fn converse(stream: &mut UnixStream, session: &mut Session) -> Result<(), Error> {
    while let Some(request) = wire::receive::<_, Request>(stream, IDLE).await? {
        let response = session.answer(request).await;
        wire::send(stream, &response).await?;
    }
    Ok(())
}
