//! Rename: atomic replace, no-replace and exchange.

use super::{may_move, valid_name};
use crate::{Event, State};
use hydfs_types::{CommandError, Ino, Reply};

/// What `Command::Rename` asks for.
pub(crate) struct Move<'a> {
    pub parent: Ino,
    pub name: &'a [u8],
    pub to_parent: Ino,
    pub to_name: &'a [u8],
    pub no_replace: bool,
    pub exchange: bool,
    /// A user, who has no right over what others own; `None`: anybody may.
    pub caller: Option<u32>,
}

impl State {
    pub(crate) fn rename(
        &mut self,
        what: &Move,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        valid_name(what.name)?;
        valid_name(what.to_name)?;
        let source = self.names.entry(what.parent, what.name)?;
        let target = self.names.entry_if_any(what.to_parent, what.to_name)?;
        match target {
            _ if what.exchange && what.no_replace => {
                return Err(CommandError::Invalid(
                    "exchange and no-replace exclude each other".to_owned(),
                ));
            }
            None if what.exchange => return Err(CommandError::NotFound),
            Some(_) if what.no_replace => return Err(CommandError::Exists),
            Some(target) if target == source => return Ok(Reply::Done),
            _ => {}
        }
        self.may_take(what.parent, source, what.caller)?;
        if let Some(target) = target {
            self.may_take(what.to_parent, target, what.caller)?;
        }
        may_move(what.parent, what.name)?;
        if target.is_some() {
            may_move(what.to_parent, what.to_name)?;
        }
        self.not_into_itself(source, what.to_parent)?;
        if self.names.quotas_at(what.parent) != self.names.quotas_at(what.to_parent) {
            return Err(CommandError::CrossesQuota);
        }
        match target {
            Some(target) if what.exchange => {
                self.not_into_itself(target, what.parent)?;
                self.swap(what);
                self.moved(what, &[source, target], events);
            }
            _ => {
                if let Some(target) = target {
                    self.may_replace(source, target)?;
                }
                self.shift(what, source, target.is_some());
                self.moved(what, &[source], events);
                if let Some(target) = target {
                    self.lost_a_name(target, events);
                }
            }
        }
        Ok(Reply::Done)
    }

    fn not_into_itself(&self, ino: Ino, new_parent: Ino) -> Result<(), CommandError> {
        if self.names.is_directory(ino) && self.names.is_within(new_parent, ino) {
            return Err(CommandError::Invalid(
                "the new place is below the directory itself".to_owned(),
            ));
        }
        Ok(())
    }

    fn may_replace(&self, source: Ino, target: Ino) -> Result<(), CommandError> {
        match (
            self.names.is_directory(source),
            self.names.directory(target),
        ) {
            (true, Ok(directory)) if !directory.entries.is_empty() => Err(CommandError::NotEmpty),
            (true, Err(_)) => Err(CommandError::NotDirectory),
            (false, Ok(_)) => Err(CommandError::IsDirectory),
            _ => Ok(()),
        }
    }

    /// A replaced name keeps its cookie: a listing under way sees it exactly once.
    fn shift(&mut self, what: &Move, source: Ino, replaces: bool) {
        self.names.take_entry(what.parent, what.name);
        let cookie = replaces.then(|| self.names.take_entry(what.to_parent, what.to_name).cookie);
        self.names
            .add_entry(what.to_parent, what.to_name, source, cookie);
    }

    fn swap(&mut self, what: &Move) {
        let one = self.names.take_entry(what.parent, what.name);
        let other = self.names.take_entry(what.to_parent, what.to_name);
        self.names
            .add_entry(what.parent, what.name, other.ino, Some(one.cookie));
        self.names
            .add_entry(what.to_parent, what.to_name, one.ino, Some(other.cookie));
    }

    fn moved(&mut self, what: &Move, inos: &[Ino], events: &mut Vec<Event>) {
        self.entry_changed(what.parent, what.name, events);
        self.entry_changed(what.to_parent, what.to_name, events);
        for ino in inos {
            self.meta_changed(*ino, events);
        }
    }
}
