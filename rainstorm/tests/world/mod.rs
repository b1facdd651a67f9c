//! A cluster in memory: files with pending records that become visible by commits only, a job table, members that
//! can be killed and come back, a leader that moves, and an oracle on every commit.
#![allow(dead_code)]

mod cluster;
mod storage;

use hydfs_types::{
    Attempt, Frame, Ino, JobId, JobInfo, JobPhase, LogIndex, MemberId, Seq, WriterId,
};
use rainstorm::{Options, Rainstorm};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub struct World {
    inner: Mutex<Inner>,
    pub leader: watch::Sender<Option<MemberId>>,
    changes: watch::Sender<LogIndex>,
    pub options: Options,
    pub knobs: Knobs,
    /// How many more commits come through; none: as many as there are.
    commits_left: Mutex<Option<u64>>,
    random: AtomicU64,
    pub counts: Counts,
    /// The last requests that were made.
    tape: Mutex<VecDeque<(MemberId, Frame)>>,
    _dir: tempfile::TempDir,
}

/// Faults and delays, per mille and milliseconds.
#[derive(Default)]
pub struct Knobs {
    pub lost_calls: AtomicU64,
    pub failed_appends: AtomicU64,
    pub lost_proposals: AtomicU64,
    pub lost_changes: AtomicU64,
    pub restart_delay_ms: AtomicU64,
    pub failure_delay_ms: AtomicU64,
    pub read_delay_ms: AtomicU64,
    /// What is below `/away` cannot be pinned.
    pub away: AtomicBool,
    /// Most bytes of positions in a command; 0: as many as there are.
    pub command_bytes_max: AtomicU64,
    /// Calls take no time, for measurements.
    pub calm: AtomicBool,
}

#[derive(Default)]
pub struct Counts {
    pub calls: AtomicU64,
    pub wire_bytes: AtomicU64,
    pub read_bytes: AtomicU64,
    /// Of the largest read.
    pub read_bytes_max: AtomicU64,
    pub appended_bytes: AtomicU64,
    pub failed_appends: AtomicU64,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, File>,
    /// Directories that were made, and may be empty.
    dirs: BTreeSet<String>,
    writers: BTreeMap<WriterId, Writer>,
    jobs: BTreeMap<JobId, JobInfo>,
    members: BTreeMap<MemberId, Life>,
    next_ino: u64,
    next_writer: u64,
    next_job: u64,
    /// What the job table takes.
    jobs_max: Option<usize>,
    /// Broken promises.
    violations: Vec<String>,
}

struct File {
    ino: Ino,
    base: Vec<u8>,
    /// `base` as readers share it; made at the first read after a change.
    image: Option<bytes::Bytes>,
    generation: u64,
    /// Pins before this generation are of other bytes.
    rewritten: u64,
    uid: u32,
    gid: u32,
    busy: bool,
    pending: Vec<(WriterId, Seq, bytes::Bytes)>,
}

struct Writer {
    ino: Ino,
    job: Option<(JobId, Attempt)>,
    watermark: u64,
    received: u64,
    durable: u64,
    ended: bool,
    broken: bool,
}

#[derive(Default)]
struct Life {
    number: u64,
    /// Answers calls.
    up: bool,
    /// In the agreed list of members.
    listed: bool,
    rain: Option<Arc<Rainstorm>>,
}

/// One life of one member: its view of the world.
pub struct Member {
    world: Arc<World>,
    id: MemberId,
    life: u64,
}

impl World {
    pub async fn start(members: u64, tune: impl FnOnce(&mut Options)) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Operators run as other users: they must be able to enter the cache.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let mut options = Options::new(dir.path().join("cache"));
        options.allow_root_jobs = true;
        options.chunk_bytes = 64 << 10;
        options.scan_every = Duration::from_millis(100);
        options.contact_timeout = Duration::from_millis(1500);
        options.member_timeout = Duration::from_millis(1000);
        tune(&mut options);
        let world = Arc::new(Self {
            inner: Mutex::default(),
            leader: watch::Sender::new(None),
            changes: watch::Sender::new(LogIndex(0)),
            options,
            knobs: Knobs::default(),
            commits_left: Mutex::default(),
            random: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            counts: Counts::default(),
            tape: Mutex::default(),
            _dir: dir,
        });
        for id in 1..=members {
            world.revive(MemberId(id));
        }
        world.leader.send_replace(Some(MemberId(1)));
        world
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn bump(&self) {
        self.changes.send_modify(|index| index.0 += 1);
    }

