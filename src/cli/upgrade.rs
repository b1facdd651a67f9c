//! `hydfs upgrade`: another binary serves the mount of a running member. Whoever uses the mount waits a moment and goes on.

use super::{
    failure::Failure,
    folder, process,
    supervisor::{PID_FILE, PROGRAM_FILE},
};
use hydfs_control::Client;
use hydfs_node::WORKER_PID_FILE;
use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf, absolute},
    process::Command,
    time::{Duration, Instant},
};

/// How long the new worker may take to serve.
const WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data folder of the member
    #[arg(long, env = "HYDFS_DATA", value_name = "DIR", hide_env_values = true)]
    data: Option<PathBuf>,
    /// The binary to run [default: this one]
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
}

/// Replaces the worker and returns when the new one serves.
pub fn run(args: &Args) -> Result<(), Failure> {
    let data = folder::find(args.data.clone());
    let program = match &args.bin {
        Some(path) => absolute(path),
        None => std::env::current_exe(),
    };
    let program = program.map_err(|error| Failure::new(format!("which binary? {error}")))?;
    let version = version(&program)?;
    let supervisor = pid(&data, PID_FILE).ok_or_else(|| {
        Failure::new(format!(
            "no member runs on {}: start it with that binary instead",
            data.display()
        ))
    })?;
    let before = pid(&data, WORKER_PID_FILE);
    let named = data.join(PROGRAM_FILE);
    std::fs::write(&named, program.as_os_str().as_bytes())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", named.display())))?;
    process::signal(supervisor, libc::SIGUSR1)
        .map_err(|error| Failure::new(format!("cannot tell the member {supervisor}: {error}")))?;
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let served = runtime.block_on(serves(&data, before, began + WAIT));
    let Some(worker) = served else {
        return Err(Failure::new(format!(
            "no new worker serves after {} s: see the member's log; the mount is served by the old binary if the new one does not start",
            WAIT.as_secs()
        )));
    };
    let runs = std::fs::read_link(format!("/proc/{worker}/exe"));
    if runs.is_ok_and(|runs| runs != program) {
        return Err(Failure::new(
            "the new binary did not come to serve, and the old one went on: see the member's log",
        ));
    }
    println!(
        "{version} serves, as process {worker}, after {} ms",
        began.elapsed().as_millis()
    );
    Ok(())
}

/// The process id in a file of the data folder, if that process lives.
fn pid(data: &Path, file: &str) -> Option<u32> {
    let text = std::fs::read_to_string(data.join(file)).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
}

/// The new worker, once it serves.
async fn serves(data: &Path, before: Option<u32>, until: Instant) -> Option<u32> {
    while Instant::now() < until {
        let now = pid(data, WORKER_PID_FILE).filter(|now| Some(*now) != before);
        if let Some(worker) = now
            && let Ok(mut client) = Client::connect(&folder::socket(data)).await
            && client.status().await.is_ok()
        {
            return Some(worker);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

/// What a binary says that it is: one that says nothing is no worker.
fn version(program: &Path) -> Result<String, Failure> {
    let said = Command::new(program).arg("--version").output();
    let said = said
        .map_err(|error| Failure::new(format!("{} cannot be run: {error}", program.display())))?;
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    match said.status.success() && text.starts_with("hydfs ") {
        true => Ok(text),
        false => Err(Failure::new(format!("{} is no hydfs", program.display()))),
    }
}
