//! Read leases: a member that holds one answers reads from its own copy of the agreed state, without asking anybody.
//!
//! - The *leader* remembers who holds one until when, and lets nobody know of a command's effect (the answer to its
//!   proposer, a barrier) before every holder has applied it or lost its lease. From then on the command is *visible*.
//! - A *holder* answers from its copy while its lease lasts and all that it has applied is visible: what it shows can
//!   then be seen by whoever asks later, anywhere. What is applied but not known to be visible costs it a barrier.
//! - Each barrier renews the lease of the member that asks; one that is in use is renewed ahead of its end.
//! - A lease is counted from its request's sending by the holder ([`USABLE`], which a suspended machine does not outlive)
//!   and from its grant by the leader ([`HELD`]). A new leader does not know whom the old one granted leases, so it takes
//!   all members of the group for holders for as long. So a holder that dies delays commands by [`HELD`] at most.
//! - A holder that falls behind is not renewed, so it delays commands no longer than a dead one. One that let its lease run
//!   out that way gets none before it has caught up, and for [`PROBATION`] after that: a machine that is slow for minutes
//!   would else delay commands by a lease's time again and again.
//! - What a holder has let somebody keep (the kernel of its mount) is part of its copy: it says that it has applied an
//!   entry only once they have been told what that changed ([`Group::told`]), and lets nothing be kept past its lease.

use crate::{
    group::Group,
    propose::no_quorum,
    wire::{self, Request, Response},
};
use bytes::Bytes;
use hydfs_types::{AgreementError, BoxFuture, LogIndex, MemberId, Planted, suspend};
use openraft::async_runtime::WatchReceiver;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long a holder may use its lease, from the sending of its request on.
const USABLE: Duration = Duration::from_millis(1000);
/// How long the leader counts on it, from the grant on: longer, for clocks that run at different speeds.
const HELD: Duration = Duration::from_millis(1200);
/// A lease that was used since it was last renewed is renewed this often.
const RENEW_EVERY: Duration = Duration::from_millis(300);
/// Who let a lease run out while it was behind gets none for so long after it has caught up.
const PROBATION: Duration = Duration::from_secs(5);
/// Pause before a holder that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(25);
/// A member that stops gives its lease back, if the leader takes it this soon.
const RELEASE_DEADLINE: Duration = Duration::from_millis(300);

/// What the leader knows of the leases of one term.
#[derive(Default)]
pub struct Holders {
    table: Mutex<Table>,
    /// Rung when a holder has caught up or gone.
    moved: Notify,
    /// [`Planted::ToldEarly`].
    told_early: bool,
}

