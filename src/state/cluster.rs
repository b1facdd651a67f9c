//! Bootstrap, settings and what a member says of its disk.

use crate::{Body, DirectoryBody, Event, Inode, State};
use hydfs_types::{
    Attr, ClusterId, CommandError, Digest, FileKind, Incarnation, MapVersion, MemberInfo, ROOT_INO,
    Reply,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most copies that a cluster may keep of everything.
const COPIES_MAX: u8 = 5;
/// Longest key and value of a setting in bytes, and how many there may be.
const SETTING_KEY_BYTES_MAX: usize = 255;
const SETTING_VALUE_BYTES_MAX: usize = 4096;
const SETTINGS_MAX: usize = 1024;

impl State {
    pub(crate) fn bootstrap(
        &mut self,
        cluster: ClusterId,
        copies: u8,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        if self.cluster.id.is_some() {
            return Err(CommandError::Bootstrapped);
        }
        if !(1..=COPIES_MAX).contains(&copies) {
            return Err(CommandError::Invalid(format!(
                "copies = {copies} is not between 1 and {COPIES_MAX}"
            )));
        }
        self.cluster.id = Some(cluster);
        self.cluster.copies = copies;
        self.map_changed();
        self.make_root();
        events.push(Event::Members);
        Ok(Reply::Done)
    }

    fn make_root(&mut self) {
        let now = self.time;
        let attr = Attr {
            ino: ROOT_INO,
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            rdev: 0,
            size: 0,
            stored: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        let root = Inode {
            attr,
            data_version: 0,
            key: Digest::of(b"/"),
            xattrs: BTreeMap::new(),
            body: Body::Directory(DirectoryBody {
                parent: ROOT_INO,
                ..DirectoryBody::default()
            }),
            names: BTreeSet::new(),
            orphan: None,
        };
        self.names.inodes.insert(ROOT_INO, root);
        self.names.next_ino = ROOT_INO.0 + 1;
    }

    pub(crate) fn set(
        &mut self,
        key: &str,
        value: &str,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        if key.is_empty()
            || key.len() > SETTING_KEY_BYTES_MAX
            || value.len() > SETTING_VALUE_BYTES_MAX
        {
            return Err(CommandError::Invalid(format!(
                "setting {key:?} or its value is empty or too long"
            )));
        }
        let settings = &mut self.cluster.settings;
        if settings.len() >= SETTINGS_MAX && !settings.contains_key(key) {
            return Err(CommandError::Invalid(format!(
                "there are {SETTINGS_MAX} settings already"
            )));
        }
        settings.insert(key.to_owned(), value.to_owned());
        events.push(Event::Members);
        Ok(Reply::Done)
    }

    pub(crate) fn mark_full(
        &mut self,
        incarnation: Incarnation,
        full: bool,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let member = self.live_member(incarnation)?;
        if member.full != full {
            member.full = full;
            self.map_changed();
            events.push(Event::Members);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn drain(
        &mut self,
        incarnation: Incarnation,
        on: bool,
        events: &mut Vec<Event>,
    ) -> Result<Reply, CommandError> {
        let member = self.live_member(incarnation)?;
        if member.draining != on {
            member.draining = on;
            self.map_changed();
            events.push(Event::Members);
        }
        Ok(Reply::Done)
    }

    fn live_member(&mut self, incarnation: Incarnation) -> Result<&mut MemberInfo, CommandError> {
        let id = self
            .cluster
            .alive
            .get(&incarnation)
            .ok_or(CommandError::Ended(incarnation))?;
        let member = self.cluster.members.get_mut(id);
        Ok(member.expect("a live incarnation has a member"))
    }

    /// Members, liveness, configs or fences changed: replicas asked at this map version have to know it.
    pub(crate) fn map_changed(&mut self) {
        self.cluster.map = MapVersion(self.index.0);
    }

    /// Forgets ended incarnations that nothing names any more.
    pub(crate) fn prune_lives(&mut self) {
        let cluster = &mut self.cluster;
        if cluster.lives.len() == cluster.alive.len() {
            return;
        }
        // Few have ended, and there are thousands of slots: those few are crossed out, so that most looks find nobody.
        let current = cluster.members.values().map(|member| member.incarnation);
        let current: BTreeSet<Incarnation> = current.collect();
        let mut unnamed: Vec<Incarnation> = cluster.lives.keys().copied().collect();
        unnamed.retain(|incarnation| !current.contains(incarnation));
        let acting = cluster.slots.values().flat_map(|config| &config.acting);
        let acting = acting.map(|acting| acting.incarnation);
        let writing = self.names.writers.values().map(|writer| writer.incarnation);
        for named in acting.chain(writing) {
            if unnamed.is_empty() {
                return;
            }
            unnamed.retain(|incarnation| *incarnation != named);
        }
        cluster
            .lives
            .retain(|incarnation, _| !unnamed.contains(incarnation));
    }
}
