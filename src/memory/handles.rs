//! Open files: the kernel names them by numbers that a worker gave out, and will for as long as they are open.

use crate::{Error, Full, Memory, Slot, layout::*};
use hydfs_types::Ino;
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

const HANDLE: usize = 0;
const INO: usize = 1;
const HOW: usize = 2;
/// A handle is its number, never used again, and its place in the lower bits.
const PLACE_BITS: u32 = HANDLES_MAX.trailing_zeros();

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFile {
    pub ino: Ino,
    /// How it was opened, in bits that the file system chooses.
    pub how: u64,
}

/// Which places are free.
#[derive(Debug)]
pub(crate) struct Handles(Mutex<Vec<usize>>);

impl Handles {
    pub(crate) fn restore(words: &[AtomicU64]) -> Result<Self, Error> {
        let mut free = Vec::new();
        for at in (0..HANDLES_MAX).rev() {
            match words[handle(at)][HANDLE].load(SeqCst) {
                0 => free.push(at),
                open if place_of(open) == at => {}
                _ => return Err(Error::Damaged("an open file")),
            }
        }
        Ok(Self(Mutex::new(free)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(handle: u64) -> usize {
    handle as usize & (HANDLES_MAX - 1)
}

impl Memory {
    /// A new handle. Whose request is in `slot` it is given to, before it is there.
    pub fn open_file(&self, file: OpenFile, slot: Option<&Slot>) -> Result<u64, Full> {
        let at = self.handles.lock().pop().ok_or(Full)?;
        let number = self.words()[AT_HANDLES_ISSUED].fetch_add(1, SeqCst) + 1;
        let open = number << PLACE_BITS | at as u64;
        if let Some(slot) = slot {
            slot.note_handle(open);
        }
        let record = &self.words()[handle(at)];
        record[INO].store(file.ino.0, SeqCst);
        record[HOW].store(file.how, SeqCst);
        record[HANDLE].store(open, SeqCst);
        Ok(open)
    }

    /// The handle is closed; says whether it was open.
    pub fn close_file(&self, open: u64) -> bool {
        let mut free = self.handles.lock();
        let at = place_of(open);
        let record = &self.words()[handle(at)];
        let known = open != 0 && record[HANDLE].load(SeqCst) == open;
        if known {
            record[HANDLE].store(0, SeqCst);
            free.push(at);
        }
        known
    }

    /// Every open handle.
    pub fn open_files(&self) -> Vec<(u64, OpenFile)> {
        let all = (0..HANDLES_MAX).map(|at| &self.words()[handle(at)]);
        let open = all.filter_map(|record| {
            let open = record[HANDLE].load(SeqCst);
            let file = OpenFile {
                ino: Ino(record[INO].load(SeqCst)),
                how: record[HOW].load(SeqCst),
            };
            (open != 0).then_some((open, file))
        });
        open.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{create, memory::tests::worker};

    const FILE: OpenFile = OpenFile {
        ino: Ino(5),
        how: 2,
    };

    #[test]
    fn no_number_is_given_out_twice_also_by_the_next_worker() {
        let file = create().unwrap();
        let memory = worker(&file);
        let first = memory.open_file(FILE, None).unwrap();
        assert!(memory.close_file(first));
        assert!(!memory.close_file(first));
        let second = memory.open_file(FILE, None).unwrap();
        let memory = worker(&file);
        let third = memory.open_file(FILE, None).unwrap();
        assert!(first != second && second != third && first != third);
        assert_eq!(memory.open_files().len(), 2);
        assert!(!memory.close_file(first));
        assert!(memory.close_file(second));
    }

    #[test]
    fn there_is_a_limit() {
        let memory = worker(&create().unwrap());
        let mut last = 0;
        for _ in 0..HANDLES_MAX {
            last = memory.open_file(FILE, None).unwrap();
        }
        assert_eq!(memory.open_file(FILE, None), Err(Full));
        memory.close_file(last);
        memory.open_file(FILE, None).unwrap();
    }
}
