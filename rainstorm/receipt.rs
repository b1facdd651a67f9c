//! The receipt: one line of JSON for each committed job epoch, in `/.jobs/NAME/receipt`. It says what was read, with
//! checksums, what was put out, and who did it. A line is appended by a transactional writer that the same commit
//! makes visible: there is one for each job epoch, or none.
//!
//! Checksums are CRC-32C. That of an output is the sum over its lines, because tasks write one file in no order.

use crate::error::{Error, Result};
use crate::frames::Prefix;
use crate::message::{Report, TaskId};
use crate::plan::{Input, NodeId, Parts, Plan, SourcePlan, Step};
use crate::position::{Border, Positions, Share, TaskPosition};
use crate::seams::{Owner, Source, Storage, StorageError};
use futures_util::future::try_join_all;
use hydfs_types::{FileKind, Ino, JobInfo, MemberId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Files of a folder whose lengths are asked for at the same time.
const PINS_MAX: usize = 32;
/// Most files that were in a folder of which that is done: the job does not begin before. Of one with more, an audit does not
/// know what else was there.
const FOLDER_FILES_MAX: usize = 10_000;

/// The receipt of a job.
pub fn receipt_path(name: &str) -> String {
    format!("/.jobs/{name}/receipt")
}

/// What a task read of one file or source since its barrier before, with the checksum of the lines in that order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Of a followed source: the file, and byte offsets. Of another: chunk numbers, `step` apart.
    pub file: Option<Ino>,
    /// The file's generation when reading it began; 0 where `file` is not named.
    pub generation: u64,
    pub from: u64,
    pub to: u64,
    pub lines: u64,
    pub bytes: u64,
    pub crc: u32,
    /// 0 of a followed source.
    pub step: u64,
}

impl Reads {
    /// Nothing, from there on.
    pub fn begin(file: Option<Ino>, generation: u64, from: u64, step: u64) -> Self {
        Self {
            step,
            file,
            generation,
            from,
            to: from,
            lines: 0,
            bytes: 0,
            crc: 0,
        }
    }

    /// Takes in lines up to `to`; each counts with its line end.
    pub fn add(&mut self, to: u64, lines: &crate::batch::Batch) {
        self.to = to;
        self.lines += lines.count() as u64;
        self.bytes += lines.bytes().len() as u64 + 1;
        self.crc = crc32c::crc32c_append(self.crc, lines.bytes());
        self.crc = crc32c::crc32c_append(self.crc, b"\n");
    }

    /// Takes in frames up to `to`, as they are in the file.
    pub fn add_frames(&mut self, to: u64, frames: &crate::frames::Frames) {
        self.to = to;
        self.lines += frames.count() as u64;
        self.bytes += frames.bytes().len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, frames.bytes());
    }

    /// Takes in text up to `to`; lines may go on in the next one.
    pub fn add_text(&mut self, to: u64, text: &[u8]) {
        self.to = to;
        self.lines += memchr::memchr_iter(b'\n', text).count() as u64;
        self.bytes += text.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, text);
    }
}

/// What was written to one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Writes {
    pub lines: u64,
    pub bytes: u64,
    /// Of the checksums of all lines.
    pub sum: u64,
}

impl Writes {
    /// Takes in a line; it counts with its line end.
    pub fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        self.bytes += line.len() as u64 + 1;
        self.sum = self.sum.wrapping_add(crc32c::crc32c(line).into());
    }

    /// Both together.
    pub fn join(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Without what was written before; `before` is a part of it.
    pub fn behind(&self, before: &Self) -> Self {
        Self {
            lines: self.lines - before.lines,
            bytes: self.bytes - before.bytes,
            sum: self.sum.wrapping_sub(before.sum),
        }
    }
}

