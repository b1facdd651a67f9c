//! The kill matrix on real processes: a job runs, and whoever the plan names dies at the moment of its course that the plan
//! names; afterwards the outputs are right. The members' logs tell of moments as they come, and whether one was met is seen
//! in them. The simulator's matrix (`src/sim/kills.rs`) has the same cells; here executables are processes that die, too.
//!
//! `HYDFS_KILLS=n` goes n times through all cells instead of once through some; `HYDFS_CELL=VICTIM/WHEN/SHAPE` takes one;
//! `HYDFS_SEED` draws otherwise.

use crate::{
    course::{Course, LOG, Logs},
    desk::Desk,
    input::{Draws, Input, Shape},
    processes::{Killed, Processes, What},
};
use std::{thread, time::Duration};

/// Commits before anybody is killed: there is state to lose then.
const COMMITS: usize = 3;
/// Longest wait for a moment.
const MOMENT: Duration = Duration::from_secs(60);
/// Tries at one cell: a moment of milliseconds may be over before the process is dead.
const TRIES: usize = 6;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// A member that reads the source.
    Source,
    /// One that keeps state.
    Stateful,
    /// One that writes an output.
    Sink,
    /// The executable of a task, alone.
    Exec,
    /// The leader, and with it the coordinator.
    Leader,
    /// A member that runs no task and does not lead.
    Plain,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell(Victim, When, Shape);

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = format!("{:?}/{:?}/{:?}", self.0, self.1, self.2);
        f.write_str(&name.to_lowercase())
    }
}

/// What runs where nothing else is asked for.
const SOME: [Cell; 3] = [
    Cell(Victim::Stateful, When::Commit, Shape::Ordered),
    Cell(Victim::Leader, When::After, Shape::Unordered),
    Cell(Victim::Exec, When::At, Shape::Ordered),
];

fn all() -> Vec<Cell> {
    use {Victim as V, When as W};
    let mut all = Vec::new();
    for victim in [
        V::Source,
        V::Stateful,
        V::Sink,
        V::Exec,
        V::Leader,
        V::Plain,
    ] {
        for when in [W::Before, W::At, W::After, W::Commit, W::Recovery] {
            for shape in [Shape::Ordered, Shape::Unordered] {
                all.push(Cell(victim, when, shape));
            }
        }
    }
    all
}

fn planned() -> Vec<Cell> {
    let rounds = std::env::var("HYDFS_KILLS").map(|n| n.parse().expect("HYDFS_KILLS is a number"));
    if let Ok(one) = std::env::var("HYDFS_CELL") {
        let cell = all().into_iter().find(|cell| cell.to_string() == one);
        let cell = cell.expect("HYDFS_CELL is VICTIM/WHEN/SHAPE");
        return vec![cell; rounds.unwrap_or(1)];
    }
    rounds.map_or(SOME.to_vec(), |rounds| all().repeat(rounds))
}

#[test]
fn fault_r2_whoever_dies_at_whichever_moment_of_a_job_its_output_is_right() {
    let Some(desk) = Desk::up_with(5, 0, &[LOG]) else {
        return;
    };
    desk.store_paced();
    let seed =
        std::env::var("HYDFS_SEED").map_or(1, |seed| seed.parse().expect("HYDFS_SEED is a number"));
    let mut plan = Plan {
        logs: Logs::follow(&desk.cluster),
        draws: Draws(seed),
        jobs: 0,
        desk: &desk,
    };
    let mut missed = Vec::new();
    for cell in planned() {
        if !(0..TRIES).any(|_| plan.run(cell)) {
            missed.push(cell.to_string());
        }
    }
    assert!(missed.is_empty(), "never hit in {TRIES} tries: {missed:?}");
}

struct Plan<'a> {
    desk: &'a Desk,
    logs: Logs,
    draws: Draws,
    jobs: usize,
}

