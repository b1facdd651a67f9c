//! The agreed state on this member: applied under a lock, and told to those who follow it.

use hydfs_agreement::StateMachine;
use hydfs_data::{Data, SharedState};
use hydfs_fs::Volume;
use hydfs_state::{Event, State};
use hydfs_types::{CommandError, Envelope, Incarnation, LogIndex, Reply};
use std::sync::{Arc, OnceLock, PoisonError};
use tokio::sync::watch;

/// Who follows the state. Filled in as the member's parts start; each catches up with what it missed when it does.
pub struct Followers {
    pub data: OnceLock<Arc<Data>>,
    pub volume: OnceLock<Arc<Volume>>,
    /// Index of the last change of members or settings.
    pub members: watch::Sender<LogIndex>,
    /// Index of the last change of jobs, or of anything in the directory of jobs.
    pub jobs: watch::Sender<LogIndex>,
}

impl Followers {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            data: OnceLock::new(),
            volume: OnceLock::new(),
            members: watch::channel(LogIndex(0)).0,
            jobs: watch::channel(LogIndex(0)).0,
        })
    }

    /// Before anybody sees the change: under the state's lock.
    fn note(&self, index: LogIndex, events: &[Event]) {
        if let Some(data) = self.data.get() {
            data.ctx.note(index, events);
        }
        if let Some(volume) = self.volume.get() {
            volume.note_acls(events);
        }
    }

    fn tell(&self, index: LogIndex, events: &[Event], by: Incarnation) {
        if events.is_empty() {
            return;
        }
        if let Some(data) = self.data.get() {
            data.on_events(events);
        }
        if let Some(volume) = self.volume.get() {
            volume.on_events(events, by);
        }
        if events
            .iter()
            .any(|event| matches!(event, Event::Members | Event::Slots(_) | Event::Replaced))
        {
            self.members.send_replace(index);
        }
        let of_jobs =
            |event: &Event| matches!(event, Event::Job(_) | Event::Members | Event::Replaced);
        if events.iter().any(of_jobs) {
            self.jobs.send_replace(index);
        }
    }
}

/// [`StateMachine`] over the shared state.
pub struct Machine {
    pub state: SharedState,
    pub followers: Arc<Followers>,
}

impl StateMachine for Machine {
    fn apply(&mut self, index: LogIndex, envelope: Envelope) -> Result<Reply, CommandError> {
        let mut events = Vec::new();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let reply = state.apply(index, &envelope, &mut events);
        self.followers.note(index, &events);
        drop(state);
        self.followers.tell(index, &events, envelope.incarnation);
        reply
    }

    fn skip(&mut self, index: LogIndex) {
        self.state
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .skip(index);
    }

    fn snapshot(&self) -> Vec<u8> {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .snapshot()
    }

    fn restore(&mut self, bytes: &[u8], index: LogIndex) -> Result<(), String> {
        let mut restored = State::restore(bytes).map_err(|error| error.to_string())?;
        restored.index = index;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        restored.planted = state.planted;
        *state = restored;
        self.followers.note(index, &[Event::Replaced]);
        drop(state);
        self.followers
            .tell(index, &[Event::Replaced], Incarnation(0));
        Ok(())
    }
}
