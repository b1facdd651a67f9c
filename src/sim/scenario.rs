//! Runs of the whole cluster from one seed: what happens to it, and the verdict.

use crate::{
    Link,
    blocks::Blocks,
    chaos::{Faults, Kind, chaos},
    client::Habits,
    kills::{Kill, kills},
    moments::Moments,
    oracle::Tally,
    story::Story,
    streams::Streams,
    world::World,
};
use hydfs_data::Trial;
use hydfs_store::Crash;
use hydfs_types::{Planted, SEGMENT_BYTES};
use rand::RngExt;
use std::{fmt, time::Duration};
use tokio::time::Instant;

/// Longest wait for a cluster that nothing ails any more.
const HEAL: Duration = Duration::from_secs(60);
/// Appends end a segment of this many bytes, so that files roll within a run.
const SMALL_SEGMENT: u64 = 32 << 10;
/// What a task keeps of its state in memory: all of it, or so little that most of it is in scratch files.
const STATE: usize = 32 << 20;
const SCARCE_STATE: usize = 8 << 10;
/// Machines that may join.
const SPARE: u8 = 2;
/// Members whose users follow their habits; those of more members take longer pauses, so that all of them do as much.
const CROWD: u8 = 10;

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Writers and readers on all members, over links that delay, lose and repeat.
    Append,
    /// The same while members crash, lose power and come back, one fault after the other is healed; the leader too.
    Failover,
    /// The same with processes killed and links cut at any time, without waiting for the cluster to recover.
    Storm,
    /// Faults of all kinds at once, on users of all kinds of calls; files have small segments.
    Chaos,
    /// A real job runs, and a member is killed at one moment of its course.
    Kills,
}

impl Scenario {
    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Self> {
        [
            Self::Append,
            Self::Failover,
            Self::Storm,
            Self::Chaos,
            Self::Kills,
        ]
        .into_iter()
        .find(|one| one.name() == name)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Failover => "failover",
            Self::Storm => "storm",
            Self::Chaos => "chaos",
            Self::Kills => "kills",
        }
    }
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub scenario: Scenario,
    pub seed: u64,
    pub members: u8,
    /// Virtual seconds of writes and faults.
    pub seconds: u64,
    /// Kinds of faults in chaos.
    pub faults: Faults,
    /// RainStorm runs jobs beside the other users.
    pub jobs: bool,
    /// Who dies when, in that scenario.
    pub kill: Kill,
    /// A bug that all members have.
    pub planted: Option<Planted>,
    /// One that RainStorm has on all of them.
    pub planted_in_jobs: Option<rainstorm::Planted>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub plan: Plan,
    pub violations: Vec<String>,
    pub tally: Tally,
    /// What was done to the cluster, with virtual times.
    pub faults: Vec<String>,
    /// The same for the same plan, byte for byte.
    pub trace: u64,
    pub deliveries: u64,
}

impl Plan {
    /// The command that repeats this run.
    pub fn command(&self) -> String {
        format!(
            "cargo run --release -p hydfs-sim -- {}",
            self.arguments().join(" ")
        )
    }

    /// The plan as arguments of the program.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--scenario".to_owned(),
            self.scenario.name().to_owned(),
            "--seed".to_owned(),
            self.seed.to_string(),
            "--members".to_owned(),
            self.members.to_string(),
            "--seconds".to_owned(),
            self.seconds.to_string(),
        ];
        if self.faults != Faults::ALL {
            arguments.extend(["--faults".to_owned(), self.faults.to_string()]);
        }
        if self.jobs {
            arguments.push("--jobs".to_owned());
        }
        if self.scenario == Scenario::Kills {
            arguments.extend(["--kill".to_owned(), self.kill.to_string()]);
        }
        if let Some(planted) = self.planted {
            arguments.extend(["--plant".to_owned(), planted.name().to_owned()]);
        }
        if let Some(planted) = self.planted_in_jobs {
            arguments.extend(["--plant".to_owned(), planted.name().to_owned()]);
        }
        arguments
    }

    /// Runs it on a runtime of its own, under virtual time.
    pub fn run(self) -> Verdict {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O always starts");
        runtime.block_on(play(self))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            writes,
            acknowledged,
            durable,
            failed_writes,
            reads,
            failed_reads,
            bytes,
            calls,
            epochs,
            unjudged,
        } = self.tally;
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        writeln!(
            f,
            "{writes} writes, {acknowledged} acknowledged, {durable} by fsync, {failed_writes} failed; {reads} reads, {failed_reads} failed; {bytes} bytes; {calls} calls on names and blocks; {epochs} job epochs; {unjudged} histories with too much unknown"
        )?;
        writeln!(
            f,
            "trace {:016x} over {} deliveries",
            self.trace, self.deliveries
        )?;
        for violation in self.violations.iter().take(10) {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        match self.violations.len() {
            0 => write!(f, "ok"),
            count => write!(f, "{count} violations; run again: {}", self.plan.command()),
        }
    }
}

