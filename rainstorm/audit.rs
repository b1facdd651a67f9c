//! Checks a job against its receipt: every job epoch has its line, what was read tiles the input without gap or
//! overlap and still has the same checksum, and the outputs are what was written, line for line.

use crate::error::{Error, Result};
use crate::plan::{Pinned, PinnedFile};
use crate::reader::Reader;
use crate::receipt::{Begin, InputLine, Line, Reads, Writes, receipt_path};
use crate::seams::{Owner, Source, Storage, StorageError};
use bytes::{Bytes, BytesMut};
use hydfs_types::{Ino, JobInfo, JobPhase};
use memchr::memchr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest receipt in bytes.
const RECEIPT_BYTES_MAX: usize = 256 << 20;
/// Bytes read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// What an audit went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Audited {
    pub epochs: u64,
    pub lines_in: u64,
    pub bytes_in: u64,
    pub lines_out: u64,
    pub bytes_out: u64,
}

/// Audits a job as far as it has committed. `Error::Job` says what does not hold.
pub async fn audit(storage: &Arc<dyn Storage>, job: &JobInfo) -> Result<Audited> {
    let lines = lines(&**storage, job).await?;
    let mut audited = Audited {
        epochs: lines.len() as u64,
        ..Audited::default()
    };
    let Some(begin) = lines.first().and_then(|line| line.begin.clone()) else {
        return match job.epoch.0 {
            0 => Ok(audited),
            _ => Err(wrong(
                "the first line of the receipt does not say what the job began with",
            )),
        };
    };
    if begin.job != job.id.to_string() {
        return Err(wrong(&format!(
            "the receipt is of {}, not of {}",
            begin.job, job.id
        )));
    }
    inputs(storage, job, &begin, &lines, &mut audited).await?;
    outputs(&**storage, &lines, &mut audited).await?;
    Ok(audited)
}

fn wrong(what: &str) -> Error {
    Error::Job(format!("the audit failed: {what}"))
}

async fn lines(storage: &dyn Storage, job: &JobInfo) -> Result<Vec<Line>> {
    let path = receipt_path(&job.name);
    let text = match storage
        .read_small(&path, Owner::ROOT, RECEIPT_BYTES_MAX)
        .await
    {
        Ok(text) => text,
        Err(StorageError::NotFound(_)) if job.epoch.0 == 0 => Bytes::new(),
        Err(error) => return Err(error.into()),
    };
    let mut lines = Vec::new();
    for text in text
        .split(|&byte| byte == b'\n')
        .filter(|text| !text.is_empty())
    {
        let line: Line = serde_json::from_slice(text).map_err(|error| {
            wrong(&format!(
                "line {} of {path} is damaged: {error}",
                lines.len() + 1
            ))
        })?;
        let due = lines.len() as u64 + 1;
        if line.epoch != due {
            let what = format!(
                "{path} goes on with job epoch {} after {}",
                line.epoch,
                due - 1
            );
            return Err(wrong(&what));
        }
        lines.push(line);
    }
    // The job may have committed more while the receipt was read.
    if (lines.len() as u64) < job.epoch.0 {
        let what = format!(
            "{path} has {} lines for {} job epochs",
            lines.len(),
            job.epoch.0
        );
        return Err(wrong(&what));
    }
    Ok(lines)
}

/// The reads of one task or, of followed sources, of one file.
type Place = (u16, u32, Option<Ino>);

async fn inputs(
    storage: &Arc<dyn Storage>,
    job: &JobInfo,
    begin: &Begin,
    lines: &[Line],
    audited: &mut Audited,
) -> Result<()> {
    let mut at: BTreeMap<Place, u64> = BTreeMap::new();
    let mut readers: BTreeMap<(u16, u32), (usize, u64)> = BTreeMap::new();
    for line in lines {
        for input in &line.inputs {
            let reads = &input.reads;
            let place = (input.node, input.task, reads.file);
            let due = match (at.get(&place), reads.file) {
                (Some(&due), _) => due,
                (None, None) => input.task.into(),
                // A followed file begins where the job found it.
                (None, Some(_)) => reads.from,
            };
            let here = format!(
                "job epoch {}, task {}.{}",
                line.epoch, input.node, input.task
            );
            if reads.from != due || reads.to < reads.from {
                let what = format!(
                    "{here} read {} to {}, but {due} was next",
                    reads.from, reads.to
                );
                return Err(wrong(&what));
            }
            at.insert(place, reads.to);
            let again = read_again(storage, begin, input).await?;
            if again != *reads {
                let what = format!(
                    "{here} read {} lines with checksum {:08x}, now there are {} with {:08x}: the input has changed",
                    reads.lines, reads.crc, again.lines, again.crc
                );
                return Err(wrong(&what));
            }
            audited.lines_in += reads.lines;
            audited.bytes_in += reads.bytes;
            if reads.file.is_none() {
                readers.insert((input.node, input.task), (input.source, reads.to));
            }
        }
    }
    if job.phase != JobPhase::Done {
        return Ok(());
    }
    let mut sources: BTreeMap<u16, usize> = BTreeMap::new();
    sources.extend(
        readers
            .iter()
            .map(|((node, _), (source, _))| (*node, *source)),
    );
    for (node, source) in sources {
        for task in 0..tasks(begin, node)? {
            let to = readers
                .get(&(node, task))
                .map_or(task.into(), |(_, to)| *to);
            let reader = reader(storage, begin, source, tasks(begin, node)?, to)?;
            if !reader.is_done() {
                let what =
                    format!("the job is done, but task {node}.{task} read only up to chunk {to}");
                return Err(wrong(&what));
            }
        }
    }
    Ok(())
}

