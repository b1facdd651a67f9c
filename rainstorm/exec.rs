//! Executables as operators: how they get their lines and give theirs back (`docs/JOBS.md`, "Executables").
//!
//! What a process wrote for a batch is passed on only once the batch is done, so that running a batch again
//! after a crash never doubles a line. Where a process is started for each batch, and ends soon, batches are put together: starting
//! costs more than many lines. Where one process lives on, a batch is given to it in pieces that it is done with soon: `timeout_ms` is for
//! a piece, so a program that takes long for a line is no fault. A batch that fails is run again, `max_attempts` times in all; then the job fails
//! with the operator's last words (fault R4), or the lines at fault become dead letters.

use crate::batch::{Batch, LINE_BYTES_MAX, Lines};
use crate::dead::Letters;
use crate::error::{Error, Result};
use crate::given::Given;
use crate::piece::Piece;
use crate::process::{Failure, MARKLESS, Program, Running, STATE_MARKLESS};
use crate::remembered::{Remembered, STATE};
use crate::spec::{Contract, ExecSpec};
use crate::stand_in::StandIn;
use crate::stateful::{State, work_on};
use bytes::Bytes;
use memchr::{memchr, memchr2};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{self, Instant};

/// Most runs that look for the lines on which an executable fails, for each batch.
const ISOLATING_RUNS_MAX: u32 = 64;
/// Most bytes of lines in one argument (the kernel's limit is 128 KiB).
const ARGUMENT_BYTES_MAX: usize = 96 << 10;
/// Output of an operator is passed on in batches of about this size.
const OUTPUT_BATCH_BYTES: usize = 1 << 20;
/// Lines are put together up to so many bytes, while a process works on them for no longer than that.
const GATHERED_BYTES_MAX: usize = 4 << 20;
const SOON: Duration = Duration::from_millis(100);
/// Lines of the first piece that a process is given; later ones grow while they are done soon, and shrink above `SLOW`.
const PIECE_LINES: usize = 16;
const SLOW: Duration = Duration::from_secs(1);
/// Begins the marker lines of the contract `lines`: ASCII "record separator".
pub const MARK: u8 = 0x1e;

/// What of a batch a contract can carry.
enum Fit {
    All,
    Some(Batch),
}

/// What works on the batches.
pub enum Works {
    Program(Program),
    StandIn(StandIn),
}

/// An executable operator of one task.
pub struct Exec {
    spec: ExecSpec,
    works: Works,
    /// What the process wants remembered, if it has state.
    remembered: Option<Remembered>,
    /// The process of the contract `lines`.
    running: Option<Running>,
    batches: u64,
    retries: u64,
    /// What waits for more lines, its bytes, and how many are worked on at once.
    gathered: Vec<Batch>,
    waiting: usize,
    enough: usize,
    /// Lines that a process of the contract `lines` gets at once.
    piece: Piece,
}

impl Exec {
    /// An operator that runs as `spec` says.
    pub fn new(spec: ExecSpec, works: Works, remembered: Option<Remembered>) -> Self {
        Self {
            spec,
            works,
            remembered,
            running: None,
            batches: 0,
            retries: 0,
            gathered: Vec::new(),
            waiting: 0,
            enough: 0,
            piece: Piece::new((PIECE_LINES, 1), SOON, SLOW),
        }
    }

    /// SHA-256 of the executable, in hex.
    pub fn digest(&self) -> String {
        match &self.works {
            Works::Program(program) => program.digest.clone(),
            Works::StandIn(_) => "stand-in".to_owned(),
        }
    }

    /// The files that it is given to read, each with the SHA-256 of its content, in hex.
    pub fn inputs(&self) -> Vec<(String, String)> {
        let Works::Program(program) = &self.works else {
            return Vec::new();
        };
        let of_one = |input: &Given| (input.path.clone(), input.digest.clone());
        program.inputs.iter().map(of_one).collect()
    }

    /// What it remembers, if it has state.
    pub fn state(&mut self) -> Option<&mut dyn State> {
        let remembered = self.remembered.as_mut()?;
        Some(remembered)
    }

    /// Batches run again since the last call.
    pub fn take_retries(&mut self) -> u64 {
        std::mem::take(&mut self.retries)
    }

