//! After a power loss: notes in the data folder when everything is made good again. Until then a start that follows a
//! kill recovers as one after a power loss does.

use crate::member::Member;
use std::{sync::Arc, time::Duration};

const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Member {
    /// Ends when no base is in doubt any more.
    pub(crate) async fn note_made_good(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.data.replica.is_in_doubt() {
                continue;
            }
            match self.folder.made_good() {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "could not note that a power loss is made good; trying again");
                }
            }
        }
    }
}
