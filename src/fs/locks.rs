//! Advisory locks, `flock` and `fcntl` alike: agreed, so that they exclude on every mount.
//!
//! Cost: taking or giving back a lock is one command. Waiting costs nothing: the local copy of the state says when to try
//! again. Closing a file that was never locked costs nothing.
//!
//! The kernel does not say of which sort a lock is, so the ends of all sorts are kept together: an owner's locks on a file
//! end when a descriptor of it is closed under that owner's name (`fcntl`: any close of the process), and when the open
//! file through which they were taken is gone (`flock`, and `fcntl` of open files).

use crate::{
    error::of_agreement,
    synthetic::Synthetic,
    volume::{Outcome, Volume},
};
use hydfs_mount::{Answer, FsError, Handle};
use hydfs_types::{AgreementError, Command, CommandError, Ino, Lock};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

/// Pause before a lock that could not be given back is tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl Volume {
    /// The first lock that is in the way of this one. A process elsewhere has no number here.
    pub(crate) async fn get_lock(&self, ino: Ino, lock: Lock) -> Outcome {
        lockable(ino)?;
        self.barrier().await?;
        let me = self.ctx.me();
        let held = self.ctx.state().lock_in_the_way(ino, me, &lock);
        let shown = held.map(|held| Lock {
            pid: if held.incarnation == me {
                held.lock.pid
            } else {
                0
            },
            ..held.lock
        });
        Ok(Answer::Lock(shown))
    }

    /// Takes a lock, within `wait` if there is somebody in the way, else at once or not at all.
    pub(crate) async fn set_lock(
        &self,
        ino: Ino,
        handle: Handle,
        lock: Lock,
        wait: Option<Duration>,
    ) -> Outcome {
        lockable(ino)?;
        // Before it is taken: whatever the answer, it ends with the descriptor.
        let _asking = self.table.ask_lock(ino, lock.owner, handle)?;
        let until = wait.map(|wait| Instant::now() + wait);
        loop {
            let mut freed = pin!(self.unlocked.notified());
            freed.as_mut().enable();
            let incarnation = self.ctx.me();
            let blocked = || {
                let state = self.ctx.state();
                state.lock_in_the_way(ino, incarnation, &lock).is_some()
            };
            if self.table.is_unlocking(ino, lock.owner) {
                // What is given back is of an earlier owner, whose number the kernel has given anew.
                freed.await;
                continue;
            }
            if until.is_none() || !blocked() {
                let command = Command::Lock {
                    ino,
                    incarnation,
                    lock,
                };
                match self.ctx.agreement.propose(command).await {
                    Ok(_) => return Ok(Answer::Done),
                    Err(AgreementError::Refused(CommandError::Locked)) => {}
                    Err(error) => return Err(of_agreement(error)),
                }
            }
            let until = until.ok_or(FsError::TryAgain)?;
            if timeout_at(until, freed).await.is_err() {
                let why = "somebody else holds the lock, and held it all the while";
                return Err(FsError::TimedOut(why.into()));
            }
        }
    }

    /// Gives back what the owner holds from the first to the last byte.
    pub(crate) async fn unlock(&self, ino: Ino, owner: u64, start: u64, end: u64) -> Outcome {
        if self.table.is_locker(ino, owner) {
            self.propose(self.unlocking(ino, owner, start, end)).await?;
        }
        Ok(Answer::Done)
    }

    fn unlocking(&self, ino: Ino, owner: u64, start: u64, end: u64) -> Command {
        Command::Unlock {
            ino,
            incarnation: self.ctx.me(),
            owner,
            start,
            end,
        }
    }

    /// A descriptor was closed under this owner's name: its locks go before close(2) returns.
    pub(crate) async fn unlock_closed(self: &Arc<Self>, ino: Ino, owner: u64) {
        if !self.table.take_locker(ino, owner) {
            return;
        }
        // Whoever closes may not wait for as long as it takes.
        drop(self.clone().unlock_later(ino, owner).await);
    }

    /// An open file is gone: what was locked through it goes.
    pub(crate) fn unlock_released(self: &Arc<Self>, ino: Ino, handle: Handle) {
        for owner in self.table.take_lockers_through(ino, handle) {
            drop(self.clone().unlock_later(ino, owner));
        }
    }

    /// Gives back what an earlier worker could not any more: locks whose open file was closed.
    pub fn unlock_left(self: &Arc<Self>) {
        for (ino, owner) in self.table.take_lockers_left() {
            drop(self.clone().unlock_later(ino, owner));
        }
    }

    /// Gives all locks of an owner back, as often as it takes; they end with the incarnation in any case. What it answers
    /// resolves after the first try.
    fn unlock_later(self: Arc<Self>, ino: Ino, owner: u64) -> oneshot::Receiver<()> {
        let incarnation = self.ctx.me();
        let (tried, first) = oneshot::channel();
        let mut tried = Some(tried);
        self.table.begin_unlocking(ino, owner);
        tokio::spawn(async move {
            while self.ctx.me() == incarnation {
                let command = self.unlocking(ino, owner, 0, u64::MAX);
                match self.ctx.agreement.propose(command).await {
                    Err(error) if error.is_silence() => {
                        drop(tried.take());
                        sleep(AGAIN).await;
                    }
                    // A refusal says that the incarnation has ended, and its locks with it.
                    Ok(_) | Err(_) => break,
                }
            }
            // Whichever way they went: a later worker has nothing to give back.
            self.table.unlocked(ino, owner);
            self.table.end_unlocking(ino, owner);
            self.unlocked.notify_waiters();
        });
        first
    }
}

fn lockable(ino: Ino) -> Outcome<()> {
    match Synthetic::is(ino) {
        true => Err(FsError::NoLocks("the control tree has no locks".into())),
        false => Ok(()),
    }
}
