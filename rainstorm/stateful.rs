//! What operators with state have in common: lines from one or two inputs, event watermarks, and state that is saved
//! with each job epoch, so that a kill at any moment loses and doubles nothing.
//!
//! State may be larger than memory: what takes or gives all of it does so in pieces.

use crate::batch::Batch;
use crate::cold::blocking;
use crate::dead::Letters;
use crate::error::Result;
use crate::key::Keys;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of state that are saved in one piece, about, and of output that is put out in one.
pub const PIECE_BYTES: usize = 1 << 20;

/// Where the state of a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Bytes in memory, about, without the cache of what is on disk.
    pub memory: u64,
    /// Bytes of scratch files.
    pub disk: u64,
}

/// What a task remembers: saved with each job epoch, put back when another attempt begins.
pub trait State: Send {
    /// Begins to save everything (`full`) or what changed since the last time. Nothing else is called until it is over.
    fn begin_save(&mut self, full: bool) -> Result<()>;

    /// The next piece of it; `None`: that was all.
    fn next_piece(&mut self) -> Result<Option<Bytes>>;

    /// Nothing changed since it was last saved.
    fn is_unchanged(&self) -> bool;

    /// Bytes of all state, about; the same for the same state, also where it was put back.
    fn bytes(&self) -> usize;

    /// Where they are.
    fn held(&self) -> Held;

    /// Puts back a piece, of these keys; later ones win. What several tasks saved may be put back in one.
    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()>;

    /// All is put back: works out what follows from it, once, however many saves there were.
    fn restored(&mut self) -> Result<()> {
        Ok(())
    }
}

/// An operator built in that remembers something.
pub trait Stateful: State {
    /// Takes lines of input number `input` (in the order of the stage's `from`). Lines that cannot be read go to `letters`,
    /// and change nothing.
    fn apply(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()>;

    /// Goes on with the lines that `apply` has left, since what comes of them is much; false: none were left. Called until then
    /// before anything else.
    fn go_on(&mut self, _out: &mut Vec<Batch>, _letters: &mut Letters) -> Result<bool> {
        Ok(false)
    }

    /// A job epoch ends; no line before `mark` is to be expected from any input. Called before it is saved, again and again as
    /// long as it says that there is more to put out.
    fn barrier(&mut self, mark: i64, out: &mut Vec<Batch>) -> Result<bool>;

    /// The input has ended. Called again as long as it says that there is more to put out.
    fn finish(&mut self, out: &mut Vec<Batch>) -> Result<bool>;

    /// No line older than this is to be put out behind a barrier whose event watermark was `mark`.
    fn holds(&self, mark: i64) -> i64 {
        mark
    }

    /// Lines that came too late, since the last call.
    fn take_late(&mut self) -> Option<Batch> {
        None
    }
}

/// Works on a state that may be on disk: others have the thread's other work meanwhile.
pub fn work_on<S: State + ?Sized, T>(state: &mut S, work: impl FnOnce(&mut S) -> T) -> T {
    match state.held().disk {
        0 => work(state),
        _ => blocking(|| work(state)),
    }
}

/// All pieces of a save.
#[cfg(test)]
pub fn save(state: &mut dyn State, full: bool) -> Vec<Bytes> {
    state.begin_save(full).unwrap();
    std::iter::from_fn(|| state.next_piece().unwrap()).collect()
}

/// Puts pieces back in a state that keeps all keys.
#[cfg(test)]
pub fn put_back(state: &mut dyn State, pieces: &[Bytes]) {
    let keys = Keys { task: 0, tasks: 1 };
    let mut pieces = pieces.iter();
    pieces
        .try_for_each(|piece| state.restore(piece, keys))
        .unwrap();
    state.restored().unwrap();
}
