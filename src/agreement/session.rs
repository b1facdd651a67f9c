//! This member as a client of the group: the identity that each command carries (R15).

use hydfs_types::{Incarnation, SessionId};
use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Numbers commands and knows which of them still wait for an answer.
#[derive(Debug)]
pub struct Session {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    id: SessionId,
    incarnation: Incarnation,
    last: u64,
    open: BTreeSet<u64>,
    /// The agreed state has this session: an answer of it came. Before that nothing is said of earlier commands, since
    /// those that were given up may never have been there, and a session that begins in the middle is refused.
    known: bool,
}

/// The identity of one command, the same for all its retries. Dropped when nobody waits for its answer any more.
#[derive(Debug)]
pub struct Ticket<'a> {
    session: &'a Session,
    pub id: SessionId,
    pub seq: u64,
    pub done_through: u64,
    pub incarnation: Incarnation,
}

impl Session {
    pub fn new(id: SessionId) -> Self {
        Self {
            inner: Mutex::new(Inner {
                id,
                ..Inner::default()
            }),
        }
    }

    /// What commands are asked as from now on.
    pub fn set_incarnation(&self, incarnation: Incarnation) {
        self.lock().incarnation = incarnation;
    }

    /// Which life of this member it is; 0 before it is admitted.
    pub fn life(&self) -> u64 {
        let inner = self.lock();
        match inner.incarnation {
            Incarnation(0) => 0,
            _ => inner.id.0,
        }
    }

    /// Begins a new session; its commands wait for [`Session::set_incarnation`]. The answers of a session
    /// are forgotten with its incarnation (R15): going on with its numbers would look like a retry of something lost.
    pub fn renew(&self, id: SessionId) {
        *self.lock() = Inner {
            id,
            ..Inner::default()
        };
    }

    /// An identity for a new command. Before admission there is no session: such commands are idempotent by content.
    pub fn begin(&self) -> Ticket<'_> {
        let mut inner = self.lock();
        let incarnation = inner.incarnation;
        if incarnation == Incarnation(0) {
            return Ticket {
                session: self,
                id: SessionId(0),
                seq: 0,
                done_through: 0,
                incarnation,
            };
        }
        inner.last += 1;
        let seq = inner.last;
        inner.open.insert(seq);
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
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// The command was done, and its answer is kept in the agreed state.
    pub fn done(&self) {
        let mut inner = self.session.lock();
        inner.known |= inner.id == self.id;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut inner = self.session.lock();
        if inner.id == self.id {
            inner.open.remove(&self.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_forgotten_only_when_all_before_are_in() {
        let session = Session::new(SessionId(7));
        session.set_incarnation(Incarnation(3));
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
        let session = Session::new(SessionId(7));
        session.set_incarnation(Incarnation(3));
        drop(session.begin());
        let second = session.begin();
        assert_eq!((second.seq, second.done_through), (2, 0));
        second.done();
        drop(second);
        assert_eq!(session.begin().done_through, 2);
    }

    #[test]
    fn a_new_incarnation_counts_anew() {
        let session = Session::new(SessionId(7));
        session.set_incarnation(Incarnation(3));
        drop(session.begin());
        let late = session.begin();
        session.renew(SessionId(8));
        session.set_incarnation(Incarnation(4));
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
        let session = Session::new(SessionId(7));
        let ticket = session.begin();
        assert_eq!(
            (ticket.id, ticket.seq, ticket.incarnation),
            (SessionId(0), 0, Incarnation(0))
        );
    }
}
