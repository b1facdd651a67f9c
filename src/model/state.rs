//! A state of the whole: the agreed log, what every member has on disk and in memory, and what is under way.
//!
//! Messages are never consumed: each may come late, twice or never. Appends are not kept at all (what they say is known
//! from the rest of the state), prepares are kept until their base is a past one.

use crate::{
    Broken, CUTS, Config, EPOCHS, MEMBERS, Plant, RECORDS, SEGMENTS,
    agreed::{Agreed, Command, Cut, Phase, Then},
    list::{List, Set, each, has, only},
};

/// Prepared cuts: one bit for each base, list and what is done besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Prepared(u64);

impl Prepared {
    const THENS: usize = 4;
    const OF_BASE: usize = List::COUNT * Self::THENS;

    fn bit(base: u8, cut: Cut) -> u64 {
        let code =
            usize::from(base) * Self::OF_BASE + cut.list.code() * Self::THENS + cut.then as usize;
        assert!(code < 64, "versions are bounded");
        1 << code
    }

    pub fn add(&mut self, base: u8, cut: Cut) {
        self.0 |= Self::bit(base, cut);
    }

    pub fn has(self, base: u8, cut: Cut) -> bool {
        self.0 & Self::bit(base, cut) != 0
    }

    /// Those of earlier bases are void.
    pub fn retain_from(&mut self, base: u8) {
        let past = usize::from(base) * Self::OF_BASE;
        self.0 = if past >= 64 {
            0
        } else {
            self.0 >> past << past
        };
    }
}

/// One segment as a replica holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Held {
    pub version: u8,
    /// In the order of arrival.
    pub pending: List,
    pub prepared: Prepared,
}

/// What a member has journaled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Store {
    /// The highest epoch promised (R3).
    pub promised: u8,
    pub held: [Held; SEGMENTS],
}

impl Store {
    /// Whether a record is pending here, or in a base.
    pub fn holds(&self, agreed: &Agreed, record: u8) -> bool {
        let segments = self.held.iter().zip(&agreed.segments);
        segments.into_iter().any(|(held, segment)| {
            held.pending.contains(record)
                || segment.content(held.version).any(|other| other == record)
        })
    }

    /// Takes all steps towards the agreed versions that can be taken with what is here, and drops what is void (R6 d).
    pub fn bring_up(&mut self, agreed: &Agreed, config: &Config) {
        for (held, segment) in self.held.iter_mut().zip(&agreed.segments) {
            match segment.phase {
                Phase::Absent if config.plant == Some(Plant::DeletedByAbsence) => {
                    *held = Held::default();
                }
                Phase::Absent => {}
                Phase::Retired => *held = Held::default(),
                Phase::Open | Phase::Full => held.follow(segment, config),
            }
        }
    }
}

impl Held {
    fn follow(&mut self, segment: &crate::agreed::Segment, config: &Config) {
        let forgets = config.plant == Some(Plant::ForgetMerged);
        while let Some(cut) = segment.cuts().get(usize::from(self.version)) {
            let here = cut.list.items().all(|record| self.pending.contains(record));
            let prepared = cut.then == Then::Sole || self.prepared.has(self.version, *cut);
            if !prepared || !here {
                return;
            }
            self.version += 1;
            self.prepared.retain_from(self.version);
            if !forgets {
                self.pending = self.pending.without(cut.list.set());
            }
        }
        self.settle(segment, forgets);
    }

    /// Drops what the agreed state says is merged or void.
    pub fn settle(&mut self, segment: &crate::agreed::Segment, forgets: bool) {
        if !forgets {
            self.pending = self.pending.without(segment.through);
        }
        if segment.phase == Phase::Full {
            self.pending = List::default();
        }
        self.prepared.retain_from(self.version);
    }
}

/// What the source answered to a pull (R11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pulled {
    pub epoch: u8,
    pub versions: [u8; SEGMENTS],
    pub pending: [List; SEGMENTS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// The life that the process believes to be its own.
    pub life: u8,
    /// How often its machine booted.
    pub boot: u8,
    /// Commands that it has applied.
    pub at: u8,
    pub store: Store,
    /// Of `store` what is on disk; followed only where power is lost.
    pub disk: Store,
    /// Segments that it takes no records of while it lists for a roll or truncate.
    pub fenced: Set,
    /// Learners that it includes in prepares, and the epoch of that.
    pub included: (u8, Set),
    /// As learner: what it was told and has not fetched yet.
    pub pulled: Option<Pulled>,
    /// As learner: the epoch at which it holds what its pull named.
    pub ready: u8,
}

impl Member {
    /// Makes everything journaled durable.
    pub fn sync(&mut self, config: &Config) {
        if config.powers > 0 {
            self.disk = self.store;
        }
    }
}

/// The writer of one record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Segments that it was sent to.
    pub sent: Set,
    /// Where it goes now.
    pub target: u8,
    pub acked: bool,
    /// It was sent only after the other one was acknowledged.
    pub later: bool,
    /// It was sent only after the truncate was done.
    pub fresh: bool,
    /// Who has answered, by segment and epoch; forgotten when it is acknowledged.
    pub answers: [[Set; EPOCHS]; SEGMENTS],
}

