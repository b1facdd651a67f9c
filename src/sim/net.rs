//! A network in memory: members of one process call each other under tokio's virtual time, and everything that a
//! real network does to them (delay, loss, duplicates, one-way cuts, partitions, crashes) comes from one seed.
//!
//! The same seed gives the same deliveries in the same order, on a current-thread runtime built with
//! `start_paused(true)` whose tasks use no other source of time or chance; [`SimNet::trace_hash`] shows it. Delays are
//! rounded up to tokio's tick of 1 ms. What is lost is never reported early: as in production, a caller learns of it
//! at its deadline. This file decides nothing for the members and knows no message of theirs.

use crate::net_state::{Kind, Link, Member, Path, Sent, State, hash_addr};
use bytes::Bytes;
use hydfs_types::{
    BoxFuture, FRAME_BODY_BYTES_MAX, FRAME_HEAD_BYTES_MAX, Frame, Handler, MemberId, Net, NetError,
};
use rand::RngExt;
use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// As in the QUIC transport.
const DATAGRAM_BYTES_MAX: usize = 1_100;
/// As in the QUIC transport: nobody there is known after this.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Hears what is said on the network, and never says anything.
pub trait Tap: Send + Sync {
    /// A request has arrived and is about to be served. The answer is told under the number that this returns.
    fn asked(&self, from: SocketAddr, to: SocketAddr, request: &Frame) -> Option<u64>;
    /// What the request of that number was answered with, whether or not the answer arrives.
    fn answered(&self, number: u64, answer: &Frame);
}

/// The network of all members.
pub struct SimNet {
    state: Mutex<State>,
    /// Rung when what was held goes on.
    released: Notify,
    tap: OnceLock<Arc<dyn Tap>>,
    began: Instant,
}

impl SimNet {
    /// An empty network that draws from `seed`. Call it inside the runtime.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(seed)),
            released: Notify::new(),
            tap: OnceLock::new(),
            began: Instant::now(),
        })
    }

    /// Lets `tap` hear everything from now on; the first one stays.
    pub fn set_tap(&self, tap: Arc<dyn Tap>) {
        self.tap.set(tap).ok();
    }

    /// Starts a life of the member that serves at `addr`; an earlier one ends as in [`SimNet::crash`].
    pub fn member(
        self: &Arc<Self>,
        addr: SocketAddr,
        name: &str,
        handler: Arc<dyn Handler>,
    ) -> End {
        self.crash(addr);
        let mut state = self.lock();
        state.lives += 1;
        let life = state.lives;
        let member = Member {
            life,
            name: name.into(),
            id: None,
            handler,
            serving: JoinSet::new(),
        };
        state.members.insert(addr, member);
        End {
            net: self.clone(),
            addr,
            life,
        }
    }

    /// From now on peers see `id` in what `addr` sends, as after a new hello.
    pub fn set_member_id(&self, addr: SocketAddr, id: Option<MemberId>) {
        if let Some(member) = self.lock().members.get_mut(&addr) {
            member.id = id;
        }
    }

    /// Ends a member at once: its handler is dropped, calls in hand are cut off, what it still sends goes nowhere.
    pub fn crash(&self, addr: SocketAddr) {
        let gone = self.lock().members.remove(&addr);
        drop(gone); // outside the lock: handlers may hold ends of this network
    }

    /// Whether a member lives at `addr`.
    pub fn is_up(&self, addr: SocketAddr) -> bool {
        self.lock().members.contains_key(&addr)
    }

    /// Sets how links behave that have no setting of their own.
    pub fn set_usual_link(&self, link: Link) {
        self.lock().usual = link;
    }

    /// Sets how one direction behaves.
    pub fn set_link(&self, from: SocketAddr, to: SocketAddr, link: Link) {
        self.lock().links.insert((from, to), link);
    }

    /// Loses all that goes from `from` to `to`; the other direction stays.
    pub fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.lock().cuts.insert((from, to));
    }

    /// Ends a cut.
    pub fn mend(&self, from: SocketAddr, to: SocketAddr) {
        self.lock().cuts.remove(&(from, to));
    }

    /// From now on what goes to or from `addr` waits until [`SimNet::release`] and arrives then, as with a process that
    /// was stopped for a while.
    pub fn hold(&self, addr: SocketAddr) {
        self.lock().held.insert(addr);
    }

    /// Whatever waits because of `addr` arrives now.
    pub fn release(&self, addr: SocketAddr) {
        self.lock().held.remove(&addr);
        self.released.notify_waiters();
    }

    /// Cuts both directions between members of different groups; those not named form one more group.
    pub fn partition(&self, groups: &[&[SocketAddr]]) {
        let numbered = groups
            .iter()
            .zip(1..)
            .flat_map(|(group, at)| group.iter().map(move |addr| (*addr, at)));
        self.lock().groups = numbered.collect();
    }

    /// Ends all cuts and partitions, and all links behave as usual again.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        state.groups.clear();
        state.links.clear();
        state.held.clear();
        drop(state);
        self.released.notify_waiters();
    }

    /// A hash over time, ends and content of every delivery so far, in order.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace
    }

    /// Deliveries so far.
    pub fn deliveries(&self) -> u64 {
        self.lock().deliveries
    }

    /// What was sent so far, lost or not.
    pub fn sent(&self) -> Sent {
        self.lock().sent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the delivery and takes note of it; false where it is lost on the way.
    async fn arrives(
        &self,
        path: Path,
        delay: Duration,
        kind: Kind,
        head: &[u8],
        body: &[u8],
    ) -> bool {
        sleep(delay).await;
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let held = {
                let state = self.lock();
                state.held.contains(&path.from.0) || state.held.contains(&path.to.0)
            };
            if !held {
                break;
            }
            released.await;
        }
        let at = self.began.elapsed();
        let mut state = self.lock();
        if !state.open(path) {
            return false;
        }
        state.note(&[
            at.as_micros() as u64,
            kind as u64,
            hash_addr(path.from.0),
            hash_addr(path.to.0),
        ]);
        state.note_bytes(head);
        state.note_bytes(body);
        state.deliveries += 1;
        tracing::trace!(?at, ?kind, from = %path.from.0, to = %path.to.0, bytes = head.len() + body.len(), trace = state.trace, "delivery");
        true
    }

    /// Carries a request to its handler and the answer back; where anything is lost, `answered` is just dropped.
    async fn carry(
        self: Arc<Self>,
        path: Path,
        delay: Duration,
        frame: Frame,
        answered: Option<oneshot::Sender<Frame>>,
    ) {
        if !self
            .arrives(path, delay, Kind::Request, &frame.head, &frame.body)
            .await
        {
            return;
        }
        let mut state = self.lock();
        let Some(peer) = state.peer(path.from.0) else {
            return;
        };
        let Some(member) = state.members.get_mut(&path.to.0) else {
            return;
        };
        while member.serving.try_join_next().is_some() {}
        let (net, handler) = (self.clone(), member.handler.clone());
        let tap = self.tap.get().cloned();
        member.serving.spawn(async move {
            let heard = tap
                .as_ref()
                .and_then(|tap| tap.asked(path.from.0, path.to.0, &frame));
            let answer = handler.serve(peer, frame).await;
            if let Some((tap, number)) = tap.zip(heard) {
                tap.answered(number, &answer);
            }
            let Some(answered) = answered else { return };
            let back = Path {
                from: path.to,
                to: path.from,
            };
            let delay = net
                .lock()
                .send(back, Kind::Reply, answer.head.len() + answer.body.len());
            let Some(delay) = delay else { return };
            tokio::spawn(async move {
                if net
                    .arrives(back, delay, Kind::Reply, &answer.head, &answer.body)
                    .await
                {
                    // The caller may have given up.
                    answered.send(answer).ok();
                }
            });
        });
    }
}

