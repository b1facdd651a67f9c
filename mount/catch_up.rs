//! When a mount that was taken over has had all requests again that the worker before left without an answer.
//!
//! The kernel puts them before everything else, so the first new request that any session thread reads comes after all of
//! them; those that others had just read, they hand on before they read a new one themselves. So all are through once
//! every session thread has read a new request.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Set by the kernel in the number of a request that it sends again.
const SENT_AGAIN: u64 = 1 << 63;

thread_local! {
    /// This session thread has read a new request. A thread serves one mount.
    static READ_NEW: Cell<bool> = const { Cell::new(false) };
}

/// Counts the session threads that have not read a new request yet.
pub(crate) struct CatchingUp {
    threads: AtomicUsize,
}

impl CatchingUp {
    /// With 0 threads there is nothing to wait for.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads: AtomicUsize::new(threads),
        }
    }

    /// Takes note of a request on the thread that has read it; true for the one that ends the waiting.
    pub(crate) fn is_done_with(&self, unique: u64) -> bool {
        if self.threads.load(Ordering::Acquire) == 0
            || unique & SENT_AGAIN != 0
            || READ_NEW.replace(true)
        {
            return false;
        }
        self.threads.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_when_every_thread_has_read_a_new_request() {
        let all = CatchingUp::new(2);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let done = [SENT_AGAIN | 2, 4, 6, 8].map(|unique| all.is_done_with(unique));
                assert_eq!(done, [false; 4]);
            });
            assert!(first.join().is_ok());
            let second = scope.spawn(|| {
                let done = [SENT_AGAIN | 10, SENT_AGAIN | 12, 14, 16]
                    .map(|unique| all.is_done_with(unique));
                assert_eq!(done, [false, false, true, false]);
            });
            assert!(second.join().is_ok());
        });
    }

    #[test]
    fn a_first_worker_waits_for_nothing() {
        assert!(!CatchingUp::new(0).is_done_with(2));
    }
}