/// A line of the receipt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub epoch: u64,
    pub attempt: u64,
    /// The names of members with tasks.
    pub members: Vec<String>,
    pub inputs: Vec<InputLine>,
    pub outputs: BTreeMap<String, Writes>,
    /// SHA-256 of the executable of each stage that has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operators: BTreeMap<String, String>,
    /// Of each stage whose executable has `inputs`: the SHA-256 of each of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operator_inputs: BTreeMap<String, BTreeMap<String, String>>,
    /// In the first line, and in the first one behind a change of the job: what it then reads, and how that is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<Begin>,
}

/// What one task read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InputLine {
    /// Number of the source in the spec, from 0.
    pub source: usize,
    /// The stage that reads it.
    pub node: u16,
    pub task: u32,
    #[serde(flatten)]
    pub reads: Reads,
}

/// What a job begins or goes on with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    pub job: String,
    pub chunk_bytes: u32,
    pub sources: Vec<Vec<FileLine>>,
    /// Tasks of each stage.
    pub tasks: Vec<u32>,
    /// The number of the source that each stage reads, if it reads one.
    pub reads: Vec<Option<usize>>,
    /// Of each task of each stage, the chunks that it has still to read, if its source is not followed.
    pub shares: Vec<Vec<Vec<Share>>>,
    /// The stage before the change whose input each stage goes on with.
    pub goes_on: Vec<Option<NodeId>>,
    /// The savepoint that the job began from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    /// How long each file was that is written from here on. A folder (it ends with `/`) stands for what was not in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lengths: BTreeMap<String, u64>,
    /// Whether of each source only what came after the job's start was read.
    pub at_end: Vec<bool>,
    /// Of each source the bytes that are read of its file, as the spec has them: from one on, or up to another.
    #[serde(default)]
    pub bounds: Vec<Option<(u64, Option<u64>)>>,
    /// Of each source how the lengths of its records are written, if it is one of frames: a record counts as a line then.
    #[serde(default)]
    pub prefixes: Vec<Option<Prefix>>,
}

/// A pinned file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileLine {
    pub path: String,
    #[serde(flatten)]
    pub source: Source,
    pub data_at: u64,
}

/// What a plan begins with, for the line of its first job epoch.
pub struct First<'a> {
    /// Where it began.
    pub positions: &'a Positions,
    pub border: &'a Border,
    /// As in [`Begin`].
    pub lengths: BTreeMap<String, u64>,
}

/// The line of a job epoch. `headers`: the lines that files begin with since then, beside what tasks report.
pub fn line(
    info: &JobInfo,
    plan: &Plan,
    first: Option<First<'_>>,
    headers: &BTreeMap<String, Writes>,
    reports: &[Report],
    names: &BTreeMap<MemberId, String>,
    places: &[Vec<MemberId>],
) -> Result<bytes::Bytes> {
    let running: BTreeSet<&MemberId> = places.iter().flatten().collect();
    let members = running
        .into_iter()
        .map(|member| {
            names
                .get(member)
                .cloned()
                .unwrap_or_else(|| member.to_string())
        })
        .collect();
    let mut line = Line {
        epoch: info.epoch.0 + 1,
        attempt: info.attempt.0.into(),
        members,
        inputs: Vec::new(),
        outputs: headers.clone(),
        operators: BTreeMap::new(),
        operator_inputs: BTreeMap::new(),
        begin: first.map(|first| begin(info, plan, first)),
    };
    for report in reports {
        let TaskId { node, task } = report.id;
        let step = &plan.steps[node as usize];
        if let Input::Source(source) = step.input {
            line.inputs
                .extend(report.reads.iter().map(|reads| InputLine {
                    source,
                    node,
                    task,
                    reads: reads.clone(),
                }));
        }
        let files = step.sinks.iter().zip(&report.writes).map(|(sink, writes)| {
            let path = match sink.parts {
                Parts::Tasks => sink.task_path(step, task),
                _ => sink.path.clone(),
            };
            (path, writes)
        });
        let parts = report.files.iter();
        for (path, writes) in files.chain(parts.map(|(_, path, writes)| (path.clone(), writes))) {
            if writes.lines > 0 {
                line.outputs.entry(path).or_default().join(*writes);
            }
        }
        if let Some(program) = &report.program {
            line.operators.insert(step.name.clone(), program.clone());
        }
        if !report.inputs.is_empty() {
            let inputs = report.inputs.iter().cloned().collect();
            line.operator_inputs.insert(step.name.clone(), inputs);
        }
    }
    let mut text = serde_json::to_vec(&line)
        .map_err(|error| Error::Attempt(format!("the receipt cannot be written: {error}")))?;
    text.push(b'\n');
    Ok(text.into())
}

