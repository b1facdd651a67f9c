//! Files as the stream processor reads them: agreed content alone, which every member finds the same.

use crate::volume::{Outcome, Volume};
use hydfs_types::{Ino, SegmentId};

/// A regular file with nothing acknowledged pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Raised with each change of content or size.
    pub generation: u64,
    /// Bytes.
    pub len: u64,
}

impl Volume {
    /// Merges what was acknowledged anywhere before the call, also what this mount's own writer could answer from memory.
    /// Cost: a clean file: the barrier alone. Else one round to the slot leaders, and their merges.
    pub async fn settle(&self, ino: Ino) -> Outcome<Settled> {
        self.barrier().await?;
        self.send_behind(ino).await?;
        self.recall(ino).await?;
        let pending: Vec<SegmentId> = {
            let state = self.state();
            let (_, file) = state.file(ino).map_err(crate::error::of_command)?;
            file.segments
                .values()
                .copied()
                .filter(|segment| !state.is_clean_segment(*segment))
                .collect()
        };
        if !pending.is_empty() {
            self.data
                .reader
                .look(&pending)
                .await
                .map_err(Self::data_error)?;
        }
        let settled = {
            let state = self.state();
            let inode = state.inode(ino).map_err(crate::error::of_command)?;
            Settled {
                generation: inode.data_version,
                len: inode.attr.size,
            }
        };
        self.shown(Ok(settled)).await
    }

    /// The local state has all that was acknowledged before the call.
    pub async fn catch_up(&self) -> Outcome<()> {
        self.barrier().await
    }
}