fn tasks(begin: &Begin, node: u16) -> Result<u32> {
    let tasks = begin.tasks.get(node as usize).copied();
    tasks.ok_or_else(|| wrong(&format!("the receipt names no stage {node}")))
}

fn reader(
    storage: &Arc<dyn Storage>,
    begin: &Begin,
    source: usize,
    tasks: u32,
    chunk: u64,
) -> Result<Reader> {
    let files = begin
        .sources
        .get(source)
        .ok_or_else(|| wrong(&format!("the receipt names no source {source}")))?;
    let files = files.iter().map(|file| PinnedFile {
        path: file.path.clone(),
        source: file.source.clone(),
        data_at: file.data_at,
    });
    let pinned = Arc::new(Pinned {
        files: files.collect(),
        columns: None,
    });
    Ok(Reader::new(
        storage.clone(),
        pinned,
        begin.chunk_bytes,
        tasks,
        chunk,
    ))
}

async fn read_again(storage: &Arc<dyn Storage>, begin: &Begin, input: &InputLine) -> Result<Reads> {
    let generation = input.reads.generation;
    let mut again = Reads::begin(input.reads.file, generation, input.reads.from);
    if let Some(ino) = input.reads.file {
        let (from, to) = (input.reads.from, input.reads.to);
        let source = Source {
            ino,
            generation,
            len: to,
        };
        let mut bytes = BytesMut::new();
        let mut at = from;
        while at < to {
            let piece = storage
                .read(&source, at, (to - at).min(PIECE_BYTES) as u32)
                .await?;
            if piece.is_empty() {
                return Err(StorageError::Changed(ino.to_string()).into());
            }
            at += piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        if let Some(batch) = crate::batch::Batch::from_text(bytes.freeze()) {
            again.add(to, &batch);
        }
        return Ok(again);
    }
    let tasks = tasks(begin, input.node)?;
    let mut reader = reader(storage, begin, input.source, tasks, input.reads.from)?;
    while reader.position() < input.reads.to && !reader.is_done() {
        let batch = reader.next().await?;
        again.to = reader.position();
        if let Some(batch) = batch {
            again.add(reader.position(), &batch);
        }
    }
    Ok(again)
}

async fn outputs(storage: &dyn Storage, lines: &[Line], audited: &mut Audited) -> Result<()> {
    let mut written: BTreeMap<&str, Writes> = BTreeMap::new();
    for (path, writes) in lines.iter().flat_map(|line| &line.outputs) {
        written.entry(path).or_default().join(*writes);
    }
    for (path, want) in written {
        let found = read_output(storage, path, want.bytes).await?;
        if found != want {
            let what = format!(
                "{path} holds {} lines ({} bytes, checksum {:x}), but {} ({} bytes, {:x}) were written",
                found.lines, found.bytes, found.sum, want.lines, want.bytes, want.sum
            );
            return Err(wrong(&what));
        }
        audited.lines_out += found.lines;
        audited.bytes_out += found.bytes;
    }
    Ok(())
}

async fn read_output(storage: &dyn Storage, path: &str, want: u64) -> Result<Writes> {
    let source = storage.pin(path, Owner::ROOT).await?;
    if source.len != want {
        let what = format!(
            "{path} has {} bytes, but {want} were written: something else wrote there, or the job goes on",
            source.len
        );
        return Err(wrong(&what));
    }
    let (mut found, mut rest, mut at) = (Writes::default(), BytesMut::new(), 0);
    while at < source.len {
        let piece = storage
            .read(&source, at, (source.len - at).min(PIECE_BYTES) as u32)
            .await?;
        if piece.is_empty() {
            return Err(StorageError::Changed(path.to_owned()).into());
        }
        at += piece.len() as u64;
        rest.extend_from_slice(&piece);
        while let Some(end) = memchr(b'\n', &rest) {
            let line = rest.split_to(end + 1);
            found.add(&line[..end]);
        }
    }
    match rest.is_empty() {
        true => Ok(found),
        false => Err(wrong(&format!("{path} ends inside a line"))),
    }
}