impl Plan<'_> {
    /// Runs a job and the kill, and judges what came out. Whether the moment was met.
    fn run(&mut self, cell: Cell) -> bool {
        self.jobs += 1;
        self.desk.cluster.wait_healthy();
        self.logs.read();
        let before = self.logs.newest_job();
        let draws = Draws(self.draws.below(u64::MAX));
        let input = Input::begin(self.desk, &format!("job{}", self.jobs), cell.2, draws);
        let mut killed = Vec::new();
        let hit = self.kill_in_time(cell, before + 1, &mut killed);
        let what = hit.as_deref().unwrap_or("the moment was not met");
        println!("{} of {cell}: {what}", input.job);
        let down = Duration::from_millis(20 + self.draws.below(6000));
        if killed.iter().any(Killed::is_down) {
            // Back before the others have expired it, or after that.
            thread::sleep(down);
        }
        for one in killed.iter().filter(|one| one.is_down()) {
            self.desk.cluster.kill(one.member);
            self.desk.cluster.start(one.member);
        }
        input.judge();
        hit.is_some()
    }

    /// Kills whom the plan names when it says. What was done, if the moment was met.
    fn kill_in_time(&mut self, cell: Cell, job: u64, killed: &mut Vec<Killed>) -> Option<String> {
        let ready = self
            .logs
            .until(job, MOMENT, |course| course.commits() >= COMMITS);
        let status = || self.desk.job_file(&format!("job{}", self.jobs), "status");
        assert!(ready, "no job epochs are committed: {}", status());
        // Not always in the same round.
        let rounds = self.logs.of(job).commits() + self.draws.below(4) as usize;
        let is_now: fn(&Course<'_>) -> bool = match cell.1 {
            When::Before => |course| course.is_between(),
            When::At => |course| course.is_at_barrier(),
            When::After => |course| course.is_behind_barrier(),
            When::Commit => |course| course.is_committing(),
            When::Recovery => return self.kill_twice(cell, job, rounds, killed),
        };
        // Whom, before it is time: nothing is looked up then.
        let leader = self.desk.cluster.leader();
        let victim = self.victim(cell, job, leader)?;
        let due = |course: &Course<'_>| course.commits() >= rounds && is_now(course);
        if !self.logs.until(job, MOMENT, due) {
            return None;
        }
        let one = victim.kill()?;
        let what = one.to_string();
        killed.push(one);
        self.logs.read();
        let course = self.logs.of(job);
        is_now(&course).then(|| format!("{what} behind {} job epochs", course.commits()))
    }

    /// Another member dies first; whom the plan names dies when the job is handed out again and has not got on.
    fn kill_twice(
        &mut self,
        cell: Cell,
        job: u64,
        rounds: usize,
        killed: &mut Vec<Killed>,
    ) -> Option<String> {
        if !self
            .logs
            .until(job, MOMENT, |course| course.commits() >= rounds)
        {
            return None;
        }
        let leader = self.desk.cluster.leader();
        let (before, rows) = self.placed(job)?;
        let running: Vec<usize> = self
            .desk
            .cluster
            .members()
            .filter(|i| *i != leader && rows.iter().flatten().any(|m| m == i))
            .collect();
        let first = running[self.draws.below(running.len() as u64) as usize];
        killed.extend(Processes::of(&self.desk.cluster, first, What::Member).kill());
        let again = |course: &Course<'_>| course.placed().is_some_and(|(now, _)| now > before);
        if !self.logs.until(job, MOMENT, again) {
            return None;
        }
        let victim = self.victim(cell, job, leader)?;
        // As long as it takes to hand tasks out, put state back and commit; executables are there a little later.
        thread::sleep(Duration::from_millis(self.draws.below(100)));
        let one = victim.kill_soon()?;
        let what = format!("{}, then {one}", killed[0]);
        killed.push(one);
        self.logs.read();
        let before_commit = self.logs.of(job).commits() == 0;
        before_commit.then(|| format!("{what} before the first commit of the next attempt"))
    }

    fn placed(&self, job: u64) -> Option<(u32, Vec<Vec<usize>>)> {
        let course = self.logs.of(job);
        course
            .placed()
            .map(|(attempt, rows)| (attempt, rows.to_vec()))
    }

    /// Whom the plan may mean, of members that are up.
    fn victim(&mut self, cell: Cell, job: u64, leader: usize) -> Option<Processes> {
        let (_, rows) = self.placed(job)?;
        let cluster = &self.desk.cluster;
        let others = |row: &[usize]| row.iter().copied().find(|i| *i != leader);
        let runs_tasks = |i: &usize| rows.iter().flatten().any(|busy| busy == i);
        let [source, stateful, exec] = cell.2.stages();
        let member = match cell.0 {
            Victim::Leader => Some(leader),
            Victim::Plain => cluster
                .members()
                .find(|i| *i != leader && !runs_tasks(i) && Processes::is_up(cluster, *i)),
            Victim::Source => others(&rows[source]),
            Victim::Stateful => others(&rows[stateful]),
            Victim::Sink => others(rows.last()?),
            Victim::Exec => rows[exec].first().copied(),
        };
        let what = match cell.0 {
            Victim::Exec => What::Executables,
            Victim::Leader => What::Member,
            _ if self.draws.below(3) == 0 => What::Worker,
            _ => What::Member,
        };
        Some(Processes::of(cluster, member?, what))
    }
}
