//! Real jobs beside all other users: RainStorm follows the file that all of them append to. One job copies it, one counts
//! each writer's lines. The judge knows what both have to show from the file itself.

use crate::{
    kernel::Ask,
    outputs::{Outputs, audited},
    paths::{self, Mounts},
    world::World,
};
use hydfs_mount::FsError;
use hydfs_types::JobPhase;
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const COPY: &str = r#"version = 1
[job]
epoch_ms = 200
[[source]]
name = "log"
path = "/log"
follow = true
[[stage]]
name = "all"
from = "log"
op = { filter = { contains = " " } }
"#;
const COUNT: &str = r#"version = 1
[job]
epoch_ms = 300
[[source]]
name = "log"
path = "/log"
follow = true
[[stage]]
name = "writers"
from = "log"
op = { flat_map = { matches = "^(\\S+) \\d+ ", with = "$1", columns = ["writer"] } }
tasks = 2
[[stage]]
name = "count"
from = "writers"
op = { count = { by = "writer", changelog = true } }
tasks = 3
"#;
/// The file that all append to (`client::FILE`).
const LOG: &str = "/log";
const COPIED: &str = "/.jobs/copy/output";
const COUNTED: &str = "/.jobs/count/output";
const NAMES: [&str; 2] = ["copy", "count"];

/// How often the outputs are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time until the jobs have read everything when all is well, and how often that is looked at.
const END: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_millis(500);

/// The jobs of a run, and who watches them.
pub struct Streams {
    stop: Arc<AtomicBool>,
    watches: JoinHandle<Outputs>,
}

async fn watch(mut outputs: Outputs, stop: Arc<AtomicBool>) -> Outputs {
    while !stop.load(Ordering::Relaxed) {
        sleep(LOOK).await;
        outputs.look().await;
    }
    outputs
}

async fn drop_specs(mounts: &Mounts, rng: &mut SmallRng) -> Result<(), FsError> {
    let mount = mounts.any(rng).expect("a healthy cluster has mounts");
    // It is there before the first of its writers is.
    paths::append(&*mount, LOG, b"").await?;
    for (name, spec) in NAMES.iter().zip([COPY, COUNT]) {
        paths::append(&*mount, &format!("/.jobs/{name}.toml"), spec.as_bytes()).await?;
    }
    Ok(())
}

impl Streams {
    /// Drops the specs.
    pub async fn begin(world: &mut World) -> Self {
        let mut rng = SmallRng::from_rng(&mut world.rng);
        let (mounts, oracle) = (world.mounts.clone(), world.oracle.clone());
        if let Err(error) = drop_specs(&mounts, &mut rng).await {
            oracle.report(format!("the jobs cannot be dropped: {error}"));
        }
        let outputs = Outputs::new(mounts, oracle, rng, &[COPIED, COUNTED]);
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            watches: tokio::spawn(watch(outputs, stop.clone())),
            stop,
        }
    }

    /// Nobody writes any more: waits until both jobs have read everything, and judges what they have made of it.
    pub async fn finish(self, world: &mut World) {
        self.stop.store(true, Ordering::Relaxed);
        let Ok(mut outputs) = self.watches.await else {
            return world
                .oracle
                .report("whoever watches the jobs has panicked".into());
        };
        let until = Instant::now() + END;
        loop {
            let log = outputs.read(LOG).await;
            let copied = outputs.read(COPIED).await;
            let counted = outputs.read(COUNTED).await;
            let all = log.zip(copied).zip(counted);
            if all.is_some_and(|((log, copied), counted)| {
                log == copied && last_of_each(&counted) == count(&log)
            }) {
                break;
            }
            if let Some(why) = failed(world) {
                return world.oracle.report(why);
            }
            if Instant::now() > until {
                let jobs = NAMES.map(|name| {
                    let job = world.job(name);
                    job.map(|job| (job.phase, job.epoch, job.attempt, job.message))
                });
                let what = format!("the jobs do not come to the end of their source: {jobs:?}");
                return world.oracle.report(what);
            }
            world.run(AGAIN).await;
        }
        outputs.look().await;
        judge(world).await;
    }
}

fn failed(world: &World) -> Option<String> {
    let jobs = NAMES.iter().filter_map(|name| world.job(name));
    let mut over = jobs.filter(|job| job.phase != JobPhase::Running);
    let job = over.next()?;
    Some(format!(
        "job {} is {:?}: {}",
        job.name, job.phase, job.message
    ))
}

/// At all mounts, then the receipts.
async fn judge(world: &World) {
    for member in world.members() {
        let name = &member.config.name;
        match wrong(&member).await {
            Ok(None) => {}
            Ok(Some(what)) => world.oracle.report(format!("I10: at {name} {what}")),
            Err(error) => {
                let what = format!("the outputs of jobs cannot be read at {name}: {error}");
                world.oracle.report(what);
            }
        }
    }
    let members = world.members();
    let streaming = members.first().and_then(|member| member.streaming.get());
    for name in NAMES {
        let Some(streaming) = streaming else { return };
        if let Err(error) = audited(streaming, name).await {
            let what = format!("the receipt of job {name} does not hold: {error}");
            world.oracle.report(what);
        }
    }
}

/// What one mount shows that cannot be.
async fn wrong(mount: &dyn Ask) -> Result<Option<String>, FsError> {
    let log = paths::read(mount, LOG).await?;
    if paths::read(mount, COPIED).await? != log {
        return Ok(Some("the copy is not its source".into()));
    }
    let counted = paths::read(mount, COUNTED).await?;
    if last_of_each(&counted) != count(&log) {
        return Ok(Some("the lines are not counted rightly".into()));
    }
    let mut before = BTreeMap::new();
    let falls = counts(&counted).find(|(writer, now)| {
        let before = before.insert(writer.clone(), *now);
        before.is_some_and(|before| before >= *now)
    });
    Ok(falls.map(|(writer, now)| format!("a count of {writer} is {now} and was as much before")))
}

fn counts(counted: &[u8]) -> impl Iterator<Item = (String, u64)> {
    let text = String::from_utf8_lossy(counted).into_owned();
    let lines: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let (writer, count) = line.rsplit_once(',')?;
            Some((writer.to_owned(), count.parse().ok()?))
        })
        .collect();
    lines.into_iter()
}

fn last_of_each(counted: &[u8]) -> BTreeMap<String, u64> {
    counts(counted).collect()
}

fn count(log: &[u8]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for line in String::from_utf8_lossy(log).lines() {
        let writer = line.split(' ').next().unwrap_or_default();
        *all.entry(writer.to_owned()).or_default() += 1;
    }
    all
}
