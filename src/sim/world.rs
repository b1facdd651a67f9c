//! The machines of one run, their network and their users.

use crate::{
    SimNet,
    autopsy::Remains,
    blocks::{Blocks, Part, use_blocks},
    client::{self, Habits},
    host::Host,
    jobs::{Jobs, read_outputs, run_job},
    kernel::Kernel,
    moments::Moments,
    names::{Names, use_names},
    oracle::Oracle,
    paths::Mounts,
    watch::Watch,
};
use hydfs_data::Trial;
use hydfs_node::Member;
use hydfs_store::Crash;
use hydfs_types::{Agreement, Command, Incarnation, JobInfo, LogIndex, MemberId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// How often a condition is looked at, and how often the invariants are.
const LOOK: Duration = Duration::from_millis(50);
const WATCH: Duration = Duration::from_millis(10);

/// Users of one machine; they go with its mount.
struct Users {
    kernel: Arc<Kernel>,
    tasks: Vec<JoinHandle<()>>,
}

/// All of it.
pub struct World {
    pub net: Arc<SimNet>,
    pub hosts: Vec<Host>,
    /// Copies that each file has.
    pub copies: u8,
    members: u8,
    pub oracle: Oracle,
    pub names: Names,
    /// Everybody's first, then one of each machine.
    pub blocks: Vec<Blocks>,
    pub jobs: Jobs,
    /// Those of RainStorm's jobs, where it runs.
    pub moments: Option<Moments>,
    /// Mounts that are served now.
    pub mounts: Mounts,
    pub rng: SmallRng,
    watch: Arc<Watch>,
    habits: Habits,
    users: BTreeMap<usize, Users>,
    job: Option<JoinHandle<()>>,
    /// Machines with flipped bits on their disks that may not be healed yet.
    pub flipped: BTreeSet<usize>,
    /// Machines whose members may be draining.
    draining: BTreeSet<usize>,
    /// Some bits have flipped in this run.
    pub flips: bool,
    /// Incarnations that lost power, or the end of a journal that could not be synced.
    ended: BTreeMap<Incarnation, String>,
    stop: Arc<AtomicBool>,
}

impl World {
    /// Machines with empty disks, `spare` of them for later; nothing runs yet. Call it inside the runtime.
    pub fn new(seed: u64, members: u8, spare: u8, habits: Habits, trial: Trial) -> Self {
        let net = SimNet::new(seed);
        let copies = members.min(3);
        let hosts = (0..members + spare)
            .map(|index| Host::new(net.clone(), index, copies, seed, trial))
            .collect();
        let oracle = Oracle::default();
        let watch = Watch::new(oracle.clone());
        net.set_tap(watch.clone());
        Self {
            net,
            hosts,
            copies,
            members,
            names: Names::default(),
            blocks: ["blocks".to_owned()]
                .into_iter()
                .chain((1..=members + spare).map(|index| format!("own{index}")))
                .map(Blocks::new)
                .collect(),
            jobs: Jobs::new(oracle.clone()),
            moments: None,
            mounts: Mounts::default(),
            oracle,
            watch,
            rng: SmallRng::seed_from_u64(seed ^ 0x5eed),
            habits,
            users: BTreeMap::new(),
            job: None,
            flipped: BTreeSet::new(),
            draining: BTreeSet::new(),
            flips: false,
            ended: BTreeMap::new(),
            stop: Arc::default(),
        }
    }

    /// Members run RainStorm, from their next start on; a task keeps so much of its state in memory.
    pub fn stream(&mut self, state_memory_bytes: usize, planted: Option<rainstorm::Planted>) {
        let moments = Moments::new();
        let options = moments.options(state_memory_bytes, planted);
        for host in &mut self.hosts {
            host.streams = Some(options.clone());
        }
        self.moments = Some(moments);
    }

    /// The newest job of this name, as the member knows it that has seen most.
    pub fn job(&self, name: &str) -> Option<JobInfo> {
        let members = self.members().into_iter();
        let newest = members.max_by_key(|member| member.ctx.state().index)?;
        let state = newest.ctx.state();
        let jobs = state.jobs.values().filter(|job| job.name == name);
        jobs.max_by_key(|job| job.id).cloned()
    }

    /// Index of the machine whose member this is.
    pub fn host_of(&self, id: MemberId) -> Option<usize> {
        let is_its = |host: &Host| host.member().is_some_and(|member| member.id() == id);
        self.hosts.iter().position(is_its)
    }

    /// Starts the machines that the cluster begins with.
    pub fn begin(&mut self) {
        let members = usize::from(self.members);
        self.hosts.iter_mut().take(members).for_each(Host::start);
    }

    /// Starts every machine that is down and belongs to the cluster.
    pub fn start_all(&mut self) {
        let down = |host: &&mut Host| !host.is_running() && host.is_used() && !host.gone;
        self.hosts.iter_mut().filter(down).for_each(Host::start);
    }

    /// Machines that belong to the cluster.
    fn ours(&self) -> impl Iterator<Item = &Host> {
        self.hosts
            .iter()
            .filter(|host| host.is_used() && !host.gone)
    }

    /// Members that serve.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.hosts.iter().filter_map(Host::member).collect()
    }

    /// Index of the machine that leads the agreement group.
    pub fn leader(&self) -> Option<usize> {
        self.hosts
            .iter()
            .position(|host| host.member().is_some_and(|member| member.group.is_leader()))
    }

    /// Lets time pass; users of members that have come up begin meanwhile, and what replicas hold is watched.
    pub async fn run(&mut self, span: Duration) {
        let until = Instant::now() + span;
        while Instant::now() < until {
            self.stop_those_that_left().await;
            self.end_those_that_failed().await;
            self.start_users();
            let pause = Instant::now() + LOOK.min(until - Instant::now());
            while Instant::now() < pause {
                self.watch.look(&self.hosts);
                sleep(WATCH.min(pause - Instant::now())).await;
            }
        }
        self.start_users();
        self.watch.look(&self.hosts);
    }

    /// The workers of members whose disk failed end by themselves. They are started again when it is whole.
    async fn end_those_that_failed(&mut self) {
        for index in 0..self.hosts.len() {
            let member = self.hosts[index].member();
            if member.is_some_and(|member| member.failure().is_some()) {
                self.kill_worker(index).await;
            }
        }
    }

    fn start_users(&mut self) {
        let served = |host: &Host| {
            let life = host.life.as_ref()?;
            life.member().map(|_| life.kernel.clone())
        };
        self.mounts
            .set(self.hosts.iter().filter_map(served).collect());
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        self.jobs.set_members(self.members());
        let imitates = self.moments.is_none();
        if let (true, None, Some(pause)) = (imitates, &self.job, self.habits.others_millis) {
            let (jobs, seed, stop) = (self.jobs.clone(), self.rng.random(), self.stop.clone());
            self.job = Some(tokio::spawn(run_job(jobs, pause / 8, seed, stop)));
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let Some((life, kernel, member)) = host
                .life
                .as_ref()
                .and_then(|life| Some((life.number, life.kernel.clone(), life.member()?)))
            else {
                continue;
            };
            if let Some(how) = self.ended.remove(&member.ctx.me()) {
                self.oracle
                    .report(format!("R12: {how} and goes on as the same incarnation"));
            }
            if self
                .users
                .get(&index)
                .is_some_and(|users| Arc::ptr_eq(&users.kernel, &kernel))
            {
                continue;
            }
            let name = |what: &str| format!("{what}{}.{life}", index + 1);
            let seeds: [u64; 2] = self.rng.random();
            let (oracle, stop, habits) = (self.oracle.clone(), self.stop.clone(), self.habits);
            let writer = client::write_lines(
                kernel.clone(),
                name("w"),
                oracle.clone(),
                habits,
                seeds[0],
                stop.clone(),
            );
            let reader = client::read_all_the_time(
                kernel.clone(),
                name("r"),
                oracle,
                habits,
                seeds[1],
                stop,
            );
            let mut tasks = vec![tokio::spawn(writer), tokio::spawn(reader)];
            if let Some(pause) = habits.others_millis {
                let seeds: [u64; 5] = self.rng.random();
                let stop = || self.stop.clone();
                let names = use_names(kernel.clone(), self.names.clone(), pause, seeds[0], stop());
                tasks.push(tokio::spawn(names));
                let own = 1 + index;
                let next = 1 + (index + 1) % self.hosts.len();
                let uses = [
                    (0, Part::Everything, pause),
                    (own, Part::Writes, 2 * pause),
                    (next, Part::Reads, 4 * pause),
                ];
                for ((file, part, pause), seed) in uses.into_iter().zip(&seeds[1..]) {
                    let blocks = self.blocks[file].clone();
                    let user = use_blocks(kernel.clone(), blocks, part, pause, *seed, stop());
                    tasks.push(tokio::spawn(user));
                }
                if imitates {
                    let jobs = self.jobs.clone();
                    let reads = read_outputs(kernel.clone(), jobs, pause, seeds[4], stop());
                    tasks.push(tokio::spawn(reads));
                }
            }
            self.users.insert(index, Users { kernel, tasks });
        }
    }

    /// A machine goes down, or its supervisor dies, its users with it. What it leaves on its disk is examined.
    pub async fn crash(&mut self, index: usize, how: Crash) {
        if let Some(users) = self.users.remove(&index) {
            users.tasks.iter().for_each(JoinHandle::abort);
        }
        self.end_life(index, how, |host| host.crash(how)).await;
    }

    /// A worker dies alone: its users wait for the next one.
    pub async fn kill_worker(&mut self, index: usize) {
        self.end_life(index, Crash::Kill, Host::kill_worker).await;
    }

    async fn end_life(&mut self, index: usize, how: Crash, end: impl FnOnce(&mut Host)) {
        let newest = self
            .members()
            .into_iter()
            .max_by_key(|member| member.ctx.state().index)
            .map(|member| member.ctx.state().clone());
        let host = &mut self.hosts[index];
        let remains = host.life.as_ref().and_then(|life| Remains::of(life, how));
        if let Some(member) = host.member().filter(|_| how != Crash::Kill) {
            let what = format!("{} lost power ({how:?})", host.name);
            self.ended.insert(member.ctx.me(), what);
        }
        self.watch.gone(host.addr);
        end(host);
        if let (Some(remains), Some(state)) = (remains, newest) {
            let (others, incarnation) = (self.members(), remains.incarnation());
            let rotten = self.flipped.contains(&index);
            let may_go_on = remains
                .examine(&self.hosts[index], state, &others, &self.oracle, rotten)
                .await;
            if !may_go_on && how == Crash::Kill {
                let name = &self.hosts[index].name;
                let what = format!("{name} lost the end of its journal");
                self.ended.insert(incarnation, what);
            }
        }
    }

    /// All machines lose power at the same moment.
    pub async fn blackout(&mut self) {
        self.oracle.blackout();
        self.watch.blackout();
        for index in 0..self.hosts.len() {
            if self.hosts[index].life.is_some() || self.hosts[index].is_mounted() {
                self.crash(index, Crash::PowerCut).await;
            }
        }
    }

    /// Has a member's copies moved to others, or takes that back. Answers whether that is agreed.
    pub async fn drain(&mut self, index: usize, on: bool) -> bool {
        if on {
            self.draining.insert(index);
        }
        let Some(member) = self.hosts[index].member() else {
            return false;
        };
        let incarnation = member.ctx.me();
        let asked = member.group.propose(Command::Drain { incarnation, on });
        let agreed = asked.await.is_ok();
        if agreed && !on {
            self.draining.remove(&index);
        }
        agreed
    }

    /// Takes back all drains of members that are still there, within a deadline.
    pub async fn end_drains(&mut self, deadline: Duration) {
        let until = Instant::now() + deadline;
        while let Some(index) = self.draining.first().copied() {
            if self.hosts[index].gone {
                self.draining.remove(&index);
            } else if !self.drain(index, false).await {
                self.run(LOOK).await;
            }
            if Instant::now() > until {
                let name = &self.hosts[index].name;
                self.oracle
                    .report(format!("{name}: its drain cannot be taken back"));
                return;
            }
        }
    }

    /// Whether others have all copies that this member has, and its vote, as it knows: as `hydfs leave` waits.
    pub async fn is_drained(&self, index: usize) -> bool {
        let Some(member) = self.hosts[index].member() else {
            return false;
        };
        if member.group.barrier().await.is_err() {
            return false;
        }
        if member.group.metrics().voters.contains(&member.id()) {
            return false;
        }
        let (me, state) = (member.ctx.me(), member.ctx.state());
        let member = state.member_of(me);
        member.is_some_and(|member| member.draining) && state.moving(Some(me)).slots == 0
    }

    /// As [`World::leave`]; while no other member comes or goes no slot is shorter of copies than before.
    pub async fn leave_drained(&mut self, index: usize) -> bool {
        let look = |world: &Self| {
            let members = world.members();
            let newest = members.iter().max_by_key(|one| one.ctx.state().index)?;
            let state = newest.ctx.state();
            Some((state.staying(), state.moving(None).slots))
        };
        let before = look(self);
        let left = self.leave(index).await;
        if let (true, Some((stayed, short)), Some((staying, now))) = (left, before, look(self))
            && stayed == staying
            && now > short
        {
            let name = &self.hosts[index].name;
            self.oracle.report(format!(
                "{name} was drained and left, and {now} slots are short of copies, {short} before"
            ));
        }
        left
    }

    /// A member leaves for ever and stops. Answers whether it could.
    pub async fn leave(&mut self, index: usize) -> bool {
        let Some(member) = self.hosts[index].member() else {
            return false;
        };
        member.volume.end_all().await;
        let command = Command::Leave {
            incarnation: member.ctx.me(),
            forever: true,
            kept: LogIndex(0),
        };
        // Whoever is not answered may have left all the same; that is seen later.
        let left = member.group.propose(command).await;
        if let Err(error) = &left {
            tracing::info!(%error, "it could not leave");
        }
        self.stop_those_that_left().await;
        left.is_ok()
    }

    /// A process whose member has left for ever ends.
    async fn stop_those_that_left(&mut self) {
        let members = self.members();
        let newest = members.iter().max_by_key(|one| one.ctx.state().index);
        let Some(newest) = newest else { return };
        let left: Vec<String> = {
            let state = newest.ctx.state();
            let members = state.cluster.members.values();
            members
                .filter(|member| member.left)
                .map(|member| member.said.name.clone())
                .collect()
        };
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            if !host.gone && left.contains(&host.name) {
                host.gone = true;
                self.crash(index, Crash::Kill).await;
            }
        }
    }

    /// Why not every machine serves and says that all is well.
    pub fn trouble(&self) -> Option<String> {
        for host in self.ours() {
            let Some(life) = &host.life else {
                return Some(format!("{} is down", host.name));
            };
            match life.member.get() {
                None => return Some(format!("{} is not admitted yet", host.name)),
                Some(Err(error)) => return Some(format!("{} gave up: {error}", host.name)),
                Some(Ok(member)) => {
                    let text = member
                        .volume
                        .control_text("cluster/status")
                        .unwrap_or_default();
                    if !text.starts_with(b"healthy")
                        || member.ctx.state().cluster.alive.len() < self.ours().count()
                    {
                        let said = String::from_utf8_lossy(&text);
                        return Some(format!(
                            "{} says: {}",
                            host.name,
                            said.lines().take(3).collect::<Vec<_>>().join("; ")
                        ));
                    }
                }
            }
        }
        None
    }

    /// Waits until all is well; reports what is not at the deadline. Answers how long it took.
    pub async fn wait_healthy(&mut self, deadline: Duration) -> Option<Duration> {
        let began = Instant::now();
        loop {
            let Some(trouble) = self.trouble() else {
                return Some(began.elapsed());
            };
            if began.elapsed() > deadline {
                self.oracle.report(format!(
                    "not healthy after {deadline:?} with nothing wrong any more: {trouble}"
                ));
                return None;
            }
            self.run(LOOK).await;
            // Supervisors start again whoever gave up.
            self.start_all();
        }
    }

    /// Users finish what they do and stop.
    pub async fn stop_users(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let users = std::mem::take(&mut self.users).into_values();
        let tasks = users.flat_map(|users| users.tasks).chain(self.job.take());
        for task in tasks.collect::<Vec<_>>() {
            let done = tokio::time::timeout(Duration::from_secs(120), task).await;
            if done.is_err() {
                self.oracle
                    .report("a call did not return within two minutes of quiet".into());
            }
        }
        // Members would outlive the run in there.
        self.jobs.set_members(Vec::new());
    }
}
