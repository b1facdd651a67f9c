//! The machines of one run, their network, their users, and what must hold when all is quiet.

use crate::{
    SimNet,
    client::{self, Habits},
    host::Host,
    oracle::Oracle,
};
use hydfs_node::Member;
use hydfs_store::Crash;
use hydfs_types::{Digest, SegmentId, SegmentVersion};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeMap,
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

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Users of one machine; they go with its life.
struct Users {
    life: u32,
    tasks: Vec<JoinHandle<()>>,
}

/// All of it.
pub struct World {
    pub net: Arc<SimNet>,
    pub hosts: Vec<Host>,
    pub oracle: Oracle,
    pub rng: SmallRng,
    habits: Habits,
    users: BTreeMap<usize, Users>,
    stop: Arc<AtomicBool>,
    /// Digest and length of every version that any replica ever had (I3).
    versions: BTreeMap<(SegmentId, SegmentVersion), (Digest, u64, String)>,
}

impl World {
    /// Machines with empty disks; nothing runs yet. Call it inside the runtime.
    pub fn new(seed: u64, members: u8, habits: Habits) -> Self {
        let net = SimNet::new(seed);
        let hosts = (0..members)
            .map(|index| Host::new(net.clone(), index, members.min(3), seed))
            .collect();
        Self {
            net,
            hosts,
            oracle: Oracle::default(),
            rng: SmallRng::seed_from_u64(seed ^ 0x5eed),
            habits,
            users: BTreeMap::new(),
            stop: Arc::default(),
            versions: BTreeMap::new(),
        }
    }

