//! The connections that this member opened: one per address, shared by all calls, opened once however many ask.
//!
//! A dial runs in a task of its own, so that a caller who gives up does not end it for the others. A failed one
//! answers everybody at once for a moment, so that a dead peer costs nothing.

use crate::{
    counters::add,
    dial::{Link, dial},
    quic::Inner,
    tuning::{CONNECTIONS_MAX, DATAGRAM_BYTES_MAX, DIAL_AGAIN_AFTER, DIAL_DATAGRAMS_MAX},
    wire::close,
};
use bytes::Bytes;
use hydfs_types::NetError;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::watch, time::Instant};

type Dialled = Option<Result<Arc<Link>, NetError>>;

enum Slot {
    Ready(Arc<Link>),
    /// `waiting` follow once it is up.
    Dialling {
        done: watch::Receiver<Dialled>,
        waiting: Vec<Bytes>,
    },
    Failed {
        until: Instant,
        error: NetError,
    },
}

/// Slots by address.
#[derive(Default)]
pub(crate) struct Pool {
    slots: Mutex<BTreeMap<SocketAddr, Slot>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the connection to `addr`: `only` this one, or whichever there is. Calls on it go on.
    pub(crate) fn drop_link(&self, addr: SocketAddr, only: &Arc<Link>) {
        let mut slots = self.lock();
        if let Some(Slot::Ready(link)) = slots.get(&addr)
            && Arc::ptr_eq(link, only)
        {
            slots.remove(&addr);
        }
    }

    /// Closes the connection to `addr` and forgets past failures.
    pub(crate) fn forget(&self, addr: SocketAddr) {
        if let Some(Slot::Ready(link)) = self.lock().remove(&addr) {
            link.connection.close(close::FORGOTTEN, b"no longer wanted");
        }
    }

    /// The next call to anybody dials afresh; running calls end on the connections that they have.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

impl Inner {
    /// The connection to `to`, opened where there is none. Callers bound the wait.
    pub(crate) async fn link(self: &Arc<Self>, to: SocketAddr) -> Result<Arc<Link>, NetError> {
        let mut done = {
            let mut slots = self.pool.lock();
            match self.current(&mut slots, to) {
                Some(Slot::Ready(link)) => return Ok(link.clone()),
                Some(Slot::Failed { error, .. }) => return Err(error.clone()),
                Some(Slot::Dialling { done, .. }) => done.clone(),
                None => self.start_dial(&mut slots, to, Vec::new()),
            }
        };
        let gone = || NetError::Unreachable {
            addr: to,
            why: "this member's network is shut down".into(),
        };
        let result = done.wait_for(Option::is_some).await.map_err(|_| gone())?;
        result.clone().unwrap_or_else(|| Err(gone()))
    }

    /// Sends on the open connection, or keeps a few datagrams until there is one.
    pub(crate) fn datagram_to(self: &Arc<Self>, to: SocketAddr, payload: Bytes) {
        let kept = payload.len() <= DATAGRAM_BYTES_MAX && {
            let mut slots = self.pool.lock();
            match self.current(&mut slots, to) {
                Some(Slot::Ready(link)) => {
                    let link = link.clone();
                    drop(slots);
                    self.send_now(&link, payload);
                    true
                }
                Some(Slot::Dialling { waiting, .. }) if waiting.len() < DIAL_DATAGRAMS_MAX => {
                    waiting.push(payload);
                    true
                }
                Some(_) => false,
                None => {
                    self.start_dial(&mut slots, to, vec![payload]);
                    true
                }
            }
        };
        if !kept {
            add(&self.counters.datagrams_dropped, 1);
        }
    }

    fn send_now(&self, link: &Link, payload: Bytes) {
        let counter = match link.connection.send_datagram(payload) {
            Ok(()) => &self.counters.datagrams_out,
            Err(_) => &self.counters.datagrams_dropped,
        };
        add(counter, 1);
    }

    /// The slot of `to` unless it is out of date.
    fn current<'a>(
        &self,
        slots: &'a mut BTreeMap<SocketAddr, Slot>,
        to: SocketAddr,
    ) -> Option<&'a mut Slot> {
        let stale = match slots.get(&to)? {
            Slot::Ready(link) => {
                link.connection.close_reason().is_some() || !self.same_cluster(link.cluster)
            }
            Slot::Failed { until, .. } => *until <= Instant::now(),
            Slot::Dialling { .. } => false,
        };
        if stale {
            slots.remove(&to);
        }
        slots.get_mut(&to)
    }

    fn start_dial(
        self: &Arc<Self>,
        slots: &mut BTreeMap<SocketAddr, Slot>,
        to: SocketAddr,
        waiting: Vec<Bytes>,
    ) -> watch::Receiver<Dialled> {
        if slots.len() >= CONNECTIONS_MAX {
            slots.retain(|_, slot| !matches!(slot, Slot::Failed { .. }));
        }
        let (tell, done) = watch::channel(None);
        slots.insert(
            to,
            Slot::Dialling {
                done: done.clone(),
                waiting,
            },
        );
        let inner = self.clone();
        self.runtime.spawn(async move {
            let result = dial(&inner, to).await.map(Arc::new);
            let waiting = inner.settle(to, &tell, &result);
            if let Ok(link) = &result {
                for payload in waiting {
                    inner.send_now(link, payload);
                }
            }
            tell.send_replace(Some(result));
        });
        done
    }

    /// Puts the outcome of the dial that `tell` belongs to into its slot, unless that was forgotten meanwhile.
    fn settle(
        &self,
        to: SocketAddr,
        tell: &watch::Sender<Dialled>,
        result: &Result<Arc<Link>, NetError>,
    ) -> Vec<Bytes> {
        let counters = &self.counters;
        add(
            if result.is_ok() {
                &counters.connects
            } else {
                &counters.connects_failed
            },
            1,
        );
        if let Err(NetError::Refused { addr, why }) = result {
            add(&counters.refused, 1);
            tracing::warn!(%addr, "refused: {why}");
        }
        let mut slots = self.pool.lock();
        let Some(Slot::Dialling { done, waiting }) = slots.get_mut(&to) else {
            return Vec::new();
        };
        if !tell.subscribe().same_channel(done) {
            return Vec::new();
        }
        let waiting = std::mem::take(waiting);
        let slot = match result {
            Ok(link) => Slot::Ready(link.clone()),
            Err(error) => {
                add(&counters.datagrams_dropped, waiting.len() as u64);
                Slot::Failed {
                    until: Instant::now() + DIAL_AGAIN_AFTER,
                    error: error.clone(),
                }
            }
        };
        slots.insert(to, slot);
        waiting
    }
}
