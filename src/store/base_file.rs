//! One base on disk and its sums. Writes keep both in step; reads of whole blocks are checked.
//!
//! A change writes its sums first, then the content. Who may crash in between, and what then: after a kill at most one
//! change of a base was in hand, and a block's sum is that of the bytes before it or of those after it. Whoever makes the
//! same change again ([`Trust::Redo`]) gets, with its bytes in place, what the sum says: so what surrounds them in their
//! block is known to be intact, and a block where neither fits is damaged: its sum stays as it is, and every read finds
//! it. After a power loss content and sums may be any mixture ([`Trust::Torn`]): what is there is taken, and has to be
//! compared with another replica.

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

/// What may be wrong with a base that is about to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Nothing: content and sums fit, or it is damaged.
    Checked,
    /// The process was killed while a change was in hand, which is made again.
    Redo,
    /// The machine lost power: of what was not synced any part may be there.
    Torn,
}

/// What a block's sum becomes.
struct Fresh {
    sum: Sum,
    /// The old content fitted the old sum, or was not asked.
    known: bool,
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
            Some(sums) if !create => {
                if !Sums::is_headed(&*sum_file).map_err(failed)? {
                    tracing::warn!(
                        path,
                        "the header of a file of checksums was damaged; the checksums are kept"
                    );
                    sums.store_all(&*sum_file).map_err(failed)?;
                }
                sums
            }
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

    /// Puts `bytes` at `offset`; a gap before them reads as zeros. Whether all blocks fitted their sums, as far as was asked.
    pub fn write(&self, offset: u64, bytes: &[u8], trust: Trust) -> Result<bool> {
        if bytes.is_empty() {
            return Ok(true);
        }
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (
            offset / SUM_BLOCK_BYTES,
            (offset + bytes.len() as u64 - 1) / SUM_BLOCK_BYTES,
        );
        let old: Vec<Sum> = (first..=last).map(|block| sums.get(block)).collect();
        let mut fresh = Vec::with_capacity(old.len());
        for (block, old) in (first..).zip(&old) {
            let (within, part) = part_of(block, offset, bytes);
            fresh.push(self.sum_after(*old, block, within, part, trust)?);
        }
        let put = |sums: &mut Sums, list: &mut dyn Iterator<Item = Sum>| {
            for (block, sum) in (first..).zip(list) {
                sums.set(block, sum);
            }
            sums.store(&*self.sum_file, first, last)
        };
        if let Err(error) = put(&mut sums, &mut fresh.iter().map(|fresh| fresh.sum)) {
            put(&mut sums, &mut old.into_iter()).ok();
            return Err(self.failed("write the checksums of")(error));
        }
        if let Err(error) = write_bytes(&*self.base, offset, bytes) {
            self.adjust(&mut sums, offset, bytes);
            return Err(self.failed("write")(error));
        }
        Ok(fresh.iter().all(|fresh| fresh.known))
    }

    /// The sum of a block once `part` is written at `within` of it.
    fn sum_after(
        &self,
        old: Sum,
        block: u64,
        within: usize,
        part: &[u8],
        trust: Trust,
    ) -> Result<Fresh> {
        let known = |sum| Ok(Fresh { sum, known: true });
        let covered = old.covered as usize;
        if trust == Trust::Torn {
            // More, less or other bytes than the sum speaks of: what counts is what is there.
            let there = self.block(block, SUM_BLOCK_BYTES as usize)?;
            return known(Sum::of(&with(&there, within, part)));
        }
        if within == 0 && part.len() >= covered {
            return known(Sum::of(part));
        }
        if within > covered && trust == Trust::Redo {
            // What the change in hand cuts off at its end may still be there.
            let there = self.block(block, within)?;
            let gap = there.get(covered..).unwrap_or_default();
            if gap.iter().any(|byte| *byte != 0) {
                let sum = old;
                return Ok(Fresh { sum, known: false });
            }
        }
        if within >= covered {
            return known(old.extended(within, part));
        }
        let there = self.block(block, covered)?;
        match trust {
            _ if old.matches(&there) => known(Sum::of(&with(&there, within, part))),
            // The sum may be that of the change in hand: then it fits when the change is made again, and is damaged else.
            Trust::Redo => Ok(Fresh {
                sum: old,
                known: false,
            }),
            _ => Err(self.damaged(block)),
        }
    }

