//! Why an output may have another length than what was written to it up to some line of the receipt: more was written behind that
//! line, or the file was removed and made anew, and holds what was written from some job epoch on.
//!
//! The lines go by twice, first those that are new, then all: nothing is kept for a job epoch that was known.

use crate::receipt::Writes;

/// An output of another length.
pub struct Other {
    /// Its length.
    len: u64,
    /// Where what the job wrote begins in it, if it was not made anew.
    from: u64,
    /// All that was written to it up to the known end of the receipt, and up to each job epoch behind that.
    ends: Vec<Writes>,
    /// All that was written to it in lines that have gone by.
    before: Writes,
    parts: Vec<Part>,
}

/// What a file that was made anew may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first job epoch that is in it.
    pub epoch: u64,
    pub written: Writes,
}

impl Other {
    /// `written`: all that was written to it up to the known end of the receipt.
    pub fn new(len: u64, from: u64, written: Writes) -> Self {
        Self {
            len,
            from,
            ends: vec![written],
            before: Writes::default(),
            parts: Vec::new(),
        }
    }

    /// What the next line behind the known end says of it.
    pub fn goes_on(&mut self, writes: &Writes) {
        let mut all = self.ends.last().copied().unwrap_or_default();
        all.join(*writes);
        self.ends.push(all);
    }

    /// All that was written to it, if it is as long as that was at one of the ends.
    pub fn whole(&self) -> Option<Writes> {
        let mut ends = self.ends.iter();
        ends.find(|end| self.from + end.bytes == self.len).copied()
    }

    /// What the next one of all lines says of it.
    pub fn goes_by(&mut self, epoch: u64, writes: &Writes) {
        let end_bytes = self.before.bytes + self.len;
        let end = self.ends.binary_search_by_key(&end_bytes, |end| end.bytes);
        if let (Ok(end), true) = (end, self.len > 0) {
            let written = self.ends[end].behind(&self.before);
            self.parts.push(Part { epoch, written });
        }
        self.before.join(*writes);
    }

    /// Once all lines went by: what it may hold if it was made anew. Lines of equal length leave a choice, one for each end.
    pub fn parts(self) -> Vec<Part> {
        self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As `parts`, of everything that was written and how much of that was known.
    fn model(want: &[(u64, Writes)], seen: usize, len: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        for start in 0..want.len() {
            for end in seen.max(start + 1)..=want.len() {
                let mut written = Writes::default();
                want[start..end].iter().for_each(|(_, w)| written.join(*w));
                if written.bytes == len {
                    let epoch = want[start].0;
                    parts.push(Part { epoch, written });
                }
            }
        }
        parts
    }

    proptest! {
        #[test]
        fn parts_are_found_wherever_they_begin_and_end(
            bytes in prop::collection::vec(1u64..6, 1..12),
            seen in 0..12usize,
            len in 0..40u64,
        ) {
            let writes = |(at, &bytes): (usize, &u64)| {
                let sum = (at as u64 + 1) << 8;
                (3 * at as u64, Writes { lines: 1, bytes, sum })
            };
            let want: Vec<(u64, Writes)> = bytes.iter().enumerate().map(writes).collect();
            let seen = seen.min(want.len());
            let mut known = Writes::default();
            want[..seen].iter().for_each(|(_, w)| known.join(*w));
            let mut other = Other::new(len, 0, known);
            want[seen..].iter().for_each(|(_, w)| other.goes_on(w));
            let all = bytes.iter().sum::<u64>();
            prop_assert_eq!(other.whole().is_some(), len <= all && {
                let mut ends = (seen..=bytes.len()).map(|end| bytes[..end].iter().sum::<u64>());
                ends.any(|end| end == len)
            });
            want.iter().for_each(|(epoch, w)| other.goes_by(*epoch, w));
            prop_assert_eq!(other.parts(), model(&want, seen, len));
        }
    }
}
