//! The one door: an envelope goes in, an answer and events come out.

use crate::{
    Event, State,
    admit::Start,
    namespace::{Asks, Make, Move, NewAcl},
};
use hydfs_types::{Command, CommandError, Envelope, Incarnation, LogIndex, Reply};

/// Issues the next id of a counter. The first is 1; none is issued twice (I11).
pub(crate) fn issue(counter: &mut u64) -> u64 {
    let id = (*counter).max(1);
    *counter = id + 1;
    id
}

impl State {
    /// Applies one command exactly once. What changed is added to `events` in the order of the changes.
    ///
    /// # Errors
    /// A refusal is an answer like any other: it is final, stored for retries, and changed nothing.
    pub fn apply(
        &mut self,
        index: LogIndex,
        envelope: &Envelope,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        self.index = index;
        self.time = envelope.time.after(self.time);
        self.may_ask(envelope)?;
        if let Some(answer) = self.answered(envelope) {
            return answer;
        }
        let answer = self.decide(&envelope.command, events);
        self.fence_shrunk(events);
        self.remember(envelope, &answer);
        answer
    }

    /// An entry of the log that holds no command (a new leader's blank, a change of voters).
    pub fn skip(&mut self, index: LogIndex) {
        self.index = index;
    }

    /// What a process proposed does not come through after the next process of its incarnation has begun: that one
    /// knows of nothing that is on its way (R12).
    fn may_ask(&self, envelope: &Envelope) -> Result<(), CommandError> {
        let asker = envelope.incarnation;
        if asker == Incarnation(0) {
            return Ok(());
        }
        let member = self.cluster.alive.get(&asker);
        let member = member.and_then(|id| self.cluster.members.get(id));
        match member {
            Some(member) if member.said.start_count <= envelope.start => Ok(()),
            _ => Err(CommandError::Ended(asker)),
        }
    }

    fn decide(
        &mut self,
        command: &Command,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        match command {
            Command::Bootstrap { cluster, copies } => self.bootstrap(*cluster, *copies, events),
            Command::Admit(said) => self.admit(said, Start::Anew, events),
            Command::TakeOver(said) => self.admit(said, Start::TakesOver, events),
            Command::Expire {
                incarnations,
                why: _,
            } => self.expire(incarnations, events),
            Command::Leave {
                incarnation,
                forever,
                kept,
            } => self.leave(*incarnation, *forever, *kept, events),
            Command::Configure { changes } => self.configure(changes, events),
            Command::Promote { learners } => self.promote(learners, events),
            Command::Set { key, value } => self.set(key, value, events),
            Command::Lock {
                ino,
                incarnation,
                lock,
            } => self.lock(*ino, *incarnation, *lock, events),
            Command::Unlock {
                ino,
                incarnation,
                owner,
                start,
                end,
            } => self.unlock(*ino, *incarnation, *owner, (*start, *end), events),
            Command::Drain { incarnation, on } => self.drain(*incarnation, *on, events),
            Command::MarkFull { incarnation, full } => self.mark_full(*incarnation, *full, events),
            Command::Create {
                parent,
                name,
                kind,
                mode,
                uid,
                gid,
                rdev,
                target,
                grant,
                umask,
            } => {
                let make = Make {
                    parent: *parent,
                    name,
                    kind: *kind,
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    rdev: *rdev,
                    target,
                    grant: *grant,
                    umask: *umask,
                };
                self.create(&make, events)
            }
            Command::Link { ino, parent, name } => self.link(*ino, *parent, name, events),
            Command::Unlink { parent, name, dir } => self.unlink(*parent, name, *dir, None, events),
            Command::UnlinkAs {
                parent,
                name,
                dir,
                caller,
            } => self.unlink(*parent, name, *dir, Some(*caller), events),
            Command::Rename {
                parent,
                name,
                to_parent,
                to_name,
                no_replace,
                exchange,
            } => {
                let what = Move {
                    parent: *parent,
                    name,
                    to_parent: *to_parent,
                    to_name,
                    no_replace: *no_replace,
                    exchange: *exchange,
                    caller: None,
                };
                self.rename(&what, events)
            }
            Command::RenameAs {
                parent,
                name,
                to_parent,
                to_name,
                no_replace,
                exchange,
                caller,
            } => {
                let what = Move {
                    parent: *parent,
                    name,
                    to_parent: *to_parent,
                    to_name,
                    no_replace: *no_replace,
                    exchange: *exchange,
                    caller: Some(*caller),
                };
                self.rename(&what, events)
            }
            Command::SetAttr { ino, set } => self.set_attr(*ino, set, Asks::default(), events),
            Command::SetAttrAs {
                ino,
                set,
                owner,
                clear_set_id,
            } => {
                let asks = Asks {
                    owner: *owner,
                    clear_set_id: *clear_set_id,
                };
                self.set_attr(*ino, set, asks, events)
            }
            Command::SetXattr {
                ino,
                name,
                value,
                mode,
            } => self.set_xattr(*ino, name, value, *mode, events),
            Command::SetAcl {
                ino,
                default,
                list,
                owner,
                set_gid,
            } => {
                let new = NewAcl {
                    default: *default,
                    list,
                    owner: *owner,
                    set_gid: *set_gid,
                };
                self.set_acl(*ino, &new, events)
            }
            Command::RemoveXattr { ino, name } => self.remove_xattr(*ino, name, events),
            Command::ReleaseOrphans { incarnation, inos } => {
                self.release_orphans(*incarnation, inos, events)
            }
            Command::Grant {
                ino,
                incarnation,
                job,
            } => self.grant(*ino, *incarnation, *job, events),
            Command::Extend { ino, starts } => self.extend(*ino, starts, events),
            Command::End { ends } => self.end(ends, events),
            Command::Merge { incarnation, items } => self.merge(*incarnation, items, events),
            Command::Truncate {
                ino,
                size,
                sole,
                versions,
            } => self.truncate(*ino, *size, *sole, versions, events),
            Command::Grow {
                ino,
                size,
                sole,
                versions,
            } => self.grow(*ino, *size, *sole, versions, events),
            Command::Job(command) => self.job(command, events),
            Command::Fence { writer } => self.fence(*writer, events),
            Command::SetQuota { dir, limit, most } => self.set_quota(*dir, *limit, *most, events),
            Command::Reserve {
                writer,
                bytes,
                spare,
                instead_of,
            } => self.reserve(*writer, *bytes, *spare, *instead_of),
            Command::Reclaim { ino } => self.reclaim(*ino, events),
        }
    }
}
