//! Sparse bytes of a file: blocks that were never written are holes and read as zeros.

use std::collections::BTreeMap;

pub(super) const BLOCK: u64 = 4096;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    blocks: BTreeMap<u64, Box<[u8]>>,
}

/// Pieces of a range that stay inside one block: (block, start in block, end in block, start in range).
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let (block, start) = (at / BLOCK, at % BLOCK);
            let stop = BLOCK.min(start + (end - at));
            let piece = (block, start as usize, stop as usize, (at - offset) as usize);
            at += stop - start;
            piece
        })
    })
}

impl Content {
    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        for (block, start, stop, at) in pieces(offset, len as u64) {
            if let Some(bytes) = self.blocks.get(&block) {
                out[at..at + stop - start].copy_from_slice(&bytes[start..stop]);
            }
        }
        out
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (block, start, stop, at) in pieces(offset, data.len() as u64) {
            let bytes = self
                .blocks
                .entry(block)
                .or_insert_with(|| vec![0; BLOCK as usize].into());
            bytes[start..stop].copy_from_slice(&data[at..at + stop - start]);
        }
    }

    /// Makes a range read as zeros; whole blocks become holes.
    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let held: Vec<u64> = self
            .blocks
            .range(offset / BLOCK..end.div_ceil(BLOCK))
            .map(|(block, _)| *block)
            .collect();
        for block in held {
            let (first, last) = (block * BLOCK, (block + 1) * BLOCK);
            if offset <= first && last <= end {
                self.blocks.remove(&block);
            } else if let Some(bytes) = self.blocks.get_mut(&block) {
                let (start, stop) = (offset.max(first) - first, end.min(last) - first);
                bytes[start as usize..stop as usize].fill(0);
            }
        }
    }

    /// Forgets everything past `size`.
    pub(super) fn truncate(&mut self, size: u64) {
        self.blocks.split_off(&size.div_ceil(BLOCK));
        self.zero(size, BLOCK - size % BLOCK);
    }

    /// Bytes held.
    pub(super) fn stored(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// Bytes held after a write of `len` bytes at `offset` (at most).
    pub(super) fn stored_after(&self, offset: u64, len: u64) -> u64 {
        let new = pieces(offset, len)
            .filter(|piece| !self.blocks.contains_key(&piece.0))
            .count();
        self.stored() + new as u64 * BLOCK
    }

    /// The first byte at or after `offset` that is not in a hole.
    pub(super) fn data_from(&self, offset: u64) -> Option<u64> {
        self.blocks
            .range(offset / BLOCK..)
            .next()
            .map(|(block, _)| offset.max(block * BLOCK))
    }

    /// The first byte at or after `offset` that is in a hole; the end of data counts as one.
    pub(super) fn hole_from(&self, offset: u64) -> u64 {
        let mut block = offset / BLOCK;
        if !self.blocks.contains_key(&block) {
            return offset;
        }
        while self.blocks.contains_key(&block) {
            block += 1;
        }
        block * BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_read_as_zeros() {
        let mut content = Content::default();
        content.write(10_000, b"abc");
        assert_eq!(content.stored(), BLOCK);
        assert_eq!(content.read(9_998, 6), b"\0\0abc\0");
        assert_eq!(content.data_from(0), Some(2 * BLOCK));
        assert_eq!(
            (content.hole_from(0), content.hole_from(10_000)),
            (0, 3 * BLOCK)
        );
        content.write(BLOCK - 2, &[7; 4]);
        assert_eq!(content.stored_after(BLOCK, 3 * BLOCK), 4 * BLOCK);
        content.zero(BLOCK - 1, 2);
        assert_eq!(content.read(BLOCK - 3, 6), [0, 7, 0, 0, 7, 0]);
    }

    #[test]
    fn truncated_bytes_do_not_come_back() {
        let mut content = Content::default();
        content.write(0, &[1; 9_000]);
        content.truncate(5);
        assert_eq!(
            content.read(0, 9_000).iter().filter(|b| **b == 1).count(),
            5
        );
        content.truncate(0);
        assert_eq!(content.stored(), 0);
        assert_eq!(content.data_from(0), None);
    }
}
