//! The whole state as bytes: `version u16 LE · postcard · CRC-32C u32 LE` of all before it.

use crate::State;
use hydfs_types::{FrameError, decode, encode};

/// Bytes that are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot is cut short at {0} bytes")]
    Short(usize),
    #[error("the snapshot is damaged: its checksum is {found:08x}, not {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    #[error("the snapshot cannot be read: {0}")]
    Malformed(String),
}

impl From<FrameError> for SnapshotError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl State {
    /// Equal states give equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::from(encode(self));
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The state that [`State::snapshot`] wrote. Whoever swaps it in tells followers `Event::Replaced`.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(SnapshotError::Short(bytes.len()));
        };
        let (expected, found) = (u32::from_le_bytes(*crc), crc32c::crc32c(body));
        if expected != found {
            return Err(SnapshotError::Checksum { expected, found });
        }
        Ok(decode(body)?)
    }
}
