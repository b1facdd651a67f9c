//! What the agreement group decides: the config of the slot (R2), the lives of members (R12), the cuts (R6, R8). The log
//! holds the commands that changed something; every member has applied a prefix of it.

use crate::{
    CUTS, Config, MEMBERS, Plant, SEGMENTS,
    list::{List, Set, each, has, only},
};

/// What a member is in a config.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Role {
    #[default]
    None,
    Learner,
    Synced,
}

/// What a merge does besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Then {
    #[default]
    Nothing,
    /// The segment is full and the next one begins.
    Full,
    /// The segment is cut to nothing.
    Empty,
    /// The segment is retired.
    Retire,
    /// It is no merge: the end of a writer that is alone (R7), which nobody has prepared.
    Sole,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cut {
    pub list: List,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    #[default]
    Absent,
    Open,
    Full,
    Retired,
}

/// One segment of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Segment {
    pub phase: Phase,
    pub version: u8,
    cuts: [Cut; CUTS],
    /// Records that were merged here, whatever became of them, and those that never will be.
    pub through: Set,
}

impl Segment {
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts[..usize::from(self.version)]
    }

    /// Records of the base at a version, in order.
    pub fn content(&self, version: u8) -> impl Iterator<Item = u8> + '_ {
        let cuts = &self.cuts[..usize::from(version)];
        let emptied = cuts.iter().rposition(|cut| cut.then == Then::Empty);
        cuts[emptied.map_or(0, |at| at + 1)..]
            .iter()
            .flat_map(|cut| cut.list.items())
    }
}

/// A wanted change of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Change {
    pub expected: u8,
    pub roles: [Role; MEMBERS],
    pub named: [u8; MEMBERS],
    pub leader: u8,
}

/// A merge as it is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Merge {
    pub segment: u8,
    pub epoch: u8,
    pub leader: u8,
    pub base: u8,
    pub cut: Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    Expire(Set),
    /// A member begins a life on a machine that booted so often.
    Admit {
        member: u8,
        boot: u8,
    },
    /// Other members are wanted.
    Ring(Set),
    Configure(Change),
    Promote {
        learner: u8,
        epoch: u8,
    },
    Merge(Merge),
    /// Everything of the job's writer is committed.
    Watermark,
}

/// The agreed state after a prefix of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    pub epoch: u8,
    pub roles: [Role; MEMBERS],
    /// Lives that the config names, and how often their machines had booted.
    pub named: [u8; MEMBERS],
    named_boots: [u8; MEMBERS],
    pub leader: u8,
    pub frozen: bool,
    pub alive: Set,
    pub lives: [u8; MEMBERS],
    boots: [u8; MEMBERS],
    pub ring: Set,
    pub segments: [Segment; SEGMENTS],
    /// A replica that lost power is synced since nobody else was left: what was not on disk may be gone.
    pub amended: bool,
    pub committed: bool,
}

impl Agreed {
    pub fn new(config: &Config) -> Self {
        let role = |member: usize| match has(config.synced, member as u8) {
            true => Role::Synced,
            false => Role::None,
        };
        let mut segments = [Segment::default(); SEGMENTS];
        segments[0].phase = Phase::Open;
        Self {
            epoch: 1,
            roles: std::array::from_fn(role),
            named: [1; MEMBERS],
            named_boots: [0; MEMBERS],
            leader: config.synced.trailing_zeros() as u8,
            frozen: false,
            alive: only(config.members) - 1,
            lives: [1; MEMBERS],
            boots: [0; MEMBERS],
            ring: config.ring,
            segments,
            amended: false,
            committed: false,
        }
    }

    /// Members with a role in the config.
    pub fn with(&self, role: Role) -> Set {
        (0..MEMBERS as u8)
            .filter(|member| self.roles[usize::from(*member)] == role)
            .fold(0, |set, member| set | only(member))
    }

    pub fn synced(&self) -> Set {
        self.with(Role::Synced)
    }

    pub fn acting(&self) -> Set {
        self.with(Role::Synced) | self.with(Role::Learner)
    }

    /// What a life of a member is in the config.
    pub fn role(&self, member: u8, life: u8) -> Role {
        match self.named[usize::from(member)] == life {
            true => self.roles[usize::from(member)],
            false => Role::None,
        }
    }

    pub fn leads(&self, member: u8, life: u8) -> bool {
        !self.frozen && self.leader == member && self.role(member, life) == Role::Synced
    }

    /// Copies that there have to be.
    pub fn wanted(&self, config: &Config) -> u32 {
        u32::from(config.copies).min(self.alive.count_ones())
    }

    /// Where appends go: the one open segment, if there is one.
    pub fn tail(&self) -> Option<u8> {
        let open = |segment: &Segment| segment.phase == Phase::Open;
        self.segments.iter().rposition(open).map(|at| at as u8)
    }

    /// Applies a command; whether it changed anything.
    pub fn apply(&mut self, command: &Command, config: &Config) -> bool {
        match command {
            Command::Expire(ended) => self.end(*ended, config),
            Command::Admit { member, boot } => self.admit(*member, *boot, config),
            Command::Ring(ring) => std::mem::replace(&mut self.ring, *ring) != *ring,
            Command::Configure(change) => self.configure(change, config),
            Command::Promote { learner, epoch } => self.promote(*learner, *epoch, config),
            Command::Merge(merge) => self.merge(merge, config),
            Command::Watermark => !std::mem::replace(&mut self.committed, true),
        }
    }