async fn play(plan: Plan) -> Verdict {
    let mixed = plan.scenario == Scenario::Chaos;
    // Many members have the users of ten: what they do is applied by each member.
    let rarely = u64::from(plan.members / CROWD).max(1);
    let pause_millis = match plan.scenario {
        Scenario::Chaos => 100,
        Scenario::Kills => 300,
        _ => 60,
    };
    let habits = Habits {
        pause_millis: rarely * pause_millis,
        padding: 400,
        sync_one_in: 8,
        reopen_one_in: 30,
        others_millis: mixed.then_some(200 * rarely),
    };
    let trial = Trial {
        segment_bytes: if mixed { SMALL_SEGMENT } else { SEGMENT_BYTES },
        planted: plan.planted,
    };
    let spare = u8::from(mixed && plan.faults.has(Kind::Join)) * SPARE;
    let mut story = Story {
        world: World::new(plan.seed, plan.members, spare, habits, trial),
        began: Instant::now(),
        faults: Vec::new(),
    };
    if plan.jobs || plan.scenario == Scenario::Kills {
        let scarce = story.world.rng.random();
        let state = if scarce { SCARCE_STATE } else { STATE };
        story.world.stream(state, plan.planted_in_jobs);
    }
    story.world.begin();
    if story.world.wait_healthy(HEAL).await.is_some() {
        story.tell("all members serve".into());
        let streams = match plan.jobs {
            true => Some(Streams::begin(&mut story.world).await),
            false => None,
        };
        let until = Instant::now() + Duration::from_secs(plan.seconds);
        match plan.scenario {
            Scenario::Append => append(&mut story, until).await,
            Scenario::Failover => failover(&mut story, until).await,
            Scenario::Storm => storm(&mut story, until).await,
            Scenario::Chaos => chaos(&mut story, plan.faults, until).await,
            Scenario::Kills => kills(&mut story, plan.kill).await,
        }
        finish(&mut story, streams).await;
    }
    let Story { world, faults, .. } = story;
    let tally = judge(&world);
    Verdict {
        plan,
        violations: world.oracle.violations(),
        tally,
        faults,
        trace: world.net.trace_hash(),
        deliveries: world.net.deliveries(),
    }
}

/// Judges what the users of names and blocks saw, whatever else was found.
fn judge(world: &World) -> Tally {
    let (of_names, names_judged) = world.names.judge();
    let of_blocks: Vec<_> = world.blocks.iter().map(Blocks::judge).collect();
    let unjudged = of_blocks.iter().filter(|(_, judged)| !judged).count() as u64;
    let of_blocks = of_blocks.into_iter().flat_map(|(wrong, _)| wrong);
    for wrong in of_names.into_iter().chain(of_blocks) {
        world.oracle.report(wrong);
    }
    Tally {
        calls: world.names.calls() + world.blocks.iter().map(Blocks::calls).sum::<u64>(),
        epochs: world.jobs.committed() + world.moments.as_ref().map_or(0, Moments::committed),
        unjudged: u64::from(!names_judged) + unjudged,
        ..world.oracle.tally()
    }
}

/// Nothing is wrong any more: the cluster becomes healthy by itself, and all promises were kept.
async fn finish(story: &mut Story, streams: Option<Streams>) {
    story.world.net.heal();
    story.world.net.set_usual_link(Link::default());
    story.world.start_all();
    if story.over() {
        return;
    }
    story.tell("everything is healed".into());
    story.world.end_drains(HEAL).await;
    if story.world.wait_healthy(HEAL).await.is_none() {
        return;
    }
    story.world.stop_users().await;
    story.tell("users have stopped".into());
    if let Some(streams) = streams {
        streams.finish(&mut story.world).await;
        story.tell("the jobs are through".into());
    }
    if story.world.wait_healthy(HEAL).await.is_some() {
        story.world.check_quiet().await;
    }
}

/// A link of moderate quality.
fn rough(story: &mut Story) -> Link {
    let rng = &mut story.world.rng;
    Link {
        latency: Duration::from_micros(rng.random_range(200..3000)),
        jitter: Duration::from_millis(rng.random_range(0..15)),
        datagram_loss: rng.random_range(0.0..0.1),
        datagram_twice: rng.random_range(0.0..0.1),
        request_twice: 0.0,
        request_loss: rng.random_range(0.0..0.01),
        reply_loss: rng.random_range(0.0..0.01),
    }
}

