//! Drives [`Swim`] by tokio's clock and the network seam.
//!
//! The receive path is a plain function: it takes a lock that nobody holds across a wait, decides, and hands datagrams
//! to [`Net::send_datagram`], which never waits (fault M6). Nothing is sent under the lock, so that a network in memory
//! may deliver at once.

use crate::{Counters, Effect, Event, Expected, Identity, Opinion, Options, Seen, Swim};
use bytes::Bytes;
use hydfs_types::Net;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

/// One member's membership plane, running.
pub struct Membership {
    net: Arc<dyn Net>,
    swim: Mutex<Swim>,
    started: Instant,
    /// The next tick may have come nearer.
    wake: Arc<Notify>,
    changes: watch::Sender<u64>,
    ticker: Mutex<Option<AbortHandle>>,
}

impl Membership {
    /// Starts as `me`, knowing nobody. `seed` fixes every random choice. Runs until dropped or left.
    pub fn start(net: Arc<dyn Net>, me: Identity, options: Options, seed: u64) -> Arc<Self> {
        let membership = Arc::new(Self {
            net,
            swim: Mutex::new(Swim::new(me, options, seed, Duration::ZERO)),
            started: Instant::now(),
            wake: Arc::new(Notify::new()),
            changes: watch::Sender::new(0),
            ticker: Mutex::new(None),
        });
        let task = tokio::spawn(tick(Arc::downgrade(&membership), membership.wake.clone()));
        *membership
            .ticker
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        membership
    }

    /// Takes a datagram. Returns at once; what is malformed is counted and dropped.
    pub fn handle_datagram(&self, from: SocketAddr, payload: Bytes) {
        self.step(Event::Datagram { from, payload });
    }

    /// Joins whoever serves at any of these addresses. They are asked again whenever this member knows nobody.
    pub fn announce(&self, addrs: Vec<SocketAddr>) {
        self.step(Event::Announce(addrs));
    }

    /// The agreed map lists these members (all that have not left for ever). Those never heard of are greeted until
    /// they answer, and shown as suspect, later down; those that are down and no longer listed are forgotten.
    pub fn seed_members(&self, expected: Vec<Expected>) {
        self.step(Event::Expect(expected));
    }

    /// Switches suspicion, live.
    pub fn set_suspicion(&self, on: bool) {
        self.step(Event::Suspicion(on));
    }

    /// Forgets a member, if it is not alive.
    pub fn remove(&self, name: &str) {
        self.step(Event::Remove(name.into()));
    }

    /// Tells the others that this member stops. Datagrams are ignored afterwards.
    pub fn leave(&self) {
        self.step(Event::Leave);
    }

    /// The others, by name.
    pub fn view(&self) -> Vec<Seen> {
        self.lock().view(self.started.elapsed())
    }

    /// What this member would testify about another (R1).
    pub fn opinion(&self, name: &str) -> Opinion {
        self.lock().opinion(self.started.elapsed(), name)
    }

    /// A number that rises with every change of the view.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// This member's present life: the generation rises when it had to come back.
    pub fn identity(&self) -> Identity {
        self.lock().identity().clone()
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters()
    }

    fn step(&self, event: Event) {
        let now = self.started.elapsed();
        let (effects, sooner) = {
            let mut swim = self.lock();
            let before = swim.next_tick();
            let effects = swim.handle(now, event);
            let sooner =
                matches!((before, swim.next_tick()), (Some(before), Some(after)) if after < before);
            (effects, sooner)
        };
        if sooner {
            self.wake.notify_one();
        }
        for effect in effects {
            match effect {
                Effect::Send { to, payload } => self.net.send_datagram(to, payload),
                Effect::Changed => self.changes.send_modify(|version| *version += 1),
                Effect::Renewed(me) => {
                    tracing::warn!(
                        generation = me.generation,
                        "others took this member for dead: it came back"
                    );
                }
            }
        }
    }

    /// A panic inside a step would have left foca in some state; going on is better than taking the member down.
    fn lock(&self) -> MutexGuard<'_, Swim> {
        self.swim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(task) = self
            .ticker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            task.abort();
        }
    }
}

/// Ticks when a timer is due, until the membership is gone or has left.
async fn tick(membership: Weak<Membership>, wake: Arc<Notify>) {
    loop {
        let Some(due) = membership
            .upgrade()
            .and_then(|m| m.lock().next_tick().map(|at| m.started + at))
        else {
            return;
        };
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = tokio::time::sleep_until(due) => {
                let Some(membership) = membership.upgrade() else { return };
                membership.step(Event::Tick);
            }
        }
    }
}