/// One life's end of the network.
pub struct End {
    net: Arc<SimNet>,
    addr: SocketAddr,
    life: u64,
}

impl End {
    /// Whether this life goes on.
    pub fn is_live(&self) -> bool {
        self.net.lock().life(self.addr) == Some(self.life)
    }

    /// The path to whoever lives at `to` now.
    fn path(&self, state: &State, to: SocketAddr) -> Option<Path> {
        Some(Path {
            from: (self.addr, self.life),
            to: (to, state.life(to)?),
        })
    }
}

impl Net for End {
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let end = Self {
            net: self.net.clone(),
            ..*self
        };
        Box::pin(async move {
            if frame.head.len() > FRAME_HEAD_BYTES_MAX || frame.body.len() > FRAME_BODY_BYTES_MAX {
                return Err(NetError::Refused {
                    addr: to,
                    why: "not sent: the frame is over the limit".into(),
                });
            }
            let until = Instant::now() + deadline;
            let (answered, mut answer) = oneshot::channel();
            let found = {
                let mut state = end.net.lock();
                let path = end.path(&state, to);
                if let Some(path) = path {
                    state.sent.requests[frame.service as usize - 1] += 1;
                    let bytes = frame.head.len() + frame.body.len();
                    if let Some(delay) = state.send(path, Kind::Request, bytes) {
                        let again = state.again(path);
                        if let Some(later) = again {
                            let (net, frame) = (end.net.clone(), frame.clone());
                            tokio::spawn(net.carry(path, delay + later, frame, None));
                        }
                        let net = end.net.clone();
                        tokio::spawn(net.carry(path, delay, frame, Some(answered)));
                    }
                }
                path.is_some()
            };
            if !found {
                sleep_until(until.min(Instant::now() + DIAL_TIMEOUT)).await;
                return Err(NetError::Unreachable {
                    addr: to,
                    why: "nobody answers there".into(),
                });
            }
            let arrived = async {
                match (&mut answer).await {
                    Ok(answer) => answer,
                    Err(_) => pending().await, // lost: the caller learns it at its deadline
                }
            };
            let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            timeout_at(until, arrived)
                .await
                .map_err(|_| NetError::TimedOut { addr: to, millis })
        })
    }

    fn send_datagram(&self, to: SocketAddr, payload: Bytes) {
        if payload.len() > DATAGRAM_BYTES_MAX {
            return;
        }
        let mut state = self.net.lock();
        state.sent.datagrams += 1;
        let Some(path) = self.path(&state, to) else {
            return;
        };
        let twice = state.link(path).datagram_twice.clamp(0.0, 1.0);
        let copies = if state.rng.random_bool(twice) { 2 } else { 1 };
        for _ in 0..copies {
            let Some(delay) = state.send(path, Kind::Datagram, payload.len()) else {
                continue;
            };
            let (net, payload) = (self.net.clone(), payload.clone());
            tokio::spawn(async move {
                if net
                    .arrives(path, delay, Kind::Datagram, &payload, &[])
                    .await
                {
                    let state = net.lock();
                    let ends = state.peer(path.from.0).zip(state.members.get(&path.to.0));
                    let Some((peer, handler)) =
                        ends.map(|(peer, member)| (peer, member.handler.clone()))
                    else {
                        return;
                    };
                    drop(state); // the handler may send at once
                    handler.datagram(peer, payload);
                }
            });
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}
