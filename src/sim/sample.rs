//! Real jobs of the kill matrix, what they read, and the judge of what they put out.
//!
//! The ordered job follows a file that grows; each of its outputs is written by one task, which runs an executable (or
//! what stands in for it), and has one content that is right, byte for byte. The unordered one reads several files and ends; its lines may come in any order.

use crate::{
    kernel::Ask,
    outputs::{Outputs, audited},
    paths::{self, Mounts},
    world::World,
};
use hydfs_mount::FsError;
use hydfs_types::JobPhase;
use rainstorm::StandIn;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::sleep};

/// The name of the job.
pub const JOB: &str = "job";
/// A caller that was answered with an error comes back after this.
const AGAIN: Duration = Duration::from_millis(100);
/// Lines of each file that is there before, and files of the unordered job.
const LINES: usize = 300;
const FILES: usize = 6;
/// Longest pause between two writes to the file that grows, and most lines of one.
const PAUSE_MILLIS: u64 = 40;
const MORE: usize = 4;

const ORDERED: &str = r#"version = 1
[job]
epoch_ms = 100
[[source]]
name = "in"
path = "/in/grows"
columns = ["key", "n"]
follow = true
[[stage]]
name = "read"
from = "in"
op = { map = { case = "upper" } }
[[stage]]
name = "once"
from = "read"
op = { dedup = { by = "key" } }
partition = "key"
key = "key"
tasks = 3
[[stage]]
name = "out"
from = "once"
op = { exec = { command = "spaces", contract = "batch" } }
tasks = 3
[[sink]]
from = "out"
path = "/out/"
"#;
/// What a batch takes the executable.
const BATCH: Duration = Duration::from_millis(2);
/// The files of its sink, one for each task.
const PARTS: [&str; 3] = ["/out/out-0", "/out/out-1", "/out/out-2"];

const UNORDERED: &str = r#"version = 1
[job]
epoch_ms = 100
[[source]]
name = "in"
path = "/in"
columns = ["key", "n"]
rate = "400/s"
[[stage]]
name = "read"
from = "in"
op = { filter = { column = "key", equals = "k0", not = true } }
tasks = 3
[[stage]]
name = "sums"
from = "read"
op = { sum = { by = "key", of = "n" } }
tasks = 2
[[stage]]
name = "out"
from = "sums"
op = { map = { template = "{1}={2}" } }
[[sink]]
from = "read"
path = "/out/passed"
[[sink]]
from = "out"
path = "/out/sums"
"#;
const PASSED: &str = "/out/passed";
const SUMS: &str = "/out/sums";

/// What is to be expected of the order of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Ordered,
    Unordered,
}

impl Shape {
    fn outputs(self) -> &'static [&'static str] {
        match self {
            Self::Ordered => &PARTS,
            Self::Unordered => &[PASSED, SUMS],
        }
    }
}

/// What the executable of the ordered job does.
pub fn spaces() -> StandIn {
    StandIn::new(|lines| {
        Box::pin(async move {
            sleep(BATCH).await;
            let space = |byte: &u8| if *byte == b',' { b' ' } else { *byte };
            lines.iter().map(space).collect::<Vec<u8>>().into()
        })
    })
}

/// A job that was begun.
pub struct Sample {
    shape: Shape,
    outputs: Outputs,
    stop: Arc<AtomicBool>,
    grows: Option<JoinHandle<()>>,
}

/// Keys come again, and new ones come all the time.
fn some_lines(rng: &mut SmallRng, from: usize, count: usize, keys: usize) -> String {
    let line = |at| {
        let key = rng.random_range(0..keys.max(at / 2 + 20));
        let n = rng.random_range(0..1000);
        format!("k{key},{n}\n")
    };
    (from..from + count).map(line).collect()
}

/// Appends to the followed file through any mount until told to stop.
async fn grow(mounts: Mounts, mut rng: SmallRng, stop: Arc<AtomicBool>) {
    let mut from = LINES;
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(rng.random_range(0..=PAUSE_MILLIS))).await;
        let Some(mount) = mounts.any(&mut rng) else {
            continue;
        };
        let count = rng.random_range(1..=MORE);
        let text = some_lines(&mut rng, from, count, 0);
        from += count;
        // Whether it is there is seen in the file at the end.
        if let Err(error) = paths::append(&*mount, "/in/grows", text.as_bytes()).await {
            tracing::debug!(%error, "an append to the source failed");
            sleep(AGAIN).await;
        }
    }
}