impl Holders {
    /// Nobody holds a lease.
    pub fn new(planted: Option<Planted>) -> Self {
        Self {
            told_early: planted == Some(Planted::ToldEarly),
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Table {
    term: u64,
    holders: BTreeMap<MemberId, Holder>,
}

struct Holder {
    /// Which life of the member holds it. 0: none that this leader knows, perhaps one that an earlier leader granted.
    life: u64,
    until: Instant,
    acked: LogIndex,
    /// Highest index that it was asked to reach.
    wanted: LogIndex,
    asking: bool,
    /// It let a lease run out while it was behind.
    lapsed: Option<Lapse>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lapse {
    Behind,
    /// It has caught up; its next lease is not granted before this.
    Until(Instant),
}

impl Holder {
    fn new(life: u64, until: Instant, acked: LogIndex) -> Self {
        Self {
            life,
            until,
            acked,
            wanted: LogIndex(0),
            asking: false,
            lapsed: None,
        }
    }

    fn is_behind(&self) -> bool {
        self.acked < self.wanted
    }

    /// Whether it may have a lease (again).
    fn may_hold(&mut self, now: Instant) -> bool {
        if self.is_behind() {
            return false;
        }
        if self.lapsed == Some(Lapse::Behind) {
            self.lapsed = Some(Lapse::Until(now + PROBATION));
        }
        let may = !matches!(self.lapsed, Some(Lapse::Until(at)) if now < at);
        if may {
            self.lapsed = None;
        }
        may
    }
}

/// The lease of this member.
#[derive(Default)]
pub struct Held {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    lease: Option<Usable>,
    visible: LogIndex,
    used: bool,
    over: bool,
}

struct Usable {
    until: Instant,
    /// How long the machine had been suspended when the lease was asked for.
    suspended: Duration,
    /// The copy must have this.
    from: LogIndex,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// The highest index known to be visible, if this member holds a lease and its copy, at `applied`, is fit for it.
    pub fn usable(&self, applied: LogIndex) -> Option<LogIndex> {
        let mut inner = lock(&self.inner);
        inner.used = true;
        let lease = inner.lease.as_ref()?;
        let lasts = Instant::now() < lease.until
            && suspend::ran_on(lease.suspended, suspend::suspended())
            && applied >= lease.from;
        lasts.then_some(inner.visible)
    }

    pub fn visible(&self) -> LogIndex {
        lock(&self.inner).visible
    }

    /// How much is left of the lease.
    pub fn left(&self) -> Duration {
        let inner = lock(&self.inner);
        let lease = inner.lease.as_ref();
        lease
            .filter(|lease| suspend::ran_on(lease.suspended, suspend::suspended()))
            .map(|lease| lease.until.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }

    /// `index` is known to be visible.
    pub fn saw(&self, index: LogIndex) {
        let mut inner = lock(&self.inner);
        inner.visible = inner.visible.max(index);
    }

    /// The leader granted a lease of which this much was asked for at `sent`.
    fn granted(&self, sent: Instant, suspended: Duration, from: LogIndex) {
        let mut inner = lock(&self.inner);
        let until = sent + USABLE;
        if inner.over || inner.lease.as_ref().is_some_and(|old| old.until >= until) {
            return;
        }
        inner.lease = Some(Usable {
            until,
            suspended,
            from,
        });
    }

    /// Whether it was used since this was last asked.
    fn take_used(&self) -> bool {
        std::mem::take(&mut lock(&self.inner).used)
    }

    /// Whether it was given back for good.
    pub fn is_over(&self) -> bool {
        lock(&self.inner).over
    }

    /// It is not used any more, nor is any later one.
    fn end(&self) {
        let mut inner = lock(&self.inner);
        inner.over = true;
        inner.lease = None;
    }
}

impl Table {
    /// The table of the term that this member leads now.
    fn of(&mut self, term: u64, members: impl FnOnce() -> Vec<MemberId>) -> &mut Self {
        if self.term != term {
            self.term = term;
            let until = Instant::now() + HELD;
            let assumed = |member| (member, Holder::new(0, until, LogIndex(0)));
            self.holders = members().into_iter().map(assumed).collect();
        }
        self
    }

    /// Whether the member may have a lease (anew).
    fn grant(&mut self, member: MemberId, life: u64, applied: LogIndex) -> bool {
        let now = Instant::now();
        let new = Holder::new(life, now, applied);
        let holder = self.holders.entry(member).or_insert(new);
        if holder.life != life {
            // Another process, so the old one is gone; or the same, whose lease an earlier leader granted.
            holder.life = life;
            holder.acked = applied;
            holder.lapsed = None;
        }
        holder.acked = holder.acked.max(applied);
        let may = holder.may_hold(now);
        if may {
            holder.until = now + HELD;
        }
        may
    }

    /// Who must still reach `index`, and when the first of them has lost its lease.
    fn lagging(&mut self, index: LogIndex, asker: MemberId) -> (Vec<MemberId>, Option<Instant>) {
        let now = Instant::now();
        for holder in self.holders.values_mut() {
            if holder.until <= now && holder.is_behind() {
                holder.lapsed = Some(Lapse::Behind);
            }
        }
        self.holders
            .retain(|_, holder| holder.until > now || holder.lapsed.is_some());
        let behind = || {
            let holders = self.holders.iter();
            holders.filter(|(member, holder)| {
                **member != asker && holder.until > now && holder.acked < index
            })
        };
        (
            behind().map(|(member, _)| *member).collect(),
            behind().map(|(_, holder)| holder.until).min(),
        )
    }
}

impl Group {
    /// The leader's table, if this member leads.
    fn led<T>(&self, work: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let (term, leader) = *self.watch_leader().borrow();
        if leader != Some(self.me()) {
            return None;
        }
        let members = || {
            let metrics = self.raft().server_metrics();
            let members = metrics.borrow_watched().membership_config.clone();
            members.nodes().map(|(id, _)| MemberId(*id)).collect()
        };
        Some(work(lock(&self.holders().table).of(term, members)))
    }

    /// Waits until `index` is visible: all holders of leases have applied it. The member that asks for it is not waited
    /// for: it applies it before it shows anybody. False if that is not known by the deadline.
    pub(crate) async fn show(&self, index: LogIndex, asker: MemberId, deadline: Instant) -> bool {
        if self.holders().told_early {
            return self.is_leader();
        }
        loop {
            let mut moved = std::pin::pin!(self.holders().moved.notified());
            moved.as_mut().enable();
            let here = self.told_through();
            let me = self.me();
            let looked = self.led(|table| {
                if let Some(own) = table.holders.get_mut(&me) {
                    own.acked = own.acked.max(here);
                }
                let (lagging, ends) = table.lagging(index, asker);
                let mut ask = Vec::new();
                for member in &lagging {
                    let Some(holder) = table.holders.get_mut(member).filter(|_| *member != me)
                    else {
                        continue;
                    };
                    holder.wanted = holder.wanted.max(index);
                    if !std::mem::replace(&mut holder.asking, true) {
                        ask.push(*member);
                    }
                }
                (ask, ends)
            });
            let Some((ask, ends)) = looked else {
                return false;
            };
            for member in ask {
                tokio::spawn(ask_to_reach(self.this(), member));
            }
            let Some(ends) = ends else {
                return true;
            };
            let wake = ends.min(deadline);
            // Its own copy moves without a bell.
            let own = self.told(index, wake);
            tokio::select! {
                biased;
                () = moved => {}
                () = tokio::time::sleep_until(wake) => {}
                Ok(()) = own, if here < index => {}
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// The leader's answer to a member that asks for a barrier and a lease.
    pub(crate) async fn serve_lease(
        &self,
        member: MemberId,
        life: u64,
        applied: LogIndex,
        deadline: Instant,
    ) -> Response {
        // Before the index is read: whatever is committed after it waits for this holder.
        let granted = self.led(|table| table.grant(member, life, applied));
        match self.serve_barrier(member, deadline).await {
            Response::Barrier { index } => Response::Lease {
                index,
                granted: granted == Some(true),
            },
            other => other,
        }
    }

    /// A holder's answer to the leader: how far its copy is, once that is far enough or time is up.
    pub(crate) async fn serve_show(&self, through: LogIndex) -> Response {
        let deadline = Instant::now() + HELD;
        // Whoever gave up says where it is.
        drop(self.told(through, deadline).await);
        Response::Shown {
            applied: self.told_through(),
        }
    }

    /// Waits until `index` is applied here, and whoever keeps something of this copy has been told what it changed.
    pub(crate) async fn told(
        &self,
        index: LogIndex,
        deadline: Instant,
    ) -> Result<(), AgreementError> {
        self.progress().reached(index, deadline).await?;
        let Some(onlooker) = self.onlooker() else {
            return Ok(());
        };
        let begun = Instant::now();
        // Read first: what these changed is among what is on its way now.
        let applied = self.progress().applied();
        timeout_at(deadline, onlooker.settled())
            .await
            .map_err(|_| no_quorum(begun, "the kernel has not taken notice yet".into()))?;
        self.tell(applied);
        Ok(())
    }

    /// The leader's part of [`Group::release`].
    pub(crate) fn serve_release(&self, member: MemberId, life: u64) -> Response {
        let released = self.led(|table| {
            let held = table.holders.get(&member);
            if held.is_some_and(|held| held.life == life || held.life == 0) {
                table.holders.remove(&member);
            }
        });
        self.holders().moved.notify_waiters();
        match released {
            Some(()) => Response::Released,
            None => Response::NotLeader {
                leader: None,
                addr: None,
            },
        }
    }

    /// Takes over what the leader answered to a request for a lease that was sent at `sent`.
    pub(crate) fn took(&self, sent: Instant, suspended: Duration, index: LogIndex, granted: bool) {
        self.held().saw(index);
        if granted {
            self.held().granted(sent, suspended, index);
        }
    }

    /// Gives the lease back, for good: this member stops, and no command shall wait for it. Whoever led before hands on
    /// leadership first: the new leader takes it for a holder.
    pub fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.held().end();
            let (Some(leader), Some(addr)) = self.leader_addr() else {
                return;
            };
            if leader == self.me() {
                return;
            }
            let request = Request::Release {
                member: self.me(),
                life: self.session().life(),
            };
            let asked = self.peers().net.call(
                addr,
                wire::request(&request, Bytes::new()),
                RELEASE_DEADLINE,
            );
            // Otherwise it ends by itself.
            drop(timeout(RELEASE_DEADLINE, asked).await);
        })
    }
}

/// Asks a holder until it has reached what it is wanted to, or has lost its lease.
async fn ask_to_reach(group: Weak<Group>, member: MemberId) {
    while let Some(group) = group.upgrade() {
        let work = group.led(|table| {
            let holder = table.holders.get_mut(&member)?;
            if holder.acked >= holder.wanted || holder.until <= Instant::now() {
                holder.asking = false;
                return None;
            }
            Some((holder.wanted, holder.until, holder.life))
        });
        let Some((through, until, life)) = work.flatten() else {
            break;
        };
        let request = wire::request(&Request::Show { through }, Bytes::new());
        let left = until.saturating_duration_since(Instant::now());
        let answer = match group.address_of(member) {
            Some(addr) => timeout_at(until, group.peers().net.call(addr, request, left)).await,
            None => break,
        };
        let applied = match answer {
            Ok(Ok(frame)) => match frame.message() {
                Ok(Response::Shown { applied }) => Some(applied),
                _ => None,
            },
            _ => None,
        };
        let Some(applied) = applied else {
            drop(group);
            sleep(ASK_AGAIN).await;
            continue;
        };
        group.led(|table| {
            if let Some(holder) = table.holders.get_mut(&member)
                // A later process may have applied less.
                && holder.life == life
            {
                holder.acked = holder.acked.max(applied);
            }
        });
        group.holders().moved.notify_waiters();
    }
    if let Some(group) = group.upgrade() {
        group.holders().moved.notify_waiters();
    }
}

/// Renews the lease while it is in use. One task per member runs it.
pub async fn renew(group: Weak<Group>) {
    loop {
        sleep(RENEW_EVERY).await;
        let Some(group) = group.upgrade() else {
            return;
        };
        if group.progress().stopped().is_some() {
            return;
        }
        if group.held().take_used() {
            // Nobody waits for it; the next who reads without a lease asks again.
            drop(group.barrier_by(Instant::now() + USABLE).await);
        }
    }
}
