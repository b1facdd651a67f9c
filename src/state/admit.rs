//! Admission of members (R12): who is new, who resumes, who comes back as somebody else.

use crate::{Event, Life, State, WriterPhase, apply::issue};
use hydfs_types::{
    Admission, Admitted, CommandError, Incarnation, MemberId, MemberInfo, NAME_BYTES_MAX, Reply,
};
use std::collections::BTreeSet;

/// How a worker begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Whoever used the mount of the worker before is gone.
    Anew,
    /// The mount lives: locks are held, and calls wait for what became of their records.
    TakesOver,
}

impl State {
    pub(crate) fn admit(
        &mut self,
        said: &Admission,
        start: Start,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let known = self.admissible(said)?;
        let admitted = match known {
            Some(id) => self.admit_known(id, said, start, events),
            None => {
                self.give_up_name(said);
                let id = MemberId(issue(&mut self.cluster.next_member));
                self.new_life(id, said, events)
            }
        };
        Ok(Reply::Admitted(admitted))
    }

    /// The member with this storage, if there is one, or why it may not come in.
    fn admissible(&self, said: &Admission) -> Result<Option<MemberId>, CommandError> {
        let refuse = |why: String| Err(CommandError::Admission(why));
        if self.cluster.id.is_none() {
            return refuse("there is no cluster here yet: bootstrap one first".to_owned());
        }
        if said.name.is_empty() || said.name.len() > NAME_BYTES_MAX {
            return refuse(format!("a member's name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        let members = self.cluster.members.values();
        if let Some(other) = members
            .clone()
            .find(|m| m.alive && m.said.name == said.name && m.said.storage != said.storage)
        {
            return refuse(format!(
                "the name {:?} belongs to the live member {} at {} with another data folder: choose another name, \
                 or stop that member and wait until it is expired",
                said.name, other.id, other.said.addr
            ));
        }
        let Some(member) = members.clone().find(|m| m.said.storage == said.storage) else {
            return Ok(None);
        };
        // Asked again because the answer was lost; it may have been expired meanwhile, and then it begins a new life.
        let repeated = !member.left && member.said == *said;
        if !repeated && said.start_count <= member.said.start_count {
            return refuse(format!(
                "this data folder is a copy or was rolled back: it counts {} starts where the cluster has seen {}. \
                 Stop the other process on it, or start with an empty data folder",
                said.start_count, member.said.start_count
            ));
        }
        // An end that was agreed and that this folder does not have: it is a copy from before it.
        if said.last < member.kept {
            return refuse(format!(
                "this data folder was rolled back: its agreement log ends at {}, and at its clean stop it had it up to {}. \
                 Start with an empty data folder",
                said.last, member.kept
            ));
        }
        Ok(Some(member.id))
    }

    fn admit_known(
        &mut self,
        id: MemberId,
        said: &Admission,
        start: Start,
        events: &mut Vec<Event>,
    ) -> Admitted {
        let member = &self.cluster.members[&id];
        let (incarnation, alive) = (member.incarnation, member.alive);
        if alive && member.said == *said {
            // The answer was lost: the same one again.
            let resumed = self
                .cluster
                .lives
                .get(&incarnation)
                .is_some_and(|life| life.started < said.start_count);
            return Admitted {
                member: id,
                incarnation,
                resumed,
            };
        }
        self.give_up_name(said);
        if alive && self.cluster.members[&id].said.boot == said.boot {
            self.member_mut(id).said = said.clone();
            self.map_changed();
            if start == Start::Anew {
                self.give_up_unread(id, events);
            }
            let index = self.index;
            let life = self.cluster.lives.get_mut(&incarnation);
            life.expect("a live incarnation has a life").admitted = index;
            // The process that held them is gone, and with it the seqs that they had given out.
            let held = self.names.writers.iter().filter(|(_, writer)| {
                writer.incarnation == incarnation && writer.phase == WriterPhase::Open
            });
            let held: BTreeSet<_> = held.map(|(id, _)| *id).collect();
            self.fence_writers(&held, events);
            if start == Start::Anew {
                self.end_locks(|one| one == incarnation, events);
            }
            events.push(Event::Members);
            return Admitted {
                member: id,
                incarnation,
                resumed: true,
            };
        }
        if alive {
            self.end_incarnations(&BTreeSet::from([incarnation]), events);
        }
        self.new_life(id, said, events)
    }

    fn member_mut(&mut self, id: MemberId) -> &mut MemberInfo {
        self.cluster
            .members
            .get_mut(&id)
            .expect("members are never removed")
    }

    /// A dead member keeps its entry, not its name, when another data folder comes under it. It has left: nobody waits for a
    /// machine that was replaced.
    fn give_up_name(&mut self, said: &Admission) {
        for member in self.cluster.members.values_mut() {
            if member.said.name == said.name && member.said.storage != said.storage {
                member.left |= !member.alive;
                member.said.name = format!("{} (gone {})", said.name, member.id);
            }
        }
    }

    /// What was fenced before a member's last admission, it had the time to read since.
    fn give_up_unread(&mut self, id: MemberId, events: &mut Vec<Event>) {
        let Some(member) = self.cluster.members.get(&id) else {
            return;
        };
        let last = self
            .cluster
            .lives
            .get(&member.incarnation)
            .map(|life| life.admitted);
        self.read_fenced(id, last.unwrap_or_default(), events);
    }

    fn new_life(&mut self, id: MemberId, said: &Admission, events: &mut Vec<Event>) -> Admitted {
        self.give_up_unread(id, events);
        let before = self.cluster.members.get(&id);
        let draining = before.is_some_and(|member| member.draining && !member.left);
        let kept = before.map(|member| member.kept).unwrap_or_default();
        let incarnation = Incarnation(issue(&mut self.cluster.next_incarnation));
        let member = MemberInfo {
            id,
            said: said.clone(),
            incarnation,
            alive: true,
            full: false,
            left: false,
            draining,
            kept,
        };
        self.cluster.members.insert(id, member);
        self.cluster.alive.insert(incarnation, id);
        let life = Life {
            member: id,
            boot: said.boot,
            started: said.start_count,
            admitted: self.index,
        };
        self.cluster.lives.insert(incarnation, life);
        let changed = if self.cluster.slots.is_empty() {
            self.first_configs(incarnation)
        } else {
            self.readmit(incarnation, life)
        };
        self.prune_lives();
        self.map_changed();
        events.push(Event::Members);
        if !changed.is_empty() {
            events.push(Event::Slots(changed));
        }
        Admitted {
            member: id,
            incarnation,
            resumed: false,
        }
    }
}
