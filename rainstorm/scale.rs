//! Decides how many tasks a stage has where its spec leaves that open: `tasks = { min = 1, max = 8 }`. Looks at what was
//! measured come in, wishes go out. No I/O and no clock; `load` measures, `change` carries out.
//!
//! A stage gets more tasks when those it has are busy *and* something waits in front of it, and fewer when they are idle:
//! true busy time tells a slow stage from one that is held back (Kalavri et al., "Three steps is all you need", 2018).
//! It does not swing: what it asks of a look to grow and to shrink lies so far apart that one change never calls for the
//! other, several looks in a row must say the same, and after a change some are not looked at.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// So many looks in a row must ask for more tasks.
const GROW_AFTER: u32 = 3;
/// So many looks in a row must ask for fewer.
const SHRINK_AFTER: u32 = 15;
/// Looks after the begin of an attempt, and after a wish, that count for nothing: the job gets under way.
const REST: u32 = 5;
/// Tasks that work for this much of the time, in percent, all together, are too few if something waits.
const BUSY: u32 = 80;
/// They are too many if the busiest works for no more than this: with half of them it is still far below `BUSY`.
const IDLE: u32 = 30;
/// Tasks are held back if they wait for room for this much of the time.
const BLOCKED: u32 = 10;

/// How many tasks a stage may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
}

impl Bounds {
    pub fn allow(self, tasks: u32) -> bool {
        (self.min..=self.max).contains(&tasks)
    }

    /// What is allowed and nearest to so many.
    pub fn nearest(self, tasks: u32) -> u32 {
        tasks.clamp(self.min, self.max)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What waits in front of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// In the source that it reads.
    Source {
        /// Bytes that are there and were not read.
        behind: u64,
        /// Bytes that were read during the look.
        read: u64,
        /// The source has a rate.
        limited: bool,
    },
    /// Percent of the time that those who feed it waited for room in front of it.
    Feeders(u32),
}

/// One look at a node of a stage, or at the whole stage where it is one. Shares of time are in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// So many tasks could have something to do at the same time.
    pub useful: u32,
    /// How much its tasks worked, all together.
    pub busy: u32,
    /// How much the busiest did.
    pub busiest: u32,
    /// How much they waited for room behind them.
    pub blocked: u32,
    pub waiting: Waiting,
}

/// One look at a stage: its nodes that have as many tasks as it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub bounds: Bounds,
    pub tasks: u32,
    pub nodes: Vec<Seen>,
}

/// A stage should have other tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub stage: String,
    pub from: u32,
    pub to: u32,
    pub why: String,
}

/// The last wish for a stage that came true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    pub from: u32,
    pub to: u32,
    /// The job epoch behind which it did.
    pub epoch: u64,
    pub why: String,
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            to,
            epoch,
            why,
        } = self;
        write!(
            f,
            "{to} instead of {from} tasks behind job epoch {epoch}: {why}"
        )
    }
}

/// How many looks in a row have asked for more tasks of a stage, and for fewer.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    grow: u32,
    shrink: u32,
}

/// What an attempt's looks have added up to.
#[derive(Debug)]
pub struct Scaler {
    streaks: BTreeMap<String, Streak>,
    rest: u32,
}

impl Scaler {
    /// Of an attempt that begins.
    pub fn new() -> Self {
        Self {
            streaks: BTreeMap::new(),
            rest: REST,
        }
    }

    /// Takes a look at all stages whose tasks may change; what should be changed, all at once.
    pub fn look(&mut self, stages: &BTreeMap<String, Look>) -> Vec<Wish> {
        if self.rest > 0 {
            self.rest -= 1;
            return Vec::new();
        }
        let mut wishes = Vec::new();
        for (stage, look) in stages {
            let streak = self.streaks.entry(stage.clone()).or_default();
            let hot = look.nodes.iter().find(|node| node.asks_for_more(look));
            let idle = !look.nodes.is_empty() && look.nodes.iter().all(Seen::asks_for_fewer);
            *streak = Streak {
                grow: if hot.is_some() { streak.grow + 1 } else { 0 },
                shrink: if idle { streak.shrink + 1 } else { 0 },
            };
            let wish = match hot {
                Some(hot) if streak.grow >= GROW_AFTER => Some((look.more(hot), hot.too_busy())),
                None if streak.shrink >= SHRINK_AFTER => Some((look.fewer(), look.too_idle())),
                _ => None,
            };
            wishes.extend(wish.filter(|(to, _)| *to != look.tasks).map(|(to, why)| {
                let (stage, from) = (stage.clone(), look.tasks);
                Wish {
                    stage,
                    from,
                    to,
                    why,
                }
            }));
        }
        if !wishes.is_empty() {
            self.streaks.clear();
            self.rest = REST;
        }
        wishes
    }
}

