//! The supervisor: mounts, holds the mount's descriptor and the memory file, and runs the worker that serves. When the
//! worker dies, or another binary shall serve, the next worker takes the mount over. It does nothing that could fail or
//! block for long, so that the mount's life does not hang on the worker's.

use super::{
    failure::{DIED, FAILED, Failure},
    folder::SOURCE_PREFIX,
    process,
    workers::Workers,
};
use hydfs_mount::{MountOptions, Mounted};
use hydfs_node::Config;
use std::{
    ffi::OsString,
    fs::File,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    process::Child,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// How long the worker may take to stop cleanly.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How long an unmount may take while the worker still serves what it writes back.
const UNMOUNT_WAIT: Duration = Duration::from_secs(5);
/// A second signal within so long of the first says nothing new.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a worker may take to hand on what it holds.
const HAND_ON_WAIT: Duration = Duration::from_secs(5);
pub const PID_FILE: &str = "supervisor.pid";
/// The binary that the next worker shall run, in the data folder.
pub const PROGRAM_FILE: &str = "worker.program";

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
    let mut upgrades = listen(SignalKind::user_defined1())?;
    drop(std::fs::remove_file(config.data.join(PROGRAM_FILE)));
    let pid_file = config.data.join(PID_FILE);
    std::fs::write(&pid_file, std::process::id().to_string())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", pid_file.display())))?;
    let mounted = mount.map(|path| make_mount(config, path)).transpose()?;
    let path = mounted.as_ref().map(|m| m.path.clone());
    let result = match Workers::new(config, mounted.as_ref(), lock) {
        Ok(workers) => {
            run_workers(config, workers, path.as_deref(), &mut stops, &mut upgrades).await
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

/// Runs one worker after the other until the member shall end.
async fn run_workers(
    config: &Config,
    mut workers: Workers<'_>,
    path: Option<&Path>,
    stops: &mut Stops,
    upgrades: &mut Signal,
) -> Result<(), Failure> {
    loop {
        let ready_before = workers.ready().unwrap_or_default();
        let mut worker = workers.start()?;
        let upgrade = tokio::select! {
            biased;
            () = stops.next() => return stop(&mut worker, path, stops).await,
            _ = upgrades.recv() => workers.can_go_on(),
            _ = worker.wait() => false,
        };
        if upgrade {
            let served = workers.ready().is_ok_and(|ready| ready > ready_before);
            workers.change(program(config), served);
            tracing::info!(program = %workers.program().display(), "another worker takes over");
            hand_on(&mut worker).await;
            continue;
        }
        let status = worker.wait().await.map_err(|error| {
            Failure::new(format!("lost track of the worker: {error}")).code(DIED)
        })?;
        if status.success() {
            tracing::info!("the worker has ended: this member has left");
            return Ok(());
        }
        let served = workers.ready().is_ok_and(|ready| ready > ready_before);
        if !workers.died(status, served) {
            let never_served = workers.ready().is_ok_and(|ready| ready == 0);
            return Err(match status.code() {
                Some(code) if never_served && code == i32::from(FAILED) => Failure::told(FAILED),
                _ => died(status),
            });
        }
        tracing::warn!(
            how = reason(status),
            "the worker died; another one takes the mount over"
        );
        tokio::select! {
            biased;
            () = stops.next() => return Ok(()),
            () = tokio::time::sleep(workers.pause()) => {}
        }
    }
}

/// The binary that `hydfs upgrade` has named.
fn program(config: &Config) -> Option<PathBuf> {
    let named = std::fs::read(config.data.join(PROGRAM_FILE)).ok()?;
    Some(PathBuf::from(OsString::from_vec(named)))
}

/// Ends a worker for another one: it may hand on what others would wait for.
async fn hand_on(worker: &mut Child) {
    send(worker, libc::SIGUSR1);
    if timeout(HAND_ON_WAIT, worker.wait()).await.is_err() {
        send(worker, libc::SIGKILL);
        let _gone = worker.wait().await;
    }
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

fn died(status: ExitStatus) -> Failure {
    Failure::new(format!(
        "the worker died ({}); its log says why. The mount is gone, what was acknowledged is safe: start the member again",
        reason(status)
    ))
    .code(DIED)
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

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(format!("cannot handle signals: {error}")))
}

/// SIGTERM and SIGINT.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
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
