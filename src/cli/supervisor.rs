//! The supervisor: mounts, holds the mount's descriptor, runs the worker that serves it, and ends with it. It does
//! nothing that could fail or block for long, so that the mount's life does not hang on the worker's.

use super::{
    failure::{DIED, Failure},
    folder::SOURCE_PREFIX,
    process,
};
use hydfs_mount::{MountOptions, Mounted};
use hydfs_node::Config;
use std::{
    fs::File,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// How long the worker may take to stop cleanly.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How long an unmount may take while the worker still serves what it writes back.
const UNMOUNT_WAIT: Duration = Duration::from_secs(5);
/// A second signal within so long of the first says nothing new.
const PATIENCE: Duration = Duration::from_secs(1);
const PID_FILE: &str = "supervisor.pid";

/// Runs a member until a signal or the worker's end.
pub fn run(config: &Config, mount: Option<&Path>, lock: &File) -> Result<(), Failure> {
    // One thread: the worker's life is tied to the thread that starts it, which is the main one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let result = runtime.block_on(supervise(config, mount, lock));
    // An unmount that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

async fn supervise(config: &Config, mount: Option<&Path>, lock: &File) -> Result<(), Failure> {
    // Before anything is mounted: a signal from here on finds somebody who cleans up.
    let mut stops = Stops::listen()?;
    let pid_file = config.data.join(PID_FILE);
    std::fs::write(&pid_file, std::process::id().to_string())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", pid_file.display())))?;
    let mounted = mount.map(|path| make_mount(config, path)).transpose()?;
    let path = mounted.as_ref().map(|m| m.path.clone());
    let result = match start_worker(config, mounted.as_ref(), lock) {
        Ok(mut worker) => {
            let asked = tokio::select! {
                biased;
                () = stops.next() => true,
                _ = worker.wait() => false,
            };
            match asked {
                true => stop(&mut worker, path.as_deref(), &mut stops).await,
                false => ended(&mut worker).await,
            }
        }
        Err(failure) => Err(failure),
    };
    // The descriptor first: with nobody to serve it, the kernel then answers whoever still waits.
    drop(mounted);
    if let Some(path) = &path {
        unmount(path).await;
    }
    drop(std::fs::remove_file(&pid_file));
    result
}

fn make_mount(config: &Config, path: &Path) -> Result<Mounted, Failure> {
    let options = MountOptions {
        name: format!("{SOURCE_PREFIX}{}", config.data.display()),
        allow_other: true,
    };
    let mounted =
        hydfs_mount::mount(path, &options).map_err(|error| Failure::new(error.to_string()))?;
    if !mounted.allow_other {
        tracing::warn!(
            "only this user can use the mount: put user_allow_other into /etc/fuse.conf to admit others"
        );
    }
    Ok(mounted)
}

fn start_worker(config: &Config, mounted: Option<&Mounted>, lock: &File) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot start the worker: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("worker").arg("--data").arg(&config.data);
    let mut inherited: Vec<RawFd> = vec![lock.as_raw_fd()];
    command.arg("--lock-fd").arg(lock.as_raw_fd().to_string());
    if let Some(mounted) = mounted {
        inherited.push(mounted.fd.as_raw_fd());
        command
            .arg("--fuse-fd")
            .arg(mounted.fd.as_raw_fd().to_string());
        command.arg("--mounted-at").arg(&mounted.path);
    }
    if config.bootstrap {
        command.arg("--bootstrap");
    }
    process::tie(&mut command, inherited);
    command.spawn().map_err(failed)
}

/// A clean stop: the mount goes while the worker can still take what the kernel writes back, then the worker.
async fn stop(worker: &mut Child, path: Option<&Path>, stops: &mut Stops) -> Result<(), Failure> {
    tracing::info!("stopping");
    let quietly = async {
        if let Some(path) = path {
            unmount(path).await;
        }
        send(worker, libc::SIGTERM);
        timeout(STOP_WAIT, worker.wait()).await
    };
    let why = tokio::select! {
        biased;
        done = quietly => match done {
            Ok(_) => {
                tracing::info!("stopped");
                return Ok(());
            }
            Err(_) => format!("within {} s", STOP_WAIT.as_secs()),
        },
        () = stops.insist() => "before it was asked again".to_owned(),
    };
    send(worker, libc::SIGKILL);
    let _gone = worker.wait().await;
    Err(Failure::new(format!(
        "the worker did not stop {why} and was killed: nothing acknowledged is lost, other members see it as dead"
    ))
    .code(DIED))
}

/// The worker ended by itself: after `hydfs leave` that is the end of the member, otherwise a death.
async fn ended(worker: &mut Child) -> Result<(), Failure> {
    match worker.wait().await {
        Ok(status) if status.success() => {
            tracing::info!("the worker has ended: this member has left");
            Ok(())
        }
        Ok(status) => Err(Failure::new(format!(
            "the worker died ({}); its log says why. The mount is gone, what was acknowledged is safe: start the member again",
            reason(status)
        ))
        .code(DIED)),
        Err(error) => Err(Failure::new(format!("lost track of the worker: {error}")).code(DIED)),
    }
}

fn reason(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "unknown".into(),
    }
}

fn send(worker: &Child, number: i32) {
    if let Some(pid) = worker.id()
        && let Err(error) = process::signal(pid, number)
    {
        tracing::debug!(pid, number, %error, "the worker took no signal");
    }
}

async fn unmount(path: &Path) {
    let target: PathBuf = path.to_owned();
    let work = tokio::task::spawn_blocking(move || hydfs_mount::unmount(&target));
    match timeout(UNMOUNT_WAIT, work).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "unmount failed"),
        Ok(Err(error)) => tracing::warn!(%error, "unmount failed"),
        Err(_) => tracing::warn!(path = %path.display(), "unmount hangs: going on without it"),
    }
}

/// SIGTERM and SIGINT.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn listen() -> Result<Self, Failure> {
        let of = |kind| {
            signal(kind).map_err(|error| Failure::new(format!("cannot handle signals: {error}")))
        };
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    /// Asked again, by somebody who has run out of patience. Some senders, timeout(1) for one, send twice at once.
    async fn insist(&mut self) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::timeout_at(until, self.next()).await.is_ok() {}
        self.next().await;
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
