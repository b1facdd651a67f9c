//! The second half of an audit: the outputs of a job are what its receipt says, line for line.

use crate::audit::{Audited, wrong};
use crate::audit_lengths::{Other, Part};
use crate::error::{Error, Result};
use crate::pieces::Pieces;
use crate::receipt::{Begin, Line, Writes};
use crate::receipt_lines::{Place, Receipt};
use crate::seams::{Owner, Source, Storage, StorageError};
use bytes::BytesMut;
use memchr::memchr;
use std::collections::{BTreeMap, BTreeSet};

/// What the lines of a receipt that went by say of outputs.
#[derive(Default)]
pub struct Outputs {
    lengths: Lengths,
    /// What was written to each file in all.
    written: BTreeMap<String, Writes>,
}

impl Outputs {
    /// Takes in the next line.
    pub fn add(&mut self, line: &Line) {
        if let Some(begin) = &line.begin {
            self.lengths.begin(begin, &self.written);
        }
        for (path, writes) in &line.outputs {
            match self.written.get_mut(path) {
                Some(written) => written.join(*writes),
                None => drop(self.written.insert(path.clone(), *writes)),
            }
        }
    }

    /// Checks that the outputs are what was written up to `end` of the receipt, or behind that by now. Files that were removed are
    /// named; those that were made anew hold what was written behind that.
    pub async fn check(
        self,
        storage: &dyn Storage,
        receipt: &Receipt<'_>,
        end: Place,
        audited: &mut Audited,
    ) -> Result<()> {
        let mut found = Vec::new();
        for (path, written) in self.written {
            let from = self.lengths.files.get(&path).copied().unwrap_or_default();
            match storage.pin(&path, Owner::ROOT).await {
                Err(StorageError::NotFound(_)) => drop(audited.gone.insert(path)),
                source => found.push(Output {
                    path,
                    source: source?,
                    from,
                    written,
                    parts: Vec::new(),
                }),
            }
        }
        explain(receipt, end, &mut found).await?;
        for output in found {
            let (anew, written) = match output.check(storage).await {
                Err(Error::Storage(StorageError::NotFound(_))) => {
                    audited.gone.insert(output.path);
                    continue;
                }
                holds => holds?,
            };
            if let Some(epoch) = anew {
                audited.anew.insert(output.path, epoch);
            }
            audited.lines_out += written.lines;
            audited.bytes_out += written.bytes;
        }
        Ok(())
    }
}

/// Looks in the receipt for what explains the lengths of outputs that have others than they should. A job that goes on has committed
/// more since the receipt was read: what is in the outputs now is in it now.
async fn explain(receipt: &Receipt<'_>, end: Place, found: &mut [Output]) -> Result<()> {
    let others = found.iter_mut().filter(|output| !output.is_as_long());
    let mut others: BTreeMap<String, (&mut Output, Other)> = others
        .map(|output| {
            let other = Other::new(output.source.len, output.from, output.written);
            (output.path.clone(), (output, other))
        })
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let receipt = receipt.pin_again().await?;
    let mut lines = receipt.lines(end);
    while let Some(line) = lines.next().await? {
        for (path, writes) in &line.outputs {
            if let Some((_, other)) = others.get_mut(path) {
                other.goes_on(writes);
            }
        }
    }
    others.retain(|_, (output, other)| match other.whole() {
        Some(written) => {
            output.written = written;
            false
        }
        None => true,
    });
    if others.is_empty() {
        return Ok(());
    }
    let mut lines = receipt.lines(Place::default());
    while let Some(line) = lines.next().await? {
        for (path, writes) in &line.outputs {
            if let Some((_, other)) = others.get_mut(path) {
                other.goes_by(line.epoch, writes);
            }
        }
    }
    for (output, other) in others.into_values() {
        output.parts = other.parts();
    }
    Ok(())
}

/// An output that is there.
struct Output {
    path: String,
    source: Source,
    /// Where what the job wrote begins in it.
    from: u64,
    written: Writes,
    /// What it may hold instead, all of its length, if it was made anew.
    parts: Vec<Part>,
}

impl Output {
    fn is_as_long(&self) -> bool {
        self.source.len == self.from + self.written.bytes
    }

    /// Reads it again: what it holds, and from which job epoch on, if it was made anew.
    async fn check(&self, storage: &dyn Storage) -> Result<(Option<u64>, Writes)> {
        let path = &self.path;
        let (from, want) = match self.parts.first() {
            Some(part) => (0, part.written),
            None => (self.from, self.written),
        };
        if self.source.len != from + want.bytes {
            let before = match from {
                0 => String::new(),
                from => format!(" behind the first {from}"),
            };
            let what = format!(
                "{path} has {} bytes, but {} were written{before}: something else wrote there",
                self.source.len, want.bytes
            );
            return Err(wrong(&what));
        }
        let (mut found, mut rest) = (Writes::default(), BytesMut::new());
        let mut pieces = Pieces::new(storage, self.source.clone(), path.clone(), from);
        while let Some(piece) = pieces.next().await? {
            rest.extend_from_slice(&piece);
            while let Some(end) = memchr(b'\n', &rest) {
                let line = rest.split_to(end + 1);
                found.add(&line[..end]);
            }
        }
        if !rest.is_empty() {
            return Err(wrong(&format!("{path} ends inside a line")));
        }
        if let Some(part) = self.parts.iter().find(|part| part.written == found) {
            return Ok((Some(part.epoch), found));
        }
        if found != want {
            let what = format!(
                "{path} holds {} lines ({} bytes, checksum {:x}), but {} ({} bytes, {:x}) were written",
                found.lines, found.bytes, found.sum, want.lines, want.bytes, want.sum
            );
            return Err(wrong(&what));
        }
        Ok((None, found))
    }
}

/// Where what a job wrote begins in its outputs.
#[derive(Default)]
struct Lengths {
    files: BTreeMap<String, u64>,
    /// Folders that the job writes in: files that were not there at first begin empty.
    folders: BTreeSet<String>,
}

impl Lengths {
    /// At the beginning of a plan. What the job has written to before begins where it did.
    fn begin(&mut self, begin: &Begin, written: &BTreeMap<String, Writes>) {
        let (folders, files): (Vec<_>, Vec<_>) = begin
            .lengths
            .iter()
            .partition(|(path, _)| path.ends_with('/'));
        for (path, len) in files {
            let end = path.rfind('/').map_or(0, |at| at + 1);
            if !written.contains_key(path) && !self.folders.contains(&path[..end]) {
                self.files.entry(path.clone()).or_insert(*len);
            }
        }
        self.folders
            .extend(folders.into_iter().map(|(path, _)| path.clone()));
    }
}