impl Look {
    /// At most twice as many.
    fn more(&self, hot: &Seen) -> u32 {
        self.bounds.nearest((self.tasks * 2).min(hot.useful))
    }

    /// At least half as many.
    fn fewer(&self) -> u32 {
        self.bounds.nearest(self.tasks.div_ceil(2))
    }

    fn too_idle(&self) -> String {
        let busiest = self.nodes.iter().map(|node| node.busiest).max();
        let busiest = busiest.unwrap_or_default();
        format!("its busiest task worked {busiest} % of the time, and nothing waited")
    }
}

impl Seen {
    /// More waits than it takes in during a look, or who feeds it has to wait.
    fn is_pressed(&self) -> bool {
        match self.waiting {
            Waiting::Source { behind, read, .. } => behind > read,
            Waiting::Feeders(blocked) => blocked >= BLOCKED,
        }
    }

    fn asks_for_more(&self, look: &Look) -> bool {
        self.busy >= BUSY && self.is_pressed() && self.useful > look.tasks
    }

    fn asks_for_fewer(&self) -> bool {
        // What a rate holds back waits whatever the tasks do.
        let limited = matches!(self.waiting, Waiting::Source { limited: true, .. });
        self.busiest <= IDLE && self.blocked < BLOCKED && (limited || !self.is_pressed())
    }

