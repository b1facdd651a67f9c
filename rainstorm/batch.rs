//! Batches: lines in one contiguous buffer with their end offsets, so that nothing is allocated per line.

use bytes::Bytes;
use std::ops::Range;

/// Longest line in bytes, its end not counted: one line must fit into one frame.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes at which an outgoing batch is sent on.
pub const BATCH_BYTES: usize = 256 << 10;

/// One or more lines, separated by (and not ending with) `\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    ends: Vec<u32>,
}

impl Batch {
    /// Lines separated by `\n`; empty bytes are one empty line. This is also the form on the wire.
    pub fn from_lines(bytes: Bytes) -> Self {
        let mut ends: Vec<u32> = memchr::memchr_iter(b'\n', &bytes)
            .map(|at| at as u32)
            .collect();
        ends.push(bytes.len() as u32);
        Self { bytes, ends }
    }

    /// Lines each of which ends with `\n`, except perhaps the last; `None` for empty bytes.
    pub fn from_text(bytes: Bytes) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let end = bytes.len() - usize::from(bytes.last() == Some(&b'\n'));
        Some(Self::from_lines(bytes.slice(..end)))
    }

    /// Number of lines, at least 1.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The lines with `\n` between them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Offsets of one line.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize + 1
        };
        start..self.ends[index] as usize
    }

    /// One line.
    pub fn line(&self, index: usize) -> &[u8] {
        &self.bytes[self.range(index)]
    }

    /// All lines in order.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count()).map(|index| self.line(index))
    }

    /// The line that the byte at `offset` is in, which is line `from` or a later one.
    pub fn line_from(&self, from: usize, offset: usize) -> usize {
        let before = self.ends[from..].iter();
        from + before.take_while(|&&end| (end as usize) < offset).count()
    }
}

/// Lines being put together.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Lines {
    /// Bytes so far, line ends included.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a line.
    pub fn push(&mut self, line: &[u8]) {
        self.push_with(|out| out.extend_from_slice(line));
    }

    /// Adds a line that `write` appends to the buffer.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.ends.is_empty() {
            self.bytes.push(b'\n');
        }
        write(&mut self.bytes);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Adds consecutive lines of a batch with one copy.
    pub fn push_run(&mut self, batch: &Batch, lines: Range<usize>) {
        if lines.is_empty() {
            return;
        }
        if !self.ends.is_empty() {
            self.bytes.push(b'\n');
        }
        let from = batch.range(lines.start).start;
        let base = self.bytes.len();
        self.bytes
            .extend_from_slice(&batch.bytes[from..batch.range(lines.end - 1).end]);
        self.ends.extend(
            batch.ends[lines]
                .iter()
                .map(|&end| (end as usize - from + base) as u32),
        );
    }

    /// The lines so far as a batch, if there are any; the builder is empty again.
    pub fn take(&mut self) -> Option<Batch> {
        if self.ends.is_empty() {
            return None;
        }
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        Some(Batch {
            bytes,
            ends: std::mem::take(&mut self.ends),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_ranges() {
        let batch = Batch::from_text(Bytes::from_static(b"a\n\nccc\n")).unwrap();
        assert_eq!(batch.lines().collect::<Vec<_>>(), [&b"a"[..], b"", b"ccc"]);
        assert_eq!(
            [0, 1, 2, 3, 5].map(|at| batch.line_from(0, at)),
            [0, 0, 1, 2, 2]
        );
        assert_eq!(Batch::from_lines(Bytes::new()).count(), 1);
        assert!(Batch::from_text(Bytes::new()).is_none());
        assert_eq!(Batch::from_lines(batch.bytes().clone()), batch);
    }

    #[test]
    fn builder_copies_runs() {
        let batch = Batch::from_lines(Bytes::from_static(b"a\nbb\n\nd"));
        let mut lines = Lines::default();
        lines.push(b"");
        lines.push_run(&batch, 1..3);
        lines.push_run(&batch, 2..2);
        lines.push_run(&batch, 3..4);
        let built = lines.take().unwrap();
        assert_eq!(built, Batch::from_lines(Bytes::from_static(b"\nbb\n\nd")));
        assert!(lines.take().is_none());
    }
}
