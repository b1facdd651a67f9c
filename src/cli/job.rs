//! Commands on jobs: thin views of the files below `.jobs` and of `.cluster/jobs`.

use super::{failure::Failure, show};
use clap::Subcommand;
use hydfs_control::{Client, Kind};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often a status is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an order may take to be obeyed.
const OBEYED: Duration = Duration::from_secs(30);
/// How long a savepoint may take: all state of the job is copied.
const SAVED: Duration = Duration::from_secs(600);
/// Largest file that is shown.
const SHOWN_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a spec would start, without starting it
    Check {
        /// Local file that ends in .toml or .json
        file: PathBuf,
    },
    /// List all jobs
    List,
    /// Show one job
    Show { name: String },
    /// Stop a job for good; what it committed stays
    Cancel { name: String },
    /// Let a job stand still where it is
    Pause { name: String },
    /// Let a paused job go on
    Resume { name: String },
    /// Keep a job's state and positions under a name, for another job to begin from
    Savepoint {
        name: String,
        /// 1 to 64 letters, digits, `_` and `-`
        savepoint: String,
    },
    /// Wait until a job has ended; fails unless it is done
    Await {
        name: String,
        /// Seconds to wait at most [default: for ever]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Check what a job read and put out against its receipt
    Audit { name: String },
    /// Print a job's log
    Logs { name: String },
}

/// Runs one of them.
pub async fn run(client: &mut Client, command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Check { file } => {
            let path = file.display().to_string();
            let spec = std::fs::read_to_string(&file)
                .map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
            if !is_spec(&file) {
                let what = format!("{path} ends neither in .toml nor in .json: rename it");
                return Err(Failure::new(what));
            }
            client.check_job(&path, spec).await?;
            show::checked(json, &path);
        }
        Command::List => {
            let jobs = list(client).await?;
            show::jobs(json, &jobs);
        }
        Command::Show { name } => {
            let status = status(client, &name).await?;
            let parts = [
                read(client, &format!("/.jobs/{name}/status")).await?,
                read(client, &format!("/.jobs/{name}/progress")).await?,
            ];
            let text = match parts {
                [None, _] => format!(
                    "status = {}\nmessage = its folder /.jobs/{name} was removed; to end it, remove its spec too\n",
                    word(&status)
                ),
                parts => parts.map(Option::unwrap_or_default).concat(),
            };
            show::whole_job(json, &status, &text);
        }
        Command::Cancel { name } => order(client, &name, "cancel", json).await?,
        Command::Pause { name } => order(client, &name, "pause", json).await?,
        Command::Resume { name } => order(client, &name, "resume", json).await?,
        Command::Savepoint { name, savepoint } => save(client, &name, &savepoint, json).await?,
        Command::Await { name, timeout } => {
            let limit = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
            begun(client, &name, limit).await?;
            let status = wait(client, &name, limit, has_ended).await?;
            match word(&status) {
                "done" => show::job_is(json, &status),
                other => {
                    let message = status["message"].as_str().unwrap_or_default();
                    return Err(Failure::new(format!("job {name} is {other}: {message}")));
                }
            }
        }
        Command::Audit { name } => {
            let text = audit(client, &name).await?;
            let audited = serde_json::from_str(&text)
                .map_err(|error| Failure::new(format!("unexpected answer: {error}")))?;
            show::audited(json, &name, &audited);
        }
        Command::Logs { name } => {
            status(client, &name).await?;
            show::log(json, &log(client, &name).await?);
        }
    }
    Ok(())
}

/// Waits for a job's audit, with a line on standard error each time that the member says how far it is.
async fn audit(client: &mut Client, name: &str) -> Result<String, Failure> {
    loop {
        let audit = client.audit_job(name).await?;
        if let Some(outcome) = audit.outcome {
            return Ok(outcome);
        }
        let (epochs, of) = (audit.epochs, audit.of);
        match epochs < of {
            true => eprintln!("job {name}: read again what {epochs} of {of} job epochs read"),
            false => eprintln!("job {name}: reading its outputs"),
        }
    }
}

fn is_spec(file: &Path) -> bool {
    file.extension()
        .is_some_and(|ending| ending == "toml" || ending == "json")
}

fn word(status: &Value) -> &str {
    status["status"].as_str().unwrap_or_default()
}

fn has_ended(status: &Value) -> bool {
    matches!(word(status), "done" | "failed" | "cancelled")
}

/// Writes the order and waits until the job is as it should be.
async fn order(client: &mut Client, name: &str, order: &str, json: bool) -> Result<(), Failure> {
    let before = status(client, name).await?;
    let is_so = |status: &Value| match order {
        "pause" => word(status) == "paused",
        "resume" => word(status) == "running",
        _ => word(status) == "cancelled",
    };
    if has_ended(&before) && !is_so(&before) {
        let what = format!("job {name} has ended: it is {}", word(&before));
        return Err(Failure::new(what));
    }
    if is_so(&before) {
        show::job_is(json, &before);
        return Ok(());
    }
    tell(client, name, order).await?;
    let limit = Instant::now() + OBEYED;
    let after = wait(client, name, Some(limit), |status| {
        is_so(status) || has_ended(status)
    })
    .await?;
    match is_so(&after) {
        true => show::job_is(json, &after),
        false => {
            let what = format!("job {name} ended before it obeyed: it is {}", word(&after));
            return Err(Failure::new(what));
        }
    }
    Ok(())
}

