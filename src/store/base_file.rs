//! One base on disk and its sums. Writes keep both in step; reads of whole blocks are checked.
//!
//! Between a write of the base and that of its sum a crash may fall. Whoever then applies the same operation again
//! says so ([`Trust::Redo`]): what surrounds it in its blocks is not held against the old sums.

use crate::{
    Disk, DiskFile, Result, StoreError,
    disk::{read_bytes, write_bytes},
    sums::{SUM_BLOCK_BYTES, Sum, Sums},
};
use bytes::Bytes;
use std::{
    io,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

/// Whether old sums are expected to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Checked,
    Redo,
}

/// An open base.
pub(crate) struct BaseFile {
    /// For messages.
    path: String,
    base: Arc<dyn DiskFile>,
    sum_file: Arc<dyn DiskFile>,
    /// Held for writing while the base changes, so that no read sees the one without the other.
    sums: RwLock<Sums>,
}

impl BaseFile {
    /// Opens a base and its sums; `None` if it is not there. With `create` it is known not to be there, and is made.
    pub fn open(disk: &dyn Disk, path: &str, create: bool) -> Result<Option<Self>> {
        let failed = |error| StoreError::io("open", disk.locate(path), error);
        let base = match disk.open_file(path, create) {
            Ok(base) => base,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let sum_file = disk.open_file(&sum_path(path), true).map_err(failed)?;
        let sums = match Sums::load(&*sum_file).map_err(failed)? {
            // Sums without a base are what a power cut left: they are none of a new one's.
            Some(sums) if !create => sums,
            _ => {
                let sums = Sums::rebuild(&*base).map_err(failed)?;
                sums.store_all(&*sum_file).map_err(failed)?;
                sums
            }
        };
        Ok(Some(Self {
            path: disk.locate(path),
            base,
            sum_file,
            sums: RwLock::new(sums),
        }))
    }

    fn failed(&self, op: &'static str) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.path.clone();
        move |error| StoreError::io(op, path.clone(), error)
    }

    fn damaged(&self, block: u64) -> StoreError {
        let why = "the checksum of this block does not match".into();
        StoreError::Damaged {
            path: self.path.clone(),
            offset: block * SUM_BLOCK_BYTES,
            why,
        }
    }

    pub fn len(&self) -> Result<u64> {
        self.base.len().map_err(self.failed("read"))
    }

    /// Up to `len` bytes at `offset`. Every block that they touch is read whole and checked.
    pub fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        let (blocks, start, whole) = blocks_of(offset, len);
        let bytes = read_bytes(&*self.base, start, whole).map_err(self.failed("read"))?;
        self.checked(&sums, blocks, &bytes)?;
        Ok(part(bytes, (offset - start) as usize, len))
    }

    /// As [`BaseFile::read`], if all of it is in memory and good and nobody changes it. Never waits.
    pub fn read_cached(&self, offset: u64, len: usize) -> Option<Bytes> {
        let sums = self.sums.try_read().ok()?;
        let (blocks, start, whole) = blocks_of(offset, len);
        let bytes = Bytes::from(self.base.read_cached(start, whole)?);
        self.checked(&sums, blocks, &bytes).ok()?;
        Some(part(bytes, (offset - start) as usize, len))
    }

    /// Holds what was read of these blocks against their sums. A file that ends early lacks the last ones.
    fn checked(&self, sums: &Sums, blocks: Range<u64>, bytes: &[u8]) -> Result<()> {
        let first = blocks.start;
        for block in blocks {
            let from = ((block - first) * SUM_BLOCK_BYTES) as usize;
            let to = bytes.len().min(from + SUM_BLOCK_BYTES as usize);
            if !sums
                .get(block)
                .matches(bytes.get(from..to).unwrap_or_default())
            {
                return Err(self.damaged(block));
            }
        }
        Ok(())
    }

    /// CRC-32C of each block as far as it lies within the first `len` bytes of the base, from the sums alone. A block whose
    /// sum reaches past `len` is damaged.
    pub fn block_sums(&self, len: u64) -> Result<Vec<u32>> {
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        (0..len.div_ceil(SUM_BLOCK_BYTES))
            .map(|block| {
                let within = (len - block * SUM_BLOCK_BYTES).min(SUM_BLOCK_BYTES) as usize;
                let sum = sums.get(block);
                (sum.covered as usize <= within)
                    .then(|| sum.extended(within, &[]).crc)
                    .ok_or_else(|| self.damaged(block))
            })
            .collect()
    }

    /// Puts whole blocks from `first` on in place of damaged ones: only the last may be short, at the base's end. The old
    /// sums are not asked.
    pub fn patch(&self, first: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        write_bytes(&*self.base, first * SUM_BLOCK_BYTES, bytes).map_err(self.failed("write"))?;
        let mut last = first;
        for (block, part) in (first..).zip(bytes.chunks(SUM_BLOCK_BYTES as usize)) {
            sums.set(block, Sum::of(part));
            last = block;
        }
        sums.store(&*self.sum_file, first, last)
            .map_err(self.failed("write the checksums of"))
    }

    /// Checks one block; `false` past the last one.
    pub fn verify(&self, block: u64) -> Result<bool> {
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        if block >= sums.blocks().max(self.len()?.div_ceil(SUM_BLOCK_BYTES)) {
            return Ok(false);
        }
        let bytes = self.block(block, SUM_BLOCK_BYTES as usize)?;
        if sums.get(block).matches(&bytes) {
            Ok(true)
        } else {
            Err(self.damaged(block))
        }
    }

