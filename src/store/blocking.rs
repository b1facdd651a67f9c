//! Work that holds its thread for long (a replay, an fsync), called from asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` here, after the other tasks of this worker thread were handed to another one. Without worker threads (a
/// simulated cluster, a tool) it just runs, so that the order of events stays the same.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
