//! This member as a client of the group: the identity that each command carries (R15).

use hydfs_types::{CommandIdentity, Incarnation, SessionId};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where a session is kept, so that a later worker goes on with it.
pub trait SessionKeeper: Send + Sync {
    /// Before a seq up to `last` is used. `known`: the agreed state has the session.
    fn save(&self, id: SessionId, last: u64, known: bool);
}

/// A session that outlives the worker.
pub struct KeptSession {
    pub keeper: Arc<dyn SessionKeeper>,
    /// What an earlier worker left.
    pub resumed: Option<Resumed>,
}

/// A session as an earlier worker left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    pub id: SessionId,
    pub last: u64,
    pub known: bool,
    /// Commands whose answers may be asked for again.
    pub open: BTreeSet<u64>,
}

/// Numbers commands and knows which of them still wait for an answer.
pub struct Session {
    inner: Mutex<Inner>,
    keeper: Option<Arc<dyn SessionKeeper>>,
}

#[derive(Debug, Default)]
struct Inner {
    id: SessionId,
    /// Of this worker, also where the session is an earlier one's.
    life: SessionId,
    incarnation: Incarnation,
    /// Start count of this process.
    start: u64,
    last: u64,
    open: BTreeSet<u64>,
    /// The agreed state has this session: an answer of it came. Before that nothing is said of earlier commands, since
    /// those that were given up may never have been there, and a session that begins in the middle is refused.
    known: bool,
    /// The cluster has ended the incarnation before, and there is none yet.
    between: bool,
}

/// The identity of one command, the same for all its retries. Dropped when nobody waits for its answer any more.
pub struct Ticket<'a> {
    session: &'a Session,
    pub id: SessionId,
    pub seq: u64,
    pub done_through: u64,
    pub incarnation: Incarnation,
    pub start: u64,
    /// Its answer may be asked for until [`Session::forget`].
    kept: bool,
    /// An earlier process may have had the command taken.
    pub asked_before: bool,
}

impl Session {
    pub fn new(life: SessionId, kept: Option<KeptSession>) -> Self {
        let (keeper, resumed) = match kept {
            Some(kept) => (Some(kept.keeper), kept.resumed),
            None => (None, None),
        };
        let inner = match resumed {
            Some(resumed) => Inner {
                id: resumed.id,
                life,
                last: resumed.last,
                known: resumed.known,
                open: resumed.open,
                ..Inner::default()
            },
            None => Inner {
                id: life,
                life,
                ..Inner::default()
            },
        };
        let session = Self {
            inner: Mutex::new(inner),
            keeper,
        };
        session.save(&session.lock());
        session
    }

    fn save(&self, inner: &Inner) {
        if let Some(keeper) = &self.keeper {
            keeper.save(inner.id, inner.last, inner.known);
        }
    }

    /// What commands are asked as from now on.
    pub fn set_incarnation(&self, incarnation: Incarnation, start: u64) {
        let mut inner = self.lock();
        (inner.incarnation, inner.start) = (incarnation, start);
        inner.between = false;
    }

    /// Which life of this member it is; 0 before it is admitted.
    pub fn life(&self) -> u64 {
        let inner = self.lock();
        match inner.incarnation {
            Incarnation(0) => 0,
            _ => inner.life.0,
        }
    }

    /// Begins a new session; its commands wait for [`Session::set_incarnation`]. The answers of a session
    /// are forgotten with its incarnation (R15): going on with its numbers would look like a retry of something lost.
    pub fn renew(&self, id: SessionId) {
        let mut inner = self.lock();
        *inner = Inner {
            id,
            life: id,
            between: true,
            ..Inner::default()
        };
        self.save(&inner);
    }

    /// Whether the cluster has ended this member and not admitted it again: but for that nothing may be asked, since a
    /// retry could not be told from a new command.
    pub fn is_between(&self) -> bool {
        self.lock().between
    }