    /// Takes a batch, works on what there is once that is enough. Lines on which it fails go to `letters`, if the job says so.
    pub async fn apply(
        &mut self,
        batch: &Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        // Each dead letter says where its line was read: of several batches nobody would know.
        if self.spec.contract != Contract::Batch || letters.is_on() {
            return self.apply_now(batch, out, letters).await;
        }
        self.gathered.push(batch.clone());
        self.waiting += batch.bytes().len();
        match self.waiting < self.enough {
            true => Ok(()),
            false => self.flush(out, letters).await,
        }
    }

    /// Works on what waits for more lines. Where that is too much at once it is worked on piece by piece, as it came.
    pub async fn flush(&mut self, out: &mut Vec<Batch>, letters: &mut Letters) -> Result<()> {
        let batches = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.waiting);
        let mut lines = Lines::default();
        batches
            .iter()
            .for_each(|batch| lines.push_run(batch, 0..batch.count()));
        let Some(all) = lines.take() else {
            return Ok(());
        };
        let began = Instant::now();
        match self.apply_now(&all, out, letters).await {
            Err(Error::Job(_)) if batches.len() > 1 => {
                self.enough = 0;
                for batch in &batches {
                    self.apply_now(batch, out, letters).await?;
                }
                return Ok(());
            }
            done => done?,
        }
        // Twice as much has to be done within the time that a batch may take, too.
        let soon = SOON.min(Duration::from_millis(self.spec.timeout_ms / 4));
        let enough = match began.elapsed() <= soon {
            true => self.enough.max(2 * bytes),
            false => bytes / 2,
        };
        self.enough = enough.min(GATHERED_BYTES_MAX);
        Ok(())
    }

    async fn apply_now(
        &mut self,
        batch: &Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        match self.without_unfit(batch, letters)? {
            Some(fit) => match fit {
                Fit::All => self.work(batch, out, letters).await,
                Fit::Some(rest) => self.work(&rest, out, letters).await,
            },
            None => Ok(()),
        }
    }

    async fn work(
        &mut self,
        batch: &Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let mut from = 0;
        while from < batch.count() {
            let most = match self.spec.contract {
                Contract::Lines => self.piece.lines(),
                Contract::Batch | Contract::Argv => batch.count(),
            };
            let range = from..batch.count().min(from.saturating_add(most));
            from = range.end;
            self.work_on(batch, range, out, letters).await?;
        }
        Ok(())
    }

    /// Works on these lines of a batch.
    async fn work_on(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let Some(part) = part(batch, range.clone()) else {
            return Ok(());
        };
        let runs = self.spec.max_attempts;
        let began = Instant::now();
        match self.attempt(&part, runs).await {
            Ok(text) => {
                self.piece.took(range.len(), began.elapsed());
                split(text, out)
            }
            Err(Failure::Member(why)) => Err(self.not_started(&why)),
            Err(Failure::State(error)) => Err(error),
            Err(Failure::Program(why)) if letters.is_on() => {
                self.isolate(batch, (range, why), out, letters).await
            }
            Err(Failure::Program(why)) => {
                let refused = ["Permission denied", "not permitted", "PermissionError"];
                let remedy = match refused.iter().any(|words| why.contains(words)) {
                    true => {
                        "it may write only where it stands, and use the network only with `network = true`: mend the operator or the spec and save it again"
                    }
                    false => "mend the operator and save the spec again",
                };
                Err(Error::Job(format!(
                    "operator {} failed {runs} times on one batch: {why}; {remedy}",
                    self.spec.place
                )))
            }
        }
    }

    fn not_started(&self, why: &str) -> Error {
        let place = &self.spec.place;
        Error::Attempt(format!("operator {place}: this member {why}"))
    }

    /// Runs lines that failed together in halves, to find those at fault. The others keep their order.
    async fn isolate(
        &mut self,
        batch: &Batch,
        (range, why): (Range<usize>, String),
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()> {
        let mut runs = 0;
        // What is left, in order; with why it failed, if it did already.
        let mut left: VecDeque<(Range<usize>, Option<String>)> =
            VecDeque::from([(range, Some(why))]);
        while let Some((range, failed)) = left.pop_front() {
            let why = match failed {
                Some(why) => why,
                None => {
                    let Some(part) = part(batch, range.clone()) else {
                        continue;
                    };
                    runs += 1;
                    match self.attempt(&part, 1).await {
                        Ok(text) => {
                            split(text, out)?;
                            continue;
                        }
                        Err(Failure::Program(why)) => why,
                        Err(Failure::Member(why)) => return Err(self.not_started(&why)),
                        Err(Failure::State(error)) => return Err(error),
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
                operator = %self.spec.place,
                lines = range.len(),
                why,
                "dead letters"
            );
            let why: Arc<str> = why.into();
            range.for_each(|at| letters.put(batch, at, why.clone()));
        }
        Ok(())
    }

    /// What it wrote for a batch, or why it failed for the last of so many times.
    async fn attempt(&mut self, batch: &Batch, runs: u32) -> Result<Bytes, Failure> {
        let mut failure = Failure::Program(String::new());
        for run in 0..runs {
            if run > 0 {
                self.retries += 1;
                tracing::warn!(
                    operator = %self.spec.place,
                    run,
                    ?failure,
                    "operator failed, its batch is run again"
                );
                if let (Works::Program(program), Failure::Program(why)) = (&self.works, &failure) {
                    // The words of the process stand there already.
                    let why = why.split("; stderr: ").next().unwrap_or_default();
                    program
                        .stderr
                        .note(&format!("run {run} of {runs} of these lines failed: {why}"));
                }
                time::sleep(Duration::from_millis(50 << run.min(6))).await;
            }
            self.batches += 1;
            let limit = Duration::from_millis(self.spec.timeout_ms);
            failure = match self.remind(limit).await {
                Ok(()) => match time::timeout(limit, self.run(batch)).await {
                    Ok(Ok(text)) => return Ok(text),
                    Ok(Err(failure)) => failure,
                    Err(_) => Failure::Program(self.late()),
                },
                Err(failure) => failure,
            };
            if matches!(failure, Failure::State(_)) {
                return Err(failure);
            }
            if let (Some(running), Failure::Program(why)) = (self.running.take(), &mut failure) {
                *why = running.last_words(std::mem::take(why)).await;
            }
        }
        Err(failure)
    }

    /// Starts a process that has state, and tells it what is remembered; each piece of that may take as long as a batch.
    async fn remind(&mut self, limit: Duration) -> Result<(), Failure> {
        let (Some(remembered), Works::Program(program), None) =
            (&mut self.remembered, &self.works, &self.running)
        else {
            return Ok(());
        };
        let running = program.start(&self.spec, None).await?;
        let running = self.running.insert(running);
        let late = |what: &str| {
            let limit = limit.as_millis();
            format!("{what} after timeout_ms = {limit}; {STATE_MARKLESS}")
        };
        work_on(remembered, Remembered::begin_telling)?;
        loop {
            let lines = work_on(remembered, Remembered::next_lines)?;
            if lines.is_empty() {
                break;
            }
            let told = time::timeout(limit, running.tell(&lines)).await;
            told.map_err(|_| late("its state is not read"))??;
        }
        let agreed = time::timeout(limit, running.agree(b"\x1estate")).await;
        Ok(agreed.map_err(|_| late("no marker line behind its state"))??)
    }

    fn late(&self) -> String {
        let limit = self.spec.timeout_ms;
        match self.spec.contract {
            Contract::Lines => {
                format!("no marker line behind the batch after timeout_ms = {limit}; {MARKLESS}")
            }
            Contract::Batch | Contract::Argv => {
                format!("no end of the batch after timeout_ms = {limit}")
            }
        }
    }

    /// Why the contract cannot carry a line, if it cannot.
    fn unfit(&self, line: &[u8]) -> Option<Error> {
        let mut remedy = "use `contract = \"batch\"`";
        let what = match self.spec.contract {
            Contract::Lines if self.remembered.is_some() && line.first() == Some(&STATE) => {
                remedy = "keep such lines away with a `filter`";
                "a line begins with the byte 0x1f, which marks state".to_owned()
            }
            Contract::Lines if line.first() == Some(&MARK) => {
                "a line begins with the byte 0x1e, which marks the end of a batch".to_owned()
            }
            Contract::Argv if memchr(0, line).is_some() => {
                "a NUL byte cannot be in an argument".to_owned()
            }
            Contract::Argv if line.len() > ARGUMENT_BYTES_MAX => format!(
                "a line longer than {ARGUMENT_BYTES_MAX} bytes does not fit into an argument"
            ),
            _ => return None,
        };
        let place = &self.spec.place;
        Some(Error::Line(format!("operator {place}: {what}; {remedy}")))
    }

    /// The lines that the contract can carry; the others are put aside, or fail the job.
    fn without_unfit(&self, batch: &Batch, letters: &mut Letters) -> Result<Option<Fit>> {
        let suspect = match self.spec.contract {
            Contract::Batch => false,
            Contract::Lines => memchr2(MARK, STATE, batch.bytes()).is_some(),
            Contract::Argv => true,
        };
        if !suspect || batch.lines().all(|line| self.unfit(line).is_none()) {
            return Ok(Some(Fit::All));
        }
        let (mut lines, mut kept) = (Lines::default(), Vec::new());
        for (at, line) in batch.lines().enumerate() {
            match self.unfit(line) {
                Some(error) => letters.blame(batch, at, error)?,
                None => {
                    lines.push(line);
                    kept.push(at);
                }
            }
        }
        letters.origin = letters.origin.as_ref().map(|all| all.of(batch, &kept));
        Ok(lines.take().map(Fit::Some))
    }

    /// Takes what a batch that is done wants remembered out of its output.
    fn remember(&mut self, text: Bytes) -> Result<Bytes, Failure> {
        let Some(remembered) = &mut self.remembered else {
            return Ok(text);
        };
        let (output, changes) = remembered.split(text)?;
        if !changes.is_empty() {
            work_on(remembered, |remembered| remembered.take(changes))?;
        }
        Ok(output)
    }

    /// One run; what it wrote, or why it failed.
    async fn run(&mut self, batch: &Batch) -> Result<Bytes, Failure> {
        let program = match &self.works {
            Works::Program(program) => program,
            Works::StandIn(stand_in) => return Ok(stand_in.work(batch.bytes().clone()).await),
        };
        match self.spec.contract {
            Contract::Lines => {
                let mark = format!("\x1ebatch {}", self.batches);
                let running = match &mut self.running {
                    Some(running) => running,
                    none => none.insert(program.start(&self.spec, None).await?),
                };
                let text = running.converse(batch.bytes(), mark.as_bytes()).await?;
                self.remember(text)
            }
            Contract::Batch => {
                let mut running = program.start(&self.spec, None).await?;
                let done = running.feed_and_collect(batch.bytes()).await;
                Ok(running.conclude(done, &self.spec.exit_ok).await?)
            }
            Contract::Argv => {
                let mut all = Vec::new();
                for piece in pieces(batch) {
                    let mut running = program.start(&self.spec, Some(piece)).await?;
                    let done = running.collect().await;
                    all.extend_from_slice(&running.conclude(done, &self.spec.exit_ok).await?);
                    if all.last().is_some_and(|&byte| byte != b'\n') {
                        all.push(b'\n');
                    }
                }
                Ok(all.into())
            }
        }
    }
}

/// These lines of a batch; without a copy where they are all.
fn part(batch: &Batch, range: Range<usize>) -> Option<Batch> {
    if range == (0..batch.count()) {
        return Some(batch.clone());
    }
    let mut lines = Lines::default();
    lines.push_run(batch, range);
    lines.take()
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

/// Cuts output into batches at line ends. It is passed on wholly, or not at all.
fn split(mut text: Bytes, out: &mut Vec<Batch>) -> Result<()> {
    let before = out.len();
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
            out.truncate(before);
            return Err(Error::Job(format!(
                "an operator wrote a line of more than {LINE_BYTES_MAX} bytes"
            )));
        }
        out.extend(batch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_with_a_line_that_is_too_long_is_not_passed_on_in_part() {
        let mut text = b"short\n".repeat(OUTPUT_BATCH_BYTES / 3);
        text.resize(text.len() + LINE_BYTES_MAX + 1, b'x');
        let mut out = vec![Batch::from_lines(Bytes::from_static(b"before"))];
        assert!(split(text.into(), &mut out).is_err());
        assert_eq!(out.len(), 1);
    }
}
