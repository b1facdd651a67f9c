//! What operators with state have in common: lines from one or two inputs, event watermarks, and state that is saved
//! with each job epoch, so that a kill at any moment loses and doubles nothing.

use crate::batch::Batch;
use crate::dead::Letters;
use crate::error::Result;
use crate::key::Keys;
use bytes::Bytes;

/// An operator of one task that remembers something.
pub trait Stateful: Send {
    /// Takes lines of input number `input` (in the order of the stage's `from`). Lines that cannot be read go to `letters`,
    /// and change nothing.
    fn apply(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Vec<Batch>,
        letters: &mut Letters,
    ) -> Result<()>;

    /// A job epoch ends; no line before `mark` is to be expected from any input. Called before `save`.
    fn barrier(&mut self, mark: i64, out: &mut Vec<Batch>) -> Result<()>;

    /// The input has ended.
    fn finish(&mut self, out: &mut Vec<Batch>) -> Result<()>;

    /// Lines that came too late, since the last call.
    fn take_late(&mut self) -> Option<Batch> {
        None
    }

    /// Everything (`full`) or what changed since the last call; `None` if that is nothing.
    fn save(&mut self, full: bool) -> Option<Bytes>;

    /// Nothing changed since the last `save`.
    fn is_unchanged(&self) -> bool;

    /// Bytes in memory, about; the same for the same state, also where it was put back.
    fn bytes(&self) -> usize;

    /// Puts back what `save` gave, of these keys; later ones win. What several tasks saved may be put back in one.
    fn restore(&mut self, saved: &[u8], keys: Keys) -> Result<()>;

    /// All is put back: works out what follows from it, once, however many saves there were.
    fn restored(&mut self) {}
}
