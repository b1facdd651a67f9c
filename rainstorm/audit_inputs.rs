//! The first half of an audit: what was read tiles the input without gap or overlap, and still has the same checksum.

use crate::audit::{Audited, wrong};
use crate::batch::LINE_BYTES_MAX;
use crate::error::{Error, Result};
use crate::extent;
use crate::framed::Framed;
use crate::frames::Prefix;
use crate::pieces::{PIECE_BYTES, Pieces};
use crate::plan::{Pinned, PinnedFile};
use crate::position::Share;
use crate::reader::{self, Reader};
use crate::receipt::{Begin, FileLine, InputLine, Line, Reads};
use crate::seams::{Source, Storage, StorageError};
use hydfs_types::{Ino, JobInfo, JobPhase};
use memchr::memchr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an audit knows at a line of the receipt.
pub struct Reading {
    begin: Begin,
    /// What each task of each stage has still to read.
    shares: Vec<Vec<Vec<Share>>>,
    /// Where followed files stand, by the stage that reads them.
    files: BTreeMap<(u16, Ino), u64>,
    /// Where followed files may have begun that nothing was read of yet.
    starts: Starts,
    /// Where a frame begins before the next chunk of a task, by stage, task and chunk: who reads on need not begin at the beginning.
    known: BTreeMap<(u16, u32, u64), u64>,
}

/// Where plans of a job began to read followed files: what an earlier one found stays so under a later one.
#[derive(Clone, Copy, Default)]
struct Starts {
    at_beginning: bool,
    at_end: bool,
    savepoint: bool,
}

impl Starts {
    fn with(self, begin: &Begin) -> Self {
        Self {
            at_beginning: self.at_beginning || begin.at_end.contains(&false),
            at_end: self.at_end || begin.at_end.contains(&true),
            savepoint: self.savepoint || begin.savepoint.is_some(),
        }
    }
}

impl Reading {
    /// At the first line of the receipt.
    pub fn first(begin: Begin, job: &JobInfo) -> Result<Self> {
        if begin.job != job.id.to_string() {
            let what = format!("the receipt is of {}, not of {}", begin.job, job.id);
            return Err(wrong(&what));
        }
        let first = Self {
            shares: begin.shares.clone(),
            files: BTreeMap::new(),
            known: BTreeMap::new(),
            starts: Starts::default().with(&begin),
            begin,
        };
        for node in 0..first.shares.len() {
            if first.begin.savepoint.is_none() && !first.is_whole(node)? {
                return Err(wrong(&format!(
                    "stage {node} did not begin with all its input"
                )));
            }
        }
        Ok(first)
    }

    /// Behind a change of the job: what was not read before is read from there on, once.
    pub fn next(self, begin: Begin) -> Result<Self> {
        let next = Self {
            shares: begin.shares.clone(),
            files: BTreeMap::new(),
            known: BTreeMap::new(),
            starts: self.starts.with(&begin),
            begin,
        };
        let mut files = BTreeMap::new();
        for (node, before) in next.begin.goes_on.iter().enumerate() {
            let Some(before) = *before else {
                if !next.is_whole(node)? {
                    return Err(wrong(&format!(
                        "stage {node} did not begin with all its input"
                    )));
                }
                continue;
            };
            if self.unread(before as usize)? != next.unread(node)? {
                let what = format!(
                    "what stage {before} had not read at a change of the job is not what stage {node} was given"
                );
                return Err(wrong(&what));
            }
            let of_before = self.files.iter().filter(|((of, _), _)| *of == before);
            files.extend(of_before.map(|((_, ino), at)| ((node as u16, *ino), *at)));
        }
        Ok(Self { files, ..next })
    }