    fn too_busy(&self) -> String {
        let busy = self.busy;
        match self.waiting {
            Waiting::Source { behind, .. } => {
                let kib = behind.div_ceil(1 << 10);
                format!("its tasks worked {busy} % of the time, and {kib} KiB of the source waited")
            }
            Waiting::Feeders(blocked) => {
                format!(
                    "its tasks worked {busy} % of the time, and who feeds them waited {blocked} % of it"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE_TO_EIGHT: Bounds = Bounds { min: 1, max: 8 };

    fn fed(busy: u32, feeders: u32) -> Seen {
        Seen {
            useful: u32::MAX,
            busy,
            busiest: busy,
            blocked: 0,
            waiting: Waiting::Feeders(feeders),
        }
    }

    fn reads(busy: u32, behind: u64, read: u64) -> Seen {
        let limited = false;
        Seen {
            waiting: Waiting::Source {
                behind,
                read,
                limited,
            },
            ..fed(busy, 0)
        }
    }

    fn look(tasks: u32, nodes: &[Seen]) -> BTreeMap<String, Look> {
        let (bounds, nodes) = (ONE_TO_EIGHT, nodes.to_vec());
        let look = Look {
            bounds,
            tasks,
            nodes,
        };
        BTreeMap::from([("s".to_owned(), look)])
    }

    /// What is wished at each of some looks that are all the same.
    fn wishes(tasks: u32, nodes: &[Seen], looks: usize) -> Vec<Option<u32>> {
        let mut scaler = Scaler::new();
        let wish = |_| {
            let wishes = scaler.look(&look(tasks, nodes));
            wishes.first().map(|wish| wish.to)
        };
        (0..looks).map(wish).collect()
    }

    /// The first number of tasks that is wished.
    fn first(tasks: u32, nodes: &[Seen]) -> Option<u32> {
        wishes(tasks, nodes, 100).into_iter().flatten().next()
    }

    /// A stage whose tasks do 100 pieces of work each during a look. How many there are after each look.
    fn run(
        bounds: Bounds,
        mut tasks: u32,
        arrive: impl Fn(usize) -> u64,
        looks: usize,
    ) -> Vec<u32> {
        let mut scaler = Scaler::new();
        let mut backlog = 0;
        let mut all = Vec::new();
        for at in 0..looks {
            let able = 100 * u64::from(tasks);
            backlog += arrive(at);
            let read = backlog.min(able);
            backlog -= read;
            let seen = reads((100 * read / able) as u32, backlog, read);
            let nodes = vec![seen];
            let stage = Look {
                bounds,
                tasks,
                nodes,
            };
            for wish in scaler.look(&BTreeMap::from([("s".to_owned(), stage)])) {
                assert_eq!(wish.from, tasks);
                assert!(bounds.allow(wish.to), "{wish:?}");
                assert!(wish.to <= 2 * tasks && 2 * wish.to >= tasks, "{wish:?}");
                tasks = wish.to;
                // Another attempt begins.
                scaler = Scaler::new();
            }
            all.push(tasks);
        }
        all
    }

    #[test]
    fn more_come_while_work_waits_and_go_when_there_is_none() {
        let arrive = |at| if at < 200 { 550 } else { 0 };
        let all = run(ONE_TO_EIGHT, 1, arrive, 500);
        let mut steps = all.clone();
        steps.dedup();
        assert_eq!(steps, [1, 2, 4, 8, 4, 2, 1]);
        assert_eq!((all[199], all[499]), (8, 1));
    }

    #[test]
    fn one_change_is_followed_by_rest() {
        let hot = fed(95, 40);
        let all = wishes(2, &[hot], 40);
        let at: Vec<usize> = (0..40).filter(|&at| all[at].is_some()).collect();
        let apart = (REST + GROW_AFTER) as usize;
        assert_eq!(
            at,
            [
                apart - 1,
                2 * apart - 1,
                3 * apart - 1,
                4 * apart - 1,
                5 * apart - 1
            ]
        );
        let all = wishes(2, &[fed(3, 0)], 40);
        let at: Vec<usize> = (0..40).filter(|&at| all[at].is_some()).collect();
        let apart = (REST + SHRINK_AFTER) as usize;
        assert_eq!(at, [apart - 1, 2 * apart - 1]);
    }

    #[test]
    fn looks_that_disagree_change_nothing() {
        let mut scaler = Scaler::new();
        for at in 0..1000 {
            let seen = match at % 3 {
                0 | 1 => fed(99, 90),
                _ => fed(50, 90),
            };
            assert_eq!(scaler.look(&look(2, &[seen])), []);
        }
        let mut scaler = Scaler::new();
        for at in 0..1000 {
            let busy = if at % 14 == 0 { 31 } else { 0 };
            assert_eq!(scaler.look(&look(4, &[fed(busy, 0)])), []);
        }
    }

    #[test]
    fn what_more_tasks_would_not_help_gets_none() {
        assert_eq!(first(2, &[fed(90, 10)]), Some(4));
        // Busy, but it keeps up; held back by what comes behind it; as many as there may be; nothing to share.
        assert_eq!(first(2, &[fed(100, 9)]), None);
        assert_eq!(first(2, &[reads(95, 70, 70)]), None);
        let held = Seen {
            blocked: 60,
            ..fed(20, 60)
        };
        assert_eq!(first(2, &[held]), None);
        assert_eq!(first(8, &[fed(100, 90)]), None);
        let two_files = Seen {
            useful: 2,
            ..reads(100, 900, 10)
        };
        assert_eq!(first(2, &[two_files]), None);
        assert_eq!(first(1, &[two_files]), Some(2));
        assert_eq!(first(5, &[fed(100, 90)]), Some(8));
    }

    #[test]
    fn a_stage_shrinks_only_if_none_of_its_nodes_has_much_to_do() {
        let idle = reads(5, 0, 10);
        assert_eq!(first(5, &[idle, fed(30, 0)]), Some(3));
        assert_eq!(first(1, &[idle]), None);
        let skewed = Seen {
            busiest: 70,
            ..fed(20, 0)
        };
        assert_eq!(first(4, &[idle, skewed]), None);
        assert_eq!(first(4, &[reads(5, 11, 10)]), None);
        // It waits for its rate, not for tasks.
        let waiting = Waiting::Source {
            behind: 1 << 30,
            read: 10,
            limited: true,
        };
        assert_eq!(first(4, &[Seen { waiting, ..idle }]), Some(2));
        assert_eq!(first(4, &[]), None);
    }

    #[test]
    fn what_is_wished_says_why() {
        let why = |seen| {
            let mut scaler = Scaler::new();
            let mut all = (0..100).flat_map(|_| scaler.look(&look(2, &[seen])));
            all.next().unwrap().why
        };
        assert_eq!(
            why(reads(97, 5000, 300)),
            "its tasks worked 97 % of the time, and 5 KiB of the source waited"
        );
        assert_eq!(
            why(fed(88, 41)),
            "its tasks worked 88 % of the time, and who feeds them waited 41 % of it"
        );
        assert_eq!(
            why(fed(7, 0)),
            "its busiest task worked 7 % of the time, and nothing waited"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Under a load that stays, a job that has caught up comes to rest: it turns back at most once.
        #[test]
        fn a_steady_load_ends_in_a_steady_number(
            load in 0_u64..1_000,
            min in 1_u32..5,
            more in 0_u32..60,
            begin in 0_u32..60,
            jitter in proptest::collection::vec(0_u64..20, 37),
        ) {
            let bounds = Bounds { min, max: min + more };
            let arrive = |at: usize| load + jitter[at % 37];
            // A little more than what some number of tasks can do takes long to pile up.
            let over = (0..37).map(arrive).sum::<u64>() % 3_700;
            prop_assume!(!(1..37).contains(&over));
            let mut steps = run(bounds, bounds.nearest(min + begin), arrive, 3_000);
            prop_assert!(steps[2_000..].windows(2).all(|pair| pair[0] == pair[1]), "{:?}", steps);
            steps.dedup();
            let turns = steps.windows(3).filter(|three| (three[0] < three[1]) != (three[1] < three[2]));
            prop_assert!(turns.count() <= 1, "{:?}", steps);
        }
    }
}