    pub fn random(&self, below: u64) -> u64 {
        let mut x = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below.max(1)
    }

    pub fn seed(&self, seed: u64) {
        self.random
            .store(seed.wrapping_mul(0x2545_f491_4f6c_dd1d), Ordering::Relaxed);
    }

    fn happens(&self, knob: &AtomicU64) -> bool {
        let chance = knob.load(Ordering::Relaxed);
        chance > 0 && self.random(1000) < chance
    }

    /// Starts a member, or starts it again in a new life.
    pub fn revive(self: &Arc<Self>, id: MemberId) {
        let life = {
            let mut inner = self.lock();
            let life = inner.members.entry(id).or_default();
            if life.up {
                return;
            }
            life.number += 1;
            life.up = true;
            life.listed = true;
            life.number
        };
        let member = Arc::new(Member {
            world: self.clone(),
            id,
            life,
        });
        let options = Options {
            life: life * 1000 + id.0,
            ..self.options.clone()
        };
        let rain = Rainstorm::start(member.clone(), member, options);
        self.lock().members.get_mut(&id).unwrap().rain = Some(rain);
        self.bump();
    }

    /// Kills a member without a word; it is expired a little later, and if it led, another one leads then.
    pub async fn kill(self: &Arc<Self>, id: MemberId) {
        let rain = {
            let mut inner = self.lock();
            let life = inner.members.get_mut(&id).unwrap();
            life.up = false;
            life.rain.take()
        };
        drop(rain);
        let led = *self.leader.borrow() == Some(id);
        if led {
            self.leader.send_replace(None);
        }
        sleep(Duration::from_millis(20)).await;
        self.lock().members.get_mut(&id).unwrap().listed = false;
        self.bump();
        if led {
            let next = self
                .lock()
                .members
                .iter()
                .filter(|(_, life)| life.up)
                .map(|(id, _)| *id)
                .collect::<Vec<_>>();
            let next = next.get(self.random(next.len() as u64) as usize).copied();
            self.leader.send_replace(next);
        }
    }

    /// Kills and revives members at random points until the jobs have ended, three to twelve times. Before each of
    /// the first three deaths at most one commit comes through, so that they are in the middle of the work however
    /// fast the machine is.
    pub async fn kill_until_ended(self: &Arc<Self>, names: &[&str]) {
        let running = || {
            let goes_on = |name: &&str| {
                self.job(name)
                    .is_none_or(|job| job.phase == JobPhase::Running)
            };
            names.iter().any(goes_on)
        };
        let members = self.alive().len() as u64;
        let mut kills = 0;
        while running() && kills < 12 {
            *self.commits_left.lock().unwrap() = (kills < 3).then_some(1);
            sleep(Duration::from_millis(20 + self.random(130))).await;
            let victim = MemberId(1 + self.random(members));
            self.kill(victim).await;
            sleep(Duration::from_millis(self.random(50))).await;
            self.revive(victim);
            kills += 1;
        }
        *self.commits_left.lock().unwrap() = None;
        assert!(kills >= 3, "the jobs were over after {kills} kills");
    }

    /// From now on so many commits come through; none: as many as there are.
    pub fn let_commits_through(&self, most: Option<u64>) {
        *self.commits_left.lock().unwrap() = most;
    }