    /// Checks that what was to be read is the part of each file that the spec names. A file that is removed says nothing.
    pub async fn check_bounds(&self, storage: &dyn Storage) -> Result<()> {
        for (source, bounds) in self.begin.bounds.iter().enumerate() {
            let Some(bounds) = *bounds else { continue };
            for file in &self.pinned(source)?.files {
                match extent::audit(storage, file, self.prefix(source), bounds).await {
                    Ok(None) | Err(Error::Storage(StorageError::NotFound(_))) => {}
                    Ok(Some(what)) => return Err(wrong(&what)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Checks what a line says was read, and that it still reads so.
    pub async fn check(
        &mut self,
        storage: &Arc<dyn Storage>,
        line: &Line,
        audited: &mut Audited,
    ) -> Result<()> {
        for input in &line.inputs {
            let reads = &input.reads;
            let here = format!(
                "job epoch {}, task {}.{}",
                line.epoch, input.node, input.task
            );
            let begins = first_offset(&**storage, self, input, &here).await;
            self.take(input, &here)?;
            let again = match begins {
                Ok(()) => read_again(storage, self, input).await,
                Err(error) => Err(error),
            };
            let again = match again {
                Err(Error::Storage(StorageError::NotFound(inode))) => {
                    audited.gone.insert(self.path(input.source, inode));
                    continue;
                }
                again => again?,
            };
            if again != *reads {
                let what = format!(
                    "{here} read {} lines with checksum {:08x}, now there are {} with {:08x}: the input has changed",
                    reads.lines, reads.crc, again.lines, again.crc
                );
                return Err(wrong(&what));
            }
            audited.lines_in += reads.lines;
            audited.bytes_in += reads.bytes;
        }
        Ok(())
    }

    /// Behind the last line: a job that is done has read everything.
    pub fn check_end(&self, job: &JobInfo) -> Result<()> {
        if job.phase != JobPhase::Done {
            return Ok(());
        }
        for node in 0..self.begin.tasks.len() {
            if let Some(chunk) = self.unread(node)?.first() {
                let what = format!("the job is done, but stage {node} did not read chunk {chunk}");
                return Err(wrong(&what));
            }
        }
        Ok(())
    }

    fn pinned(&self, source: usize) -> Result<Pinned> {
        let files = self.begin.sources.get(source);
        let files = files.ok_or_else(|| wrong(&format!("the receipt names no source {source}")))?;
        let files = files.iter().map(|file| PinnedFile {
            path: file.path.clone(),
            source: file.source.clone(),
            data_at: file.data_at,
        });
        Ok(Pinned {
            files: files.collect(),
            columns: None,
        })
    }

    /// How the lengths of a source's records are written, if they are frames.
    fn prefix(&self, source: usize) -> Option<Prefix> {
        self.begin.prefixes.get(source).copied().flatten()
    }

    /// What a file of a source was called when the job began; of one that came later nothing but its inode is known.
    fn path(&self, source: usize, inode: String) -> String {
        let mut files = self.begin.sources.get(source).into_iter().flatten();
        match files.find(|file| file.source.ino.to_string() == inode) {
            Some(file) => file.path.clone(),
            None => format!("a file that came later ({inode})"),
        }
    }

    /// Chunks of its source; none of a followed one, or of a stage that reads none.
    fn chunks(&self, node: usize) -> Result<u64> {
        let follows = self
            .shares
            .get(node)
            .is_none_or(|tasks| tasks.iter().all(Vec::is_empty));
        match self.begin.reads.get(node).copied().flatten() {
            Some(source) if !follows => {
                let firsts = reader::firsts(&self.pinned(source)?, self.begin.chunk_bytes);
                Ok(firsts.last().copied().unwrap_or_default())
            }
            _ => Ok(0),
        }
    }

    /// The chunks that a stage has still to read, in order.
    fn unread(&self, node: usize) -> Result<Vec<u64>> {
        let all = self.chunks(node)?;
        let shares = self.shares.get(node).into_iter().flatten().flatten();
        let chunks = shares.flat_map(|share| {
            let end = share.end.min(all);
            (share.next..end).step_by(share.step.max(1) as usize)
        });
        let mut chunks: Vec<u64> = chunks.collect();
        chunks.sort_unstable();
        Ok(chunks)
    }

    fn is_whole(&self, node: usize) -> Result<bool> {
        Ok(self.unread(node)?.into_iter().eq(0..self.chunks(node)?))
    }

    /// Takes what a task read; an error if that was not next.
    fn take(&mut self, input: &InputLine, here: &str) -> Result<()> {
        let (reads, node) = (&input.reads, input.node);
        let due = match reads.file {
            Some(ino) => {
                // A followed file begins where the job found it.
                let at = self.files.entry((node, ino)).or_insert(reads.from);
                std::mem::replace(at, reads.to)
            }
            None => {
                let tasks = self.shares.get_mut(node as usize);
                let shares = tasks.and_then(|tasks| tasks.get_mut(input.task as usize));
                let mut shares = shares.into_iter().flatten();
                let first = shares.next().ok_or_else(|| {
                    wrong(&format!("{here} read a source, but had nothing to read"))
                })?;
                // A share that is read up may end where another goes on.
                let fits = |share: &Share| {
                    (share.next, share.step) == (reads.from, reads.step) && share.next < share.end
                };
                let share = match fits(first) {
                    true => first,
                    false => shares.find(|share| fits(share)).unwrap_or(first),
                };
                if share.step != reads.step || reads.step == 0 {
                    return Err(wrong(&format!(
                        "{here} read chunks that are {} apart, but {} apart was next",
                        reads.step, share.step
                    )));
                }
                std::mem::replace(&mut share.next, reads.to)
            }
        };
        match reads.from == due && reads.to >= reads.from {
            true => Ok(()),
            false => Err(wrong(&format!(
                "{here} read {} to {}, but {due} was next",
                reads.from, reads.to
            ))),
        }
    }
}

/// A followed file is read from its beginning, or from the line on that was not whole when the job began.
async fn first_offset(
    storage: &dyn Storage,
    reading: &Reading,
    input: &InputLine,
    here: &str,
) -> Result<()> {
    let (reads, begin) = (&input.reads, &reading.begin);
    let Some(ino) = reads.file else { return Ok(()) };
    if reading.starts.savepoint || reading.files.contains_key(&(input.node, ino)) {
        return Ok(());
    }
    let prefix = reading.prefix(input.source);
    let mut pinned = begin.sources.get(input.source).into_iter().flatten();
    let is_right = match pinned.find(|file| file.source.ino == ino) {
        Some(file) if reads.from == file.data_at && reading.starts.at_beginning => true,
        Some(file) if reading.starts.at_end => {
            file.data_at <= reads.from && is_last(storage, file, prefix, reads.from).await?
        }
        Some(_) => false,
        None if reads.from == 0 => true,
        None if prefix.is_some() => false,
        // Behind the header of CSV.
        None => {
            let source = Source {
                ino,
                generation: reads.generation,
                len: reads.to,
            };
            let head = reads.from.min(PIECE_BYTES) as u32;
            let head = storage.read(&source, 0, head).await?;
            memchr(b'\n', &head).is_some_and(|end| end as u64 + 1 == reads.from)
        }
    };
    match is_right {
        true => Ok(()),
        false => Err(wrong(&format!(
            "{here} began to read file {ino} at byte {}, which is not its beginning",
            reads.from
        ))),
    }
}

/// Whether no line or frame was whole from byte `from` of a file on when that was pinned.
async fn is_last(
    storage: &dyn Storage,
    file: &FileLine,
    prefix: Option<Prefix>,
    from: u64,
) -> Result<bool> {
    let source = &file.source;
    if let Some(prefix) = prefix {
        let framed = Framed {
            storage,
            source,
            path: &file.path,
            prefix,
        };
        return Ok(framed.walk(file.data_at, source.len).await?.at == from);
    }
    if from > source.len {
        return Ok(false);
    }
    let rest = (source.len - from).min(LINE_BYTES_MAX as u64 + 1);
    let rest = storage.read(source, from, rest as u32).await?;
    Ok(memchr(b'\n', &rest).is_none())
}

async fn read_again(
    storage: &Arc<dyn Storage>,
    reading: &mut Reading,
    input: &InputLine,
) -> Result<Reads> {
    let (from, to) = (input.reads.from, input.reads.to);
    let generation = input.reads.generation;
    let mut again = Reads::begin(input.reads.file, generation, from, input.reads.step);
    if let Some(ino) = input.reads.file {
        let source = Source {
            ino,
            generation,
            len: to,
        };
        if let Some(prefix) = reading.prefix(input.source) {
            let path = reading.path(input.source, ino.to_string());
            let framed = Framed {
                storage: &**storage,
                source: &source,
                path: &path,
                prefix,
            };
            let mut at = from;
            while let Some(frames) = framed.some(at, PIECE_BYTES).await? {
                at += frames.bytes().len() as u64;
                again.add_frames(at, &frames);
            }
            return Ok(again);
        }
        let mut pieces = Pieces::new(&**storage, source, ino.to_string(), from);
        let mut is_whole = true;
        while let Some(piece) = pieces.next().await? {
            is_whole = piece.ends_with(b"\n");
            again.add_text(to, &piece);
        }
        if !is_whole {
            // The last line of a file counts with the end that it may not have.
            again.add_text(to, b"\n");
        }
        return Ok(again);
    }
    let known = |chunk| (input.node, input.task, chunk);
    let share = Share {
        next: from,
        step: input.reads.step,
        end: to,
        at: reading.known.remove(&known(from)).unwrap_or_default(),
    };
    let pinned = Arc::new(reading.pinned(input.source)?);
    let prefix = reading.prefix(input.source);
    let cut = (reading.begin.chunk_bytes, prefix);
    let mut reader = Reader::new(storage.clone(), pinned, cut, vec![share]);
    while !reader.is_done() {
        let (chunk, records) = reader.next().await?;
        again.to = chunk.after();
        if let Some(records) = records {
            records.count_among(&mut again, chunk.after());
        }
    }
    if let (Some(_), [share]) = (prefix, reader.shares()) {
        reading.known.insert(known(share.next), share.at);
    }
    Ok(again)
}