/// A prepare and its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round {
    pub segment: u8,
    pub epoch: u8,
    pub base: u8,
    pub list: List,
    pub then: Then,
    pub leader: u8,
    /// Commands that its receiver has to have applied.
    pub map: u8,
    /// Learners that it is sent to as well.
    pub learners: Set,
    pub answered: Set,
}

impl Round {
    pub fn cut(&self) -> Cut {
        Cut {
            list: self.list,
            then: self.then,
        }
    }
}

/// What happened so often already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    pub changes: u8,
    pub restarts: u8,
    pub powers: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Vec<Command>,
    pub members: [Member; MEMBERS],
    pub writers: [Writer; RECORDS],
    pub rounds: Vec<Round>,
    /// Learners whose promotion was proposed by a process that is gone.
    pub promotes: Set,
    pub spent: Spent,
    /// Version that the truncate was asked for at, plus 1.
    pub cutoff: u8,
    pub broken: Option<Broken>,
}

impl State {
    pub fn first(config: &Config) -> Self {
        let mut state = Self::default();
        for member in &mut state.members {
            member.life = 1;
            member.store.promised = 1;
            member.sync(config);
        }
        state
    }

    pub fn member(&mut self, member: u8) -> &mut Member {
        &mut self.members[usize::from(member)]
    }

    /// The agreed state after each prefix of the log.
    pub fn views(&self, config: &Config) -> Views {
        let mut views = Vec::with_capacity(self.log.len() + 1);
        let mut agreed = Agreed::new(config);
        views.push(agreed);
        for command in &self.log {
            agreed.apply(command, config);
            views.push(agreed);
        }
        Views(views)
    }

    /// Brings everybody's bases up to what they know, and forgets what can make no difference any more.
    pub fn settle(&mut self, views: &Views, config: &Config) {
        let now = views.now();
        for member in &mut self.members {
            member.store.bring_up(views.at(member.at), config);
            if member
                .pulled
                .is_some_and(|pulled| pulled.epoch != now.epoch)
            {
                member.pulled = None;
            }
            if member.ready != now.epoch {
                member.ready = 0;
            }
            if member.included.0 != now.epoch {
                member.included = (0, 0);
            }
        }
        self.rounds.retain(|round| {
            let segment = &now.segments[usize::from(round.segment)];
            segment.version == round.base && segment.phase != Phase::Retired
        });
        self.rounds.sort_unstable();
        self.lift_fences(views, config);
    }

    /// A fence is lifted when its merge has come to an end, and its leader knows.
    fn lift_fences(&mut self, views: &Views, config: &Config) {
        let (now, len) = (views.now(), self.log.len() as u8);
        for member in each(only(config.members) - 1) {
            let one = &mut self.members[usize::from(member)];
            for segment in each(one.fenced).collect::<Vec<_>>() {
                let runs = self.rounds.iter().any(|round| {
                    (round.leader, round.segment, round.epoch) == (member, segment, now.epoch)
                        && round.then != Then::Nothing
                });
                if one.at == len && !runs {
                    one.fenced &= !only(segment);
                }
            }
        }
    }

    /// Whether this record was ever merged.
    pub fn is_merged(&self, record: u8) -> bool {
        self.log.iter().any(
            |command| matches!(command, Command::Merge(merge) if merge.cut.list.contains(record)),
        )
    }

    /// Whether the truncate is done.
    pub fn is_truncated(&self) -> bool {
        self.log.iter().any(|command| {
            matches!(command, Command::Merge(merge) if matches!(merge.cut.then, Then::Empty | Then::Retire))
        })
    }

    pub fn includes(&self, leader: u8, epoch: u8, learner: u8) -> bool {
        let (at, learners) = self.members[usize::from(leader)].included;
        at == epoch && has(learners, learner)
    }
}

/// The agreed state by how many commands were applied.
pub struct Views(Vec<Agreed>);

impl Views {
    pub fn at(&self, at: u8) -> &Agreed {
        &self.0[usize::from(at)]
    }

    pub fn now(&self) -> &Agreed {
        self.0.last().expect("the state before the first command")
    }

    /// The shortest prefix with an open segment at this epoch: all that the receiver of an append needs to know. The real
    /// map may say more, which only makes receivers learn sooner.
    pub fn of_append(&self, epoch: u8, segment: u8) -> Option<u8> {
        let fits = |view: &Agreed| {
            view.epoch == epoch && view.segments[usize::from(segment)].phase == Phase::Open
        };
        self.0.iter().position(fits).map(|at| at as u8)
    }

    /// The same for a prepare that is listed at this state.
    pub fn of_list(&self, listed: &Agreed, segment: u8) -> u8 {
        let at = usize::from(segment);
        let fits =
            |view: &Agreed| view.epoch == listed.epoch && view.segments[at] == listed.segments[at];
        let first = self.0.iter().position(fits);
        first.expect("it was listed at such a state") as u8
    }

    /// The first state of an epoch, which later ones of the same epoch share their config with.
    pub fn of_epoch(&self, epoch: u8) -> &Agreed {
        let first = self.0.iter().find(|view| view.epoch == epoch);
        first.expect("every epoch begins with a command")
    }

    /// The states of epochs before the last one.
    pub fn past(&self) -> impl Iterator<Item = &Agreed> {
        let now = self.now().epoch;
        self.0.iter().filter(move |view| view.epoch < now)
    }

    pub fn cuts_max(&self, segment: u8) -> bool {
        self.now().segments[usize::from(segment)].version == CUTS as u8
    }
}
