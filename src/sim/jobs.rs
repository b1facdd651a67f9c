//! A job as RainStorm's coordinator runs one: tasks on several members append to outputs of their own under transactional
//! writers; when all of a job epoch is durable, one commit makes it visible. Whatever fails begins again under the next
//! attempt. And the judge: every read of an output is a row of whole committed job epochs, each once, in order; what one
//! output shows the others show, too (I10).

use crate::{
    client::read_file,
    kernel::{Ask, Kernel, call},
    oracle::Oracle,
};
use bytes::Bytes;
use hydfs_data::{Draft, FileWriter, Target};
use hydfs_mount::{Answer, FsError, How, Request};
use hydfs_node::Member;
use hydfs_types::{
    Agreement, Attempt, Command, Ino, JobCommand, JobCommit, JobEpoch, JobId, JobPhase, Op,
    ROOT_INO, Reply, Seq, Time, WriterId,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Outputs, each of a task of its own.
const OUTPUTS: [&str; 3] = ["out0", "out1", "out2"];
/// Most lines of a task in one job epoch, and most bytes of a line besides its name.
const LINES: usize = 6;
const PADDING: usize = 500;
/// Most job epochs of one attempt.
const EPOCHS: u64 = 25;
/// Longest wait for a part of an attempt, and the pause before the next one.
const STEP: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(300);

/// What each output gets in one job epoch.
type Epoch = [Vec<u8>; OUTPUTS.len()];

#[derive(Default)]
struct Log {
    /// Members that the job may use now.
    members: Vec<Arc<Member>>,
    committed: Vec<Epoch>,
    /// Its commit was asked for, and nobody knows yet what became of it.
    proposed: Option<Epoch>,
}

/// One job, its outputs, and what was promised of them.
#[derive(Clone)]
pub struct Jobs {
    oracle: Oracle,
    log: Arc<Mutex<Log>>,
}

/// A task's writer.
struct Task {
    member: Arc<Member>,
    writer: FileWriter,
}

/// Why an attempt ends.
type Broken = String;

impl Jobs {
    /// Reports to `oracle`; nothing runs yet.
    pub fn new(oracle: Oracle) -> Self {
        Self {
            oracle,
            log: Arc::default(),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members that run now.
    pub fn set_members(&self, members: Vec<Arc<Member>>) {
        self.log().members = members;
    }

    /// Committed job epochs.
    pub fn committed(&self) -> u64 {
        self.log().committed.len() as u64
    }

    fn pick(&self, rng: &mut SmallRng) -> Option<Arc<Member>> {
        let log = self.log();
        let at = (!log.members.is_empty()).then(|| rng.random_range(0..log.members.len()))?;
        Some(log.members[at].clone())
    }

    /// What the agreed state says after a restart is final for all attempts before it.
    fn settle(&self, epoch: JobEpoch) {
        let mut guard = self.log();
        let log = &mut *guard;
        let known = log.committed.len() as u64;
        match log.proposed.take() {
            Some(proposed) if epoch.0 == known + 1 => log.committed.push(proposed),
            _ if epoch.0 == known => {}
            _ => self.oracle.report(format!(
                "I10: the job is at job epoch {epoch} where {known} were committed"
            )),
        }
    }

    /// Judges one read of an output; `known` job epochs were committed before it began. Answers how many it shows.
    fn judge(&self, output: usize, content: &[u8], known: usize) -> Result<usize, String> {
        let log = self.log();
        let (mut rest, mut shown) = (content, 0);
        for epoch in log.committed.iter().chain(&log.proposed) {
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(&epoch[output][..]).ok_or_else(|| {
                let at = content.len() - rest.len();
                format!(
                    "I10: {} shows at byte {at} of {} what is not the job epoch after {shown}: {:?}",
                    OUTPUTS[output],
                    content.len(),
                    String::from_utf8_lossy(&rest[..rest.len().min(60)])
                )
            })?;
            shown += 1;
        }
        if !rest.is_empty() {
            return Err(format!(
                "I10: {} shows {} bytes that no commit made visible",
                OUTPUTS[output],
                rest.len()
            ));
        }
        if shown < known {
            return Err(format!(
                "I10: {} shows {shown} job epochs, {known} were visible before",
                OUTPUTS[output]
            ));
        }
        Ok(shown)
    }

    /// Reads all outputs, one after the other from any one on, and judges them.
    pub async fn read(&self, mount: &dyn Ask, first: usize) -> Result<(), FsError> {
        let mut known = self.log().committed.len();
        for at in 0..OUTPUTS.len() {
            let output = (first + at) % OUTPUTS.len();
            let content = match read_file(mount, OUTPUTS[output].as_bytes(), || {}).await {
                Ok(content) => content,
                Err(FsError::NotFound) if known == 0 => continue,
                Err(error) => return Err(error),
            };
            match self.judge(output, &content, known) {
                Ok(shown) => known = shown,
                Err(what) => self
                    .oracle
                    .report(format!("{}: {what}", mount.member().config.name)),
            }
        }
        Ok(())
    }

    /// Starts or restarts the job; its attempt and the next job epoch.
    async fn begin(&self, member: &Member, ino: Ino) -> Result<(JobId, Attempt, u64), Broken> {
        let start = JobCommand::Start {
            name: "job".into(),
            spec: ino,
            generation: 1,
            uid: 0,
            gid: 0,
            phase: JobPhase::Running,
            message: String::new(),
        };
        let job = match propose(member, start).await? {
            Reply::Job(job) => job,
            other => return Err(format!("unexpected answer {other:?}")),
        };
        let attempt = |member: &Member| {
            let state = member.ctx.state();
            let known = state.jobs.get(&job);
            known.map(|job| (job.attempt, job.epoch, job.positions.clone()))
        };
        member.group.barrier().await.map_err(|e| e.to_string())?;
        let (from, ..) = attempt(member).ok_or("the job is gone")?;
        let restart = JobCommand::Restart {
            job,
            from,
            why: "the attempt before broke off".into(),
        };
        propose(member, restart).await?;
        member.group.barrier().await.map_err(|e| e.to_string())?;
        let (attempt, epoch, positions) = attempt(member).ok_or("the job is gone")?;
        self.settle(epoch);
        if epoch.0 > 0 && positions != epoch.0.to_le_bytes() {
            let wrong = format!("I10: positions at job epoch {epoch} are {positions:?}");
            self.oracle.report(wrong);
        }
        Ok((job, attempt, epoch.0 + 1))
    }

    /// Tasks on any members, until something breaks or the attempt has run for long enough.
    async fn attempt(
        &self,
        rng: &mut SmallRng,
        pause: u64,
        stop: &AtomicBool,
    ) -> Result<(), Broken> {
        let member = self.pick(rng).ok_or("nobody serves")?;
        let mut inos = Vec::new();
        for name in OUTPUTS {
            inos.push(make(&member, name).await.map_err(|e| e.to_string())?);
        }
        let (job, attempt, first) = self.begin(&member, inos[0]).await?;
        let mut tasks = Vec::new();
        for ino in inos {
            let member = self.pick(rng).ok_or("nobody serves")?;
            tasks.push(open(member, ino, job, attempt).await?);
        }
        for epoch in first..first + rng.random_range(1..=EPOCHS) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut wrote = Epoch::default();
            let mut watermarks = Vec::new();
            for (task, out) in tasks.iter().zip(&mut wrote) {
                let lines = rng.random_range(1..=LINES);
                for line in 0..lines {
                    let padding = rng.random_range(0..=PADDING);
                    let mut text = format!("{epoch} {} {line} ", attempt.0).into_bytes();
                    text.resize(text.len() + padding, b'a' + (epoch % 26) as u8);
                    text.push(b'\n');
                    out.extend_from_slice(&text);
                    let seq = append(task, text.into()).await?;
                    if line + 1 == lines {
                        watermarks.push((task.writer.writer, seq));
                    }
                }
                sleep(Duration::from_millis(rng.random_range(0..=pause))).await;
            }
            for task in &tasks {
                let done = timeout(STEP, task.writer.sync()).await;
                done.map_err(|e| e.to_string())?
                    .map_err(|e| e.to_string())?;
            }
            self.log().proposed = Some(wrote);
            let by = &tasks[rng.random_range(0..tasks.len())].member;
            commit(by, job, attempt, epoch, watermarks).await?;
            self.settle(JobEpoch(epoch));
            sleep(Duration::from_millis(rng.random_range(0..=pause))).await;
        }
        Ok(())
    }
}

async fn propose(member: &Member, command: JobCommand) -> Result<Reply, Broken> {
    let answer = member.group.propose(Command::Job(command)).await;
    answer.map_err(|error| error.to_string())
}

async fn make(member: &Arc<Member>, name: &str) -> Result<Ino, FsError> {
    let request = Request::Create {
        parent: ROOT_INO,
        name: name.as_bytes().to_vec(),
        mode: 0o644,
        umask: 0,
        how: How {
            read: true,
            ..How::default()
        },
    };
    match call(member, request).await? {
        Answer::Created(attr, opened) => {
            let (ino, handle) = (attr.ino, opened.handle);
            call(member, Request::Release { ino, handle }).await?;
            Ok(ino)
        }
        other => Err(FsError::Invalid(format!("unexpected answer {other:?}"))),
    }
}

async fn open(member: Arc<Member>, ino: Ino, job: JobId, attempt: Attempt) -> Result<Task, Broken> {
    let grant = Command::Grant {
        ino,
        incarnation: member.ctx.me(),
        job: Some((job, attempt)),
    };
    match member.group.propose(grant).await {
        Ok(Reply::Granted(granted)) => Ok(Task {
            writer: member.data.writer(ino, granted.writer),
            member,
        }),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn append(task: &Task, line: Bytes) -> Result<Seq, Broken> {
    let writer = &task.writer;
    let pushed = writer.push(Draft::new(Target::Tail, Op::Append, line, Time::default()));
    let seq = pushed.map_err(|error| error.to_string())?;
    let sent = timeout(STEP, writer.acknowledged(seq)).await;
    sent.map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?;
    Ok(seq)
}

async fn commit(
    member: &Member,
    job: JobId,
    attempt: Attempt,
    epoch: u64,
    watermarks: Vec<(WriterId, Seq)>,
) -> Result<(), Broken> {
    let commit = JobCommit {
        job,
        attempt,
        epoch: JobEpoch(epoch),
        watermarks,
        positions: epoch.to_le_bytes().to_vec(),
        progress: Vec::new(),
        done: false,
    };
    propose(member, JobCommand::Commit(commit)).await.map(drop)
}

/// Runs the job, attempt after attempt, until told to stop.
pub async fn run_job(jobs: Jobs, pause_millis: u64, seed: u64, stop: Arc<AtomicBool>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        if let Err(why) = jobs.attempt(&mut rng, pause_millis, &stop).await {
            tracing::debug!(why, "an attempt of the job broke off");
        }
        sleep(AGAIN).await;
    }
}

/// Reads the outputs until told to stop.
pub async fn read_outputs(
    mount: Arc<Kernel>,
    jobs: Jobs,
    pause_millis: u64,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(
            rng.random_range(0..=4 * pause_millis),
        ))
        .await;
        let first = rng.random_range(0..OUTPUTS.len());
        if let Err(error) = jobs.read(&*mount, first).await {
            tracing::debug!(%error, "the outputs could not be read");
        }
    }
}
