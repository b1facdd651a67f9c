//! Checksums of a base, one CRC-32C per block of 64 KiB, kept in a file beside it: a flipped bit is found (fault S8).
//!
//! A sum says how much of its block it covers; bytes of the block behind that are zeros. So a hole needs no sum,
//! and an append extends the last sum without reading.

use crate::{
    DiskFile,
    disk::{read_bytes, write_bytes},
};
use std::io;

/// Bytes that one sum covers.
pub const SUM_BLOCK_BYTES: u64 = 64 << 10;

const MAGIC: [u8; 8] = *b"HYDFSSUM";
const FORMAT: u16 = 1;
const HEADER_BYTES: u64 = 16;
const SUM_BYTES: u64 = 8;
static ZEROS: [u8; SUM_BLOCK_BYTES as usize] = [0; SUM_BLOCK_BYTES as usize];

/// CRC-32C of the first `covered` bytes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    pub crc: u32,
    pub covered: u32,
}

impl Sum {
    pub fn of(block: &[u8]) -> Self {
        Self {
            crc: crc32c::crc32c(block),
            covered: block.len() as u32,
        }
    }

    /// With zeros up to `offset` (at or past what is covered) and `part` behind them.
    pub fn extended(self, offset: usize, part: &[u8]) -> Self {
        let gap = &ZEROS[..offset - self.covered as usize];
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, gap), part);
        Self {
            crc,
            covered: (offset + part.len()) as u32,
        }
    }

    /// Whether these are the block's bytes, as far as the file goes.
    pub fn matches(self, block: &[u8]) -> bool {
        let Some((covered, rest)) = block.split_at_checked(self.covered as usize) else {
            return false;
        };
        crc32c::crc32c(covered) == self.crc && rest == &ZEROS[..rest.len()]
    }
}

/// The sums of one base, in memory and in their file.
#[derive(Clone)]
pub(crate) struct Sums {
    list: Vec<Sum>,
}

impl Sums {
    /// Reads the file; `None` if nothing was written to it yet. A header with other bytes is damaged: the sums behind it
    /// are not given up for that, or whatever the base holds would be called good.
    pub fn load(file: &dyn DiskFile) -> io::Result<Option<Self>> {
        let bytes = read_bytes(file, 0, file.len()? as usize)?;
        let found = bytes.get(..HEADER_BYTES as usize);
        if found.is_none_or(|found| *found == [0; HEADER_BYTES as usize]) {
            return Ok(None);
        }
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let sums = bytes[HEADER_BYTES as usize..].chunks_exact(SUM_BYTES as usize);
        let list = sums
            .map(|sum| Sum {
                crc: word(sum),
                covered: word(&sum[4..]).min(SUM_BLOCK_BYTES as u32),
            })
            .collect();
        Ok(Some(Self { list }))
    }

    /// Whether the file begins as one of sums does.
    pub fn is_headed(file: &dyn DiskFile) -> io::Result<bool> {
        Ok(read_bytes(file, 0, HEADER_BYTES as usize)?[..] == header())
    }

    /// Sums of what a base holds now: of one that has none yet.
    pub fn rebuild(base: &dyn DiskFile) -> io::Result<Self> {
        let mut list = Vec::new();
        for block in 0..base.len()?.div_ceil(SUM_BLOCK_BYTES) {
            list.push(Sum::of(&read_bytes(
                base,
                block * SUM_BLOCK_BYTES,
                SUM_BLOCK_BYTES as usize,
            )?));
        }
        Ok(Self { list })
    }

    pub fn get(&self, block: u64) -> Sum {
        self.list.get(block as usize).copied().unwrap_or_default()
    }

    pub fn set(&mut self, block: u64, sum: Sum) {
        if self.list.len() <= block as usize {
            self.list.resize(block as usize + 1, Sum::default());
        }
        self.list[block as usize] = sum;
    }

    /// Forgets blocks from `blocks` on.
    pub fn cut(&mut self, blocks: u64) {
        self.list.truncate(blocks as usize);
    }

    /// Writes the sums of these blocks.
    pub fn store(&self, file: &dyn DiskFile, first: u64, last: u64) -> io::Result<()> {
        let mut out = Vec::with_capacity((last - first + 1) as usize * SUM_BYTES as usize);
        for block in first..=last {
            let sum = self.get(block);
            out.extend_from_slice(&sum.crc.to_le_bytes());
            out.extend_from_slice(&sum.covered.to_le_bytes());
        }
        write_bytes(file, HEADER_BYTES + first * SUM_BYTES, &out)
    }

    /// Writes the whole file anew.
    pub fn store_all(&self, file: &dyn DiskFile) -> io::Result<()> {
        file.set_len(HEADER_BYTES + self.list.len() as u64 * SUM_BYTES)?;
        if !self.list.is_empty() {
            self.store(file, 0, self.list.len() as u64 - 1)?;
        }
        write_bytes(file, 0, &header())
    }

    pub fn blocks(&self) -> u64 {
        self.list.len() as u64
    }
}

/// `magic · format u16 · log2 of the block size · zeros`.
fn header() -> [u8; HEADER_BYTES as usize] {
    let mut out = [0; HEADER_BYTES as usize];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    out[10] = SUM_BLOCK_BYTES.trailing_zeros() as u8;
    out
}
