//! Questions that the rest of a member asks of its local copy.

use crate::{FileBody, Inode, Place, Segment, State, Writer};
use hydfs_types::{
    CommandError, Digest, DirEntry, Incarnation, Ino, MemberId, MemberInfo, NAME_BYTES_MAX,
    ROOT_INO, SegmentId, SlotConfig, SlotId, WriterId,
};

/// What there is in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub inodes: u64,
    /// Bytes of all files, copies not counted.
    pub bytes: u64,
}

impl State {
    /// The inode of a name. `.` and `..` are the caller's.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Ino, CommandError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(CommandError::NameTooLong);
        }
        self.names.entry(parent, name)
    }

    /// An inode that is not gone; orphans are found too.
    pub fn inode(&self, ino: Ino) -> Result<&Inode, CommandError> {
        self.names.inodes.get(&ino).ok_or(CommandError::Stale(ino))
    }

    /// At most `limit` entries after this cookie, 0 from the start. Cookies 1 and 2 are left for `.` and `..`.
    pub fn read_dir(
        &self,
        ino: Ino,
        after_cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirEntry>, CommandError> {
        let directory = self.names.directory(ino)?;
        let after = (
            std::ops::Bound::Excluded(after_cookie),
            std::ops::Bound::Unbounded,
        );
        let entries = directory
            .order
            .range(after)
            .take(limit)
            .map(|(cookie, name)| {
                let ino = directory.entries[name].ino;
                DirEntry {
                    name: name.clone(),
                    ino,
                    kind: self.names.inodes[&ino].attr.kind,
                    cookie: *cookie,
                }
            });
        Ok(entries.collect())
    }

    /// The agreed config of a slot; `None` before the first member.
    pub fn config(&self, slot: SlotId) -> Option<&SlotConfig> {
        self.cluster.slots.get(&slot)
    }

    /// As [`crate::slot_of`].
    pub fn slot_of(key: &Digest, segment_index: u64) -> SlotId {
        crate::slot_of(key, segment_index)
    }

    /// A regular file.
    pub fn file(&self, ino: Ino) -> Result<(&Inode, &FileBody), CommandError> {
        Ok((self.inode(ino)?, self.names.regular(ino)?))
    }

    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.names.segments.get(&id)
    }

    pub fn writer(&self, id: WriterId) -> Option<&Writer> {
        self.names.writers.get(&id)
    }

    /// Nothing is or can become pending in this segment. A segment that is gone is clean.
    pub fn is_clean_segment(&self, id: SegmentId) -> bool {
        self.segment(id).is_none_or(|segment| {
            let file = self.names.regular(segment.ino);
            segment.settled()
                && file
                    .is_ok_and(|file| file.writers.is_empty() && !self.has_unsent(file, |_| true))
        })
    }

    /// Whether one of these members lives and may have answered writes under a writer that was fenced since.
    pub fn has_unsent(&self, file: &FileBody, of: impl Fn(Incarnation) -> bool) -> bool {
        let owner = |id| self.names.writers.get(id).map(|writer| writer.incarnation);
        let mut owners = file.unread.iter().filter_map(owner);
        owners.any(|owner| of(owner) && self.is_alive(owner))
    }

    /// Nothing is or can become pending in this file: its attributes are exact.
    pub fn is_clean_file(&self, ino: Ino) -> bool {
        self.names.regular(ino).map_or(true, |file| {
            file.writers.is_empty()
                && !self.has_unsent(file, |_| true)
                && file
                    .segments
                    .values()
                    .all(|id| self.names.segments[id].settled())
        })
    }

    /// Where an offset of a regular file stands.
    pub fn place(&self, ino: Ino, offset: u64) -> Result<Place, CommandError> {
        Ok(self.names.place(self.names.regular(ino)?, offset))
    }

    /// A path from the root, one of them where there are several; `None` for orphans and what is gone.
    /// Bytes that are not UTF-8 are shown as U+FFFD: for people, not for opening.
    pub fn path_of(&self, ino: Ino) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT_INO {
            let (parent, cookie) = self.names.inodes.get(&at)?.names.first()?;
            let name = self.names.directory(*parent).ok()?.order.get(cookie)?;
            names.push(String::from_utf8_lossy(name).into_owned());
            at = *parent;
        }
        self.names.inodes.get(&ROOT_INO)?;
        names.reverse();
        Some(format!("/{}", names.join("/")))
    }

    pub fn member(&self, id: MemberId) -> Option<&MemberInfo> {
        self.cluster.members.get(&id)
    }

    pub fn member_named(&self, name: &str) -> Option<&MemberInfo> {
        self.cluster
            .members
            .values()
            .find(|member| member.said.name == name)
    }

    /// The member behind an incarnation that lives, or that a slot config still names.
    pub fn member_of(&self, incarnation: Incarnation) -> Option<&MemberInfo> {
        self.member(self.cluster.lives.get(&incarnation)?.member)
    }

    /// Whether this incarnation is admitted and not ended.
    pub fn is_alive(&self, incarnation: Incarnation) -> bool {
        self.cluster.alive.contains_key(&incarnation)
    }

    pub fn stat_fs(&self) -> Totals {
        Totals {
            inodes: self.names.inodes.len() as u64,
            bytes: self.names.bytes,
        }
    }
}
