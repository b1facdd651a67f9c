//! The kill matrix: a real job runs, and a member dies at the moment of its course that the plan names. Afterwards the
//! outputs are those of an undisturbed run. Whether the moment was met is seen in the course itself, not assumed.

use crate::{
    moments::{Course, Moments},
    sample::{JOB, Sample, Shape},
    story::Story,
};
use hydfs_store::Crash;
use hydfs_types::{JobPhase, MemberId};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};
use tokio::time::Instant;

/// Longest wait for a moment, and for the job's end when all is well again.
const MOMENT: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(120);
/// How often conditions are looked at that no moment tells of.
const LOOK: Duration = Duration::from_millis(50);
/// Commits before a member is killed: there is state to lose then.
const COMMITS: usize = 3;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// A member that reads the source.
    Source,
    /// One that keeps state.
    Stateful,
    /// One that writes an output.
    Sink,
    /// The leader, and with it the coordinator.
    Leader,
    /// One that runs no task and does not lead.
    Plain,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Between a commit and the next barrier.
    Before,
    /// When a barrier is on its way through the tasks.
    At,
    /// When all tasks have passed it, and its commit is not asked for.
    After,
    /// While the commit is agreed on.
    Commit,
    /// While the job starts again, since another member has died.
    Recovery,
}

/// A cell of the matrix, and the job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    pub victim: Victim,
    pub when: When,
    pub shape: Shape,
}

impl Kill {
    /// What runs where no cell is named.
    pub const FIRST: Self = Self {
        victim: Victim::Stateful,
        when: When::Commit,
        shape: Shape::Ordered,
    };
}

const VICTIMS: [(&str, Victim); 5] = [
    ("source", Victim::Source),
    ("stateful", Victim::Stateful),
    ("sink", Victim::Sink),
    ("leader", Victim::Leader),
    ("plain", Victim::Plain),
];
const WHEN: [(&str, When); 5] = [
    ("before", When::Before),
    ("at", When::At),
    ("after", When::After),
    ("commit", When::Commit),
    ("recovery", When::Recovery),
];
const SHAPES: [(&str, Shape); 2] = [("ordered", Shape::Ordered), ("unordered", Shape::Unordered)];

fn named<T: Copy>(all: &[(&str, T)], name: Option<&str>) -> Result<T, String> {
    let found = all.iter().find(|(one, _)| Some(*one) == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        format!("one of {} is missing", names.join(", "))
    })
}

fn name_of<T: Copy + PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    let found = all.iter().find(|(_, one)| *one == value);
    found.map_or("", |(name, _)| name)
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split('/');
        Ok(Self {
            victim: named(&VICTIMS, words.next())?,
            when: named(&WHEN, words.next())?,
            shape: named(&SHAPES, words.next())?,
        })
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (victim, when) = (name_of(&VICTIMS, self.victim), name_of(&WHEN, self.when));
        write!(f, "{victim}/{when}/{}", name_of(&SHAPES, self.shape))
    }
}

/// Members that a victim may be, the best first.
fn candidates(victim: Victim, rows: &[Vec<MemberId>]) -> Vec<MemberId> {
    let stage = match victim {
        Victim::Source => 0,
        Victim::Stateful => 1,
        Victim::Sink => 2,
        Victim::Leader | Victim::Plain => return Vec::new(),
    };
    let mut all = rows[stage].clone();
    // One that does little else, and nothing that comes behind.
    all.sort_by_key(|member| {
        let others = rows.iter().enumerate().filter(|(at, _)| *at != stage);
        let of_it = others.filter(|(_, row)| row.contains(member));
        of_it.map(|(at, _)| at + 1).sum::<usize>()
    });
    all
}

struct Run<'a> {
    story: &'a mut Story,
    moments: Moments,
    kill: Kill,
    /// How late in a moment somebody dies, and how, is another draw than what users do.
    rng: SmallRng,
}

/// Runs the job and the kill; reports what is wrong with what came out.
pub async fn kills(story: &mut Story, kill: Kill) {
    let Some(moments) = story.world.moments.clone() else {
        return;
    };
    let rng = SmallRng::from_rng(&mut story.world.rng);
    let mut run = Run {
        story,
        moments,
        kill,
        rng,
    };
    run.lead_from_anywhere().await;
    let sample = Sample::begin(&mut run.story.world, kill.shape).await;
    let hit = run.kill_in_time().await;
    run.story.tell(match hit {
        Some(what) => format!("hit {kill}: {what}"),
        None => format!("missed {kill}"),
    });
    run.come_back().await;
    run.finish(sample).await;
}