    /// Ended incarnations lose their places; without a live synced replica the config freezes as it is.
    fn end(&mut self, ended: Set, config: &Config) -> bool {
        let ended = ended & self.alive;
        self.alive &= !ended;
        let gone = each(ended & self.acting())
            .filter(|member| self.named[usize::from(*member)] == self.lives[usize::from(*member)])
            .fold(0, |set, member| set | only(member));
        if self.frozen || gone == 0 {
            return ended != 0;
        }
        let mut heirs = self.synced() & !gone;
        if heirs == 0 && config.plant == Some(Plant::NoFreeze) {
            heirs = self.acting() & !gone;
        }
        if heirs == 0 {
            self.frozen = true;
            return true;
        }
        if has(gone, self.leader) {
            self.leader = heirs.trailing_zeros() as u8;
            self.roles[usize::from(self.leader)] = Role::Synced;
        }
        self.drop_roles(gone);
        self.epoch += 1;
        true
    }

    fn drop_roles(&mut self, gone: Set) {
        each(gone).for_each(|member| self.roles[usize::from(member)] = Role::None);
    }

    /// A new life; R12: it takes its place in a slot that froze with it where it lost nothing or is all there is.
    fn admit(&mut self, member: u8, boot: u8, config: &Config) -> bool {
        let before = self.epoch;
        self.end(only(member), config);
        let at = usize::from(member);
        self.lives[at] += 1;
        self.boots[at] = boot;
        self.alive |= only(member);
        if config.plant == Some(Plant::ReadmittedUnfrozen) && !self.frozen {
            self.roles[at] = Role::Synced;
            (self.named[at], self.named_boots[at]) = (self.lives[at], boot);
            self.epoch = before + 1;
        }
        if !self.frozen || self.roles[at] != Role::Synced {
            return true;
        }
        let intact = self.named_boots[at] == boot;
        let alone = self.is_last_to_return(member, config);
        if !intact && !alone && config.plant != Some(Plant::AnyBootReadmitted) {
            return true;
        }
        let current = each(self.acting() & self.alive)
            .filter(|one| self.named[usize::from(*one)] == self.lives[usize::from(*one)])
            .fold(only(member), |set, one| set | only(one));
        self.drop_roles(!current & (only(MEMBERS as u8) - 1));
        (self.named[at], self.named_boots[at]) = (self.lives[at], boot);
        (self.leader, self.frozen) = (member, false);
        self.epoch = before + 1;
        // The bug does not say that anything may be gone.
        self.amended |= !intact && alone;
        true
    }

    /// Whether nobody intact can come back to a frozen slot any more.
    fn is_last_to_return(&self, member: u8, config: &Config) -> bool {
        let returned = |other: u8| self.lives[usize::from(other)] > self.named[usize::from(other)];
        let mut others = each(self.synced() & !only(member));
        match config.plant {
            Some(Plant::FrozenForEver) => others.next().is_none(),
            _ => others.all(returned),
        }
    }

    fn configure(&mut self, change: &Change, config: &Config) -> bool {
        if config.plant != Some(Plant::NoCompare)
            && (change.expected != self.epoch || self.frozen || !self.may_configure(change, config))
        {
            return false;
        }
        self.roles = change.roles;
        for member in each(self.acting()) {
            let at = usize::from(member);
            self.named[at] = change.named[at];
            self.named_boots[at] = self.boots[at];
        }
        (self.leader, self.frozen) = (change.leader, false);
        self.epoch += 1;
        true
    }

    fn may_configure(&self, change: &Change, config: &Config) -> bool {
        let (mut synced, mut valid) = (0, true);
        for member in each(only(MEMBERS as u8) - 1) {
            let at = usize::from(member);
            let (role, life) = (change.roles[at], change.named[at]);
            if role == Role::None {
                continue;
            }
            valid &= has(self.alive, member) && self.lives[at] == life;
            if role == Role::Synced {
                valid &= self.role(member, life) == Role::Synced;
                synced |= only(member);
            }
        }
        let dropped = self.synced() & self.alive & !synced != 0;
        let enough = synced.count_ones() >= self.wanted(config)
            || config.plant == Some(Plant::DroppedBeforePromote);
        valid && has(synced, change.leader) && (!dropped || enough)
    }

    fn promote(&mut self, learner: u8, epoch: u8, config: &Config) -> bool {
        let at = usize::from(learner);
        let fits = epoch == self.epoch || config.plant == Some(Plant::NoCompare);
        let learns = self.role(learner, self.lives[at]) == Role::Learner;
        if !fits || self.frozen || !learns || !has(self.alive, learner) {
            return false;
        }
        self.roles[at] = Role::Synced;
        self.epoch += 1;
        true
    }

    fn merge(&mut self, merge: &Merge, config: &Config) -> bool {
        let leads = merge.epoch == self.epoch && !self.frozen && merge.leader == self.leader;
        let alone = merge.cut.then == Then::Sole;
        if !leads && !alone && config.plant != Some(Plant::MergeAtOldEpoch) {
            return false;
        }
        let at = usize::from(merge.segment);
        let segment = &mut self.segments[at];
        let here = matches!(segment.phase, Phase::Open | Phase::Full);
        if !here || merge.base != segment.version || merge.base == CUTS as u8 {
            return false;
        }
        segment.cuts[usize::from(segment.version)] = merge.cut;
        segment.version += 1;
        segment.through |= merge.cut.list.set();
        match merge.cut.then {
            Then::Nothing | Then::Empty | Then::Sole => {}
            Then::Full => {
                segment.phase = Phase::Full;
                if self.segments[1].phase == Phase::Absent {
                    self.segments[1].phase = Phase::Open;
                }
            }
            Then::Retire => {
                segment.phase = Phase::Retired;
                if config.plant == Some(Plant::Reopened) {
                    self.segments[0].phase = Phase::Open;
                }
            }
        }
        true
    }
}
