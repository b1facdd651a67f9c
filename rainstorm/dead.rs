//! Dead letters: lines that cannot be worked on, put aside with why and where they came from, if the job says
//! `on_error = "dead"`. Without that the first of them fails the job.

use crate::batch::Batch;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::sync::Arc;

/// A line that was put aside.
pub struct Dead {
    pub line: Bytes,
    pub why: Arc<str>,
    /// The file that it was read from and its first byte there, where the task reads a source itself.
    pub origin: Option<(Arc<str>, u64)>,
}

/// Where the lines of a batch stand in a file.
#[derive(Debug, Clone)]
pub struct Origin {
    pub path: Arc<str>,
    pub starts: Starts,
}

/// First bytes of lines.
#[derive(Debug, Clone)]
pub enum Starts {
    /// The batch is that piece of the file.
    Piece(u64),
    /// Its lines were picked out.
    Each(Vec<u64>),
}

impl Origin {
    /// The first byte of line `at`.
    pub fn start(&self, batch: &Batch, at: usize) -> u64 {
        match &self.starts {
            Starts::Piece(start) => start + batch.range(at).start as u64,
            Starts::Each(starts) => starts.get(at).copied().unwrap_or_default(),
        }
    }

    /// Of the lines `kept` of the batch alone.
    pub fn of(&self, batch: &Batch, kept: &[usize]) -> Self {
        Self {
            path: self.path.clone(),
            starts: Starts::Each(kept.iter().map(|&at| self.start(batch, at)).collect()),
        }
    }
}

/// What a task puts aside.
pub struct Letters {
    on: bool,
    /// Of the batch that is worked on.
    pub origin: Option<Origin>,
    all: Vec<Dead>,
}

impl Letters {
    /// `on`: the job goes on without such lines.
    pub fn new(on: bool) -> Self {
        Self {
            on,
            origin: None,
            all: Vec::new(),
        }
    }

    /// Whether lines may be put aside.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Puts line `at` of `batch` aside.
    pub fn put(&mut self, batch: &Batch, at: usize, why: Arc<str>) {
        let origin = self.origin.as_ref();
        self.all.push(Dead {
            line: batch.bytes().slice(batch.range(at)),
            why,
            origin: origin.map(|origin| (origin.path.clone(), origin.start(batch, at))),
        });
    }

    /// The same, if `error` is the line's fault and the job goes on without it; else the error.
    pub fn blame(&mut self, batch: &Batch, at: usize, error: Error) -> Result<()> {
        match error {
            Error::Line(why) if self.on => {
                self.put(batch, at, why.into());
                Ok(())
            }
            other => Err(other),
        }
    }

    /// The same of a record that is no line, which begins at that place of a file.
    pub fn blame_record(
        &mut self,
        record: Bytes,
        place: (Arc<str>, u64),
        error: Error,
    ) -> Result<()> {
        match error {
            Error::Line(why) if self.on => {
                self.all.push(Dead {
                    line: record,
                    why: why.into(),
                    origin: Some(place),
                });
                Ok(())
            }
            other => Err(other),
        }
    }

    /// The same of a line that a stage has put out: where in a source it came from is not known.
    pub fn blame_result(&mut self, batch: &Batch, at: usize, error: Error) -> Result<()> {
        let origin = self.origin.take();
        let blamed = self.blame(batch, at, error);
        self.origin = origin;
        blamed
    }

    /// What was put aside since the last call.
    pub fn take(&mut self) -> Vec<Dead> {
        std::mem::take(&mut self.all)
    }
}
