//! Reads the receipt of a job line by line, however long it is: of its text no more is in memory than a piece and the line that
//! crosses its end. Job epochs have to follow one another from 1 on. What a line says besides is not looked at here.

use crate::audit::wrong;
use crate::error::Result;
use crate::pieces::Pieces;
use crate::receipt::{Line, receipt_path};
use crate::seams::{Owner, Source, Storage, StorageError, StorageResult};
use bytes::BytesMut;
use memchr::memchr;

/// Longest line in bytes, its end not counted. What makes one long is agreed on with the same job epoch, in a command of 2 MiB at
/// most: positions (`POSITIONS_BYTES_MAX`) and watermarks. As text a share or a followed file takes some ten times as much as there.
pub const RECEIPT_LINE_BYTES_MAX: usize = 32 << 20;

/// The receipt of a job as it was at one time.
pub struct Receipt<'a> {
    storage: &'a dyn Storage,
    path: String,
    source: Source,
}

impl<'a> Receipt<'a> {
    /// As it is now.
    pub async fn pin(storage: &'a dyn Storage, job: &str) -> StorageResult<Self> {
        let path = receipt_path(job);
        let source = storage.pin(&path, Owner::ROOT).await?;
        Ok(Self {
            storage,
            path,
            source,
        })
    }

    /// The same one as it is now: nothing but lines behind the others may have come.
    pub async fn pin_again(&self) -> StorageResult<Self> {
        let source = self.storage.pin(&self.path, Owner::ROOT).await?;
        if source.ino != self.source.ino || source.len < self.source.len {
            return Err(StorageError::Changed(self.path.clone()));
        }
        Ok(Self {
            storage: self.storage,
            path: self.path.clone(),
            source,
        })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The lines behind a place.
    pub fn lines(&self, from: Place) -> Lines<'_> {
        let (source, path) = (self.source.clone(), self.path.clone());
        Lines {
            path: &self.path,
            pieces: Pieces::new(self.storage, source, path, from.byte),
            rest: BytesMut::new(),
            place: from,
        }
    }
}

/// A place behind a line of a receipt, by default that before the first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    byte: u64,
    /// The job epoch of the line before it.
    pub epoch: u64,
}

/// Lines of a receipt, one after the other.
pub struct Lines<'a> {
    path: &'a str,
    pieces: Pieces<'a>,
    /// What was read and not handed out.
    rest: BytesMut,
    place: Place,
}

impl Lines<'_> {
    /// Behind the line that was handed out last.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The next line; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Line>> {
        let text = loop {
            match self.text().await? {
                Some(text) if text.is_empty() => {}
                Some(text) => break text,
                None => return Ok(None),
            }
        };
        let (path, due) = (self.path, self.place.epoch + 1);
        let line: Line = serde_json::from_slice(&text)
            .map_err(|error| wrong(&format!("line {due} of {path} is damaged: {error}")))?;
        if line.epoch != due {
            let what = format!(
                "{path} goes on with job epoch {} after {}",
                line.epoch, self.place.epoch
            );
            return Err(wrong(&what));
        }
        self.place.epoch = due;
        Ok(Some(line))
    }

    /// The text of the next line, without its end.
    async fn text(&mut self) -> Result<Option<BytesMut>> {
        let mut searched = 0;
        loop {
            let end = memchr(b'\n', &self.rest[searched..]).map(|at| searched + at);
            searched = end.unwrap_or(self.rest.len());
            if searched > RECEIPT_LINE_BYTES_MAX {
                let (path, due) = (self.path, self.place.epoch + 1);
                let what =
                    format!("line {due} of {path} has more than {RECEIPT_LINE_BYTES_MAX} bytes");
                return Err(wrong(&what));
            }
            if let Some(end) = end {
                let mut text = self.rest.split_to(end + 1);
                self.place.byte += text.len() as u64;
                text.truncate(end);
                return Ok(Some(text));
            }
            let Some(piece) = self.pieces.next().await? else {
                self.place.byte += searched as u64;
                return Ok((searched > 0).then(|| self.rest.split()));
            };
            self.rest.extend_from_slice(&piece);
        }
    }
}
