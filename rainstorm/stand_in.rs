//! What runs in the place of executables where no process can be started, as in a simulation.

use bytes::Bytes;
use hydfs_types::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// Gets the lines of a batch, and answers with what an executable would have written for it, in as much time.
#[derive(Clone)]
pub struct StandIn(Arc<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>);

impl StandIn {
    pub fn new(work: impl Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync + 'static) -> Self {
        Self(Arc::new(work))
    }

    pub(crate) async fn work(&self, lines: Bytes) -> Bytes {
        (self.0)(lines).await
    }
}

impl fmt::Debug for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StandIn")
    }
}
