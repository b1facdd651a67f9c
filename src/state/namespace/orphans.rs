//! Unlinked files live until nobody holds them open.

use crate::{Body, Event, State};
use hydfs_types::{CommandError, Incarnation, Ino, Reply};
use std::collections::BTreeSet;

impl State {
    pub(crate) fn release_orphans(
        &mut self,
        incarnation: Incarnation,
        inos: &[Ino],
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let by = BTreeSet::from([incarnation]);
        for ino in inos {
            self.release_orphan(*ino, &by, events);
        }
        Ok(Reply::Done)
    }

    /// These incarnations do not hold it open any more.
    pub(crate) fn release_orphan(
        &mut self,
        ino: Ino,
        by: &BTreeSet<Incarnation>,
        events: &mut Vec<Event>,
    ) {
        let Some(holders) = self
            .names
            .inodes
            .get_mut(&ino)
            .and_then(|inode| inode.orphan.as_mut())
        else {
            return;
        };
        holders.retain(|holder| !by.contains(holder));
        if holders.is_empty() {
            self.remove_inode(ino, events);
        }
    }

    /// An inode without names is gone, and with it its segments and writers.
    pub(crate) fn remove_inode(&mut self, ino: Ino, events: &mut Vec<Event>) {
        let names = &mut self.names;
        let inode = names
            .inodes
            .remove(&ino)
            .expect("callers looked the inode up in this command");
        names.orphans.remove(&ino);
        names.locks.remove(&ino);
        names.bytes -= inode.attr.stored;
        if let Body::Directory(directory) = &inode.body {
            names.quotas -= u64::from(directory.quota.is_some());
        }
        if let Body::File(file) = inode.body {
            let mut writers = file.writers;
            writers.extend(file.unread);
            for id in file.segments.into_values() {
                let segment = names.take_segment(id, events);
                writers.extend(segment.ended.keys());
                writers.extend(segment.fenced);
            }
            for writer in writers {
                names.writers.remove(&writer);
            }
        }
        events.push(Event::Gone(ino));
    }
}