    fn block(&self, block: u64, len: usize) -> Result<Bytes> {
        read_bytes(&*self.base, block * SUM_BLOCK_BYTES, len).map_err(self.failed("read"))
    }

    /// Puts `bytes` at `offset`; a gap before them reads as zeros.
    pub fn write(&self, offset: u64, bytes: &[u8], trust: Trust) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (
            offset / SUM_BLOCK_BYTES,
            (offset + bytes.len() as u64 - 1) / SUM_BLOCK_BYTES,
        );
        let mut fresh = Vec::with_capacity((last - first + 1) as usize);
        for block in first..=last {
            fresh.push(self.sum_after(sums.get(block), block, offset, bytes, trust)?);
        }
        if let Err(error) = write_bytes(&*self.base, offset, bytes) {
            self.adjust(&mut sums, first, last);
            return Err(self.failed("write")(error));
        }
        for (block, sum) in (first..).zip(fresh) {
            sums.set(block, sum);
        }
        sums.store(&*self.sum_file, first, last)
            .map_err(self.failed("write the checksums of"))
    }

    /// The sum of a block once `bytes` are written at `offset` of the base.
    fn sum_after(
        &self,
        old: Sum,
        block: u64,
        offset: u64,
        bytes: &[u8],
        trust: Trust,
    ) -> Result<Sum> {
        let start = block * SUM_BLOCK_BYTES;
        let from = offset.max(start);
        let to = (offset + bytes.len() as u64).min(start + SUM_BLOCK_BYTES);
        let part = &bytes[(from - offset) as usize..(to - offset) as usize];
        let within = (from - start) as usize;
        if within >= old.covered as usize && trust == Trust::Checked {
            return Ok(old.extended(within, part));
        }
        if within == 0 && part.len() >= old.covered as usize && trust == Trust::Checked {
            return Ok(Sum::of(part));
        }
        // A redo may find more, less or other bytes than the sum speaks of: what counts is what is there.
        let known = if trust == Trust::Redo {
            SUM_BLOCK_BYTES as usize
        } else {
            old.covered as usize
        };
        let mut patched = self.block(block, known)?.to_vec();
        if trust == Trust::Checked && !old.matches(&patched) {
            return Err(self.damaged(block));
        }
        patched.resize(patched.len().max(within + part.len()), 0);
        patched[within..within + part.len()].copy_from_slice(part);
        Ok(Sum::of(&patched))
    }

    /// After a failed write, which may have got some way: the sums follow what is there. The old content was checked.
    fn adjust(&self, sums: &mut Sums, first: u64, last: u64) {
        for block in first..=last {
            match self.block(block, SUM_BLOCK_BYTES as usize) {
                Ok(bytes) => sums.set(block, Sum::of(&bytes)),
                Err(error) => tracing::warn!(%error, "block not readable after a failed write"),
            }
        }
        if let Err(error) = sums.store(&*self.sum_file, first, last) {
            tracing::warn!(%error, path = %self.path, "checksums not written after a failed write");
        }
    }

    /// Cuts or grows the base.
    pub fn set_len(&self, len: u64, trust: Trust) -> Result<()> {
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        let (block, within) = (len / SUM_BLOCK_BYTES, (len % SUM_BLOCK_BYTES) as usize);
        let old = sums.get(block);
        let mut edge = None;
        if within < old.covered as usize || trust == Trust::Redo {
            let bytes = self.block(block, SUM_BLOCK_BYTES as usize)?;
            if within > 0 && trust == Trust::Checked && !old.matches(&bytes) {
                return Err(self.damaged(block));
            }
            edge = Some(Sum::of(&bytes[..within.min(bytes.len())]));
        }
        self.base.set_len(len).map_err(self.failed("cut"))?;
        sums.cut(block + u64::from(within > 0));
        if let (Some(edge), true) = (edge, within > 0) {
            sums.set(block, edge);
        }
        sums.store_all(&*self.sum_file)
            .map_err(self.failed("write the checksums of"))
    }

    /// Makes content and sums durable; their names are the caller's concern.
    pub fn sync(&self) -> Result<()> {
        self.base.sync().map_err(self.failed("sync"))?;
        self.sum_file
            .sync()
            .map_err(self.failed("sync the checksums of"))
    }
}

/// The blocks that a range touches, where they begin, and how many bytes they have.
fn blocks_of(offset: u64, len: usize) -> (Range<u64>, u64, usize) {
    let first = offset / SUM_BLOCK_BYTES;
    let end = (offset + len as u64).div_ceil(SUM_BLOCK_BYTES);
    let bytes = ((end - first) * SUM_BLOCK_BYTES) as usize;
    (first..end, first * SUM_BLOCK_BYTES, bytes)
}

/// Up to `len` bytes from `from` on.
fn part(bytes: Bytes, from: usize, len: usize) -> Bytes {
    let from = bytes.len().min(from);
    let to = bytes.len().min(from + len);
    bytes.slice(from..to)
}

/// Where the sums of a base are.
pub(crate) fn sum_path(path: &str) -> String {
    format!("{path}.sum")
}
