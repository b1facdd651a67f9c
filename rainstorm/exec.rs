//! Executables as operators: how they get their lines and give theirs back (`docs/JOBS.md`, "Executables").
//!
//! What a process wrote for a batch is passed on only once the batch is done, so that running a batch again
//! after a crash never doubles a line. A batch that fails is run again, `max_attempts` times in all; then the job fails
//! with the operator's last words (fault R4), or the lines at fault become dead letters.

use crate::batch::{Batch, LINE_BYTES_MAX, Lines};
use crate::error::{Error, Result};
use crate::process::{Program, Running};
use crate::spec::{Contract, ExecSpec};
use bytes::Bytes;
use memchr::{memchr, memchr_iter};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time;

/// Most runs that look for the lines on which an executable fails, for each batch.
const ISOLATING_RUNS_MAX: u32 = 64;
/// Most bytes of lines in one argument (the kernel's limit is 128 KiB).
const ARGUMENT_BYTES_MAX: usize = 96 << 10;
/// Output of an operator is passed on in batches of about this size.
const OUTPUT_BATCH_BYTES: usize = 1 << 20;
/// Begins the marker lines of the contract `lines`: ASCII "record separator".
pub const MARK: u8 = 0x1e;

/// An executable operator of one task.
pub struct Exec {
    spec: ExecSpec,
    program: Program,
    /// The process of the contract `lines`.
    running: Option<Running>,
    batches: u64,
    retries: u64,
    /// Where lines go on which it fails; `None` if the job fails then.
    dead: Option<Vec<Dead>>,
}

/// A line on which an executable failed, and how.
pub struct Dead {
    pub line: Bytes,
    pub why: Arc<str>,
}

impl Exec {
    /// An operator that runs `program` as `spec` says.
    pub fn new(spec: ExecSpec, program: Program, dead_letters: bool) -> Self {
        Self {
            spec,
            program,
            running: None,
            batches: 0,
            retries: 0,
            dead: dead_letters.then(Vec::new),
        }
    }