    /// After a failed write, which may have got some way: the sums follow what is there, where it is what was there before
    /// with some of the bytes in it. Elsewhere it is damaged, and stays so.
    fn adjust(&self, sums: &mut Sums, offset: u64, bytes: &[u8]) {
        let (first, last) = (
            offset / SUM_BLOCK_BYTES,
            (offset + bytes.len() as u64 - 1) / SUM_BLOCK_BYTES,
        );
        for block in first..=last {
            let (within, part) = part_of(block, offset, bytes);
            match self.block(block, SUM_BLOCK_BYTES as usize) {
                Ok(there) if sums.get(block).matches(&with(&there, within, part)) => {
                    sums.set(block, Sum::of(&there));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "block not readable after a failed write"),
            }
        }
        if let Err(error) = sums.store(&*self.sum_file, first, last) {
            tracing::warn!(%error, path = %self.path, "checksums not written after a failed write");
        }
    }

    /// Cuts or grows the base. Whether the block at the edge fitted its sum, as far as was asked.
    pub fn set_len(&self, len: u64, trust: Trust) -> Result<bool> {
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        let (block, within) = (len / SUM_BLOCK_BYTES, (len % SUM_BLOCK_BYTES) as usize);
        let edge = self.edge_after(sums.get(block), block, within, trust)?;
        let old = sums.clone();
        sums.cut(block + u64::from(within > 0));
        if within > 0 {
            sums.set(block, edge.sum);
        }
        let stored = sums.store_all(&*self.sum_file);
        let done = stored
            .map_err(self.failed("write the checksums of"))
            .and_then(|()| self.base.set_len(len).map_err(self.failed("cut")));
        if let Err(error) = done {
            *sums = old;
            if let Err(error) = sums.store_all(&*self.sum_file) {
                tracing::warn!(%error, path = %self.path, "checksums not written after a failed cut");
            }
            return Err(error);
        }
        Ok(edge.known)
    }

    /// The sum of a block once everything from `within` on is cut off, or zeros.
    fn edge_after(&self, old: Sum, block: u64, within: usize, trust: Trust) -> Result<Fresh> {
        let sum = old;
        if within == 0 || (within >= old.covered as usize && trust != Trust::Torn) {
            return Ok(Fresh { sum, known: true });
        }
        let there = self.block(block, SUM_BLOCK_BYTES as usize)?;
        let kept = &there[..within.min(there.len())];
        let fits = match trust {
            Trust::Checked => old.matches(&there),
            Trust::Redo => old.matches(there.get(..old.covered as usize).unwrap_or_default()),
            Trust::Torn => true,
        };
        match trust {
            _ if fits => Ok(Fresh {
                sum: Sum::of(kept),
                known: true,
            }),
            Trust::Redo => Ok(Fresh { sum, known: false }),
            _ => Err(self.damaged(block)),
        }
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

/// Which of `bytes`, written at `offset` of the base, fall into a block, and where in it.
fn part_of(block: u64, offset: u64, bytes: &[u8]) -> (usize, &[u8]) {
    let start = block * SUM_BLOCK_BYTES;
    let from = offset.max(start);
    let to = (offset + bytes.len() as u64).min(start + SUM_BLOCK_BYTES);
    let part = &bytes[(from - offset) as usize..(to - offset) as usize];
    ((from - start) as usize, part)
}

/// A block's bytes with `part` at `within`.
fn with(there: &[u8], within: usize, part: &[u8]) -> Vec<u8> {
    let mut bytes = there.to_vec();
    bytes.resize(bytes.len().max(within + part.len()), 0);
    bytes[within..within + part.len()].copy_from_slice(part);
    bytes
}

/// Where the sums of a base are.
pub(crate) fn sum_path(path: &str) -> String {
    format!("{path}.sum")
}