async fn append(story: &mut Story, until: Instant) {
    let link = rough(story);
    story.world.net.set_usual_link(link);
    // Clocks lie, and step back: order is never theirs (faults S5, S6).
    while Instant::now() < until && !story.over() {
        let host = story.world.rng.random_range(0..story.world.hosts.len());
        let off = story.world.rng.random_range(-5000..5000);
        story.world.hosts[host].set_clock(off);
        story
            .world
            .run(Duration::from_secs(1).min(until - Instant::now()))
            .await;
    }
}

/// One of the machines, the leader half the time.
fn victim(story: &mut Story) -> usize {
    let any = story.world.rng.random_range(0..story.world.hosts.len());
    match story.world.leader() {
        Some(leader) if story.world.rng.random_bool(0.4) => leader,
        _ => any,
    }
}

async fn failover(story: &mut Story, until: Instant) {
    while Instant::now() < until && !story.over() {
        let calm = Duration::from_millis(story.world.rng.random_range(200..2500));
        story.world.run(calm).await;
        let host = victim(story);
        match story.world.rng.random_range(0..6) {
            0 | 1 => crash(story, host, Crash::Kill).await,
            2 => crash(story, host, Crash::PowerCut).await,
            3 => crash(story, host, Crash::PowerCutTorn).await,
            4 => cut(story, host).await,
            _ => lossy(story).await,
        }
        if story.world.wait_healthy(HEAL).await.is_none() {
            return;
        }
        story.tell("healthy".into());
    }
}

async fn crash(story: &mut Story, host: usize, how: Crash) {
    let leads = if story.world.leader() == Some(host) {
        ", the leader"
    } else {
        ""
    };
    story.tell(format!("{}{leads}: {how:?}", story.world.hosts[host].name));
    story.world.crash(host, how).await;
    let down = Duration::from_millis(story.world.rng.random_range(50..9000));
    story.world.run(down).await;
    story.tell(format!("{} starts again", story.world.hosts[host].name));
    story.world.hosts[host].start();
}

async fn cut(story: &mut Story, host: usize) {
    let addr = story.world.hosts[host].addr;
    let others: Vec<_> = story
        .world
        .hosts
        .iter()
        .map(|host| host.addr)
        .filter(|other| *other != addr)
        .collect();
    let way = story.world.rng.random_range(0..3);
    let some = story.world.rng.random_range(1..=others.len());
    let name = story.world.hosts[host].name.clone();
    story.tell(format!(
        "{name}: {} with {some} others is cut",
        ["what it sends", "what it hears", "every link"][way]
    ));
    for other in others.into_iter().take(some) {
        if way != 1 {
            story.world.net.cut(addr, other);
        }
        if way != 0 {
            story.world.net.cut(other, addr);
        }
    }
    let span = Duration::from_millis(story.world.rng.random_range(500..9000));
    story.world.run(span).await;
    story.world.net.heal();
    story.tell("links are whole".into());
}

async fn lossy(story: &mut Story) {
    let loss = story.world.rng.random_range(0.02..0.25);
    story.tell(format!("{:.0} % of all messages are lost", loss * 100.0));
    let link = Link {
        jitter: Duration::from_millis(20),
        datagram_loss: loss,
        request_loss: loss,
        reply_loss: loss,
        ..Link::default()
    };
    story.world.net.set_usual_link(link);
    let span = Duration::from_millis(story.world.rng.random_range(1000..6000));
    story.world.run(span).await;
    story.world.net.set_usual_link(Link::default());
    story.tell("links are whole".into());
}

async fn storm(story: &mut Story, until: Instant) {
    while Instant::now() < until && !story.over() {
        let pause = Duration::from_millis(story.world.rng.random_range(10..3000));
        story.world.run(pause).await;
        let host = victim(story);
        let (name, addr) = (
            story.world.hosts[host].name.clone(),
            story.world.hosts[host].addr,
        );
        match story.world.rng.random_range(0..10) {
            0..4 if story.world.hosts[host].life.is_some() => {
                story.tell(format!("{name}: Kill"));
                story.world.crash(host, Crash::Kill).await;
            }
            0..6 => {
                story.tell("all that are down start".into());
                story.world.start_all();
            }
            6 | 7 => {
                let other = story.world.rng.random_range(0..story.world.hosts.len());
                let to = story.world.hosts[other].addr;
                story.tell(format!(
                    "{name} is not heard by {}",
                    story.world.hosts[other].name
                ));
                story.world.net.cut(addr, to);
            }
            _ => {
                story.tell("links are whole".into());
                story.world.net.heal();
            }
        }
    }
}