    /// SHA-256 of the executable, in hex: the name of its local copy.
    pub fn digest(&self) -> Option<String> {
        let name = self.program.path.file_name()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// Batches run again since the last call.
    pub fn take_retries(&mut self) -> u64 {
        std::mem::take(&mut self.retries)
    }

    /// Lines on which it failed since the last call.
    pub fn take_dead(&mut self) -> Vec<Dead> {
        self.dead.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Works on a batch.
    pub async fn apply(&mut self, batch: &Batch, out: &mut Vec<Batch>) -> Result<()> {
        self.check(batch)?;
        let runs = self.spec.max_attempts;
        match self.attempt(batch, runs).await {
            Ok(text) => split(text, out),
            Err(why) if self.dead.is_some() => self.isolate(batch, why, out).await,
            Err(why) => {
                let refused = ["Permission denied", "not permitted", "PermissionError"];
                let remedy = match refused.iter().any(|words| why.contains(words)) {
                    true => {
                        "it may write only where it stands, and use the network only with `network = true`: mend the operator or the spec and save it again"
                    }
                    false => "mend the operator and save the spec again",
                };
                Err(Error::Job(format!(
                    "operator {} failed {runs} times on one batch: {why}; {remedy}",
                    self.spec.path
                )))
            }
        }
    }

    /// Runs a batch that failed in halves, to find the lines at fault. The others keep their order.
    async fn isolate(&mut self, batch: &Batch, why: String, out: &mut Vec<Batch>) -> Result<()> {
        let mut runs = 0;
        // What is left, in order; with why it failed, if it did already.
        let mut left: VecDeque<(Range<usize>, Option<String>)> =
            VecDeque::from([(0..batch.count(), Some(why))]);
        while let Some((range, failed)) = left.pop_front() {
            let why = match failed {
                Some(why) => why,
                None => {
                    let mut lines = Lines::default();
                    lines.push_run(batch, range.clone());
                    let Some(part) = lines.take() else { continue };
                    runs += 1;
                    match self.attempt(&part, 1).await {
                        Ok(text) => {
                            split(text, out)?;
                            continue;
                        }
                        Err(why) => why,
                    }
                }
            };
            if range.len() > 1 && runs < ISOLATING_RUNS_MAX {
                let middle = range.start + range.len() / 2;
                left.push_front((middle..range.end, None));
                left.push_front((range.start..middle, None));
                continue;
            }
            tracing::warn!(
                operator = self.spec.path,
                lines = range.len(),
                why,
                "dead letters"
            );
            let why: Arc<str> = why.into();
            let dead = range.map(|at| Dead {
                line: batch.bytes().slice(batch.range(at)),
                why: why.clone(),
            });
            if let Some(all) = &mut self.dead {
                all.extend(dead);
            }
        }
        Ok(())
    }

    /// What it wrote for a batch, or why it failed for the last of so many times.
    async fn attempt(&mut self, batch: &Batch, runs: u32) -> Result<Bytes, String> {
        let mut why = String::new();
        for run in 0..runs {
            if run > 0 {
                self.retries += 1;
                tracing::warn!(
                    operator = self.spec.path,
                    run,
                    why,
                    "operator failed, its batch is run again"
                );
                time::sleep(Duration::from_millis(50 << run.min(6))).await;
            }
            self.batches += 1;
            let limit = Duration::from_millis(self.spec.timeout_ms);
            match time::timeout(limit, self.run(batch)).await {
                Ok(Ok(text)) => return Ok(text),
                Ok(Err(error)) => why = error,
                Err(_) => {
                    why = format!(
                        "no end of the batch after timeout_ms = {}",
                        self.spec.timeout_ms
                    )
                }
            }
            if let Some(running) = self.running.take() {
                why = running.last_words(why).await;
            }
        }
        Err(why)
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let bytes = batch.bytes();
        let fail = |what: &str| {
            let remedy = "use `contract = \"batch\"`";
            Err(Error::Job(format!(
                "operator {}: {what}; {remedy}",
                self.spec.path
            )))
        };
        match self.spec.contract {
            Contract::Batch => Ok(()),
            Contract::Lines => match memchr_iter(MARK, bytes)
                .any(|at| at == 0 || bytes[at - 1] == b'\n')
            {
                true => fail("a line begins with the byte 0x1e, which marks the end of a batch"),
                false => Ok(()),
            },
            Contract::Argv => match memchr(0, bytes) {
                Some(_) => fail("a NUL byte cannot be in an argument"),
                None if batch.lines().any(|line| line.len() > ARGUMENT_BYTES_MAX) => {
                    fail(&format!(
                        "a line longer than {ARGUMENT_BYTES_MAX} bytes does not fit into an argument"
                    ))
                }
                None => Ok(()),
            },
        }
    }

    /// One run; what it wrote, or why it failed.
    async fn run(&mut self, batch: &Batch) -> Result<Bytes, String> {
        match self.spec.contract {
            Contract::Lines => self.converse(batch).await,
            Contract::Batch => {
                let mut running = self.program.start(&self.spec, None).await?;
                let done = running.feed_and_collect(batch.bytes()).await;
                running.conclude(done).await
            }
            Contract::Argv => {
                let mut all = Vec::new();
                for piece in pieces(batch) {
                    let mut running = self.program.start(&self.spec, Some(piece)).await?;
                    let done = running.collect().await;
                    all.extend_from_slice(&running.conclude(done).await?);
                    if all.last().is_some_and(|&byte| byte != b'\n') {
                        all.push(b'\n');
                    }
                }
                Ok(all.into())
            }
        }
    }

    async fn converse(&mut self, batch: &Batch) -> Result<Bytes, String> {
        let mark = format!("\x1ebatch {}", self.batches);
        let running = match &mut self.running {
            Some(running) => running,
            none => none.insert(self.program.start(&self.spec, None).await?),
        };
        running.converse(batch.bytes(), mark.as_bytes()).await
    }
}

/// The batch in pieces that fit into an argument, at line ends.
fn pieces(batch: &Batch) -> Vec<Bytes> {
    let mut lines = Lines::default();
    let mut all = Vec::new();
    for line in batch.lines() {
        if lines.bytes() + line.len() > ARGUMENT_BYTES_MAX {
            all.extend(lines.take().map(|piece| piece.bytes().clone()));
        }
        lines.push(line);
    }
    all.extend(lines.take().map(|piece| piece.bytes().clone()));
    all
}

/// Cuts output into batches at line ends.
fn split(mut text: Bytes, out: &mut Vec<Batch>) -> Result<()> {
    while !text.is_empty() {
        let end = match text.len() > OUTPUT_BATCH_BYTES {
            true => memchr(b'\n', &text[OUTPUT_BATCH_BYTES..])
                .map_or(text.len(), |at| OUTPUT_BATCH_BYTES + at + 1),
            false => text.len(),
        };
        let batch = Batch::from_text(text.split_to(end));
        if batch
            .as_ref()
            .is_some_and(|batch| batch.lines().any(|line| line.len() > LINE_BYTES_MAX))
        {
            return Err(Error::Job(format!(
                "an operator wrote a line of more than {LINE_BYTES_MAX} bytes"
            )));
        }
        out.extend(batch);
    }
    Ok(())
}
