//! One task's writer of one output file. A record holds whole lines, so that records of several tasks never mix inside a
//! line. It is transactional, unless the job gives exactly-once output up: then records are appended to the file as by any
//! program, visible at once, and by an attempt that failed, too.

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::receipt::Writes;
use crate::seams::{Owner, Sink, Storage};
use bytes::Bytes;
use hydfs_types::{Attempt, JobId, PAYLOAD_BYTES_MAX, Seq, WriterId};
use std::sync::Arc;

/// Bytes at which buffered lines become a record before the barrier asks for it.
const RECORD_BYTES: usize = 512 << 10;

/// Where and for whom a writer writes.
#[derive(Clone)]
pub struct Target {
    pub storage: Arc<dyn Storage>,
    pub path: String,
    pub owner: Owner,
    pub job: JobId,
    pub attempt: Attempt,
    /// Only what a job epoch commits is seen.
    pub exactly_once: bool,
}

/// A writer that is granted when there is something to write.
pub struct Writer {
    target: Target,
    sink: Option<Sink>,
    last: Option<Seq>,
}

impl Writer {
    pub fn new(target: Target) -> Self {
        Self {
            target,
            sink: None,
            last: None,
        }
    }

    /// Makes the file, and the writer, now.
    pub async fn open(&mut self) -> Result<()> {
        match self.target.exactly_once {
            true => self.granted().await.map(drop),
            false => self.append(Bytes::new()).await,
        }
    }

    async fn granted(&mut self) -> Result<&Sink> {
        if self.sink.is_none() {
            let Target {
                storage,
                path,
                owner,
                job,
                attempt,
                ..
            } = &self.target;
            self.sink = Some(storage.open_sink(path, *owner, *job, *attempt).await?);
        }
        self.sink.as_ref().ok_or(Error::Over)
    }

    /// Appends a record. It is received by all acting replicas then.
    pub async fn append(&mut self, payload: Bytes) -> Result<()> {
        let storage = self.target.storage.clone();
        if !self.target.exactly_once {
            let Target { path, owner, .. } = &self.target;
            return Ok(storage.append_visible(path, *owner, payload).await?);
        }
        let sink = self.granted().await?;
        let seq = storage.append(sink, payload).await?;
        self.last = Some(seq);
        Ok(())
    }

    /// What has to become durable for everything so far to count.
    pub fn mark(&self) -> Option<Mark> {
        let (sink, seq) = (self.sink.clone()?, self.last?);
        Some(Mark {
            storage: self.target.storage.clone(),
            sink,
            seq,
        })
    }

    /// Frees what the member keeps for it.
    pub async fn close(self) {
        if let Some(sink) = self.sink {
            self.target.storage.close_sink(sink).await;
        }
    }
}

/// A point in a writer.
pub struct Mark {
    storage: Arc<dyn Storage>,
    sink: Sink,
    seq: Seq,
}

impl Mark {
    /// Waits until everything up to it is on disk everywhere.
    pub async fn durable(&self) -> Result<(WriterId, Seq)> {
        self.storage.durable(&self.sink, self.seq).await?;
        Ok((self.sink.id, self.seq))
    }
}

/// Lines on their way into an output file.
pub struct Output {
    writer: Writer,
    buffer: Vec<u8>,
    /// No other task writes this file for the job: a line may span records.
    alone: bool,
    /// Taken since the last `take_writes`.
    writes: Writes,
}

impl Output {
    pub fn new(target: Target, alone: bool) -> Self {
        Self {
            writer: Writer::new(target),
            buffer: Vec::new(),
            alone,
            writes: Writes::default(),
        }
    }

    /// What was written since the last call.
    pub fn take_writes(&mut self) -> Writes {
        std::mem::take(&mut self.writes)
    }

    /// Makes the file even if nothing is ever written.
    pub async fn open(&mut self) -> Result<()> {
        self.writer.open().await
    }

    /// Takes the first line of the file.
    pub fn begin(&mut self, header: &[u8]) {
        self.writes.add(header);
        self.buffer.extend_from_slice(header);
        self.buffer.push(b'\n');
    }

    /// Takes lines.
    pub async fn write(&mut self, batch: &Batch) -> Result<()> {
        batch.lines().for_each(|line| self.writes.add(line));
        let bytes = batch.bytes();
        if self.buffer.len() + bytes.len() < PAYLOAD_BYTES_MAX {
            self.buffer.extend_from_slice(bytes);
            self.buffer.push(b'\n');
        } else {
            for line in batch.lines() {
                self.line(line).await?;
            }
        }
        // Where nothing is held back until a job epoch, nothing waits for more of its kind either.
        if self.buffer.len() >= RECORD_BYTES || !self.writer.target.exactly_once {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn line(&mut self, line: &[u8]) -> Result<()> {
        if self.buffer.len() + line.len() >= PAYLOAD_BYTES_MAX {
            self.flush().await?;
        }
        let mut rest = line;
        while rest.len() >= PAYLOAD_BYTES_MAX {
            if !self.alone {
                let path = &self.writer.target.path;
                let what = format!(
                    "a line of {} bytes for {path}, which several tasks write",
                    line.len()
                );
                return Err(Error::Job(format!(
                    "{what}; set `tasks = 1` for the last stage, or keep lines below 1 MiB"
                )));
            }
            self.writer
                .append(Bytes::copy_from_slice(&rest[..PAYLOAD_BYTES_MAX]))
                .await?;
            rest = &rest[PAYLOAD_BYTES_MAX..];
        }
        self.buffer.extend_from_slice(rest);
        self.buffer.push(b'\n');
        Ok(())
    }

    /// Bytes that wait for their record.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Gives the memory of the buffer back.
    pub fn shrink(&mut self) {
        self.buffer = Vec::new();
    }

    /// Makes a record of what waits.
    pub async fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let capacity = self.buffer.capacity();
        let record = std::mem::replace(&mut self.buffer, Vec::with_capacity(capacity));
        self.writer.append(record.into()).await
    }

    /// Hands over everything and returns what has to become durable.
    pub async fn barrier(&mut self) -> Result<Option<Mark>> {
        self.flush().await?;
        Ok(self.writer.mark())
    }

    pub async fn close(self) {
        self.writer.close().await;
    }
}