impl Sample {
    /// Writes what is to be read, and drops the spec.
    pub async fn begin(world: &mut World, shape: Shape) -> Self {
        let mut rng = SmallRng::from_rng(&mut world.rng);
        let mounts = world.mounts.clone();
        let mount = mounts.any(&mut rng).expect("a healthy cluster has mounts");
        let mut files = Vec::new();
        let spec = match shape {
            Shape::Ordered => {
                files.push(("/in/grows".to_owned(), some_lines(&mut rng, 0, LINES, 0)));
                ORDERED
            }
            Shape::Unordered => {
                for file in 0..FILES {
                    let text = some_lines(&mut rng, 0, LINES, 40);
                    files.push((format!("/in/part{file}"), text));
                }
                UNORDERED
            }
        };
        let done = async {
            paths::make_dir(&*mount, "/in").await?;
            for (path, text) in &files {
                paths::append(&*mount, path, text.as_bytes()).await?;
            }
            paths::append(&*mount, &format!("/.jobs/{JOB}.toml"), spec.as_bytes()).await
        };
        if let Err(error) = done.await {
            world
                .oracle
                .report(format!("the job cannot be dropped: {error}"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let grows = (shape == Shape::Ordered).then(|| {
            let rng = SmallRng::from_rng(&mut rng);
            tokio::spawn(grow(mounts.clone(), rng, stop.clone()))
        });
        Self {
            shape,
            outputs: Outputs::new(mounts, world.oracle.clone(), rng, shape.outputs()),
            stop,
            grows,
        }
    }

    /// Nothing more is written to the source.
    pub async fn end_input(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(grows) = self.grows.take() {
            grows.await.ok();
        }
    }

    /// Whether it has come to its end, or as far as its source goes.
    pub async fn is_done(&mut self, phase: Option<JobPhase>) -> bool {
        self.outputs.look().await;
        if self.shape == Shape::Unordered {
            return phase == Some(JobPhase::Done);
        }
        let source = self.outputs.read("/in/grows").await;
        source.is_some_and(|source| self.outputs.lines() >= first_of_each_key(&source).len())
    }

    /// Holds all outputs, at all mounts, against what the job should have made of its source; then the receipt.
    pub async fn judge(&self, world: &World) {
        for member in world.members() {
            let judged = match self.shape {
                Shape::Ordered => ordered(&member).await,
                Shape::Unordered => unordered(&member).await,
            };
            let name = &member.config.name;
            match judged {
                Ok(Ok(())) => {}
                Ok(Err(what)) => world.oracle.report(format!("at {name}: {what}")),
                Err(error) => {
                    let what = format!("at {name}: the outputs cannot be read: {error}");
                    world.oracle.report(what);
                }
            }
        }
        let Some(member) = world.members().into_iter().next() else {
            return;
        };
        let Some(streaming) = member.streaming.get() else {
            return;
        };
        if let Err(error) = audited(streaming, JOB).await {
            world
                .oracle
                .report(format!("the receipt does not hold: {error}"));
        }
    }
}

fn lines(text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text);
    let split = |line: &str| {
        let (key, n) = line.split_once([',', ' ', '=']).unwrap_or((line, ""));
        (key.to_owned(), n.to_owned())
    };
    text.lines().map(split).collect()
}

fn first_of_each_key(source: &[u8]) -> Vec<(String, String)> {
    let mut known = BTreeSet::new();
    let mut all = lines(&source.to_ascii_uppercase());
    all.retain(|(key, _)| known.insert(key.clone()));
    all
}

/// Each key is in one file, and each file has its keys' first lines in the order of the source.
async fn ordered(mount: &dyn Ask) -> Result<Result<(), String>, FsError> {
    let wanted = first_of_each_key(&paths::read(mount, "/in/grows").await?);
    let mut taken = BTreeSet::new();
    for path in PARTS {
        let content = paths::read(mount, path).await?;
        let keys: BTreeSet<String> = lines(&content).into_iter().map(|(key, _)| key).collect();
        let of_it = wanted.iter().filter(|(key, _)| keys.contains(key));
        let right: String = of_it.map(|(key, n)| format!("{key} {n}\n")).collect();
        if right.as_bytes() != content {
            return Ok(Err(format!(
                "{path} has not the lines of its keys, in order"
            )));
        }
        taken.extend(keys);
    }
    let lines: usize = wanted.len();
    Ok(match taken.len() == lines {
        true => Ok(()),
        false => Err(format!("the outputs have {} of {lines} keys", taken.len())),
    })
}

/// The same lines as often.
async fn unordered(mount: &dyn Ask) -> Result<Result<(), String>, FsError> {
    let mut passed = Vec::new();
    for file in 0..FILES {
        passed.extend(lines(
            &paths::read(mount, &format!("/in/part{file}")).await?,
        ));
    }
    passed.retain(|(key, _)| key != "k0");
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (key, n) in &passed {
        *sums.entry(key.clone()).or_default() += n.parse::<u64>().unwrap_or_default();
    }
    let mut sums: Vec<_> = sums
        .into_iter()
        .map(|(key, sum)| (key, sum.to_string()))
        .collect();
    for (path, wanted) in [(PASSED, &mut passed), (SUMS, &mut sums)] {
        let mut found = lines(&paths::read(mount, path).await?);
        let (all, right) = (found.len(), wanted.len());
        found.sort();
        wanted.sort();
        if found != *wanted {
            return Ok(Err(format!(
                "{path} has {all} lines, not the {right} that it should"
            )));
        }
    }
    Ok(Ok(()))
}
