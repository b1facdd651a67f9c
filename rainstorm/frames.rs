//! Frames: records of any bytes, one behind the other in a file, each behind its length in four bytes. Inside a job a record is a line:
//! an encoding says how its bytes are written as one.

use crate::batch::{Batch, LINE_BYTES_MAX, Lines};
use crate::dead::{Letters, Origin, Starts};
use crate::error::{Error, Result};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use memchr::memchr;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Bytes of the length in front of a record.
pub const PREFIX_BYTES: usize = 4;
/// Most bytes of a record: those that a line may have.
pub const RECORD_BYTES_MAX: usize = LINE_BYTES_MAX;

/// How the length in front of a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefix {
    /// Four bytes, the most significant one first.
    U32be,
    /// Four bytes, the least significant one first.
    U32le,
}

/// How a record is written as a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Of RFC 4648, with padding.
    Base64,
    /// Two small hexadecimal digits for each byte.
    Hex,
    /// As it is: it must not hold a line end.
    Text,
}

/// How a source of frames is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    pub prefix: Prefix,
    pub encoding: Encoding,
}

/// A length that no record may have, and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong {
    pub at: usize,
    pub length: u32,
}

impl Prefix {
    /// Bytes of the frame that begins at byte `at` of `bytes`, its length included, or of that length if not all of it is there. It may
    /// be more than is there.
    pub fn frame_bytes(self, bytes: &[u8], at: usize) -> Result<usize, TooLong> {
        let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(PREFIX_BYTES);
        };
        let length = match self {
            Self::U32be => u32::from_be_bytes(*length),
            Self::U32le => u32::from_le_bytes(*length),
        };
        match length as usize {
            bytes if bytes <= RECORD_BYTES_MAX => Ok(PREFIX_BYTES + bytes),
            _ => Err(TooLong { at, length }),
        }
    }
}

impl Encoding {
    /// Why a record cannot be a line, if it cannot.
    fn refuses(self, record: &[u8]) -> Option<String> {
        let line_bytes = match self {
            Self::Base64 => BASE64.encode_len(record.len()),
            Self::Hex => HEXLOWER.encode_len(record.len()),
            Self::Text if memchr(b'\n', record).is_some() => {
                let what = "the record holds a line end, and is no line as `encoding = \"text\"`";
                return Some(format!("{what}; read it as \"base64\" or \"hex\""));
            }
            Self::Text => record.len(),
        };
        (line_bytes > LINE_BYTES_MAX).then(|| {
            format!(
                "the record of {} bytes makes a line of {line_bytes}, more than {LINE_BYTES_MAX}; write shorter records",
                record.len()
            )
        })
    }

    fn push(self, record: &[u8], line: &mut Vec<u8>) {
        let encoding = match self {
            Self::Base64 => BASE64,
            Self::Hex => HEXLOWER,
            Self::Text => return line.extend_from_slice(record),
        };
        let from = line.len();
        line.resize(from + encoding.encode_len(record.len()), 0);
        encoding.encode_mut(record, &mut line[from..]);
    }
}

/// Whole frames as they are in a file, one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    bytes: Bytes,
    /// Where each ends.
    ends: Vec<u32>,
}

/// What a cut of bytes has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// The whole frames.
    pub frames: Option<Frames>,
    /// If the next one is not whole: how many bytes there have to be, from the first frame on, to know more of it.
    pub need: Option<usize>,
}

impl Frames {
    /// Cuts bytes, at the first of which a frame begins, into those frames that begin before byte `end` of them.
    pub fn cut(bytes: &Bytes, end: u64, prefix: Prefix) -> Result<Cut, TooLong> {
        let (mut at, mut ends, mut need) = (0, Vec::new(), None);
        while (at as u64) < end {
            let next = at + prefix.frame_bytes(bytes, at)?;
            if next > bytes.len() {
                need = Some(next);
                break;
            }
            ends.push(next as u32);
            at = next;
        }
        let frames = (!ends.is_empty()).then(|| Self {
            bytes: bytes.slice(..at),
            ends,
        });
        Ok(Cut { frames, need })
    }

    /// Number of frames, at least 1.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The frames as they are in the file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where a frame begins; of the one behind the last, where that ends.
    pub fn start(&self, frame: usize) -> usize {
        match frame {
            0 => 0,
            _ => self.ends[frame - 1] as usize,
        }
    }

    /// Some of them.
    pub fn part(&self, frames: Range<usize>) -> Self {
        let (from, to) = (self.start(frames.start), self.start(frames.end));
        let ends = self.ends[frames].iter();
        Self {
            bytes: self.bytes.slice(from..to),
            ends: ends.map(|end| end - from as u32).collect(),
        }
    }

    fn record(&self, frame: usize) -> Bytes {
        let bytes = self.start(frame) + PREFIX_BYTES..self.ends[frame] as usize;
        self.bytes.slice(bytes)
    }