/// Writes an order to the job's control file.
async fn tell(client: &mut Client, name: &str, order: &str) -> Result<(), Failure> {
    let mut upload = client.create(&control(name)).await?;
    upload.write(format!("{order}\n").into()).await?;
    upload.finish().await?;
    Ok(())
}

fn control(name: &str) -> String {
    format!("/.jobs/{name}/control")
}

/// Orders a savepoint and waits until it is there.
async fn save(client: &mut Client, job: &str, name: &str, json: bool) -> Result<(), Failure> {
    if !rainstorm::is_savepoint_name(name) {
        let what = format!("`{name}` is no name of a savepoint");
        return Err(Failure::new(format!(
            "{what}: use 1 to 64 letters, digits, `_` and `-`"
        )));
    }
    let before = status(client, job).await?;
    if has_ended(&before) {
        let what = format!("job {job} has ended: it is {}", word(&before));
        return Err(Failure::new(what));
    }
    let folder = format!("/.jobs/{job}/savepoints/{name}");
    // Its last file makes it exist.
    let file = format!("{folder}/savepoint");
    if read(client, &file).await?.is_some() {
        let what = format!("job {job} has a savepoint {name} already");
        return Err(Failure::new(format!(
            "{what}: take another name, or remove {folder}"
        )));
    }
    let logged = log(client, job).await?.len();
    tell(client, job, &format!("savepoint {name}")).await?;
    let limit = Instant::now() + SAVED;
    while read(client, &control(job)).await?.is_some() {
        if Instant::now() > limit {
            let what = format!("savepoint {name} of job {job} is not there yet, but ordered");
            return Err(Failure::new(format!(
                "{what}: see `hydfs job logs {job}` and `hydfs status`"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let log = log(client, job).await?;
    let answer = format!("control: `savepoint {name}`: ");
    let answers = log.get(logged..).unwrap_or_default().lines();
    let mut said = answers.filter_map(|line| line.strip_prefix(&answer));
    let said = said.next_back();
    match read(client, &file).await? {
        Some(_) => show::savepoint(json, (job, name), &folder, said.unwrap_or_default()),
        None => {
            let why = said.unwrap_or("see its log");
            let what = format!("job {job} made no savepoint {name}");
            return Err(Failure::new(format!("{what}: {why}")));
        }
    }
    Ok(())
}

/// A job's log; empty if there is none yet.
async fn log(client: &mut Client, name: &str) -> Result<String, Failure> {
    let log = read(client, &format!("/.jobs/{name}/log")).await?;
    Ok(log.unwrap_or_default())
}

async fn wait(
    client: &mut Client,
    name: &str,
    limit: Option<Instant>,
    good: impl Fn(&Value) -> bool,
) -> Result<Value, Failure> {
    loop {
        let status = status(client, name).await?;
        if good(&status) {
            return Ok(status);
        }
        if limit.is_some_and(|limit| Instant::now() > limit) {
            let what = format!("job {name} is still {}", word(&status));
            return Err(Failure::new(format!(
                "{what}: see `hydfs job show {name}` and `hydfs status`"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until a job is known whose spec may have been saved a moment ago.
async fn begun(client: &mut Client, name: &str, limit: Option<Instant>) -> Result<(), Failure> {
    let obeyed = Instant::now() + OBEYED;
    let limit = limit.map_or(obeyed, |limit| limit.min(obeyed));
    loop {
        let Err(missing) = status(client, name).await else {
            return Ok(());
        };
        let mut is_saved = false;
        for ending in ["toml", "json"] {
            let spec = read(client, &format!("/.jobs/{name}.{ending}")).await?;
            is_saved |= spec.is_some();
        }
        if !is_saved || Instant::now() > limit {
            return Err(missing);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn status(client: &mut Client, name: &str) -> Result<Value, Failure> {
    let path = format!("/.jobs/{name}/status.json");
    let missing = || {
        Failure::new(format!(
            "there is no job {name}: `hydfs job list` shows all"
        ))
    };
    match read(client, &path).await? {
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("{path} is not JSON: {error}"))),
        // The file goes with the job's folder, the job does not.
        None => {
            let known = list(client).await?.into_iter();
            let mut known = known.rev().filter(|job| job["name"].as_str() == Some(name));
            known.next().ok_or_else(missing)
        }
    }
}

/// All jobs, by their ids.
async fn list(client: &mut Client) -> Result<Vec<Value>, Failure> {
    let text = read(client, "/.cluster/jobs").await?.unwrap_or_default();
    let jobs = text.lines();
    Ok(jobs
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// A whole file; `None` if there is none.
async fn read(client: &mut Client, path: &str) -> Result<Option<String>, Failure> {
    let mut download = match client.get(path).await {
        Ok(download) => download,
        Err(error) if error.kind == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::new();
    loop {
        let piece = download.read().await?;
        if piece.is_empty() {
            break;
        }
        all.extend_from_slice(&piece);
        if all.len() > SHOWN_BYTES_MAX {
            let what = format!("{path} is larger than {SHOWN_BYTES_MAX} bytes");
            return Err(Failure::new(format!("{what}: read it through the mount")));
        }
    }
    download.finish().await?;
    Ok(Some(String::from_utf8_lossy(&all).into_owned()))
}
