//! A pulled base on its way in: written beside, synced, then renamed. A crash leaves the old base or the new one,
//! never a part (fault S13).

use crate::{
    Bases, Result,
    base_file::{BaseFile, Trust, sum_path},
};
use hydfs_types::SegmentId;
use std::{io, sync::Arc};

/// A base being pulled. Dropped without [`Adoption::finish`], it leaves nothing.
pub struct Adoption {
    bases: Bases,
    segment: SegmentId,
    path: String,
    file: Arc<BaseFile>,
    placed: bool,
}

impl Adoption {
    pub(crate) fn begin(bases: Bases, segment: SegmentId, number: u64) -> Result<Self> {
        let path = format!("{}/tmp/{:016x}-{number}", bases.dir, segment.0);
        let file = BaseFile::open(&*bases.disk, &path, true)?;
        let file =
            file.ok_or_else(|| bases.failed("make", &path)(io::ErrorKind::NotFound.into()))?;
        Ok(Self {
            bases,
            segment,
            path,
            file: Arc::new(file),
            placed: false,
        })
    }

    /// Puts pulled bytes at `offset`; ranges never written are holes.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write(offset, bytes, Trust::Checked).map(drop)
    }

    /// Makes what was written so far durable, off the caller's thread.
    pub async fn sync(&self) -> Result<()> {
        let file = Arc::clone(&self.file);
        self.bases.aside(self.segment, move || file.sync()).await
    }

    /// As [`Adoption::finish`], off the caller's thread. Readers may meet the new base before the caller does.
    pub async fn finish_aside(self, len: u64) -> Result<()> {
        let bases = self.bases.clone();
        self.file.set_len(len, Trust::Checked)?;
        self.sync().await?;
        // Without a deadline: a base that came into place after its caller had given up would replace a later one.
        bases.to_its_end(move || self.place()).await
    }

    /// Makes it the segment's base, `len` bytes long, durably.
    pub fn finish(self, len: u64) -> Result<()> {
        self.file.set_len(len, Trust::Checked)?;
        self.file.sync()?;
        self.place()
    }

    fn place(mut self) -> Result<()> {
        let disk = &self.bases.disk;
        let path = self.bases.path(self.segment);
        let sums = sum_path(&path);
        let failed = self.bases.failed("put in place", &path);
        // The old sums go first: without sums a base gets new ones, with wrong ones it would look damaged.
        if disk.exists(&sums).map_err(&failed)? {
            disk.remove_file(&sums).map_err(&failed)?;
            disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))
                .map_err(&failed)?;
        }
        disk.rename(&self.path, &path).map_err(&failed)?;
        self.placed = true;
        let renamed = disk.rename(&sum_path(&self.path), &sums).map_err(&failed);
        // Only now: whoever opens the base from here on finds it with its sums.
        self.bases.adopted(self.segment);
        renamed
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        if !self.placed {
            // Opening the bases again removes what cannot be removed now.
            self.bases.disk.remove_file(&self.path).ok();
            self.bases.disk.remove_file(&sum_path(&self.path)).ok();
        }
    }
}