    /// Their records as lines, and where each of those begins; records that cannot be lines go to `letters`. `start`: where the first
    /// frame stands in the file at `origin`.
    pub fn to_lines(
        &self,
        encoding: Encoding,
        origin: Origin,
        letters: &mut Letters,
    ) -> Result<Option<Batch>> {
        let start = match origin.starts {
            Starts::Piece(start) => start,
            Starts::Each(_) => 0,
        };
        let mut lines = Lines::default();
        let mut starts = Vec::with_capacity(self.count());
        for frame in 0..self.count() {
            let (record, at) = (self.record(frame), start + self.start(frame) as u64);
            if let Some(why) = encoding.refuses(&record) {
                let place = (origin.path.clone(), at);
                let why = format!("{} at byte {at}: {why}", origin.path);
                letters.blame_record(record, place, Error::Line(why))?;
                continue;
            }
            starts.push(at);
            lines.push_with(|line| encoding.push(&record, line));
        }
        letters.origin = Some(Origin {
            path: origin.path,
            starts: Starts::Each(starts),
        });
        Ok(lines.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(records: &[Vec<u8>], prefix: Prefix) -> Vec<u8> {
        let frame = |record: &Vec<u8>| {
            let length = record.len() as u32;
            let length = match prefix {
                Prefix::U32be => length.to_be_bytes(),
                Prefix::U32le => length.to_le_bytes(),
            };
            [&length[..], record].concat()
        };
        records.iter().flat_map(frame).collect()
    }

    proptest! {
        #[test]
        fn frames_are_cut_and_encoded_as_they_were_written(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..8),
            big in any::<bool>(),
            cut in 0..200usize,
            end in 0..200usize,
        ) {
            let prefix = if big { Prefix::U32be } else { Prefix::U32le };
            let all = framed(&records, prefix);
            let bytes = Bytes::from(all.clone()).slice(..cut.min(all.len()));
            let Cut { frames, need } = Frames::cut(&bytes, end as u64, prefix).unwrap();
            // As many as are whole and begin before the end.
            let starts: Vec<usize> = (0..records.len()).map(|n| framed(&records[..n], prefix).len()).collect();
            let size = |at: usize| PREFIX_BYTES + records[at].len();
            let want = (0..records.len())
                .take_while(|&at| starts[at] < end && starts[at] + size(at) <= bytes.len())
                .count();
            prop_assert_eq!(frames.as_ref().map_or(0, Frames::count), want);
            let next = starts.get(want).copied().filter(|&at| at < end);
            match need {
                Some(need) => {
                    prop_assert!(need > bytes.len());
                    prop_assert!(next.is_none_or(|at| need <= at + size(want)));
                }
                None => prop_assert!(want == records.len() && end <= all.len() || next.is_none()),
            }
            let Some(frames) = frames else { return Ok(()) };
            let origin = || Origin { path: "/in".into(), starts: Starts::Piece(100) };
            let mut letters = Letters::new(true);
            for encoding in [Encoding::Base64, Encoding::Hex] {
                let lines = frames.to_lines(encoding, origin(), &mut letters).unwrap().unwrap();
                let origin = letters.origin.take().unwrap();
                for (at, line) in lines.lines().enumerate() {
                    let record = match encoding {
                        Encoding::Base64 => BASE64.decode(line).unwrap(),
                        _ => HEXLOWER.decode(line).unwrap(),
                    };
                    prop_assert_eq!(&record, &records[at]);
                    prop_assert_eq!(origin.start(&lines, at), 100 + starts[at] as u64);
                }
            }
            prop_assert!(letters.take().is_empty());
            let lines = frames.to_lines(Encoding::Text, origin(), &mut letters).unwrap();
            let lines = lines.map_or(0, |lines| lines.count());
            let dead = letters.take();
            prop_assert_eq!(lines + dead.len(), want);
            prop_assert!(dead.iter().all(|dead| dead.line.contains(&b'\n')));
        }
    }

    #[test]
    fn a_length_that_is_no_length_is_named() {
        let bytes = Bytes::from_static(b"\0\0\0\x01a\x01\0\0\x01");
        let cut = Frames::cut(&bytes, u64::MAX, Prefix::U32be);
        let length = (1 << 24) + 1;
        assert_eq!(cut, Err(TooLong { at: 5, length }));
    }

    #[test]
    fn a_line_is_no_longer_than_lines_may_be() {
        let record = vec![0; RECORD_BYTES_MAX];
        assert_eq!(Encoding::Text.refuses(&record), None);
        let why = Encoding::Base64.refuses(&record).unwrap();
        assert!(why.contains("more than 16777216"), "{why}");
        assert_eq!(Encoding::Hex.refuses(&record[..RECORD_BYTES_MAX / 2]), None);
    }
}
