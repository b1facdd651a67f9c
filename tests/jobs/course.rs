//! What the attempts of jobs came to, moment by moment, as the members' logs tell it (`--log info,rainstorm::moment=debug`).

use crate::common::Cluster;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    thread,
    time::{Duration, Instant},
};

/// What members log by.
pub const LOG: (&str, &str) = ("HYDFS_LOG", "info,rainstorm::moment=debug");
/// How often the logs are looked at: a moment lasts some milliseconds.
const LOOK: Duration = Duration::from_micros(200);

/// A moment of one attempt, of those that `rainstorm/moment.rs` has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Moment {
    /// The members of the tasks of each stage.
    Placed(Vec<Vec<usize>>),
    LetIn,
    Passed,
    Proposed,
    Committed,
}

struct Seen {
    stamp: String,
    job: u64,
    attempt: u32,
    moment: Moment,
}

struct Log {
    file: File,
    /// The begin of a line of which not all is there.
    rest: Vec<u8>,
}

/// The logs of all members, read as they grow.
pub struct Logs {
    logs: Vec<Log>,
    /// Numbers of members by their ids.
    numbers: BTreeMap<String, usize>,
    seen: Vec<Seen>,
}

/// A value of a line: what is behind `key=`, to the next blank.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key)?.1.split_whitespace().next()
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim_start_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .ok()
}

impl Logs {
    pub fn follow(cluster: &Cluster) -> Self {
        let open = |i| Log {
            file: File::open(cluster.log(i)).expect("a member's log"),
            rest: Vec::new(),
        };
        Self {
            logs: cluster.members().map(open).collect(),
            numbers: BTreeMap::new(),
            seen: Vec::new(),
        }
    }

    /// Takes in what was logged since.
    pub fn read(&mut self) {
        for at in 0..self.logs.len() {
            let log = &mut self.logs[at];
            log.file
                .read_to_end(&mut log.rest)
                .expect("a member's log is readable");
            let Some(end) = log.rest.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let whole: Vec<u8> = log.rest.drain(..=end).collect();
            for line in String::from_utf8_lossy(&whole).lines() {
                self.take(at + 1, line);
            }
        }
        // Of several members, in the order of their common clock.
        self.seen.sort_by(|a, b| a.stamp.cmp(&b.stamp));
    }

    fn take(&mut self, member: usize, line: &str) {
        if line.contains(": admitted ") {
            let id = value(line, "member=").expect("an id");
            self.numbers.insert(id.to_owned(), member);
        }
        if let Some(seen) = self.parse(line) {
            self.seen.push(seen);
        }
    }

    fn parse(&self, line: &str) -> Option<Seen> {
        let (_, moment) = line
            .split_once(" rainstorm::moment: ")?
            .1
            .split_once("moment=")?;
        let mut words = moment.split(' ');
        let moment = match words.next()? {
            "placed" => {
                let number = |id: &str| self.numbers.get(id).copied();
                let row = |row: &str| row.split(',').map(number).collect::<Option<_>>();
                Moment::Placed(words.next()?.split('/').map(row).collect::<Option<_>>()?)
            }
            "let-in" => Moment::LetIn,
            "passed" => Moment::Passed,
            "proposed" => Moment::Proposed,
            "committed" => Moment::Committed,
            "handed-out" | "reported" => return None,
            other => panic!("a moment that is not known: {other}"),
        };
        Some(Seen {
            stamp: line.split(' ').next()?.to_owned(),
            job: number(value(line, "job=")?)?,
            attempt: number(value(line, "attempt=")?)?,
            moment,
        })
    }

    /// The newest job of which anything is known.
    pub fn newest_job(&self) -> u64 {
        self.seen.iter().map(|seen| seen.job).max().unwrap_or(0)
    }

    pub fn of(&self, job: u64) -> Course<'_> {
        Course(self.seen.iter().filter(|seen| seen.job == job).collect())
    }

    /// Reads on until a job's course is so.
    pub fn until(
        &mut self,
        job: u64,
        deadline: Duration,
        is_so: impl Fn(&Course<'_>) -> bool,
    ) -> bool {
        let began = Instant::now();
        loop {
            self.read();
            if is_so(&self.of(job)) {
                return true;
            }
            if began.elapsed() > deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
    }
}

/// The moments of one job.
pub struct Course<'a>(Vec<&'a Seen>);

impl Course<'_> {
    /// The number of its newest attempt that was placed, and the members of its tasks, a row for each stage.
    pub fn placed(&self) -> Option<(u32, &[Vec<usize>])> {
        self.0.iter().rev().find_map(|seen| match &seen.moment {
            Moment::Placed(rows) => Some((seen.attempt, rows.as_slice())),
            _ => None,
        })
    }

    /// What has come since the newest attempt was placed.
    fn attempt(&self) -> impl DoubleEndedIterator<Item = &Moment> {
        let newest = self.placed().map_or(0, |(attempt, _)| attempt);
        let of_it = self.0.iter().filter(move |seen| seen.attempt == newest);
        of_it.map(|seen| &seen.moment)
    }

    /// Job epochs that the newest attempt has committed.
    pub fn commits(&self) -> usize {
        let committed = |moment: &&Moment| **moment == Moment::Committed;
        self.attempt().filter(committed).count()
    }

    /// The last of some moments that there was.
    fn last(&self, of: &[Moment]) -> Option<&Moment> {
        self.attempt().rev().find(|moment| of.contains(moment))
    }

    /// The last commit is done, and no source has let the next barrier in.
    pub fn is_between(&self) -> bool {
        self.last(&[Moment::LetIn, Moment::Committed]) == Some(&Moment::Committed)
    }

    /// A source has let a barrier in, and not every task has reported.
    pub fn is_at_barrier(&self) -> bool {
        self.last(&[Moment::LetIn, Moment::Passed]) == Some(&Moment::LetIn)
    }

    /// Every task has reported, and the commit is not asked for.
    pub fn is_behind_barrier(&self) -> bool {
        let of = [Moment::Passed, Moment::Proposed, Moment::Committed];
        self.last(&of) == Some(&Moment::Passed)
    }

    /// A commit is asked for, and nobody knows yet what becomes of it.
    pub fn is_committing(&self) -> bool {
        let of = [Moment::Passed, Moment::Proposed, Moment::Committed];
        self.last(&of) == Some(&Moment::Proposed)
    }
}