    /// Takes one of the commits that are left.
    fn commit_comes_through(&self) -> bool {
        match &mut *self.commits_left.lock().unwrap() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn tape(&self, to: MemberId, frame: &Frame) {
        let mut tape = self.tape.lock().unwrap();
        tape.push_back((to, frame.clone()));
        if tape.len() > 200 {
            tape.pop_front();
        }
    }

    /// One of the last requests.
    pub fn taped(&self) -> Option<(MemberId, Frame)> {
        let tape = self.tape.lock().unwrap();
        tape.get(self.random(tape.len() as u64) as usize).cloned()
    }

    pub fn alive(&self) -> Vec<MemberId> {
        self.lock()
            .members
            .iter()
            .filter(|(_, life)| life.up)
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn rain(&self, id: MemberId) -> Option<Arc<Rainstorm>> {
        self.lock()
            .members
            .get(&id)
            .and_then(|life| life.rain.clone())
    }

    /// Writes a whole file.
    pub fn write(&self, path: &str, content: &[u8], uid: u32) {
        let mut inner = self.lock();
        let file = inner.file(path, uid);
        file.base = content.to_vec();
        file.image = None;
        file.generation += 1;
        file.rewritten = file.generation;
        file.uid = uid;
        file.gid = uid;
    }

    /// Appends to a file.
    pub fn extend(&self, path: &str, content: &[u8]) {
        let mut inner = self.lock();
        let file = inner.file(path, 0);
        file.base.extend_from_slice(content);
        file.image = None;
        file.generation += 1;
    }

    /// Removes a file.
    pub fn unlink(&self, path: &str) {
        self.lock().unlink(path);
    }

    /// Removes a folder and all that is in it.
    pub fn remove_all(&self, dir: &str) {
        let mut inner = self.lock();
        let below = format!("{dir}/");
        let paths: Vec<String> = inner.files.keys().cloned().collect();
        for path in paths.iter().filter(|path| path.starts_with(&below)) {
            inner.unlink(path);
        }
        inner.dirs.remove(dir);
    }

    /// Gives a file another name.
    pub fn rename(&self, from: &str, to: &str) {
        let mut inner = self.lock();
        let file = inner.files.remove(from).unwrap();
        inner.files.insert(to.to_owned(), file);
    }

    /// Gives a file another name, so slowly that whoever lists directories one after the other may find it in none.
    pub async fn rename_slowly(&self, from: &str, to: &str, pause: Duration) {
        self.rename(from, "/.between");
        sleep(pause).await;
        self.rename("/.between", to);
    }

    /// Drops a spec, as an editor on some member would.
    pub fn spec(&self, file: &str, text: &str, uid: u32) {
        let path = format!("/.jobs/{file}");
        self.write(&path, text.as_bytes(), uid);
        let alive = self.alive();
        let at = alive[self.random(alive.len() as u64) as usize];
        if let Some(rain) = self.rain(at) {
            rain.spec_closed(&path);
        }
    }

    pub fn job(&self, name: &str) -> Option<JobInfo> {
        self.lock()
            .jobs
            .values()
            .rev()
            .find(|job| job.name == name)
            .cloned()
    }

    /// A command from elsewhere: the job's control file.
    pub fn command(&self, command: hydfs_types::JobCommand) {
        cluster::apply(&mut self.lock(), command).unwrap();
        self.bump();
    }

    /// From now on the job table takes so many jobs.
    pub fn limit_jobs(&self, most: usize) {
        self.lock().jobs_max = Some(most);
    }

    pub fn jobs_count(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Waits for the end of a job.
    pub async fn ended(&self, name: &str) -> JobInfo {
        self.until(name, 60, |job| {
            !matches!(job.phase, JobPhase::Running | JobPhase::Paused)
        })
        .await
    }

    pub async fn done(&self, name: &str) -> JobInfo {
        let job = self.ended(name).await;
        assert_eq!(job.phase, JobPhase::Done, "{}", job.message);
        job
    }

    pub async fn until(
        &self,
        name: &str,
        seconds: u64,
        good: impl Fn(&JobInfo) -> bool,
    ) -> JobInfo {
        let mut changes = self.changes.subscribe();
        let limit = Instant::now() + Duration::from_secs(seconds);
        loop {
            changes.borrow_and_update();
            let job = self.job(name);
            if let Some(job) = job.clone().filter(&good) {
                return job;
            }
            let waited = tokio::time::timeout_at(limit, changes.changed()).await;
            assert!(
                waited.is_ok(),
                "{name}: not in time: {job:?}\n{}",
                self.log(name)
            );
        }
    }

    /// Waits for what no change of a job announces.
    #[allow(dead_code, reason = "not all tests use it")]
    pub async fn soon(&self, what: &str, holds: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(40);
        while !holds() {
            assert!(Instant::now() < limit, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.read(&format!("/.jobs/{name}/log")).unwrap_or_default())
            .into_owned()
    }

    /// Waits until a file has so many lines, and returns them sorted.
    pub async fn grown(&self, path: &str, count: usize) -> Vec<String> {
        let limit = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            let lines = match self.read(path) {
                Some(_) => self.sorted(path),
                None => Vec::new(),
            };
            if lines.len() >= count {
                return lines;
            }
            assert!(tokio::time::Instant::now() < limit, "{path}: {lines:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whose a file is.
    pub fn owner_of(&self, path: &str) -> Option<u32> {
        self.lock().files.get(path).map(|file| file.uid)
    }

    /// What a reader sees: merged and committed bytes.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        inner.merge(path);
        inner.files.get(path).map(|file| file.base.clone())
    }

    pub fn lines(&self, path: &str) -> Vec<String> {
        let bytes = self
            .read(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "{path} ends inside a line"
        );
        text.lines().map(str::to_owned).collect()
    }

    pub fn sorted(&self, path: &str) -> Vec<String> {
        let mut lines = self.lines(path);
        lines.sort();
        lines
    }

    pub fn paths(&self) -> Vec<String> {
        self.lock().files.keys().cloned().collect()
    }

    /// No promise was broken, and nothing uncommitted is left of jobs that ended.
    pub fn check(&self) {
        let inner = self.lock();
        assert!(inner.violations.is_empty(), "{:?}", inner.violations);
    }
}

impl Inner {
    fn file(&mut self, path: &str, uid: u32) -> &mut File {
        let next = &mut self.next_ino;
        self.files.entry(path.to_owned()).or_insert_with(|| {
            *next += 1;
            let (base, pending) = (Vec::new(), Vec::new());
            File {
                ino: Ino(100 + *next),
                base,
                image: None,
                generation: 0,
                rewritten: 0,
                uid,
                gid: uid,
                busy: false,
                pending,
            }
        })
    }

    /// Removes a file, and the folders that it was the last in.
    fn unlink(&mut self, path: &str) {
        self.files.remove(path).unwrap();
        let files = &self.files;
        self.dirs.retain(|dir| {
            let below = format!("{dir}/");
            !path.starts_with(&below) || files.keys().any(|other| other.starts_with(&below))
        });
    }

    fn is_named(&self, ino: Ino) -> bool {
        self.files.values().any(|file| file.ino == ino)
    }

    /// Moves what is eligible from pending to the base, and drops what never will be.
    fn merge(&mut self, path: &str) {
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        let pending = std::mem::take(&mut file.pending);
        for (id, seq, payload) in pending {
            let writer = &self.writers[&id];
            if seq.0 <= writer.watermark {
                file.base.extend_from_slice(&payload);
                file.image = None;
                file.generation += 1;
            } else if !writer.ended {
                file.pending.push((id, seq, payload));
            }
        }
    }
}

/// What somebody sees of a job at its last change.
fn viewed(job: &JobInfo, look: impl FnOnce(&rainstorm::View) -> String) -> String {
    look(&rainstorm::View {
        now: job.changed,
        name: &|_| None,
    })
}

pub fn progress_text(job: &JobInfo) -> String {
    viewed(job, |view| rainstorm::progress_text(job, view))
}

pub fn status_json(job: &JobInfo) -> String {
    viewed(job, |view| rainstorm::status_json(job, view))
}
