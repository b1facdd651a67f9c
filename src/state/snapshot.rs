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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    /// Puts the checksum right, so that the damage reaches the decoder.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut out = body.to_vec();
        out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn fault_m7_damaged_snapshots_are_refused_without_harm(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
            cuts in any::<bool>(),
        ) {
            let whole = State::default().snapshot();
            let mut body = whole[..whole.len() - 4].to_vec();
            for (at, byte) in damage {
                let at = 2 + at.index(body.len() - 2);
                body[at] = byte;
            }
            if cuts {
                body.truncate(cut.index(body.len()));
            }
            // What is read is a state: it can be written and read again.
            if let Ok(state) = State::restore(&sealed(&body)) {
                prop_assert!(State::restore(&state.snapshot()).is_ok());
            }
        }
    }

    #[test]
    fn damage_is_told_from_a_snapshot_by_its_checksum() {
        let mut bytes = State::default().snapshot();
        assert!(State::restore(&bytes).is_ok());
        bytes[3] ^= 1;
        assert!(matches!(
            State::restore(&bytes),
            Err(SnapshotError::Checksum { .. })
        ));
    }

    #[test]
    fn fuzz_snapshot() {
        let mut state = State::default();
        let seed = state.snapshot();
        let command = hydfs_types::Command::Bootstrap {
            cluster: hydfs_types::ClusterId([7; 16]),
            copies: 3,
        };
        let envelope = hydfs_types::Envelope {
            session: Default::default(),
            seq: 0,
            done_through: 0,
            incarnation: Default::default(),
            start: 0,
            time: Default::default(),
            command,
        };
        state
            .apply(hydfs_types::LogIndex(1), &envelope, &mut Vec::new())
            .unwrap();
        let seeds = [seed, state.snapshot()].map(|mut bytes| {
            bytes.truncate(bytes.len() - 4);
            bytes
        });
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "snapshot")
            .seeds(seeds)
            .run(|body| {
                let read = State::restore(&sealed(body));
                if let Ok(state) = &read {
                    assert!(State::restore(&state.snapshot()).is_ok());
                }
                hydfs_fuzz::seen(&read)
            });
        assert!(shapes > 3, "{shapes}");
    }
}
