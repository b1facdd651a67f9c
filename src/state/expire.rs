//! The end of incarnations (R1): one command ends everything they held.

use crate::{Event, State, WriterPhase};
use hydfs_types::{CommandError, Incarnation, LogIndex, Reply};
use std::collections::BTreeSet;

impl State {
    pub(crate) fn expire(
        &mut self,
        incarnations: &[Incarnation],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.end_incarnations(&incarnations.iter().copied().collect(), events);
        Ok(Reply::Done)
    }

    pub(crate) fn leave(
        &mut self,
        incarnation: Incarnation,
        forever: bool,
        kept: LogIndex,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let member = self
            .cluster
            .members
            .values_mut()
            .find(|m| m.incarnation == incarnation)
            .ok_or(CommandError::Ended(incarnation))?;
        let (id, alive, news) = (member.id, member.alive, forever && !member.left);
        member.left |= forever;
        member.kept = member.kept.max(kept);
        if news && !alive {
            self.map_changed();
            events.push(Event::Members);
        }
        self.end_incarnations(&BTreeSet::from([incarnation]), events);
        if forever {
            let all = LogIndex(self.index.0 + 1);
            self.read_fenced(id, all, events);
        }
        Ok(Reply::Done)
    }

    /// Ends those of `incarnations` that live. All of a command end together: a slot loses them in one step.
    pub(crate) fn end_incarnations(
        &mut self,
        incarnations: &BTreeSet<Incarnation>,
        events: &mut Vec<Event>,
    ) {
        let mut ended = BTreeSet::new();
        for incarnation in incarnations {
            if let Some(member) = self.cluster.alive.remove(incarnation) {
                self.cluster
                    .members
                    .get_mut(&member)
                    .expect("a live incarnation has a member")
                    .alive = false;
                ended.insert(*incarnation);
            }
        }
        if ended.is_empty() {
            return;
        }
        events.push(Event::Members);
        let changed = self.leave_slots(&ended);
        if !changed.is_empty() {
            events.push(Event::Slots(changed));
        }
        self.map_changed();
        self.sessions
            .retain(|_, session| !ended.contains(&session.incarnation));
        let open = self
            .names
            .writers
            .iter()
            .filter(|(_, w)| w.phase == WriterPhase::Open && ended.contains(&w.incarnation))
            .map(|(id, _)| *id)
            .collect();
        self.fence_writers(&open, events);
        self.release_rooms(&ended);
        self.end_locks(|one| ended.contains(&one), events);
        for ino in self.names.orphans.clone() {
            self.release_orphan(ino, &ended, events);
        }
        self.prune_lives();
    }
}