fn begin(info: &JobInfo, plan: &Plan, first: First<'_>) -> Begin {
    let First {
        positions,
        border,
        lengths,
    } = first;
    let files = |pinned: &crate::plan::Pinned| {
        let line = |file: &crate::plan::PinnedFile| FileLine {
            path: file.path.clone(),
            source: file.source.clone(),
            data_at: file.data_at,
        };
        pinned.files.iter().map(line).collect()
    };
    let shares = |tasks: &Vec<TaskPosition>| tasks.iter().map(|task| task.shares.clone()).collect();
    Begin {
        job: info.id.to_string(),
        chunk_bytes: positions.chunk_bytes,
        sources: positions.sources.iter().map(files).collect(),
        tasks: plan.steps.iter().map(|step| step.tasks).collect(),
        reads: plan.steps.iter().map(Step::source).collect(),
        shares: positions.tasks.iter().map(shares).collect(),
        goes_on: border.goes_on.clone(),
        savepoint: border.savepoint.clone(),
        lengths,
        at_end: plan.sources.iter().map(|source| source.at_end).collect(),
        bounds: plan.sources.iter().map(|source| source.bounds).collect(),
        prefixes: plan.sources.iter().map(SourcePlan::prefix).collect(),
    }
}

/// How long the files are that a plan writes, before it has written to them.
pub async fn lengths(storage: &dyn Storage, plan: &Plan) -> Result<BTreeMap<String, u64>> {
    let mut lengths = BTreeMap::new();
    let mut files: BTreeSet<String> = BTreeSet::new();
    for step in &plan.steps {
        for sink in &step.sinks {
            match sink.parts {
                Parts::One => drop(files.insert(sink.path.clone())),
                Parts::Tasks => {
                    files.extend((0..step.tasks).map(|task| sink.task_path(step, task)))
                }
                Parts::Values(_) => {
                    let folder = &sink.path;
                    lengths.insert(format!("{folder}/"), 0);
                    let entries = match storage.list(folder).await {
                        Ok(entries) => entries,
                        Err(StorageError::NotFound(_)) => Vec::new(),
                        Err(error) => return Err(error.into()),
                    };
                    let regular = entries.into_iter().filter(|e| e.kind == FileKind::Regular);
                    let regular = regular.take(FOLDER_FILES_MAX);
                    files.extend(regular.map(|entry| format!("{folder}/{}", entry.name)));
                }
            }
        }
    }
    let files: Vec<String> = files.into_iter().collect();
    for some in files.chunks(PINS_MAX) {
        let length = |path: &String| {
            let path = path.clone();
            async move {
                match storage.pin(&path, Owner::ROOT).await {
                    Ok(source) => Ok((path, source.len)),
                    Err(StorageError::NotFound(_)) => Ok((path, 0)),
                    Err(error) => Err(error),
                }
            }
        };
        lengths.extend(try_join_all(some.iter().map(length)).await?);
    }
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_counts_as_its_lines_wherever_it_is_cut(text in "[a\n]{1,30}\n", at in 0..32usize) {
            let (one, other) = text.split_at(at.min(text.len()));
            let mut cut = Reads::begin(None, 0, 5, 0);
            cut.add_text(7, one.as_bytes());
            cut.add_text(9, other.as_bytes());
            let mut lines = Reads::begin(None, 0, 5, 0);
            let batch = Batch::from_text(text.into());
            lines.add(9, &batch.expect("it is not empty"));
            prop_assert_eq!(cut, lines);
        }
    }
}