    /// An identity for a new command. Before admission there is no session: such commands are idempotent by content.
    pub fn begin(&self) -> Ticket<'_> {
        self.begin_as(None)
    }

    /// An identity that is kept: the one that the command had before, where that can still be answered.
    pub fn begin_kept(&self, identity: &dyn CommandIdentity) -> Ticket<'_> {
        self.begin_as(Some(identity))
    }

    fn begin_as(&self, identity: Option<&dyn CommandIdentity>) -> Ticket<'_> {
        let mut inner = self.lock();
        let incarnation = inner.incarnation;
        if incarnation == Incarnation(0) {
            return Ticket {
                session: self,
                id: SessionId(0),
                seq: 0,
                done_through: 0,
                incarnation,
                start: 0,
                kept: false,
                asked_before: false,
            };
        }
        let before = identity.and_then(CommandIdentity::before);
        let seq = match before.filter(|seq| inner.open.contains(seq)) {
            Some(seq) => seq,
            None => {
                inner.last += 1;
                // A seq is kept before it is used, the session's before the command's.
                self.save(&inner);
                let seq = inner.last;
                inner.open.insert(seq);
                if let Some(given_up) = identity.and_then(|identity| identity.note(seq)) {
                    inner.open.remove(&given_up);
                }
                seq
            }
        };
        let done_through = match inner.known {
            true => inner.open.first().copied().unwrap_or(seq) - 1,
            false => 0,
        };
        Ticket {
            session: self,
            id: inner.id,
            seq,
            done_through,
            incarnation,
            start: inner.start,
            kept: identity.is_some(),
            asked_before: before.is_some(),
        }
    }

    /// Nobody asks for the answer of a kept command any more.
    pub fn forget(&self, seq: u64) {
        self.lock().open.remove(&seq);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// The command was done, and its answer is kept in the agreed state.
    pub fn done(&self) {
        let mut inner = self.session.lock();
        if inner.id == self.id && !inner.known {
            inner.known = true;
            self.session.save(&inner);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut inner = self.session.lock();
        if inner.id == self.id && !self.kept {
            inner.open.remove(&self.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_forgotten_only_when_all_before_are_in() {
        let session = Session::new(SessionId(7), None);
        session.set_incarnation(Incarnation(3), 1);
        let first = session.begin();
        let second = session.begin();
        assert_eq!(
            (
                first.seq,
                first.done_through,
                second.seq,
                second.done_through
            ),
            (1, 0, 2, 0)
        );
        drop(second);
        assert_eq!(session.begin().done_through, 0, "the first still waits");
        first.done();
        drop(first);
        let later = session.begin();
        assert_eq!(
            (later.seq, later.done_through, later.incarnation),
            (4, 3, Incarnation(3))
        );
    }

    #[test]
    fn what_was_given_up_before_any_answer_came_is_not_said_to_be_done() {
        let session = Session::new(SessionId(7), None);
        session.set_incarnation(Incarnation(3), 1);
        drop(session.begin());
        let second = session.begin();
        assert_eq!((second.seq, second.done_through), (2, 0));
        second.done();
        drop(second);
        assert_eq!(session.begin().done_through, 2);
    }

    #[test]
    fn a_new_incarnation_counts_anew() {
        let session = Session::new(SessionId(7), None);
        session.set_incarnation(Incarnation(3), 1);
        drop(session.begin());
        let late = session.begin();
        session.renew(SessionId(8));
        session.set_incarnation(Incarnation(4), 1);
        let first = session.begin();
        drop(late);
        let second = session.begin();
        assert_eq!(
            (first.id, first.seq, first.done_through, first.incarnation),
            (SessionId(8), 1, 0, Incarnation(4))
        );
        assert_eq!(
            (second.seq, second.done_through),
            (2, 0),
            "the first still waits"
        );
    }

    #[test]
    fn no_session_before_admission() {
        let session = Session::new(SessionId(7), None);
        let ticket = session.begin();
        assert_eq!(
            (ticket.id, ticket.seq, ticket.incarnation),
            (SessionId(0), 0, Incarnation(0))
        );
    }

    #[derive(Default)]
    struct Kept(Mutex<(SessionId, u64, bool)>);

    impl SessionKeeper for Kept {
        fn save(&self, id: SessionId, last: u64, known: bool) {
            *self.0.lock().expect("whole") = (id, last, known);
        }
    }

    impl Kept {
        fn saved(&self) -> (SessionId, u64, bool) {
            *self.0.lock().expect("whole")
        }
    }

    /// The identity of one command, in a place that outlives the worker.
    #[derive(Default)]
    struct Place {
        before: Mutex<Option<u64>>,
        seq: Mutex<Option<u64>>,
    }

    impl CommandIdentity for Place {
        fn before(&self) -> Option<u64> {
            self.before.lock().expect("whole").take()
        }

        fn note(&self, seq: u64) -> Option<u64> {
            self.seq.lock().expect("whole").replace(seq)
        }
    }

    #[test]
    fn a_later_worker_goes_on_with_the_session_and_asks_for_what_was_open() {
        let kept = Arc::new(Kept::default());
        let keeper: Arc<dyn SessionKeeper> = kept.clone();
        let first = Session::new(
            SessionId(7),
            Some(KeptSession {
                keeper: keeper.clone(),
                resumed: None,
            }),
        );
        first.set_incarnation(Incarnation(3), 1);
        first.begin().done();
        let place = Place::default();
        drop(first.begin_kept(&place));
        let lost = first.begin();
        assert_eq!(first.begin().done_through, 1, "a kept one stays open");
        assert_eq!((lost.seq, kept.saved()), (3, (SessionId(7), 4, true)));
        drop(lost);

        let (id, last, known) = kept.saved();
        let resumed = Resumed {
            id,
            last,
            known,
            open: BTreeSet::from([2]),
        };
        let second = Session::new(
            SessionId(8),
            Some(KeptSession {
                keeper,
                resumed: Some(resumed),
            }),
        );
        second.set_incarnation(Incarnation(3), 1);
        assert_eq!(second.life(), 8, "leases are of the worker");
        *place.before.lock().expect("whole") = Some(2);
        let again = second.begin_kept(&place);
        assert_eq!(
            (again.id, again.seq, again.done_through),
            (SessionId(7), 2, 1)
        );
        drop(again);
        let next = second.begin_kept(&place);
        assert_eq!(
            (next.seq, next.done_through),
            (5, 4),
            "the first is given up"
        );
        drop(next);
        second.forget(5);
        assert_eq!(second.begin().done_through, 5);
    }
}
