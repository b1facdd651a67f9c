//! Consistency of the agreed state, for tests and the simulator's oracle. Never called while serving.

use crate::{Acl, Body, FileBody, Inode, Segment, State, WriterPhase, segment_index, slot_of};
use hydfs_types::{ACL_ACCESS, ACL_DEFAULT, FileKind, Ino, ROOT_INO, SLOTS, WriterId};
use std::collections::{BTreeMap, BTreeSet};

type Finding = Result<(), String>;

/// Fails with a text that names what is wrong.
macro_rules! must {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

impl State {
    /// Checks every cross-reference and count. The first finding is told.
    ///
    /// # Errors
    /// A text for a person: the state machine has a bug.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_members()?;
        self.audit_slots()?;
        self.audit_inodes()?;
        self.audit_segments()?;
        self.audit_writers()?;
        self.audit_locks()?;
        self.audit_quotas()?;
        self.audit_sessions()
    }

    fn audit_members(&self) -> Finding {
        let cluster = &self.cluster;
        let mut names = BTreeSet::new();
        let mut storages = BTreeSet::new();
        for (id, member) in &cluster.members {
            must!(member.id == *id, "member {id} calls itself {}", member.id);
            must!(
                names.insert(&member.said.name),
                "two members are named {}",
                member.said.name
            );
            must!(
                storages.insert(member.said.storage),
                "two members have storage {}",
                member.said.storage
            );
            let alive = cluster.alive.get(&member.incarnation) == Some(id);
            must!(
                member.alive == alive,
                "{id} is alive: {}, its incarnation: {alive}",
                member.alive
            );
        }
        for (incarnation, id) in &cluster.alive {
            let member = cluster.members.get(id).map(|member| member.incarnation);
            must!(
                member == Some(*incarnation),
                "{incarnation} lives, but {id} is at {member:?}"
            );
            must!(
                cluster.lives.contains_key(incarnation),
                "{incarnation} lives without a life"
            );
        }
        Ok(())
    }

    fn audit_slots(&self) -> Finding {
        let cluster = &self.cluster;
        must!(
            matches!(cluster.slots.len(), 0 | 4096),
            "{} of {SLOTS} slots",
            cluster.slots.len()
        );
        for (slot, config) in &cluster.slots {
            let mut members = BTreeSet::new();
            for acting in &config.acting {
                let life = cluster.lives.get(&acting.incarnation);
                let Some(life) = life else {
                    return Err(format!("{slot} names the unknown {}", acting.incarnation));
                };
                must!(
                    members.insert(life.member),
                    "{slot} names {} twice",
                    life.member
                );
                let alive = cluster.alive.contains_key(&acting.incarnation);
                must!(
                    alive || config.frozen,
                    "{slot} names the dead {}",
                    acting.incarnation
                );
                must!(
                    !(alive && acting.synced && config.frozen),
                    "{slot} is frozen with a live synced replica"
                );
            }
            must!(
                config.role(config.leader) == Some(true),
                "{slot} is led by {}, not synced",
                config.leader
            );
        }
        Ok(())
    }

    fn audit_inodes(&self) -> Finding {
        let mut named: BTreeMap<Ino, BTreeSet<(Ino, u64)>> = BTreeMap::new();
        let mut bytes = 0;
        for (ino, inode) in &self.names.inodes {
            bytes += inode.attr.stored;
            self.audit_acls(inode)?;
            match &inode.body {
                Body::Directory(directory) => {
                    must!(
                        directory.entries.len() == directory.order.len(),
                        "{ino}: entries and order differ"
                    );
                    for (name, entry) in &directory.entries {
                        must!(
                            directory.order.get(&entry.cookie) == Some(name),
                            "{ino}: {entry:?} out of order"
                        );
                        must!(
                            entry.cookie < directory.next_cookie,
                            "{ino}: cookie {} to come",
                            entry.cookie
                        );
                        named
                            .entry(entry.ino)
                            .or_default()
                            .insert((*ino, entry.cookie));
                    }
                    let children = directory
                        .entries
                        .values()
                        .filter(|e| self.names.is_directory(e.ino))
                        .count();
                    must!(
                        inode.attr.nlink as usize == 2 + children,
                        "{ino}: nlink {}",
                        inode.attr.nlink
                    );
                }
                Body::File(file) => self.audit_file(*ino, file)?,
                Body::Symlink(_) | Body::Special => {}
            }
        }
        must!(
            bytes == self.names.bytes,
            "{bytes} bytes held, {} counted",
            self.names.bytes
        );
        for (ino, inode) in &self.names.inodes {
            let names = named.remove(ino).unwrap_or_default();
            must!(
                names == inode.names,
                "{ino} is named at {names:?}, not {:?}",
                inode.names
            );
            let count = inode.attr.nlink as usize;
            let is_directory = inode.attr.kind == FileKind::Directory;
            must!(
                is_directory || count == names.len(),
                "{ino}: nlink {count}, {} names",
                names.len()
            );
            must!(
                !is_directory || names.len() == usize::from(*ino != ROOT_INO),
                "directory {ino}: {names:?}"
            );
            must!(
                inode.orphan.is_some() == self.names.orphans.contains(ino),
                "{ino}: orphan or not"
            );
            let unnamed = names.is_empty() && *ino != ROOT_INO;
            must!(
                unnamed == inode.orphan.is_some(),
                "{ino} has {} names, orphan: {:?}",
                names.len(),
                inode.orphan
            );
            must!(
                inode.orphan.as_ref().is_none_or(|held| !held.is_empty()),
                "{ino} is held by nobody"
            );
            must!(
                *ino == ROOT_INO || unnamed || self.path_of(*ino).is_some(),
                "{ino} cannot be reached"
            );
        }
        must!(named.is_empty(), "entries without inodes: {named:?}");
        Ok(())
    }

    fn audit_acls(&self, inode: &Inode) -> Finding {
        let (ino, mode) = (inode.attr.ino, inode.attr.mode);
        let is_directory = inode.attr.kind == FileKind::Directory;
        for (name, list) in &inode.xattrs {
            if !name.starts_with(b"system.") {
                continue;
            }
            let acl = Acl::parse(list).ok().flatten();
            let Some(acl) = acl.filter(|acl| acl.bytes() == *list) else {
                return Err(format!("{ino}: {list:?} is no access control list"));
            };
            let fits = match name.as_slice() {
                ACL_ACCESS => acl.mode() == mode & 0o777 && !acl.is_mode_alone(),
                ACL_DEFAULT => is_directory,
                _ => false,
            };
            must!(fits, "{ino}, mode {mode:o}: {acl:?} does not belong there");
        }
        Ok(())
    }

    fn audit_file(&self, ino: Ino, file: &FileBody) -> Finding {
        let attr = &self.names.inodes[&ino].attr;
        for (start, id) in &file.segments {
            let segment = self.names.segments.get(id);
            must!(
                segment.is_some_and(|s| s.ino == ino && s.start == *start),
                "{ino}: {id} is not at {start}"
            );
            let last = file.segments.last_key_value().map(|(start, _)| start) == Some(start);
            must!(
                !(last && segment.is_some_and(|s| s.is_full())),
                "{ino}: the last segment {id} is full"
            );
        }
        let (end, stored) = self.names.extent(file);
        must!(
            attr.size == end.max(file.size_min),
            "{ino}: size {} is not {end} or {}",
            attr.size,
            file.size_min
        );
        must!(
            attr.stored == stored,
            "{ino}: {stored} bytes held, {} counted",
            attr.stored
        );
        let known = |id: &&WriterId| self.names.writers.contains_key(id);
        let lost = file.unread.iter().find(|id| !known(id));
        must!(lost.is_none(), "{ino}: {lost:?} is gone unread");
        for id in &file.writers {
            let writer = self
                .names
                .writers
                .get(id)
                .filter(|w| w.ino == ino && w.phase == WriterPhase::Open);
            let Some(writer) = writer else {
                return Err(format!("{ino}: {id} is no open writer of it"));
            };
            must!(
                self.is_alive(writer.incarnation),
                "{ino}: {id} is open, {} is not",
                writer.incarnation
            );
        }
        Ok(())
    }

    fn audit_locks(&self) -> Finding {
        for (ino, locks) in &self.names.locks {
            must!(
                self.names.inodes.contains_key(ino) && !locks.is_empty(),
                "{ino} has locks and is none, or has no locks and is listed"
            );
            for held in locks.held() {
                let (owner, lock) = (held.incarnation, &held.lock);
                must!(
                    self.is_alive(owner),
                    "{ino}: {owner} holds a lock and has ended"
                );
                must!(
                    locks.in_the_way(owner, lock).is_none(),
                    "{ino}: two locks cannot stand beside each other: {locks:?}"
                );
            }
        }
        Ok(())
    }

    fn audit_segments(&self) -> Finding {
        let mut by_slot: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (id, segment) in &self.names.segments {
            by_slot.entry(segment.slot).or_default().insert(*id);
            let inode = self.names.inodes.get(&segment.ino);
            let Some(inode) = inode else {
                return Err(format!("{id} belongs to no inode"));
            };
            let Body::File(file) = &inode.body else {
                return Err(format!("{id} belongs to no file"));
            };
            must!(
                file.segments.get(&segment.start) == Some(id),
                "{id} is not a segment of its file"
            );
            must!(
                segment.slot == slot_of(&inode.key, segment_index(segment.start)),
                "{id} is in the wrong slot"
            );
            self.audit_lanes(segment)
                .map_err(|text| format!("{id}: {text}"))?;
        }
        must!(by_slot == self.names.by_slot, "segments by slot differ");
        Ok(())
    }

    fn audit_lanes(&self, segment: &Segment) -> Finding {
        let phase = |id| {
            self.names
                .writers
                .get(id)
                .filter(|w| w.ino == segment.ino)
                .map(|w| w.phase)
        };
        for (id, last) in &segment.ended {
            must!(
                phase(id) == Some(WriterPhase::Closed { last: *last }),
                "{id} ended at {last}: {:?}",
                phase(id)
            );
            must!(segment.merged(*id) < *last, "{id} is merged to its end");
        }
        for id in &segment.fenced {
            must!(
                matches!(phase(id), Some(WriterPhase::Fenced { .. })),
                "{id} is not fenced: {:?}",
                phase(id)
            );
        }
        for (id, seq) in &segment.through {
            must!(phase(id).is_some(), "{id} of a base is gone");
            let job = self.names.writers[id].job;
            must!(
                job.is_none_or(|job| *seq <= job.watermark),
                "{id} is merged above its watermark"
            );
        }
        Ok(())
    }

    fn audit_writers(&self) -> Finding {
        for (id, writer) in &self.names.writers {
            let inode = self.names.inodes.get(&writer.ino).map(|inode| &inode.body);
            let Some(Body::File(file)) = inode else {
                return Err(format!("{id} belongs to no file"));
            };
            let live = file.writers.contains(id);
            must!(
                live == (writer.phase == WriterPhase::Open),
                "{id} is {:?}, live: {live}",
                writer.phase
            );
            let waits = file.segments.values().map(|id| &self.names.segments[id]);
            let waits = waits
                .clone()
                .any(|s| s.ended.contains_key(id) || s.fenced.contains(id));
            let unread = file.unread.contains(id);
            must!(live || waits || unread, "{id} is remembered for nothing");
            must!(
                !unread || writer.is_unread(),
                "{id} has been read: {writer:?}"
            );
            let owner = self.cluster.lives.get(&writer.incarnation);
            must!(
                owner.is_some(),
                "{id} belongs to the unknown {}",
                writer.incarnation
            );
        }
        Ok(())
    }

    fn audit_quotas(&self) -> Finding {
        must!(self.shrunk.is_empty(), "a shorter file was forgotten");
        let mut quotas = 0;
        for (ino, inode) in &self.names.inodes {
            match &inode.body {
                Body::Directory(directory) => {
                    let Some(quota) = &directory.quota else {
                        continue;
                    };
                    quotas += 1;
                    let counted = self.names.count_below(*ino, u64::MAX);
                    must!(
                        counted == Ok(quota.used),
                        "{ino}: {counted:?} below it, {:?} counted",
                        quota.used
                    );
                }
                Body::File(file) => {
                    let writers = self.names.writers.values();
                    let own = writers.filter(|writer| writer.ino == *ino);
                    let room: u64 = own.map(|writer| writer.room).sum();
                    must!(
                        room == file.room,
                        "{ino}: its writers have room for {room}, {} counted",
                        file.room
                    );
                }
                Body::Symlink(_) | Body::Special => {}
            }
        }
        must!(
            quotas == self.names.quotas,
            "{quotas} quotas, {} counted",
            self.names.quotas
        );
        Ok(())
    }

    fn audit_sessions(&self) -> Finding {
        for (id, session) in &self.sessions {
            must!(
                self.is_alive(session.incarnation),
                "{id} outlives {}",
                session.incarnation
            );
            let old = session
                .answers
                .first_key_value()
                .is_some_and(|(seq, _)| *seq <= session.done_through);
            must!(!old, "{id} keeps an answer that was received");
        }
        Ok(())
    }
}
