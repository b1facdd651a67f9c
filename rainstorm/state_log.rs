//! The saved state of one task: a file of deltas, each in one or several pieces of `length u32 LE · keys with values`, so that
//! neither who writes nor who reads it has all of it in memory. A new attempt, or growth past a
//! few times the state or past a number of deltas, begins a new file with everything in it, so that each file has one writer ever and the
//! committed length in the positions says exactly which bytes count.

use crate::error::{Error, Result};
use crate::key::Keys;
use crate::position::{Inherited, StateFile};
use crate::seams::{Owner, Storage};
use crate::sink::{Mark, Target, Writer};
use crate::stateful::{State, work_on};
use bytes::{BufMut, Bytes, BytesMut};
use hydfs_types::PAYLOAD_BYTES_MAX;

/// A file is replaced when it is larger than this and than four times the state.
const FILE_BYTES_MIN: u64 = 4 << 20;
/// Or holds so many deltas: a quarter of an hour of job epochs, which are put back one after the other.
const FILE_DELTAS_MAX: u32 = 1 << 14;

/// Writes the deltas of one task in one attempt.
pub struct StateLog {
    /// Its `path` is what state file numbers are added to.
    target: Target,
    writer: Option<Writer>,
    file: Option<StateFile>,
    files: u32,
    /// Written to the present file.
    deltas: u32,
    /// The state is in files that others wrote: the first save writes all of it.
    inherits: bool,
}

impl StateLog {
    /// `target.path` is the prefix of the task's files; `file` is the one that an earlier attempt left, and `inherits` says
    /// that the state was put back from others as well.
    pub fn new(target: Target, file: Option<StateFile>, inherits: bool) -> Self {
        Self {
            target,
            writer: None,
            file,
            files: 0,
            deltas: 0,
            inherits,
        }
    }

    /// Appends what changed; returns the file as it then is and what has to become durable.
    pub async fn save(
        &mut self,
        state: &mut dyn State,
    ) -> Result<(Option<StateFile>, Option<Mark>)> {
        let bytes = self.file.map_or(0, |file| file.bytes);
        let fresh = self.writer.is_none() || is_full(bytes, self.deltas, state.bytes());
        if fresh && state.is_unchanged() && !self.inherits {
            return Ok((self.file, None));
        }
        if std::mem::take(&mut self.inherits) {
            self.file = None;
        }
        state.begin_save(fresh)?;
        let Some(first) = work_on(state, |state| state.next_piece())? else {
            return Ok((self.file, self.writer.as_ref().and_then(Writer::mark)));
        };
        if fresh {
            self.files += 1;
            self.deltas = 0;
            let attempt = self.target.attempt;
            let path = format!("{}{}.{}", self.target.path, attempt.0, self.files);
            let old = self.writer.replace(Writer::new(Target {
                path,
                owner: Owner::ROOT,
                ..self.target.clone()
            }));
            if let Some(old) = old {
                old.close().await;
            }
            self.file = Some(StateFile {
                attempt,
                number: self.files,
                bytes: 0,
            });
        }
        let (Some(writer), Some(file)) = (&mut self.writer, &mut self.file) else {
            return Err(Error::Over);
        };
        self.deltas += 1;
        let mut next = Some(first);
        while let Some(piece) = next {
            let mut frame = BytesMut::with_capacity(piece.len() + 4);
            frame.put_u32_le(piece.len() as u32);
            frame.extend_from_slice(&piece);
            let mut frame = frame.freeze();
            file.bytes += frame.len() as u64;
            while !frame.is_empty() {
                writer
                    .append(frame.split_to(frame.len().min(PAYLOAD_BYTES_MAX)))
                    .await?;
            }
            next = work_on(state, |state| state.next_piece())?;
        }
        Ok((self.file, writer.mark()))
    }

    pub async fn close(self) {
        if let Some(writer) = self.writer {
            writer.close().await;
        }
    }
}

fn is_full(bytes: u64, deltas: u32, state_bytes: usize) -> bool {
    bytes > FILE_BYTES_MIN.max(4 * state_bytes as u64) || deltas >= FILE_DELTAS_MAX
}

/// Reads the committed bytes of a state file back, as far as these keys are in them.
pub async fn restore(
    storage: &dyn Storage,
    file: &Inherited,
    keys: Keys,
    state: &mut dyn State,
) -> Result<()> {
    let path = &file.path;
    let source = storage.pin(path, Owner::ROOT).await?;
    if source.len < file.bytes {
        let what = format!(
            "{path} holds {} of {} committed bytes of state",
            source.len, file.bytes
        );
        return Err(Error::Attempt(what));
    }
    let mut pending = BytesMut::new();
    let mut at = 0;
    while at < file.bytes {
        let bytes: Bytes = storage
            .read(&source, at, (file.bytes - at).min(4 << 20) as u32)
            .await?;
        if bytes.is_empty() {
            return Err(Error::Attempt(format!(
                "{path} ends at {at} of {}",
                file.bytes
            )));
        }
        at += bytes.len() as u64;
        pending.extend_from_slice(&bytes);
        while let Some(len) = pending
            .first_chunk::<4>()
            .map(|len| u32::from_le_bytes(*len) as usize)
        {
            if pending.len() < len + 4 {
                break;
            }
            let delta = pending.split_to(len + 4);
            work_on(state, |state| state.restore(&delta[4..], keys))?;
            tokio::task::yield_now().await;
        }
    }
    match pending.is_empty() {
        true => Ok(()),
        false => Err(Error::Job(format!(
            "{path} is not a state file: {} bytes are left over",
            pending.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_when_it_is_large_or_holds_many_deltas() {
        assert!(!is_full(FILE_BYTES_MIN, FILE_DELTAS_MAX - 1, 0));
        assert!(is_full(FILE_BYTES_MIN + 1, 2, 1 << 20));
        assert!(!is_full(FILE_BYTES_MIN + 1, 2, 1 << 22));
        assert!(is_full(100, FILE_DELTAS_MAX, 1 << 22));
    }
}
