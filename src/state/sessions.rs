//! The window of answers (R15): a retry is answered as the first time, never applied again.

use crate::{Session, State};
use hydfs_types::{Applied, CommandError, Envelope, Incarnation, Reply, SessionId};

/// Answers kept per session; beyond it the oldest are forgotten and their retries answer `WindowPassed`.
pub const WINDOW_ANSWERS_MAX: usize = 4096;
/// Worker lives of one incarnation whose windows are kept; beyond it the one idle for longest goes.
pub const SESSIONS_PER_INCARNATION_MAX: usize = 8;

type Answer = Result<Reply, CommandError>;

fn has_session(envelope: &Envelope) -> bool {
    envelope.session != SessionId(0) && envelope.incarnation != Incarnation(0)
}

impl State {
    /// The answer of a command that was applied before, or that is older than the window.
    pub(crate) fn answered(&mut self, envelope: &Envelope) -> Option<Answer> {
        if !has_session(envelope) {
            return None;
        }
        let passed = Some(Err(CommandError::WindowPassed));
        let Some(session) = self.sessions.get_mut(&envelope.session) else {
            // A client that has answers of a session unknown here outlived its window: what it retries may be applied.
            return if envelope.done_through > 0 || envelope.seq == 0 {
                passed
            } else {
                None
            };
        };
        session.done_through = session.done_through.max(envelope.done_through);
        session.answers = session
            .answers
            .split_off(&session.done_through.saturating_add(1));
        if envelope.seq <= session.done_through {
            return passed;
        }
        session
            .answers
            .get(&envelope.seq)
            .map(|applied| applied.reply.clone())
    }

    /// Keeps the answer while its incarnation lives.
    pub(crate) fn remember(&mut self, envelope: &Envelope, answer: &Answer) {
        if !has_session(envelope) || !self.cluster.alive.contains_key(&envelope.incarnation) {
            return;
        }
        if !self.sessions.contains_key(&envelope.session) {
            self.make_room(envelope.incarnation);
        }
        let session = self
            .sessions
            .entry(envelope.session)
            .or_insert_with(|| Session {
                incarnation: envelope.incarnation,
                ..Session::default()
            });
        session.answers.insert(
            envelope.seq,
            Applied {
                index: self.index,
                reply: answer.clone(),
            },
        );
        if session.answers.len() > WINDOW_ANSWERS_MAX
            && let Some((oldest, _)) = session.answers.pop_first()
        {
            session.done_through = session.done_through.max(oldest);
        }
    }

    fn make_room(&mut self, incarnation: Incarnation) {
        let mut idle: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.incarnation == incarnation)
            .map(|(id, session)| {
                (
                    session.answers.values().map(|applied| applied.index).max(),
                    *id,
                )
            })
            .collect();
        idle.sort();
        let excess = (idle.len() + 1).saturating_sub(SESSIONS_PER_INCARNATION_MAX);
        for (_, id) in idle.into_iter().take(excess) {
            self.sessions.remove(&id);
        }
    }
}
