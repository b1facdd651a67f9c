//! Before its member is admitted a mount answers the control tree alone: that is this member's own word, and says why all else
//! has to wait. A request that waits has taken no effect and has no place in the memory file: it is begun after the admission,
//! if its caller waits for so long.

use crate::{
    synthetic::{CLUSTER_DIR, Synthetic},
    volume::{Outcome, Volume},
};
use hydfs_mount::{Answer, Request};
use hydfs_types::ROOT_INO;

impl Volume {
    /// The member is admitted, and the state here as new as that: from now on all is answered. Once.
    pub fn begin(&self) {
        // What changed before, nobody has told of.
        self.forget_pages();
        self.begun.set(()).ok();
    }

    /// Waits until the request may be begun; an answer is one that needs no more.
    pub(crate) async fn may_begin(&self, request: &Request) -> Option<Outcome> {
        if self.begun.initialized() || is_own_word(request) {
            return None;
        }
        if let Request::Release { handle, .. } = request {
            // The kernel says so once. Its locks are given back with those that an earlier worker left.
            self.table.close(*handle);
            return Some(Ok(Answer::Done));
        }
        self.begun.wait().await;
        None
    }
}

/// What needs nobody else: the control tree and the way to it.
fn is_own_word(request: &Request) -> bool {
    match request {
        Request::Lookup { parent, name } => {
            Synthetic::is(*parent) || *parent == ROOT_INO && name == CLUSTER_DIR
        }
        Request::GetAttr { ino, .. } => Synthetic::is(*ino) || *ino == ROOT_INO,
        Request::Open { ino, .. }
        | Request::OpenDir { ino }
        | Request::Read { ino, .. }
        | Request::Flush { ino, .. }
        | Request::Release { ino, .. }
        | Request::ReadDir { ino, .. }
        | Request::GetXattr { ino, .. }
        | Request::ListXattr { ino }
        | Request::Poll { ino, .. } => Synthetic::is(*ino),
        Request::Forget { .. } | Request::ReleaseDir { .. } | Request::StatFs => true,
        _ => false,
    }
}