    /// Starts every machine that is down.
    pub fn start_all(&mut self) {
        for host in self.hosts.iter_mut().filter(|host| host.life.is_none()) {
            host.start();
        }
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
            self.look();
            sleep(LOOK.min(until - Instant::now())).await;
        }
        self.look();
    }

    fn look(&mut self) {
        self.start_users();
        self.watch_versions();
    }

    fn start_users(&mut self) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let Some((life, member)) = host
                .life
                .as_ref()
                .and_then(|life| Some((life.number, life.member()?)))
            else {
                continue;
            };
            if self
                .users
                .get(&index)
                .is_some_and(|users| users.life == life)
            {
                continue;
            }
            let name = |what: &str| format!("{what}{}.{life}", index + 1);
            let seeds: [u64; 2] = self.rng.random();
            let (oracle, stop, habits) = (self.oracle.clone(), self.stop.clone(), self.habits);
            let writer = client::write_lines(
                member.clone(),
                name("w"),
                oracle.clone(),
                habits,
                seeds[0],
                stop.clone(),
            );
            let reader =
                client::read_all_the_time(member, name("r"), oracle, habits, seeds[1], stop);
            let tasks = vec![tokio::spawn(writer), tokio::spawn(reader)];
            self.users.insert(index, Users { life, tasks });
        }
    }

    /// I3: the same segment and version is the same bytes everywhere, at every moment.
    fn watch_versions(&mut self) {
        for host in &self.hosts {
            let Some(member) = host.member() else {
                continue;
            };
            for (segment, local) in &member.data.replica.index().segments {
                let seen = (local.digest, local.len, host.name.clone());
                let first = self
                    .versions
                    .entry((*segment, local.version))
                    .or_insert_with(|| seen.clone());
                if (first.0, first.1) != (seen.0, seen.1) {
                    self.oracle.report(format!(
                        "{segment} at {} differs between {} and {}: {} and {} bytes",
                        local.version, first.2, seen.2, first.1, seen.1
                    ));
                }
            }
        }
    }

    /// A machine goes down, its users with it.
    pub fn crash(&mut self, index: usize, how: Crash) {
        if let Some(users) = self.users.remove(&index) {
            users.tasks.iter().for_each(JoinHandle::abort);
        }
        self.hosts[index].crash(how);
    }

    /// Why not every machine serves and says that all is well.
    pub fn trouble(&self) -> Option<String> {
        for host in &self.hosts {
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
                        || member.ctx.state().cluster.alive.len() < self.hosts.len()
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
        }
    }

    /// Users finish what they do and stop.
    pub async fn stop_users(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, users) in std::mem::take(&mut self.users) {
            for task in users.tasks {
                if tokio::time::timeout(Duration::from_secs(120), task)
                    .await
                    .is_err()
                {
                    self.oracle
                        .report("a call did not return within two minutes of quiet".into());
                }
            }
        }
    }

    /// What must hold when nobody writes: every mount reads the same, with everything acknowledged in it; replicas and
    /// agreed states are equal (I12).
    pub async fn check_quiet(&mut self) {
        let mut contents = Vec::new();
        for host in &self.hosts {
            let Some(member) = host.member() else {
                continue;
            };
            match client::read_once(
                &member,
                &format!("last read at {}", host.name),
                &self.oracle,
            )
            .await
            {
                Ok(content) => contents.push((host.name.clone(), content)),
                Err(error) => self
                    .oracle
                    .report(format!("the last read at {} failed: {error}", host.name)),
            }
        }
        for pair in contents.windows(2) {
            if pair[0].1 != pair[1].1 {
                self.oracle.report(format!(
                    "{} and {} read different files when all is quiet",
                    pair[0].0, pair[1].0
                ));
            }
        }
        self.run(Duration::from_secs(2)).await;
        self.check_states();
        self.check_replicas().await;
    }

    fn check_states(&self) {
        let members = self.members();
        let Some(first) = members.first() else { return };
        if let Err(what) = first.ctx.state().audit() {
            self.oracle
                .report(format!("the agreed state is not sound: {what}"));
        }
        for other in &members[1..] {
            let (one, two) = (first.ctx.state(), other.ctx.state());
            if one.index == two.index && *one != *two {
                self.oracle.report(format!(
                    "the agreed states of {} and {} differ at entry {}",
                    first.config.name, other.config.name, one.index
                ));
            }
        }
    }

    async fn check_replicas(&self) {
        let members = self.members();
        let Some(first) = members.first() else { return };
        let segments: Vec<_> = first
            .ctx
            .state()
            .names
            .segments
            .iter()
            .map(|(id, segment)| (*id, segment.clone()))
            .collect();
        for (id, segment) in segments {
            let config = first.ctx.state().config(segment.slot).cloned();
            let Some(config) = config else { continue };
            let mut copies = Vec::new();
            for incarnation in config.synced() {
                let Some(holder) = members.iter().find(|member| member.ctx.me() == incarnation)
                else {
                    self.oracle
                        .report(format!("{id}: its replica {incarnation} is nobody"));
                    continue;
                };
                match holder
                    .data
                    .replica
                    .read_here(id, segment.version, 0, segment.len as u32)
                    .await
                {
                    Ok((_, len, bytes)) if len == segment.len => {
                        copies.push((holder.config.name.clone(), bytes))
                    }
                    Ok((version, len, _)) => self.oracle.report(format!(
                        "{id} at {} is {len} bytes at {version}, agreed are {}",
                        holder.config.name, segment.len
                    )),
                    Err(error) => self.oracle.report(format!(
                        "{id} cannot be read at {}: {error}",
                        holder.config.name
                    )),
                }
                let state = holder.ctx.state();
                let index = holder.data.replica.index();
                for pending in index
                    .segments
                    .get(&id)
                    .into_iter()
                    .flat_map(|local| local.pending())
                {
                    let (writer, seq) = (pending.head.writer, pending.head.seq);
                    let phase = state
                        .writer(writer)
                        .map(|writer| (writer.phase, writer.read));
                    self.oracle.report(format!("{id}: record {seq} of {writer} ({phase:?}) is pending at {} after the last read", holder.config.name));
                }
            }
            if copies.windows(2).any(|pair| pair[0].1 != pair[1].1) {
                self.oracle
                    .report(format!("{id}: the replicas' bytes differ"));
            }
        }
    }
}