impl Run<'_> {
    /// The leader's place among those that run tasks is a draw, too.
    async fn lead_from_anywhere(&mut self) {
        let world = &mut self.story.world;
        let members = world.members();
        let to = members.choose(&mut self.rng).map(|member| member.id());
        let leads = world
            .leader()
            .and_then(|leader| world.hosts[leader].member());
        if let (Some(to), Some(leads)) = (to, leads)
            && to != leads.id()
            && let Err(error) = leads.group.transfer_leader(to).await
        {
            tracing::info!(%error, "the leader stays");
        }
        world.run(Duration::from_secs(2)).await;
    }

    fn course(&self) -> Option<Course> {
        let job = self.story.world.job(JOB)?;
        Some(self.moments.of(job.id))
    }

    /// Lets time pass until the course is so. Nothing else has happened then but what the same instant brought.
    async fn until(&mut self, mut is_so: impl FnMut(&Course) -> bool) -> bool {
        let deadline = Instant::now() + MOMENT;
        let mut changes = self.moments.changes();
        while Instant::now() < deadline && !self.story.over() {
            if self.course().is_some_and(|course| is_so(&course)) {
                return true;
            }
            let pass = self.story.world.run(LOOK);
            tokio::select! {
                biased;
                // The sender lives as long as this run.
                _ = changes.changed() => {}
                () = Box::pin(pass) => {}
            }
        }
        false
    }

    /// Kills whom the plan names when it says. What was done, if the moment was met.
    async fn kill_in_time(&mut self) -> Option<String> {
        let ready = |course: &Course| course.commits() >= COMMITS;
        if !self.until(ready).await {
            return None;
        }
        // Not always in the same round.
        let rounds = self.rng.random_range(0..4) + self.course()?.commits();
        let is_now = match self.kill.when {
            When::Before => Course::is_between,
            When::At => Course::is_at_barrier,
            When::After => Course::is_behind_barrier,
            When::Commit => Course::is_committing,
            When::Recovery => return self.kill_twice(rounds).await,
        };
        let due = |course: &Course| course.commits() >= rounds && is_now(course);
        for _ in 0..20 {
            if !self.until(due).await {
                return None;
            }
            self.wait_a_little().await;
            let course = self.course()?;
            if is_now(&course) {
                let (_, rows) = course.placed()?;
                let commits = course.commits();
                let who = self.victim(&rows)?;
                let how = self.kill_one(who).await;
                return Some(format!("{how} behind {commits} job epochs of its attempt"));
            }
        }
        None
    }

    /// Another member dies first; whom the plan names dies when the job is handed out again and has not got on.
    async fn kill_twice(&mut self, rounds: usize) -> Option<String> {
        if !self.until(|course| course.commits() >= rounds).await {
            return None;
        }
        self.wait_a_little().await;
        let (before, rows) = self.course()?.placed()?;
        let leader = self.story.world.leader();
        let running: BTreeSet<MemberId> = rows.into_iter().flatten().collect();
        let running = running
            .iter()
            .filter_map(|id| self.story.world.host_of(*id));
        let others: Vec<usize> = running.filter(|host| Some(*host) != leader).collect();
        let first = *others.choose(&mut self.rng)?;
        let how = self.kill_one(first).await;
        self.story.tell(format!("first {how}"));
        let again = |course: &Course| course.placed().is_some_and(|(now, _)| now > before);
        if !self.until(again).await {
            return None;
        }
        // As long as it takes to hand tasks out, put state back and commit.
        let late = self.rng.random_range(0..150);
        self.story.world.run(Duration::from_millis(late)).await;
        let course = self.course()?;
        let (attempt, rows) = course.placed()?;
        if course.commits() > 0 {
            return None;
        }
        let who = self.victim(&rows)?;
        let how = self.kill_one(who).await;
        Some(format!(
            "{how} in attempt {attempt} before its first commit, {late} ms after the second time that it was placed"
        ))
    }

    /// A few of the milliseconds that a moment lasts.
    async fn wait_a_little(&mut self) {
        let micros = self.rng.random_range(0..4000);
        self.story.world.run(Duration::from_micros(micros)).await;
    }

    fn victim(&mut self, rows: &[Vec<MemberId>]) -> Option<usize> {
        let world = &self.story.world;
        let leader = world.leader();
        let up = |host: &usize| world.hosts[*host].member().is_some();
        match self.kill.victim {
            Victim::Leader => leader,
            Victim::Plain => {
                let busy = rows.iter().flatten();
                let busy: Vec<usize> = busy.filter_map(|id| world.host_of(*id)).collect();
                let idle = |host: &usize| !busy.contains(host) && Some(*host) != leader;
                (0..world.hosts.len()).filter(up).find(idle)
            }
            victim => candidates(victim, rows)
                .into_iter()
                .filter_map(|id| world.host_of(id))
                .filter(up)
                .find(|host| Some(*host) != leader),
        }
    }

    async fn kill_one(&mut self, host: usize) -> String {
        let world = &mut self.story.world;
        let (name, leads) = (world.hosts[host].name.clone(), world.leader() == Some(host));
        let leads = if leads { ", the leader," } else { "" };
        match self.rng.random_range(0..4) {
            0 => {
                world.crash(host, Crash::PowerCutTorn).await;
                format!("{name}{leads} lost power")
            }
            1 => {
                world.kill_worker(host).await;
                format!("{name}{leads} lost its worker")
            }
            _ => {
                world.crash(host, Crash::Kill).await;
                format!("{name}{leads} was killed")
            }
        }
    }

    /// Whoever is down starts again, before or after the others have expired it.
    async fn come_back(&mut self) {
        let down = Duration::from_millis(self.rng.random_range(20..6000));
        self.story.world.run(down).await;
        self.story.world.start_all();
        self.story.tell("all that are down start".into());
    }

    async fn finish(&mut self, mut sample: Sample) {
        sample.end_input().await;
        let until = Instant::now() + END;
        loop {
            let world = &mut self.story.world;
            let job = world.job(JOB);
            let phase = job.as_ref().map(|job| job.phase);
            let failed = matches!(phase, Some(JobPhase::Failed | JobPhase::Cancelled));
            if sample.is_done(phase).await {
                break;
            }
            if failed || Instant::now() > until {
                let message = job.map(|job| (job.phase, job.epoch, job.attempt, job.message));
                let what = format!("the job does not come to its end: {message:?}");
                return self.story.world.oracle.report(what);
            }
            world.run(10 * LOOK).await;
        }
        let attempts = self.story.world.job(JOB).map_or(0, |job| job.attempt.0);
        self.story
            .tell(format!("the job is through, in attempt {attempts}"));
        sample.judge(&self.story.world).await;
    }
}
