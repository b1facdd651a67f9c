//! The model in memory passes the suite that all file systems must pass, and keeps nothing.

use hydfs_mount::{MemoryFs, conformance::run_conformance};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    let fs = Arc::new(MemoryFs::default());
    run_conformance(fs.clone()).await;
    assert_eq!(fs.held().1, 0, "handles left open");
    run_conformance(fs).await;
}
