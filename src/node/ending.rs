//! How a member ends: cleanly, for another worker to take over, or because it cannot go on.

use crate::{Error, Member};
use hydfs_types::{Agreement, BoxFuture, Command, LogIndex, MemberId};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A clean stop takes at most this long per step.
const STOP: Duration = Duration::from_secs(3);
/// Nobody who was not heard of for so long is handed leadership.
const HEARD: Duration = Duration::from_secs(1);
/// How often it is looked whether this member can go on.
const FAILURE_LOOK: Duration = Duration::from_millis(250);

impl Member {
    /// Why this member has to end, though nobody asked it to: it answers others and can keep nothing any more, so nobody
    /// would take its place. What it left is sound for its next life.
    pub fn failure(&self) -> Option<Error> {
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let data = self.data.failure().map(Error::Disk);
        let failure = data.or_else(|| self.group.failure().map(Error::Agreement))?;
        // A sync that failed has said so; one that hangs has not.
        self.folder.doubt();
        Some(failure)
    }

    /// Resolves when this member has to end, see [`Member::failure`].
    pub async fn failed(&self) -> Error {
        loop {
            tokio::time::sleep(FAILURE_LOOK).await;
            if let Some(error) = self.failure() {
                return error;
            }
        }
    }

    /// Stops cleanly: what was written is out, leadership is handed on, the cluster need not find out.
    pub fn shut_down(self: &Arc<Self>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.stopping.store(true, Ordering::Release);
            if let Some(streaming) = self.streaming.get() {
                streaming.shut_down();
            }
            drop(tokio::time::timeout(STOP, self.volume.end_all()).await);
            self.hand_over().await;
            drop(tokio::time::timeout(STOP, self.volume.keep_nothing()).await);
            self.group.release().await;
            // What is said here the next start has to have, or the folder was rolled back meanwhile.
            let kept = self.group.secure().await.unwrap_or_default();
            let leave = Command::Leave {
                incarnation: self.ctx.me(),
                forever: false,
                kept,
            };
            match tokio::time::timeout(STOP, self.group.propose(leave)).await {
                Ok(Ok(_)) => tracing::info!("left"),
                Ok(Err(error)) => tracing::info!(%error, "left without saying so"),
                Err(_) => tracing::info!("left without saying so: no majority"),
            }
            if let Some(swim) = self.swim.get() {
                swim.leave();
            }
            if let Err(error) = self.group.shutdown().await {
                tracing::warn!(%error, "the agreement log did not stop cleanly");
            }
            self.net.close().await;
        })
    }

    /// Prepares for another worker to take over at once: nothing of this one shall be waited for. What is in hand stays so.
    pub async fn hand_on(&self) {
        tracing::info!("handing over to another worker");
        drop(tokio::time::timeout(STOP, self.hand_over()).await);
        // Nobody waits for this member's kernel once the lease is given back.
        drop(tokio::time::timeout(STOP, self.volume.keep_nothing()).await);
        self.group.release().await;
    }

    /// Hands leadership to the voter that has most of the log, rather to one that stays than to one that drains.
    pub async fn hand_over(&self) {
        if !self.group.is_leader() {
            return;
        }
        let metrics = self.group.metrics();
        let rank = |(id, matched): (&MemberId, &Option<LogIndex>)| {
            let state = self.ctx.state();
            let member = state.member(*id).filter(|one| one.alive)?;
            let heard = metrics.heard.get(id).copied().flatten()?;
            (heard <= HEARD && metrics.voters.contains(id) && *id != self.id()).then_some((
                !member.draining,
                *matched,
                *id,
            ))
        };
        let next = metrics.matched.iter().filter_map(rank).max();
        if let Some((_, _, next)) = next
            && let Err(error) = self.group.transfer_leader(next).await
        {
            tracing::info!(%error, "leadership was not handed over");
        }
    }
}
