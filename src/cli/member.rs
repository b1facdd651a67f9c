//! `hydfs member`: settings, checks, and then the supervisor. `hydfs join` starts the same in the background.

use super::{failure::Failure, folder, logging, preflight, process, settings::Layer, supervisor};
use hydfs_control::{Client, Liveness, MemberRow, Status};
use hydfs_node::Config;
use std::{
    path::{Path, PathBuf, absolute},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Child, time::Instant};

/// The settings that a member runs with, kept in its data folder for its worker and for `hydfs join`.
pub const SETTINGS_FILE: &str = "member.toml";
/// Log of a member that `hydfs join` started.
const LOG_FILE: &str = "member.log";
/// How long `hydfs join` waits for the member to serve.
const JOIN_WAIT: Duration = Duration::from_secs(60);
const JOIN_POLL: Duration = Duration::from_millis(100);

/// Each setting is taken from its flag, else its environment variable, else the --config file, else its default.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TOML file of settings; keys are the flags below with `_` for `-` [default: none]
    #[arg(
        long,
        env = "HYDFS_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Layer,
}

/// Runs until told to stop.
pub fn run(args: Args) -> Result<(), Failure> {
    let file = args
        .config
        .as_deref()
        .map(Layer::read)
        .transpose()?
        .unwrap_or_default();
    let layer = args.settings.over(file).over(Layer::defaults());
    let layer = with_absolute_paths(layer)?;
    logging::start(layer.log.as_deref().unwrap_or_default())?;
    let config = layer.clone().resolve()?;
    let lock = preflight::check(&config, layer.mount_point())?;
    // The way in is for the first start only: a later one finds the cluster in the data folder.
    let kept = Layer {
        bootstrap: Some(false),
        ..layer.clone()
    };
    kept.save(&config.data.join(SETTINGS_FILE))?;
    log_start(&config);
    supervisor::run(&config, layer.mount_point(), &lock)
}

/// Starts the member of a data folder in the background and returns when it serves.
pub async fn join(data: &Path, seeds: &[String]) -> Result<Status, Failure> {
    if let Some(status) = ask(data).await {
        return Ok(status);
    }
    let data =
        &absolute(data).map_err(|error| Failure::new(format!("{}: {error}", data.display())))?;
    let settings = data.join(SETTINGS_FILE);
    if !settings.exists() {
        return Err(Failure::new(format!(
            "no member ever ran in {}: start one with `hydfs member --join HOST:PORT`",
            data.display()
        )));
    }
    let log_path = data.join(LOG_FILE);
    let mut child = start_detached(&settings, seeds, &log_path)?;
    let until = Instant::now() + JOIN_WAIT;
    while Instant::now() < until {
        if let Some(status) = ask(data).await {
            return Ok(status);
        }
        if let Ok(Some(ended)) = child.try_wait() {
            return Err(Failure::new(format!(
                "the member ended ({ended}): see {}",
                log_path.display()
            )));
        }
        tokio::time::sleep(JOIN_POLL).await;
    }
    Err(Failure::new(format!(
        "the member started but did not join within {} s: see {}",
        JOIN_WAIT.as_secs(),
        log_path.display()
    )))
}

/// The member's status, if it serves and the cluster has it.
async fn ask(data: &Path) -> Option<Status> {
    let mut client = Client::connect(&folder::socket(data)).await.ok()?;
    let status = client.status().await.ok()?;
    let rows = client.members().await.ok()?;
    let alive = |row: &MemberRow| row.name == status.member && row.state == Liveness::Alive;
    rows.iter().any(alive).then_some(status)
}

fn start_detached(settings: &Path, seeds: &[String], log_path: &Path) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot start the member: {error}"));
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path)
        .map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = tokio::process::Command::new(program);
    command.arg("member").arg("--config").arg(settings);
    if !seeds.is_empty() {
        command.arg("--join").args(seeds);
    }
    // Only what was kept holds: variables of this shell belong to this command.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HYDFS_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    process::detach(&mut command);
    command.spawn().map_err(failed)
}

fn with_absolute_paths(layer: Layer) -> Result<Layer, Failure> {
    let whole = |path: Option<PathBuf>| {
        path.map(|path| {
            absolute(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
        })
        .transpose()
    };
    let mount = match layer.mount_point() {
        Some(_) => whole(layer.mount.clone())?,
        None => layer.mount.clone(),
    };
    Ok(Layer {
        data: whole(layer.data.clone())?,
        certs: whole(layer.certs.clone())?,
        mount,
        ..layer
    })
}

fn log_start(config: &Config) {
    tracing::info!(
        member = config.name,
        data = %config.data.display(),
        listen = %config.listen,
        advertise = %config.advertise,
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    if config.advertise.ip().is_loopback() && !config.listen.ip().is_loopback() {
        tracing::warn!(
            "no network address found: only members on this machine can reach this one; --advertise sets another"
        );
    }
}
