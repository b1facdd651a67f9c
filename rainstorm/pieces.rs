//! A pinned file from some byte on to its pinned end, in pieces: whoever reads a long one so keeps no more of it than it needs.

use crate::seams::{Source, Storage, StorageError, StorageResult};
use bytes::Bytes;

/// Most bytes of a piece.
pub const PIECE_BYTES: u64 = 1 << 20;

/// Pieces of a file, one after the other.
pub struct Pieces<'a> {
    storage: &'a dyn Storage,
    source: Source,
    /// What errors call the file.
    name: String,
    at: u64,
}

impl<'a> Pieces<'a> {
    /// From byte `at` on.
    pub fn new(storage: &'a dyn Storage, source: Source, name: String, at: u64) -> Self {
        Self {
            storage,
            source,
            name,
            at,
        }
    }

    /// The next piece, which is not empty; `None` at the pinned end.
    pub async fn next(&mut self) -> StorageResult<Option<Bytes>> {
        let left = self.source.len.saturating_sub(self.at);
        if left == 0 {
            return Ok(None);
        }
        let len = left.min(PIECE_BYTES) as u32;
        let piece = self.storage.read(&self.source, self.at, len).await?;
        if piece.is_empty() {
            return Err(StorageError::Changed(self.name.clone()));
        }
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }
}
